"""What arrives at the lead for the evidence of its finished jobs: the sites' parts, and their signatures.

Below a job's folder, every file written whole, so that a lead that was killed goes on from what is there:

===================================  ==============================================================
``evidence/asked``                   number of the newest wish for everybody's parts; 1 without it
``evidence/parts/<n>.<site>.part``   a site's newest part, and the wish that it answers
``evidence/offers/<64 hex>/``        the bundle that waits for signatures
``evidence/words/<64 hex>.<site>``   a site's word on it (``privacy.wire.portions.Word``)
===================================  ==============================================================

``cloister report`` and the running lead are separate processes: they meet in these files only.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cloister.privacy import durable
from cloister.privacy.errors import ChannelError, CloisterError, EvidenceError, TransportError, areas
from cloister.privacy.evidence.bundle import Bundle
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.evidence.part import PART_LIMIT, Part, owned
from cloister.privacy.identity import PublicIdentity, Signature
from cloister.privacy.plan import Plan
from cloister.privacy.wire import consortium_pb2 as pb
from cloister.privacy.wire.portions import Wish, Word, cut, joined, largest_part
from cloister.server.enrolment import Enrolment
from cloister.server.jobs import FINISHED, Job, Jobs

_FIRST = 1
_HEX = "[0-9a-f]" * 64


@dataclass(frozen=True)
class Gathering:
    """The evidence of one job as it arrives, in a folder of the job's.

    Attributes:
        folder: ``evidence/`` of the job.
        plan: of the job.
    """

    folder: Path
    plan: Plan

    @classmethod
    def of(cls, job: Job) -> Gathering:
        """The evidence of a job."""
        return cls(job.folder / "evidence", job.plan)

    # Parts

    @property
    def asked(self) -> int:
        """Number of the newest wish."""
        path = self.folder / "asked"
        return int(path.read_text()) if path.exists() else _FIRST

    def ask(self) -> int:
        """Asks every site for its part anew; the number of the wish."""
        durable.private_folder(self.folder)
        number = self.asked + 1
        durable.write(self.folder / "asked", str(number).encode())
        return number

    def answered(self) -> dict[str, int]:
        """Site name -> the newest wish that it has answered."""
        found = [path.name.split(".") for path in (self.folder / "parts").glob("*.*.part")]
        return {name: int(number) for number, name, _ in sorted(found)}

    def parts(self) -> dict[str, Part]:
        """Site name -> its newest part.

        Raises:
            EvidenceError: ``bundle_altered``, a file was changed here.
        """
        return {name: self._part(name, number) for name, number in self.answered().items()}

    def _part(self, site: str, number: int) -> Part:
        return Part.from_bytes(self._place(site, number).read_bytes()[: PART_LIMIT + 1])

    def keep(self, part: Part, asked: int) -> None:
        """Keeps a part that was checked, as the answer to a wish; the same or an older one changes nothing.

        Raises:
            EvidenceError: ``part_replaced``, its log is shorter than in the part that is here.
        """
        number = min(asked, self.asked)
        before = self.answered().get(part.writer)
        if before is not None:
            if self._part(part.writer, before).newest.size > part.newest.size:
                raise EvidenceError("part_replaced", f"{part.writer} handed over an older part than before.")
            if before >= number:
                return
        durable.private_folder(self.folder / "parts")
        durable.write(self._place(part.writer, number), part.to_bytes())
        if before is not None:
            self._place(part.writer, before).unlink(missing_ok=True)

    def _place(self, site: str, number: int) -> Path:
        return self.folder / "parts" / f"{number:09d}.{site}.part"

    # Signatures

    @property
    def offered(self) -> str:
        """The digest of the bundle that waits for signatures; "" for none."""
        found = sorted((self.folder / "offers").glob(_HEX), key=lambda path: path.stat().st_mtime)
        return f"sha256:{found[-1].name}" if found else ""

    def offer(self, bundle: Bundle) -> None:
        """Lays a bundle out for everybody's signature, in the place of an older one."""
        durable.private_folder(self.folder / "offers")
        place = self.folder / "offers" / _hex(bundle.digest)
        if not place.exists():
            bundle.write(place)
        for other in (self.folder / "offers").glob(_HEX):
            if other != place:
                shutil.rmtree(other)

    def bundle(self, digest: str) -> Bundle:
        """The bundle that waits for signatures; raises ``EvidenceError`` ``bundle_unknown`` for another."""
        place = self.folder / "offers" / _hex(digest)
        try:
            found = Bundle.read(place) if place.is_dir() else None
        except OSError:  # another one takes its place at this moment
            found = None
        if found is None or found.digest != digest:
            raise EvidenceError(
                "bundle_unknown", "That bundle is not offered for signing, or not any longer."
            )
        return found

    def words(self, digest: str) -> dict[str, Word]:
        """Site name -> its word on a bundle."""
        found = (self.folder / "words").glob(f"{_hex(digest)}.*")
        return {path.name.partition(".")[2]: Word.from_bytes(path.read_bytes()) for path in found}

    def hear(self, word: Word, site: str) -> None:
        """Keeps a site's word, which was checked."""
        durable.private_folder(self.folder / "words")
        durable.write(self.folder / "words" / f"{_hex(word.bundle)}.{site}", word.to_bytes())


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


class Collector:
    """The lead's end of the calls about evidence.

    Args:
        jobs: the lead's.
        enrolment: whose keys are whose.
        log: the lead's event log.
    """

    def __init__(self, jobs: Jobs, enrolment: Enrolment, log: EventLog) -> None:
        self._jobs, self._enrolment, self._log = jobs, enrolment, log
        self._mutex = threading.Lock()
        self._handing: set[str] = set()
        self._noted: set[tuple[str, str, str]] = set()

    def wishes(self, site: str) -> Iterator[Wish]:
        """What is wanted of a site."""
        for job in self._jobs:
            if job.state != FINISHED or site not in (named.name for named in job.plan.sites):
                continue
            gathering = Gathering.of(job)
            asked = gathering.asked if gathering.answered().get(site, 0) < gathering.asked else 0
            bundle = gathering.offered
            if bundle and site in gathering.words(bundle):
                bundle = ""
            if asked or bundle:
                yield Wish(job=job.plan.digest, asked=asked, bundle=bundle)

    def take(self, site: PublicIdentity, portions: Iterable[pb.Portion]) -> None:
        """Takes a site's part.

        Raises:
            TransportError: ``protocol``, ``too_large``; ``rate_limited``, another one is on its way.
            PlanError: ``plan_unknown``.
            EvidenceError: ``job_unfinished``; ``bundle_altered``, ``bundle_incomplete``, ``key_untrusted`` or
                ``part_replaced``: the part is not what the site signed, or older than the one that is here.
            ChannelError: ``wrong_context``: it is of another job or another party.
        """
        with self._alone(site.name):
            arriving = iter(portions)
            first = next(arriving, pb.Portion())
            if first.name:
                raise TransportError("protocol", "A part comes without the wish that it answers.")
            wish = Wish.from_bytes(first.data)
            job = self._finished(wish.job, site.name)
            files = joined(arriving, largest_part(job.plan))
            try:
                self._keep(job, Part(site.name, files), wish.asked)
            except CloisterError as error:
                self._note(job, site.name, error.id)
                raise

    def _keep(self, job: Job, part: Part, asked: int) -> None:
        if not all(owned(name, part.writer) for name in part.files):
            raise ChannelError(
                "wrong_context", f"{part.writer} hands over files that are not of its own part."
            )
        part.check(self._enrolment.roster_of(job.plan).member(part.writer), job.plan)
        with self._mutex:
            Gathering.of(job).keep(part, asked)

    @contextmanager
    def _alone(self, site: str) -> Iterator[None]:
        """One part of a site at a time: it is in memory while it is checked."""
        with self._mutex:
            if site in self._handing:
                raise TransportError("rate_limited", f"Another part of {site} is on its way.")
            self._handing.add(site)
        try:
            yield
        finally:
            with self._mutex:
                self._handing.discard(site)

    def show(self, site: str, content: bytes) -> Iterator[pb.Portion]:
        """The portions of a bundle that a site is to check; raises ``EvidenceError`` ``bundle_unknown``."""
        wish = Wish.from_bytes(content)
        gathering = Gathering.of(self._finished(wish.job, site))
        return cut(gathering.bundle(wish.bundle).for_party(site).files)

    def hear(self, site: PublicIdentity, content: bytes) -> None:
        """Takes a site's word on a bundle.

        Raises:
            EvidenceError: ``bundle_unknown``.
            ChannelError: ``signature_invalid``.
            PlanError, TransportError: as ``take``.
        """
        word = Word.from_bytes(content)
        if word.refused and not any(word.refused in area.REASONS for area in areas()):
            raise TransportError("protocol", "A site refuses for a reason that does not exist.")
        job = self._finished(word.job, site.name)
        gathering = Gathering.of(job)
        bundle = gathering.bundle(word.bundle)
        if word.refused:
            if site.name not in gathering.words(word.bundle):
                self._note(job, site.name, word.refused)
        else:
            bundle.marked(self._enrolment.roster_of(job.plan).member(site.name), signature(word))
        gathering.hear(word, site.name)

    def _finished(self, digest: str, site: str) -> Job:
        job = self._jobs.find(digest)
        job.plan.site(site)
        if job.state != FINISHED:
            raise EvidenceError("job_unfinished", f"The job is {job.state}.")
        return job

    def _note(self, job: Job, site: str, reason: str) -> None:
        """Writes an incident down, the same one once: nobody fills the disk through the log."""
        about = (job.plan.digest, site, reason)
        if about not in self._noted:
            self._noted.add(about)
            self._log.append("incident.raised", job=job.plan.digest, reason=reason, party=site)

    def news(self) -> frozenset[tuple[str, int, str]]:
        """Every wish of now: job, number, bundle. What is new among them, the sites should be told."""
        found = ((job, Gathering.of(job)) for job in self._jobs if job.state == FINISHED)
        return frozenset((job.plan.digest, one.asked, one.offered) for job, one in found)


def signature(word: Word) -> Signature:
    """The signatures of a word."""
    return Signature(bytes.fromhex(word.ed25519), bytes.fromhex(word.mldsa65))


def signed_by(bundle: Bundle, words: Mapping[str, Word], keys: Iterable[PublicIdentity]) -> Bundle:
    """A bundle with the signatures of everybody who gave them."""
    for member in keys:
        word = words.get(member.name)
        if word is not None and not word.refused:
            bundle = bundle.marked(member, signature(word))
    return bundle
