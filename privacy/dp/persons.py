"""What a ledger means for a person who is in it more than once: with several rows, or at several sites.

A ledger of records covers one row. A person with k rows that are sampled and clipped one by one is
protected less; so is a person whose unit is sampled at k sites whose sums are opened under one noise. Both
are the same mechanism: k contributions of norm at most 1 (in units of the bound), each sampled with the
rate, under noise of the block's multiplier. Nobody knows in which directions they point; the worst is
that all agree, so that the sum shifts by Binomial(k, rate). That pair, N(0, sigma^2) against the mixture of
N(j, sigma^2) with binomial weights, dominates the mechanism (Choquette-Choo, Ganesh, Steinke, Thakurta
2023, "Privacy Amplification for Matrix Mechanisms", corollary 4.7). At rate 1 it is the Gaussian mechanism
of multiplier sigma / k.

The exact curve is never worse than group privacy (k epsilon, at a delta that grows with epsilon); its Rényi
bound can be, for few steps at a low rate. Both are sound, so the smaller of the two is the figure.

Where the noises are apart, as at several sites in local mode, ledgers simply compose: ``accounting`` on
all their blocks together. So a person at several sites has another figure in each mode.

The unit *person* needs none of this at one site: all rows of a person are summed before they are clipped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.privacy.dp import accounting
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.errors import BudgetError

Floats: TypeAlias = NDArray[np.float64]

MOST = 32
"""The most contributions of one person for which a figure is given."""

_ORDERS: Floats = np.array([*(n / 10 for n in range(11, 60)), *range(6, 33), 40, 48, 64, 96, 128])
_LEAST_NOISE = 0.2
# Group privacy is looked for at deltas down to 2^-50 of the one asked for, eight to an octave.
_EIGHTHS = 400


def epsilon(mechanisms: Iterable[GaussianSteps], contributions: int, delta: float) -> float:
    """The ruling kind of epsilon (Rényi) for all of a person's contributions together.

    Formal guarantees:
        If every mechanism did what it says for one contribution, everything that left satisfies
        (epsilon, ``delta``) differential privacy for ``contributions`` of them added or removed at once.

    Args:
        mechanisms: the ledger, where one contribution is one unit.
        contributions: how many a person has, each sampled and clipped by itself; 1 to ``MOST``.
        delta: the probability in (0, 1) of the event in which nothing is promised.

    Returns:
        epsilon; infinity where noise is below what is accounted (multiplier 0.2, with sampling) and group
        privacy says nothing either.

    Raises:
        BudgetError: ``mechanism_unaccountable`` for values out of range.
    """
    _check(contributions)
    accounting.check(delta)
    if contributions == 1:
        return accounting.epsilon(mechanisms, delta)
    blocks = accounting.merged(mechanisms)
    total = np.zeros_like(_ORDERS)
    for block in blocks:
        total += block.steps * _renyi(block.noise_multiplier, block.rate, contributions)
    return min(accounting.converted(total, _ORDERS, delta), _group(blocks, contributions, delta))


def accountants(mechanisms: Iterable[GaussianSteps], contributions: int, delta: float) -> dict[str, float]:
    """The same by name of accountant: ``rdp`` and ``pld`` (``dp-accounting``; 10 to 30 seconds).

    Raises:
        BudgetError: ``mechanism_unaccountable`` for values out of range.
    """
    blocks = accounting.merged(mechanisms)
    ruling = epsilon(blocks, contributions, delta)
    return {"rdp": ruling, "pld": _privacy_loss_distribution(blocks, contributions, delta)}


def at_sites(
    mechanisms: Iterable[GaussianSteps], sites: int, mode: Literal["local", "joint"], delta: float
) -> float:
    """The epsilon of a person whose unit is at ``sites`` sites of a job, all with the same terms.

    Args:
        mechanisms: what one site's ledger holds (local), or what the job's opened sums underwent (joint).
        sites: how many of the sites hold the person, at least 1.
        mode: ``local`` composes the ledgers; ``joint`` has one noise for all.
        delta: as in ``epsilon``.

    Raises:
        BudgetError: ``mechanism_unaccountable`` for values out of range.
    """
    _check(sites)
    if mode == "joint":
        return epsilon(mechanisms, sites, delta)
    return accounting.epsilon(list(mechanisms) * sites, delta)


def _group(blocks: tuple[GaussianSteps, ...], contributions: int, delta: float) -> float:
    """Group privacy: k e at delta, if e holds at a d with d (1 + exp(e) + … + exp((k - 1) e)) <= delta.

    The largest such d of a geometric sequence; infinity if none of it will do.
    """
    for eighth in range(_EIGHTHS):
        single = accounting.epsilon(blocks, delta * 2.0 ** (-eighth / 8))
        if (contributions - 1) * single > _EIGHTHS / 8 * math.log(2):
            break
        if sum(math.exp(i * single) for i in range(contributions)) <= 2.0 ** (eighth / 8):
            return contributions * single
    return math.inf


@lru_cache(maxsize=256)
def _renyi(sigma: float, rate: float, contributions: int) -> Floats:
    """The Rényi divergence of one step at each order, the larger of both directions, read-only."""
    if rate == 1:
        divergence = _ORDERS * contributions**2 / (2 * sigma**2)
    elif sigma < _LEAST_NOISE:
        divergence = np.full_like(_ORDERS, np.inf)
    else:
        removed = _log_moments(sigma, rate, contributions, _ORDERS) / (_ORDERS - 1)
        added = _log_moments(sigma, rate, contributions, 1 - _ORDERS) / (_ORDERS - 1)
        divergence = np.maximum(removed, added)
    divergence.flags.writeable = False
    return divergence


def _log_moments(sigma: float, rate: float, contributions: int, powers: Floats) -> Floats:
    """Log of E[L^a] for each power a, where L is the likelihood ratio of the mixture to N(0, sigma^2).

    By the trapezoidal rule. With w = L - 1 and E[w] = 0 the moment less 1 is E[(1 + w)^a - 1 - a w], whose
    integrand is nowhere negative for a > 1 and for a < 0. L is a polynomial in exp(z / sigma) whose roots are
    real and negative (binomial weights have such roots, and exp(-j^2 c) is a multiplier sequence, which
    keeps them), so the integrand is analytic in a strip of half-width pi sigma and a step of sigma / 4 errs
    below float64's precision, as for a single contribution.
    """
    step = min(0.125, sigma / 4)
    # Where the mass of L^a lies: around a times the shift, and that of the term a w around the shift.
    ends = 14.0 + np.maximum(powers, 1) * contributions / sigma
    z = np.arange(-14.0, ends.max(), step)
    log_ratio = _log_ratio(z / sigma, sigma, rate, contributions)
    found = np.empty_like(powers)
    for i, (power, end) in enumerate(zip(powers, ends, strict=True)):
        there = slice(0, int((end + 14) / step) + 1)
        terms = _log_excess(log_ratio[there], float(power)) - z[there] ** 2 / 2
        top = terms.max()
        found[i] = top + math.log(np.exp(terms - top).sum() * step / math.sqrt(2 * math.pi))
    return np.asarray(np.logaddexp(0, found))


def _log_excess(log_ratio: Floats, a: float) -> Floats:
    """Log of L^a - 1 - a (L - 1) for a > 1 or a < 0, without overflow."""
    power = a * log_ratio
    largest = np.maximum(np.maximum(power, log_ratio), 0)
    near = largest < 1
    # Near L = 1 expm1 keeps the digits; elsewhere everything is taken in units of the largest term.
    excess = np.where(
        near,
        np.expm1(np.minimum(power, 1)) - a * np.expm1(np.minimum(log_ratio, 1)),
        np.exp(power - largest) - (1 - a) * np.exp(-largest) - a * np.exp(log_ratio - largest),
    )
    return np.asarray(np.where(near, 0, largest) + np.log(np.maximum(excess, 1e-300)))


def _log_ratio(y: Floats, sigma: float, rate: float, contributions: int) -> Floats:
    """Log of the sum over j of Binomial(k, rate)(j) exp(j y - j^2 / 2 sigma^2)."""
    total = np.full_like(y, -np.inf)
    for j in range(contributions + 1):
        weight = math.log(math.comb(contributions, j)) + j * math.log(rate)
        weight += (contributions - j) * math.log1p(-rate) - j * j / (2 * sigma**2)
        total = np.logaddexp(total, weight + j * y)
    return total


def _privacy_loss_distribution(blocks: tuple[GaussianSteps, ...], contributions: int, delta: float) -> float:
    from dp_accounting import dp_event
    from dp_accounting.pld import pld_privacy_accountant

    accountant: Any = pld_privacy_accountant.PLDAccountant()
    for block in blocks:
        event: dp_event.DpEvent = dp_event.GaussianDpEvent(block.noise_multiplier / contributions)
        if block.rate < 1:
            shifts = range(contributions + 1)
            event = dp_event.MixtureOfGaussiansDpEvent(
                block.noise_multiplier,
                list(shifts),
                [_binomial(contributions, j, block.rate) for j in shifts],
            )
        accountant.compose(event, block.steps)
    return float(accountant.get_epsilon(delta))


def _binomial(n: int, j: int, rate: float) -> float:
    return math.comb(n, j) * rate**j * (1 - rate) ** (n - j)


def _check(contributions: int) -> None:
    if type(contributions) is not int or not 1 <= contributions <= MOST:
        raise BudgetError("mechanism_unaccountable", f"Figures are given for 1 to {MOST} contributions.")
