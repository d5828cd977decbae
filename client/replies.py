"""What a site has answered in one job, on disk: once it is stored only these bytes are ever sent."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from pathlib import Path

from cloister.client.held import HeldModels
from cloister.client.rests import Rests
from cloister.privacy import canonical, durable
from cloister.privacy.errors import ChannelError
from cloister.privacy.identity import PrivateIdentity, PublicIdentity
from cloister.privacy.update import Sealed
from cloister.privacy.vault import CLEAR, Vault
from cloister.privacy.wire.envelope import Header, peek, seal


@dataclass(frozen=True)
class Replies:
    """The sealed replies of one job on disk, and what goes with them; only the newest reply is kept.

    Attributes:
        folder: theirs alone.
        rests: what coded replies left out.
        held: the models that replies started from.
    """

    folder: Path
    vault: InitVar[Vault] = CLEAR
    rests: Rests = field(init=False)
    held: HeldModels = field(init=False)

    def __post_init__(self, vault: Vault) -> None:
        object.__setattr__(self, "rests", Rests(self.folder.with_name("rests"), vault))
        object.__setattr__(self, "held", HeldModels(self.folder.with_name("models")))

    def _path(self, number: int, attempt: int) -> Path:
        return self.folder / f"round-{number:05d}-{attempt:05d}.sealed"

    def load(self, header: Header) -> Sealed | None:
        """The stored reply to a task, or None.

        Raises:
            ChannelError: ``replay``, the round is over, or was answered from another global model.
        """
        newest = max(self.folder.glob("round-*.sealed"), default=None)
        path = self._path(header.round, header.attempt)
        if newest is None or newest.name < path.name:
            return None
        if newest != path:
            raise ChannelError("replay", f"Round {header.round} was asked for again after it was over.")
        sealed = Sealed(data := path.read_bytes(), canonical.digest(data))
        if peek(data, len(data)).model != header.model:
            raise ChannelError("replay", f"Round {header.round} was asked for again with another model.")
        return sealed

    def store(self, header: Header, sealed: Sealed) -> None:
        """Writes a reply, synced, then drops the ones of earlier rounds."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._path(header.round, header.attempt)
        durable.write(path, sealed.data)
        for old in self.folder.glob("round-*.sealed"):
            if old.name < path.name:
                old.unlink()


@dataclass(frozen=True)
class Sealer:
    """Signs and seals what a site answers the lead.

    Attributes:
        identity: the site's keys.
        lead: for whom answers are.
    """

    identity: PrivateIdentity
    lead: PublicIdentity

    def seal(self, asked: Header, kind: str, content: bytes) -> Sealed:
        """The answer of some kind to what a header asked."""
        header = Header(
            kind=kind,
            consortium=asked.consortium,
            plan=asked.plan,
            round=asked.round,
            step=asked.step,
            attempt=asked.attempt,
            sender=self.identity.public.name,
            recipient=asked.sender,
            model=asked.model,
        )
        data = seal(header, content, self.identity, self.lead)
        return Sealed(data, canonical.digest(data))
