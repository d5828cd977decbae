"""Surplus noise of a joint step, taken back by a secure sum of noise alone.

A share of noise is sized for ``n_min`` survivors of which ``t`` may collude. Where more survive, more noise
is in the sum than the promise needs. So the noise of a site is made of parts (``dp.grid.Grid.parts``): one
that stays, and one for each site that may be lost. Once a step's sum is opened over a survivor set, the sites
of that set add up the parts for losses that did not happen, in a secure sum of its own, and the server takes
that sum out of the first. What is left of ``survivors - t`` shares is the plan's noise, never less. The idea
is that of XNoise: Jiang, Wang, Chen 2023, "Dordis: Efficient Federated Learning with Dropout-Resilient
Differential Privacy" (arXiv 2209.12528), where seeds of surplus parts are opened; here only their sum is.

It is step 1 of the round whose step 0 is the sum itself, with all the rules of ``rounds`` and these:

- a site gives its surplus only after it opened step 0, so T members of the set signed it, and there is no
  other set of the round for which that can be;
- how much is surplus follows from the set that the site itself signed, not from what the server says;
- the second sum is over exactly that set. If a member is lost before it sent its surplus, the others sign no
  other set: nothing is taken back, and the step is taken with all of its noise.

``docs/secure-aggregation.md`` argues why nobody learns more by it than by the step with the noise that is
left, for which every site is charged before it gives anything, whether its surplus is then asked for or not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.privacy.secagg.terms import At

Words: TypeAlias = NDArray[np.uint32]

STEP: Final = 1
"""The step of a round that adds up its surplus noise."""


def place(at: At) -> At:
    """The sum of the surplus noise that is in another sum."""
    return replace(at, step=STEP)


def without(words: Words, surplus: Words) -> Words:
    """The opened sum without its surplus noise, modulo 2^32, shape (d,).

    Formal guarantees:
        For the same survivors: bit for bit the sum of shares that never held the surplus parts.
    """
    left: Words = words - surplus
    return left
