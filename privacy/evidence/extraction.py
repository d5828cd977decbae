"""What a model that writes gave away of false records: how many answers, and what share that may be.

The shares are one-sided 95 % bounds of Clopper and Pearson (1934) on how often an answer comes out that the
model was trained on, and on how often one does that it was not: nobody comes upon random words by chance.
They hold for one model and canaries of one kind; what a text of other records would do, they do not say.
"""

from __future__ import annotations

import math
from typing import Annotated, Self

from pydantic import Field, model_validator

from cloister.privacy.clauses import Digest, Name
from cloister.privacy.dp import tails
from cloister.privacy.dp.membership import FEWEST, MOST_TRIALS
from cloister.privacy.evidence.kinds import Whole
from cloister.privacy.frozen import Part

Bound = Annotated[str, Field(pattern=r"^[01]\.\d{3}$")]


class Extraction(Part):
    """The answers of canaries that came out word for word when the finished model was asked for them.

    Attributes:
        model: digest of the model that was asked.
        commitment: to the canaries, from the site's log before its first step.
        trained, extracted: canaries that it was trained on, and those of them whose answer came out.
        others, guessed: canaries that it was not trained on, likewise.
        before: how many of the former its base model gave.
        at_least, at_most: the share of the former, each end at 95 % confidence.
        others_at_most: the share of the others at most.
        covered: whether these figures are covered by the job's epsilon.
        opened: whether the canaries are shown, so that the numbers follow from which of them came out.
    """

    site: Name
    model: Digest
    commitment: Digest
    trained: Whole
    extracted: Whole
    others: Whole
    guessed: Whole
    before: Whole
    at_least: Bound
    at_most: Bound
    others_at_most: Bound
    covered: bool
    opened: bool = False

    @property
    def found(self) -> bool:
        """Whether more came out than chance or the base model explain."""
        return float(self.at_least) > float(self.others_at_most) and int(self.extracted) > int(self.before)

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        counts = {name: int(getattr(self, name)) for name in ("trained", "extracted", "others", "guessed")}
        if not possible(**counts, before=int(self.before)):
            raise ValueError("an extraction cannot have these numbers")
        if shares(**counts) != {name: getattr(self, name) for name in _SHARES}:
            raise ValueError("the shares of an extraction do not follow from its numbers")
        return self


_SHARES = ("at_least", "at_most", "others_at_most")


def possible(trained: int, extracted: int, others: int, guessed: int, before: int) -> bool:
    """Whether these can be the numbers of one attack; of few canaries they are not told."""
    fits = extracted <= trained and guessed <= others and before <= trained
    return fits and min(trained, others) >= FEWEST and trained + others <= MOST_TRIALS


def shares(trained: int, extracted: int, others: int, guessed: int) -> dict[str, str]:
    """The bounds, rounded outwards."""
    return {
        "at_least": f"{math.floor(1000 * tails.share_at_least(extracted, trained)) / 1000:.3f}",
        "at_most": _ceiling(tails.share_at_most(extracted, trained)),
        "others_at_most": _ceiling(tails.share_at_most(guessed, others)),
    }


def _ceiling(share: float) -> str:
    return f"{math.ceil(1000 * share) / 1000:.3f}"
