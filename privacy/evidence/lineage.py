"""The keys that a party had during a job, and the logs that it kept under them.

A plan names a party's keys. A party that changes them during the job (``wire.succession``) begins a new log,
linked to the last event of the old one; the bundle then shows both. The files of the log under the plan's
keys have the party's name, those of a later one ``<name>@<16 hex>``, from the digest of its keys;
``successions/<name>@<16 hex>.json`` is the statement by which the keys before have signed for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloister.privacy.errors import CloisterError, EvidenceError
from cloister.privacy.identity import PublicIdentity
from cloister.privacy.plan import Plan
from cloister.privacy.wire.succession import Handover

RETIRED: Final = "retired"
HANDOVER: Final = "handover.json"
"""The statement about the keys that come next; kept with the log of the ones before."""
_MOST_KEYS: Final = 100


@dataclass(frozen=True)
class Retired:
    """A log that was closed because its keys were changed.

    Attributes:
        folder: of the log.
        public: the keys that it was kept under.
        handover: the statement about the keys that came after.
    """

    folder: Path
    public: PublicIdentity
    handover: Handover


def place(root: Path, digest: str) -> Path:
    """Where a party's folder keeps what belongs to keys that it had before."""
    return root / RETIRED / digest.removeprefix("sha256:")[:16]


def retired(root: Path, first: str, last: str, known: Callable[[str], PublicIdentity]) -> tuple[Retired, ...]:
    """The logs of a party under keys that it had before.

    Args:
        root: its folder.
        first: the digest of the keys that a plan names.
        last: that of its keys of now.
        known: digest -> keys of the party.

    Raises:
        EvidenceError: ``bundle_incomplete``, how one of its keys followed another is not kept here.
    """
    at, found = first, list[Retired]()
    while at != last:
        statement = place(root, at) / HANDOVER
        if not statement.exists() or len(found) > _MOST_KEYS:
            raise EvidenceError(
                "bundle_incomplete",
                "How the keys of now followed those of the plan is not kept here.",
                "The part of the job cannot be made.",
            )
        handover = Handover.from_bytes(statement.read_bytes())
        found.append(Retired(place(root, at) / "log", known(at), handover))
        at = PublicIdentity.from_json(handover.said.identity).digest()
    return tuple(found)


def label(digest: str) -> str:
    """What the files of a log under later keys add to the party's name."""
    return f"@{digest.removeprefix('sha256:')[:16]}"


def succession_place(writer: str, digest: str) -> str:
    """Where a bundle has the statement about a party's later keys."""
    return f"successions/{writer}{label(digest)}.json"


def _statements(files: Mapping[str, bytes], writer: str) -> dict[str, bytes]:
    place = re.compile(rf"successions/{re.escape(writer)}@[0-9a-f]{{16}}\.json")
    return {name: data for name, data in files.items() if place.fullmatch(name)}


def order(files: Mapping[str, bytes], writer: str) -> tuple[str, ...]:
    """Labels of a party's logs, "" for the first, as its statements say; ``identities`` verifies them.

    Raises:
        EvidenceError: ``bundle_altered``.
    """
    steps = {
        h.said.previous: PublicIdentity.from_json(h.said.identity).digest()
        for _, h in _read(_statements(files, writer))
    }
    start = steps.keys() - set(steps.values())
    at, found = (min(start) if start else ""), [""]
    while at in steps:
        at = steps.pop(at)
        found.append(label(at))
    return tuple(found)


def identities(files: Mapping[str, bytes], plan: Plan, public: PublicIdentity) -> tuple[PublicIdentity, ...]:
    """The keys of a party, those of the plan first, each proven to follow from the ones before.

    Args:
        files: of a bundle, or of the party's part.
        plan: of the job.
        public: the party's keys that the plan names.

    Raises:
        EvidenceError: ``bundle_altered``, a statement does not hold or leads from nowhere.
    """
    left, found = _statements(files, public.name), [public]
    while left:
        step = next(((n, h) for n, h in _read(left) if h.said.previous == found[-1].digest()), None)
        if step is None:
            raise _altered(min(left), "it does not follow from the keys of the plan")
        name, handover = step
        try:
            new = handover.opened(found[-1], plan.consortium)
        except CloisterError as error:
            raise _altered(name, error.what.rstrip(".")) from error
        if name != succession_place(public.name, new.digest()):
            raise _altered(name, "it is about other keys than its name says")
        found.append(new)
        del left[name]
    return tuple(found)


def _read(files: Mapping[str, bytes]) -> list[tuple[str, Handover]]:
    found = []
    for name, data in files.items():
        try:
            handover = Handover.from_bytes(data)
            PublicIdentity.from_json(handover.said.identity)  # what cannot be read is refused here
        except CloisterError as error:
            raise _altered(name, error.what.rstrip(".")) from error
        if handover.to_bytes() != data:
            raise _altered(name, "it is not of the form that exists")
        found.append((name, handover))
    return found


def _altered(name: str, why: str) -> EvidenceError:
    return EvidenceError("bundle_altered", f"{name}: {why}.")
