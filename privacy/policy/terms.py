"""A policy: one frozen, validated, canonically encoded value.

Every key must be written, so that nobody has to know what is allowed where nothing is said; an unknown one
is refused. Each key but ``version`` is a rule with that name (``rules``), and something enforces it.
Amounts of time are hours, times of day and dates are UTC.
"""

from __future__ import annotations

import json
import re
from datetime import date
from functools import cached_property
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from cloister.privacy import canonical
from cloister.privacy.clauses import Digest, Name
from cloister.privacy.errors import PolicyError
from cloister.privacy.frozen import Part, Positive
from cloister.privacy.task import Text

EVERY = "*"
"""Stands for all datasets that have no block of their own."""
APPROVERS = ("administrator", "steward", "validator")
"""Roles whose people may approve; a lead and a researcher propose, an auditor looks."""
ACTIONS = ("ignore", "warn", "mask", "refuse")

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_RANGE = re.compile(r"(\d{1,2})-(\d{1,2})")


def _is_date(text: str) -> str:
    if _DATE.fullmatch(text) is None:
        raise ValueError("a date is written YYYY-MM-DD")
    date.fromisoformat(text)
    return text


def _set(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(sorted(set(values)))


def _hours(values: object) -> object:
    """Ranges such as 7-19 as the hours that they span: 7, 8, …, 18."""
    if not isinstance(values, list | tuple):
        return values
    hours: list[object] = []
    for value in values:
        span = _RANGE.fullmatch(value) if isinstance(value, str) else None
        if span is None:
            hours.append(value)
        elif not 0 <= int(span[1]) < int(span[2]) <= 24:
            raise ValueError("hours are ranges such as 7-19, from 0 to 24")
        else:
            hours.extend(range(int(span[1]), int(span[2])))
    return tuple(hours)


Date = Annotated[str, AfterValidator(_is_date)]
Any_: TypeAlias = Literal["any"]
Most = Field(max_length=1000)
Names = Any_ | Annotated[tuple[Name, ...], Most, AfterValidator(_set)]
Digests = Any_ | Annotated[tuple[Digest, ...], Most, AfterValidator(_set)]
Purposes = Any_ | Annotated[tuple[Text, ...], Most, AfterValidator(_set)]
Modes = Annotated[tuple[Literal["local", "joint", "off"], ...], Most, AfterValidator(_set)]
Units = Annotated[tuple[Literal["person", "record"], ...], Most, AfterValidator(_set)]
Roles = Annotated[tuple[Literal["administrator", "steward", "validator"], ...], Most, AfterValidator(_set)]
Days = (
    Any_
    | Annotated[
        tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...], Most, AfterValidator(_set)
    ]
)
Hour = Annotated[int, Field(ge=0, le=23)]
HourSet = Any_ | Annotated[tuple[Hour, ...], Most, BeforeValidator(_hours), AfterValidator(_set)]
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
Amount = Annotated[float, Field(ge=0, le=1e9)]


class Document(Part):
    """A paper that a dataset may be used under, and the last day on which it holds.

    What stands in it is declared by the site, not checked; its digest ties it to the policy.
    """

    digest: Digest
    form: Literal["data-use-agreement", "processor-agreement", "ethics-approval", "permit", "other"]
    until: Date


def documents(values: tuple[Document, ...]) -> tuple[Document, ...]:
    """Each document once, with its earliest end."""
    kept: dict[tuple[str, str], Document] = {}
    for one in sorted(values, key=lambda one: (one.digest, one.form, one.until)):
        kept.setdefault((one.digest, one.form), one)
    return tuple(kept.values())


Documents = Annotated[tuple[Document, ...], Field(max_length=100), AfterValidator(documents)]


class Valid(Part):
    """From which day to which the policy holds; outside, everything is refused."""

    begins: Date
    ends: Date


class Lead(Part):
    """Whose plans are looked at, by the consortium's name and the digest of the lead's keys."""

    consortia: Names
    identities: Digests


class RosterTerms(Part):
    """Whose word counts for the keys of others that nobody compared here: digests of authorities.

    There is no ``any``: everybody can make an authority.
    """

    authorities: Annotated[tuple[Digest, ...], Most, AfterValidator(_set)]


class DatasetTerms(Part):
    """What one dataset may be used for.

    Attributes:
        purposes: the purposes of plans, word for word.
        epsilon: of one job; the ledger holds the total over all jobs.
        jobs_per_day: jobs that may be approved in a day.
        rows_per_person: rows of one person that may count, where the unit is the person.
        min_rows, min_persons: the low ends of the dataset's bands.
        documents: all of them must hold on the day.
    """

    purposes: Purposes
    epsilon: Amount
    jobs_per_day: Count
    rows_per_person: Count
    min_rows: Count
    min_persons: Count
    documents: Documents


class PrivacyTerms(Part):
    """What a plan must promise."""

    modes: Modes
    units: Units
    epsilon: Amount
    delta: Annotated[float, Field(ge=0, lt=1)]
    noise_multiplier: Amount
    bound: Positive


class AggregationTerms(Part):
    """How updates must become one."""

    secure: bool
    minimum_sites: Count
    threshold: Count
    colluding: Count


class ModelTerms(Part):
    """Which base models, by digest, and how many parameters may be trained."""

    base: Digests
    parameters: Count


class CodeTerms(Part):
    """Which code may run, here and at every other party of a plan."""

    digests: Digests


class TrainingTerms(Part):
    """Bounds on hyper-parameters."""

    rounds: Count
    steps: Count
    rate: Annotated[float, Field(ge=0, le=1)]
    head_rate: Amount
    adapter_rate: Amount


class ApprovalTerms(Part):
    """Who must agree.

    Attributes:
        automatic: a plan whose epsilon is at most this needs nobody; 0: every plan needs people.
        people: how many different people must approve.
        roles: whose approvals count.
        separate: the approval of somebody who also proposes (a lead or researcher) does not count.
        signed: only approvals that a person's own key signed count.
        hours: a plan that still waits after so many hours is refused.
    """

    automatic: Amount
    people: Annotated[int, Field(ge=1, le=20)]
    roles: Roles
    separate: bool
    signed: bool
    hours: Count


class TimeTerms(Part):
    """When the site takes part: hours and days in UTC, and for how many hours a job may go on."""

    hours: HourSet
    days: Days
    duration: Count


class IdentifierTerms(Part):
    """What must have become of names, numbers and addresses that a scan of the records finds."""

    action: Literal["ignore", "warn", "mask", "refuse"]


class HeldOutTerms(Part):
    """What becomes of a global model that does so many points worse on held-out rows than one before."""

    points: Annotated[float, Field(ge=0, le=100)]
    action: Literal["ignore", "warn", "refuse"]


class Policy(Part):
    """What a site allows."""

    version: Literal[1]
    valid: Valid
    lead: Lead
    roster: RosterTerms
    datasets: dict[Literal["*"] | Name, DatasetTerms]
    privacy: PrivacyTerms
    aggregation: AggregationTerms
    models: ModelTerms
    code: CodeTerms
    training: TrainingTerms
    approval: ApprovalTerms
    time: TimeTerms
    identifiers: IdentifierTerms
    held_out: HeldOutTerms

    @classmethod
    def of(cls, value: Any) -> Policy:
        """The policy of a JSON value.

        Raises:
            ValidationError: a key is unknown, missing or out of range.
        """
        return cls.model_validate_json(json.dumps(value))

    @classmethod
    def from_bytes(cls, data: bytes) -> Policy:
        """The policy of canonical bytes.

        Raises:
            PolicyError: ``policy_malformed``.
        """
        refusal = PolicyError("policy_malformed", "The policy is not in its canonical form.")
        try:
            policy = cls.of(canonical.decode(data, otherwise=refusal))
        except ValidationError as error:
            raise refusal from error
        if policy.to_bytes() != data:
            raise refusal
        return policy

    def to_bytes(self) -> bytes:
        """The canonical bytes."""
        return canonical.encode(self.model_dump(mode="json"))

    @cached_property
    def digest(self) -> str:
        """The digest of the policy's canonical bytes: however it is commented and laid out."""
        return canonical.digest(self.to_bytes())

    def dataset(self, name: str) -> DatasetTerms | None:
        """The block of a dataset, else that of every dataset; None: it may not be used."""
        return self.datasets.get(name) or self.datasets.get(EVERY)
