"""The lead's end of showing heads: it countersigns its sites' heads and passes them on.

What lasts is in files (``privacy.evidence.witnessing``). The rest is what passes through: proofs, who holds
what, and countersignatures on their way; after a restart the sites say it again.

A site that has not seen the newest whole head of a log is shown that one, also where a light one is newer:
the next call brings it.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from cloister.privacy.errors import LogError
from cloister.privacy.evidence.heads import SignedHead, origin_of
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.evidence.witnessing import (
    WHOLE_S,
    Answered,
    Said,
    Shown,
    Witness,
    countersigned,
    hexed,
    parse,
    parties_by_origin,
    show,
    unhexed,
)
from cloister.privacy.identity import PrivateIdentity, PublicIdentity

_FRESH_S = 1.0
"""The lead's own head is made anew at most so often: all sites ask at about the same time."""
_RECENT = 16


class Witnesses:
    """What the consortium's parties hold of each other's logs, as far as the lead knows.

    Args:
        path: the lead's folder.
        identity: the lead's keys.
        log: the lead's event log.
        parties: gives everybody whose log may be shown now, the lead included.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        path: Path,
        identity: PrivateIdentity,
        log: EventLog,
        parties: Callable[[], Iterable[PublicIdentity]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.witness = Witness(path, identity, log)
        self._own, self._log, self._parties, self._clock = identity.public, log, parties, clock
        self._mutex = threading.Lock()
        # origin -> whether light -> size held -> newest head and proof
        self._shown: dict[str, dict[bool, dict[int, Shown]]] = defaultdict(dict)
        self._recent: dict[str, dict[tuple[int, bool], SignedHead]] = defaultdict(dict)
        self._held: dict[str, dict[str, int]] = defaultdict(dict)  # origin -> who -> size
        self._marks: dict[str, list[str]] = defaultdict(list)  # origin -> countersignatures on their way
        self._fresh: dict[bool, tuple[float, SignedHead]] = {}  # whether light -> own newest head, and when

    def hear(self, site: PublicIdentity, content: bytes) -> bytes:
        """Takes what a site says of heads; the answer.

        Raises:
            TransportError: ``protocol``.
            LogError: ``head_invalid``; or the site's head contradicts an older one, which is an incident:
                ``log_rolled_back``, ``log_forked``, ``proof_invalid``.
        """
        said = Said.from_bytes(content)
        with self._mutex:
            known = parties_by_origin(self._parties())
            for origin, size in said.held.items():
                if origin in known:
                    self._held[origin][site.name] = size
            for note in said.marks:
                self._pass_on(site, note, known.values())
            if said.head:
                head = parse(said.head)
                self._take(site, said, head)
                self._renew(light=head.light)
            answer = self._answer(site, said).to_bytes()
        self._log.sync()  # what was countersigned is written down before it is given away
        return answer

    def _take(self, site: PublicIdentity, said: Said, head: SignedHead) -> None:
        """Countersigns a site's newest head, if it is shown to follow from the one that is held."""
        origin = origin_of(site)
        before = self.witness.newest(site)
        proof = said.proofs.get(str(before.size)) if before else ()
        if proof is None and before is not None and head.size > before.size:
            return  # the site does not know yet what is held here; this answer tells it
        mark = self.witness.take(site, head, unhexed(proof or ()))
        if mark is not None:
            self._marks[origin].append(mark.serialise().decode())
        self._recent[origin][head.size, head.light] = head
        for old in sorted(self._recent[origin])[:-_RECENT]:
            del self._recent[origin][old]
        steps = {int(size): Shown(note=said.head, proof=proof) for size, proof in said.proofs.items()}
        self._shown[origin][head.light] = steps if head.light else {0: Shown(note=said.head), **steps}

    def _pass_on(self, site: PublicIdentity, note: str, parties: Iterable[PublicIdentity]) -> None:
        """Keeps a site's countersignature of the lead's head, or passes on that of another site's."""
        mark = parse(note)
        if mark.origin == origin_of(self._own):
            countersigned(self._log, self._own, (note,), (site,))
            return
        shown = self._recent[mark.origin].get((mark.size, mark.light))
        log = next((party for party in parties if origin_of(party) == mark.origin), None)
        if shown is None or log is None:
            return
        if site.name not in shown.merged(mark).verify(log, (site,), light=mark.light):
            raise LogError("head_invalid", f"{site.name} gave a countersignature that is not its own.")
        if note not in self._marks[mark.origin]:
            self._marks[mark.origin].append(note)

    def _renew(self, *, light: bool) -> None:
        """Makes the lead's own head anew: a whole one where a site shows one or the last one is old."""
        now = self._clock()
        whole = self._fresh.get(False)
        light = light and whole is not None and now - whole[0] < WHOLE_S
        if light not in self._fresh or now - self._fresh[light][0] >= _FRESH_S:
            self._fresh[light] = (now, show(self._log, (), light=light)[0])

    def _answer(self, site: PublicIdentity, said: Said) -> Answered:
        origin, shown = origin_of(site), bool(said.head)
        known = self.witness.newest(site)
        sizes = set(self._held[origin].values()) | ({known.size} if known else set())
        own = known.serialise().decode() if known and not shown else ""
        heads = tuple(self._news(site, said)) if shown else ()
        marks = self._marks.pop(origin, []) if shown else []
        return Answered(held=tuple(sorted(sizes)), own=own, heads=heads, marks=tuple(marks))

    def _news(self, site: PublicIdentity, said: Said) -> Iterator[Shown]:
        """Of each log the newest whole head that a site has not seen, else the newest light one."""
        if lead := self._lead_for(said.held.get(origin_of(self._own), 0)):
            yield lead
        for other, weights in self._shown.items():
            held = said.held.get(other, 0)
            steps = (weights.get(light, {}).get(held) for light in (False, True))
            step = next((one for one in steps if one and parse(one.note).size > held), None)
            if step is not None and other != origin_of(site):
                self._held[other][site.name] = parse(step.note).size  # the next proof is to begin there
                yield step

    def _lead_for(self, held: int) -> Shown | None:
        """The lead's newest head, with a proof from the size that a site holds; None if that is no news."""
        heads = (self._fresh[light][1] for light in (False, True) if light in self._fresh)
        head = next((one for one in heads if one.size > held), None)
        if head is None:
            return None
        proof = hexed(self._log.consistency(held, head.size)) if held else ()
        return Shown(note=head.serialise().decode(), proof=proof)
