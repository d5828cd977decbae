"""Where the benchmark of faults kills a process: functions of the product, in the order of the protocol."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Literal

SITE, LEAD, FLOWER, CABLE = "north", "lead", "flower", "cable"
"""The site that dies, the lead's own process, that of Flower's server beneath it, and the network between."""

Phase = Literal["start", "round", "end"]


@dataclass(frozen=True)
class Point:
    """A place in the code of one role.

    Attributes:
        phase: of the job, in which it is reached.
        role: whose code it is in.
        target: ``module:Class.method`` below ``cloister``, or ``module:function``.
        when: before the call, or after it.
        victim: who dies there; the cable is whole again after a while, and nobody starts anew.
    """

    phase: Phase
    role: str
    target: str
    when: Literal["before", "after"]
    victim: str

    @property
    def name(self) -> str:
        """What the table calls it."""
        whom = (
            ""
            if self.victim == self.role
            else f" ({self.victim} {'cut' if self.victim == CABLE else 'dies'})"
        )
        return f"{self.role}: {self.when} {self.target.partition(':')[2]}{whom}"

    def owner(self) -> tuple[Any, str]:
        """The class or module that holds the function, and the function's name in it."""
        module, _, path = self.target.partition(":")
        found: Any = importlib.import_module(f"cloister.{module}")
        *classes, name = path.split(".")
        for each in classes:
            found = getattr(found, each)
        return found, name


def _both(phase: Phase, role: str, *targets: str) -> tuple[Point, ...]:
    return tuple(Point(phase, role, target, when, role) for target in targets for when in ("before", "after"))


def _flower(*targets: str) -> tuple[Point, ...]:
    return tuple(Point("round", LEAD, target, "before", FLOWER) for target in targets)


def _cut(role: str, *targets: str) -> tuple[Point, ...]:
    return tuple(Point("round", role, target, "before", CABLE) for target in targets)


_SUMS, _PART = "client.sums:SecureSums", "client.participation:Participant"
_LEDGER, _LEARNER = "client.site.ledger:Ledger", "client.learn.learner:SiteLearner"
_RUN, _LEAD = "server.app:Federation", "server.lead:Lead"

POINTS: tuple[Point, ...] = (
    *_both("start", LEAD, "server.runtime:Runtime.start_run"),
    Point("start", LEAD, "server.sums:Adding.agree", "before", LEAD),
    *_both("start", SITE, f"{_SUMS}.introduce", f"{_SUMS}.agree", f"{_SUMS}.adopt"),
    Point("start", LEAD, "server.sums:Adding.agree", "after", LEAD),
    *_both("start", SITE, "client.pledges:Pledges.give"),
    *_both("round", SITE, f"{_PART}._task", f"{_PART}._fault", f"{_LEDGER}.reserve"),
    *_both("round", SITE, "privacy.entropy:Ratchet.advance", f"{_LEARNER}.train", f"{_LEDGER}.spend"),
    *_both("round", SITE, f"{_SUMS}.mask", "client.replies:Replies.store", f"{_LEDGER}.release"),
    *_both("round", SITE, "privacy.durable:write", "privacy.evidence.log:EventLog.append"),
    *_both("round", SITE, "client.node:Node.pull", "client.node:Node.push", "client.node:Node.confirm"),
    Point("round", SITE, "client.node:Node._push_objects", "before", SITE),  # announced, and not there
    *_both("round", SITE, f"{_SUMS}.sign", f"{_SUMS}.open"),
    *_both("round", LEAD, f"{_RUN}._stage", "server.post:Post.send", f"{_RUN}._take"),
    *_both("round", LEAD, f"{_RUN}._add_up", "server.sums:Adding.open", f"{_RUN}._closed"),
    *_both("round", LEAD, "server.checkpoint:Checkpoint.save", "server.versions:Versions.keep"),
    *_both("round", LEAD, "privacy.evidence.log:EventLog.append"),
    *_flower("server.post:Post.send", f"{_RUN}._take", "server.sums:Adding.open", f"{_RUN}._closed"),
    *_cut(SITE, f"{_PART}._task", "client.node:Node.push", f"{_SUMS}.sign", f"{_SUMS}.open"),
    *_cut(LEAD, "server.post:Post.send", f"{_RUN}._take", "server.sums:Adding.open", f"{_RUN}._closed"),
    Point("end", LEAD, f"{_RUN}._finish", "before", LEAD),
    *_both("end", SITE, f"{_LEARNER}.release", "client.pledges:Pledges.conclude", f"{_SUMS}.finish"),
    *_both("end", SITE, "client.jobs:Job.close"),
    Point("end", LEAD, f"{_RUN}._finish", "after", LEAD),  # sites that have the final model are asked no more
    *_both("end", LEAD, f"{_LEAD}._finish"),
)

BEGUN = Point("start", LEAD, f"{_LEAD}._perform", "before", LEAD)
"""A job that every site has approved is about to run."""
