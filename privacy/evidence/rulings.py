"""What a site's policy said to a job, rule by rule, for readers who are not shown the policy itself.

``rulings/<site>.json`` in a bundle: a list, one entry for each ``policy.decision`` of the site that a bundle
shows, in their order::

    {"event": "north/12", "policy": digest, "request": digest, "shared": digest or null,
     "outcome": "allow", "rules": {"privacy.epsilon": "allow", …}}

It has no limit and no value. A decision follows from the policy and the request that it names by digest, so
whoever is shown these finds a ruling that says otherwise; whoever is not has the word of the site, signed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError

from cloister.privacy import canonical
from cloister.privacy.canonical import Json
from cloister.privacy.clauses import Digest
from cloister.privacy.errors import EvidenceError, PolicyError
from cloister.privacy.evidence.events import Event
from cloister.privacy.evidence.kinds import EventId
from cloister.privacy.frozen import Part
from cloister.privacy.policy.decision import ORDER, Decision, Outcome, decide
from cloister.privacy.policy.request import Request
from cloister.privacy.policy.terms import Policy

Shows: TypeAlias = Literal["whole", "rules", "digest"]
"""The most that a site hands over of its policy: all of it with what was decided under it, what each rule
said, or its digest only."""


class Ruling(Part):
    """What each rule said in one decision.

    Attributes:
        event: the decision in the site's log.
        policy, request, shared: what it was made of, as the event names it.
    """

    event: EventId
    policy: Digest
    request: Digest
    shared: Digest | None
    outcome: Outcome
    rules: Annotated[dict[str, Outcome], Field(min_length=1, max_length=100)]

    @classmethod
    def of(cls, event: str, decision: Decision) -> Ruling:
        """What a decision, which an event records, comes to."""
        return cls(
            event=event,
            policy=decision.policy,
            request=decision.request,
            shared=decision.shared,
            outcome=decision.outcome,
            rules={one.rule: one.outcome for one in decision.findings},
        )

    def agrees(self, event: Event) -> bool:
        """Whether it says what the event says, and its outcome is that of its strictest rule."""
        body: Mapping[str, Any] = event.body
        named = (body["policy"], body["request"], body.get("shared"), body["outcome"])
        strictest = min(self.rules.values(), key=ORDER.index)
        deciding = sorted(rule for rule, said in self.rules.items() if said == self.outcome != "allow")
        return (self.policy, self.request, self.shared, self.outcome) == named and (
            self.outcome == strictest and deciding == [str(one) for one in body["rules"]]
        )


_RULINGS = TypeAdapter(Annotated[tuple[Ruling, ...], Field(max_length=100_000)])


def ruling_place(writer: str) -> str:
    """Where a bundle has a site's rulings."""
    return f"rulings/{writer}.json"


def again(event: Event, files: Mapping[str, bytes]) -> Decision | None:
    """A recorded decision made once more; None where its policy or its request is not there.

    Args:
        event: a ``policy.decision``.
        files: digest -> canonical bytes of policies and requests.

    Raises:
        PolicyError: ``policy_malformed``, ``decision_altered``, ``policy_mismatch``.
    """
    digests = [str(event.body[name]) for name in ("request", "policy", "shared") if name in event.body]
    if not all(digest in files for digest in digests):
        return None
    asked, written, *shared = (files[digest] for digest in digests)
    malformed = PolicyError("decision_altered", "A request is not canonical JSON.")
    request = Request.from_json(canonical.decode(asked, otherwise=malformed))
    return decide(Policy.from_bytes(written), request, *map(Policy.from_bytes, shared))


def rulings(events: Iterable[Event], names: Iterable[str], policies: Mapping[str, bytes]) -> Iterator[Ruling]:
    """The rulings of all decisions that can be made again.

    Args:
        events: that a bundle shows of a site.
        names: how it names them.
        policies: digest -> canonical bytes.

    Raises:
        PolicyError: as ``again``.
    """
    for event, name in zip(events, names, strict=True):
        decision = again(event, policies) if event.type == "policy.decision" else None
        if decision is not None:
            yield Ruling.of(name, decision)


def encoded(found: Iterable[Ruling]) -> bytes:
    """The canonical bytes of ``rulings/<site>.json``."""
    values: list[Json] = [one.model_dump(mode="json") for one in found]
    return canonical.encode(values)


def decoded(data: bytes) -> tuple[Ruling, ...]:
    """What ``encoded`` gives; raises ``EvidenceError`` ``bundle_altered`` for anything else."""
    refusal = EvidenceError("bundle_altered", "it cannot be read: these are no rulings of a policy.")
    try:
        found = _RULINGS.validate_json(data)
    except ValidationError as error:
        raise refusal from error
    if encoded(found) != data:
        raise refusal
    return found
