"""The opening of a site's canaries: what it was bound to before the first round, and what it guessed.

``openings/<site>.json`` in a bundle, named by digest in the site's ``audit.opened``. With it the number of
right guesses is no word of the site: it follows from coins that the log was bound to, and from guesses that
the site states. Whoever has the base model and the final one can make the false records again
(``client.site.canaries``) and the guesses, too.

Canaries are made from the operating system's randomness and from no record, and each job has its own: when
the job is over, opening them tells nothing of anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from cloister.privacy import canonical
from cloister.privacy.clauses import Digest
from cloister.privacy.dp.membership import MOST_TRIALS
from cloister.privacy.errors import EvidenceError
from cloister.privacy.frozen import Part

Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2}){1,64}$")]
Places = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=MOST_TRIALS)]


def bound(job: str, guesses: int, key: str, coins: Mapping[str, canonical.Json]) -> str:
    """The commitment to the canaries of a job: tells nobody what they are.

    Args:
        job: digest of the plan.
        guesses: how many coins will be guessed.
        key: what words and classes are made from, as hex.
        coins: ``included`` and ``nonce`` (``dp.audit.Coins``).
    """
    return canonical.digest_of({"job": job, "guesses": guesses, "key": key, **coins})


class Opening(Part):
    """The canaries of one job at one site, opened.

    Attributes:
        key, included, nonce: what the commitment is to.
        told_in, told_out: places of those of which the site guessed that they were, or were not, trained on.
        recited: places of those whose answer the model gave word for word; absent from the bytes where the
            model writes nothing.
    """

    version: Literal[1] = 1
    job: Digest
    key: Hex
    included: Annotated[str, Field(pattern=r"^[01]+$", max_length=MOST_TRIALS)]
    nonce: Hex
    told_in: Places
    told_out: Places
    recited: Places | None = None

    @property
    def guesses(self) -> int:
        """How many coins were guessed."""
        return len(self.told_in) + len(self.told_out)

    @property
    def commitment(self) -> str:
        """What the log must have been bound to."""
        return bound(self.job, self.guesses, self.key, {"included": self.included, "nonce": self.nonce})

    @property
    def possible(self) -> bool:
        """Whether the guesses are about its coins, one each, as many one way as the other."""
        told = {*self.told_in, *self.told_out}
        recited = self.recited or ()
        return (
            len(told) == self.guesses == 2 * len(self.told_in)
            and max((*told, *recited), default=-1) < len(self.included)
            and len({*recited}) == len(recited)
        )

    @property
    def correct(self) -> int:
        """How many guesses are right."""
        right = sum(self.included[place] == "1" for place in self.told_in)
        return right + sum(self.included[place] == "0" for place in self.told_out)

    def drawn(self, *, trained: bool) -> int:
        """How many of those that were trained on, or were not, the model gave word for word."""
        return sum((self.included[place] == "1") is trained for place in self.recited or ())

    def to_bytes(self) -> bytes:
        """The canonical bytes."""
        return canonical.encode(self.model_dump(mode="json", exclude_none=True))

    @classmethod
    def from_bytes(cls, data: bytes) -> Opening:
        """What ``to_bytes`` gives; raises ``EvidenceError`` ``bundle_altered`` for anything else."""
        refusal = EvidenceError("bundle_altered", "it cannot be read: this opens no canaries.")
        try:
            found = cls.model_validate_json(data)
        except ValidationError as error:
            raise refusal from error
        if found.to_bytes() != data or not found.possible:
            raise refusal
        return found


def opening_place(writer: str) -> str:
    """Where a bundle has a site's opening."""
    return f"openings/{writer}.json"
