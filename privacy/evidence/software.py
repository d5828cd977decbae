"""What each party of a job ran on, as its log has it: versions, and digests of code and packages.

Whether that is what ran is the party's word. Two parties with the same digest of packages had the same names
and versions installed (``privacy.software``); the page of a report says where they differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator

from cloister.privacy.clauses import Digest, Name
from cloister.privacy.evidence.events import Event
from cloister.privacy.evidence.happenings import Logs, of_software
from cloister.privacy.evidence.kinds import Whole
from cloister.privacy.evidence.vocabulary import LIBRARIES, VERSION, Library
from cloister.privacy.frozen import Part
from cloister.privacy.plan import Plan


def _known(text: str) -> str:
    if not VERSION.holds(text):
        raise ValueError("not the version of a program")
    return text


Version = Annotated[str, AfterValidator(_known)]


class Ran(Part):
    """What a party ran on, by the first event of the job that says so.

    Attributes:
        python: its version.
        code: digest of the sources of this package.
        installed: digest of the names and versions of all installed packages.
        versions: library -> its version, as far as it is told.
        image: digest of the container image, by the word of whoever started the process.
        times: how often the party began, and said so; it does again after a restart.
        others: how many of these times it ran on something else than the first time.
    """

    party: Name
    python: Version
    code: Digest
    installed: Digest
    versions: Mapping[Library, Version]
    image: Digest | None
    times: Whole
    others: Whole


def software(plan: Plan, logs: Logs) -> list[dict[str, Any]]:
    """What each party that a bundle shows wrote down of what it ran on."""
    found = (_ran(plan, name, events) for name, events in logs.items())
    return [one for one in found if one is not None]


def _ran(plan: Plan, name: str, events: Iterable[Event]) -> dict[str, Any] | None:
    told = [event.body for event in of_software(plan, events)]
    if not told:
        return None
    first = told[0]
    return {
        "party": name,
        **{field: first[field] for field in ("python", "code", "installed")},
        "versions": {library: first[library] for library in LIBRARIES if library in first},
        "image": first.get("image"),
        "times": str(len(told)),
        "others": str(sum(dict(body) != dict(first) for body in told)),
    }


def by_version(ran: Iterable[Ran], what: str) -> list[tuple[str, list[str]]]:
    """A version or digest -> the parties that had it; those that do not say are left out.

    Args:
        ran: what parties ran on.
        what: ``python``, ``code``, ``installed``, ``image`` or a library.
    """
    found: dict[str, list[str]] = {}
    for one in ran:
        said: dict[str, str | None] = {str(name): version for name, version in one.versions.items()}
        said |= {"python": one.python, "code": one.code, "installed": one.installed, "image": one.image}
        if (value := said.get(what)) is not None:
            found.setdefault(value, []).append(one.party)
    return [*found.items()]


def differing(ran: Sequence[Ran]) -> list[str]:
    """What is not the same at all parties that say what they ran on: ``python``, libraries, ``installed``.

    A library that only some of them name differs, too.
    """
    compared = ("python", *LIBRARIES, "installed")
    shared = {what: by_version(ran, what) for what in compared}
    return [what for what, said in shared.items() if said and (len(said) > 1 or len(said[0][1]) < len(ran))]
