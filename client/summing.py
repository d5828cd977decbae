"""A site's answers on the way of a secure sum, each with its event: keys, survivors, openings, surplus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloister.client.charges import Charges
from cloister.client.contribution import Contribution, Learner, place
from cloister.client.replies import Replies, Sealer
from cloister.client.sums import SecureSums
from cloister.privacy.errors import AggregationError
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.plan import Plan
from cloister.privacy.secagg.encoding import residues
from cloister.privacy.secagg.rounds import SEED
from cloister.privacy.update import Encoded, Sealed
from cloister.privacy.wire import sums
from cloister.privacy.wire.envelope import Header, Opened


@dataclass(frozen=True)
class Summing:
    """Secure aggregation as one job's lead asks for it.

    Attributes:
        plan: the plan that was approved here.
        secure: keys and sums of the job, on disk before an answer leaves.
        contribution: whose ratchet gives the seeds of masks.
        charges: a joint step is settled before this site opens its part.
        log: the site's event log.
        sealer: seals answers for the lead.
        folder: where masked surplus noise is stored.
    """

    plan: Plan
    secure: SecureSums
    contribution: Contribution
    charges: Charges
    log: EventLog
    sealer: Sealer
    folder: Path

    def mask(self, header: Header, encoded: Encoded, over: tuple[str, ...] = ()) -> Sealed:
        """An update masked, so that the lead cannot read it, and sealed; ``over`` as in ``SiteSums.mask``."""
        seed = self.contribution.stream("self-mask", header).bytes(SEED)
        masked = self.secure.mask(place(header), encoded, seed, over)
        return self.sealer.seal(header, sums.MASKED, sums.masked_to_bytes(masked, encoded.bits))

    def answer(self, opened: Opened, learner: Learner) -> Sealed:
        """The answer to a step of secure aggregation: agreeing on keys, or on the way of a sum.

        Raises:
            AggregationError: a step out of its order, or another set, sum or model than this site knows.
            ChannelError: ``replay``.
        """
        header, content, secure = opened.header, opened.content, self.secure
        match header.kind:
            case sums.SURPLUS:
                return self._give_surplus(opened, learner)
            case sums.SURVIVE | sums.OPEN | sums.RECOVER:
                return self._open_sum(opened)
            case sums.INTRODUCE:
                return self.sealer.seal(header, sums.INTRODUCTION, secure.introduce())
            case sums.AGREE:
                return self.sealer.seal(header, sums.AGREEMENTS, secure.agree(content))
            case _:
                before, answer = secure.agreed, secure.adopt(content)
                if not before:
                    self.log.append("sum.agreed", job=self.plan.digest, sites=sorted(secure.terms.sites))
                return self.sealer.seal(header, sums.ADOPTED, answer)

    def _open_sum(self, opened: Opened) -> Sealed:
        """What the survivors of a sum are asked: to sign who they are, and to open what cancels."""
        header, content, secure = opened.header, opened.content, self.secure
        at, job = place(header), self.plan.digest
        match header.kind:
            case sums.SURVIVE:
                known, answer = secure.signed, secure.sign(at, content)
                self._tell(known, "sum.signed", header, survivors=sorted(secure.survivors))
                return self.sealer.seal(header, sums.SIGNED, answer)
            case sums.OPEN:
                known, answer = secure.opened, secure.open(at, content)
                if not header.step:
                    self.charges.settle(header, len(secure.survivors))
                missing = sorted(set(secure.terms.sites) - set(secure.survivors))
                self._tell(known, "sum.opened", header, missing=missing)
                return self.sealer.seal(header, sums.OPENED, answer)
            case _:
                answer = secure.recover(at, content)
                lost = sorted(sums.shares_from_bytes(content))
                self.log.append("sum.recovered", job=job, round=header.round, step=header.step, lost=lost)
                return self.sealer.seal(header, sums.SHARES, answer)

    def _tell(self, known: bool, kind: str, header: Header, **sites: Any) -> None:
        """Writes a step of a sum down, once; one that is known may have been lost before it was written."""
        about: dict[str, Any] = {"job": self.plan.digest, "round": header.round}
        told = ((e.type, e.job, e.round, e.body.get("step")) for e in self.log.entries())
        if not known or (kind, *about.values(), header.step) not in told:
            self.log.append(kind, **about, step=header.step, **sites)

    def _give_surplus(self, opened: Opened, learner: Learner) -> Sealed:
        """This site's surplus noise in a step that it opened, masked for the sum that takes it back.

        Raises:
            AggregationError: ``surplus_refused``, ``sum_over``.
            ChannelError: ``replay``.
        """
        header, secure, replies = opened.header, self.secure, Replies(self.folder)
        if stored := replies.load(header):
            if secure.round == header.round and not self._has_given(stored):  # a crash came before the log
                self._tell_surplus(header, stored, secure.survivors)
            return stored
        if self.plan.release_in(header.round):
            raise AggregationError("surplus_refused", "An analytic round has no noise that is taken back.")
        over = secure.surplus(place(header), opened.content)
        self.charges.settle(header, len(over))  # before it gives any, also after a crash in the opening
        # The start of this round once more; a later one refuses.
        self.contribution.entropy.advance(header.round)
        encoded = residues(learner.surplus(header, len(over)))
        sealed = self.mask(header, encoded, over)
        replies.store(header, sealed)
        self._tell_surplus(header, sealed, over)
        return sealed

    def _tell_surplus(self, header: Header, sealed: Sealed, survivors: tuple[str, ...]) -> None:
        """Writes down that surplus noise leaves, and how much noise stays in the sum."""
        self.log.append(
            "surplus.given",
            job=self.plan.digest,
            round=header.round,
            survivors=sorted(survivors),
            sealed=sealed.digest,
            bytes=len(sealed.data),
            noise_left=self.plan.grid.left(len(survivors)),
        )

    def _has_given(self, sealed: Sealed) -> bool:
        given = (e.body["sealed"] for e in self.log.entries() if e.type == "surplus.given")
        return sealed.digest in given
