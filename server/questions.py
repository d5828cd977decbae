"""What the lead asks sites, sealed and signed, and what they answer, opened only as what is expected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cloister.privacy.identity import PrivateIdentity, Roster
from cloister.privacy.plan import Plan
from cloister.privacy.wire import messages
from cloister.privacy.wire.envelope import Header, Letter, Opened, open_envelope, peek, seal_together
from cloister.server.rounds import Round
from cloister.server.sums import Ask

_TOGETHER = 4 << 20
"""Bytes of contents that share signatures. Beside larger ones a signature takes no time to speak of, and each
envelope is sent before the next one is made."""


@dataclass(frozen=True)
class Questions:
    """Those of one job.

    Attributes:
        plan: of the job.
        identity: the lead's keys.
        roster: everybody's public keys.
    """

    plan: Plan
    identity: PrivateIdentity
    roster: Roster

    def sealed(self, current: Round, ask: Ask, sites: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """The envelope of each site, in the order of the sites."""
        batch, size = dict[str, Letter](), 0
        for site in sites:
            content = ask.content(site)
            if batch and size + len(content) > _TOGETHER:
                yield from self._sealed(batch)
                batch, size = {}, 0
            header = self.header(current, site, ask.kind, up=False)
            batch[site] = Letter(header, content, self.roster.member(site))
            size += len(content)
        if batch:
            yield from self._sealed(batch)

    def _sealed(self, batch: dict[str, Letter]) -> Iterator[tuple[str, bytes]]:
        return zip(batch, seal_together(list(batch.values()), self.identity), strict=True)

    def opened(self, current: Round, site: str, kinds: tuple[str, ...], data: bytes) -> Opened:
        """An answer, verified and opened.

        Raises:
            ChannelError: not signed by the site, or for another plan, round, attempt or model.
        """
        limit = messages.largest_of(self.plan)
        kind = peek(data, limit).kind
        return open_envelope(
            data,
            expected=self.header(current, site, kind if kind in kinds else kinds[0], up=True),
            recipient=self.identity,
            sender=self.roster.member(site),
            limit=limit,
        )

    def header(self, current: Round, site: str, kind: str, *, up: bool) -> Header:
        """Where in the job an envelope to a site belongs, or one from it (``up``)."""
        lead = self.plan.lead.name
        return Header(
            kind=kind,
            consortium=self.plan.consortium,
            plan=self.plan.digest,
            round=current.number,
            step=current.step,
            attempt=current.attempt,
            sender=site if up else lead,
            recipient=lead if up else site,
            model=current.model,
        )
