"""The newest global models that a site has, on disk before it answers from one: changes are told of these.

A lead sends only what changed to a site whose answer to the round before it took; that site had the model
of that round on disk by then. Every model that comes out is checked against the digest that the lead
signed. They stay when the job is over: its end may be told twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cloister.privacy import durable
from cloister.privacy.update import Vector
from cloister.privacy.wire.messages import model_digest

_KEPT = 2
_WIRE = np.dtype("<f4")


@dataclass(frozen=True)
class HeldModels:
    """The models of one job: they are public among its parties, hence no secret.

    Attributes:
        folder: theirs alone.
    """

    folder: Path

    def find(self, digest: str) -> Vector | None:
        """The model of a digest, float32; None where it is not here, or not whole."""
        for path in self._all():
            data = path.read_bytes()
            model = np.frombuffer(data[: len(data) // 4 * 4], _WIRE).astype(np.float32)
            if model_digest(model) == digest:
                return model
        return None

    def of(self, number: int) -> Vector | None:
        """The model that a round started from, float32; None where it is not here."""
        path = self.folder / f"{number:05d}.model"
        if not path.is_file():
            return None
        data = path.read_bytes()
        return np.frombuffer(data[: len(data) // 4 * 4], _WIRE).astype(np.float32)

    def keep(self, number: int, model: Vector) -> None:
        """Writes the model that a round starts from, synced; the one before it stays.

        Raises:
            StateError: ``state_unwritable`` or ``disk_full``.
        """
        durable.private_folder(self.folder)
        durable.write(self.folder / f"{number:05d}.model", model.astype(_WIRE).tobytes())
        for old in self._all()[:-_KEPT]:
            old.unlink()

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("*.model"))
