"""What a report is rendered from: one frozen value, ``evidence.json``.

Every number that is only printed is a string already, so that its text cannot depend on the program
that reads it. Numbers that are plotted (accuracies, progress) are numbers. Whoever writes an epsilon
as a string rounds it up.

Formal guarantees:
    ``Evidence.from_json`` returns only values in which the job is the digest of the plan, consortium,
    purpose, kind, base model, parties, privacy mode and unit are those of the plan, every fingerprint's
    words belong to its digest, and every site whose update was accepted has a privacy statement.
    It checks no signature, and not that anything recorded is true.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from mnemonic import Mnemonic
from pydantic import Field, ValidationError, model_validator

from cloister.privacy import canonical
from cloister.privacy.clauses import Digest, Name, Unit
from cloister.privacy.dp import tails
from cloister.privacy.dp.membership import MOST_TRIALS
from cloister.privacy.errors import InputError
from cloister.privacy.evidence import sums
from cloister.privacy.evidence.clocks import Clocked
from cloister.privacy.evidence.datasets import Opened
from cloister.privacy.evidence.extraction import Extraction
from cloister.privacy.evidence.happenings import Cited, Consented, Decided, Incident, Source
from cloister.privacy.evidence.kinds import Audience, Day, Group, Moment, Number, Reason, Share, Whole
from cloister.privacy.evidence.ledgers import Account
from cloister.privacy.evidence.software import Ran
from cloister.privacy.evidence.sums import Summed
from cloister.privacy.frozen import Part
from cloister.privacy.plan import Plan
from cloister.privacy.task import Text

MOST_PHANTOMS = 100_000


@lru_cache(maxsize=1024)
def lower_bound(correct: int, guesses: int, phantoms: int, delta: float) -> str:
    """The pipeline lower bound as it is printed: three decimals, rounded down."""
    bound = tails.epsilon_lower_bound(correct, guesses, phantoms, delta)
    return f"{math.floor(bound * 1000) / 1000:.3f}"


class Member(Part):
    """A party: the digest of its keys, and the same fingerprint as words.

    Attributes:
        sealing: digest of that of its keys which messages of the job are sealed for, raw as ``hpke`` in
            ``keys.json``.
    """

    name: Name
    role: Literal["lead", "site"]
    identity: Digest
    sealing: Digest
    words: Annotated[tuple[str, ...], Field(min_length=12, max_length=12)]

    @model_validator(mode="after")
    def _words_belong(self) -> Self:
        if " ".join(self.words) != Mnemonic("english").to_mnemonic(canonical.raw(self.identity)[:16]):
            raise ValueError("the words are not those of the digest")
        return self


class Absence(Part):
    """A site that did not contribute to a round, and the error id that says why."""

    site: Name
    reason: Reason


class Round(Part):
    """A closed round: who contributed, who did not, and the digest of the model after it."""

    round: Annotated[int, Field(ge=1)]
    accepted: tuple[Name, ...]
    refused: tuple[Absence, ...]
    lost: tuple[Absence, ...]
    model: Digest


class Accountants(Part):
    """Epsilon by accountant; ``rdp`` rules. None: that accountant was not run."""

    rdp: Number
    pld: Number | None
    prv: Number | None


class Audited(Part):
    """What the phantom units of a job showed at a site (``privacy.dp.audit``).

    Attributes:
        commitment: to the coins, from the site's log before its first step.
        correct: right guesses, of ``guesses``.
        claimed: the ruling epsilon of the job's steps.
        bound: the pipeline lower bound at 95 % confidence, rounded down.
        failed: whether a check of noise, sampling or clipping failed, which ended the job at the site.
    """

    commitment: Digest
    phantoms: Whole
    guesses: Whole
    correct: Whole
    claimed: Number
    bound: Number
    failed: bool = False

    @property
    def refuted(self) -> bool:
        """Whether the guesses refute what is claimed."""
        return float(self.bound) > float(self.claimed)


class Guarantee(Part):
    """What a site's releases in this job amount to.

    Attributes:
        epsilon, delta: of everything that the site let out in this job; None without privacy.
        budget: the limit of the site's ledger for the dataset.
        steps: noised steps that were charged.
        noise_multiplier, rate, bound: of one step.
        outside: in joint mode, epsilon against whoever knows no site's share of the noise; else None.
        sampler, entropy: how units were drawn and where noise came from, by the site's log; ``mixed`` where
            that was not the same in all rounds, None where it says nothing.
        audit: of the pipeline; None where there was none or the site did not finish the job.
    """

    site: Name
    mode: Literal["local", "joint", "off"]
    unit: Unit
    epsilon: Number | None
    delta: Number | None
    budget: Number | None
    accountants: Accountants | None
    steps: Whole | None
    noise_multiplier: Number | None
    rate: Number | None
    bound: Number | None
    outside: Number | None = None
    sampler: Literal["poisson", "full-batch", "shuffled", "mixed"] | None = None
    entropy: Literal["ratchet", "fixed", "mixed"] | None = None
    audit: Audited | None = None

    @model_validator(mode="after")
    def _audit_adds_up(self) -> Self:
        if self.audit is None:
            return self
        audit, counts = self.audit, (self.audit.correct, self.audit.guesses, self.audit.phantoms)
        correct, guesses, phantoms = map(int, counts)
        if self.delta is None or not correct <= guesses <= phantoms <= MOST_PHANTOMS:
            raise ValueError("the audit cannot be one of this job")
        if audit.bound != lower_bound(correct, guesses, phantoms, float(self.delta)):
            raise ValueError("the audit's bound does not follow from its guesses")
        return self

    @model_validator(mode="after")
    def _whole_or_nothing(self) -> Self:
        promised = (self.epsilon, self.delta, self.budget, self.accountants, self.noise_multiplier)
        if self.mode == "off" and any(value is not None for value in promised):
            raise ValueError("without privacy, epsilon, delta, budget, accountants and noise are null")
        if self.mode != "off" and None in (*promised, self.steps, self.rate, self.bound):
            raise ValueError("with privacy, every field has a value")
        if (self.outside is not None) != (self.mode == "joint"):
            raise ValueError("an epsilon against outsiders belongs to joint mode, and to it alone")
        return self


class Attack(Part):
    """What an attack on the finished model found at a site (``privacy.dp.membership``).

    Attributes:
        attack: on ``canaries`` that the site made up, or on its own units (``membership``).
        model: digest of the model that was attacked.
        commitment: to the canaries, from the site's log before its first step; None for its own units.
        trials: units whose membership fair coins decided.
        correct: right guesses, of ``guesses``.
        claimed: the epsilon that covers the model; None without privacy.
        delta: at which the bound holds.
        bound: the lower bound at 95 % confidence, rounded down.
        auc, accused, found, exposure: of ``membership.Separation``; None where there were too few units.
        covered: whether these figures are covered by the job's epsilon.
        opened: whether the canaries and the guesses are shown, so that the number of right ones follows.
    """

    site: Name
    attack: Literal["canaries", "membership"]
    model: Digest
    commitment: Digest | None
    trials: Whole
    guesses: Whole
    correct: Whole
    claimed: Number | None
    delta: Number
    bound: Number
    auc: Number | None
    accused: Number | None
    found: Number | None
    exposure: Number | None
    covered: bool
    opened: bool = False

    @property
    def refuted(self) -> bool:
        """Whether the guesses refute what is claimed."""
        return self.claimed is not None and float(self.bound) > float(self.claimed)

    @property
    def most(self) -> str:
        """The bound if every guess had been right."""
        return lower_bound(int(self.guesses), int(self.guesses), int(self.trials), float(self.delta))

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        correct, guesses, trials = map(int, (self.correct, self.guesses, self.trials))
        if not correct <= guesses <= trials <= MOST_TRIALS or not float(self.delta) < 1:
            raise ValueError("an attack's guesses cannot be those of one")
        if self.bound != lower_bound(correct, guesses, trials, float(self.delta)):
            raise ValueError("an attack's bound does not follow from its guesses")
        return self


class Traffic(Part):
    """Bytes of sealed messages that a site sent to the lead (up) and got from it (down)."""

    site: Name
    bytes_up: Whole
    bytes_down: Whole


class ChannelEnd(Part):
    """A connection between a site and the lead, as one end of it wrote it down.

    Attributes:
        cipher: None in evidence that does not say.
    """

    tls: Literal["1.3", "1.2", "not-seen"]
    group: Group
    site_certificate: Digest | None
    lead_certificate: Digest | None
    cipher: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")] | None = None


class Channel(ChannelEnd):
    """A site's connection to the consortium service, as the lead's end saw it.

    Attributes:
        seen_at_site: the same connection, as the site's end wrote it down; None where it did not.
        flower, flower_at_lead: both ends of its connection to Flower; likewise. Neither sees the group.
        until: the last day of the site's certificate, as the lead's log says that it was issued.
    """

    site: Name
    until: Day | None = None
    seen_at_site: ChannelEnd | None = None
    flower: ChannelEnd | None = None
    flower_at_lead: ChannelEnd | None = None

    @property
    def met(self) -> bool:
        """Whether both ends wrote the same."""
        own = ChannelEnd(**{name: getattr(self, name) for name in ChannelEnd.model_fields})
        return self.seen_at_site == own


class SiteAccuracy(Part):
    """Accuracies of one row are on the same test records.

    Attributes:
        test_rows: how many these are, where they are not the common test set.
        local_only, local_only_private: trained at the site alone, without and with the plan's privacy.
        federated: the final global model.
    """

    name: Name
    local_only: Share | None
    local_only_private: Share | None
    federated: Share | None
    test_rows: Whole | None = None


class WorstSite(Part):
    """The site on whose own test records the final model is right least often."""

    name: Name
    accuracy: Share


class Accuracy(Part):
    """Shares of right answers on ``test_rows`` common test records. None of it is covered by epsilon.

    Attributes:
        federated: the final global model.
        pooled, pooled_private: trained on all records in one place, without and with the plan's privacy.
        tfidf: TF-IDF and logistic regression on all records in one place, without privacy.
    """

    test_rows: Whole
    federated: Share
    pooled: Share | None
    pooled_private: Share | None
    tfidf: Share | None
    worst_site: WorstSite | None
    sites: tuple[SiteAccuracy, ...]


class Point(Part):
    """A site after a round, for plots; what was not measured is null.

    Attributes:
        accuracy: of the global model, on the site's own test records.
        epsilon: what the site's ledger had charged for the job by then.
    """

    round: Annotated[int, Field(ge=0)]
    site: Name
    accuracy: Share | None
    epsilon: Annotated[float, Field(ge=0)] | None


class Released(Part):
    """The final model and what it builds on."""

    digest: Digest
    parameters: Whole
    base: Text
    base_digest: Digest


class Log(Part):
    """A party's event log: how many events it holds, and the root of the Merkle tree over them."""

    writer: Name
    size: Whole
    root: Digest


class Evidence(Part):
    """All that a report says, before it is put into words.

    Attributes:
        kind: what the plan is a rehearsal of, or a federation; whatever is made of a rehearsal is marked.
        audience: who the bundle is for that it stands in, which decides how much of policies is in it.
    """

    version: Literal[1]
    kind: Literal["demo", "federation", "simulation"]
    audience: Audience
    job: Digest
    consortium: Name
    purpose: Text
    created: Moment
    plan: Plan
    parties: tuple[Member, ...]
    rounds: tuple[Round, ...]
    privacy: tuple[Guarantee, ...]
    traffic: tuple[Traffic, ...]
    channels: tuple[Channel, ...]
    accuracy: Accuracy | None
    progress: tuple[Point, ...]
    model: Released
    logs: tuple[Log, ...]
    consents: tuple[Consented, ...]
    decisions: tuple[Decided, ...]
    incidents: tuple[Incident, ...]
    sources: tuple[Source, ...]
    cited: tuple[Cited, ...]
    seconds: Number
    peak_memory: Whole | None
    attacks: tuple[Attack, ...] = ()
    extractions: tuple[Extraction, ...] = ()
    clocks: tuple[Clocked, ...] = ()
    datasets: tuple[Opened, ...] = ()
    sums: tuple[Summed, ...] = ()
    ledgers: tuple[Account, ...] = ()
    software: tuple[Ran, ...] = ()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The evidence of a JSON object.

        Raises:
            InputError: ``evidence_malformed``, naming the field, never its value.
        """
        try:
            return cls.model_validate_json(canonical.encode(dict(value)))
        except ValidationError as error:
            first: Any = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "evidence"
            raise _malformed(f"{place}: {first['msg']}") from error
        except (ValueError, RecursionError) as error:
            raise _malformed("it is not JSON") from error

    def to_json(self) -> dict[str, Any]:
        """The same value as JSON."""
        return self.model_dump(mode="json")

    @model_validator(mode="after")
    def _is_about_the_plan(self) -> Self:
        plan = self.plan
        stated = (self.job, self.consortium, self.purpose)
        if stated != (plan.digest, plan.consortium, plan.purpose):
            raise ValueError("job, consortium and purpose are not those of the plan")
        if self.kind != (plan.rehearsal or "federation"):
            raise ValueError("whether it is a rehearsal is not what the plan says")
        model = (self.model.base, self.model.base_digest, self.model.parameters)
        if model != (plan.base.name, plan.base.digest, str(plan.adapter.parameters)):
            raise ValueError("base model or number of parameters is not that of the plan")
        named = {("lead", plan.lead.name, plan.lead.identity)}
        named |= {("site", site.name, site.identity) for site in plan.sites}
        found = [(member.role, member.name, member.identity) for member in self.parties]
        if len(found) != len(named) or set(found) != named:
            raise ValueError("the parties are not those of the plan")
        return self

    @model_validator(mode="after")
    def _names_are_sites(self) -> Self:
        sites = {site.name for site in self.plan.sites}
        for names in self._lists_of_sites():
            if len(set(names)) != len(names) or not sites.issuperset(names):
                raise ValueError("a list names a site twice, or one that is not in the plan")
        points = {(point.round, point.site) for point in self.progress}
        if len(points) != len(self.progress) or not sites.issuperset(site for _, site in points):
            raise ValueError("the progress names a site twice, or one that is not in the plan")
        if len({one.party for one in self.software}) != len(self.software):
            raise ValueError("what a party ran on stands twice")
        if not {log.writer for log in self.logs} <= {*sites, self.plan.lead.name}:
            raise ValueError("a log is of nobody in the plan")
        if not all(a.round < b.round for a, b in pairwise(self.rounds)):
            raise ValueError("the rounds are not in order")
        sums.check(self.plan, self.sums)
        return self

    @model_validator(mode="after")
    def _privacy_is_stated(self) -> Self:
        if any(stated.mode != self.plan.privacy.mode for stated in self.privacy):
            raise ValueError("the mode of privacy is not that of the plan")
        if any(stated.unit != self.plan.privacy.unit for stated in self.privacy):
            raise ValueError("the unit of privacy is not that of the plan")
        if not {name for done in self.rounds for name in done.accepted} <= {s.site for s in self.privacy}:
            raise ValueError("a site whose update was accepted has no privacy statement")
        return self

    @model_validator(mode="after")
    def _attacks_are_on_the_model(self) -> Self:
        claims = {stated.site: stated.outside or stated.epsilon for stated in self.privacy}
        for one in self.attacks:
            if one.site not in claims or one.claimed != claims[one.site]:
                raise ValueError("an attack is held to another claim than its site's")
        drawn = [one.site for one in self.extractions]
        if len({*drawn}) != len(drawn) or not claims.keys() >= {*drawn}:
            raise ValueError("an extraction of a site stands twice, or is of none")
        if len({(one.site, one.attack) for one in self.attacks}) != len(self.attacks):
            raise ValueError("an attack of a site stands twice")
        return self

    @model_validator(mode="after")
    def _events_are_listed(self) -> Self:
        listed = [one.event for one in self.cited]
        repeated: tuple[Decided | Incident, ...] = (*self.decisions, *self.incidents)
        named = [event for one in self.sources for event in one.events]
        named += [
            event for one in (*repeated, *self.clocks, *self.sums, *self.ledgers) for event in one.events
        ]
        named += [one.event for one in self.consents]
        if len(set(listed)) != len(listed) or set(listed) != set(named):
            raise ValueError("the events that are cited are not those that the entries name")
        if len({one.about for one in self.sources}) != len(self.sources):
            raise ValueError("the sources name something twice")
        parties = {self.plan.lead.name, *(site.name for site in self.plan.sites)}
        writers = {event.partition("/")[0].partition("@")[0] for event in listed}
        told = {one.party for one in (*repeated, *self.consents, *self.clocks, *self.software)}
        if not writers | told <= parties:
            raise ValueError("an event is of nobody in the plan")
        return self

    def _lists_of_sites(self) -> Iterable[list[str]]:
        yield [stated.site for stated in self.privacy]
        yield [moved.site for moved in self.traffic]
        yield [seen.site for seen in self.channels]
        yield [opened.site for opened in self.datasets]
        yield [kept.site for kept in self.ledgers]
        yield from sums.lists(self.sums)
        for done in self.rounds:
            yield [*done.accepted, *(absence.site for absence in (*done.refused, *done.lost))]
        if self.accuracy:
            yield [site.name for site in self.accuracy.sites]
            yield [self.accuracy.worst_site.name] if self.accuracy.worst_site else []


def _malformed(why: str) -> InputError:
    return InputError(
        "evidence_malformed", f"The evidence cannot be used: {why}.", "Take it from the run that made it."
    )
