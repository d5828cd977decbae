"""What a site's coded updates left out, on disk before the reply that it belongs to: one file a round.

A round starts from the rest of the newest round before it. If the power fails after the rest was written and
before the reply was, the round is computed again, from the same rest, and gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cloister.privacy import canonical, durable
from cloister.privacy.errors import StateError
from cloister.privacy.update import Vector
from cloister.privacy.vault import CLEAR, Vault

_WIRE = np.dtype("<f4")


@dataclass(frozen=True)
class Rests:
    """The rests of one job.

    Attributes:
        folder: theirs alone.
        vault: how the site keeps secrets: without privacy, a rest tells of the records.
    """

    folder: Path
    vault: Vault = CLEAR

    def before(self, number: int, parameters: int) -> Vector | None:
        """What a round starts from, float32, shape (parameters,); None where nothing was left out before.

        Raises:
            StateError: ``state_damaged``, ``permissions``, ``state_sealed``.
        """
        path = max((path for path in self._all() if path.name < _name(number)), default=None)
        if path is None:
            return None
        digest, _, body = self.vault.read(path).partition(b"\n")
        if len(body) != _WIRE.itemsize * parameters or canonical.digest(body).encode() != digest:
            raise StateError(
                "state_damaged", f"{path} is not what an update left out.", "Take it away: one rest is lost."
            )
        return np.frombuffer(body, _WIRE).astype(np.float32)

    def keep(self, number: int, rest: Vector) -> None:
        """Writes what a round leaves, synced; of those before, the one that it started from stays.

        Raises:
            StateError: ``state_unwritable`` or ``disk_full``.
        """
        durable.private_folder(self.folder)
        body = rest.astype(_WIRE).tobytes()
        self.vault.write(self.folder / _name(number), canonical.digest(body).encode() + b"\n" + body)
        for old in [path for path in self._all() if path.name < _name(number)][:-1]:
            old.unlink()

    def forget(self) -> None:
        """Leaves none behind: the job is over."""
        for path in self._all():
            path.unlink()

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("*.rest"))


def _name(number: int) -> str:
    return f"{number:05d}.rest"
