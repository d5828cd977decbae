"""A scenario of one's own, as a TOML file beside one's data.

::

    name = "intents"
    title = "Our branches recognise what customers ask for"
    story = "Why, in plain words."
    epsilon = 3.0
    delta = 1e-5
    data = "intents.csv"          # beside this file: CSV, JSON lines or Parquet
    text = "text"                 # its columns; person and site may be left out
    label = "label"
    person = "customer"
    group = "ward"                # its values are looked at one by one in the test
    split = "dirichlet:0.5"       # or natural:COLUMN, iid, pathological:K, quantity:ALPHA
    sites = 4
    reachable = 0.85              # for the planner, or left out: accuracy thought reachable without privacy
    common = 0.4                  # the share of the most common class; left out: classes alike in number
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cloister.client.site.persons import PersonColumn
from cloister.privacy.errors import InputError
from cloister.privacy.model import DEFAULT, describe
from cloister.simulations import stage
from cloister.simulations.expectation import Expectation
from cloister.simulations.scenarios.catalogue import AS_TOLD, Dial, Mix, Scenario
from cloister.simulations.scenarios.groups import Groups
from cloister.simulations.scenarios.material import Material, of_texts
from cloister.simulations.stage import Source

_T = TypeVar("_T")


class Description(BaseModel):
    """The fields of the file; unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")
    title: str = Field(min_length=1, max_length=200)
    story: str = Field(min_length=1, max_length=2000)
    epsilon: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    data: str
    text: str = "text"
    label: str = "label"
    person: str | None = None
    group: str | None = None
    split: str = "dirichlet:0.5"
    sites: int = Field(default=4, ge=3, le=50)
    model: str = DEFAULT
    reachable: float | None = Field(default=None, gt=0, lt=1)
    common: float | None = Field(default=None, gt=0, lt=1)


def described(path: Path, parse: Callable[[dict[str, Any]], _T], see: str = "docs/simulation.md") -> _T:
    """What a TOML file describes.

    Raises:
        InputError: ``file_missing``, ``file_format`` with the field.
    """
    try:
        return parse(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError("file_missing", f"{path} cannot be read.", "Name a .toml file.") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError("file_format", f"{path} is not TOML: {error}.", "Correct it.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError("file_format", f"{path}: {where}: {first['msg']}.", f"See {see}.") from error


def from_file(path: Path) -> Scenario:
    """The scenario of a file.

    Raises:
        InputError: ``file_missing``, ``file_format`` with the field.
    """
    found = described(path, Description.model_validate)
    if found.group and found.split.startswith("natural:") and found.split != f"natural:{found.group}":
        raise InputError(
            "file_format",
            f"{path}: group: with split {found.split} the groups can only be those of its column.",
            "Leave group out, or name the same column.",
        )
    if found.common is not None and found.reachable is None:
        raise InputError(
            "file_format", f"{path}: common: without reachable it says nothing.", "Give both, or neither."
        )
    if found.common is not None and found.reachable is not None and found.reachable <= found.common:
        raise InputError(
            "file_format",
            f"{path}: reachable: whoever always answers the most common class has {found.common:g} right.",
            "Give a larger one, or leave both out.",
        )
    return _scenario(found, path)


def _scenario(found: Description, path: Path) -> Scenario:
    source = path.parent / found.data

    def material(_: Path, seed: int, mix: Mix = AS_TOLD) -> Material:
        person = PersonColumn(found.person, missing="refuse") if found.person else None
        split = found.split if mix.skew is None else f"dirichlet:{mix.skew}"
        given = Source(source, found.text, found.label, found.group, split, person)
        play = stage.from_file(given, mix.sites or found.sites, seed)
        values = play.test.sites if found.group else None
        groups = Groups(found.group, values) if found.group and values else None
        return of_texts(describe(found.model), play.train, play.test, groups)

    return Scenario(
        found.name,
        found.title,
        found.story,
        found.epsilon,
        found.delta,
        material,
        dials=_dials(found.split),
        beside=(path, source),
        expected=None if found.reachable is None else Expectation(found.reachable, found.common),
    )


def _dials(split: str) -> frozenset[Dial]:
    """What a sweep may change: where the rows say themselves which site they are from, nothing."""
    if split.startswith("natural:"):
        return frozenset()
    return frozenset({"sites", "skew"}) if split.startswith("dirichlet:") else frozenset({"sites"})
