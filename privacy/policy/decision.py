"""A decision: what a policy says to a request, rule by rule. Pure, so anybody can make it again.

The outcomes are ``refuse`` < ``ask`` < ``allow``; a decision is as strict as the strictest of its findings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from cloister.privacy import canonical
from cloister.privacy.canonical import Json
from cloister.privacy.clauses import Digest
from cloister.privacy.errors import PolicyError
from cloister.privacy.frozen import Part
from cloister.privacy.policy import rules
from cloister.privacy.policy.request import Request
from cloister.privacy.policy.rules import BY_ID, LISTED, Stranger
from cloister.privacy.policy.strictest import strictest
from cloister.privacy.policy.terms import Document, Policy

Outcome = Literal["refuse", "ask", "allow"]
ORDER: tuple[Outcome, ...] = ("refuse", "ask", "allow")
Whose = Literal["site", "consortium", "both"]
Shown = str | int | float | bool | tuple[str | int, ...] | None
"""A value or a limit as it is read and compared: numbers stay numbers."""


class Finding(Part):
    """What one rule found.

    Attributes:
        by: whose policy made it so strict; ``both`` if either would, or neither alone.
    """

    rule: Annotated[str, Field(pattern=r"^[a-z_]{1,40}\.[a-z_]{1,40}$")]
    outcome: Outcome
    value: Shown
    limit: Shown
    by: Whose = "site"

    def line(self) -> str:
        """The finding for a person: the rule, the value and the limit."""
        rule, whose = BY_ID.get(self.rule), _WHOSE[self.by]
        if rule is None:
            return f"{self.rule}: {whose} no block for the dataset {self.value}"
        return f"{self.rule}: {shown(self.value)}, where {whose} {rule.kind.words} {shown(self.limit)}"


_WHOSE: Mapping[Whose, str] = {
    "site": "the policy has",
    "consortium": "the consortium's policy has",
    "both": "the policies of site and consortium have",
}


class Decision(Part):
    """What the policies say to a request.

    Attributes:
        policy: the digest of the site's.
        shared: that of the consortium's, where the plan names one.
    """

    version: Literal[1] = 1
    policy: Digest
    shared: Digest | None = None
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


def decide(policy: Policy, request: Request, shared: Policy | None = None) -> Decision:
    """What the strictest of a site's policy and the consortium's says to a request.

    Args:
        policy: the site's.
        request: names by digest the policy of the consortium that its plan is under, if any.
        shared: that policy.

    Raises:
        PolicyError: ``policy_mismatch``, ``shared`` is another one than the request names, or missing.
    """
    if request.shared != (shared.digest if shared else None):
        raise PolicyError(
            "policy_mismatch",
            "The plan is under another policy of the consortium than the one that is here.",
            "Ask the lead; do not approve anything.",
        )
    findings = tuple(_findings(policy if shared is None else strictest(policy, shared), request))
    if shared is not None:
        findings = tuple(_attributed(findings, policy, shared, request))
    outcome = min((one.outcome for one in findings), key=ORDER.index)
    return Decision(
        policy=policy.digest,
        shared=request.shared,
        request=request.digest,
        findings=findings,
        outcome=outcome,
    )


def _attributed(
    findings: tuple[Finding, ...], policy: Policy, shared: Policy, request: Request
) -> Iterator[Finding]:
    """The findings, each with whose policy alone gives the same outcome."""
    own, other = ({one.rule: one.outcome for one in _findings(each, request)} for each in (policy, shared))
    for one in findings:
        site, consortium = (found.get(one.rule) == one.outcome for found in (own, other))
        by: Whose = "both" if site == consortium else "site" if site else "consortium"
        yield one.model_copy(update={"by": by})


def replay(policy: Policy, request: Request, decision: Decision, shared: Policy | None = None) -> None:
    """Makes a decision again.

    Raises:
        PolicyError: ``decision_altered``, it is not what these policies say to this request;
            ``policy_mismatch``.
    """
    if decide(policy, request, shared) != decision:
        raise PolicyError(
            "decision_altered",
            f"The decision on {request.plan[7:19]} is not what its policy says to its request.",
            "One of them was changed after the decision; compare their digests with the event log.",
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
        return tuple(_short(one) for one in value)
    return value


def _short(value: Any) -> Any:
    if isinstance(value, Document):
        return f"{value.form} until {value.until}"
    return str(value) if isinstance(value, Stranger) else value


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
