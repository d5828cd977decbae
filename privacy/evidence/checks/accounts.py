"""The ledger of every site: consent before use, charges before anything leaves, epsilon recomputed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from cloister.privacy import canonical
from cloister.privacy.dp import accounting
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.evidence import derive
from cloister.privacy.evidence.checks.case import Case
from cloister.privacy.evidence.checks.findings import Findings, altered, incomplete, unfounded
from cloister.privacy.evidence.kinds import rounded_up
from cloister.privacy.evidence.part import Shown
from cloister.privacy.plan import Plan

_STEP = ("budget.reserved", "dp.step_summary", "budget.spent", "budget.released", "update.sent")
_CLOSE = 1e-9
"""Relative difference of two accounts of the same mechanisms on two machines."""


def sites(case: Case) -> Findings:
    """At every site: approval, then charge, then work, then release, round by round."""
    for name in case.sites:
        if name in case.writers:
            yield from _approved(case, name)
            yield from _charged(case, name)
            yield from _totals(case, name)
            yield from _sampled(case, name)


def _approved(case: Case, name: str) -> Findings:
    """The plan was approved, and everybody's keys were confirmed, before anything was done."""
    shown, job = case.writers[name].shown, case.plan.digest
    granted = next((e for e in shown if (e.event.type, e.event.job) == ("approval.granted", job)), None)
    if granted is None:
        yield incomplete("consent", f"events/{name}.jsonl", f"no approval of {name} is shown")
        return
    if granted.event.body["subject"] != job:
        yield unfounded("consent", granted.id, "it approves something else than this plan")
    for one in shown:
        if one.event.job == job and one.place < granted.place and one.event.type in _WORK:
            yield unfounded("consent", one.id, f"it comes before the site approved the plan ({granted.id})")
    known = {
        str(e.event.body["party"]): e.event.body["identity"]
        for e in shown
        if e.event.type in ("key.confirmed", "key.rotated") and e.place < granted.place
    }
    for party in (case.plan.lead, *case.plan.sites):
        if party.name != name and known.get(party.name) != party.identity:
            reason = f"{name} had not confirmed the plan's key of {party.name} before"
            yield unfounded("consent", granted.id, reason)


_WORK = frozenset({*_STEP, "sum.agreed", "sum.signed", "sum.opened", "audit.committed", "model.received"})


def _charged(case: Case, name: str) -> Findings:
    """Every update that left was reserved, worked, spent and released before, in this order."""
    plan, events = case.plan, case.of_job(name)
    by_type: dict[str, dict[int | None, Shown]] = {kind: {} for kind in _STEP}
    for one in events:
        if one.event.type in by_type:
            by_type[one.event.type].setdefault(one.event.round, one)
    for number, sent in by_type["update.sent"].items():
        yield from _in_order(plan, sent, [(kind, by_type[kind].get(number)) for kind in _STEP])
    for kind in ("budget.reserved", "budget.spent", "budget.released"):
        for number, one in by_type[kind].items():
            yield from _reservation(plan, name, number, one)
    for number, one in by_type["budget.released"].items():
        sent_one = by_type["update.sent"].get(number)
        sealed = one.event.body.get("sealed")
        if sent_one and sealed not in (None, sent_one.event.body["sealed"]):
            yield altered("ledger", one.id, f"another update was released than was sent ({sent_one.id})")


def _in_order(plan: Plan, sent: Shown, steps: Iterable[tuple[str, Shown | None]]) -> Findings:
    """What must stand in the log before an update that left, and in which order."""
    if plan.privacy.mode == "off":
        return
    before: Shown | None = None
    for kind, one in steps:
        if kind == "budget.spent" and plan.joint:
            continue  # what a shared noise came to is known only once the sum is opened
        if one is None:
            what = incomplete if kind == "dp.step_summary" else unfounded
            yield what("ledger", sent.id, f"an update left, and there is no {kind} of its round")
        elif before is not None and one.place < before.place:
            yield unfounded("ledger", one.id, f"{kind} comes before {before.event.type}")
        before = one or before


def _reservation(plan: Plan, name: str, number: int | None, one: Shown) -> Findings:
    """A charge is of the plan's mechanism: the digest that ties it together holds sigma, rate and steps."""
    mechanism, body = plan.round_mechanism, one.event.body
    if mechanism is None:
        yield unfounded("ledger", one.id, "the plan has no privacy, so nothing can be charged")
        return
    if number not in range(1, plan.training.rounds + 1):
        yield unfounded("ledger", one.id, "it is charged for no round of the plan")
    dataset = plan.site(name).dataset
    wanted = canonical.digest_of(
        {
            "dataset": dataset,
            "job": plan.digest,
            "round": number,
            "attempt": 1,
            "mechanism": mechanism.to_json(),
        }
    )
    if (body["dataset"], body["unit"]) != (dataset, plan.privacy.unit):
        yield unfounded("ledger", one.id, "it is charged to another dataset or unit than the plan's")
    if body["reservation"] != wanted:
        yield unfounded("ledger", one.id, "what was charged is not the plan's noise, rate and steps")
    if one.event.type == "budget.reserved" and not _same(
        body["epsilon"], _epsilon(mechanism, 1, _number(body["delta"]))
    ):
        yield unfounded("epsilon", one.id, "the charge is not what the plan's noise, rate and steps cost")


def _totals(case: Case, name: str) -> Findings:
    """The ledger's total never falls, is at least what this job cost by then, and stays in the budget."""
    plan, shown = case.plan, case.writers[name].shown
    dataset = plan.site(name).dataset
    budget = next(
        (e for e in shown if e.event.type == "budget.opened" and e.event.body["dataset"] == dataset), None
    )
    if plan.privacy.mode == "off":
        return
    if budget is None:
        yield incomplete("ledger", f"events/{name}.jsonl", f"no budget of {dataset} is shown")
        return
    limit, delta = _number(budget.event.body["epsilon"]), _number(budget.event.body["delta"])
    mechanism, last, charged = plan.round_mechanism, 0.0, set()
    for one in case.of_job(name):
        if not one.event.type.startswith("budget.") or "total" not in one.event.body:
            continue
        total = _number(one.event.body["total"])
        if one.event.type == "budget.reserved":
            charged.add(one.event.round)
        own = _epsilon(mechanism, len(charged), delta) if mechanism else 0.0
        if one.place < budget.place:
            yield unfounded("ledger", one.id, "it is charged before there was a budget")
        yield from _before(one, last, own)
        if total < last - _CLOSE:
            yield unfounded("ledger", one.id, "the total of the ledger falls")
        if total < own * (1 - _CLOSE):
            yield unfounded("epsilon", one.id, f"the total is below the {own:.4f} that this job cost by then")
        if total > limit:
            yield unfounded("epsilon", one.id, f"the total passes the budget of {limit:g}")
        last = max(last, total)


def _before(one: Shown, last: float, own: float) -> Findings:
    """What the ledger stood at before a charge is no less than its last total, and makes up the new one.

    Args:
        one: a charge.
        last: the total of the job's entry before.
        own: what the job alone cost by then, with this charge.
    """
    if "before" not in one.event.body:
        return
    before, total = _number(one.event.body["before"]), _number(one.event.body["total"])
    if not last * (1 - _CLOSE) <= before <= total:
        yield unfounded("ledger", one.id, "what the ledger stood at before is not between the totals")
    elif before == 0 and not _same(total, own):
        yield unfounded("ledger", one.id, "nothing was charged before, and the total is not this charge")


def _sampled(case: Case, name: str) -> Findings:
    """What a site says that its steps did is what the plan charges for."""
    plan = case.plan
    mechanism = plan.round_mechanism
    if mechanism is None:
        return
    wanted: dict[str, Any] = {
        "mode": plan.privacy.mode,
        "unit": plan.privacy.unit,
        "mechanism": "discrete-gaussian" if plan.joint else "gaussian",
        "sampler": "full-batch" if mechanism.rate == 1 else "poisson",
        "noise_multiplier": mechanism.noise_multiplier,
        "rate": mechanism.rate,
        "steps": mechanism.steps,
    }
    for one in case.of_job(name):
        if one.event.type == "dp.step_summary":
            claimed = {**wanted, "clip": plan.bound_in(one.event.round or 0)}
            odd = [k for k, value in claimed.items() if one.event.body[k] != value]
            for field in odd:
                check = "sampler" if field in ("sampler", "rate") else "epsilon"
                said = one.event.body[field]
                yield unfounded(check, one.id, f"{field} was {said}; epsilon is claimed for {claimed[field]}")
            if one.event.body["entropy"] == "fixed" and plan.rehearsal != "simulation":
                yield unfounded(
                    "sampler", one.id, "its noise came from a known seed, as only a simulation's may"
                )


def guarantees(case: Case) -> Findings:
    """Every claimed epsilon is what two accountants find from the plan's noise and the logged rounds."""
    stated = case.evidence.get("privacy")
    for entry in stated if isinstance(stated, list) else ():
        name = entry.get("site") if isinstance(entry, dict) else None
        if name in case.writers and name in case.sites and case.plan.privacy.mode != "off":
            yield from _guarantee(case, str(name), entry)


def _guarantee(case: Case, name: str, stated: Mapping[str, Any]) -> Findings:
    plan, place = case.plan, f"evidence.json privacy of {name}"
    charged = derive.charges(plan, case.writers[name].events)
    steps = len(charged) * plan.training.steps
    found = accounting.accountants(charged.values(), plan.privacy.delta)
    others = stated.get("accountants")
    claims = others if isinstance(others, dict) else {}
    for label, claimed, value in (
        ("epsilon", stated.get("epsilon"), found["rdp"]),
        ("epsilon by RDP", claims.get("rdp"), found["rdp"]),
        ("epsilon by PLD", claims.get("pld"), found["pld"]),
    ):
        if claimed != rounded_up(value):
            reason = f"{label} is claimed as {claimed}; {steps} logged steps give {rounded_up(value)}"
            yield unfounded("epsilon", place, reason)
    prv = claims.get("prv")
    if prv is not None and abs(float(prv) - found["pld"]) > accounting.AGREEMENT + 0.001:
        yield unfounded("epsilon", place, f"PRV is claimed as {prv}; PLD gives {found['pld']:.3f}")
    if found["rdp"] > plan.privacy.epsilon * (1 + _CLOSE):
        yield unfounded("epsilon", place, f"{found['rdp']:.4f} is above the plan's {plan.privacy.epsilon:g}")


@cache
def _epsilon(mechanism: GaussianSteps, times: int, delta: float) -> float:
    return accounting.epsilon((mechanism,) * times, delta)


def _same(one: Any, other: float) -> bool:
    return math.isclose(_number(one), other, rel_tol=_CLOSE)


def _number(value: Any) -> float:
    return float(value)


def traffic(case: Case) -> Findings:
    """The lead counted at least the bytes of the updates that sites sent, if it counted without a break.

    What it counts on the way down, no site holds it to.
    """
    if any(e.event.type == "job.resumed" for e in case.lead):
        return
    counted = {
        str(e.event.body["site"]): _number(e.event.body["bytes_up"])
        for e in case.lead
        if e.event.type == "traffic.counted"
    }
    for name in case.sites:
        own, up = case.of_job(name), counted.get(name, 0.0)
        sent = sum(_number(e.event.body["bytes"]) for e in own if e.event.type == "update.sent")
        if up < sent:
            place = f"events/{case.plan.lead.name}.jsonl"
            yield altered("traffic", place, f"{up:.0f} bytes from {name} are counted; it sent {sent:.0f}")
