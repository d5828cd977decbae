"""What a sequence of mechanisms costs: epsilon at a delta. One number rules, others stand beside it.

The number that rules (``epsilon``) is Rényi accounting of the Poisson-subsampled Gaussian, composed by
addition and converted at the best order. It needs numpy only and takes milliseconds, so plan, ledger,
report and verifier all compute it themselves. The privacy-loss distribution of ``dp-accounting`` is a
second, independent and tighter account (``accountants``); Opacus' PRV is a third, on the torch side
(``cloister.privacy.step.prv``).

Why the orders are evaluated here and not by ``dp-accounting``: its series for fractional orders bounds
an alternating sum by absolute values and does not converge for small orders at large noise; without
those orders epsilon is up to 9 % too high between 8 and 15. The tests hold this module to that
library at whole orders and to direct integration at fractional ones.

Sources: Mironov, Talwar, Zhang 2019, "Rényi Differential Privacy of the Sampled Gaussian Mechanism"
(sections 3.2 and 3.3); Canonne, Kamath, Steinke 2020, "The Discrete Gaussian for Differential
Privacy" (proposition 12, the conversion); Feldman, Zrnic 2021, "Individual Privacy Accounting via a
Rényi Filter" (adding Rényi bounds stays sound when later mechanisms depend on earlier results, up to
the budget at which the ledger refuses).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.errors import BudgetError

Floats: TypeAlias = NDArray[np.float64]

AGREEMENT = 0.02
"""The most that PRV and PLD may differ in epsilon where both apply."""

_WHOLE = np.array([*range(2, 257), 320, 384, 512, 768, 1024])
_FRACTIONS = np.array([n / 10 for n in range(11, 110) if n % 10])
_ORDERS: Floats = np.concatenate([_WHOLE, _FRACTIONS])
# Below this noise multiplier the integrals would leave float64's range, and epsilon is beyond any use.
_LEAST_FOR_FRACTIONS = 0.2


def epsilon(mechanisms: Iterable[GaussianSteps], delta: float) -> float:
    """The ruling epsilon of a sequence of mechanisms, 0 for none.

    The order of the mechanisms and how equal steps are split into blocks make no difference, not even
    in the last bit.

    Formal guarantees:
        If every mechanism did what it says, everything that left satisfies (epsilon, ``delta``)
        differential privacy for one unit added or removed, up to the rounding of float64
        (below 1e-9 relative).

    Args:
        mechanisms: what was done, in any order.
        delta: the probability in (0, 1) that the bound fails.

    Raises:
        BudgetError: ``mechanism_unaccountable`` for a delta out of range.
    """
    check(delta)
    total = np.zeros_like(_ORDERS)
    for block in merged(mechanisms):
        total += block.steps * renyi(block.noise_multiplier, block.rate)
    return converted(total, _ORDERS, delta)


def would_exceed(mechanisms: Iterable[GaussianSteps], delta: float, limit: float) -> bool:
    """Whether the ruling epsilon of ``mechanisms`` at ``delta`` is above ``limit``."""
    return epsilon(mechanisms, delta) > limit


def accountants(mechanisms: Iterable[GaussianSteps], delta: float) -> dict[str, float]:
    """Epsilon by name of accountant: ``rdp``, which rules, and ``pld``.

    Loads ``dp-accounting`` and takes seconds for long plans.

    Raises:
        BudgetError: ``mechanism_unaccountable`` for a delta out of range.
    """
    blocks = merged(mechanisms)
    return {"rdp": epsilon(blocks, delta), "pld": _privacy_loss_distribution(blocks, delta)}


def merged(mechanisms: Iterable[GaussianSteps]) -> tuple[GaussianSteps, ...]:
    """The same mechanisms with one block per noise multiplier and rate, sorted."""
    steps: Counter[tuple[float, float]] = Counter()
    for block in mechanisms:
        steps[(block.noise_multiplier, block.rate)] += block.steps
    return tuple(GaussianSteps(sigma, rate, count) for (sigma, rate), count in sorted(steps.items()))


@lru_cache(maxsize=4096)
def renyi(noise_multiplier: float, rate: float) -> Floats:
    """The Rényi divergence of one step at each order of this module, read-only, float64.

    The larger of the two directions (unit added, unit removed), which Mironov et al. show to be the
    one computed here.
    """
    if rate == 1:
        divergence = _ORDERS / (2 * noise_multiplier**2)
    else:
        log_moments = np.concatenate(
            [_whole_orders(noise_multiplier, rate), _fractional_orders(noise_multiplier, rate)]
        )
        divergence = log_moments / (_ORDERS - 1)
    divergence.flags.writeable = False
    return divergence


def _whole_orders(sigma: float, rate: float) -> Floats:
    """Log of the moment at whole orders a: the binomial sum of Mironov et al., section 3.3.

    moment - 1 = sum over i of C(a, i) q^i (1-q)^(a-i) (exp((i^2 - i) / 2 sigma^2) - 1): every term is
    positive, so nothing cancels, however small the rate.
    """
    i = np.arange(2, _WHOLE[-1] + 1)
    exponent = (i * i - i) / (2 * sigma**2)
    terms = _log_binomials() + i * math.log(rate) + (_WHOLE[:, None] - i) * math.log1p(-rate)
    terms += exponent + np.log(-np.expm1(-exponent))
    return np.logaddexp(0, _log_sum(terms))


@cache
def _log_binomials() -> Floats:
    """Log of C(a, i) for whole orders a (rows) and i = 2 … the largest order; -inf for i > a."""
    log_factorial = np.array([math.lgamma(n + 1) for n in range(int(_WHOLE[-1]) + 1)])
    i = np.arange(2, _WHOLE[-1] + 1)
    rest = _WHOLE[:, None] - i
    inside = log_factorial[_WHOLE][:, None] - log_factorial[i] - log_factorial[np.maximum(rest, 0)]
    return np.where(rest >= 0, inside, -np.inf)


def _fractional_orders(sigma: float, rate: float) -> Floats:
    """Log of the moment at fractional orders a, by the trapezoidal rule.

    moment = E[(1 + w)^a] for w = q (exp(z/sigma - 1/2 sigma^2) - 1) and z standard normal. As E[w] = 0,
    moment - 1 = E[(1 + w)^a - 1 - a w], whose integrand is nowhere negative. It is analytic in a strip
    of half-width pi sigma, so with a step of at most sigma / 4 the rule errs below float64's precision.
    """
    if sigma < _LEAST_FOR_FRACTIONS:
        return np.full(_FRACTIONS.shape, np.inf)
    step = min(0.125, sigma / 4)
    z = np.arange(-12.0, 12.0 + _FRACTIONS[-1] / sigma, step)
    log_ratio = np.log1p(rate * np.expm1(z / sigma - 1 / (2 * sigma**2)))
    power = _FRACTIONS[:, None] * log_ratio
    rest = (1 - _FRACTIONS[:, None]) * np.exp(-power) + _FRACTIONS[:, None] * np.exp(log_ratio - power)
    with np.errstate(divide="ignore"):  # an integrand that rounds to nothing is nothing
        terms = power + np.log1p(-np.minimum(rest, 1)) - z * z / 2
        return np.logaddexp(0, _log_sum(terms) + math.log(step) - math.log(2 * math.pi) / 2)


def _log_sum(terms: Floats) -> Floats:
    """Log of the sum of exponentials along the last axis."""
    top = np.maximum(terms.max(axis=-1), -1e300)
    return np.asarray(top + np.log(np.exp(terms - top[:, None]).sum(axis=-1)))


def converted(divergence: Floats, orders: Floats, delta: float) -> float:
    """The least epsilon over all orders: Canonne, Kamath, Steinke, proposition 12.

    Args:
        divergence: Rényi divergences of everything together, one per order; infinity where unknown.
        orders: above 1.
        delta: in (0, 1).

    Where the divergence r is so small that sqrt(1 - exp(-r)) < delta, total variation alone gives 0.
    """
    if not divergence.any() or float(-np.expm1(-divergence).min()) < delta**2:
        return 0.0
    bounds = divergence + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    return max(0.0, float(bounds.min()))


@lru_cache(maxsize=256)
def _privacy_loss_distribution(blocks: tuple[GaussianSteps, ...], delta: float) -> float:
    from dp_accounting import dp_event
    from dp_accounting.pld import pld_privacy_accountant

    accountant: Any = pld_privacy_accountant.PLDAccountant()
    for block in blocks:
        event: dp_event.DpEvent = dp_event.GaussianDpEvent(block.noise_multiplier)
        if block.rate < 1:
            event = dp_event.PoissonSampledDpEvent(block.rate, event)
        accountant.compose(event, block.steps)
    return float(accountant.get_epsilon(delta))


def check(delta: float) -> None:
    """Refuses a delta that is none.

    Raises:
        BudgetError: ``mechanism_unaccountable``.
    """
    if not 0 < delta < 1:
        raise BudgetError("mechanism_unaccountable", "The delta of an account must lie between 0 and 1.")
