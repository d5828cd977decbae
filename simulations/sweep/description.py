"""A sweep as a TOML file: a scenario, and a list of values for each dial.

::

    scenario = "hospital-triage"          # or a .toml file of a scenario, beside this file
    epsilon = [1.0, 3.0, 8.0]
    sites = [4, 8]                        # left out: as the scenario has it
    skew = [0.1, 0.5, 10.0]               # Dirichlet alpha of label mixes; left out: as the scenario has it
    methods = ["pooled", "local_only", "federated_local", "federated_joint"]
    seeds = [0, 1, 2]                     # of splits, held-back rows and noise
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

from cloister.privacy import canonical
from cloister.privacy.errors import UsageError
from cloister.simulations.scenarios.catalogue import Mix, Scenario
from cloister.simulations.scenarios.figures import PRIVATE
from cloister.simulations.scenarios.file import described
from cloister.simulations.scenarios.simulation import named

Method: TypeAlias = Literal[
    "local_only",
    "local_only_private",
    "pooled",
    "pooled_private",
    "federated_ridge",
    "federated_local",
    "federated_joint",
]

MOST_CELLS = 20_000
_SEE = 'docs/simulation.md, "Sweeps"'


@dataclass(frozen=True, order=True)
class Place:
    """What cells share that differ in nothing but method and target: their sites are made once.

    Attributes:
        seed: of splits, held-back rows and noise.
        sites, skew: see ``Mix``; 0 stands for None, so that places have an order.
    """

    seed: int
    sites: int
    skew: float

    @property
    def mix(self) -> Mix:
        """How rows are dealt out."""
        return Mix(self.sites or None, self.skew or None)


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        place: its sites.
        method: of ``METHODS``.
        epsilon: the target; 0 without privacy, for a method of which no target changes anything.
    """

    place: Place
    method: str
    epsilon: float

    @property
    def key(self) -> str:
        """Its name among the cells of one sweep."""
        at = self.place
        return canonical.digest_of([at.seed, at.sites, at.skew, self.method, self.epsilon])[7:31]


class Sweep(BaseModel):
    """The fields of the file; unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    scenario: str = Field(min_length=1)
    epsilon: list[Annotated[float, Field(gt=0, le=1000)]] = Field(min_length=1)
    delta: float | None = Field(default=None, gt=0, lt=1)
    sites: list[Annotated[int, Field(ge=3, le=50)]] = Field(default=[], max_length=50)
    skew: list[Annotated[float, Field(ge=0.001, le=1e6)]] = Field(default=[], max_length=50)
    methods: list[Method] = Field(default=list(get_args(Method)), min_length=1)
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(default=[0], min_length=1)

    @field_validator("epsilon", "sites", "skew", "methods", "seeds")
    @classmethod
    def _once(cls, values: list[Any]) -> list[Any]:
        if len(set(values)) != len(values):
            raise ValueError("a value stands in it twice")
        return values

    def cells(self) -> tuple[Cell, ...]:
        """Every cell, place by place; methods without privacy once, whatever the targets are."""
        return tuple(cell for place in self._places() for cell in self._at(place))

    def _places(self) -> Iterator[Place]:
        for seed, sites, skew in itertools.product(self.seeds, self.sites or [0], self.skew or [0.0]):
            yield Place(seed, sites, skew)

    def _at(self, place: Place) -> Iterator[Cell]:
        for method in self.methods:
            for epsilon in self.epsilon if method in PRIVATE else [0.0]:
                yield Cell(place, method, epsilon)


@dataclass(frozen=True)
class Order:
    """A sweep and the scenario that it names.

    Attributes:
        sweep: the file's fields.
        scenario: what is swept.
    """

    sweep: Sweep
    scenario: Scenario

    @property
    def delta(self) -> float:
        """Of the private methods."""
        return self.scenario.delta if self.sweep.delta is None else self.sweep.delta


def read(path: Path) -> Order:
    """The sweep of a file.

    Raises:
        InputError: ``file_missing``, ``file_format`` with the field.
        UsageError: ``option_invalid``: there is no such scenario, or it has no such dial.
    """
    sweep = described(path, lambda value: Sweep.model_validate(_numbers(value)), _SEE)
    return ordered(sweep, path.parent)


def ordered(sweep: Sweep, beside: Path = Path()) -> Order:
    """A sweep with its scenario.

    Args:
        sweep: what to run.
        beside: the folder that a scenario's file is looked for in.

    Raises:
        UsageError: ``option_invalid``.
        InputError: as ``scenarios.file.from_file``.
    """
    own = sweep.scenario.endswith(".toml")
    scenario = named(beside / sweep.scenario if own else sweep.scenario)
    if not scenario.swept:
        raise UsageError(
            "option_invalid",
            f"{scenario.name} is one run of a test of the machinery: there is nothing to sweep.",
            "Take another scenario, or run `cloister simulate` with several values of --seed.",
        )
    asked = {name for name in ("sites", "skew") if getattr(sweep, name)}
    fixed = sorted(asked - scenario.dials)
    if fixed:
        raise UsageError(
            "option_invalid",
            f"The sites of {scenario.name} are what they are: a sweep cannot change {' or '.join(fixed)}.",
            f"Leave out {' and '.join(fixed)}, or take another scenario.",
        )
    if len(sweep.cells()) > MOST_CELLS:
        raise UsageError(
            "option_invalid",
            f"The product has {len(sweep.cells())} cells, and {MOST_CELLS} are the most.",
            "Take fewer values, or several sweeps.",
        )
    return Order(sweep, scenario)


def _numbers(value: dict[str, Any]) -> dict[str, Any]:
    """The same with whole numbers as numbers where TOML's ``epsilon = [1, 3]`` means them."""
    real = ("epsilon", "skew")
    return {
        name: [float(each) if type(each) is int else each for each in held]
        if name in real and isinstance(held, list)
        else held
        for name, held in value.items()
    }
