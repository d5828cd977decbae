"""Types of the generated module, which has none."""

from collections.abc import Iterator
from typing import Any

from cloister.privacy.wire import consortium_pb2 as pb

class ConsortiumStub:
    """Calls the service."""

    def __init__(self, channel: Any) -> None: ...

class ConsortiumServicer:
    """The methods of the service."""

    def Open(self, request: pb.Challenge, context: Any) -> pb.Signed: ...  # noqa: N802
    def Enrol(self, request: pb.Signed, context: Any) -> pb.Signed: ...  # noqa: N802
    def Roster(self, request: pb.Empty, context: Any) -> pb.Signed: ...  # noqa: N802
    def Offer(self, request: pb.Signed, context: Any) -> pb.Empty: ...  # noqa: N802
    def Proposals(self, request: pb.Empty, context: Any) -> Iterator[pb.Signed]: ...  # noqa: N802
    def Decide(self, request: pb.Signed, context: Any) -> pb.Empty: ...  # noqa: N802
    def Status(self, request: pb.Empty, context: Any) -> pb.Notice: ...  # noqa: N802
    def Wanted(self, request: pb.Empty, context: Any) -> Iterator[pb.Notice]: ...  # noqa: N802
    def HandOver(self, request_iterator: Iterator[pb.Portion], context: Any) -> pb.Empty: ...  # noqa: N802
    def Bundle(self, request: pb.Notice, context: Any) -> Iterator[pb.Portion]: ...  # noqa: N802
    def Sign(self, request: pb.Notice, context: Any) -> pb.Empty: ...  # noqa: N802
    def Watch(self, request: pb.Empty, context: Any) -> Iterator[pb.Notice]: ...  # noqa: N802
    def Exchange(self, request_iterator: Iterator[pb.Piece], context: Any) -> Iterator[pb.Piece]: ...  # noqa: N802

def add_ConsortiumServicer_to_server(servicer: ConsortiumServicer, server: Any) -> None: ...  # noqa: N802
