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
from dataclasses import dataclass, field

from cloister.client.charges import Charges
from cloister.client.contribution import Contribution, Learner, place
from cloister.client.following import Following
from cloister.client.guard import Guard
from cloister.client.pledges import Pledges
from cloister.client.replies import Replies, Sealer
from cloister.client.site.canaries import Canaries
from cloister.client.site.entries import Reservation
from cloister.client.site.ledger import Ledger
from cloister.client.summing import Summing
from cloister.client.sums import SecureSums
from cloister.privacy.entropy import Entropy
from cloister.privacy.errors import UNWRITABLE, ChannelError, CloisterError, ModelError, UpdateError
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.identity import PrivateIdentity, PublicIdentity
from cloister.privacy.plan import Plan
from cloister.privacy.update import Coded, Encoded, Sealed, Vector
from cloister.privacy.wire import broadcast, messages, sums
from cloister.privacy.wire.envelope import Header, Opened, open_envelope, peek


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
        tell: called when a round was answered, with whether it was the last, to show heads beside it; must be
            quick.
        canaries: those that stand among the learner's records; None where the plan has none.
        pledges: what its audits are bound to in this job.
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
    tell: Callable[[bool], None] = lambda _: None
    canaries: Canaries | None = None
    bytes_up: int = field(default=0)
    bytes_down: int = field(default=0)
    pledges: Pledges = field(init=False)
    _finished: bool = field(default=False, init=False)
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        if (self.secure is not None) != self.plan.aggregation.secure:
            raise ValueError("updates are masked exactly where the plan says so")
        if (self.following is not None) != self.plan.joint:
            raise ValueError("steps are followed exactly in joint mode")
        if (self.canaries is not None) != (self.plan.canaries is not None):
            raise ValueError("there are canaries exactly where the plan has some")
        self.pledges = Pledges(self.plan, self.log, self.canaries)

    @property
    def charges(self) -> Charges:
        """What the job's rounds cost here."""
        return Charges(self.plan, self.name, self.ledger)

    @property
    def contribution(self) -> Contribution:
        """How training becomes what leaves."""
        return Contribution(self.plan, self.name, self.ledger, self.entropy, self.log, self.replies)

    @property
    def _sealer(self) -> Sealer:
        return Sealer(self.identity, self.lead)

    @property
    def _summing(self) -> Summing | None:
        if self.secure is None:
            return None
        folder = self.replies.folder / "surplus"
        parts = (self.contribution, self.charges, self.log, self._sealer)
        return Summing(self.plan, self.secure, *parts, folder)

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
        if (summing := self._summing) is None:
            raise ChannelError("wrong_context", "The plan has no secure aggregation.")
        return summing.answer(opened, self.learner)

    def _refuse(self, header: Header, reason: str, text: str) -> Sealed:
        """A refusal that carries the id; the text goes to the person at this machine."""
        self.complain(text)
        self.log.append("incident.raised", job=self.plan.digest, round=header.round, reason=reason)
        return self._sealer.seal(header, messages.REFUSAL, messages.refusal(reason))

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
            before = max(1, opened.header.round - 1)
            summed, remembered = self.plan.summands(before), self.plan.remembered_after(before)
            task = messages.Task.from_bytes(opened.content, d, sites, summed, remembered)
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
            self.charges.release(header, stored)
            if not self._has_sent(stored):  # a crash came between storing and this
                self._send(header, stored)
            return stored
        if self._finished:
            raise ChannelError("replay", "The job is over; nothing is trained after its end.")
        self.permit()
        task = self._task(opened)
        if self.secure is not None:
            self.secure.admit(place(header))
        self._follow(header.round, task)
        if fault := self._fault(task.model, header.round - 1):
            raise fault
        if self.plan.aggregation.down is not None or self.plan.training.centred:
            self.replies.held.keep(header.round, task.model)
        self.pledges.give(self.learner.audit)
        reservation = self.charges.reserve(header)
        self.entropy.advance(header.round)
        sealed = self._hide(header, self._update(task.model, header, reservation))
        self.replies.store(header, sealed)
        self.charges.release(header, sealed)
        self._send(header, sealed)
        self.tell(header.round == self.plan.training.rounds)
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
        """What this round's training gives, as it travels."""
        return self.contribution.of(self.learner, model, header, reservation)

    def _hide(self, header: Header, encoded: Encoded | Coded) -> Sealed:
        """The update sealed for the lead; where the plan says so, masked so that the lead cannot read it."""
        summing = self._summing
        if summing is None or isinstance(encoded, Coded):  # the plan allows no codec with secure sums
            return self._sealer.seal(header, messages.UPDATE, encoded.content)
        return summing.mask(header, encoded)

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
            self.pledges.conclude(self.learner.audit, self.name, self.ledger)
            if refused is None:
                self.log.append("model.received", job=self.plan.digest, model=opened.header.model)
        self._forget()
        self._finished = True
        self.done()
        if refused is not None:  # the job ends here too, without its model
            raise refused
        return self._sealer.seal(opened.header, messages.CLOSED, b"")

    def _forget(self) -> None:
        """Leaves no key behind from which noise or masks of this job could be made again."""
        self.entropy.advance(self.plan.training.rounds + 1)
        if self.secure is not None:
            self.secure.finish()
        self.replies.rests.forget()
