"""A decision: what a policy says to a request, rule by rule. Pure, so anybody can make it again.

The outcomes are ``refuse`` < ``ask`` < ``allow``; a decision is as strict as the strictest of its findings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from cloister.privacy import canonical
from cloister.privacy.canonical import Json
from cloister.privacy.errors import PolicyError
from cloister.privacy.plan import Digest, Part
from cloister.privacy.policy import rules
from cloister.privacy.policy.request import Request
from cloister.privacy.policy.rules import BY_ID, LISTED
from cloister.privacy.policy.terms import Document, Policy

Outcome = Literal["refuse", "ask", "allow"]
ORDER: tuple[Outcome, ...] = ("refuse", "ask", "allow")
Shown = str | int | float | bool | tuple[str | int, ...] | None
"""A value or a limit as it is read and compared: numbers stay numbers."""


class Finding(Part):
    """What one rule found."""

    rule: Annotated[str, Field(pattern=r"^[a-z_]{1,40}\.[a-z_]{1,40}$")]
    outcome: Outcome
    value: Shown
    limit: Shown

    def line(self) -> str:
        """The finding for a person: the rule, the value and the limit."""
        rule = BY_ID.get(self.rule)
        if rule is None:
            return f"{self.rule}: the policy has no block for the dataset {self.value}"
        words = rule.kind.words
        return f"{self.rule}: {shown(self.value)}, where the policy has {words} {shown(self.limit)}"


class Decision(Part):
    """What a policy says to a request."""

    version: Literal[1] = 1
    policy: Digest
    request: Digest
    findings: Annotated[tuple[Finding, ...], Field(max_length=100)]
    outcome: Outcome

    @property
    def deciding(self) -> tuple[Finding, ...]:
        """The findings that made it stricter than ``allow``, the strictest only."""
        return tuple(one for one in self.findings if one.outcome == self.outcome != "allow")

    def to_json(self) -> dict[str, Any]:
        """The decision as JSON."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, value: Json) -> Decision:
        """The decision of a JSON value; raises ``PolicyError`` ``decision_altered`` for anything else."""
        try:
            return cls.model_validate_json(canonical.encode(value))
        except (ValidationError, ValueError) as error:
            raise PolicyError("decision_altered", "A decision is malformed.") from error


def decide(policy: Policy, request: Request) -> Decision:
    """What ``policy`` says to ``request``."""
    findings = tuple(_findings(policy, request))
    outcome = min((one.outcome for one in findings), key=ORDER.index)
    return Decision(policy=policy.digest, request=request.digest, findings=findings, outcome=outcome)


def replay(policy: Policy, request: Request, decision: Decision) -> None:
    """Makes a decision again.

    Raises:
        PolicyError: ``decision_altered``, it is not what this policy says to this request.
    """
    if decide(policy, request) != decision:
        raise PolicyError(
            "decision_altered",
            f"The decision on {request.plan[7:19]} is not what its policy says to its request.",
            "One of the three was changed after the decision; compare their digests with the event log.",
        )


def _findings(policy: Policy, request: Request) -> Iterator[Finding]:
    if policy.dataset(request.dataset) is None:
        yield Finding(rule=LISTED, outcome="refuse", value=request.dataset, limit=None)
    for rule, limit in rules.limits(policy, request.dataset):
        if rule.value is not None:
            value = rule.value(request)
            holds = value is None or rule.kind.holds(value, limit)
            yield _finding(rule.id, "allow" if holds else "refuse", value, limit)
    yield from _approvals(policy, request)


def _approvals(policy: Policy, request: Request) -> Iterator[Finding]:
    """Whether enough people agreed, and, if not, whether there is time left to."""
    terms = policy.approval
    people, needed = len(rules.counting(terms, request)), rules.needed(terms, request)
    enough, waited = people >= needed, rules.waited(request)
    in_time = enough or waited <= terms.hours
    yield _finding("approval.people", "allow" if enough else "ask", people, needed)
    yield _finding("approval.hours", "allow" if in_time else "refuse", waited, terms.hours)


def _finding(rule: str, outcome: Outcome, value: Any, limit: Any) -> Finding:
    return Finding(rule=rule, outcome=outcome, value=_plain(value), limit=_plain(limit))


def _plain(value: Any) -> Any:
    """A value or limit without structure; whole numbers as such, as canonical JSON has but one form."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, tuple | list):
        return tuple(f"{one.form} until {one.until}" if isinstance(one, Document) else one for one in value)
    return value


def shown(value: Any) -> str:
    """A value or a limit in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple | list):
        return ", ".join(map(shown, value)) or "none"
    if isinstance(value, Document):
        return f"{value.form} {value.digest[:19]}, until {value.until}"
    return "".join(one if one.isprintable() else "?" for one in str(value))
