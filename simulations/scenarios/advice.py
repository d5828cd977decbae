"""Should these sites federate, and how? A few sentences that follow from the figures by fixed rules."""

from __future__ import annotations

import math

from cloister.simulations.scenarios.figures import METHODS, Comparison, Figures

_Z = 1.959964


def apart(one: float, other: float, rows: int) -> bool:
    """Whether two accuracies on the same ``rows`` differ by more than chance explains at 95 %.

    Conservative: both are treated as measured on test rows of their own, though they share them.
    """
    spread = math.sqrt((one * (1 - one) + other * (1 - other)) / rows)
    return abs(one - other) > _Z * spread


def advice(found: Comparison, rows: int, epsilon: float) -> tuple[str, ...]:
    """The answer, most important first.

    Args:
        found: all methods.
        rows: of the common test.
        epsilon: the target of the private ones.
    """
    methods = found.methods
    name = best(found)
    return (
        _whether(methods["local_only"], methods[name], METHODS[name], rows, epsilon),
        _mode(methods["federated_local"], methods["federated_joint"], rows),
        _price(methods["federated_ridge"], methods[name], methods["pooled"], rows),
        _plainly(found.simple, methods[name], rows),
        _how(methods[name]),
    )


def best(found: Comparison) -> str:
    """The private federated method that does best on the common test; the first of equals."""
    return max(("federated_local", "federated_joint"), key=lambda name: found.methods[name].accuracy)


def _how(best: Figures) -> str:
    sums = "one secure sum" if best.sums == 1 else f"{best.sums} secure sums"
    return f"How: {best.way}; {sums}, {best.bytes_up / 1000:,.0f} kB up from each site in all."


def _whether(lone: Figures, together: Figures, what: str, rows: int, epsilon: float) -> str:
    gain = _points(together.accuracy - lone.accuracy)
    better = sum(together.common[name] > own for name, own in lone.common.items())
    sites = len(lone.common)
    if not apart(together.accuracy, lone.accuracy, rows):
        return (
            f"Hardly: at epsilon {epsilon:g} the best private federation ({what}) and the mean site alone, "
            f"which pays for no privacy, differ by {gain} points: {rows} test rows cannot tell it from luck."
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


def _mode(local: Figures, joint: Figures, rows: int) -> str:
    gain = _points(joint.accuracy - local.accuracy)
    ratio = local.noise_factor / joint.noise_factor
    why = f"its noise is {ratio:.2f} times smaller at the same epsilon"
    if not apart(joint.accuracy, local.accuracy, rows):
        return (
            f"Joint noise buys nothing that {rows} test rows can show ({gain} points), though {why}: take "
            "each site's own, which needs no trust in the other sites."
        )
    if joint.accuracy < local.accuracy:
        return f"Joint noise is {gain} points here: its way was chosen badly on the rows held back."
    return (
        f"Joint noise is worth {gain} points over each site's own: {why}. Its promise holds as long as "
        "secure aggregation does and no more sites collude than the plan allows."
    )


def _price(open_: Figures, private: Figures, pooled: Figures, rows: int) -> str:
    same = "equals" if not apart(open_.accuracy, pooled.accuracy, rows) else "differs from"
    return (
        f"Without privacy, one analytic round {same} all rows in one place ({_percent(open_.accuracy)} and "
        f"{_percent(pooled.accuracy)}); privacy costs {_points(pooled.accuracy - private.accuracy)} points."
    )


def _plainly(simple: tuple[float, str], private: Figures, rows: int) -> str:
    value, name = simple
    if apart(value, private.accuracy, rows) and value > private.accuracy:
        return (
            f"Beware: {name} on all rows pooled, without privacy, reaches {_percent(value)}, more than the "
            "private federation. Pooling is what cannot be had; but a simpler model may be enough."
        )
    return f"{name[0].upper()}{name[1:]} on all rows pooled, without privacy, reaches {_percent(value)}."


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
