"""What a running site says of its budget: a line when a job is first charged, then one every half minute.

The sum is the ledger's, which is in the event log too; a line is said when it has grown.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from cloister.client.site.ledger import Ledger
from cloister.privacy.evidence.kinds import rounded_up
from cloister.privacy.plan import Plan

EVERY_S = 30.0


class Spending:
    """What is spent, job by job.

    Args:
        ledger: the site's.
        clock: seconds that only go on.
    """

    def __init__(self, ledger: Ledger, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger, self._clock = ledger, clock
        self._looked: dict[str, float] = {}
        self._said: dict[str, float] = {}

    def line(self, plan: Plan, dataset: str, *, ended: bool = False) -> str | None:
        """What to say of a job now; None for nothing new.

        Args:
            plan: of the job.
            dataset: that it is charged to.
            ended: whether it is over, so that the last sum is said without waiting.
        """
        job, now = plan.digest, self._clock()
        if plan.privacy.mode == "off" or (ended and job not in self._said):
            return None
        if not ended and now - self._looked.get(job, -EVERY_S) < EVERY_S:
            return None
        newest = self._ledger.newest(dataset, job)
        if newest is None:
            return None
        self._looked[job] = now
        total, number = newest.total, newest.reservation.round
        if self._said.get(job) == total:
            return None
        self._said[job] = total
        limit = next(one.epsilon for one in self._ledger.budgets() if one.dataset == dataset)
        spent = f"epsilon {rounded_up(total)} of {limit:g} is spent on {dataset}"
        return f"{job[7:19]}: charged up to round {number} of {plan.training.rounds}; {spent}."
