"""Files, keys and signatures: is this what was signed, whole, and by whom?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from cloister.privacy import canonical
from cloister.privacy.consent import DECISION_CONTEXT, PLAN_CONTEXT, Decision
from cloister.privacy.errors import CloisterError
from cloister.privacy.evidence import bundle as bundles
from cloister.privacy.evidence import papers
from cloister.privacy.evidence.bundle import EVIDENCE_FILE, MANIFEST_FILE, REPORT_FILE
from cloister.privacy.evidence.checks import decisions
from cloister.privacy.evidence.checks.case import Case
from cloister.privacy.evidence.checks.findings import Finding, Findings, Result, altered, incomplete
from cloister.privacy.evidence.dsse import Envelope, Statement
from cloister.privacy.evidence.part import PART, owned, predicate, statements
from cloister.privacy.evidence.printing import MADE_FILE, PDF_FILE
from cloister.privacy.wire.signed import Signed

_FIXED = ("plan.json", "keys.json", "VERIFY.txt", EVIDENCE_FILE, REPORT_FILE)


def files(case: Case) -> Findings:
    """No file too many or too few, each with the digest and the size that the manifest states."""
    stated, found = case.manifest.subjects, case.bundle.files
    for name in sorted(stated.keys() - found.keys() - case.withheld):
        yield incomplete("files", name, "the manifest lists it, and it is missing")
    for name in sorted(found.keys() - stated.keys() - {MANIFEST_FILE}):
        yield altered("files", name, "it is not in the manifest")
    for name in sorted(stated.keys() & found.keys()):
        if canonical.digest(found[name]) != f"sha256:{stated[name]}":
            yield altered("files", name, "its bytes are not those that the manifest names")
        if not _known(case, name):
            yield altered("files", name, "a bundle has no such file")
    for name in _needed(case):
        if name not in found and name not in stated:
            yield incomplete("files", name, "a bundle must have it")
    yield from _manifest(case)


def _manifest(case: Case) -> Findings:
    audience = case.manifest.predicate.get("audience")
    if audience not in ("auditor", "partner", "public"):
        yield altered("files", MANIFEST_FILE, "it names no audience that exists")
        return
    listed = {n: case.bundle.files.get(n, b"") for n in case.manifest.subjects if n not in case.withheld}
    if all(name in case.bundle.files for name in listed):
        stated = bundles.listing(listed, case.plan, audience)
        said = replace(case.manifest, subjects=stated.subjects, predicate=_shown_sizes(case))
        if stated.to_bytes() != said.to_bytes():  # in Python, true equals 1
            yield altered(
                "files", MANIFEST_FILE, "sizes, parties or job are not those of the files and the plan"
            )


def _shown_sizes(case: Case) -> Mapping[str, Any]:
    """The manifest's predicate without the sizes of files that are not shown to who checks."""
    predicate = dict(case.manifest.predicate)
    sizes = predicate.get("sizes")
    if case.withheld and isinstance(sizes, Mapping):
        predicate["sizes"] = {name: size for name, size in sizes.items() if name not in case.withheld}
    return predicate


def _known(case: Case, name: str) -> bool:
    approvals = {f"approvals/{party}.json" for party in case.parties}
    fixed = {*_FIXED, *approvals, _report_place(case), *_papers(case), PDF_FILE, MADE_FILE}
    return name in fixed or any(_owned(case, name, party) for party in case.parties)


def _owned(case: Case, name: str, party: str) -> bool:
    """Whether a file is of a party's part, and of a log that it is shown to have had."""
    later = re.match(r"(?:events|heads|successions)/[a-z0-9-]+(@[0-9a-f]{16})[./]", name)
    labels = {log.label for log in case.writers[party].logs} if party in case.writers else set[str]()
    return owned(name, party) and (later is None or later[1] in labels)


def _papers(case: Case) -> list[str]:
    return papers.names([site.name for site in case.plan.sites])


def _needed(case: Case) -> Iterable[str]:
    yield from _FIXED
    yield _report_place(case)
    yield from _papers(case)
    if {PDF_FILE, MADE_FILE} & case.bundle.files.keys():
        yield from (PDF_FILE, MADE_FILE)
    for party in case.parties:
        yield f"approvals/{party}.json"
        stated = _expected(case, party).keys() | {"part", "approval"}  # who was lost got no final model
        yield from (f"attestations/{party}.{what}.dsse.json" for what in sorted(stated))


def _report_place(case: Case) -> str:
    return f"attestations/{case.plan.lead.name}.report.dsse.json"


def keys(case: Case, trust: Mapping[str, str] | None) -> Findings:
    """Every key is the one that the plan names, and, where a trust file is given, one that it names."""
    named = {party.name: party.identity for party in (case.plan.lead, *case.plan.sites)}
    for name in sorted(case.keys.keys() - named.keys()):
        yield altered("keys", "keys.json", f"{name} is not in the plan")
    for name, identity in named.items():
        if name not in case.keys:
            yield incomplete("keys", "keys.json", f"the keys of {name} are missing")
        elif case.keys[name].digest() != identity:
            yield altered("keys", "keys.json", f"the keys of {name} are not those that the plan names")
        if trust is not None and trust.get(name) not in _proven(case, name, identity):
            reason = "is not in the trust file" if name not in trust else "has another key in the trust file"
            yield Finding("keys", Result.UNTRUSTED, "plan.json", f"{name} {reason}")


def _proven(case: Case, name: str, identity: str) -> set[str]:
    """Digests of a party's keys: those of the plan, and later ones that these have signed for."""
    logs = case.writers[name].logs if name in case.writers else ()
    return {identity, *(log.identity.digest() for log in logs[1:])}


def signatures(case: Case) -> Findings:
    """Every signature verifies; every party signed its own part; the lead signed report and manifest."""
    try:
        signers = signers_of(case)
        if case.plan.lead.name not in signers:
            yield altered("signatures", MANIFEST_FILE, "it is not signed by the lead")
    except CloisterError as error:
        yield Finding.of("signatures", MANIFEST_FILE, error)
    for party in case.parties:
        yield from _approval(case, party)
        for what, expected in _expected(case, party).items():
            yield from _attestation(case, party, what, expected)


def signers_of(case: Case) -> tuple[str, ...]:
    """Who signed the manifest.

    Raises:
        EvidenceError: a signature does not verify or is of nobody in the plan.
    """
    return tuple(dict.fromkeys(case.bundle.manifest.verify(case.identities)))


def _expected(case: Case, party: str) -> dict[str, Statement]:
    """The statements that a party must have signed, as they follow from the bundle's files."""
    writer = case.writers.get(party)
    if writer is None:
        return {}
    own = {
        name: canonical.digest(data).removeprefix("sha256:")
        for name, data in case.bundle.files.items()
        if owned(name, party) and not name.startswith("attestations/")
    }
    newest = [log.newest for log in writer.logs]
    said = {"part": Statement(own, PART, predicate(case.plan, newest, decisions.handed(case, party)))}
    said |= statements(party, case.plan, writer.events)
    if party == case.plan.lead.name:
        subjects = {
            name: canonical.digest(case.bundle.files.get(name, b"")).removeprefix("sha256:")
            for name in (EVIDENCE_FILE, REPORT_FILE)
        }
        about = {"job": case.plan.digest, "party": party}
        said["report"] = Statement(subjects, bundles.REPORT, about)
    return said


def _attestation(case: Case, party: str, what: str, expected: Statement) -> Findings:
    place = f"attestations/{party}.{what}.dsse.json"
    data = case.bundle.files.get(place)
    if data is None or party not in case.keys:
        return  # that it is missing, the check of files says
    signer = case.writers[party].signer
    try:
        envelope = Envelope.from_bytes(data)
        found, signers = envelope.statement(), envelope.verify([signer])
    except CloisterError as error:
        yield Finding.of("signatures", place, error)
        return
    if signers != (party,):
        yield altered("signatures", place, f"it is not signed by {party}")
    shown = case.manifest.predicate.get("audience")
    withheld = {
        name for name in found.subjects if name in case.withheld or not bundles.shown_to(name, str(shown))
    }
    subjects = {name: h for name, h in found.subjects.items() if name not in withheld}
    if replace(found, subjects=subjects).to_bytes() != expected.to_bytes():
        odd = sorted(set(subjects.items()) ^ set(expected.subjects.items()))
        about = f", such as {odd[0][0]}" if odd else ""
        yield altered("signatures", place, f"{party} signed something else than is here{about}")


def _approval(case: Case, party: str) -> Findings:
    place = f"approvals/{party}.json"
    data = case.bundle.files.get(place)
    if data is None or party not in case.keys:
        return
    lead = party == case.plan.lead.name
    context = PLAN_CONTEXT if lead else DECISION_CONTEXT
    wanted = case.plan.to_bytes() if lead else _decision(case, party)
    try:
        signed = Signed.from_json(canonical.decode(data))
        if signed.open(case.keys[party], context) != wanted:
            yield altered("consent", place, f"{party} did not approve this plan")
        if canonical.encode(signed.to_json()) != data:
            yield altered("form", place, "it is not of the form that exists")
    except CloisterError as error:
        yield Finding.of("signatures", place, error)


def _decision(case: Case, party: str) -> bytes:
    return Decision(site=party, plan=case.plan.digest, approve=True).to_bytes()
