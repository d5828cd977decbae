"""Papers before use: what a policy asks for is recorded when a plan is approved, and holds at every use."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from cloister.privacy.errors import CloisterError
from cloister.privacy.evidence.checks.case import Case
from cloister.privacy.evidence.checks.findings import Findings, unfounded
from cloister.privacy.evidence.part import Shown
from cloister.privacy.policy.terms import Policy

_CHECK = "consent"
_USES = frozenset({"budget.reserved", "update.sent", "sum.signed"})


def documents(case: Case) -> Findings:
    """No use before the papers that a policy asks for are recorded, and none after their last day.

    What a policy asks for is known where it is shown; that a paper exists and says so is the site's word.
    """
    for name in case.sites:
        if name not in case.writers:
            continue
        events = case.of_job(name)
        use = next((place for place, one in enumerate(events) if one.event.type in _USES), len(events))
        recorded = {_paper(one) for one in events[:use] if one.event.type == "consent.recorded"}
        for one in events[:use]:
            if one.event.type == "policy.decision" and one.event.body["outcome"] == "allow":
                yield from _missing(case, name, one, recorded)
        yield from _expired(events)


def _expired(events: Sequence[Shown]) -> Findings:
    """Uses after the last day of a paper, as it was recorded last."""
    held: dict[tuple[str, str], tuple[str, Shown]] = {}
    for one in events:
        if one.event.type == "consent.recorded":
            document, form, until = _paper(one)
            held[document, form] = until, one
        elif one.event.type in _USES:
            for until, said in held.values():
                if one.event.ts[:10] > until:
                    yield unfounded(_CHECK, one.id, f"it comes after the last day of a paper ({said.id})")


def _paper(one: Shown) -> tuple[str, str, str]:
    body: Any = one.event.body
    return body["document"], body["form"], body["not_after"]


def _missing(case: Case, name: str, decision: Shown, recorded: Collection[tuple[str, str, str]]) -> Findings:
    dataset = case.plan.site(name).dataset
    for digest in (
        decision.event.body[field] for field in ("policy", "shared") if field in decision.event.body
    ):
        data = case.bundle.files.get(f"policies/{name}@{str(digest).removeprefix('sha256:')}.json")
        try:
            terms = Policy.from_bytes(data).dataset(dataset) if data else None
        except CloisterError:
            continue  # ``decisions`` says so
        for one in terms.documents if terms else ():
            # The strictest of two policies names a paper once, with its earliest end.
            if not any(paper[:2] == (one.digest, one.form) and paper[2] <= one.until for paper in recorded):
                yield unfounded(
                    _CHECK,
                    decision.id,
                    f"the policy asks for a paper ({one.form}) that was not recorded before use",
                )
