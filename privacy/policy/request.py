"""What a decision is about: a plan, and what the site knows at that moment, as one frozen value.

Everything that a rule compares stands in it, the time included, so that a decision can be made again later,
elsewhere, by somebody who has the policy and the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from cloister.privacy import canonical
from cloister.privacy.clauses import Digest, Name, Persons, Rows, Unit
from cloister.privacy.dp import accounting
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.errors import PolicyError
from cloister.privacy.frozen import Part
from cloister.privacy.plan import Plan
from cloister.privacy.task import Text

Role = Literal["lead", "administrator", "steward", "researcher", "auditor", "validator"]
BEYOND = 2e9
"""Stands for every larger epsilon, infinity included; no policy can allow it."""
_FORM = "%Y-%m-%dT%H:%M:%SZ"


def _is_instant(text: str) -> str:
    if instant(moment(text)) != text:
        raise ValueError("a moment is written YYYY-MM-DDTHH:MM:SSZ")
    return text


def moment(text: str) -> datetime:
    """The moment of a text; raises ``ValueError`` for anything else."""
    return datetime.strptime(text, _FORM).replace(tzinfo=UTC)


def instant(at: datetime) -> str:
    """A moment in UTC, to the second."""
    return at.astimezone(UTC).strftime(_FORM)


Instant = Annotated[str, AfterValidator(_is_instant)]


class Approval(Part):
    """That a person agreed.

    Attributes:
        person: who.
        role: in which role.
        at: when.
        signed: whether a key of that person, known at the site, signed it.
        proposes: whether the site knows the person as one who proposes: a lead or a researcher.
    """

    person: Name
    role: Role
    at: Instant
    signed: bool
    proposes: bool


Identifiers = Literal["unscanned", "none", "found", "masked"]
"""What is known of identifiers in the records of a dataset."""


Day = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]


class Endorsed(Part):
    """That an authority signed for a member's keys (``privacy.wire.endorsement``).

    Attributes:
        authority: the digest of the authority's keys.
        statement: the digest of what it signed.
        begins, ends: first and last day on which that holds, in UTC.
    """

    authority: Digest
    statement: Digest
    begins: Day
    ends: Day


class Peer(Part):
    """What the site knows of the keys that a plan names for another party.

    Attributes:
        name: the party.
        identity: the digest of these keys.
        confirmed: whether its words were compared here, or a succession of keys from there was signed.
        endorsed: every verified statement of an authority about exactly these keys.
    """

    name: Name
    identity: Digest
    confirmed: bool = False
    endorsed: Annotated[tuple[Endorsed, ...], Field(max_length=100)] = ()

    def accepted(self, authorities: tuple[str, ...], today: str) -> bool:
        """Whether the keys count under a policy that names these authorities, on a day."""
        return self.confirmed or any(
            one.authority in authorities and one.begins <= today <= one.ends for one in self.endorsed
        )


class Known(Part):
    """What the site knows besides the plan.

    Attributes:
        at: now.
        asked: when the plan came here.
        granted: when it was approved here; None before.
        jobs: the jobs on the dataset that were approved here on the day of this one, itself included.
        identifiers: what a scan of the records for names, numbers and addresses found, and whether those
            are masked.
        approvals: who agreed so far.
        peers: the keys of the plan's other parties; of one that is left out, nothing is known.
    """

    at: Instant
    asked: Instant
    granted: Instant | None = None
    jobs: Annotated[int, Field(ge=1)] = 1
    identifiers: Identifiers = "unscanned"
    approvals: Annotated[tuple[Approval, ...], Field(max_length=10_000)] = ()
    peers: Annotated[tuple[Peer, ...], Field(max_length=1001)] = ()


class Request(Part):
    """Everything that a policy looks at. Figures of privacy are None in a plan without it.

    Attributes:
        epsilon: what the whole plan costs at its delta by this project's own account, or what the plan
            itself says if that is more.
        shared: the digest of the consortium's policy that the plan names, which decides as well.
    """

    version: Literal[1] = 1
    plan: Digest
    site: Name
    consortium: Name
    lead: Digest
    purpose: Text
    dataset: Name
    rows: Rows
    persons: Persons | None
    mode: Literal["local", "joint", "off"]
    unit: Unit
    epsilon: Annotated[float, Field(ge=0)] | None
    delta: Annotated[float, Field(ge=0, lt=1)] | None
    noise_multiplier: Annotated[float, Field(ge=0)] | None
    bound: Annotated[float, Field(gt=0)] | None
    secure: bool
    minimum_sites: int
    threshold: int | None
    colluding: int | None
    base: Digest
    parameters: int
    code: Annotated[tuple[Digest, ...], Field(max_length=1001)]
    rounds: int
    steps: int
    rate: float
    head_rate: float
    adapter_rate: float
    shared: Digest | None
    known: Known

    @classmethod
    def of(cls, plan: Plan, site: str, known: Known) -> Request:
        """What a plan asks of a site.

        Raises:
            PlanError: ``plan_unknown``, the plan does not name the site.
            BudgetError: ``mechanism_unaccountable``.
        """
        known = known.model_copy(update={"peers": _peers(plan, site, known)})
        own, privacy, how, training = plan.site(site), plan.privacy, plan.aggregation, plan.training
        private = privacy.mode != "off"
        return cls(
            plan=plan.digest,
            site=site,
            consortium=plan.consortium,
            lead=plan.lead.identity,
            purpose=plan.purpose,
            dataset=own.dataset,
            rows=own.rows,
            persons=own.persons,
            mode=privacy.mode,
            unit=privacy.unit,
            epsilon=_cost(plan),
            delta=privacy.delta if private else None,
            noise_multiplier=privacy.noise_multiplier if private else None,
            bound=privacy.bound if private else None,
            secure=how.secure,
            minimum_sites=how.minimum_sites,
            threshold=how.threshold,
            colluding=how.colluding,
            base=plan.base.digest,
            parameters=plan.adapter.parameters,
            code=tuple(sorted({party.code for party in (plan.lead, *plan.sites)})),
            rounds=training.rounds,
            steps=training.steps,
            rate=training.rate,
            head_rate=training.head_rate,
            adapter_rate=training.adapter_rate,
            shared=plan.policy,
            known=known,
        )

    @classmethod
    def from_json(cls, value: Any) -> Request:
        """The request of a JSON value; raises ``PolicyError`` ``decision_altered`` for anything else."""
        try:
            return cls.model_validate_json(canonical.encode(value))
        except (ValidationError, ValueError) as error:
            raise PolicyError("decision_altered", "The request of a decision is malformed.") from error

    def to_json(self) -> Mapping[str, Any]:
        """The request as JSON."""
        return self.model_dump(mode="json")

    @cached_property
    def digest(self) -> str:
        """The digest of the request's canonical bytes."""
        return canonical.digest_of(self.to_json())

    def later(self, at: datetime, peers: tuple[Peer, ...] = ()) -> Request:
        """The same request at another moment, with what is known by then of the peers that are given."""
        found = {(peer.name, peer.identity): peer for peer in peers}
        peers = tuple(found.get((one.name, one.identity), one) for one in self.known.peers)
        known = self.known.model_copy(update={"at": instant(at), "peers": peers})
        return Request(**{**{name: getattr(self, name) for name in type(self).model_fields}, "known": known})


def _peers(plan: Plan, site: str, known: Known) -> tuple[Peer, ...]:
    """What is known of exactly the keys that the plan names for the others, in the plan's order."""
    found = {(peer.name, peer.identity): peer for peer in known.peers}
    others = (party for party in (plan.lead, *plan.sites) if party.name != site)
    return tuple(
        found.get((party.name, party.identity)) or Peer(name=party.name, identity=party.identity)
        for party in others
    )


def _cost(plan: Plan) -> float | None:
    mechanism = plan.round_mechanism
    if mechanism is None:
        return None
    cost = max(plan.privacy.epsilon, _epsilon(mechanism, plan.training.rounds, plan.privacy.delta))
    return min(cost, BEYOND)


@lru_cache(maxsize=256)
def _epsilon(mechanism: GaussianSteps, rounds: int, delta: float) -> float:
    return accounting.epsilon([mechanism] * rounds, delta)
