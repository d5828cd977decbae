"""The lead's end of showing heads: it countersigns its sites' heads and passes them on.

What lasts is in files (``privacy.evidence.witnessing``). The rest is what passes through: proofs, who holds
what, and countersignatures on their way; after a restart the sites say it again.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from cloister.privacy.errors import LogError
from cloister.privacy.evidence.heads import SignedHead, origin_of
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.evidence.witnessing import (
    Answered,
    Said,
    Shown,
    Witness,
    countersigned,
    hexed,
    parse,
    parties_by_origin,
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
        self._shown: dict[str, dict[int, Shown]] = {}  # origin -> size held -> newest head and proof
        self._recent: dict[str, dict[int, SignedHead]] = defaultdict(dict)
        self._held: dict[str, dict[str, int]] = defaultdict(dict)  # origin -> who -> size
        self._marks: dict[str, list[str]] = defaultdict(list)  # origin -> countersignatures on their way
        self._fresh: tuple[float, SignedHead] | None = None

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
                self._take(site, said)
            answer = self._answer(site, said, bool(said.head)).to_bytes()
        self._log.sync()  # what was countersigned is written down before it is given away
        return answer

    def _take(self, site: PublicIdentity, said: Said) -> None:
        """Countersigns a site's newest head, if it is shown to follow from the one that is held."""
        head, origin = parse(said.head), origin_of(site)
        before = self.witness.newest(site)
        proof = said.proofs.get(str(before.size)) if before else ()
        if proof is None and before is not None and head.size > before.size:
            return  # the site does not know yet what is held here; this answer tells it
        mark = self.witness.take(site, head, unhexed(proof or ()))
        if mark is not None:
            self._marks[origin].append(mark.serialise().decode())
        self._recent[origin][head.size] = head
        for old in sorted(self._recent[origin])[:-_RECENT]:
            del self._recent[origin][old]
        steps = {int(size): Shown(note=said.head, proof=proof) for size, proof in said.proofs.items()}
        self._shown[origin] = {0: Shown(note=said.head), **steps}

    def _pass_on(self, site: PublicIdentity, note: str, parties: Iterable[PublicIdentity]) -> None:
        """Keeps a site's countersignature of the lead's head, or passes on that of another site's."""
        mark = parse(note)
        if mark.origin == origin_of(self._own):
            countersigned(self._log, self._own, (note,), (site,))
            return
        shown = self._recent[mark.origin].get(mark.size)
        log = next((party for party in parties if origin_of(party) == mark.origin), None)
        if shown is None or log is None:
            return
        if site.name not in shown.merged(mark).verify(log, (site,)):
            raise LogError("head_invalid", f"{site.name} gave a countersignature that is not its own.")
        if note not in self._marks[mark.origin]:
            self._marks[mark.origin].append(note)

    def _answer(self, site: PublicIdentity, said: Said, shown: bool) -> Answered:
        origin = origin_of(site)
        known = self.witness.newest(site)
        sizes = set(self._held[origin].values()) | ({known.size} if known else set())
        own = known.serialise().decode() if known and not shown else ""
        heads = [self._lead_for(said.held.get(origin_of(self._own)))]
        for other, steps in self._shown.items():
            held = said.held.get(other, 0)
            if other != origin and (step := steps.get(held)) and parse(step.note).size > held:
                heads.append(step)
        marks = self._marks.pop(origin, []) if shown else []
        return Answered(
            held=tuple(sorted(sizes)), own=own, heads=tuple(filter(None, heads)), marks=tuple(marks)
        )

    def _lead_for(self, held: int | None) -> Shown | None:
        """The lead's newest head, with a proof from the size that a site holds; None if that is no news."""
        now = self._clock()
        if self._fresh is None or now - self._fresh[0] >= _FRESH_S:
            self._fresh = (now, self._log.head())
        head = self._fresh[1]
        if held is not None and held >= head.size:
            return None
        proof = () if held is None else hexed(self._log.consistency(held, head.size))
        bare = replace(head, signatures=head.signatures[:1])  # the log's own; the others know theirs
        return Shown(note=bare.serialise().decode(), proof=proof)
