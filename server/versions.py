"""The global models of a job that the lead keeps, to go back to: the checkpoints after its newest rounds.

=====================  =======================================================================
``versions/00012``     the checkpoint after round 12; the newest ``KEPT`` are there
``versions.jsonl``     one line a round: the model's digest and how far it is from the one before
=====================  =======================================================================

A joint job keeps the lines only: its sites follow every step, so nobody can lead them back.

What a lead can watch is the sum alone: under secure aggregation no update of one site is ever seen.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from cloister.privacy import canonical, durable
from cloister.privacy.errors import ModelError, StateError
from cloister.privacy.plan import Plan
from cloister.privacy.update import Vector
from cloister.privacy.vault import CLEAR, Vault
from cloister.privacy.wire.messages import model_digest
from cloister.server.checkpoint import Checkpoint

KEPT = 10
FACTOR = 3.0
"""A change is out of the ordinary when it is so many times the median of those before."""

_EARLIEST = 3


@dataclass(frozen=True)
class Version:
    """A global model after a round.

    Attributes:
        round: after which it stands.
        model: its digest.
        norm: Euclidean length of what the round changed.
        jumped: the change was far larger than the ones before (``FACTOR``).
    """

    round: int
    model: str
    norm: float
    jumped: bool


@dataclass
class _Seen:
    """What is remembered of a job's versions: little, for there is one a round.

    Attributes:
        round: of the newest; 0 before the first.
        norms: of those that changed anything.
    """

    round: int = 0
    norms: array[float] = field(default_factory=lambda: array("d"))

    def add(self, version: Version) -> None:
        """Takes note of a version."""
        self.round = version.round
        if version.norm > 0:
            self.norms.append(version.norm)


@dataclass(frozen=True)
class Versions:
    """The kept models of one job.

    Attributes:
        folder: of the job.
        plan: of the job.
        vault: how the lead's folder keeps secrets: checkpoints are.
    """

    folder: Path
    plan: Plan
    vault: Vault = CLEAR
    _seen: _Seen = field(default_factory=_Seen, init=False, repr=False, compare=False)

    def keep(self, before: Vector, state: Checkpoint) -> Version | None:
        """Takes note of a checkpoint that was just saved; again has no effect.

        Args:
            before: the global model before the round, float32, shape (d,).
            state: after it.

        Returns:
            The new version; None if the round is noted already.

        Raises:
            StateError: the folder cannot be written.
        """
        seen = self._seen
        if not seen.round:  # whoever keeps versions is the only one; the file is read once
            for version in self.all():
                seen.add(version)
        if state.round <= seen.round:
            return None
        norm = float(np.linalg.norm((state.model - before).astype(np.float64)))
        jumped = len(seen.norms) >= _EARLIEST and norm > FACTOR * median(seen.norms)
        made = Version(state.round, model_digest(state.model), norm, jumped)
        if not self.plan.joint:
            self._store(state)
        written = self._lines.read_bytes() if self._lines.exists() else b""
        durable.write(self._lines, written + canonical.encode(vars(made)) + b"\n", sync=False)
        seen.add(made)
        return made

    def all(self) -> tuple[Version, ...]:
        """Every version of the job, oldest first; not all of their models are kept."""
        damaged = StateError("state_damaged", f"{self._lines} is damaged.", "Take it away.")
        lines = self._lines.read_bytes().splitlines() if self._lines.exists() else []
        try:
            return tuple(Version(**canonical.decode(line, otherwise=damaged)) for line in lines)
        except TypeError as error:
            raise damaged from error

    def has(self, round: int) -> bool:
        """Whether the model after a round is kept."""
        return self._place(round).exists()

    def load(self, round: int) -> Checkpoint:
        """The checkpoint after a round.

        Raises:
            ModelError: ``version_missing``.
            StateError: as ``Checkpoint.load``.
        """
        if not self.has(round):
            kept = [version.round for version in self.all() if self.has(version.round)]
            raise ModelError(
                "version_missing",
                f"The global model after round {round} is not kept.",
                f"There are those after rounds {', '.join(map(str, kept))}." if kept else "",
            )
        return Checkpoint.load(self._place(round), self.plan.digest, self.vault)

    def _store(self, state: Checkpoint) -> None:
        place = self._place(state.round)
        durable.private_folder(place.parent)
        state.save(place, self.vault)
        for old in sorted(place.parent.glob("[0-9]*"))[:-KEPT]:
            old.unlink()

    def _place(self, round: int) -> Path:
        return self.folder / "versions" / f"{round:05d}"

    @property
    def _lines(self) -> Path:
        return self.folder / "versions.jsonl"
