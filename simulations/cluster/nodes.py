"""Flower's virtual nodes as sites: the app that an actor runs, and a ``Grid`` that knows nodes by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from cloister.client.app import client_app
from cloister.privacy.errors import ChannelError, CloisterError, RoundError
from cloister.privacy.wire import messages
from cloister.privacy.wire.envelope import peek
from cloister.simulations.cluster.job import Job


class NodeApp(ClientApp):
    """The ClientApp of every virtual node: a message is answered by the site that its envelope is for.

    Args:
        folder: the job's.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def __call__(self, message: Message, context: Context) -> Message:
        """The answer of the site's own ClientApp; of a refusal that cannot be sealed, its id."""
        try:
            job = _job(self._folder)
            site = job.participant(_recipient(message, messages.largest_of(job.plan)))
            return client_app({job.plan.digest: site})(message, context)
        except CloisterError as error:
            print(error.line(), flush=True)  # in the log of the engine
            return Message(Error(code=0, reason=error.id), reply_to=message)


@cache
def _job(folder: Path) -> Job:
    return Job(folder)


def _recipient(message: Message, limit: int) -> str:
    record = message.content.get("envelope")
    data = record.get("b") if isinstance(record, ConfigRecord) else None
    if not isinstance(data, bytes):
        raise ChannelError("envelope_malformed", "A Flower message holds no envelope.")
    return peek(data, limit).recipient


class NamedGrid(Grid):
    """A grid whose nodes have the names of sites, in the order of their numbers.

    Args:
        grid: the engine's.
        names: of the sites, as many as there are nodes.
    """

    def __init__(self, grid: Grid, names: Sequence[str]) -> None:
        self._grid, self._names = grid, tuple(names)
        self._nodes: dict[int, str] = {}

    def present(self) -> Iterable[str]:
        """All sites, once all nodes are there; no node of the engine ever leaves."""
        if not self._nodes:
            numbers = sorted(self._grid.get_node_ids())
            if len(numbers) == len(self._names):
                self._nodes = dict(zip(numbers, self._names, strict=True))
        return tuple(self._nodes.values())

    def set_run(self, run: Run) -> None:
        """See ``Grid``."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """See ``Grid``."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message as ``Message`` itself makes it."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """See ``Grid``."""
        self.present()
        return list(self._nodes)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The sites by name."""
        self.present()
        return [NodeInfo(node_id=number, name=name) for number, name in self._nodes.items()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """See ``Grid``.

        Raises:
            RoundError: ``site_failed``, the engine takes a message of no site.
        """
        wanted = list(messages)
        taken = list(self._grid.push_messages(wanted))
        if len(taken) != len(wanted):
            raise RoundError("site_failed", "Flower's engine did not take a message.")
        return taken

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The answers that are there.

        Raises:
            RoundError: ``site_failed``, an actor died, or it fell over what no site raises.
        """
        for reply in self._grid.pull_messages(message_ids):
            self._check(reply)
            yield reply

    def _check(self, reply: Message) -> None:
        if not reply.has_error() or messages.known(reply.error.reason or ""):
            return
        found = re.search(r"(\w+)'>", reply.error.reason or "")
        name = self._nodes.get(reply.metadata.src_node_id, "a site")
        raise RoundError(
            "site_failed",
            f"The actor of Ray that worked for {name} failed: {found[1] if found else 'no reason given'}.",
        )

    def send_and_receive(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,
    ) -> Iterable[Message]:
        """See ``Grid``."""
        yield from self._grid.send_and_receive(messages, timeout=timeout)
