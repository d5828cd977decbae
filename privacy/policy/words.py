"""A policy in plain sentences, and a change of it, for people who decide about privacy."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from cloister.privacy.policy.decision import shown
from cloister.privacy.policy.limits import ANY
from cloister.privacy.policy.rules import DATASETS, RULES, Rule, limits
from cloister.privacy.policy.strictest import Changed
from cloister.privacy.policy.terms import EVERY, Policy

_TITLES = {
    "valid": "When it holds",
    "lead": "Whose plans",
    "roster": "Whose keys",
    "privacy": "Privacy",
    "aggregation": "How updates are added up",
    "models": "Models",
    "code": "Code",
    "training": "Training",
    "approval": "Approvals",
    "time": "Time",
    "identifiers": "Names, numbers and addresses in the records",
    "held_out": "Global models",
}


def explain(policy: Policy) -> Iterator[str]:
    """The lines of a policy in plain sentences. Whatever is not allowed by every one of them is refused."""
    for block, group in groupby(limits(policy), key=lambda pair: pair[0].path[0]):
        yield _TITLES[block]
        yield from (f"  {sentence(rule, limit)}" for rule, limit in group)
    for name, terms in sorted(policy.datasets.items()):
        yield "Any dataset that has no block of its own" if name == EVERY else f"The dataset {name}"
        for rule in RULES:
            if rule.path[0] == DATASETS:
                yield f"  {sentence(rule, getattr(terms, rule.path[1]))}"
    if EVERY not in policy.datasets:
        yield "Any other dataset"
        yield "  It may not be used at all."


def sentence(rule: Rule, limit: Any) -> str:
    """What a rule means with a limit."""
    words = {True: "yes", False: "no"}.get(limit) if isinstance(limit, bool) else None
    return rule.sentence.format(words or ("all that there are" if limit == ANY else shown(limit)))


def changes(found: tuple[Changed, ...]) -> Iterator[str]:
    """A line for each rule that changed."""
    for one in found:
        yield f"{one.change:<8} {one.rule}: {shown(one.old)} -> {shown(one.new)}"
