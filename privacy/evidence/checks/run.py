"""All checks of a bundle, in order, and what they make of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloister.privacy import canonical
from cloister.privacy.errors import CloisterError, InputError
from cloister.privacy.evidence.bundle import MANIFEST_FILE, Bundle
from cloister.privacy.evidence.checks import (
    accounts,
    audits,
    claims,
    clocks,
    consents,
    data,
    decisions,
    logs,
    meeting,
    mixtures,
    paper,
    rounds,
    signatures,
    software,
    sums,
    surplus,
)
from cloister.privacy.evidence.checks.case import Case, Opening
from cloister.privacy.evidence.checks.findings import WORST_FIRST, Finding, Findings, Result

Check = Callable[[Case], Findings]

ALONE: tuple[Check, ...] = (
    signatures.files,
    signatures.signatures,
    logs.chains,
    logs.heads,
    clocks.clocks,
    rounds.grammar,
    accounts.sites,
    audits.pipelines,
    audits.attacks,
    audits.openings,
    sums.opened,
    surplus.given,
    consents.documents,
    data.opened,
    software.told,
    decisions.policies,
    decisions.handed_over,
)
"""Checks that hold what is there to itself."""

TOGETHER: tuple[Check, ...] = (
    meeting.updates,
    meeting.outcomes,
    meeting.channels,
    clocks.met,
    accounts.traffic,
    surplus.met,
)
"""Checks that hold the parts of all parties against each other; only where all are there."""

SAID: tuple[Check, ...] = (accounts.guarantees, claims.evidence, claims.report, claims.papers)
"""Checks of what the bundle says; only where all parts are there and the evidence can be read."""


@dataclass(frozen=True)
class Verdict:
    """What became of a bundle.

    Formal guarantees:
        ``VERIFIED`` means: what the parties' keys signed is whole and consistent, and every claim follows
        from it, under the keys of the bundle, or of the trust file where one was given. It does not mean
        that what a party wrote down is true.

    Attributes:
        findings: everything that does not hold.
        notes: what a reader should know, although nothing is wrong with it.
        events: how many events were checked.
        bundle: the digest of what the manifest's signatures are over; "" if it cannot be read.
    """

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    events: int
    bundle: str

    @property
    def result(self) -> Result:
        """The worst of what was found."""
        found = {finding.result for finding in self.findings}
        return next((result for result in WORST_FIRST if result in found), Result.VERIFIED)

    def to_json(self) -> dict[str, Any]:
        """What ``cloister verify --json`` prints."""
        return {
            "result": self.result.word,
            "bundle": self.bundle,
            "events": self.events,
            "findings": [
                {"check": f.check, "result": f.result.word, "place": f.place, "reason": f.reason}
                for f in self.findings
            ],
            "notes": list(self.notes),
        }


def verify(
    bundle: Bundle,
    trust: Mapping[str, str] | None = None,
    model: Path | None = None,
    *,
    full: bool = False,
    reader: str = "",
) -> Verdict:
    """Checks a bundle.

    Args:
        bundle: its files.
        trust: name of a party -> digest of its keys, from a source that does not depend on the lead.
        model: a released model to compare with; None for none.
        full: also the slow accounts for a person at several sites.
        reader: the party of the plan that checks what ``Bundle.for_party`` gives; "" for a whole bundle.
    """
    opening = Opening(bundle, reader)
    case = opening.case()
    if case is None:
        return Verdict(tuple(opening.findings), (), 0, "")
    found = [*opening.findings, *signatures.keys(case, trust)]
    for check in ALONE:
        found += _found(check, case)
    readable = list(claims.readable(case)) if case.evidence else []
    found += readable
    wrong, unprinted = paper.reprinted(case) if case.evidence and not readable else (None, None)
    found += [wrong] if wrong else []
    if case.whole:
        for check in TOGETHER:
            found += _found(check, case)
        for check in SAID if case.evidence and not readable else ():
            found += _found(check, case)
        if full and not found:
            found += _found(mixtures.persons, case)
    if model is not None:
        found += claims.model(case, model)
    events = sum(len(writer.shown) for writer in case.writers.values())
    notes = [*_notes(case, trust), *([unprinted] if unprinted else [])]
    return Verdict(tuple(found), tuple(notes), events, bundle.digest)


def _found(check: Check, case: Case) -> list[Finding]:
    """What a check finds; what it cannot even compute, such as terms that no account covers, is a finding."""
    found = []
    try:
        for finding in check(case):
            found.append(finding)  # what was found before an error counts
    except CloisterError as error:
        found.append(Finding.of(check.__name__, "plan.json", error))
    return found


def _notes(case: Case, trust: Mapping[str, str] | None) -> list[str]:
    notes = []
    if trust is None:
        notes.append("The keys were not checked: give a file of keys that you trust with --trust.")
    try:
        missing = sorted(set(case.parties) - set(signatures.signers_of(case)))
    except CloisterError:
        missing = []  # said as a finding
    if missing:
        notes.append(f"{MANIFEST_FILE} is not signed by {', '.join(missing)}.")
    seen = logs.witnesses(case)
    for name, writer in case.writers.items():
        if not seen.get(name):
            notes.append(f"No head of the log of {name} is countersigned by another party.")
        notes += logs.limits(case, name)
        notes += decisions.notes(case, name)
        hidden = sum(log.newest.size for log in writer.logs) - len(writer.shown)
        if hidden:
            notes.append(
                f"{hidden} events of the log of {name} are not shown: by its word, of other matters."
            )
    return notes


def trusted(data: bytes) -> dict[str, str]:
    """The keys of a trust file: what ``cloister site peers --json`` prints, or the same fields by hand.

    Members whose keys do not count at the site that printed the file are left out: they were never confirmed
    there, and no authority that its policy names has signed for them.

    Raises:
        InputError: ``file_format``.
    """
    refusal = InputError(
        "file_format",
        "The trust file is not a list of members, each with one key.",
        "Take `cloister site peers --json`.",
    )
    try:
        members = json.loads(data, object_pairs_hook=_once)["members"]
        named = {(m["name"], m["identity"]) for m in members if _counts(m)}
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise refusal from error
    found = dict(named)
    texts = all(isinstance(name, str) and canonical.is_digest(key) for name, key in named)
    if not found or len(found) != len(named) or not texts:
        raise refusal
    return found


def _counts(member: Any) -> bool:
    """Whether a member's keys count where the file comes from; of one listed by hand they do."""
    said = {"confirmed": True}
    said |= {name: member[name] for name in ("confirmed", "own", "counts") if name in member}
    if not all(isinstance(value, bool) for value in said.values()):
        raise TypeError("neither true nor false")
    return any(said.values())


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a field stands twice")
    return dict(pairs)
