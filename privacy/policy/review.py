"""What a policy leaves open, and what in it refuses every plan: for whoever looks before a lead does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import date
from typing import Any

from cloister.privacy.policy.limits import ALL_OF, ANY, AT_LEAST, ONE_OF, REQUIRED, Kind
from cloister.privacy.policy.rules import DATASETS, RULES, SCANNED, UNEXPIRED, WATCHED, Rule
from cloister.privacy.policy.terms import EVERY, DatasetTerms, Policy
from cloister.privacy.policy.words import sentence

_MOST_SITES = 1000
"""Sites of the largest plan."""


def _nothing(limit: Any) -> bool:
    """A set that no value is in, or an amount that every plan is above."""
    return bool(limit == () or limit == 0)


def _crowd(limit: int) -> bool:
    return limit > _MOST_SITES


_CLOSED: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("lead.consortia", "lead.identities", "models.base", "code.digests"), _nothing),
    **dict.fromkeys(("privacy.modes", "privacy.units", "models.parameters"), _nothing),
    **dict.fromkeys(("training.rounds", "training.steps", "training.rate"), _nothing),
    **dict.fromkeys(("training.head_rate", "training.adapter_rate"), _nothing),
    **dict.fromkeys(("time.hours", "time.days", "time.duration"), _nothing),
    **dict.fromkeys(("datasets.purposes", "datasets.jobs_per_day"), _nothing),
    "aggregation.minimum_sites": _crowd,
}
"""Rules that by themselves can refuse whatever is asked, and the limits with which they do."""
_PRIVATE = ("privacy.epsilon", "privacy.delta", "datasets.epsilon")
"""With 0, these refuse every plan that is private."""
_LOOSEST: Mapping[Kind, Any] = {
    **dict.fromkeys((ONE_OF, ALL_OF), ANY),
    **dict.fromkeys((SCANNED, WATCHED), "ignore"),
    AT_LEAST: 0,
    REQUIRED: False,
    UNEXPIRED: (),
}
"""Kinds that have a limit with which they forbid nothing; any amount is a limit where there is a most."""


def unset(policy: Policy) -> Iterator[tuple[str, str]]:
    """Every rule that forbids nothing: its name, for a dataset with the dataset's, and its sentence."""
    for name, rule, limit in _all(policy):
        if rule.kind in _LOOSEST and limit == _LOOSEST[rule.kind]:
            yield name, sentence(rule, limit)


def closed(policy: Policy, today: str) -> Iterator[tuple[str, str]]:
    """Every rule that refuses whatever is asked on a day (YYYY-MM-DD), and its sentence.

    Those of datasets refuse every plan for that dataset; without any dataset, all is refused.
    """
    if not policy.datasets:
        yield DATASETS, "No dataset may be used at all."
    for name, rule, limit in _all(policy):
        if _refuses(policy, rule, limit):
            yield name, sentence(rule, limit)
    valid = policy.valid
    for rule in RULES[:2]:
        if not rule.kind.holds(today, getattr(valid, rule.path[1])):
            yield rule.id, sentence(rule, getattr(valid, rule.path[1]))


def everything(policy: Policy, today: str) -> tuple[str, ...]:
    """Names of what makes a policy refuse every plan on a day; () where some plan may pass."""
    found = [name for name, _ in closed(policy, today)]
    whole = [name for name in found if not name.startswith(f"{DATASETS}.")]
    shut = {name.split(".")[1] for name in found if name.startswith(f"{DATASETS}.")}
    names = {_place(name) for name in policy.datasets}
    return tuple(whole) or (tuple(found) if names and names <= shut else ())


def left(policy: Policy, today: str) -> int:
    """Days until the last one on which a policy holds; below 0 once it has ended."""
    return (date.fromisoformat(policy.valid.ends) - date.fromisoformat(today)).days


def _refuses(policy: Policy, rule: Rule, limit: Any) -> bool:
    terms = policy.approval
    if rule.id in _PRIVATE:
        return bool(limit == 0 and "off" not in policy.privacy.modes)
    if rule.id == "approval.roles":
        return limit == () and terms.automatic == 0
    if rule.id == "approval.hours":
        return bool(limit == 0 and terms.automatic == 0)
    test = _CLOSED.get(rule.id)
    return test is not None and test(limit)


def _place(dataset: str) -> str:
    return "every dataset" if dataset == EVERY else dataset


def _all(policy: Policy) -> Iterator[tuple[str, Rule, Any]]:
    """Every rule with its limit; those of datasets once for each block, under the block's name."""
    for rule in RULES:
        block, key = rule.path
        if block != DATASETS:
            yield rule.id, rule, getattr(getattr(policy, block), key)
    for name, terms in sorted(policy.datasets.items()):
        yield from _dataset(name, terms)


def _dataset(name: str, terms: DatasetTerms) -> Iterator[tuple[str, Rule, Any]]:
    for rule in RULES:
        block, key = rule.path
        if block == DATASETS:
            yield f"{DATASETS}.{_place(name)}.{key}", rule, getattr(terms, key)
