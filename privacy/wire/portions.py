"""Evidence on its way between a site and the lead: what the lead wants, files in portions, signatures.

``Wanted`` tells a site, for each finished job of its own, whether the lead wants its part (``asked``, the
number of the wish; 0 if it does not) and which bundle waits for its signature. The part goes with
``HandOver``: first the wish that it answers, then the files. Which site it is follows from its certificate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError

from cloister.privacy import canonical
from cloister.privacy.clauses import Digest
from cloister.privacy.errors import TransportError
from cloister.privacy.frozen import Part
from cloister.privacy.plan import Plan
from cloister.privacy.wire import consortium_pb2 as pb

PORTION = 64 << 10
"""Bytes of the largest portion."""
MOST_FILES = 50_000
BUNDLE_LIMIT = 512 << 20
"""Bytes of the largest bundle that a site takes for checking."""
_BASE, _ROUND, _NAMED, _MOST = 4 << 20, 64 << 10, 256, 256 << 20


class _Said(Part):
    """Something that travels as canonical JSON."""

    version: Literal[1] = 1

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical.encode(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises ``TransportError`` ``protocol`` for anything else."""
        refusal = TransportError("protocol", "A message about evidence is not of the protocol.")
        canonical.decode(data, otherwise=refusal)
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise refusal from error


class Wish(_Said):
    """What the lead wants of a site for a job.

    Attributes:
        job: digest of the plan.
        asked: number of the wish for the site's part, counted from 1; 0 if it has it.
        bundle: digest of the bundle that waits for the site's signature; "" for none.
    """

    job: Digest
    asked: Annotated[int, Field(ge=0, le=10**9)] = 0
    bundle: Digest | Literal[""] = ""


class Word(_Said):
    """A site's word on a bundle.

    Attributes:
        job, bundle: as in the wish.
        ed25519, mldsa65: its signatures on the manifest, in hexadecimal.
        refused: the id of the reason why it does not sign; "" if it does.
    """

    job: Digest
    bundle: Digest
    ed25519: Annotated[str, Field(pattern=r"^([0-9a-f]{128})?$")] = ""
    mldsa65: Annotated[str, Field(pattern=r"^[0-9a-f]*$", max_length=10_000)] = ""
    refused: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$|^$", max_length=60)] = ""


def largest_part(plan: Plan) -> int:
    """Bytes of the largest part that a lead takes over the network; a larger one goes by file."""
    named = _NAMED * (1 + len(plan.sites))
    return min(_MOST, _BASE + plan.training.rounds * (_ROUND + named))


def cut(files: Mapping[str, bytes]) -> Iterator[pb.Portion]:
    """The portions of files, each cut when it is its turn."""
    for name, data in files.items():
        view = memoryview(data)
        for start in range(0, max(1, len(data)), PORTION):
            yield pb.Portion(name=name, data=bytes(view[start : start + PORTION]))


def joined(portions: Iterable[pb.Portion], limit: int) -> dict[str, bytes]:
    """The files of portions.

    Raises:
        TransportError: ``too_large``; ``protocol``, portions of one file are apart.
    """
    files: dict[str, bytearray] = {}
    last, left = None, limit
    for portion in portions:
        left -= len(portion.data) + len(portion.name)
        if left < 0 or len(files) > MOST_FILES:
            raise TransportError("too_large", "Evidence is larger than is taken over the network.")
        if portion.name != last and portion.name in files:
            raise TransportError("protocol", "A file of evidence comes twice.")
        last = portion.name
        files.setdefault(last, bytearray()).extend(portion.data)
    return {name: bytes(data) for name, data in files.items()}
