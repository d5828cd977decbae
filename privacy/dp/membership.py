"""What scores tell about who was trained on: guesses, and the usual figures of a membership test.

A *trial* is a number of units of which a coin decided, each by itself and fairly, whether the model was
trained on them. The attacker has a score for each, higher where it believes so, and never the coins. What
``guessed`` counts goes into ``tails.epsilon_lower_bound``.

Formal guarantees:
    Only fair, independent coins make that bound one: where membership was decided otherwise, a model may
    tell members from others by what kind of units they are, and refute nothing. The figures of
    ``separation`` hold for these units alone; none of them is noised.

Sources: Steinke, Nasr, Jagielski 2023 (arXiv 2305.08846) for the guesses; Carlini et al. 2019, "The Secret
Sharer" (arXiv 1802.08232) for exposure; Carlini et al. 2022 (arXiv 2112.03570) for rates at few false alarms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Coins: TypeAlias = NDArray[np.bool_]

MOST_TRIALS = 100_000
"""More units than this are in no trial."""
FEWEST = 10
"""Figures of fewer members, or of fewer others, are not given: they would be about single units."""
_ALARMS = (0.01, 0.1)


@dataclass(frozen=True)
class Separation:
    """How well scores tell members from others.

    Attributes:
        auc: how often a random member scores higher than a random other; 0.5 says nothing.
        accused: the share of others that may be taken for members by mistake.
        found: the share of members that are found at that price.
        exposure: bits of the mean rank of a member among the others; about 1.44 says nothing.
    """

    auc: float
    accused: float
    found: float
    exposure: float


def guesses_of(trials: int) -> int:
    """How many coins are guessed, of so many: half, the surest on either side; an even number.

    Fixed with the number of units, before anything is scored: of the best of several numbers nothing follows.
    """
    return trials // 4 * 2


def guessed(scores: Floats, included: Coins, guesses: int) -> int:
    """How many guesses are right: the highest scores "was in", as many of the lowest "was not".

    Args:
        scores: shape (m,); equal ones keep their order.
        included: the coins, shape (m,).
        guesses: an even number up to m, fixed before.
    """
    told_in, told_out = told(scores, guesses)
    return int((~included[told_out]).sum() + included[told_in].sum())


def told(scores: Floats, guesses: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Places of those that are guessed to have been in, and of those not; shapes (guesses / 2,).

    Args:
        scores: shape (m,); equal ones keep their order.
        guesses: an even number up to m, fixed before.
    """
    half, order = guesses // 2, np.argsort(scores, kind="stable")
    return order[len(order) - half :], order[:half]


def separation(scores: Floats, included: Coins) -> Separation | None:
    """The usual figures; None where there are fewer than ``FEWEST`` members or others.

    Args:
        scores: shape (m,).
        included: the coins, shape (m,).
    """
    members, others = scores[included], np.sort(scores[~included])
    if min(len(members), len(others)) < FEWEST:
        return None
    below = np.searchsorted(others, members, "left")
    equal = np.searchsorted(others, members, "right") - below
    auc = float((below + equal / 2).mean()) / len(others)
    accused = next(share for share in _ALARMS if share * len(others) >= 1)
    allowed = math.floor(accused * len(others) + 1e-9)
    found = float((members > others[len(others) - allowed - 1]).mean())
    ranks = 1 + len(others) - below  # an other that scores the same stands before
    exposure = float((math.log2(len(others) + 1) - np.log2(ranks)).mean())
    return Separation(auc, accused, found, exposure)
