"""The analytic round of a plan on rows that lie in one place: what its model is compared with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cloister.client.learn import analytic
from cloister.client.learn.features import Features
from cloister.privacy.analytic.release import Mode
from cloister.privacy.analytic.ridge import noise_ridge, solve
from cloister.privacy.analytic.solution import Solution, head
from cloister.privacy.entropy import KeyStream
from cloister.privacy.plan import Plan
from cloister.privacy.update import Vector


def alone(
    plan: Plan,
    features: Features,
    labels: NDArray[np.int64],
    units: NDArray[np.int64] | None,
    stream: KeyStream | None,
) -> Vector:
    """The head that the plan's constants give of these rows alone.

    Args:
        plan: an analytic one.
        features, labels, units: as in ``client.learn.analytic.sums``.
        stream: for noise of the plan's size, all of it from one place; None to add none.

    Raises:
        PlanError: ``plan_conflict``, the plan is not analytic.
        UpdateError: the sums have no solution.
    """
    step = Solution.of(plan)
    mode: Mode = "off" if stream is None else "local"
    constants, terms = step.analytic, step.release.terms
    sigma = 0.0 if stream is None else plan.privacy.noise_multiplier
    release = constants.release(terms, [max(1, len(labels))], mode, sigma, 0, 1)
    lifted = constants.lift(cut=mode != "off").rows(analytic.frozen(features))
    encoded = release.encoded(lifted, labels, units, stream or KeyStream(bytes(32)))
    total = release.decoded(np.frombuffer(encoded.content, dtype="<u4").astype(np.uint32))
    ridge = constants.ridge + noise_ridge(
        terms.width, release.deviation / terms.weight, constants.noise_share
    )
    return head(constants.lift(cut=False), solve(terms, total, ridge))
