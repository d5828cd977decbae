"""A job that never ran, with evidence that is real: true keys, logs, ledgers, proofs and signatures.

No model is trained: digests of models and updates are made up, everything around them is written by the
code that writes it in a real job. For measuring the verifier, and for trying what it finds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from cloister.client.site.ledger import Ledger
from cloister.privacy import canonical, software
from cloister.privacy.channel.facts import CallerSide, ListenerSide
from cloister.privacy.dp import tails
from cloister.privacy.dp.calibration import noise_multiplier
from cloister.privacy.evidence import recall
from cloister.privacy.evidence.bundle import Contents
from cloister.privacy.evidence.derive import Said
from cloister.privacy.evidence.heads import Growth
from cloister.privacy.evidence.keeping import BEAT_S
from cloister.privacy.evidence.kinds import Audience
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.evidence.part import Part
from cloister.privacy.evidence.vocabulary import IDENTIFIERS
from cloister.privacy.identity import PrivateIdentity, Roster
from cloister.privacy.plan import Plan, Rehearsal
from cloister.privacy.policy import reading
from cloister.privacy.policy.decision import decide
from cloister.privacy.policy.request import Approval, Known, Peer, Request, instant
from cloister.privacy.policy.template import template
from cloister.simulations.played import Played

DATASET = "records"
PAPER = canonical.digest(b"what an ethics committee wrote")
POLICY = reading.read(
    template(date(2026, 1, 1))
    .replace("documents: []", f'documents: [{{digest: "{PAPER}", form: ethics-approval, until: 2026-12-31}}]')
    .encode()
)
"""What every site allows: the policy that a new site starts with, and a paper that must hold."""
_CLOCK: dict[str, Any] = {"state": "synchronised", "source": "service", "error": "100ms"}
_OTHER_JOB = canonical.digest(b"another job of the same parties")
_EPSILON, _DELTA, _STEPS, _RATE = 1.0, 1e-5, 4, 0.05
_BYTES = 60_000


def made_up(*parts: object) -> str:
    """A digest that stands for something that was never made."""
    return canonical.digest("/".join(map(str, parts)).encode())


@dataclass
class Clock:
    """A clock that goes on by ten milliseconds whenever it is read."""

    moment: datetime = field(default_factory=lambda: datetime(2026, 1, 31, 12, tzinfo=UTC))

    def __call__(self) -> datetime:
        """The next moment."""
        self.moment += timedelta(milliseconds=10)
        return self.moment

    def pass_by(self, time: timedelta) -> None:
        """So much later."""
        self.moment += time


@dataclass
class Staged(Played):
    """A finished job of a lead and its sites, under ``POLICY``."""

    policies: dict[str, bytes] = field(default_factory=lambda: {POLICY.digest: POLICY.to_bytes()})

    def contents(self, parts: Sequence[Part] | None = None, audience: Audience = "auditor") -> Contents:
        """What a bundle is made of."""
        return self.told(Said("2026-02-01T12:00:00Z", "60.0"), parts, audience)


def staged(
    folder: Path,
    sites: int = 4,
    rounds: int = 3,
    *,
    witnessed: bool = True,
    sampler: str = "poisson",
    entropy: str = "ratchet",
    away: timedelta | None = None,
) -> Staged:
    """Writes the logs of a job of ``sites`` sites (at least 4) and ``rounds`` rounds (at least 3).

    In round 2 the last site refuses. Every log also holds an event of another job.

    Args:
        folder: an empty one.
        sites: how many.
        rounds: how many.
        witnessed: whether sites countersign the lead's head in every round.
        sampler: how the first site says that it samples.
        entropy: where the first site says that its noise comes from; if ``fixed``, the plan is no simulation.
        away: for how long the lead is gone before the last round, of a plan that is no simulation.
    """
    clock = Clock()
    lead = PrivateIdentity.generate("lead", "lead")
    names = [f"site-{number:02}" for number in range(1, sites + 1)]
    parties = {name: PrivateIdentity.generate(name, "site") for name in names}
    plan = planned(lead, parties, rounds, rehearsal=None if away or entropy == "fixed" else "simulation")
    everybody = {"lead": lead, **parties}
    logs = {name: EventLog.open(folder / name, key, clock=clock) for name, key in everybody.items()}
    play = Play(Staged(plan, lead, parties, logs), folder, witnessed=witnessed, sampler=sampler)
    play.entropy = entropy
    play.meet()
    play.approve()
    model = made_up("model", 0)
    for number in range(1, rounds + 1):
        if away and number == rounds:
            play.come_back(model, clock, away)
        model = play.round(number, model)
    play.end(model)
    return play.staged


def planned(
    lead: PrivateIdentity,
    parties: dict[str, PrivateIdentity],
    rounds: int,
    consortium: str = "staged",
    rehearsal: Rehearsal | None = "simulation",
) -> Plan:
    """The plan of a staged job."""
    roster = Roster(consortium, (lead.public, *(site.public for site in parties.values())))
    code = made_up("code")
    sigma = noise_multiplier(_EPSILON, _DELTA, _RATE, rounds * _STEPS)
    value: dict[str, Any] = {
        "version": 1,
        "consortium": consortium,
        "purpose": "a job that never ran",
        **({"rehearsal": rehearsal} if rehearsal else {}),
        "nonce": hashlib.sha256(b"staged").hexdigest()[:32],
        "roster": roster.digest(),
        "lead": {"name": "lead", "identity": lead.public.digest(), "code": code},
        "sites": [
            {
                "name": name,
                "identity": site.public.digest(),
                "code": code,
                "dataset": DATASET,
                "rows": {"low": 1024, "high": 2047},
            }
            for name, site in parties.items()
        ],
        "base": {"name": "all-MiniLM-L6-v2", "digest": made_up("base"), "max_tokens": 64},
        "task": {"kind": "sequence-classification", "labels": ["calm", "urgent"]},
        "adapter": {
            "kind": "lora",
            "rank": 8,
            "alpha": 16.0,
            "targets": ["query", "value"],
            "top_layers": 1,
            "seed": made_up("seed"),
            "parameters": 14_598,
            "layout": made_up("layout"),
        },
        "training": {
            "algorithm": "fedavg",
            "rounds": rounds,
            "steps": _STEPS,
            "rate": _RATE,
            "optimizer": "sgd",
            "head_rate": 1.0,
            "adapter_rate": 0.1,
            "momentum": 0.9,
        },
        "privacy": {
            "mode": "local",
            "unit": "record",
            "relation": "add-remove",
            "bound": 1.0,
            "noise_multiplier": sigma,
            "epsilon": _EPSILON,
            "delta": _DELTA,
        },
        "aggregation": {
            "secure": True,
            "minimum_sites": len(parties) - 1,
            "range": 4.0,
            "threshold": len(parties) - 1,
            "colluding": 1,
        },
    }
    return Plan.from_bytes(canonical.encode(value))


class Play:
    """Writes what the parties of a job would write."""

    def __init__(self, job: Staged, folder: Path, *, witnessed: bool, sampler: str) -> None:
        self.staged, self.witnessed, self.sampler = job, witnessed, sampler
        self.job, self.names = job.plan.digest, list(job.sites)
        self.ledgers = {name: Ledger(folder / f"{name}.sqlite", job.logs[name]) for name in self.names}
        self.seen: dict[str, Any] = dict.fromkeys(self.names)
        self.up = dict.fromkeys(self.names, 0)
        self.entropy = "ratchet"

    def log(self, name: str, type: str, /, *, round: int | None = None, **fields: Any) -> None:
        """One event of the job."""
        self.staged.logs[name].append(type, job=self.job, round=round, **fields)

    def meet(self) -> None:
        """Keys, certificates, connections and budgets, from before the job."""
        server = made_up("certificate", "lead")
        for name, key in self.staged.sites.items():
            logs, own = self.staged.logs, made_up("certificate", name)
            facts: dict[str, Any] = {
                "route": "consortium",
                "tls": "1.3",
                "group": "X25519MLKEM768",
                "cipher": "not-seen",
            }
            logs["lead"].append("key.enrolled", party=name, identity=key.public.digest(), role="site")
            logs["lead"].append("site.joined", site=name, identity=key.public.digest())
            logs["lead"].append("channel.opened", party=name, local=server, remote=own, **facts)
            logs[name].append("site.joined", site=name, identity=key.public.digest())
            logs[name].append("channel.opened", party="lead", local=own, remote=server, **facts)
            flower = CallerSide("1.3", "TLS_AES_256_GCM_SHA384", server)
            logs[name].append("channel.opened", party="lead", **flower.fields(own))
            served = ListenerSide(name, "1.3", flower.cipher, own)
            logs["lead"].append("channel.opened", party=name, **served.fields(server))
            self.ledgers[name].open_budget(DATASET, "record", _EPSILON, _DELTA)
            logs[name].append("job.refused", job=_OTHER_JOB, reason="site_refused")
            logs[name].append("policy.loaded", policy=POLICY.digest, signers=["steward"])
            for other in self.staged.keys:
                if other.name != name:
                    logs[name].append(
                        "key.confirmed", party=other.name, identity=other.digest(), method="words"
                    )

    def approve(self) -> None:
        """The plan is proposed, approved everywhere, and started."""
        plan = self.staged.plan
        about: dict[str, Any] = {"subject": self.job, "stage": "start", "role": "administrator"}
        proposed: dict[str, Any] = {"base": plan.base.digest, "roster": plan.roster, "code": plan.lead.code}
        self.log("lead", "job.proposed", sites=self.names, **proposed)
        for name in self.names:
            self.log(name, "approval.requested", **about)
            self.decide(name)
            self.log(name, "approval.granted", **about)
            self.open_data(name)
            self.log("lead", "job.accepted", site=name)
        self.begin("lead")
        self.log("lead", "job.started", model=made_up("model", 0), code=plan.lead.code)
        for name in self.names:
            self.begin(name)
            self.log(name, "sum.agreed", sites=self.names)
            self.log(name, "audit.committed", commitment=made_up("coins", name), phantoms=1000, guesses=200)

    def begin(self, name: str) -> None:
        """A party begins: what its clock is, and what it runs on."""
        self.log(name, "clock.status", occasion="job", **_CLOCK)
        self.log(name, "software.recorded", **{**software.running().fields(), "code": made_up("code")})

    def decide(self, name: str) -> None:
        """The site's policy asks for somebody's approval, and allows the job once it is there."""
        plan, at = self.staged.plan, instant(datetime(2026, 1, 31, 12, tzinfo=UTC))
        peers = (Peer(name=m.name, identity=m.digest(), confirmed=True) for m in self.staged.keys)
        asked = Known(at=at, asked=at, peers=tuple(peers))
        person = Approval(person="dana", role="steward", at=at, signed=False, proposes=False)
        for known in (asked, asked.model_copy(update={"approvals": (person,)})):
            request = Request.of(plan, name, known)
            decision = decide(POLICY, request)
            rules = sorted(one.rule for one in decision.deciding)
            said: dict[str, Any] = {"outcome": decision.outcome, "rules": rules}
            self.log(name, "policy.decision", policy=POLICY.digest, request=request.digest, **said)
            self.staged.policies[request.digest] = canonical.encode(request.to_json())
        paper: dict[str, Any] = {"document": PAPER, "form": "ethics-approval", "not_after": "2026-12-31"}
        self.log(name, "consent.recorded", dataset=DATASET, **paper)

    def open_data(self, name: str) -> None:
        """The site reads its records, and its detectors look for identifiers."""
        (rows,) = [site.rows for site in self.staged.plan.sites if site.name == name]
        size: dict[str, Any] = {"rows": f"{rows.low}-{rows.high}", "unit": "record"}
        digests: dict[str, Any] = {
            "columns": made_up("columns", name),
            "commitment": made_up("fingerprint", name),
        }
        self.log(name, "dataset.opened", dataset=DATASET, read=2, **size, **digests)
        found: dict[str, Any] = dict.fromkeys(IDENTIFIERS, "0-15") | {"name": "64-127", "date": "16-31"}
        how: dict[str, Any] = {
            "action": "mask",
            "detector": recall.everything()[-1]["detector"],
            "texts": size["rows"],
        }
        self.log(name, "deid.scan", dataset=DATASET, **how, **found)

    def come_back(self, model: str, clock: Clock, away: timedelta) -> None:
        """The lead's process ends as it should, and after a while another goes on; the sites wait."""
        log, until = self.staged.logs["lead"], clock.moment + away
        log.append("log.stopped")
        while clock.moment < until:
            clock.pass_by(timedelta(seconds=BEAT_S))
            for name in self.names:
                self.staged.logs[name].note("log.heartbeat")
        log.gap("restart")
        log.append("clock.status", occasion="start", **_CLOCK)
        self.begin("lead")
        self.log("lead", "job.resumed", model=model, code=self.staged.plan.lead.code)

    def round(self, number: int, model: str) -> str:
        """One round; the digest of the model after it."""
        refusing = {self.names[-1]} if number == 2 else set()
        there = [name for name in self.names if name not in refusing]
        self.log("lead", "round.opened", round=number, model=model, invited=self.names)
        for name in refusing:
            self.log(name, "incident.raised", round=number, reason="survivor_set_fixed")
            self.log("lead", "update.refused", round=number, site=name, reason="survivor_set_fixed")
        for name in there:
            self.train(name, number, model)
        for name in there:
            self.log(name, "sum.signed", round=number, step=0, survivors=there)
            self.log(name, "sum.opened", round=number, step=0, missing=sorted(refusing))
        self.log("lead", "sum.closed", round=number, step=0, survivors=there, signed=there, opened=there)
        after = made_up("model", number)
        outcome: dict[str, Any] = {"accepted": there, "refused": sorted(refusing), "lost": []}
        self.log("lead", "round.closed", round=number, model=after, **outcome)
        for name in there:
            self.log(name, "update.acknowledged", sealed=made_up("update", name, number))
        if self.witnessed:
            self.witness()
        return after

    def train(self, name: str, number: int, model: str) -> None:
        """What a site does in a round, and what the lead gets of it."""
        plan, sealed = self.staged.plan, made_up("update", name, number)
        mechanism = plan.round_mechanism
        if mechanism is None:
            raise ValueError("a staged job has privacy")
        ledger = self.ledgers[name]
        reservation = ledger.reserve(DATASET, self.job, number, 1, mechanism)
        summary: dict[str, Any] = {
            "mode": "local",
            "unit": "record",
            "mechanism": "gaussian",
            "sampler": self.sampler if name == self.names[0] else "poisson",
        }
        numbers: dict[str, Any] = {"noise_multiplier": mechanism.noise_multiplier, "clip": plan.privacy.bound}
        steps: dict[str, Any] = {"rate": mechanism.rate, "steps": mechanism.steps}
        steps |= {"entropy": self.entropy if name == self.names[0] else "ratchet"}
        self.log(name, "dp.step_summary", round=number, **summary, **numbers, **steps)
        ledger.spend(reservation, [mechanism])
        ledger.release(reservation, sealed)
        self.log(name, "update.sent", round=number, sealed=sealed, bytes=_BYTES, model=model)
        self.log("lead", "update.received", round=number, sealed=sealed, site=name)
        self.up[name] += _BYTES + 1000

    def witness(self) -> None:
        """Every site countersigns the lead's head and writes it down."""
        log, lead = self.staged.logs["lead"], self.staged.lead.public
        head = log.head()
        body: dict[str, Any] = {"size": head.size, "root": "sha256:" + head.root.hex()}
        for name, key in self.staged.sites.items():
            previous = self.seen[name]
            proof = log.consistency(previous.size, head.size) if previous else ()
            signed = Growth(head, previous, proof).countersign(lead, key)
            self.staged.logs[name].append("log.witnessed", party="lead", **body)
            self.seen[name] = head
            log.keep(signed)
        for name in self.names:
            log.append("log.countersigned", witness=name, **body)

    def _audit(self, name: str) -> None:
        """What the phantom units of a job would have shown."""
        delta = self.staged.plan.privacy.delta
        claimed = self.ledgers[name].epsilon(DATASET)
        found: dict[str, Any] = {"correct": 120, "claimed": claimed, "delta": delta, "failed": False}
        bound = tails.epsilon_lower_bound(120, 200, 1000, delta)
        self.log(name, "audit.result", commitment=made_up("coins", name), bound=bound, **found)

    def end(self, model: str) -> None:
        """The final model goes to everybody."""
        for name in self.names:
            self._audit(name)
            self.log(name, "model.received", model=model)
        self.log("lead", "model.released", model=model, recipients=self.names)
        for name in self.names:
            self.log("lead", "traffic.counted", site=name, bytes_up=self.up[name], bytes_down=_BYTES)
        self.log("lead", "job.finished", model=model, rounds=self.staged.plan.training.rounds)
        if self.witnessed:
            self.witness()
