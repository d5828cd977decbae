"""Flower without sockets: a ``Grid`` that calls each site's ``ClientApp`` in this process.

Everything above the wire is the real thing: the ServerApp, the ClientApps, envelopes, seals, ledger
and log. Answers come in the order of the messages, so a run is repeatable.

    grid = LocalGrid({"north": client_app(...), "south": client_app(...)})
    federation.run(grid)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from cloister.privacy.errors import CloisterError

_RUN = 1


class LocalGrid(Grid):
    """A grid over ClientApps in this process.

    Args:
        sites: site name -> its ClientApp.
        fault: called with (site, message) before a site works on it; what it raises is a lost message.
    """

    def __init__(
        self,
        sites: Mapping[str, ClientApp],
        fault: Callable[[str, Message], None] = lambda _site, _message: None,
    ) -> None:
        self._sites = dict(enumerate(sites.items(), start=1))
        self._fault = fault
        self._answers: dict[str, Message] = {}
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = _RUN, 0, 0

    def set_run(self, run: Run) -> None:
        """A local grid has one run."""

    @property
    def run(self) -> Run:
        """The one run."""
        return Run.create_empty(_RUN)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message as any ServerApp makes it."""
        return Message(
            content=content, message_type=message_type, dst_node_id=dst_node_id, group_id=group_id, ttl=ttl
        )

    def get_node_ids(self) -> Iterable[int]:
        """The ids of the sites, from 1."""
        return list(self._sites)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The sites by name."""
        return [NodeInfo(node_id=node, name=name) for node, (name, _) in self._sites.items()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Lets the sites answer at once; their answers wait to be pulled."""
        return [self._deliver(f"message-{len(self._answers)}", message) for message in messages]

    def _deliver(self, message_id: str, message: Message) -> str:
        node = message.metadata.dst_node_id
        name, app = self._sites[node]
        message.metadata.__dict__["_message_id"] = message_id
        try:
            self._fault(name, message)
        except ConnectionError:
            return message_id
        TaskIdentity.node_id = node
        try:
            context = Context(run_id=_RUN, node_id=node, node_config={}, state=RecordDict(), run_config={})
            answer = app(message, context)
        except CloisterError as error:
            answer = Message(Error(code=0, reason=error.id), reply_to=message)
        finally:
            TaskIdentity.node_id = 0
        self._answers[message_id] = answer
        return message_id

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Yields each answer once."""
        for message_id in list(message_ids):
            if message_id in self._answers:
                yield self._answers.pop(message_id)

    def send_and_receive(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,  # noqa: ARG002
    ) -> Iterable[Message]:
        """Pushes and pulls at once; ``timeout`` has nothing to wait for."""
        return self.pull_messages(self.push_messages(messages))
