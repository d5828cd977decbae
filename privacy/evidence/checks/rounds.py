"""The grammar of a job at its lead: approved, then started, then round after round, then finished."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cloister.privacy.evidence.checks.case import Case
from cloister.privacy.evidence.checks.findings import Findings, incomplete, unfounded
from cloister.privacy.evidence.events import names
from cloister.privacy.evidence.part import Shown
from cloister.privacy.plan import Plan

_CHECK = "rounds"


@dataclass
class _State:
    """Where the reading of the lead's events stands.

    Attributes:
        accepted: sites whose approval the lead noted.
        model: digest of the global model; None before the start.
        round: the last round that ended.
        open: the round that is under way; None between rounds.
        invited, received, refused, lost: sites in the round that is under way.
        summed: survivors of its secure sum, once it was opened.
        surplus: whether what is surplus of the noise in that sum was taken back, or kept with a reason.
        finished: whether the job is.
    """

    plan: Plan
    accepted: set[str] = field(default_factory=set)
    model: Any = None
    round: int = 0
    open: int | None = None
    invited: set[str] = field(default_factory=set)
    received: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    summed: set[str] | None = None
    surplus: bool = False
    finished: bool = False


def grammar(case: Case) -> Findings:
    """The lead's events of the job come in an order that a job can have."""
    if case.plan.lead.name not in case.writers:
        return
    state = _State(case.plan)
    for one in case.lead:
        read = _READERS.get(one.event.type)
        if state.finished and one.event.type not in _AFTER:
            yield unfounded(_CHECK, one.id, f"{one.event.type} comes after the job was finished")
        elif read is not None:
            for reason in read(state, one):
                yield unfounded(_CHECK, one.id, reason)
    place = f"events/{case.plan.lead.name}.jsonl"
    if not state.finished:
        yield incomplete(_CHECK, place, "the job is not shown to its end")
    elif state.round != case.plan.training.rounds:
        yield unfounded(_CHECK, place, f"{state.round} of {case.plan.training.rounds} rounds are shown")
    yield from _nobody_left(case)


def _nobody_left(case: Case) -> Findings:
    """Nothing happens with a site or under a consent that was withdrawn."""
    for writer in case.writers.values():
        gone: dict[Any, Shown] = {}
        for one in writer.shown:
            kind, body = one.event.type, one.event.body
            if kind == "site.withdrew":
                gone[body["site"]] = one
            elif kind == "key.revoked":
                gone[body["party"]] = one
            about = {body.get("site"), one.event.writer}
            for name in about & gone.keys() if kind in _USES else ():
                yield unfounded(
                    "consent", one.id, f"{kind} comes after {gone[name].event.type} ({gone[name].id})"
                )


_USES = frozenset({"budget.reserved", "update.sent", "update.received", "sum.signed", "dataset.opened"})
_AFTER = frozenset(
    {
        *("release.requested", "release.approved", "release.denied", "release.exported", "model.rolled_back"),
        *("report.built", "report.verified", "log.witnessed", "log.countersigned", "eval.recorded"),
        *("traffic.counted", "site.withdrew", "incident.raised", "incident.closed"),
        "model.released",
    }
)


def _accepted(state: _State, one: Shown) -> list[str]:
    state.accepted.add(str(one.event.body.get("site")))
    return []


def _started(state: _State, one: Shown) -> list[str]:
    missing = sorted({site.name for site in state.plan.sites} - state.accepted)
    faults = [f"the job starts, and the lead had no approval of {', '.join(missing)}"] if missing else []
    if one.event.body["code"] != state.plan.lead.code:
        faults.append("the lead runs other code than the plan names")
    if state.model is not None and one.event.body["model"] != state.model:
        faults.append("it goes on from another model than the last round left")
    state.model = one.event.body["model"]
    state.open = None  # what was under way is begun again
    return faults


def _opened(state: _State, one: Shown) -> list[str]:
    faults, number = [], one.event.round
    if state.model is None:
        faults.append("a round opens before the job is started")
    if state.open is not None:
        faults.append(f"it opens while round {state.open} is under way")
    if number != state.round + 1:
        faults.append(f"round {number} opens after round {state.round}")
    if one.event.body["model"] != state.model:
        faults.append("it starts from another model than the round before left")
    state.model, state.open = one.event.body["model"], number
    state.invited, state.summed, state.surplus = set(names(one.event, "invited")), None, False
    state.received, state.refused, state.lost = set(), set(), set()
    return faults


def _in_round(state: _State, one: Shown, noted: set[str]) -> list[str]:
    site = str(one.event.body.get("site"))
    noted.add(site)
    if one.event.round == state.open:
        return [] if site in state.invited else [f"{site} was not invited to round {state.open}"]
    return [f"it is about round {one.event.round}, which is not under way"]


def _received(state: _State, one: Shown) -> list[str]:
    return _in_round(state, one, state.received)


def _refused(state: _State, one: Shown) -> list[str]:
    _missing(state, one, state.refused)
    return []


def _lost(state: _State, one: Shown) -> list[str]:
    _missing(state, one, state.lost)
    return []


def _missing(state: _State, one: Shown, noted: set[str]) -> None:
    """Notes a site without an update. That of one which fails while the sum is opened counts."""
    noted |= {str(one.event.body.get("site"))} - state.received


def _summed(state: _State, one: Shown) -> list[str]:
    if one.event.body["step"]:
        return _taken_back(state, one) + _opened_by(state, one)
    state.summed = set(names(one.event, "survivors"))
    return _opened_by(state, one)


def _taken_back(state: _State, one: Shown) -> list[str]:
    """Surplus noise leaves a sum once, over exactly its survivors, or stays with a reason."""
    survivors, over = set(names(one.event, "survivors")), state.summed
    faults = ["surplus noise is dealt with twice in a round"] if state.surplus else []
    state.surplus = True
    if one.event.round != state.open:
        faults.append(f"surplus noise of round {one.event.round} is dealt with, which is not under way")
    if survivors != over:
        faults.append("surplus noise is dealt with over other survivors than those of the sum")
    elif not _unneeded(state.plan, one.event.round, len(survivors)):
        faults.append(f"no noise is surplus by the plan in a sum over {len(survivors)} sites")
    return faults


def _unneeded(plan: Plan, round: int | None, survivors: int) -> bool:
    """Whether a sum over so many has noise that the plan takes back."""
    return bool(plan.aggregation.surplus and plan.grid_in(round or 0).unneeded(survivors))


def _opened_by(state: _State, one: Shown) -> list[str]:
    """A sum over sites whose update is there, opened by enough of them."""
    over = set(names(one.event, "survivors"))
    how, faults = state.plan.aggregation, []
    signed, opened = set(names(one.event, "signed")), set(names(one.event, "opened"))
    if one.event.round != state.open:
        faults.append(f"a sum of round {one.event.round} is opened, which is not under way")
    if not signed | opened <= over <= state.received:
        faults.append("a sum has survivors, signers or openers whose update did not arrive")
    if len(over) < how.minimum_sites:
        faults.append(f"a sum over {len(over)} sites is opened; the plan asks for {how.minimum_sites}")
    if min(len(signed), len(opened)) < (how.threshold or 0):
        faults.append(f"fewer than {how.threshold} survivors signed or opened the sum")
    return faults


def _closed(state: _State, one: Shown) -> list[str]:
    accepted, refused, lost = (set(names(one.event, what)) for what in ("accepted", "refused", "lost"))
    faults = _ended(state, one)
    if accepted != state.received:
        faults.append("those accepted are not those whose update arrived")
    if refused - state.refused or lost - state.lost:
        faults.append("no event says why a site was refused or lost")
    if accepted | refused | lost != state.invited:
        faults.append("not every invited site has an outcome")
    if len(accepted) < state.plan.aggregation.minimum_sites:
        faults.append(
            f"{len(accepted)} sites contributed; the plan asks for {state.plan.aggregation.minimum_sites}"
        )
    if state.plan.aggregation.secure and state.summed != accepted:
        faults.append("no secure sum over those accepted was opened")
    elif _unneeded(state.plan, one.event.round, len(accepted)) and not state.surplus:
        faults.append("no event says what became of the surplus noise")
    state.model = one.event.body["model"]
    return faults


def _aborted(state: _State, one: Shown) -> list[str]:
    if state.open is None and one.event.round == state.round + 1:
        state.round += 1  # a restart found it begun and gave it up without opening it again
        return []
    return _ended(state, one)


def _ended(state: _State, one: Shown) -> list[str]:
    faults = [] if one.event.round == state.open else [f"round {one.event.round} ends and is not under way"]
    state.round, state.open = one.event.round or 0, None
    return faults


def _released(state: _State, one: Shown) -> list[str]:
    same = one.event.body["model"] == state.model
    return [] if same else ["the model that is released is not the one that the last round left"]


def _finished(state: _State, one: Shown) -> list[str]:
    state.finished = True
    faults = [] if state.open is None else [f"the job ends while round {state.open} is under way"]
    if one.event.body["model"] != state.model:
        faults.append("the job ends with another model than the last round left")
    if one.event.body["rounds"] != state.round:
        faults.append(f"the job says {one.event.body['rounds']} rounds; {state.round} ended")
    return faults


_READERS: Mapping[str, Callable[[_State, Shown], Sequence[str]]] = {
    "job.accepted": _accepted,
    "job.started": _started,
    "job.resumed": _started,
    "round.opened": _opened,
    "update.received": _received,
    "update.refused": _refused,
    "site.lost": _lost,
    "sum.closed": _summed,
    "surplus.kept": _taken_back,
    "round.closed": _closed,
    "round.aborted": _aborted,
    "model.released": _released,
    "job.finished": _finished,
}
