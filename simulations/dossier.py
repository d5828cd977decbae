"""The evidence value of a demo: what its report is rendered from, gathered from every party's folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from cloister.client.site.datasets import Datasets
from cloister.privacy import canonical
from cloister.privacy.evidence.events import Event
from cloister.privacy.evidence.log import EventLog
from cloister.simulations import demo
from cloister.simulations.outcome import Outcome, audit, epsilon, rounded_up


def gather(outcome: Outcome, test_rows: int) -> dict[str, Any]:
    """The evidence of a finished demo, as JSON (``privacy.evidence.evidence``)."""
    run, plan = outcome.run, outcome.run.plan
    lead_log = list(run.lead.log.entries())
    progress = run.job.progress
    return {
        "version": 1,
        "kind": "demo",
        "job": plan.digest,
        "consortium": plan.consortium,
        "purpose": plan.purpose,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "plan": canonical.decode(plan.to_bytes()),
        "parties": [
            {"name": m.name, "role": m.role, "identity": m.digest(), "words": list(m.words())}
            for m in run.lead.enrolment.roster.members
        ],
        "rounds": list(_rounds(lead_log, plan.digest)),
        "privacy": [_guarantee(outcome, name) for name in run.sites],
        "traffic": [
            {"site": name, "bytes_up": str(moved["up"]), "bytes_down": str(moved["down"])}
            for name, moved in progress["traffic"].items()
        ],
        "channels": list(_channels(lead_log, set(run.sites))),
        "accuracy": _accuracy(outcome, test_rows),
        "progress": list(_progress(outcome)),
        "model": {
            "digest": progress["model"],
            "parameters": str(plan.adapter.parameters),
            "base": plan.base.name,
            "base_digest": plan.base.digest,
        },
        "logs": [_log(name, log) for name, log in _logs(outcome)],
        "seconds": f"{run.seconds:.1f}",
        "peak_memory": str(outcome.peak_memory),
    }


def _rounds(events: list[Event], job: str) -> Iterator[dict[str, Any]]:
    """Closed rounds, with the reasons of those who did not contribute."""
    reasons = {
        (e.round, e.body["site"], e.type): e.body["reason"]
        for e in events
        if e.job == job and e.type in ("site.lost", "update.refused")
    }
    started = {e.round: e.body["model"] for e in events if e.job == job and e.type == "round.opened"}
    for event in events:
        if event.type == "round.aborted" and event.job == job:
            yield _aborted(event, started[event.round])
        if event.type != "round.closed" or event.job != job:
            continue
        yield {
            "round": event.round,
            "accepted": event.body["accepted"],
            "model": event.body["model"],
            **{
                outcome: [
                    {"site": site, "reason": reasons.get((event.round, site, type_), "internal")}
                    for site in _names(event.body[outcome])
                ]
                for outcome, type_ in (("refused", "update.refused"), ("lost", "site.lost"))
            },
        }


def _aborted(event: Event, model: Any) -> dict[str, Any]:
    """A round whose sum could not be opened: nobody contributed, and the model stayed what it was."""
    everybody = [*_names(event.body["accepted"]), *_names(event.body["refused"]), *_names(event.body["lost"])]
    absences = [{"site": site, "reason": event.body["reason"]} for site in sorted(everybody)]
    return {"round": event.round, "accepted": [], "refused": [], "lost": absences, "model": model}


def _names(value: Any) -> list[str]:
    return [str(name) for name in value]


def _channels(events: list[Event], sites: set[str]) -> Iterator[dict[str, Any]]:
    """The newest connection of each site, as the lead's end saw it."""
    newest: dict[str, Mapping[str, Any]] = {}
    for event in events:
        if event.type == "channel.opened" and event.body.get("party") in sites:
            newest[str(event.body["party"])] = event.body
    for site, body in newest.items():
        yield {
            "site": site,
            "tls": body["tls"],
            "group": body["group"],
            "site_certificate": body.get("remote"),
            "lead_certificate": body.get("local"),
        }


def _guarantee(outcome: Outcome, name: str) -> dict[str, Any]:
    run, privacy = outcome.run, outcome.run.plan.privacy
    value: dict[str, Any] = {"site": name, "mode": privacy.mode, "unit": privacy.unit}
    if privacy.mode == "off":
        missing = ("epsilon", "delta", "budget", "accountants", "steps", "noise_multiplier", "rate", "bound")
        return value | dict.fromkeys(missing)
    found, training = epsilon(run, name), run.plan.training
    (budget,) = Datasets(run.sites[name]).ledger.budgets()
    return value | {
        "epsilon": rounded_up(found["value"]),
        "delta": f"{privacy.delta:g}",
        "budget": f"{budget.epsilon:g}",
        "accountants": {key: rounded_up(number) for key, number in found["accountants"].items()},
        "steps": str(found["rounds_charged"] * training.steps),
        "noise_multiplier": f"{privacy.noise_multiplier:g}",
        "rate": f"{training.rate:g}",
        "bound": f"{privacy.bound:g}",
        "outside": rounded_up(found["outside"]) if "outside" in found else None,
        "audit": audit(run, name),
    }


def _accuracy(outcome: Outcome, test_rows: int) -> dict[str, Any]:
    base = outcome.baselines
    return {
        "test_rows": str(test_rows),
        "federated": outcome.federated,
        "pooled": base.pooled.plain,
        "pooled_private": base.pooled.private,
        "tfidf": base.tfidf,
        "worst_site": {"name": outcome.worst_site, "accuracy": outcome.own[outcome.worst_site]},
        "sites": [
            {
                "name": name,
                "local_only": pair.plain,
                "local_only_private": pair.private,
                "federated": outcome.federated,
                "test_rows": None,
            }
            for name, pair in base.alone.items()
        ],
    }


def _progress(outcome: Outcome) -> Iterator[dict[str, Any]]:
    """Each site's own accuracy round by round, and its ledger's total after each."""
    run = outcome.run
    for name, site in run.sites.items():
        rows = Datasets(site).ledger.rows(demo.DATASET)
        totals = {row.reservation.round: row.total for row in rows if row.kind == "reserved"}
        for line in demo.site_progress(site, run.plan):
            number = line["round"]
            private = run.plan.privacy.mode != "off"
            yield {
                "round": number,
                "site": name,
                "accuracy": line["accuracy"],
                "epsilon": (totals.get(number) if number else 0.0) if private else None,
            }


def _logs(outcome: Outcome) -> Iterator[tuple[str, EventLog]]:
    run = outcome.run
    yield run.plan.lead.name, run.lead.log
    yield from ((name, site.log) for name, site in run.sites.items())


def _log(name: str, log: EventLog) -> dict[str, Any]:
    head = log.head()
    return {"writer": name, "size": str(head.size), "root": "sha256:" + head.root.hex()}
