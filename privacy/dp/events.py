"""What was done to the data, as a value: the nouns that accountants, plans and ledgers share.

Neighbouring datasets differ by *one unit added or removed* (``RELATION``). The unit is a person or a
record, as the plan says; a Gaussian step of noise multiplier sigma has noise of standard deviation
sigma times the most that one unit can change the sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cloister.privacy.canonical import Json
from cloister.privacy.errors import BudgetError

RELATION = "add-remove"
"""The neighbour relation of every epsilon in this package; others give other numbers."""

# The range in which accounts are computed without overflow; beyond it no mechanism is of any use.
_LEAST_NOISE, _MOST_NOISE, _MOST_STEPS = 1e-3, 1e9, 2**53 - 1
_FIELDS = {"kind", "noise_multiplier", "rate", "steps"}
_KIND = "gaussian-steps"


@dataclass(frozen=True)
class GaussianSteps:
    """A block of equal steps of the Poisson-subsampled Gaussian mechanism.

    Formal guarantees:
        None by itself. It is a promise of whoever made it: in each step every unit was sampled with
        probability ``rate``, independently of everything, and Gaussian noise of standard deviation
        ``noise_multiplier`` times the bound of one unit was added to the sum. ``rate`` 1 is the
        Gaussian mechanism without sampling.

    Attributes:
        noise_multiplier: sigma > 0, in units of the bound of one unit (0.001 to 10^9).
        rate: the sampling probability of a unit, in (0, 1].
        steps: how many such steps, at least 1.

    Raises:
        BudgetError: ``mechanism_unaccountable`` for values out of range or of another type.
    """

    noise_multiplier: float
    rate: float
    steps: int

    def __post_init__(self) -> None:
        if not (_is_number(self.noise_multiplier) and _LEAST_NOISE <= self.noise_multiplier <= _MOST_NOISE):
            raise _unaccountable("noise multiplier", "a number from 0.001 to 10^9")
        if not (_is_number(self.rate) and 0 < self.rate <= 1):
            raise _unaccountable("rate", "a number above 0, at most 1")
        if type(self.steps) is not int or not 1 <= self.steps <= _MOST_STEPS:
            raise _unaccountable("steps", "a whole number, at least 1")

    def to_json(self) -> dict[str, Json]:
        """The form that is encoded canonically, hashed and stored."""
        return {
            "kind": _KIND,
            "noise_multiplier": float(self.noise_multiplier),
            "rate": float(self.rate),
            "steps": self.steps,
        }

    @classmethod
    def from_json(cls, value: object) -> GaussianSteps:
        """The block of a decoded value; a missing, unknown or ill-typed field is refused.

        Raises:
            BudgetError: ``mechanism_unaccountable``.
        """
        if not isinstance(value, Mapping) or set(value) != _FIELDS or value["kind"] != _KIND:
            raise BudgetError("mechanism_unaccountable", f"A mechanism is not of the kind {_KIND}.")
        return cls(value["noise_multiplier"], value["rate"], value["steps"])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _unaccountable(field: str, range_: str) -> BudgetError:
    return BudgetError("mechanism_unaccountable", f"The {field} of a mechanism must be {range_}.")
