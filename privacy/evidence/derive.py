"""What of the evidence follows from plan and events: the same numbers for whoever derives them.

``derived`` gives every field of ``evidence.json`` that the records of the parties decide. The others
(accuracies, the time it took, memory, the PRV account, when the report was made) are words of its maker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cloister.privacy import canonical
from cloister.privacy.dp import accounting
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.dp.membership import MOST_TRIALS
from cloister.privacy.evidence import happenings
from cloister.privacy.evidence.clocks import clocks
from cloister.privacy.evidence.datasets import datasets
from cloister.privacy.evidence.events import Event, names
from cloister.privacy.evidence.evidence import MOST_PHANTOMS, lower_bound
from cloister.privacy.evidence.extraction import possible, shares
from cloister.privacy.evidence.heads import SignedHead
from cloister.privacy.evidence.kinds import Audience, rounded_up
from cloister.privacy.evidence.ledgers import accounts
from cloister.privacy.evidence.software import software
from cloister.privacy.evidence.sums import sums
from cloister.privacy.identity import PublicIdentity
from cloister.privacy.plan import Plan

Logs = Mapping[str, Sequence[Event]]
"""Name of a party -> its events of the job, in order (``selection.selected``)."""

DECLARED = ("accuracy", "audience", "created", "peak_memory", "seconds", "version")
"""Fields of the evidence that no event decides."""


def derived(
    plan: Plan, keys: Iterable[PublicIdentity], logs: Logs, heads: Mapping[str, SignedHead]
) -> dict[str, Any]:
    """The fields that plan and events decide.

    ``privacy[].accountants.prv`` is None here: that accountant needs torch. ``progress`` has each site's
    epsilon by round and no accuracy.

    Args:
        plan: of the job.
        keys: of all parties of the plan.
        logs: the events that a bundle shows.
        heads: name of a party -> the newest head of its log.
    """
    lead = [event for event in logs.get(plan.lead.name, ()) if event.job == plan.digest]
    privacy = [_guarantee(plan, s.name, logs[s.name]) for s in plan.sites if s.name in logs]
    order = (plan.lead.name, *(site.name for site in plan.sites))
    public = {member.name: member for member in keys}
    shown = {name: logs[name] for name in order if name in logs}
    lists = {
        "consents": happenings.consents(shown),
        "decisions": happenings.decisions(shown),
        "incidents": happenings.incidents(shown),
        "clocks": clocks(plan, shown),
        "sums": sums(plan, shown),
        "ledgers": accounts(plan, shown),
        "sources": happenings.sources(plan, shown),
    }
    return {
        "kind": plan.rehearsal or "federation",
        "job": plan.digest,
        "consortium": plan.consortium,
        "purpose": plan.purpose,
        "plan": canonical.decode(plan.to_bytes()),
        "parties": [_member(public[name]) for name in order if name in public],
        "rounds": list(_rounds(lead)),
        "privacy": privacy,
        "attacks": [one for stated in privacy for one in attacked(plan, stated, logs[stated["site"]])],
        "extractions": [
            one
            for site in plan.sites
            if site.name in logs
            for one in extracted(plan, site.name, logs[site.name])
        ],
        "traffic": list(_traffic(plan, lead)),
        "channels": list(_channels(plan, logs)),
        "progress": list(_progress(plan, logs)),
        "model": {
            "digest": next((event.body["model"] for event in lead if event.type == "job.finished"), None),
            "parameters": str(plan.adapter.parameters),
            "base": plan.base.name,
            "base_digest": plan.base.digest,
        },
        "logs": [
            {"writer": name, "size": str(heads[name].size), "root": "sha256:" + heads[name].root.hex()}
            for name in order
            if name in heads
        ],
        "datasets": datasets(plan, shown),
        "software": software(plan, shown),
        **lists,
        "cited": happenings.cited(shown, *lists.values()),
    }


@dataclass(frozen=True)
class Said:
    """What the maker of a report says besides, which no record decides.

    Attributes:
        created: when the evidence was put together, RFC 3339 in UTC.
        seconds: how long the job took.
        peak_memory: bytes, where it was measured.
        accuracy: JSON of ``evidence.Accuracy``, where it was measured.
        scores: (site, round) -> accuracy of the global model on the site's own test records.
        prv: site -> epsilon by Opacus' accountant, rounded up.
    """

    created: str
    seconds: str
    peak_memory: str | None = None
    accuracy: Mapping[str, Any] | None = None
    scores: Mapping[tuple[str, int], float | None] = field(default_factory=dict)
    prv: Mapping[str, str] = field(default_factory=dict)


def composed(fields: Mapping[str, Any], said: Said, audience: Audience = "auditor") -> dict[str, Any]:
    """The evidence: what follows from the records, and what its maker says."""
    totals = {(point["site"], point["round"]): point["epsilon"] for point in fields["progress"]}
    progress = [
        {"round": number, "site": site, "accuracy": said.scores.get((site, number)), "epsilon": epsilon}
        for (site, number), epsilon in (dict.fromkeys(said.scores) | totals).items()
    ]
    privacy = [
        {**entry, "accountants": {**entry["accountants"], "prv": said.prv.get(entry["site"])}}
        if entry["accountants"]
        else entry
        for entry in fields["privacy"]
    ]
    return {
        **fields,
        "version": 1,
        "audience": audience,
        "created": said.created,
        "privacy": privacy,
        "progress": progress,
        "accuracy": said.accuracy,
        "seconds": said.seconds,
        "peak_memory": said.peak_memory,
    }


def _member(party: PublicIdentity) -> dict[str, Any]:
    return {
        "name": party.name,
        "role": party.role,
        "identity": party.digest(),
        "sealing": canonical.digest(party.hpke),
        "words": list(party.words()),
    }


def _rounds(events: Sequence[Event]) -> Iterator[dict[str, Any]]:
    """Rounds that ended, with the reasons of those who did not contribute."""
    reasons = {
        (e.round, e.body.get("site"), e.type): e.body["reason"]
        for e in events
        if e.type in ("site.lost", "update.refused")
    }
    started = {e.round: e.body["model"] for e in events if e.type == "round.opened"}
    for event in events:
        if event.type == "round.aborted":
            yield _aborted(event, started.get(event.round))
        if event.type != "round.closed":
            continue
        yield {
            "round": event.round,
            "accepted": names(event, "accepted"),
            "model": event.body["model"],
            **{
                outcome: [
                    {"site": site, "reason": reasons.get((event.round, site, type_), "internal")}
                    for site in names(event, outcome)
                ]
                for outcome, type_ in (("refused", "update.refused"), ("lost", "site.lost"))
            },
        }


def _aborted(event: Event, model: Any) -> dict[str, Any]:
    """A round whose sum could not be opened: nobody contributed, and the model stayed what it was."""
    everybody = sorted(name for field in ("accepted", "refused", "lost") for name in names(event, field))
    absences = [{"site": site, "reason": event.body["reason"]} for site in everybody]
    return {"round": event.round, "accepted": [], "refused": [], "lost": absences, "model": model}


def _traffic(plan: Plan, events: Sequence[Event]) -> Iterator[dict[str, Any]]:
    """Bytes by site, over all processes of the lead that counted them."""
    for site in plan.sites:
        counted = [e.body for e in events if e.type == "traffic.counted" and e.body["site"] == site.name]
        if counted:
            up, down = (sum(_whole(body[way]) for body in counted) for way in ("bytes_up", "bytes_down"))
            yield {"site": site.name, "bytes_up": str(up), "bytes_down": str(down)}


def _whole(value: Any) -> int:
    return int(value)


def _channels(plan: Plan, logs: Logs) -> Iterator[dict[str, Any]]:
    """The newest connection of each site that a bundle shows, as the lead's end saw it, and the site's."""
    at_lead = logs.get(plan.lead.name, ())
    for site in plan.sites:
        found = happenings.connection(at_lead, site.name)
        if found is None:
            continue
        own, met = logs.get(site.name, ()), _end(found.body, "remote", "local")
        ends = [
            end
            for event in happenings.connections(own, plan.lead.name)
            if (end := _end(event.body, "local", "remote")) and event.body["route"] == "consortium"
        ]
        flower = happenings.connection(own, plan.lead.name, "flower")
        served = happenings.connection(at_lead, site.name, "flower")
        issued = happenings.issued(at_lead, site.name, found)
        yield {
            "site": site.name,
            **met,
            "until": None if issued is None else issued.body["not_after"],
            "seen_at_site": met if met in ends else ends[-1] if ends else None,
            "flower": None if flower is None else _end(flower.body, "local", "remote"),
            "flower_at_lead": None if served is None else _end(served.body, "remote", "local"),
        }


def _end(body: Mapping[str, Any], site: str, lead: str) -> dict[str, Any]:
    """A connection as one end wrote it down, whose fields name the certificates of both."""
    return {
        "tls": body["tls"],
        "group": body["group"],
        "cipher": body["cipher"],
        "site_certificate": body.get(site),
        "lead_certificate": body.get(lead),
    }


def _guarantee(plan: Plan, name: str, events: Sequence[Event]) -> dict[str, Any]:
    privacy, training = plan.privacy, plan.training
    value: dict[str, Any] = {"site": name, "mode": privacy.mode, "unit": privacy.unit, "outside": None}
    value |= {field: _only(plan, events, field) for field in ("sampler", "entropy")}
    charged = charges(plan, events)
    if privacy.mode == "off":
        missing = ("epsilon", "delta", "budget", "accountants", "steps", "noise_multiplier", "rate", "bound")
        return {**value, **dict.fromkeys(missing), "audit": None}
    dataset = plan.site(name).dataset
    budget = next(
        (e.body["epsilon"] for e in events if e.type == "budget.opened" and e.body["dataset"] == dataset), 0
    )
    found = accounting.accountants(charged.values(), privacy.delta)
    return {
        **value,
        "epsilon": rounded_up(found["rdp"]),
        "delta": f"{privacy.delta:g}",
        "budget": f"{budget:g}",
        "accountants": {**{key: rounded_up(number) for key, number in found.items()}, "prv": None},
        "steps": str(len(charged) * training.steps),
        "noise_multiplier": f"{privacy.noise_multiplier:g}",
        "rate": f"{training.rate:g}",
        "bound": f"{privacy.bound:g}",
        "outside": rounded_up(outside(plan, events)) if plan.joint else None,
        "audit": audited(plan, events),
    }


def _only(plan: Plan, events: Iterable[Event], field: str) -> str | None:
    """What a site's log says of all its steps alike."""
    mine = (e for e in events if (e.type, e.job) == ("dp.step_summary", plan.digest))
    found = {str(event.body[field]) for event in mine}
    return "mixed" if len(found) > 1 else next(iter(found), None)


def charges(plan: Plan, events: Iterable[Event]) -> dict[int, GaussianSteps]:
    """Round -> what a site reserved for it, by its log and the plan."""
    mechanism = plan.round_mechanism
    if mechanism is None:
        return {}
    mine = (e.round for e in events if (e.type, e.job) == ("budget.reserved", plan.digest))
    return {number: mechanism for number in mine if number is not None}


def outside(plan: Plan, events: Sequence[Event]) -> float:
    """Epsilon of a joint job against whoever knows no site's share: all shares of each sum count.

    A step whose sum the site did not see opened counts as it was reserved. Where surplus noise may be taken
    back, a step counts as if it was.
    """
    charged = charges(plan, events)
    mine = [event for event in events if event.job == plan.digest]
    survivors = {e.round: len(names(e, "survivors")) for e in mine if e.type == "sum.signed"}
    settled = {e.round for e in mine if e.type == "budget.spent"}
    for number in settled & survivors.keys() & charged.keys():
        if number is not None:
            charged[number] = plan.grid_in(number).outside(plan.training.rate, survivors[number])
    return accounting.epsilon(charged.values(), plan.privacy.delta)


def audited(plan: Plan, events: Iterable[Event]) -> dict[str, Any] | None:
    """What the phantom units of the job showed at a site; None if it did not come to that."""
    found: dict[str, Mapping[str, Any]] = {e.type: e.body for e in events if e.job == plan.digest}
    bound, result = found.get("audit.committed"), found.get("audit.result")
    if bound is None or result is None:
        return None
    correct, guesses, phantoms = (
        _whole(result["correct"]),
        _whole(bound["guesses"]),
        _whole(bound["phantoms"]),
    )
    if not correct <= guesses <= phantoms <= MOST_PHANTOMS:
        return None  # the check of audits says so
    return {
        "commitment": bound["commitment"],
        "phantoms": str(phantoms),
        "guesses": str(guesses),
        "correct": str(correct),
        "claimed": rounded_up(float(result["claimed"])),
        "bound": lower_bound(correct, guesses, phantoms, plan.privacy.delta),
        "failed": result["failed"],
    }


def attacked(plan: Plan, stated: Mapping[str, Any], events: Iterable[Event]) -> Iterator[dict[str, Any]]:
    """What attacks on the finished model found at a site.

    An attacker sees what everybody sees of a joint job, so its claim is the one against outsiders.

    Args:
        plan: of the job.
        stated: the site's entry in ``privacy``.
        events: of the site's log.
    """
    mine = [e for e in events if e.job == plan.digest]
    told = (e.body for e in mine if e.type == "audit.model")
    opened = any(e.type == "audit.opened" for e in mine)
    first = {str(body["attack"]): body for body in reversed([*told])}
    for body in (first[name] for name in sorted(first)):
        correct, guesses, trials = (_whole(body[name]) for name in ("correct", "guesses", "trials"))
        if not correct <= guesses <= trials <= MOST_TRIALS:
            continue  # the check of audits says so
        figures = {name: body.get(name) for name in ("auc", "accused", "found", "exposure")}
        yield {
            "site": stated["site"],
            "attack": body["attack"],
            "model": body["model"],
            "commitment": body.get("commitment"),
            "trials": str(trials),
            "guesses": str(guesses),
            "correct": str(correct),
            "claimed": stated["outside"] or stated["epsilon"],
            "delta": f"{plan.privacy.delta:g}",
            "bound": lower_bound(correct, guesses, trials, plan.privacy.delta),
            **{name: None if value is None else f"{value:.2f}" for name, value in figures.items()},
            "covered": body["covered"],
            "opened": opened and body["attack"] == "canaries",
        }


def extracted(plan: Plan, site: str, events: Iterable[Event]) -> Iterator[dict[str, Any]]:
    """What came out of a model that writes when a site asked it for the answers of its canaries.

    Args:
        plan: of the job.
        site: its name.
        events: of its log.
    """
    mine = [e for e in events if e.job == plan.digest]
    opened = any(e.type == "audit.opened" for e in mine)
    for body in [e.body for e in mine if e.type == "audit.extracted"][:1]:
        counts = {
            name: _whole(body[name]) for name in ("trained", "extracted", "others", "guessed", "before")
        }
        if not possible(**counts):
            continue  # the check of audits says so
        yield {
            "site": site,
            "model": body["model"],
            "commitment": body["commitment"],
            **{name: str(value) for name, value in counts.items()},
            **shares(counts["trained"], counts["extracted"], counts["others"], counts["guessed"]),
            "covered": body["covered"],
            "opened": opened,
        }


def _progress(plan: Plan, logs: Logs) -> Iterator[dict[str, Any]]:
    """Each site's epsilon after each round: the total of its ledger."""
    for site in plan.sites:
        totals: dict[int | None, Any] = {
            event.round: event.body["total"]
            for event in logs.get(site.name, ())
            if (event.type, event.job) == ("budget.reserved", plan.digest) and event.round is not None
        }
        before: dict[int | None, Any] = {0: 0.0} if plan.privacy.mode != "off" else {}
        for number, total in (before | totals).items():
            yield {"round": number, "site": site.name, "accuracy": None, "epsilon": total}
