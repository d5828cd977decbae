"""The site's agent: one long-lived process that takes part in jobs, outbound connections only.

It keeps the site present at the lead, brings home what is new (roster, plans), tells what was decided here,
and answers Flower's messages for every job that was approved. Approval is given in another process
(``cloister site approve``); the two meet in the site's folder. The lead hears of an approval only after the
model is loaded and the records are ready, so a run starts warm.
"""

from __future__ import annotations

import importlib
import queue
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from cloister.client.app import answer, client_app
from cloister.client.consortium import Consortium
from cloister.client.deposition import Deposing, Willing
from cloister.client.exchange import Correspondence
from cloister.client.fleet import FleetConnection, for_app
from cloister.client.following import Following
from cloister.client.guard import Guard, Tolerance
from cloister.client.jobs import APPROVED, DONE, REFUSED, WAITING, Job, Jobs
from cloister.client.node import FleetSettings
from cloister.client.participation import Participant
from cloister.client.reconciliation import reconcile
from cloister.client.replies import Replies
from cloister.client.site import rotation, sharing
from cloister.client.site.canaries import canaries_of
from cloister.client.site.datasets import Datasets
from cloister.client.site.folder import SiteFolder, refuse_restored
from cloister.client.spending import Spending
from cloister.client.sums import SecureSums
from cloister.client.watch import Watch
from cloister.client.witnessing import Heads, Telling
from cloister.privacy import durable, heap
from cloister.privacy.channel import certificates
from cloister.privacy.channel.facts import CallerSide
from cloister.privacy.descent import steps_of
from cloister.privacy.entropy import Ratchet
from cloister.privacy.errors import CloisterError, EnrolmentError, LogError, PolicyError, TransportError
from cloister.privacy.evidence.keeping import Keeping
from cloister.privacy.evidence.rulings import Shows
from cloister.privacy.identity import PublicIdentity
from cloister.privacy.layout import Layout, initial
from cloister.privacy.plan import Plan
from cloister.privacy.wire import bundle, messages

_LOOK_S = 0.5
_AGAIN_S = 1.0
_LAST_ROUND_S = 10.0


class Agent:
    """The agent of one site.

    Args:
        site: the folder of a site that has joined.
        model: where the base model is, if not where the plan's name leads.
        say: gets one line for the person at this machine whenever something happens.
        device: where models train, as torch names it.
        willing: what it gives the lead for the evidence of finished jobs without asking anybody.
        shows: how much of the site's policy it hands over with it.
    """

    def __init__(
        self,
        site: SiteFolder,
        model: str,
        say: Callable[[str], None],
        device: str = "cpu",
        willing: Willing = "sign",
        shows: Shows = "whole",
    ) -> None:
        self._site, self._model, self._say, self._device = site, model, say, device
        self._willing: Willing = willing
        self._shows: Shows = shows
        self._jobs, self._datasets = Jobs(site, model=model), Datasets(site)
        self._spending = Spending(self._datasets.ledger)
        self._participants: dict[str, Participant] = {}
        self._notices: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        self._announced: set[str] = set()
        self._failure: CloisterError | None = None
        self._busy = False

    def run(self, stop: threading.Event) -> bool:
        """Works until ``stop`` is set.

        Returns:
            Whether all threads have ended. False: one still computes a round that takes too long to wait
            for. Nothing of it has left, so the process may end at any moment.

        Raises:
            StateError: ``state_locked``, another agent works in the folder.
            EnrolmentError: ``not_enrolled``.
            TransportError: Flower refuses this site for good.
            StateError, LogError, EntropyError: this machine cannot write; or the ledger is not what the
                event log says.
        """
        with self._site.running(), self._datasets.ledger.held(), Consortium(self._site) as member:
            refuse_restored(self._site)
            self._keeping = Keeping(self._site.log, lambda: self._busy)
            self._heads = Heads(self._site, member)
            self._telling = Telling(self._heads, self._once)
            self._deposing = Deposing(self._site, member, self._once, self._willing, self._shows)
            watch = Watch(member, self._notices.put)
            letters = Correspondence(member, lambda data: answer(self._participants, data), self._largest)
            fleet = threading.Thread(target=self._answer, args=(stop,), name="fleet", daemon=True)
            warm = threading.Thread(target=_warm, name="warm", daemon=True)
            warm.start()
            if not self._may_begin(stop):
                return not warm.is_alive()
            self._compare()
            self._keeping.come()
            self._keeping.start()
            for job in self._jobs:  # before the lead hears of this site: its next message may be for one
                self._advance(member, job)
            watch.start()
            letters.start()
            fleet.start()
            self._telling.start()
            self._telling.mark(end=True)
            self._deposing.start()
            try:
                while not stop.is_set():
                    self._turn(member, watch)
                    if letters.trouble is not None and not watch.trouble:
                        self._once(f"The lead cannot ask this site: {letters.trouble.line()}")
                    threads = (watch, letters, self._telling, self._deposing, self._keeping)
                    if failure := next((one.failure for one in threads if one.failure), None):
                        self._failure = failure
                        stop.set()
            finally:
                stop.set()
                watch.stop()
                letters.stop(_LAST_ROUND_S)
                self._telling.stop(_LAST_ROUND_S)
                self._deposing.stop(_LAST_ROUND_S)
                self._keeping.stop(_LAST_ROUND_S)
                for thread in (fleet, warm):
                    thread.join(timeout=_LAST_ROUND_S)
            if self._failure:
                raise self._failure
            self._keeping.leave()
            self._site.log.head()
        return not (fleet.is_alive() or warm.is_alive() or letters.is_alive())

    def _may_begin(self, stop: threading.Event) -> bool:
        """Waits until the lead has told what others hold of this site's log; False if told to stop before.

        Raises:
            LogError: ``log_rolled_back``, this folder is an old copy; ``log_forked``, ``event_altered``.
            CloisterError: the lead refuses this site.
        """
        while not stop.is_set():
            try:
                self._heads.check()
                return True
            except LogError as error:
                if error.id == "log_rolled_back":
                    sharing.doubt(self._site)  # the ledger may be as old, and other folders may charge it
                raise
            except TransportError as error:
                self._once(f"The lead cannot be reached: {error.line()}")
                stop.wait(_AGAIN_S)
        return False

    def _compare(self) -> None:
        """Holds the ledger to the log, which is whole as far as others know (``client.reconciliation``)."""
        if added := reconcile(self._site):
            self._say(f"{added} charges stood in the event log only; they are in the ledger again.")

    def _largest(self) -> int:
        """Bytes of the largest envelope that the lead may send now."""
        plans = [participant.plan for participant in tuple(self._participants.values())]
        return max((messages.largest_of(plan) for plan in plans), default=0)

    # Flower

    def _answer(self, stop: threading.Event) -> None:
        """Answers Flower's messages, on a thread of its own, until ``stop``."""
        membership, folder = self._site.membership, self._site.path / "fleet"
        durable.private_folder(folder)
        durable.write(folder / "authority.pem", membership.authority.encode())
        durable.write(folder / "certificate.pem", membership.certificate.encode())
        # TLS takes keys from files only: this one is under a password that ends with the process.
        password = secrets.token_hex(32)
        durable.write(folder / "site.key", certificates.under_password(self._site.tls_key, password))
        connection = FleetConnection(
            FleetSettings(
                address=membership.fleet,
                authority=folder / "authority.pem",
                certificate=folder / "certificate.pem",
                key=folder / "site.key",
                node_key=self._site.identity.node_private,
                folder=folder,
                bundle=bundle.digest(),
                password=password,
            ),
            self._note_connection,
        )
        try:
            connection.run(for_app(client_app(self._participants)), stop)
        except CloisterError as error:
            self._failure = error
        finally:
            stop.set()

    def _note_connection(self, seen: CallerSide) -> None:
        """Writes down this end of Flower's connection."""
        member = self._site.membership
        own = certificates.fingerprint(member.certificate)
        self._site.log.append("channel.opened", party=member.leader.name, **seen.fields(own))

    # The consortium

    def _turn(self, member: Consortium, watch: Watch) -> None:
        """Waits for a notice, or a moment, and does what there is to do."""
        try:
            self._notices.get(timeout=_LOOK_S)
        except queue.Empty:
            pass
        else:
            self._bring(member)
            self._telling.mark()
            self._deposing.mark()
        if watch.trouble is not None:
            self._once(f"The lead cannot be reached: {watch.trouble.line()}")
        if sharing.behind(self._site):  # another folder that shares the ledger doubts it
            self._compare()
        busy = False
        for job in self._jobs:
            self._advance(member, job)
            busy |= job.state == APPROVED
            if job.state in (APPROVED, DONE):
                self._tell_spending(job)
        self._busy = busy

    def _tell_spending(self, job: Job) -> None:
        """Says what is spent; a ledger that cannot be read is said where it is charged."""
        dataset = job.plan.site(self._site.name).dataset
        try:
            line = self._spending.line(job.plan, dataset, ended=job.state == DONE)
        except CloisterError:
            return
        if line:
            self._say(line)

    def _bring(self, member: Consortium) -> None:
        """Fetches roster and plans, and offers every dataset again."""
        while not self._notices.empty():
            self._notices.get()
        try:
            member.roster()
            for dataset in self._datasets.all():
                member.offer(self._datasets.offer(dataset.name))
            for found in member.proposals():
                job = self._jobs.keep(found.plan, found.signed)
                self._fetch_policy(member, found.plan)
                self._once(f"Plan {found.plan.digest[7:19]}: {found.plan.purpose} ({job.state})")
        except CloisterError as error:
            self._say(error.line())

    def _fetch_policy(self, member: Consortium, plan: Plan) -> None:
        """Asks for the consortium's policy that a plan names; a wrong one leaves that plan alone waiting."""
        if not self._jobs.lacks_policy(plan):
            return
        try:
            self._jobs.rulings.keep_shared(plan, member.policy(plan))
        except PolicyError as error:
            self._once(error.line())

    def _advance(self, member: Consortium, job: Job) -> None:
        """Loads an approved job and tells the lead the decision, each once."""
        digest = job.plan.digest
        try:
            if job.state == WAITING and (word := self._jobs.settle(job)):
                self._say(f"The policy {'approves' if word.approve else 'refuses'} {digest[7:19]} by itself.")
            if job.state == APPROVED and digest not in self._participants:
                participant = self._participant(job)
                self._keeping.begin(digest)
                self._participants[digest] = participant
                heap.freeze()
                self._say(f"Ready for {digest[7:19]}.")
            if job.state in (APPROVED, REFUSED) and job.decision and not (job.folder / "told").exists():
                member.decide(job.decision)
                durable.write(job.folder / "told", b"")
            if job.leaving:
                job.leave(job.leaving)  # also what a round that was under way has written since
            if job.state == DONE:
                self._once(f"{digest[7:19]} is done; the model is in {job.folder / 'model'}.")
        except CloisterError as error:
            self._once(error.line())

    def _once(self, line: str) -> None:
        if line not in self._announced:
            self._announced.add(line)
            self._say(line)

    def _participant(self, job: Job) -> Participant:
        """The site's part in a job: the model loaded, the records read and cached.

        Raises:
            CloisterError: what the plan names is not here; checked again because time has passed.
        """
        from cloister.client.learn.learner import SiteLearner
        from cloister.client.learn.tasks import require_base
        from cloister.privacy.model import foundation

        plan = job.plan
        base = foundation(plan, self._model)
        require_base(plan, base)  # before any record is read
        self._jobs.admit(plan)
        vault = self._site.vault
        entropy = Ratchet(job.folder / "ratchet.key", plan.digest, vault)
        dataset = plan.site(self._site.name).dataset
        records = self._datasets.open(dataset, plan.digest)
        if changed := self._datasets.changed(dataset):
            self._say(changed)
        canaries = canaries_of(plan, job.folder, vault)
        if canaries is not None:
            records = canaries.among(records[0]), records[1]
        learner = SiteLearner(
            plan, self._site.name, base, records, entropy, job.folder, device=self._device, vault=vault
        )
        known, own = self._site.known, plan.site(self._site.name)
        parties = [known.identity(party.identity) for party in (plan.lead, *plan.sites)]
        guard = Guard(best=learner.best)
        return Participant(
            plan=plan,
            identity=self._site.identity_of(own.identity),
            lead=parties[0],
            learner=learner,
            secure=self._secure(job),
            following=self._following(plan, learner.layout),
            guard=guard,
            permit=self._permit(plan, guard),
            ledger=self._datasets.ledger,
            entropy=entropy,
            log=self._site.log,
            replies=Replies(job.folder / "replies", vault),
            done=lambda: self._close(job),
            complain=self._say,
            admit=lambda: self._admit(job, parties),
            tell=partial(self._answered, job.plan),
            canaries=canaries,
        )

    def _admit(self, job: Job, parties: Sequence[PublicIdentity]) -> None:
        """Refuses to go on with a job that the site has left, or with a party that contradicted itself.

        Raises:
            EnrolmentError: ``withdrawn``.
            LogError: ``log_forked``.
        """
        if job.leaving:
            raise EnrolmentError("withdrawn", "This site has left the job.")
        self._heads.witness.refuse_conflicts(parties)

    def _close(self, job: Job) -> None:
        """The final model is kept: the job's last heads are shown, and it needs no old keys any longer."""
        job.close()
        running = [one.plan for one in self._jobs if one.state == APPROVED]
        rotation.forget(self._site, {plan.site(self._site.name).identity for plan in running})
        self._telling.mark(end=True)

    def _answered(self, plan: Plan, last: bool) -> None:
        """Heads are shown; whole ones after the last round, as agents may be stopped soon after the end."""
        self._telling.mark(end=last, step=plan.joint and not last)

    def _permit(self, plan: Plan, guard: Guard) -> Callable[[], None]:
        """The policy's check before a round; it also tells the guard what the policy puts up with."""
        permitted = self._jobs.running(plan)

        def permit() -> None:
            terms = permitted()
            guard.tolerance = Tolerance(terms.points, terms.action)

        permit()
        return permit

    @staticmethod
    def _following(plan: Plan, order: Layout) -> Following | None:
        """What takes the steps of a joint job again."""
        steps = steps_of(plan, order) if plan.joint else None
        return Following(steps, initial(order, plan.adapter.seed)) if steps else None

    def _secure(self, job: Job) -> SecureSums | None:
        """Secure aggregation of a job, where its plan asks for it."""
        terms, known = job.plan.sum_terms, self._site.known
        if terms is None:
            return None
        peers = {site.name: known.identity(site.identity) for site in job.plan.sites}
        path = job.folder / "sums.json"
        own = self._site.identity_of(job.plan.site(self._site.name).identity)
        return SecureSums(terms, own, peers, path, self._site.vault)


def _warm() -> None:
    """Loads torch and what builds on it while there is time, so that an approved job need not wait for it."""
    importlib.import_module("cloister.client.learn.learner")
