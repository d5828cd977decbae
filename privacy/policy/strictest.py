"""The strictest of two policies, and what changed from one to the next: both rule by rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cloister.privacy.policy.limits import Change
from cloister.privacy.policy.rules import DATASETS, RULES, limits
from cloister.privacy.policy.terms import EVERY, DatasetTerms, Policy


@dataclass(frozen=True)
class Changed:
    """What became of one rule.

    Attributes:
        rule: its id, for a dataset with the dataset's name.
        change: whether it was made tighter, looser, or each in part.
        old, new: the limits; None where a dataset had, or has, no block.
    """

    rule: str
    change: Change
    old: Any
    new: Any


def strictest(a: Policy, b: Policy) -> Policy:
    """The loosest policy that allows nothing that ``a`` or ``b`` refuses.

    Commutative, associative and idempotent. A dataset that one of both has no block for, none of its own
    and none for every dataset, has none.
    """
    value: dict[str, Any] = {"version": 1, DATASETS: _datasets(a, b)}
    for (rule, left), (_, right) in zip(limits(a), limits(b), strict=True):
        block, key = rule.path
        value.setdefault(block, {})[key] = rule.kind.meet(left, right)
    return Policy.of(_json(value))


def _datasets(a: Policy, b: Policy) -> dict[str, dict[str, Any]]:
    """For every dataset that has terms in both, the strictest of them."""
    pairs = {name: (a.dataset(name), b.dataset(name)) for name in {*a.datasets, *b.datasets}}
    return {
        name: {
            rule.path[1]: rule.kind.meet(getattr(left, rule.path[1]), getattr(right, rule.path[1]))
            for rule in RULES
            if rule.path[0] == DATASETS
        }
        for name, (left, right) in pairs.items()
        if left is not None and right is not None
    }


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json(one) for key, one in value.items()}
    if isinstance(value, tuple):
        return [_json(one) for one in value]
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


def diff(old: Policy, new: Policy) -> tuple[Changed, ...]:
    """The rules that changed, in the order of the vocabulary; those of datasets last."""
    found = [
        Changed(rule.id, rule.kind.change(before, after), before, after)
        for (rule, before), (_, after) in zip(limits(old), limits(new), strict=True)
    ]
    for name in sorted({*old.datasets, *new.datasets}):
        found.extend(_dataset(name, old.dataset(name), new.dataset(name)))
    return tuple(one for one in found if one.change != "same")


def _dataset(name: str, old: DatasetTerms | None, new: DatasetTerms | None) -> Iterator[Changed]:
    place = f"{DATASETS}.{'every dataset' if name == EVERY else name}"
    if old is None or new is None:
        if old is not new:
            yield Changed(place, "tighter" if new is None else "looser", old and "listed", new and "listed")
        return
    for rule in RULES:
        block, key = rule.path
        if block == DATASETS:
            before, after = getattr(old, key), getattr(new, key)
            yield Changed(f"{place}.{key}", rule.kind.change(before, after), before, after)


def overall(changes: tuple[Changed, ...]) -> Change:
    """What all changes amount to."""
    kinds = {one.change for one in changes}
    if not kinds:
        return "same"
    return kinds.pop() if len(kinds) == 1 else "mixed"
