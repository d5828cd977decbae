"""The aggregator's side of secure aggregation: who is asked for what, in which order.

What it means stands in ``privacy.secagg.rounds``; this file moves the envelopes. A site that refuses a step
or sends something wrong is noted with the reason; the sum goes on while enough others do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from cloister.privacy.errors import AggregationError, CloisterError
from cloister.privacy.identity import PublicIdentity
from cloister.privacy.secagg import surplus
from cloister.privacy.secagg.keys import Introduction
from cloister.privacy.secagg.rounds import Words
from cloister.privacy.secagg.server import ServerSum
from cloister.privacy.secagg.terms import At, SumTerms
from cloister.privacy.wire import messages, sums
from cloister.privacy.wire.envelope import Opened
from cloister.privacy.wire.signed import Signed
from cloister.server.rounds import ACCEPTED, Round

_STEP_S = 120.0


@dataclass(frozen=True)
class Ask:
    """What every invited site is asked.

    Attributes:
        kind, answer: of the envelope and of its answer, beside a refusal.
        content: of the envelope for a site.
        patience: seconds until a silent site is lost; None for the pace of training.
    """

    kind: str
    answer: str
    content: Callable[[str], bytes]
    patience: float | None = _STEP_S


class Exchange(Protocol):
    """Asks the invited sites of a round and yields their answers as they come."""

    def __call__(self, current: Round, ask: Ask) -> Iterable[tuple[str, Opened]]:
        """Until every site has answered, refused or is lost."""
        ...


@dataclass(frozen=True)
class Adding:
    """Adds up in secret for one job.

    Attributes:
        terms: of the plan.
        identities: of all sites, by name.
        exchange: moves the envelopes.
        refused: told of a site whose answer cannot be used, with the id of the reason.
    """

    terms: SumTerms
    identities: Mapping[str, PublicIdentity]
    exchange: Exchange
    refused: Callable[[Round, str, str], None]

    def agree(self, stage: Callable[[], Round]) -> None:
        """Lets all pairs of sites agree on keys; asked again, every site says the same again.

        Args:
            stage: a new exchange with all sites of the plan.

        Raises:
            AggregationError: ``keys_missing``, naming the sites that did not take part and why.
        """
        sites = self.terms.sites
        introductions: dict[str, Signed] = {}
        agreements: dict[str, dict[str, Signed]] = {name: {} for name in sites}
        confirmed: dict[frozenset[str], str] = {}

        def introduce(site: str, data: bytearray) -> None:
            signed = sums.signed_from_bytes(data)
            Introduction.open(self.terms, signed, self.identities[site])  # whose fault it is shows here
            introductions[site] = signed

        def carry(site: str, data: bytearray) -> None:
            given = sums.signatures_from_bytes(data)
            if set(given) != set(sites[sites.index(site) + 1 :]):
                raise AggregationError(
                    "key_unusable", f"{site} agreed on keys with other sites than those after it."
                )
            for taker, signed in given.items():
                agreements[taker][site] = signed

        def confirm(site: str, data: bytearray) -> None:
            for peer, said in sums.confirmations_from_bytes(data).items():
                if confirmed.setdefault(frozenset((site, peer)), said) != said:
                    raise AggregationError("key_unusable", f"{site} and {peer} do not have the same key.")

        self._all(stage(), Ask(sums.INTRODUCE, sums.INTRODUCTION, lambda _: b""), introduce)
        everybody = sums.signatures_to_bytes(introductions)
        self._all(stage(), Ask(sums.AGREE, sums.AGREEMENTS, lambda _: everybody), carry)
        adopt = Ask(sums.ADOPT, sums.ADOPTED, lambda site: sums.signatures_to_bytes(agreements[site]))
        self._all(stage(), adopt, confirm)

    def open(self, current: Round, summing: ServerSum) -> tuple[Words, tuple[str, ...], tuple[str, ...]]:
        """The sum over the survivors, with those who signed and those who opened.

        Raises:
            AggregationError: the sum cannot be opened; nothing was, or what was tells nothing.
        """
        survivors = summing.survivors()
        content = sums.survivors_to_bytes(survivors)
        ask = Ask(sums.SURVIVE, sums.SIGNED, lambda _: content)
        signed = self._part(current, survivors)
        self._some(signed, ask, lambda site, data: summing.signed(site, sums.signed_from_bytes(data)))
        shown = sums.open_to_bytes(survivors, summing.signatures())
        reveal = Ask(sums.OPEN, sums.OPENED, lambda _: shown)
        opened = self._part(current, signed.of(ACCEPTED))
        self._some(opened, reveal, lambda site, data: summing.opened(site, sums.opening_from_bytes(data)))
        if summing.lost() and len(survivors) < len(self.terms.sites):  # without these the sum would be lost
            late = self._part(current, summing.lost())
            self._some(late, ask, lambda site, data: summing.signed(site, sums.signed_from_bytes(data)))
            again = self._part(current, late.of(ACCEPTED))
            self._some(again, reveal, lambda site, data: summing.opened(site, sums.opening_from_bytes(data)))
        if summing.lost():
            helping = self._part(current, summing.openers())
            asked = {site: sums.shares_to_bytes(summing.shares_for(site)) for site in helping.invited}
            ask = Ask(sums.RECOVER, sums.SHARES, asked.__getitem__)
            self._some(helping, ask, lambda site, data: summing.recovered(site, sums.shares_from_bytes(data)))
        return summing.total(), tuple(summing.signatures()), summing.openers()

    def surplus(
        self, current: Round, survivors: tuple[str, ...]
    ) -> tuple[Words, tuple[str, ...], tuple[str, ...]]:
        """The sum of the surplus noise of an opened step, over exactly its survivors; see ``open``.

        Args:
            current: the round of the step.
            survivors: over whom its sum was opened.

        Raises:
            AggregationError: it cannot be opened over all of them; the step keeps its noise.
        """
        stage = replace(current, invited=survivors, step=surplus.STEP)
        place = surplus.place(At(current.number, 0, current.attempt, current.model))
        summing = ServerSum(self.terms, place, self.identities)
        content, d = sums.survivors_to_bytes(survivors), self.terms.parameters
        ask = Ask(sums.SURPLUS, sums.MASKED, lambda _: content)
        self._some(stage, ask, lambda site, data: summing.add(site, sums.masked_from_bytes(data, d)))
        missing = [name for name in survivors if name not in stage.of(ACCEPTED)]
        if missing:
            raise AggregationError(
                "surplus_refused", f"{', '.join(missing)} did not give surplus noise of {current.number}."
            )
        return self.open(stage, summing)

    @staticmethod
    def _part(current: Round, invited: tuple[str, ...]) -> Round:
        return replace(current, invited=invited)

    def _some(self, stage: Round, ask: Ask, take: Callable[[str, bytearray], None]) -> None:
        """Takes the answers of all who give a good one."""
        for site, opened in self.exchange(stage, ask):
            if opened.header.kind == messages.REFUSAL:
                self._refuse(stage, site, messages.refusal_reason(opened.content))
                continue
            try:
                take(site, opened.content)
            except CloisterError as error:
                self._refuse(stage, site, error.id)
            else:
                stage.note(site)

    def _refuse(self, stage: Round, site: str, reason: str) -> None:
        stage.refuse(site, reason)
        self.refused(stage, site, reason)

    def _all(self, stage: Round, ask: Ask, take: Callable[[str, bytearray], None]) -> None:
        self._some(stage, ask, take)
        missing = [
            f"{name}: {standing.reason or standing.state}"
            for name, standing in stage.standings.items()
            if standing.state != ACCEPTED
        ]
        if missing:
            raise AggregationError(
                "keys_missing",
                f"Keys for secure aggregation were not agreed with every site ({', '.join(missing)}).",
                "Every site of the plan must be there at the start; start it and resume the job.",
            )
