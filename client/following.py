"""A site follows the steps of a joint job: it takes each one again and refuses a model that is another.

It shows that the server steps as the plan says, from the sum that it claims. That the sum is the true one it
cannot show: a server can always make the result wrong, though it learns nothing by that. What sites sign of a
sum names the model that they start from, so nothing is opened for a server that gives them different ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cloister.privacy.descent import Memory, Steps, follows
from cloister.privacy.errors import AggregationError
from cloister.privacy.update import Vector
from cloister.privacy.wire.messages import Taken, Task


@dataclass(frozen=True, eq=False)
class _Seen:
    """The model that a round started from, and what the steps to it left; None where that is not known."""

    round: int
    model: Vector
    memory: Memory | None


@dataclass
class Following:
    """What a site remembers of the way; it lasts as long as the process.

    Attributes:
        descent: the steps of the plan.
        start: the model before the first step, which follows from the plan; float32, shape (d,).
    """

    descent: Steps
    start: Vector
    _seen: _Seen | None = field(default=None, init=False)

    def take(self, round: int, task: Task, signed: tuple[str, ...] = ()) -> bool:
        """Takes the step that led to the model of a round.

        Args:
            round: that starts from the task's model; one more than the plan has for the final one.
            task: of the lead.
            signed: the survivor set that this site signed in the round before; empty if it signed none.

        Returns:
            Whether the model was checked. A site that missed a round (a lead can make it miss one), or was
            started again, has to see two models before it can follow descent, and takes what Adam remembers
            from the lead; until then the others' signatures of the same model stand in. A lead that makes up
            what Adam remembers is found out, or makes this site refuse a model that is right.

        Raises:
            AggregationError: ``step_differs``.
        """
        seen, taken = self._seen, task.taken
        if taken is not None:
            self._check_survivors(taken, signed)
        if round == 1 and not np.array_equal(task.model, self.start):
            raise _differs(round, "it is not the plan's start")
        if seen is None or seen.round < round - 1:
            told = task.memory if self.descent.plan.remembered else None
            self._seen = _Seen(round, task.model, () if round == 1 else told)
            return round == 1
        if seen.round != round - 1 or taken is None:  # the same round again, or one that was given up
            if seen.round > round or not np.array_equal(task.model, seen.model):
                raise _differs(round, "no step has led to it")
            self._seen = _Seen(round, seen.model, seen.memory)
            return True
        if seen.memory is None:
            self._seen = _Seen(round, task.model, (task.model - seen.model,))
            return False
        step = self.descent.at(seen.round)
        if step is None:
            raise _differs(round, "the plan has no step there")
        change, memory = step.take(seen.memory, taken.words, taken.survivors)
        if not follows(seen.model + change, task.model):
            raise _differs(round, "the step from the opened sum leads elsewhere")
        self._seen = _Seen(round, task.model, memory)
        return True

    def _check_survivors(self, taken: Taken, signed: tuple[str, ...]) -> None:
        minimum = self.descent.plan.aggregation.minimum_sites
        if len(taken.survivors) < minimum or (signed and taken.survivors != signed):
            raise AggregationError(
                "step_differs", "A step was taken from a sum over another set of sites than was signed here."
            )


def _differs(round: int, why: str) -> AggregationError:
    return AggregationError(
        "step_differs",
        f"The global model of round {round} is not the one that the plan's steps lead to: {why}.",
        "Nothing was trained; compare the release that the lead runs.",
    )
