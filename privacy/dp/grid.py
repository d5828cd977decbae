"""The integer grid on which the sites of a joint job add up: its size, its noise and what it costs.

In joint mode every site rounds its clipped sum to a public grid, adds its share of discrete Gaussian noise
as integers and sends the result modulo 2^32. What is opened is the sum. Everything that decides whether this
is sound and fits is computed here from public terms, before a plan is signed:

- *Grid.* At least ``200 sqrt(d)`` units per clipping bound. Rounding moves a vector by at most
  ``sqrt(d) / 2`` units and two neighbouring sums by that much each, so the charged sensitivity is
  ``bound + grid * sqrt(d)``: at most 0.5 % above the bound.
- *Share.* Sized so that ``n_min - t`` shares carry the whole noise multiplier: up to ``t`` sites know their
  own share, and no more than ``n_min`` may be there. At least 8 units of standard deviation each.
- *Surplus.* Where noise for losses that did not happen is taken back (``secagg.surplus``), a share is the sum
  of independent parts: one that stays, and one for each site that may be lost. Each has at least 8 units.
- *Ring.* The sum of everything fits 32 bits but for a probability below 2^-40 a step. Wrapping around costs
  utility and never privacy: reducing modulo 2^32 is post-processing.

The sum of k independent discrete Gaussians of parameter s is not exactly one of parameter s sqrt(k). Kairouz,
Liu, Steinke 2021 ("The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
Aggregation") bound the log of their ratio, per coordinate, by tau = 10 * sum over i = 1 … k - 1 of
exp(-2 pi^2 s^2 i / (i + 1)). At s = 8 and k = 10^6 that is below 10^-265: no float64 shows it. For unequal
parameters a and b one addition costs at most 10 * exp(-2 pi^2 / (1 / a^2 + 1 / b^2)), which is no more than
10 * exp(-pi^2 s^2) where s is the smaller one: parts of a share count like shares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.errors import BudgetError, PlanError

UNITS_PER_ROOT = 200
LEAST_SHARE = 8.0
RING_BITS = 32
WRAP = 2.0**-40
"""A secure sum wraps around in some coordinate with less than this probability."""


@dataclass(frozen=True)
class Grid:
    """The public terms of noise in shares, and what follows from them.

    Formal guarantees:
        If at least ``n_min`` sites each add a vector of d independent discrete Gaussians of parameter
        ``share``, and neighbouring inputs differ by at most ``bound`` before rounding, then the opened sum
        is, against everybody who knows ``t`` of the shares, at least as private as the Gaussian mechanism
        of noise multiplier ``noise_multiplier``: exactly so at whole Rényi orders, up to tau (see above),
        and at all orders without sampling. At fractional orders with sampling, which the ruling account
        uses for large epsilons, that is checked numerically to 1e-9 and not proved.
        The inputs have to be summed in integers, or in float64 with an error far below half a unit.

    Attributes:
        bound: the clipping bound C > 0.
        parameters: d, the length of the vector.
        noise_multiplier: sigma that ``n_min - t`` shares give, in units of the charged sensitivity.
        sites: how many sites may add, at least ``n_min``.
        n_min: how many must have added before a sum is opened.
        t: how many sites may put together what they know, at least 1.
        sampled: the most units that one step sums over all sites; ``most_sampled`` computes it.
        surplus: whether a share is made of parts, of which those for losses that did not happen are taken
            back once a sum was opened.

    Raises:
        PlanError: ``plan_conflict`` for terms that contradict each other or do not fit the ring.
    """

    bound: float
    parameters: int
    noise_multiplier: float
    sites: int
    n_min: int
    t: int
    sampled: int
    surplus: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.bound < math.inf and 0 < self.noise_multiplier < math.inf):
            raise _conflict("Bound and noise multiplier must be above 0.", "Set both.")
        if not (self.parameters >= 1 and self.sampled >= 1):
            raise _conflict("A joint step needs parameters and units.", "Name at least one of each.")
        if not (self.t >= 1 and self.n_min - self.t >= 2 and self.sites >= self.n_min):
            raise _conflict(
                f"Of {self.sites} sites, a minimum of {self.n_min} and {self.t} colluding contradict each "
                "other, or leave fewer than two shares that nobody knows.",
                "Raise the minimum, or ask more sites.",
            )
        if self.surplus and self.sites == self.n_min:
            raise _conflict(
                "No site may be lost, so there is no noise for lost sites that could be taken back.",
                "Lower the minimum of sites, or leave surplus noise out.",
            )
        if min(self.parts) < LEAST_SHARE:
            what = "A part of a share" if self.surplus else "A share"
            raise _conflict(
                f"{what} would have {min(self.parts):.3g} grid units of noise; it needs {LEAST_SHARE:g}.",
                "Raise the noise multiplier.",
            )
        if self.largest >= 1 << RING_BITS - 1:
            raise _conflict(
                f"The sum could reach {self.largest} grid units; the ring holds 2^{RING_BITS - 1}.",
                "Train fewer parameters, sample fewer units in a step, or lower the noise multiplier.",
            )

    @property
    def units(self) -> int:
        """Grid units per clipping bound."""
        return math.ceil(UNITS_PER_ROOT * math.sqrt(self.parameters))

    @property
    def step(self) -> float:
        """The value of one grid unit."""
        return self.bound / self.units

    @property
    def sensitivity(self) -> float:
        """The charged sensitivity in grid units: the bound and what rounding may add."""
        return self.units + math.sqrt(self.parameters)

    @property
    def share(self) -> float:
        """The parameter of one site's noise in grid units, rounded up: float64 must not shave it."""
        return self._deviation(self.n_min - self.t)

    @property
    def parts(self) -> tuple[float, ...]:
        """The parameters of the independent parts of a site's noise in grid units, each rounded up.

        The first is kept always: of ``sites - t`` of them the whole noise multiplier is made. Part m, from 1
        on, is needed where m sites or more are lost: with it ``sites - m - t`` shares are as good as
        ``sites - m + 1 - t`` were without. So with s survivors the parts after number ``sites - s`` are
        surplus, and the others of ``s - t`` sites are exactly the noise multiplier. All together are
        ``share``, up to the rounding.
        """
        if not self.surplus:
            return (self.share,)
        kept = self.sites - self.t
        # 1 / k - 1 / (k + 1) = 1 / (k (k + 1)): what the variance of a share has to grow by.
        more = (self._deviation(k * (k + 1)) for k in range(kept - 1, self.n_min - self.t - 1, -1))
        return (self._deviation(kept), *more)

    def _deviation(self, shares: int) -> float:
        """The parameter of which so many give the whole noise, rounded up."""
        return self.noise_multiplier * self.sensitivity / math.sqrt(shares) * (1 + 2.0**-48)

    def unneeded(self, survivors: int) -> range:
        """The numbers of the parts that are surplus in a sum over so many survivors.

        Raises:
            BudgetError: ``mechanism_unaccountable``, no sum is over so many.
        """
        if not self.n_min <= survivors <= self.sites:
            raise _unaccountable(f"A sum over {survivors} survivors is none of {self.n_min} to {self.sites}.")
        return range(self.sites - survivors + 1, len(self.parts))

    def left(self, survivors: int) -> float:
        """The noise multiplier that ``survivors - t`` unknown shares still give without what is surplus.

        Worked out from the parts, so it shows whether these do what they are for.

        Raises:
            BudgetError: ``mechanism_unaccountable``.
        """
        gone = self.unneeded(survivors)
        kept = [part for number, part in enumerate(self.parts) if number not in gone]
        return math.hypot(*kept) * math.sqrt(survivors - self.t) / self.sensitivity

    @property
    def largest(self) -> int:
        """What no coordinate of the sum exceeds, but for a probability below ``WRAP`` / 2.

        A discrete Gaussian is sub-Gaussian with its parameter (Canonne, Kamath, Steinke 2020), so the noise
        of all sites passes h with probability at most 2 exp(-h^2 / (2 sites share^2)); over all
        coordinates this is set to 2^-41. The sum of units cannot pass ``sampled`` bounds.
        """
        tail = math.sqrt(2 * self.sites * math.log(2 * self.parameters / (WRAP / 2)))
        return self._signal + math.ceil(self.share * tail)

    def log2_wrap(self) -> float:
        """Log to base 2 of a bound on the probability that noise makes one secure sum wrap around.

        Below -41. That a sample is larger than ``sampled`` is apart: ``most_sampled`` allows 2^-41 for it,
        so that both together stay below ``WRAP``.
        """
        room = (1 << RING_BITS - 1) - 1 - self._signal
        nats = math.log(2 * self.parameters) - room**2 / (2 * self.sites * self.share**2)
        return nats / math.log(2)

    @property
    def _signal(self) -> int:
        # Each unit reaches one bound, and each site's sum is rounded by at most one unit more.
        return self.sampled * (self.units + 1) + self.sites

    def multiplier(self, shares: int) -> float:
        """The noise multiplier that a number of unknown shares gives: ``n_min - t`` to reserve, then
        ``survivors - t`` against colluders, ``survivors`` against the outside.

        Raises:
            BudgetError: ``mechanism_unaccountable`` for fewer shares than ``n_min - t`` or more than sites.
        """
        if not self.n_min - self.t <= shares <= self.sites:
            raise _unaccountable(
                f"A sum with {shares} unknown shares is none of {self.n_min - self.t} to {self.sites}."
            )
        if shares == self.n_min - self.t:
            return self.noise_multiplier
        return self.noise_multiplier * math.sqrt(shares / (self.n_min - self.t)) * (1 - 2.0**-48)

    def event(self, rate: float, steps: int, shares: int) -> GaussianSteps:
        """What a ledger charges for steps whose sums hold a number of unknown shares.

        Raises:
            BudgetError: ``mechanism_unaccountable``.
        """
        return GaussianSteps(self.multiplier(shares), rate, steps)

    def settled(self, rate: float, survivors: int) -> GaussianSteps:
        """What a step comes to against ``t`` colluding sites, once its sum over the survivors is opened.

        Where surplus noise may be taken back this is what is left afterwards, whether or not it happens:
        the plan's noise multiplier.

        Raises:
            BudgetError: ``mechanism_unaccountable``.
        """
        if self.surplus:
            self.unneeded(survivors)
            return self.event(rate, 1, self.n_min - self.t)
        return self.event(rate, 1, survivors - self.t)

    def outside(self, rate: float, survivors: int) -> GaussianSteps:
        """The same against whoever knows no site's share.

        Raises:
            BudgetError: ``mechanism_unaccountable``.
        """
        if not self.surplus:
            return self.event(rate, 1, survivors)
        self.unneeded(survivors)
        known = math.sqrt(survivors / (survivors - self.t)) * (1 - 2.0**-48)
        return GaussianSteps(self.noise_multiplier * known, rate, 1)

    def log10_tau(self) -> float:
        """Log to base 10 of d times tau of the module docstring, bounded from above, for all sites."""
        # i / (i + 1) is least at i = 1, so every term is at most exp(-pi^2 s^2).
        summands = self.sites * len(self.parts)
        return math.log10(10 * self.parameters * summands) - (math.pi * min(self.parts)) ** 2 / math.log(10)


def most_sampled(units: int, rate: float, failure: float = WRAP / 2) -> int:
    """The number of units that a Poisson sample exceeds with at most a probability: Chernoff's bound.

    Args:
        units: the most units there are over all sites, a public number.
        rate: the sampling rate in (0, 1].
        failure: the probability; 2^-41 leaves as much again for the tail of the noise.

    Raises:
        PlanError: ``plan_conflict`` for values out of range.
    """
    if not (units >= 1 and 0 < rate <= 1 and 0 < failure < 1):
        raise _conflict("Units, rate or failure are out of range.", "Name units, and a rate of at most 1.")
    low, high = math.ceil(units * rate), units
    while low < high:
        middle = (low + high) // 2
        if units * _divergence((middle + 1) / units, rate) >= -math.log(failure):
            high = middle
        else:
            low = middle + 1
    return high


def _divergence(a: float, b: float) -> float:
    """The Kullback-Leibler divergence of two coins, in nats, for a >= b > 0."""
    rest = (1 - a) * (math.log1p(-a) - math.log1p(-b)) if a < 1 else 0.0
    return a * math.log(a / b) + rest


def _unaccountable(what: str) -> BudgetError:
    return BudgetError("mechanism_unaccountable", what)


def _conflict(what: str, do: str) -> PlanError:
    return PlanError("plan_conflict", what, do)
