"""What a lead chooses of an analytic round, with public defaults.

The defaults are those that the simulations take (``simulations.scenarios.choices``, ``simulations.bench``):
random cosines where nothing is noised, few coordinates and a light X'X where much is. None of them looks at
any data; row bands, which are public, decide how many cosines there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from cloister.privacy import canonical
from cloister.privacy.analytic.constants import Analytic, Start
from cloister.privacy.clauses import Aggregation, Privacy, Site, Training

SEED = canonical.digest(b"cloister/cosines/1")
"""Nothing-up-my-sleeve: the same features in every plan and simulation."""

FEW, MANY, MANY_ROWS = 512, 2048, 4000
"""Cosines up to so many rows of all sites together, and above."""


@dataclass(frozen=True)
class Choice:
    """An analytic round as an operator asks for it.

    Attributes:
        kind: ``ridge``, or ``means``, which loses less where noise is large or classes are many.
        cosines: random cosine features; None for the usual number.
        ridge: r; None for the usual one.
    """

    kind: Literal["ridge", "means"] = "ridge"
    cosines: int | None = None
    ridge: float | None = None

    def constants(self, inputs: int, sites: tuple[Site, ...], *, private: bool) -> Analytic:
        """The constants of a plan over these sites, on features of a width."""
        light = private and self.kind == "ridge"
        usual = 0
        if self.kind == "ridge" and not private:
            usual = MANY if sum(site.rows.high for site in sites) > MANY_ROWS else FEW
        return Analytic(
            kind=self.kind,
            inputs=inputs,
            cosines=usual if self.cosines is None else self.cosines,
            bandwidth=math.sqrt(2),
            seed=SEED,
            scale=1.0,
            constant=0.3 if light else 1.0,
            weight=0.5 if light else 1.0,
            ridge=self.ridge or (1.0 if private else 0.3),
            noise_share=0.5 if light else 0.0,
        )


GAIN = 2.0
"""What a start is multiplied with; chosen on a tenth of banking77's training rows."""
_START_BOUND = 1.0  # rows are cut to norm 1, and the sums of a unit are little longer


def start(choice: Choice | None, inputs: int, sites: tuple[Site, ...], *, private: bool) -> Start | None:
    """The start of a plan over these sites, on features of a width; never with cosines."""
    if choice is None:
        return None
    analytic = replace(choice, cosines=0).constants(inputs, sites, private=private)
    return Start(analytic=analytic, bound=_START_BOUND, gain=GAIN)


def training(analytic: Analytic) -> Training:
    """One step on the full batch; its rates are used by nothing."""
    return Training(
        algorithm="analytic",
        rounds=1,
        steps=1,
        rate=1.0,
        optimizer="sgd",
        head_rate=1.0,
        adapter_rate=1.0,
        momentum=0.0,
        analytic=analytic,
    )


def ranged(
    how: Aggregation, analytic: Analytic, privacy: Privacy, sites: tuple[Site, ...], classes: int
) -> Aggregation:
    """The same aggregation with the range that the sums of a site may reach, by public bands.

    Raises:
        PlanError: ``plan_conflict``, the sums are too long, or no sound grid fits.
    """
    most = [site.rows.high if privacy.mode == "off" else site.units.high for site in sites]
    terms = analytic.terms(classes, privacy.bound)
    fewest, t = how.minimum_sites, how.colluding or 0
    release = analytic.release(terms, most, privacy.mode, privacy.noise_multiplier, fewest, t)
    return how.model_copy(update={"range": release.ring.range})
