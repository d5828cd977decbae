"""Times and silence: clocks that go back, logs that say nothing, gaps that are told wrongly or not at all.

Order follows from the chain, never from a time. But a party that dates events anew, or takes out that its
process was gone, leaves times that do not go with each other, or an event without its companion.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from cloister.privacy.evidence.checks.case import Case
from cloister.privacy.evidence.checks.findings import Findings, incomplete, unfounded
from cloister.privacy.evidence.checks.logs import DATED, TOLERANCE_S
from cloister.privacy.evidence.clocks import ahead, at
from cloister.privacy.evidence.keeping import SILENCE_S
from cloister.privacy.evidence.part import Shown
from cloister.privacy.timekeeping import span

_CHECK = "clock"
_DRIFT = 2e-4
"""A clock that nobody keeps in step may be off by so much of the time that passes."""
_REASONS = frozenset({"log.gap", "incident.raised", "model.rolled_back", "job.aborted"})
_WORK = frozenset({"budget.reserved", "update.sent"})
_BY_PROCESS = ("round.", "update.", "sum.", "dp.", "budget.", "step.", "model.", "log.gap", "log.heartbeat")
"""What only the process writes that works on jobs."""
_COMING = frozenset({"channel.opened", "channel.refused", "log.recovered", "clock.stepped"})
"""What a process may write before it tells of the gap that it came after."""


def clocks(case: Case) -> Findings:
    """Of every log by itself: it goes back nowhere, is silent nowhere, and tells of gaps and its clock."""
    for name, writer in case.writers.items():
        yield from _back(writer.shown)
        yield from _gaps(writer.shown)
        places = _working(case, name)
        working = writer.shown[places.start : places.stop]
        yield from _told(case, name, places)
        if case.plan.rehearsal != "simulation":  # nobody keeps a simulated party's log
            yield from _silent(working)
            yield from _come(working)
    if case.plan.lead.name in case.writers:
        yield from _resumed(case.writers[case.plan.lead.name].shown)


def _back(shown: Sequence[Shown]) -> Findings:
    for before, after in pairwise(shown):
        back = at(before.event) - at(after.event)
        if back > TOLERANCE_S and after.event.type not in DATED | {"clock.stepped"}:
            yield unfounded(
                _CHECK,
                after.id,
                f"it is dated {back:.0f} s before {before.id}, which it stands after, and no event says that "
                "the clock was set back",
            )


def _gaps(shown: Sequence[Shown]) -> Findings:
    """A gap is as long as the log is silent before it."""
    for place, one in enumerate(shown):
        if one.event.type != "log.gap":
            continue
        before = _before(shown, place)
        if before is None:
            continue
        lasted = span(at(one.event) - at(before.event))
        if lasted != one.event.body["lasted"]:
            yield unfounded(_CHECK, one.id, f"a gap of {one.event.body['lasted']} is told; it was {lasted}")


def _before(shown: Sequence[Shown], place: int) -> Shown | None:
    """The event before a gap, but for what the process wrote that came after it; None if not shown."""
    while place and shown[place - 1].event.seq == shown[place].event.seq - 1:
        place -= 1
        if shown[place].event.type not in _COMING:
            return shown[place]
    return None


def _working(case: Case, name: str) -> range:
    """The places of what a party wrote from when it first worked on the job to when it was done with it."""
    lead = name == case.plan.lead.name
    begins, ends = ({"job.started"}, "job.finished") if lead else (_WORK, "model.received")
    own = [
        (place, one.event.type)
        for place, one in enumerate(case.writers[name].shown)
        if one.event.job == case.plan.digest
    ]
    first = next((place for place, kind in own if kind in begins), None)
    last = next((place for place, kind in reversed(own) if kind == ends), None)
    return range(0) if first is None or last is None else range(first, last + 1)


def _told(case: Case, name: str, working: range) -> Findings:
    """The state of the clock is told before the work on a job begins."""
    shown = case.writers[name].shown
    told = (e for e in shown[: working.start] if e.event.type == "clock.status")
    if working and not any(one.event.job == case.plan.digest for one in told):
        reason = "the state of the clock was not told before the job began"
        yield incomplete(_CHECK, shown[working.start].id, reason)


def _silent(working: Sequence[Shown]) -> Findings:
    """No long silence, but before a gap that is told of; until then only people's commands write anything."""
    for place in range(1, len(working)):
        before, after = working[place - 1], working[place]
        silent = at(after.event) - at(before.event)
        if silent <= SILENCE_S or after.event.type == "clock.stepped":
            continue
        kinds = (one.event.type for one in working[place:])
        if next((kind for kind in kinds if kind.startswith(_BY_PROCESS)), "") != "log.gap":
            yield unfounded(
                _CHECK,
                after.id,
                f"nothing is written for {silent / 60:.0f} min after {before.id}, no heartbeat and no gap",
            )


def _come(working: Sequence[Shown]) -> Findings:
    """A process that comes in the middle of a job tells of the gap before it."""
    for before, after in pairwise(working):
        next_ = before.event.seq + 1 == after.event.seq
        gone = before.event.type == "log.gap" and before.event.body["reason"] in ("restart", "unclean")
        came = after.event.type == "clock.status" and after.event.body["occasion"] == "start"
        if came and not (gone and next_):
            yield unfounded(_CHECK, after.id, "a process began here, and no event says what gap there was")
        if gone and not (came and next_):
            yield unfounded(
                _CHECK, before.id, "a gap ends here, and no event says what the clock was after it"
            )


def _resumed(shown: Sequence[Shown]) -> Findings:
    """A job that goes on says why it had stopped."""
    why = False
    for one in shown:
        if one.event.type in _REASONS and one.event.round is None:
            why = True
        if one.event.type == "job.resumed" and not why:
            yield unfounded(_CHECK, one.id, "the job goes on, and no event says why it had stopped")
        if one.event.type in ("job.started", "job.resumed"):
            why = False


def met(case: Case) -> Findings:
    """Of two logs together: there is one difference between two clocks that all their times go with."""
    lead = case.plan.lead.name
    for name in case.sites:
        if any(_was_set(case, who) for who in (name, lead)):
            continue
        bounds = ahead((one.event for one in case.of_job(name)), (one.event for one in case.lead))
        if bounds is None:
            continue
        drift = _DRIFT * abs(at(bounds.high) - at(bounds.low))
        if bounds.at_least - bounds.at_most > TOLERANCE_S + drift:
            yield unfounded(
                _CHECK,
                f"{name}/{bounds.low.seq}",
                f"by this event the clock of {name} was {bounds.at_least:.0f} s or more ahead of the lead's, "
                f"by {name}/{bounds.high.seq} {bounds.at_most:.0f} s or less, and nobody set a clock",
            )


def _was_set(case: Case, name: str) -> bool:
    """Whether a party tells that its clock was set while it worked on the job."""
    places = _working(case, name)
    shown = case.writers[name].shown[places.start : places.stop]
    return any(one.event.type == "clock.stepped" for one in shown)
