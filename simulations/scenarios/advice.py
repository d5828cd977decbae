"""Should these sites federate, and how? A few sentences that follow from the figures by fixed rules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from cloister.simulations.scenarios.figures import (
    AVERAGED,
    METHODS,
    OPEN,
    RIGHT,
    WORDS,
    Comparison,
    Figures,
    Measure,
)

_Z = 1.959964


def apart(one: float, other: float, rows: int) -> bool:
    """Whether two accuracies on the same ``rows`` differ by more than chance explains at 95 %.

    Conservative: both are treated as measured on test rows of their own, though they share them.
    """
    spread = math.sqrt((one * (1 - one) + other * (1 - other)) / rows)
    return abs(one - other) > _Z * spread


@dataclass(frozen=True)
class Chance:
    """What so many test records can tell apart.

    Attributes:
        rows: how many there are.
        measure: what is measured on them.
    """

    rows: int
    measure: Measure = RIGHT

    def apart(self, one: Figures, other: Figures) -> bool:
        """Whether two figures differ by more than chance explains at 95 %, as ``apart`` says it of shares."""
        if self.measure == RIGHT:
            return apart(one.accuracy, other.accuracy, self.rows)
        return abs(one.accuracy - other.accuracy) > math.hypot(_half(one), _half(other))

    def above(self, value: float, figures: Figures) -> bool:
        """Whether a value by another model is above a figure by more than chance explains."""
        if self.measure == RIGHT:
            return apart(value, figures.accuracy, self.rows) and value > figures.accuracy
        return value - figures.accuracy > math.sqrt(2) * _half(figures)

    def __str__(self) -> str:
        return f"{self.rows} test {self.measure.records}"


def _half(figures: Figures) -> float:
    low, high = figures.interval
    return (high - low) / 2


def advice(found: Comparison, rows: int, epsilon: float, measure: Measure = RIGHT) -> tuple[str, ...]:
    """The answer, most important first.

    Args:
        found: all methods.
        rows: records of the common test.
        epsilon: the target of the private ones.
        measure: what is measured on them.
    """
    methods, chance, chosen = found.methods, Chance(rows, measure), best(found)
    return (
        _whether(methods["local_only"], methods[chosen], METHODS[chosen], chance, epsilon),
        _mode(methods["federated_local"], methods["federated_joint"], chance),
        _price(next(name for name in OPEN if name in methods), methods, methods[chosen], chance),
        _plainly(found.simple, methods[chosen], chance),
        _how(methods[chosen]),
    )


def machinery(found: Comparison, epsilon: float) -> tuple[str, ...]:
    """What a comparison of answers by random weights shows, and what it does not.

    Args:
        found: all methods.
        epsilon: the target of the private ones.
    """
    methods = found.methods
    federated = [name for name in methods if name.startswith("federated")]
    sums = ", ".join(f"{WORDS[name]} {methods[name].sums}" for name in federated)
    spent = max(each.epsilon or 0.0 for each in methods.values())
    losses = ", ".join(f"{WORDS[name]} {methods[name].loss or 0.0:.2f}" for name in ("pooled", *federated))
    return (
        "Nothing here says whether to federate: the base model's weights are random; no accuracy is claimed.",
        f"Every plan came to its end. Secure sums that were opened: {sums}.",
        f"No ledger says more than epsilon {spent:.3g}, of a target of {epsilon:g}.",
        (
            "The loss of a letter, on answers about diseases that no site trained on, was "
            f"{found.loss or 0.0:.2f} before; after: {losses}."
        ),
    )


def best(found: Comparison) -> str:
    """The private federated method that does best on the common test; the first of equals."""
    return max(("federated_local", "federated_joint"), key=lambda name: found.methods[name].accuracy)


def _how(best: Figures) -> str:
    sums = "one secure sum" if best.sums == 1 else f"{best.sums} secure sums"
    return f"How: {best.way}; {sums}, {best.bytes_up / 1000:,.0f} kB up from each site in all."


def _whether(lone: Figures, together: Figures, what: str, chance: Chance, epsilon: float) -> str:
    gain = _points(together.accuracy - lone.accuracy)
    better = sum(together.common[name] > own for name, own in lone.common.items())
    sites = len(lone.common)
    if not chance.apart(together, lone):
        return (
            f"Hardly: at epsilon {epsilon:g} the best private federation ({what}) and the mean site alone, "
            f"which pays for no privacy, differ by {gain} points: {chance} cannot tell it from luck."
        )
    if together.accuracy < lone.accuracy:
        return (
            f"No: at epsilon {epsilon:g} the best private federation ({what}) is {gain} points against the "
            "mean site alone without privacy. Ask for more sites, more rows or a larger epsilon."
        )
    return (
        f"Yes: at epsilon {epsilon:g} the best private federation ({what}) beats the mean site alone, which "
        f"pays for no privacy, by {gain} points on the common test, and {better} of {sites} sites."
    )


def _mode(local: Figures, joint: Figures, chance: Chance) -> str:
    gain = _points(joint.accuracy - local.accuracy)
    ratio = local.noise_factor / joint.noise_factor
    why = f"its noise is {ratio:.2f} times smaller at the same epsilon"
    if not chance.apart(joint, local):
        return (
            f"Joint noise buys nothing that {chance} can show ({gain} points), though {why}: take "
            "each site's own, which needs no trust in the other sites."
        )
    if joint.accuracy < local.accuracy:
        return f"Joint noise is {gain} points here: its way was chosen badly on the rows held back."
    return (
        f"Joint noise is worth {gain} points over each site's own: {why}. Its promise holds as long as "
        "secure aggregation does and no more sites collude than the plan allows."
    )


def _price(name: str, methods: Mapping[str, Figures], private: Figures, chance: Chance) -> str:
    open_, pooled = methods[name], methods["pooled"]
    same = "differs from" if chance.apart(open_, pooled) else "equals"
    what = f"averaging over {open_.sums} rounds" if name in AVERAGED else "one analytic round"
    return (
        f"Without privacy, {what} {same} all rows in one place ({_percent(open_.accuracy)} and "
        f"{_percent(pooled.accuracy)}); privacy costs {_points(pooled.accuracy - private.accuracy)} points."
    )


def _plainly(simple: tuple[float, str], private: Figures, chance: Chance) -> str:
    value, name = simple
    if chance.above(value, private):
        return (
            f"Beware: {name} on all rows pooled, without privacy, reaches {_percent(value)}, more than the "
            "private federation. Pooling is what cannot be had; but a simpler model may be enough."
        )
    return f"{name[0].upper()}{name[1:]} on all rows pooled, without privacy, reaches {_percent(value)}."


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
