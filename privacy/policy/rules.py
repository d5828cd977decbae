"""The rules: every key of a policy, what it compares, and how it reads to a privacy officer.

A rule has the name of its key. It takes a value from the request, compares it with the limit of the policy
and finds that it holds or not; where a plan has no such value (its epsilon, without privacy) it holds, and
the rule that allows or forbids that kind of plan decides. Five rules together say whose approvals count;
they show in what ``approval.people`` finds. Those of ``held_out`` are not about the plan: the site applies
them to every global model (``client.guard``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from cloister.privacy.policy.limits import ALL_OF, AT_LEAST, AT_MOST, ONE_OF, REQUIRED, Kind, ordered
from cloister.privacy.policy.request import Approval, Request, moment
from cloister.privacy.policy.terms import ACTIONS, ApprovalTerms, Document, Policy, documents

DATASETS = "datasets"
LISTED = "datasets.listed"
"""Found where a dataset has no block."""
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True)
class Rule:
    """One key of a policy.

    Attributes:
        id: the key, with its block.
        kind: how limits compare.
        sentence: says what the rule means; ``{}`` stands for the limit.
        value: what a request holds to the limit, None where there is nothing; absent from rules that are no
            comparison of their own.
    """

    id: str
    kind: Kind
    sentence: str
    value: Callable[[Request], Any] | None = None

    @property
    def path(self) -> tuple[str, str]:
        """Block and key."""
        block, key = self.id.split(".")
        return block, key


def _first_end(values: tuple[Document, ...]) -> str | None:
    return min((one.until for one in values), default=None)


def _documents_hold(today: str, documents: tuple[Document, ...]) -> bool:
    end = _first_end(documents)
    return end is None or today <= end


def _documents_meet(a: tuple[Document, ...], b: tuple[Document, ...]) -> tuple[Document, ...]:
    return documents((*a, *b))


def _today(request: Request) -> str:
    return request.known.at[:10]


@dataclass(frozen=True)
class Stranger:
    """Another party whose keys nobody compared here, and the authorities that vouch for them today."""

    name: str
    authorities: frozenset[str]

    def __str__(self) -> str:
        by = ", ".join(f"{digest[:19]}" for digest in sorted(self.authorities))
        return f"{self.name} (signed by {by})" if by else f"{self.name} (not confirmed)"


def _strangers(request: Request) -> tuple[Stranger, ...]:
    today = _today(request)
    return tuple(
        Stranger(
            peer.name,
            frozenset(one.authority for one in peer.endorsed if one.begins <= today <= one.ends),
        )
        for peer in request.known.peers
        if not peer.confirmed
    )


def _vouched(strangers: tuple[Stranger, ...], limit: tuple[str, ...]) -> bool:
    return all(one.authorities & set(limit) for one in strangers)


def _both(a: tuple[str, ...], b: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({*a} & {*b}))


def _running(request: Request) -> int | None:
    """Hours begun since the job was approved here."""
    granted = request.known.granted
    return None if granted is None else _hours(granted, request.known.at)


def _hours(begin: str, end: str) -> int:
    """Hours begun between two moments: 1 from the first second on, 0 or less where time ran backwards."""
    return (moment(end) - moment(begin)) // timedelta(hours=1) + 1


_NEEDED = {
    "ignore": ("unscanned", "none", "found", "masked"),
    "warn": ("none", "found", "masked"),
    "mask": ("none", "masked"),
    "refuse": ("none",),
}
UNEXPIRED = Kind("documents", _documents_hold, _documents_meet)
VOUCHED = Kind("signed by one of", _vouched, _both)
SCANNED = ordered("action", *ACTIONS, holds=lambda value, limit: value in _NEEDED[limit])
WATCHED = ordered("", "ignore", "warn", "refuse", holds=lambda _value, _limit: True)

RULES: tuple[Rule, ...] = (
    Rule("valid.begins", AT_LEAST, "The policy holds from {}.", _today),
    Rule("valid.ends", AT_MOST, "The policy holds to the end of {}.", _today),
    Rule("lead.consortia", ONE_OF, "Plans of these consortia are looked at: {}.", lambda r: r.consortium),
    Rule("lead.identities", ONE_OF, "Plans of leads with these keys are looked at: {}.", lambda r: r.lead),
    Rule(
        "roster.authorities",
        VOUCHED,
        "Keys of others that nobody compared here count if one of these authorities signed for them: {}.",
        _strangers,
    ),
    Rule("datasets.purposes", ONE_OF, "It may be used for: {}.", lambda r: r.purpose),
    Rule("datasets.epsilon", AT_MOST, "One job may spend epsilon {} at most.", lambda r: r.epsilon),
    Rule("datasets.jobs_per_day", AT_MOST, "{} jobs at most may be approved a day.", lambda r: r.known.jobs),
    Rule(
        "datasets.rows_per_person",
        AT_MOST,
        "Of one person, {} rows at most may count.",
        lambda r: r.persons and r.persons.most_rows,
    ),
    Rule("datasets.min_rows", AT_LEAST, "It must have at least {} rows.", lambda r: r.rows.low),
    Rule(
        "datasets.min_persons",
        AT_LEAST,
        "Where the unit is the person, it must have at least {} persons.",
        lambda r: r.persons and r.persons.low,
    ),
    Rule("datasets.documents", UNEXPIRED, "These documents must not have ended: {}.", _today),
    Rule("privacy.modes", ONE_OF, "Privacy must be one of: {}.", lambda r: r.mode),
    Rule("privacy.units", ONE_OF, "The unit of privacy must be one of: {}.", lambda r: r.unit),
    Rule("privacy.epsilon", AT_MOST, "A whole plan may spend epsilon {} at most.", lambda r: r.epsilon),
    Rule("privacy.delta", AT_MOST, "Its delta may be {} at most.", lambda r: r.delta),
    Rule(
        "privacy.noise_multiplier",
        AT_LEAST,
        "The noise multiplier of a step must be at least {}.",
        lambda r: r.noise_multiplier,
    ),
    Rule("privacy.bound", AT_MOST, "The clipping bound may be {} at most.", lambda r: r.bound),
    Rule("aggregation.secure", REQUIRED, "Secure aggregation is required: {}.", lambda r: r.secure),
    Rule(
        "aggregation.minimum_sites",
        AT_LEAST,
        "A round must have at least {} sites.",
        lambda r: r.minimum_sites,
    ),
    Rule(
        "aggregation.threshold",
        AT_LEAST,
        "Where aggregation is secure, at least {} sites must sign a survivor set.",
        lambda r: r.threshold,
    ),
    Rule(
        "aggregation.colluding",
        AT_LEAST,
        "Where aggregation is secure, it must hold against at least {} sites that act together.",
        lambda r: r.colluding,
    ),
    Rule("models.base", ONE_OF, "These base models may be trained: {}.", lambda r: r.base),
    Rule("models.parameters", AT_MOST, "At most {} parameters may be trained.", lambda r: r.parameters),
    Rule("code.digests", ALL_OF, "All parties must run code of these digests: {}.", lambda r: list(r.code)),
    Rule("training.rounds", AT_MOST, "A plan may have {} rounds at most.", lambda r: r.rounds),
    Rule("training.steps", AT_MOST, "A round may have {} steps at most.", lambda r: r.steps),
    Rule("training.rate", AT_MOST, "A step may sample at most this fraction: {}.", lambda r: r.rate),
    Rule("training.head_rate", AT_MOST, "The head's learning rate may be {} at most.", lambda r: r.head_rate),
    Rule(
        "training.adapter_rate",
        AT_MOST,
        "The adapter's learning rate may be {} at most.",
        lambda r: r.adapter_rate,
    ),
    Rule("approval.automatic", AT_MOST, "A plan that spends epsilon {} at most needs nobody's approval."),
    Rule("approval.people", AT_LEAST, "Any other plan needs the approval of this many people: {}."),
    Rule("approval.roles", ONE_OF, "Approvals count in these roles: {}."),
    Rule("approval.separate", REQUIRED, "Approvals of people who also propose plans do not count: {}."),
    Rule("approval.signed", REQUIRED, "Approvals must be signed by the person's own key: {}."),
    Rule("approval.hours", AT_MOST, "A plan that was not approved within {} hours is refused."),
    Rule(
        "time.hours",
        ONE_OF,
        "The site takes part in these hours of the day (UTC): {}.",
        lambda r: int(r.known.at[11:13]),
    ),
    Rule(
        "time.days",
        ONE_OF,
        "The site takes part on these days: {}.",
        lambda r: _DAYS[moment(r.known.at).weekday()],
    ),
    Rule("time.duration", AT_MOST, "A job may go on for {} hours after its approval.", _running),
    Rule(
        "identifiers.action",
        SCANNED,
        "What a scan for names, numbers and addresses finds: {}.",
        lambda r: r.known.identifiers,
    ),
    Rule("held_out.points", AT_MOST, "A global model may do {} points worse here than one before."),
    Rule("held_out.action", WATCHED, "One that does worse still: {}."),
)
RULE_IDS = frozenset({LISTED, *(rule.id for rule in RULES)})
BY_ID: Mapping[str, Rule] = {rule.id: rule for rule in RULES}


def limits(policy: Policy, dataset: str | None = None) -> Iterator[tuple[Rule, Any]]:
    """Every rule with the limit that a policy sets; those of datasets for the one that is named only."""
    terms = policy.dataset(dataset) if dataset is not None else None
    for rule in RULES:
        block, key = rule.path
        if block != DATASETS:
            yield rule, getattr(getattr(policy, block), key)
        elif terms is not None:
            yield rule, getattr(terms, key)


def counting(terms: ApprovalTerms, request: Request) -> tuple[Approval, ...]:
    """The approvals that count, one of each person: the first."""
    found: dict[str, Approval] = {}
    for approval in sorted(request.known.approvals, key=lambda one: (one.at, one.person, one.role)):
        if _counts(terms, approval, request):
            found.setdefault(approval.person, approval)
    return tuple(found.values())


def _counts(terms: ApprovalTerms, approval: Approval, request: Request) -> bool:
    return (
        approval.role in terms.roles
        and (approval.signed or not terms.signed)
        and not (approval.proposes and terms.separate)
        and 1 <= _hours(request.known.asked, approval.at) <= terms.hours
    )


def needed(terms: ApprovalTerms, request: Request) -> int:
    """How many people must approve."""
    small = request.epsilon is not None and request.epsilon <= terms.automatic
    return 0 if small else terms.people


def waited(request: Request) -> int:
    """Hours begun since the plan came."""
    return _hours(request.known.asked, request.known.at)
