"""A site's part in one job: answers the lead's envelopes, and answers each of them once.

The order of a round at the site, each step durable before the next:

1. open the task: signed by the lead of the approved plan, for this plan, site, round and model;
2. if a reply to this round and attempt is stored, send those bytes again and do nothing else;
3. ask the site's policy, which may refuse rounds now; then try the model on the site's held-out rows: the
   guard may refuse it;
4. bind the site to the coins of its audit, once, in the event log;
5. reserve the round's privacy cost in the ledger, which may refuse;
6. move the ratchet to the round, train, note what was spent, encode, mask where the plan says so, seal
   (in joint mode what was spent is noted when the sum is opened, and so the number of shares is known);
7. store the sealed reply and note its digest as released: from here on only these bytes are ever sent.

Where the plan takes surplus noise back (``privacy.secagg.surplus``), a site that opened a step may be asked
for the noise that its sum does not need. Its parts are made again from the ratchet, which still stands at the
round; the masked reply is stored before it leaves, beside the others, and only it is ever sent. What a step
costs with the noise that is left was charged when it was opened.

A crash between 5 and 7 leaves a reserve and no reply: nothing has left, so the same update is computed
again from the same ratchet state under the same reserve.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from cloister.client.centring import centred
from cloister.client.following import Following
from cloister.client.guard import Guard, Score
from cloister.client.held import HeldModels
from cloister.client.rests import Rests
from cloister.client.site.canaries import Canaries
from cloister.client.site.entries import Reservation
from cloister.client.site.ledger import Ledger
from cloister.client.sums import SecureSums
from cloister.privacy import canonical, durable
from cloister.privacy.codecs import feedback
from cloister.privacy.dp import accounting
from cloister.privacy.dp.audit import Audit
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.entropy import Entropy, KeyStream, Ratchet
from cloister.privacy.errors import (
    UNWRITABLE,
    BudgetError,
    ChannelError,
    CloisterError,
    ModelError,
    StateError,
    UpdateError,
)
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.identity import PrivateIdentity, PublicIdentity
from cloister.privacy.methods import Codec
from cloister.privacy.plan import Plan
from cloister.privacy.secagg import quantisation
from cloister.privacy.secagg.encoding import encode, residues
from cloister.privacy.secagg.rounds import SEED
from cloister.privacy.secagg.terms import At
from cloister.privacy.update import Coded, Delta, Encoded, Sealed, Share, Surplus, Vector
from cloister.privacy.vault import CLEAR, Vault
from cloister.privacy.wire import broadcast, messages, sums
from cloister.privacy.wire.envelope import Header, Opened, open_envelope, peek, seal

_COMMITTED, _PLANTED = "audit.committed", "audit.planted"


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
        """This site's part of the one sum of an analytic plan."""
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


def _place(header: Header) -> At:
    """The secure sum that an envelope is about."""
    return At(header.round, header.step, header.attempt, header.model)


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


@dataclass
class Participant:
    """One site in one job.

    Attributes:
        plan: the plan that was approved here.
        identity: the site's keys.
        lead: the lead's public identity, of the digest that the plan names.
        learner: trains and keeps the model.
        ledger: the site's privacy ledger.
        entropy: the job's source of randomness.
        log: the site's event log.
        replies: where sealed replies are stored.
        secure: masks what leaves; there exactly where the plan asks for secure aggregation.
        following: takes the steps of a joint job again; there exactly in joint mode.
        guard: compares each global model with those before, on the site's held-out rows.
        permit: raises where the site's policy does not allow a round now.
        done: called after the final model was kept.
        complain: gets a line, or a trace, for the person at this machine; it never leaves the site.
        admit: raises where this site takes no further part in the job, before anything else is done.
        tell: called when a round was answered, to show heads beside it; must be quick.
        canaries: those that stand among the learner's records; None where the plan has none.
    """

    plan: Plan
    identity: PrivateIdentity
    lead: PublicIdentity
    learner: Learner
    ledger: Ledger
    entropy: Entropy
    log: EventLog
    replies: Replies
    secure: SecureSums | None = None
    following: Following | None = None
    guard: Guard = field(default_factory=Guard)
    permit: Callable[[], None] = lambda: None
    done: Callable[[], None] = lambda: None
    complain: Callable[[str], None] = lambda _: None
    admit: Callable[[], None] = lambda: None
    tell: Callable[[], None] = lambda: None
    canaries: Canaries | None = None
    bytes_up: int = field(default=0)
    bytes_down: int = field(default=0)
    _committed: bool = field(default=False, init=False)
    _finished: bool = field(default=False, init=False)
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        if (self.secure is not None) != self.plan.aggregation.secure:
            raise ValueError("updates are masked exactly where the plan says so")
        if (self.following is not None) != self.plan.joint:
            raise ValueError("steps are followed exactly in joint mode")
        if (self.canaries is not None) != (self.plan.canaries is not None):
            raise ValueError("there are canaries exactly where the plan has some")

    @property
    def name(self) -> str:
        """The site's name in the plan."""
        return self.identity.public.name

    def handle(self, data: bytes) -> bytes:
        """The sealed answer to an envelope of the lead.

        Raises:
            ChannelError: the envelope is not from the lead, not for this plan and site, or altered.
                There is nobody to answer then, so the caller tells the id only.
            StateError, LogError, EntropyError: this machine cannot write; nothing has left, so the same
                envelope is answered once it can.
        """
        opened = self._open(data)
        with self._one_at_a_time:  # envelopes come by two routes
            self.bytes_down += len(data)
            try:
                sealed = self._answer(opened)
            except CloisterError as error:
                if error.id in UNWRITABLE:
                    raise
                sealed = self._refuse(opened.header, error.id, error.line())
            except Exception:  # noqa: BLE001  # the last line: the text may hold a record and must stay here
                sealed = self._refuse(opened.header, "internal", traceback.format_exc())
            self.bytes_up += len(sealed.data)
            return sealed.data

    def _answer(self, opened: Opened) -> Sealed:
        self.admit()
        kind = opened.header.kind
        if kind == messages.TASK:
            return self._train(opened)
        if kind == messages.FINISH:
            return self._finish(opened)
        return self._add_up(opened)

    def _refuse(self, header: Header, reason: str, text: str) -> Sealed:
        """A refusal that carries the id; the text goes to the person at this machine."""
        self.complain(text)
        self.log.append("incident.raised", job=self.plan.digest, round=header.round, reason=reason)
        return self._seal(header, messages.REFUSAL, messages.refusal(reason))

    def _open(self, data: bytes) -> Opened:
        limit = messages.largest_of(self.plan)
        seen = peek(data, limit)
        surplus = bool(self.plan.aggregation.surplus)
        asked = {messages.FINISH} | (sums.ASKED if self.secure else set())
        if not surplus:
            asked.discard(sums.SURPLUS)
        kind = seen.kind if seen.kind in asked else messages.TASK
        expected = Header(
            kind=kind,
            consortium=self.plan.consortium,
            plan=self.plan.digest,
            round=seen.round,
            step=sums.step_of(kind, seen.step, surplus=surplus),
            attempt=seen.attempt,
            sender=self.plan.lead.name,
            recipient=self.name,
            model=seen.model,
        )
        return open_envelope(data, expected=expected, recipient=self.identity, sender=self.lead, limit=limit)

    def _task(self, opened: Opened) -> messages.Task:
        """The task of an opened envelope, whose model must be the one that the signed header names."""
        sites = [site.name for site in self.plan.sites] if self.plan.joint else []
        d, down = self.plan.adapter.parameters, self.plan.aggregation.down
        if down is None:
            task = messages.Task.from_bytes(opened.content, d, sites, self.plan.summands)
        else:
            task = broadcast.opened(opened.content, down, d, self.replies.held.find)
        if messages.model_digest(task.model) != opened.header.model:
            raise UpdateError(
                "update_model_mismatch", "The global model is not the one that the lead signed."
            )
        if task.acknowledged:
            self.log.note("update.acknowledged", job=self.plan.digest, sealed=task.acknowledged)
        return task

    def _train(self, opened: Opened) -> Sealed:
        header = opened.header
        if not 1 <= header.round <= self.plan.training.rounds:
            raise ChannelError("wrong_context", f"The plan has no round {header.round}.")
        if header.attempt != 1:  # what was approved is the plan's rounds, each once; a resend is no attempt
            raise ChannelError("wrong_context", "A round is attempted once; the next one has fresh noise.")
        if stored := self.replies.load(header):
            self._release(header, stored)
            if not self._has_sent(stored):  # a crash came between storing and this
                self._send(header, stored)
            return stored
        if self._finished:
            raise ChannelError("replay", "The job is over; nothing is trained after its end.")
        self.permit()
        task = self._task(opened)
        if self.secure is not None:
            self.secure.admit(_place(header))
        self._follow(header.round, task)
        if fault := self._fault(task.model, header.round - 1):
            raise fault
        if self.plan.aggregation.down is not None or self.plan.training.centred:
            self.replies.held.keep(header.round, task.model)
        self._commit()
        reservation = self._reserve(header)
        self.entropy.advance(header.round)
        sealed = self._hide(header, self._update(task.model, header, reservation))
        self.replies.store(header, sealed)
        self._release(header, sealed)
        self._send(header, sealed)
        self.tell()
        return sealed

    def _send(self, header: Header, sealed: Sealed) -> None:
        """Writes down that an update leaves."""
        self.log.append(
            "update.sent",
            job=self.plan.digest,
            round=header.round,
            sealed=sealed.digest,
            bytes=len(sealed.data),
            model=header.model,
        )

    def _has_sent(self, sealed: Sealed) -> bool:
        return any(e.type == "update.sent" and e.body["sealed"] == sealed.digest for e in self.log.entries())

    def _follow(self, round: int, task: messages.Task) -> None:
        """In joint mode, takes the step that led to the model of a round."""
        if self.following is None or self.secure is None:
            return
        signed = self.secure.survivors if self.secure.round == round - 1 else ()
        if not self.following.take(round, task, signed):
            self.log.append("step.unchecked", job=self.plan.digest, round=round)
            self.complain(f"Round {round}: the step before was not checked here; this site did not see it.")

    def _fault(self, model: Vector, round: int) -> ModelError | None:
        """Why this site refuses the model that stands after a round; one it only warns of is noted."""
        score = self.learner.keep(model, round)
        fault = None if score is None else self.guard.judge(round, score)
        if fault is not None and self.guard.tolerance.action == "warn":
            self.log.append("incident.raised", job=self.plan.digest, round=round, reason=fault.id)
            self.complain(fault.line())
            return None
        return fault

    def _update(self, model: Vector, header: Header, reservation: Reservation | None) -> Encoded | Coded:
        """What this round's training gives, as it travels; what it did is what was reserved for it."""
        if self.plan.training.analytic:
            return self._summed(self.learner.sums(header), header, reservation)
        if self.plan.joint:
            share = self.learner.share(model, header)
            if reservation is None or share.mechanisms != (reservation.mechanism,):
                raise BudgetError("reservation_conflict", "The share is not of the noise that was reserved.")
            self._tell(header, share.mechanisms)
            return residues(share)
        delta = self.learner.train(model, header)
        if reservation:
            self._tell(header, delta.mechanisms)
            self.ledger.spend(reservation, delta.mechanisms)
        if radius := self.plan.training.centred:
            delta = centred(delta, self._last_change(model, header.round), radius)
        if codec := self.plan.aggregation.codec:
            return self._coded(codec, delta, header)
        weight, few = self.plan.weight(self.name), self.plan.quantisation
        if few is None:
            return encode(delta, weight, self.plan.ring)
        rotated = quantisation.rotate(delta, weight, few, _place(header))
        return quantisation.quantise(rotated, few, self._stream("rounding", header))

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
        encode(Delta(fed.values, ()), self.plan.weight(self.name), self.plan.ring)
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
                clip=privacy.bound,
                rate=block.rate,
                steps=block.steps,
            )

    def _give_surplus(self, opened: Opened, secure: SecureSums) -> Sealed:
        """This site's surplus noise in a step that it opened, masked for the sum that takes it back.

        Raises:
            AggregationError: ``surplus_refused``, ``sum_over``.
            ChannelError: ``replay``.
        """
        header, replies = opened.header, Replies(self.replies.folder / "surplus")
        if stored := replies.load(header):
            if secure.round == header.round and not self._has_given(stored):  # a crash came before the log
                self._tell_surplus(header, stored, secure.survivors)
            return stored
        over = secure.surplus(_place(header), opened.content)
        self._settle(header, len(over))  # before it gives any, also after a crash in the opening
        self.entropy.advance(header.round)  # the start of this round once more; a later one refuses
        encoded = residues(self.learner.surplus(header, len(over)))
        seed = self._stream("self-mask", header).bytes(SEED)
        masked = secure.mask(_place(header), encoded, seed, over)
        sealed = self._seal(header, sums.MASKED, sums.masked_to_bytes(masked, encoded.bits))
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

    def _hide(self, header: Header, encoded: Encoded | Coded) -> Sealed:
        """The update sealed for the lead; where the plan says so, masked so that the lead cannot read it."""
        if self.secure is None or isinstance(encoded, Coded):  # the plan allows no codec with secure sums
            return self._seal(header, messages.UPDATE, encoded.content)
        seed = self._stream("self-mask", header).bytes(SEED)
        masked = self.secure.mask(_place(header), encoded, seed)
        return self._seal(header, sums.MASKED, sums.masked_to_bytes(masked, encoded.bits))

    def _stream(self, purpose: str, header: Header) -> KeyStream:
        """The ratchet's key stream of one purpose in a sum."""
        return self.entropy.stream(
            purpose, round=header.round, step=header.step, attempt=header.attempt, model=header.model
        )

    def _add_up(self, opened: Opened) -> Sealed:
        """A step of secure aggregation: agreeing on keys, or on the way of a sum."""
        header, content, secure = opened.header, opened.content, self.secure
        if secure is None:
            raise ChannelError("wrong_context", "The plan has no secure aggregation.")
        match header.kind:
            case sums.SURPLUS:
                return self._give_surplus(opened, secure)
            case sums.SURVIVE | sums.OPEN | sums.RECOVER:
                return self._open_sum(opened, secure)
            case sums.INTRODUCE:
                return self._seal(header, sums.INTRODUCTION, secure.introduce())
            case sums.AGREE:
                return self._seal(header, sums.AGREEMENTS, secure.agree(content))
            case _:
                before, answer = secure.agreed, secure.adopt(content)
                if not before:
                    self.log.append("sum.agreed", job=self.plan.digest, sites=sorted(secure.terms.sites))
                return self._seal(header, sums.ADOPTED, answer)

    def _open_sum(self, opened: Opened, secure: SecureSums) -> Sealed:
        """What the survivors of a sum are asked: to sign who they are, and to open what cancels."""
        header, content = opened.header, opened.content
        place, job = _place(header), self.plan.digest
        match header.kind:
            case sums.SURVIVE:
                signed, answer = secure.signed, secure.sign(place, content)
                if not signed:
                    survivors = sorted(secure.survivors)
                    self.log.append(
                        "sum.signed", job=job, round=header.round, step=header.step, survivors=survivors
                    )
                return self._seal(header, sums.SIGNED, answer)
            case sums.OPEN:
                before, answer = secure.opened, secure.open(place, content)
                if not header.step:
                    self._settle(header, len(secure.survivors))
                if not before:
                    missing = sorted(set(secure.terms.sites) - set(secure.survivors))
                    self.log.append(
                        "sum.opened", job=job, round=header.round, step=header.step, missing=missing
                    )
                return self._seal(header, sums.OPENED, answer)
            case _:
                answer = secure.recover(place, content)
                lost = sorted(sums.shares_from_bytes(content))
                self.log.append("sum.recovered", job=job, round=header.round, step=header.step, lost=lost)
                return self._seal(header, sums.SHARES, answer)

    def _commit(self) -> None:
        """Binds this site to the coins of its audits before the first step that they take part in.

        Raises:
            StateError: ``state_damaged``, the log is bound to other coins, or to none after steps were seen.
        """
        audit, canaries = self.learner.audit, self.canaries
        if self._committed:
            return
        if audit is not None:
            numbers = {"phantoms": audit.phantoms, "guesses": audit.guesses}
            self._bind(_COMMITTED, audit.commitment, numbers, new=not audit.tally.steps)
        if canaries is not None:
            numbers = {"canaries": len(canaries), "guesses": canaries.guesses}
            self._bind(_PLANTED, canaries.commitment, numbers, new=not self._trained())
        self._committed = True

    def _bind(self, kind: str, commitment: str, numbers: dict[str, int], *, new: bool) -> None:
        """Writes down a commitment once, or finds it in the log."""
        job = self.plan.digest
        known = [e.body["commitment"] for e in self.log.entries() if (e.type, e.job) == (kind, job)]
        if not known and new:
            self.log.append(kind, job=job, commitment=commitment, **numbers)
        elif known != [commitment]:
            raise StateError(
                "state_damaged", "The audit of this job is not the one that the event log is bound to."
            )

    def _trained(self) -> bool:
        """Whether a round of this job was begun here before."""
        begun = ("budget.reserved", "update.sent")
        return any(e.job == self.plan.digest and e.type in begun for e in self.log.entries())

    def _conclude(self) -> None:
        """Writes down what the audit found."""
        audit, each = self.learner.audit, self.plan.site_mechanism
        if audit is None or each is None or not (audit.tally.steps or audit.failed):
            return
        job, dataset, delta = self.plan.digest, self.plan.site(self.name).dataset, self.plan.privacy.delta
        rows = self.ledger.rows(dataset)
        rounds = sum(row.kind == "reserved" and row.reservation.job == job for row in rows)
        result = audit.result(delta)
        self.log.append(
            "audit.result",
            job=job,
            commitment=audit.commitment,
            correct=result.correct,
            claimed=accounting.epsilon([each] * rounds, delta),
            bound=result.bound,
            delta=delta,
            failed=bool(audit.failed),
        )

    def _reservation(self, header: Header) -> Reservation | None:
        """What a round is charged under; None without privacy."""
        mechanism = self.plan.round_mechanism
        if mechanism is None:
            return None
        dataset = self.plan.site(self.name).dataset
        return Reservation(dataset, self.plan.digest, header.round, header.attempt, mechanism)

    def _reserve(self, header: Header) -> Reservation | None:
        """Charges a round; the same round and attempt once."""
        wanted = self._reservation(header)
        if wanted is None:
            return None
        return self.ledger.reserve(wanted.dataset, wanted.job, wanted.round, wanted.attempt, wanted.mechanism)

    def _release(self, header: Header, sealed: Sealed) -> None:
        if reservation := self._reservation(header):
            self.ledger.release(reservation, sealed.digest, shared=self.plan.joint)

    def _settle(self, header: Header, survivors: int) -> None:
        """Notes what a joint step came to, before this site opens its part of the sum."""
        if self.plan.joint and (reservation := self._reservation(header)):
            self.ledger.settle(reservation, self.plan.grid.settled(self.plan.training.rate, survivors))

    def _finish(self, opened: Opened) -> Sealed:
        if opened.header.round != self.plan.training.rounds + 1:
            raise ChannelError("wrong_context", "The plan does not end with this round.")
        task = self._task(opened)
        if not self._finished:
            self._follow(self.plan.training.rounds + 1, task)
        refused = self._fault(task.model, self.plan.training.rounds)
        if refused is None:
            self.learner.release(task.model)
        if not self._finished:
            self._conclude()
            if refused is None:
                self.log.append("model.received", job=self.plan.digest, model=opened.header.model)
        self._forget()
        self._finished = True
        self.done()
        if refused is not None:  # the job ends here too, without its model
            raise refused
        return self._seal(opened.header, messages.CLOSED, b"")

    def _forget(self) -> None:
        """Leaves no key behind from which noise or masks of this job could be made again."""
        self.entropy.advance(self.plan.training.rounds + 1)
        if self.secure is not None:
            self.secure.finish()
        self.replies.rests.forget()

    def _seal(self, asked: Header, kind: str, content: bytes) -> Sealed:
        header = Header(
            kind=kind,
            consortium=asked.consortium,
            plan=asked.plan,
            round=asked.round,
            step=asked.step,
            attempt=asked.attempt,
            sender=self.name,
            recipient=asked.sender,
            model=asked.model,
        )
        data = seal(header, content, self.identity, self.lead)
        return Sealed(data, canonical.digest(data))
