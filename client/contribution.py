"""What one round's training gives: noise held to its reserve, change centred or coded, words for a sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cloister.client.centring import centred
from cloister.client.guard import Score
from cloister.client.replies import Replies
from cloister.client.site.entries import Reservation
from cloister.client.site.ledger import Ledger
from cloister.privacy.codecs import feedback
from cloister.privacy.dp import accounting
from cloister.privacy.dp.audit import Audit
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.entropy import Entropy, KeyStream, Ratchet
from cloister.privacy.errors import BudgetError
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.methods import Codec
from cloister.privacy.plan import Plan
from cloister.privacy.secagg import quantisation
from cloister.privacy.secagg.encoding import encode, residues
from cloister.privacy.secagg.terms import At
from cloister.privacy.update import Coded, Delta, Encoded, Share, Surplus, Vector
from cloister.privacy.wire.envelope import Header


class Learner(Protocol):
    """What a participant needs of the model: training for a round and keeping what arrives."""

    @property
    def audit(self) -> Audit | None:
        """Of the private steps; None where there are none."""
        ...

    def train(self, model: Vector, header: Header) -> Delta:
        """The delta of one round's local steps from ``model``, float32 (d,)."""
        ...

    def share(self, model: Vector, header: Header) -> Share:
        """This site's part of one joint step from ``model``."""
        ...

    def sums(self, header: Header) -> Encoded:
        """This site's part of the sum of an analytic round."""
        ...

    def surplus(self, header: Header, survivors: int) -> Surplus:
        """What of this site's noise in the round's step a sum over so many survivors does not need."""
        ...

    def keep(self, model: Vector, round: int) -> Score | None:
        """Takes note of the global model that stands after a round: evaluation at the site only."""
        ...

    def release(self, model: Vector) -> None:
        """Keeps the final model of the job at the site."""
        ...


def place(header: Header) -> At:
    """The secure sum that an envelope is about."""
    return At(header.round, header.step, header.attempt, header.model)


@dataclass(frozen=True)
class Contribution:
    """How a site's training of one job becomes what leaves it.

    Attributes:
        plan: the plan that was approved here.
        site: this site's name.
        ledger: the site's privacy ledger.
        entropy: the job's source of randomness.
        log: the site's event log.
        replies: what was answered before, with the models and rests that go with it.
    """

    plan: Plan
    site: str
    ledger: Ledger
    entropy: Entropy
    log: EventLog
    replies: Replies

    def of(
        self, learner: Learner, model: Vector, header: Header, reservation: Reservation | None
    ) -> Encoded | Coded:
        """What a round's training gives, as it travels; what it did is what was reserved for it.

        Raises:
            BudgetError: ``reservation_conflict``, the noise is not the one that was reserved.
        """
        if self.plan.release_in(header.round):
            return self._summed(learner.sums(header), header, reservation)
        if self.plan.joint:
            share = learner.share(model, header)
            if reservation is None or share.mechanisms != (reservation.mechanism,):
                raise BudgetError("reservation_conflict", "The share is not of the noise that was reserved.")
            self._tell(header, share.mechanisms)
            return residues(share)
        delta = learner.train(model, header)
        if reservation:
            self._tell(header, delta.mechanisms)
            self.ledger.spend(reservation, delta.mechanisms)
        if radius := self.plan.training.centred:
            delta = centred(delta, self._last_change(model, header.round), radius)
        if codec := self.plan.aggregation.codec:
            return self._coded(codec, delta, header)
        weight, few = self.plan.weight(self.site), self.plan.quantisation
        if few is None:
            return encode(delta, weight, self.plan.ring)
        rotated = quantisation.rotate(delta, weight, few, place(header))
        return quantisation.quantise(rotated, few, self.stream("rounding", header))

    def _last_change(self, model: Vector, round: int) -> Vector:
        """What the round before changed in the global model; zeros where this site was not in it."""
        before = self.replies.held.of(round - 1)
        return np.zeros_like(model) if before is None or before.shape != model.shape else model - before

    def _summed(self, encoded: Encoded, header: Header, reservation: Reservation | None) -> Encoded:
        """The part of an analytic sum, once what it did to the data is what was reserved for it."""
        if encoded.mechanisms != ((reservation.mechanism,) if reservation else ()):
            raise BudgetError("reservation_conflict", "The sums are not of the noise that was reserved.")
        if reservation:
            self._tell(header, encoded.mechanisms)
            if not self.plan.joint:
                self.ledger.spend(reservation, encoded.mechanisms)
        return encoded

    def _coded(self, codec: Codec, delta: Delta, header: Header) -> Coded:
        """The delta with what was left out before, coded; what is left out now is on disk."""
        rest = self.replies.rests.before(header.round, delta.values.size)
        fed = feedback.encode(codec, delta.values, rest)
        # What the lead will make of it is in range, or nothing leaves.
        encode(Delta(fed.values, ()), self.plan.weight(self.site), self.plan.ring)
        self.replies.rests.keep(header.round, fed.rest)
        return Coded(fed.content, delta.mechanisms)

    def _tell(self, header: Header, mechanisms: tuple[GaussianSteps, ...]) -> None:
        """Notes what the steps of a round did to the data; an event of the ledger follows and syncs it."""
        privacy = self.plan.privacy
        for block in accounting.merged(mechanisms):
            self.log.note(
                "dp.step_summary",
                job=self.plan.digest,
                round=header.round,
                mode=privacy.mode,
                unit=privacy.unit,
                mechanism="discrete-gaussian" if self.plan.joint else "gaussian",
                sampler="full-batch" if block.rate == 1 else "poisson",
                entropy="ratchet" if isinstance(self.entropy, Ratchet) else "fixed",
                noise_multiplier=block.noise_multiplier,
                clip=self.plan.bound_in(header.round),
                rate=block.rate,
                steps=block.steps,
            )

    def stream(self, purpose: str, header: Header) -> KeyStream:
        """The ratchet's key stream of one purpose in a sum."""
        return self.entropy.stream(
            purpose, round=header.round, step=header.step, attempt=header.attempt, model=header.model
        )
