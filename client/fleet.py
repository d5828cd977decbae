"""A site's end of Flower: one long-lived connection that takes messages and sends answers.

    FleetConnection(settings).run(for_app(client_app(participants)), stop)

The order of one message, so that a crash at any point loses nothing:

1. pull it (Flower hands it out once) and write it to the journal, synced, before anything else;
2. once for each run, check the bundle that the run is bound to; nothing of it is executed;
3. fetch the content, let the handler answer, push the answer;
4. confirm last (until then the content can be fetched again), then drop the journal.

A journal that is found at the start is worked on first. The handler can be asked twice for one message;
it keeps its sealed answer and gives the same one again. A lead that restarts is waited for.

Formal guarantees:
    No text of an exception leaves the site: a message that cannot be answered is answered with the id
    of an error and nothing else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from cloister.client.node import FleetSettings, Forgotten, Node, Parcel, Seen, Stopped
from cloister.privacy import durable
from cloister.privacy.errors import UNWRITABLE, CloisterError, StateError, TransportError
from cloister.privacy.wire import bundle

Handler: TypeAlias = Callable[[Message], Message]

logger = logging.getLogger(__name__)
_APP_RAISED, _INVALID_BUNDLE = 2, 7
"""Flower's codes of errors."""


def for_app(app: ClientApp) -> Handler:
    """The handler that executes an installed ClientApp, without any state of Flower's."""

    def handler(message: Message) -> Message:
        context = Context(
            run_id=message.metadata.run_id,
            node_id=message.metadata.dst_node_id,
            node_config={},
            state=RecordDict(),
            run_config={},
        )
        return app(message, context)

    return handler


@dataclass(frozen=True)
class Journal:
    """The message that is being worked on, and the number of this node, in a folder."""

    folder: Path

    def keep(self, pulled: bytes) -> None:
        """Writes what was pulled, synced."""
        durable.write(self.folder / "message", pulled)

    def kept(self) -> bytes:
        """What was pulled before a crash, b"" for nothing."""
        try:
            return (self.folder / "message").read_bytes()
        except FileNotFoundError:
            return b""

    def drop(self) -> None:
        """The message is done with."""
        (self.folder / "message").unlink(missing_ok=True)

    def node(self) -> int:
        """The number of this node when it was last online, 0 if it never was."""
        try:
            return int((self.folder / "node").read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def keep_node(self, number: int) -> None:
        """Writes the number of this node, synced."""
        durable.write(self.folder / "node", str(number).encode())


class FleetConnection:
    """One site at the lead's Flower server. It works on one message at a time.

    Args:
        settings: how to reach it.
        seen: told of the connection, and again whenever it is another one.

    Raises:
        StateError: the folder cannot be made.
    """

    def __init__(self, settings: FleetSettings, seen: Seen = lambda _: None) -> None:
        durable.private_folder(settings.folder)
        self._settings, self._seen = settings, seen
        self._journal = Journal(settings.folder)
        self._checked: set[int] = set()

    def run(self, handler: Handler, stop: threading.Event) -> None:
        """Answers messages until ``stop`` is set, then signs off.

        Raises:
            ChannelError: ``certificate_invalid``.
            TransportError: ``clock``, ``refused`` or ``unreachable``.
            StateError, LogError, EntropyError: this machine cannot write. The journal keeps the message,
                and the next start works on it.
        """
        with Node(self._settings, stop, self._seen) as node, suppress(Stopped):
            while not stop.is_set():
                node.activate(self._journal.node())
                self._journal.keep_node(node.number)
                with _heart(node), suppress(Forgotten):  # a server that restarted: activate again
                    self._serve(node, handler, stop)

    def _serve(self, node: Node, handler: Handler, stop: threading.Event) -> None:
        while not stop.is_set():
            pulled = self._journal.kept()
            if not pulled and (pulled := node.pull()):
                self._journal.keep(pulled)
            if pulled:
                self._work(node, handler, pulled)

    def _work(self, node: Node, handler: Handler, pulled: bytes) -> None:
        """Works on one message to its end; one that nobody waits for any more is dropped."""
        try:
            self._answer(node, handler, Parcel.from_bytes(pulled))
        except Forgotten:
            self._journal.drop()
            raise
        except (StateError, TransportError) as error:
            if error.id not in ("refused", "too_large", "state_damaged"):
                raise
            logger.warning("A message was dropped; the lead will send it again: %s", error.line())
        self._journal.drop()

    def _answer(self, node: Node, handler: Handler, parcel: Parcel) -> None:
        if parcel.node != node.number:
            raise TransportError("refused", "A message is for another number of this site.")
        try:
            self._check_bundle(node, parcel.run)
        except TransportError as error:
            if error.id != "bundle_invalid":
                raise
            reply, seconds = Message(Error(_INVALID_BUNDLE, error.id), reply_to=parcel.bare), 0.0
        else:
            contents = node.fetch(parcel)
            if contents is None:
                raise TransportError("refused", "The content of a message is gone.")
            started = time.monotonic()
            reply = self._ask(node, handler, parcel, contents)
            seconds = time.monotonic() - started
        node.push(parcel, reply, seconds)
        node.confirm(parcel)

    def _check_bundle(self, node: Node, run: int) -> None:
        if run not in self._checked:
            bundle.check(node.bundle(run), self._settings.bundle)
            self._checked.add(run)

    def _ask(self, node: Node, handler: Handler, parcel: Parcel, contents: dict[str, bytes]) -> Message:
        """The handler's answer, or the id of what went wrong. Texts stay in the site's own log."""
        try:
            return handler(node.open(parcel, contents))
        except CloisterError as error:
            if error.id in UNWRITABLE:
                raise
            logger.warning("A message could not be answered: %s", error.line())
            reason = error.id
        except Exception:
            logger.exception("A message could not be answered.")
            reason = "internal"
        return Message(Error(_APP_RAISED, reason), reply_to=parcel.bare)


@contextmanager
def _heart(node: Node) -> Iterator[None]:
    """Beats in a thread of its own."""
    over = threading.Event()
    thread = threading.Thread(target=node.beat, args=(over,), name="flower-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
