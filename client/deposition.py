"""What a site says of a finished job: its part of the evidence, and its signature under the whole.

A site that approved a plan hands its part to the lead when the job is over, or whenever the lead asks for it
again: events of that job with their proofs, and nothing of any other matter (``privacy.evidence.selection``).
When the lead has put everybody's parts together, it offers the bundle; the site checks it, and signs the
manifest or says why not. All of it can be said again, so nothing is lost when a lead or a site is killed.

What a site checks before it signs: the bundle shows the part that it handed over; everything that
``cloister verify`` checks, against the keys of the plan that it approved; no log is another one than the
heads that it holds (``privacy.evidence.witnessing``). The policies of other sites are not shown to it.

How much of its policy it hands over, the site decides (``privacy.evidence.rulings.Shows``); whoever checks a
bundle can tell what the lead left out of that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

from cloister.client.consortium import Consortium
from cloister.client.jobs import REFUSED, WAITING, Job, Jobs
from cloister.client.rulings import Rulings
from cloister.client.site.canaries import opened
from cloister.client.site.folder import SiteFolder
from cloister.privacy import durable
from cloister.privacy.errors import (
    UNWRITABLE,
    CloisterError,
    EvidenceError,
    LogError,
    PlanError,
    TransportError,
)
from cloister.privacy.evidence import lineage
from cloister.privacy.evidence.bundle import Bundle
from cloister.privacy.evidence.checks.case import Opening
from cloister.privacy.evidence.checks.findings import Result
from cloister.privacy.evidence.checks.logs import root_at, told
from cloister.privacy.evidence.checks.run import verify
from cloister.privacy.evidence.lineage import Retired, identities
from cloister.privacy.evidence.part import Part, statement_place
from cloister.privacy.evidence.rulings import Shows
from cloister.privacy.evidence.witnessing import Witness
from cloister.privacy.identity import Signature
from cloister.privacy.plan import Plan
from cloister.privacy.wire.portions import Wish, Word

Willing: TypeAlias = Literal["sign", "part", "none"]
"""What a site's agent says by itself: its part and its signature, its part only, or nothing."""

_HANDED = "handed"
_MOST_HANDED = 64
_AGAIN_S = 15.0


@dataclass(frozen=True)
class Deposition:
    """What a site says of its jobs.

    Attributes:
        site: its folder.
        shows: how much of its policy it hands over.
    """

    site: SiteFolder
    shows: Shows = "whole"

    def part(self, job: Job) -> Part:
        """This site's part of the evidence of a job, and a note that it was handed over.

        Raises:
            LogError: the log is damaged or cannot be written.
            EvidenceError: ``job_unfinished``, the log says nothing of the job.
            PlanError: ``plan_not_approved``, this site never took part in the job.
        """
        if job.state in (WAITING, REFUSED):
            raise PlanError(
                "plan_not_approved", "This site has not approved the plan, so it has no evidence of it."
            )
        site, plan = self.site, job.plan
        evidence, before = Rulings(site).evidence(plan) | opened(job.folder), retired(site, plan)
        made = Part.make(site.log, site.identity, plan, evidence, before, self.shows)
        handed = [*self._handed(job), made.digest][-_MOST_HANDED:]
        durable.write(job.folder / _HANDED, "\n".join(handed).encode())
        return made

    @staticmethod
    def _handed(job: Job) -> list[str]:
        """Digests of the parts that this site has handed over, oldest first (``Part.digest``)."""
        path = job.folder / _HANDED
        return path.read_text().split() if path.exists() else []

    def signature(self, job: Job, bundle: Bundle) -> Signature:
        """This site's signatures on the manifest of a bundle, once everything that it can check holds.

        Args:
            job: as it was approved here.
            bundle: whole, or as ``Bundle.for_party`` gives it.

        Raises:
            EvidenceError: ``part_replaced``; or what `cloister verify` finds: ``bundle_altered``,
                ``bundle_incomplete``, ``claim_not_reproducible``, ``key_untrusted``.
            LogError: ``log_forked``, the bundle shows another log than the head that this site holds.
        """
        self.check(job, bundle)
        return bundle.signature(self.site.identity)

    def check(self, job: Job, bundle: Bundle) -> None:
        """Everything that a site can check of a bundle; raises as ``signature``."""
        name, plan = self.site.name, job.plan
        if bundle.files.get("plan.json") != plan.to_bytes():
            raise EvidenceError("bundle_altered", "The bundle is not of the plan that was approved here.")
        own = Part(name, {place: bundle.files.get(place, b"") for place in (statement_place(name),)})
        if own.digest not in self._handed(job) or not self._under_own_keys(bundle, plan):
            raise EvidenceError(
                "part_replaced",
                "The bundle shows another part of this site than the one that it handed over.",
                "Keep the bundle, and ask the lead where it has that part from.",
            )
        trust = {party.name: party.identity for party in (plan.lead, *plan.sites)}
        verdict = verify(bundle, trust, reader=name)
        if verdict.result is not Result.VERIFIED:
            finding = next(found for found in verdict.findings if found.result is verdict.result)
            raise EvidenceError(_REASONS[verdict.result], finding.line(), "It is not signed.")
        self._compare(bundle)

    def _under_own_keys(self, bundle: Bundle, plan: Plan) -> bool:
        """Whether the part in a bundle is under the keys of now, as any made after a change of keys is."""
        first = self.site.known.identity(plan.site(self.site.name).identity)
        return identities(bundle.files, plan, first)[-1].digest() == self.site.identity.public.digest()

    def _compare(self, bundle: Bundle) -> None:
        """No log of the bundle is another one than the head of it that this site holds."""
        case = Opening(bundle, self.site.name).case()
        logs = [] if case is None else [(name, *one) for name in case.writers for one in told(case, name)]
        for name, log, most in logs:
            held = Witness(self.site.path).newest(log.identity)
            if held is None or name == self.site.name:
                continue
            if most is not None and held.size > most:
                raise EvidenceError(
                    "bundle_incomplete",
                    f"The log of {name} had {held.size} events when it was countersigned here; the bundle "
                    f"tells of {most}.",
                )
            if held.size > log.newest.size:
                continue  # it grew since, or the bundle says that this is lost
            shown = root_at(log, held.size)
            if shown is None:
                raise EvidenceError(
                    "bundle_incomplete",
                    f"The bundle does not show the head of the log of {name} that was countersigned here.",
                )
            if held.root != shown:
                raise LogError(
                    "log_forked", f"The bundle shows another log of {name} than was countersigned here."
                )


def retired(site: SiteFolder, plan: Plan) -> tuple[Retired, ...]:
    """The logs of a site under keys that it had before, from those of a plan on; raises as there."""
    first, last = plan.site(site.name).identity, site.identity.public.digest()
    # Asked for former keys only: a site that never changed its own needs no roster to make a part.
    return lineage.retired(site.path, first, last, lambda digest: site.known.identity(digest))


_REASONS = {
    Result.ALTERED: "bundle_altered",
    Result.INCOMPLETE: "bundle_incomplete",
    Result.NOT_REPRODUCIBLE: "claim_not_reproducible",
    Result.UNTRUSTED: "key_untrusted",
}


class Deposing(threading.Thread):
    """Gives the lead what it wants for the evidence of finished jobs, on a thread of its own, until ``stop``.

    Args:
        site: the site's folder.
        member: its connection.
        say: gets one line for the person at this machine.
        willing: what is said without asking anybody.
        shows: how much of the site's policy is handed over.

    Attributes:
        failure: this machine cannot write; the thread has ended.
    """

    def __init__(
        self,
        site: SiteFolder,
        member: Consortium,
        say: Callable[[str], None],
        willing: Willing = "sign",
        shows: Shows = "whole",
    ) -> None:
        super().__init__(name="evidence", daemon=True)
        self.failure: CloisterError | None = None
        self._jobs, self._deposition, self._log = Jobs(site), Deposition(site, shows), site.log
        self._lead, self._member, self._say, self._willing = site.membership.leader.name, member, say, willing
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._unreached = False

    def mark(self) -> None:
        """The lead may want something."""
        self._wake.set()

    def run(self) -> None:
        """Waits for wishes and answers them."""
        while not self._stopping.is_set():
            self._wake.wait(_AGAIN_S if self._unreached else None)
            self._wake.clear()
            self._unreached = False
            if not self._stopping.is_set() and self._willing != "none":
                self._guarded(self.answer)

    def answer(self) -> None:
        """Asks what is wanted, and gives it.

        Raises:
            CloisterError: the lead cannot be asked, or this machine cannot write.
        """
        for wish in self._member.wanted():
            if wish.asked:
                self._guarded(partial(self._hand_over, wish))
            if wish.bundle and self._willing == "sign" and not self._stopping.is_set():
                self._guarded(partial(self._sign, wish))

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except CloisterError as error:
            if error.id in UNWRITABLE:
                self.failure = error
                self._stopping.set()
            elif isinstance(error, TransportError) and error.id != "too_large":
                self._unreached = True
            else:
                self._say(error.line())

    def _hand_over(self, wish: Wish) -> None:
        part = self._deposition.part(self._jobs.find(wish.job))
        self._member.hand_over(wish, part.files)
        self._say(f"Handed over the evidence of {wish.job[7:19]}: {len(part.events)} events.")

    def _sign(self, wish: Wish) -> None:
        job = self._jobs.find(wish.job)
        bundle = Bundle(self._member.bundle(wish))
        word = Word(job=wish.job, bundle=wish.bundle)
        try:
            if bundle.digest != wish.bundle:
                raise EvidenceError("bundle_altered", "The lead shows another bundle than it names.")
            made = self._deposition.signature(job, bundle)
        except CloisterError as error:
            if error.id in UNWRITABLE:
                raise
            self._refuse(wish, word, error)
            return
        self._note(wish, "verified")
        self._member.say(
            word.model_copy(update={"ed25519": made.ed25519.hex(), "mldsa65": made.mldsa65.hex()})
        )
        self._say(f"Checked and signed the evidence of {wish.job[7:19]}.")

    def _refuse(self, wish: Wish, word: Word, error: CloisterError) -> None:
        """Tells this machine and the lead why the bundle is not signed, and writes it down."""
        results = {reason: result.word for result, reason in _REASONS.items()}
        self._note(wish, results.get(error.id, Result.ALTERED.word))
        self._log.append("incident.raised", job=wish.job, reason=error.id, severity="high", party=self._lead)
        self._say(f"The evidence of {wish.job[7:19]} is not signed. {error.line()}")
        self._member.say(word.model_copy(update={"refused": error.id}))

    def _note(self, wish: Wish, result: str) -> None:
        self._log.append("report.verified", job=wish.job, bundle=wish.bundle, result=result)

    def stop(self, wait: float) -> None:
        """Ends the thread; waits so many seconds for what it is doing."""
        self._stopping.set()
        self._wake.set()
        if self.is_alive():
            self.join(wait)
