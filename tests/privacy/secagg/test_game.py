"""A game against secure sums: a server and t colluding sites ask the honest ones for whatever they like.

The honest sites are real. After every move the adversary works out, from the very bytes that it was given,
which masks it can take away; what is then bare must be what the specification in ``rounds`` allows:

1. Bare is only the sum over all honest members of one set that T sites signed; n_min - t at least, so two.
2. In one round and step no two sets can be opened, so no two sums share an update.
3. A key stream masks one vector.
4. A refusal is a ``CloisterError`` and leaves the site as it was.
5. Whatever was played before, honest play gives the exact sum, or the refusal that its drop-outs call for.

Sites that are broken on purpose show that the game finds it where one of these does not hold.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from cloister.privacy import canonical
from cloister.privacy.errors import CloisterError
from cloister.privacy.identity import PrivateIdentity, PublicIdentity
from cloister.privacy.secagg import masking, shares
from cloister.privacy.secagg.keys import PairKeys
from cloister.privacy.secagg.masking import Mask
from cloister.privacy.secagg.rounds import (
    SURVIVORS,
    Identities,
    Masked,
    Opening,
    Words,
    commitment,
    self_mask,
    share_digest,
    survivors_bytes,
)
from cloister.privacy.secagg.site import SiteSums
from cloister.privacy.secagg.terms import At, SumTerms
from cloister.privacy.wire.signed import Signed
from tests import sums
from tests.privacy.secagg.test_rounds import OTHER_MODEL, fate, outcome
from tests.sums import NAMES, Adders, identity, terms_of

pytestmark = pytest.mark.job

_T = TypeVar("_T")
Sites = tuple[str, ...]

# n, T, n_min, t: the least that the terms allow, and a minimum above it.
TERMS = [
    terms_of(n, minimum, threshold=threshold, colluding=t, parameters=4)
    for n, threshold, minimum, t in (
        (4, 3, 3, 1),
        (4, 3, 4, 1),
        (5, 4, 4, 2),
        (6, 4, 4, 1),
        (5, 4, 5, 1),
        (6, 5, 5, 3),
        (6, 4, 5, 1),
        (3, 3, 3, 1),
    )
]


@dataclass
class Sent:
    """A masked vector that an honest site let go, and the shares of its seed that were opened since."""

    vector: Words
    masked: Masked
    held: dict[int, bytes]


@dataclass
class Adversary:
    """What the server and the colluding sites know, and what follows from it."""

    terms: SumTerms
    colluders: frozenset[str]
    chains: dict[tuple[str, int], PairKeys]
    sent: dict[tuple[str, At], list[Sent]] = field(default_factory=lambda: defaultdict(list))
    signed: dict[tuple[At, Sites], dict[str, Signed]] = field(default_factory=lambda: defaultdict(dict))
    seeds: dict[tuple[str, At], bytes] = field(default_factory=dict)
    pairs: dict[tuple[At, frozenset[str]], bytes] = field(default_factory=dict)
    streams: dict[bytes, tuple[At, dict[str, bytes]]] = field(default_factory=dict)
    checked: set[tuple[At, frozenset[str]]] = field(default_factory=set)

    @property
    def honest(self) -> list[str]:
        return [name for name in self.terms.sites if name not in self.colluders]

    def hears_vector(self, site: SiteSums, at: At, vector: Words, masked: Masked) -> None:
        before = self.sent[site.me, at]
        if (
            not before
            or (before[0].vector != vector).any()
            or before[0].masked.commitment != masked.commitment
        ):
            self._check_streams(site, at, vector)
        before.append(Sent(vector, masked, {}))
        for holder in self.colluders:
            key, sealed = self._keys(holder, at).share(site.me, at, site.me), masked.shares[holder]
            share = AESGCM(key).decrypt(sealed[:12], sealed[12:], None)
            before[-1].held[self.terms.sites.index(holder)] = share

    def _check_streams(self, site: SiteSums, at: At, vector: Words) -> None:
        """Law 3."""
        keys = [site.keys.mask(peer, at) for peer in self.terms.sites if peer != site.me]
        for key in [self_mask(self.terms, at, site.me, site.seed, 1).key, *keys]:
            place, users = self.streams.setdefault(key, (at, {}))
            assert place == at, "law 3: a key stream served two sums"
            assert users.setdefault(site.me, vector.tobytes()) == vector.tobytes(), (
                "law 3: a key stream masked two vectors"
            )

    def hears_opening(self, name: str, at: At, opening: Opening) -> None:
        self.seeds[name, at] = opening.seed
        self.pairs |= {(at, frozenset((name, peer))): key for peer, key in opening.pairs.items()}

    def hears_shares(self, holder: str, at: At, opened: Mapping[str, bytes]) -> None:
        for giver, share in opened.items():
            if giver not in self.colluders:
                self._hold(giver, at, holder, share)

    def _hold(self, giver: str, at: At, holder: str, share: bytes) -> None:
        """Puts a share to the others of its split; T of them are the seed."""
        digest = share_digest(self.terms, at, giver, holder, share)
        (sent,) = [sent for sent in self.sent[giver, at] if sent.masked.digests[holder] == digest]
        sent.held[self.terms.sites.index(holder)] = share
        if len(sent.held) >= self.terms.threshold:
            seed = shares.combine(sent.held, self.terms.threshold)
            assert commitment(self.terms, at, giver, seed) == sent.masked.commitment
            self.seeds[giver, at] = seed

    def _keys(self, colluder: str, at: At) -> PairKeys:
        if (colluder, at.round) not in self.chains:
            keys = PairKeys(self.terms, colluder, 0, dict(self.chains[colluder, 0].chains))
            keys.advance(at.round)
            self.chains[colluder, at.round] = keys
        return self.chains[colluder, at.round]

    def bare(self, at: At) -> list[frozenset[str]]:
        """The smallest sets of honest sites whose sum of vectors the adversary can compute.

        Two sites hang together where nobody opened the key of their mask: it cancels only if both are added.
        One whose own mask is closed, or that sent nothing, spoils all sets that it is in.
        """
        group = {name: frozenset({name}) for name in self.honest}
        for one, two in combinations(self.honest, 2):
            if (at, frozenset((one, two))) not in self.pairs:
                joined = group[one] | group[two]
                group |= dict.fromkeys(joined, joined)
        return [
            names
            for names in dict.fromkeys(group.values())
            if all((name, at) in self.seeds and (name, at) in self.sent for name in names)
        ]

    def derive(self, at: At, names: frozenset[str]) -> Words:
        """That sum."""
        total = np.zeros(self.terms.parameters, dtype=np.uint32)
        for name in names:
            total += self.sent[name, at][0].masked.words
            masks = [self_mask(self.terms, at, name, self.seeds[name, at], -1)]
            for peer in set(self.terms.sites) - names:
                known = self.pairs.get((at, frozenset((name, peer))))
                key = known if peer not in self.colluders else self._keys(peer, at).mask(name, at)
                assert key is not None
                masks.append(
                    Mask(key, -1 if self.terms.sites.index(name) < self.terms.sites.index(peer) else 1)
                )
            masking.apply(total, masks)
        return total

    def quorums(self) -> list[tuple[At, Sites]]:
        """The survivor sets for which T signatures can be shown; colluders sign all."""
        return [
            (at, survivors)
            for (at, survivors), signed in self.signed.items()
            if len(set(signed) | self.colluders & set(survivors)) >= self.terms.threshold
        ]

    def check(self) -> None:
        """Laws 1 and 2."""
        quorums, sums_of = self.quorums(), set()
        steps = [(at.round, at.step) for at, _ in quorums]
        assert len(steps) == len(set(steps)), "law 2: two survivor sets can be opened"
        for at in {at for _, at in self.sent}:
            for names in self.bare(at):
                self._check_bare(at, names, [frozenset(sites) for place, sites in quorums if place == at])
                assert (at.round, at.step) not in sums_of, "law 2: two sums share an update"
                sums_of.add((at.round, at.step))

    def _check_bare(self, at: At, names: frozenset[str], quorums: Iterable[frozenset[str]]) -> None:
        assert len(names) >= max(2, self.terms.minimum - self.terms.colluding), "law 1: too few are bare"
        assert names in [sites - self.colluders for sites in quorums], "law 1: bare is no signed set"
        if (at, names) not in self.checked:  # what is bare is bare in truth: the adversary has the sum
            self.checked.add((at, names))
            expected = np.sum([self.sent[name, at][0].vector for name in names], 0, np.uint32)
            np.testing.assert_array_equal(self.derive(at, names), expected)


@dataclass
class Watched:
    """An honest site as the adversary meets it: every answer is overheard, every refusal looked at.

    A restless one starts again from its state on disk before every question.
    """

    site: SiteSums
    adversary: Adversary
    restless: bool

    def mask(self, at: At, words: Words, seed: bytes) -> Masked:
        vector = words.copy()
        masked = self._ask(lambda site: site.mask(at, words, seed))
        self.adversary.hears_vector(self.site, at, vector, masked)
        return masked

    def sign(self, at: At, survivors: Sites) -> Signed:
        signed = self._ask(lambda site: site.sign(at, survivors))
        self.adversary.signed[at, survivors][self.site.me] = signed
        return signed

    def open(self, at: At, survivors: Sites, signatures: Mapping[str, Signed]) -> Opening:
        opening = self._ask(lambda site: site.open(at, survivors, signatures))
        self.adversary.hears_opening(self.site.me, at, opening)
        return opening

    def recover(self, at: At, lost: Mapping[str, bytes]) -> dict[str, bytes]:
        opened = self._ask(lambda site: site.recover(at, lost))
        self.adversary.hears_shares(self.site.me, at, opened)
        return opened

    def restart(self) -> None:
        value = canonical.decode(canonical.encode(self.site.to_json()))
        site = self.site
        self.site = type(site).from_json(site.terms, site.identity, site.peers, value)

    def _ask(self, question: Callable[[SiteSums], _T]) -> _T:
        if self.restless:
            self.restart()
        before = self.site.to_json()
        try:
            return question(self.site)
        except CloisterError:
            assert self.site.to_json() == before, "law 4: a refusal changed the state"
            raise


Place = tuple[int, int, int, str]
# The sum that the site is in (None), or one near the first of those that are played: most moves make sense.
NEAR: list[Place] = [
    (0, 0, 1, sums.MODEL),
    (0, 0, 2, sums.MODEL),
    (0, 1, 1, sums.MODEL),
    (1, 0, 1, sums.MODEL),
    (0, 0, 1, OTHER_MODEL),
]
PLACES = st.none() | st.none() | st.sampled_from(NEAR)
EVERYBODY = frozenset(NAMES)
SOME = st.frozensets(st.sampled_from(NAMES), min_size=1)
FEW = st.frozensets(st.sampled_from(NAMES), max_size=2)
WHO = st.just(EVERYBODY) | SOME
# One of the sets that this game is about, by its number, or any sequence of names.
SETS = st.integers(0, 2)
ANY_SETS = SETS | st.lists(st.sampled_from((*NAMES, "stranger")), max_size=7).map(tuple)


class Game(RuleBasedStateMachine):
    """The adversary's moves."""

    kind: ClassVar[type[SiteSums]] = SiteSums
    plans: ClassVar[Sequence[SumTerms]] = TERMS

    @initialize(data=st.data(), place=st.sampled_from(NEAR), restless=st.booleans())
    def begin(self, data: st.DataObject, place: Place, restless: bool) -> None:
        terms = data.draw(st.sampled_from(self.plans), "terms")
        self.terms, self.adders, self.first = terms, Adders(terms), 1
        t, names = terms.colluding, st.sampled_from(terms.sites)
        # Fewer than t colluders know less.
        colluders = data.draw(st.frozensets(names, min_size=t, max_size=t), "colluders")
        chains = {
            (name, 0): PairKeys(terms, name, 0, dict(self.adders.sites[name].keys.chains))
            for name in colluders
        }
        self.adversary = Adversary(terms, colluders, chains)
        self.watched = {
            name: Watched(self.kind(**vars(self.adders.sites[name])), self.adversary, restless)
            for name in self.adversary.honest
        }
        self.adders.sites |= cast(dict[str, SiteSums], self.watched)
        # Two sets without some honest sites, and one of everybody or one that is too small.
        spare = len(terms.sites) - terms.minimum
        gone = st.frozensets(st.sampled_from(self.adversary.honest), min_size=min(1, spare), max_size=spare)
        third = st.sampled_from([frozenset[str](), frozenset(NAMES[: spare + 1])])
        sets = data.draw(st.tuples(gone, gone, third), "not in the sets")
        self.sets = [tuple(name for name in terms.sites if name not in missing) for missing in sets]
        self.mask(place, EVERYBODY, False)

    def at(self, place: Place | None, site: SiteSums) -> At:
        if place is None and site.at is not None:
            return site.at
        number, step, attempt, model = place or (0, 0, 1, sums.MODEL)
        return At(self.first + number, step, attempt, model)

    def asked(self, who: Iterable[str]) -> list[Watched]:
        return [watched for name, watched in self.watched.items() if name in who]

    def survivors(self, which: int | Sites) -> Sites:
        return self.sets[which] if isinstance(which, int) else which

    @rule(place=st.none() | st.sampled_from(NEAR), who=WHO, other=st.booleans())
    def mask(self, place: Place | None, who: frozenset[str], other: bool) -> None:
        for watched in self.asked(who):
            site, at = watched.site, self.at(place, watched.site)
            with suppress(CloisterError):
                watched.mask(
                    at, self.adders.inputs[site.me] + np.uint32(other), self.adders.seed(site.me, at)
                )

    @rule(place=PLACES, which=ANY_SETS, who=WHO)
    def sign(self, place: Place | None, which: int | Sites, who: frozenset[str]) -> None:
        for watched in self.asked(who):
            with suppress(CloisterError):
                watched.sign(self.at(place, watched.site), self.survivors(which))

    @rule(
        place=PLACES,
        which=st.none() | ANY_SETS,
        who=WHO,
        shown=st.sampled_from(["all", "all", "few", "of others", "swapped", "another statement"]),
    )
    def open(self, place: Place | None, which: int | Sites | None, who: frozenset[str], shown: str) -> None:
        for watched in self.asked(who):
            at = self.at(place, watched.site)
            survivors = watched.site.survivors if which is None else self.survivors(which)
            with suppress(CloisterError):
                watched.open(at, survivors, self.signatures(at, survivors, shown))

    def signatures(self, at: At, survivors: Sites, shown: str) -> dict[str, Signed]:
        statement = survivors_bytes(
            self.terms, at, self.sets[0] if shown == "another statement" else survivors
        )
        found = dict(self.adversary.signed.get((at, survivors), {}))
        for name in self.adversary.colluders:
            if name in survivors or shown == "of others":
                found[name] = Signed.make(statement, identity(name), SURVIVORS)
        if shown == "few":
            return dict(list(found.items())[1:])
        if shown == "swapped" and found:
            return dict.fromkeys(survivors, next(iter(found.values())))
        return found

    @rule(
        place=PLACES,
        who=WHO,
        lost=st.none() | WHO,
        which=st.integers(-1, 1),
        sealed=st.sampled_from(["its own", "its own", "its own", "another's", "garbage"]),
    )
    def recover(
        self, place: Place | None, who: frozenset[str], lost: frozenset[str] | None, which: int, sealed: str
    ) -> None:
        for watched in self.asked(who):
            site, at = watched.site, self.at(place, watched.site)
            closed = [name for name in site.survivors if (name, at) not in self.adversary.seeds]
            given = {
                name: self.share_of(name, at, site.me, which, sealed)
                for name in (closed if lost is None else lost)
                if self.adversary.sent.get((name, at)) and name != site.me
            }
            with suppress(CloisterError):
                watched.recover(at, given)

    def share_of(self, name: str, at: At, holder: str, which: int, sealed: str) -> bytes:
        sent = self.adversary.sent[name, at]
        given = sent[which % len(sent)].masked.shares
        if sealed == "garbage":
            return bytes(which + 1)
        return given[holder] if sealed == "its own" else next(iter(given.values()))

    @rule(
        forward=st.integers(0, 1),
        place=st.none() | st.sampled_from(NEAR[:3]),
        which=SETS,
        told_another=st.just(frozenset[str]()) | SOME,
        openers=WHO,
    )
    def press(
        self,
        forward: int,
        place: Place | None,
        which: int,
        told_another: frozenset[str],
        openers: frozenset[str],
    ) -> None:
        """Straight for a sum, wherever the sites stand or at a place; some are told of another set."""
        self.first += forward
        if place is not None:
            self.mask(place, EVERYBODY, False)
        self.sign(None, which, EVERYBODY - told_another)
        self.sign(None, (which + 1) % len(self.sets), told_another)
        self.open(None, None, openers, "all")
        self.recover(None, openers, None, -1, "its own")
        self.recover(None, openers, EVERYBODY, -1, "its own")

    @rule(which=SETS, model=st.sampled_from([sums.MODEL, OTHER_MODEL]))
    def retry(self, which: int, model: str) -> None:
        """Another attempt at the sum under way, of the same vectors."""
        for site in [watched.site for watched in self.watched.values()]:
            at = self.at(None, site)
            with suppress(CloisterError):
                again = At(at.round, at.step, at.attempt + 1, model)
                vector = self.adders.inputs[site.me].copy()
                self.watched[site.me].mask(again, vector, self.adders.seed(site.me, again))
        self.press(0, None, which, frozenset(), EVERYBODY)

    @rule(who=WHO)
    def restart(self, who: frozenset[str]) -> None:
        for watched in self.asked(who):
            watched.restart()

    @rule(missing=FEW, unsigned=FEW, unopened=FEW)
    def honest_sum(self, missing: frozenset[str], unsigned: frozenset[str], unopened: frozenset[str]) -> None:
        """Everybody plays honestly once, the colluders too; then the adversary goes on."""
        at = At(self.first + 2, 0, 1, sums.MODEL)
        self.first += 3
        drops = [set(gone) & set(self.terms.sites) for gone in (missing, unsigned, unopened)]
        found, why = outcome(self.adders, at, missing=drops[0], unsigned=drops[1], unopened=drops[2])
        assert why == fate(self.terms, *drops), "law 5: another refusal"
        if not why:
            rest = set(self.terms.sites) - missing
            np.testing.assert_array_equal(found, self.adders.expected(rest))
            assert self.adversary.bare(at) == [rest - self.adversary.colluders], (
                "the adversary overlooks a sum"
            )

    @invariant()
    def laws(self) -> None:
        if hasattr(self, "adversary"):
            self.adversary.check()


# Few and always the same in `make check`, many and others in `make test-long`.
PLAY = settings(
    max_examples=40 if settings().derandomize else 600,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=settings.get_profile("ci").suppress_health_check,
)
FIND = settings(PLAY, phases=[Phase.generate], print_blob=False, database=None)


@pytest.fixture(autouse=True, scope="module")
def signed_once() -> Iterator[None]:
    """The same statements are signed and verified in all games: once each, for speed; refusals every time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(PrivateIdentity, "sign", cache(PrivateIdentity.sign))
        patched.setattr(PublicIdentity, "verify", cache(PublicIdentity.verify))
        yield


def test_no_move_bares_what_it_must_not() -> None:
    run_state_machine_as_test(Game, settings=PLAY)


class ForgetsOnRestart(SiteSums):
    @classmethod
    def from_json(
        cls, terms: SumTerms, identity: Any, peers: Identities, value: Mapping[str, Any]
    ) -> SiteSums:
        return super().from_json(terms, identity, peers, {**value, "survivors": [], "opened": False})


class SignsTwoSets(SiteSums):
    def sign(self, at: At, survivors: Sites) -> Signed:
        before, self.survivors = self.survivors, ()
        try:
            return super().sign(at, survivors)
        except CloisterError:
            self.survivors = before
            raise


def small_sets(terms: SumTerms, me: str) -> list[Sites]:
    return [some for some in combinations(terms.sites, terms.minimum - 1) if me in some]


class SignsSmallSets(SiteSums):
    def sign(self, at: At, survivors: Sites) -> Signed:
        if self.at == at and not self.survivors and survivors in small_sets(self.terms, self.me):
            self.survivors = survivors
            return Signed.make(survivors_bytes(self.terms, at, survivors), self.identity, SURVIVORS)
        return super().sign(at, survivors)


class OpensOneSignatureEarly(SiteSums):
    def _check_signatures(self, at: At, signatures: Mapping[str, Signed]) -> None:
        if len(signatures) != self.terms.threshold - 1:
            super()._check_signatures(at, signatures)


class OpensAllPairs(SiteSums):
    def open(self, at: At, survivors: Sites, signatures: Mapping[str, Signed]) -> Opening:
        opening = super().open(at, survivors, signatures)
        return Opening(opening.seed, {name: self.keys.mask(name, at) for name in self._others()})


class RecoversAnybody(SiteSums):
    def recover(self, at: At, lost: Mapping[str, bytes]) -> dict[str, bytes]:
        super().recover(at, {})
        return {name: self._open_share(at, name, sealed) for name, sealed in lost.items() if name != self.me}


class TriesAgainAfterSigning(SiteSums):
    def admit(self, at: At) -> bool:
        current = self.at
        if current is not None and at != current and at.order > current.order:
            return False
        return super().admit(at)


class MasksAnotherVector(SiteSums):
    def mask(self, at: At, words: Words, seed: bytes) -> Masked:
        if at == self.at and not self.survivors:
            self.at, self.seed = None, b""
        return super().mask(at, words, seed)


class FixesBeforeItChecks(SiteSums):
    def sign(self, at: At, survivors: Sites) -> Signed:
        self.survivors = self.survivors or survivors
        return super().sign(at, survivors)


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (ForgetsOnRestart, "law 2"),
        (SignsTwoSets, "law 2"),
        (SignsSmallSets, "law 1"),
        (OpensOneSignatureEarly, "law 1"),
        (OpensAllPairs, "law 1"),
        (RecoversAnybody, "law 1"),
        (TriesAgainAfterSigning, "law 2"),
        (MasksAnotherVector, "law 3"),
        (FixesBeforeItChecks, "law 4"),
    ],
)
def test_the_game_finds_what_is_broken(kind: type[SiteSums], law: str) -> None:
    """By moves of the adversary alone, in no more games than the sound sites are put to."""
    plans = TERMS[1:2] if kind is SignsSmallSets else TERMS[:1]  # a minimum above T, or the smallest plan
    broken = type("Broken", (Game,), {"kind": kind, "plans": plans, "honest_sum": None})
    with pytest.raises(AssertionError, match=law):
        run_state_machine_as_test(broken, settings=FIND)
