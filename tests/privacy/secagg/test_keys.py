"""Agreement on pair keys: both ends get the same chain; whatever a server changes on the way is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from cloister.privacy import canonical
from cloister.privacy.errors import AggregationError, CloisterError, EntropyError, StateError
from cloister.privacy.secagg import keys
from cloister.privacy.secagg.keys import INTRODUCTION, Introduction, JobKey, PairKeys
from cloister.privacy.wire.signed import Signed
from tests import sums
from tests.sums import at, identity, terms_of

TERMS = terms_of(4)
PEERS = {name: identity(name).public for name in TERMS.sites}


def refused(error_id: str) -> Any:
    return pytest.raises(CloisterError, check=lambda error: error.id == error_id)


@pytest.fixture(scope="module")
def own() -> dict[str, JobKey]:
    return {name: JobKey.generate() for name in TERMS.sites}


@pytest.fixture(scope="module")
def signed(own: dict[str, JobKey]) -> dict[str, Signed]:
    return {name: Introduction.make(TERMS, own[name], identity(name)) for name in TERMS.sites}


def introduced(signed: dict[str, Signed]) -> dict[str, Introduction]:
    return keys.introductions(TERMS, signed.values(), PEERS)


def test_both_ends_of_every_pair_have_the_same_chain() -> None:
    pairs = sums.agreed(TERMS)
    seen = set()
    for one in TERMS.sites:
        for other in TERMS.sites:
            if one != other:
                assert pairs[one].chains[other] == pairs[other].chains[one]
                seen.add(pairs[one].chains[other])
    assert len(seen) == 6


def test_no_two_agreements_give_the_same_keys() -> None:
    one, two = sums.agreed(TERMS), sums.agreed(TERMS)
    assert one["north"].chains != two["north"].chains


def forged(name: str, **changes: Any) -> Signed:
    """An introduction with other fields, rightly signed by ``name``."""
    content = {"v": 1, "job": TERMS.job, "site": name, "key": JobKey.generate().public.hex()}
    return Signed.make(canonical.encode(content | changes), identity(name), INTRODUCTION)


SMALL_ORDER = (JobKey.generate().public[:1184] + bytes(32)).hex()
BROKEN: dict[str, tuple[Callable[[dict[str, Signed]], dict[str, Signed]], str]] = {
    "one is missing": (lambda s: {k: v for k, v in s.items() if k != "west"}, "keys_missing"),
    "one came twice": (lambda s: {**s, "again": s["west"]}, "keys_missing"),
    "a stranger": (
        lambda s: {**s, "stranger": forged("hill")},
        "keys_missing",
    ),
    "another signed it": (
        lambda s: {**s, "west": Signed(s["west"].content, s["north"].signature)},
        "signature_invalid",
    ),
    "unsigned": (
        lambda s: {
            **s,
            "west": Signed(s["west"].content, replace(s["west"].signature, mldsa65=bytes(3309))),
        },
        "signature_invalid",
    ),
    "of another job": (
        lambda s: {**s, "west": forged("west", job=canonical.digest(b"other"))},
        "key_unusable",
    ),
    "of another version": (lambda s: {**s, "west": forged("west", v=2)}, "key_unusable"),
    "too short": (lambda s: {**s, "west": forged("west", key="00" * 1215)}, "key_unusable"),
    "no key": (lambda s: {**s, "west": forged("west", key=None)}, "key_unusable"),
    "of small order": (lambda s: {**s, "west": forged("west", key=SMALL_ORDER)}, "key_unusable"),
    "no JSON": (lambda s: {**s, "west": Signed(b"{", s["west"].signature)}, "key_unusable"),
    "a list": (lambda s: {**s, "west": Signed(b"[]", s["west"].signature)}, "key_unusable"),
}


@pytest.mark.parametrize(("change", "error_id"), BROKEN.values(), ids=BROKEN)
def test_5_6_keys_that_are_not_everybodys(
    signed: dict[str, Signed], change: Callable[[dict[str, Signed]], dict[str, Signed]], error_id: str
) -> None:
    introduced(signed)
    with refused(error_id):
        introduced(change(signed))


def test_5_one_key_for_two_sites(own: dict[str, JobKey], signed: dict[str, Signed]) -> None:
    copied = Introduction.make(TERMS, own["north"], identity("west"))
    with refused("key_unusable"):
        introduced({**signed, "west": copied})


class TestAgreements:
    @pytest.fixture
    def inbox(self, signed: dict[str, Signed]) -> dict[str, Signed]:
        """What coast, the last site, gets from the three others."""
        known = introduced(signed)
        return {name: keys.agree(TERMS, known, identity(name))[1]["coast"] for name in TERMS.sites[:3]}

    def accept(
        self, own: dict[str, JobKey], signed: dict[str, Signed], inbox: dict[str, Signed], me: str = "coast"
    ) -> dict[str, bytes]:
        given = [(one, PEERS[name]) for name, one in inbox.items()]
        return keys.accept(TERMS, introduced(signed), own[me], me, given)

    def test_sound(self, own: dict[str, JobKey], signed: dict[str, Signed], inbox: dict[str, Signed]) -> None:
        assert set(self.accept(own, signed, inbox)) == set(TERMS.sites[:3])

    def test_for_another_site(
        self, own: dict[str, JobKey], signed: dict[str, Signed], inbox: dict[str, Signed]
    ) -> None:
        known = introduced(signed)
        other = {**inbox, "north": keys.agree(TERMS, known, identity("north"))[1]["west"]}
        with refused("key_unusable"):
            self.accept(own, signed, other)

    def test_from_another_site(
        self, own: dict[str, JobKey], signed: dict[str, Signed], inbox: dict[str, Signed]
    ) -> None:
        with refused("signature_invalid"):
            self.accept(own, signed, {**inbox, "north": inbox["south"]})

    def test_one_is_missing(
        self, own: dict[str, JobKey], signed: dict[str, Signed], inbox: dict[str, Signed]
    ) -> None:
        with refused("keys_missing"):
            self.accept(own, signed, {k: v for k, v in inbox.items() if k != "south"})

    def test_19_sealed_for_another_key(
        self, own: dict[str, JobKey], signed: dict[str, Signed], inbox: dict[str, Signed]
    ) -> None:
        with refused("seal_invalid"):
            self.accept({**own, "coast": JobKey.generate()}, signed, inbox)

    @pytest.mark.parametrize(
        "change",
        [lambda s: s[:-2], lambda s: s[:-2] + f"{int(s[-2:], 16) ^ 1:02x}", lambda _: "zz", lambda _: None],
    )
    def test_19_a_sealed_secret_that_is_cut_or_altered(
        self,
        own: dict[str, JobKey],
        signed: dict[str, Signed],
        inbox: dict[str, Signed],
        change: Callable[[str], object],
    ) -> None:
        value = canonical.decode(inbox["north"].content)
        value["sealed"] = change(value["sealed"])
        other = Signed.make(canonical.encode(value), identity("north"), keys.AGREEMENT)
        with pytest.raises(CloisterError, check=lambda e: e.id in {"seal_invalid", "key_unusable"}):
            self.accept(own, signed, {**inbox, "north": other})


class TestChains:
    def pairs(self) -> PairKeys:
        return PairKeys(
            TERMS, "north", 0, {name: bytes([k]) * 32 for k, name in enumerate(TERMS.sites[1:], 1)}
        )

    def test_known_answer(self) -> None:
        """The chain and a key of it, written out by hand."""
        pairs = self.pairs()
        pairs.advance(2)
        key = bytes([1]) * 32
        for _ in range(2):
            key = HKDFExpand(hashes.SHA256(), 32, b"cloister/pair-ratchet/1").derive(key)
        info = canonical.encode(
            {
                "v": 1,
                "use": "cloister/pair-mask/1",
                "job": TERMS.job,
                "roster": TERMS.roster,
                "round": 2,
                "step": 3,
                "attempt": 1,
                "model": sums.MODEL,
                "one": "north",
                "other": "south",
            }
        )
        assert pairs.mask("south", at(2, 3)) == HKDFExpand(hashes.SHA256(), 32, info).derive(key)
        assert pairs.mask("south", at(2, 3)).hex() == (
            "2caf98dce8cf4d05016d6e0fd6395ea3d9c82a5474377dea1fb5584b53593e7b"
        )

    def test_signs_are_opposite(self) -> None:
        pairs = sums.agreed(TERMS)
        assert [pairs["south"].sign(peer) for peer in ("north", "west", "coast")] == [-1, 1, 1]

    def test_it_never_goes_back(self) -> None:
        pairs = self.pairs()
        pairs.advance(3)
        with pytest.raises(EntropyError):
            pairs.advance(2)
        with pytest.raises(EntropyError):
            pairs.mask("south", at(2))
        with pytest.raises(EntropyError):
            pairs.mask("south", at(4))

    def test_what_is_written_is_read(self) -> None:
        pairs = self.pairs()
        pairs.advance(2)
        again = PairKeys.from_json(TERMS, "north", canonical.decode(canonical.encode(pairs.to_json())))
        assert again == pairs

    @pytest.mark.parametrize(
        "value",
        [
            {},
            {"round": 1, "chains": []},
            {"round": -1, "chains": {}},
            {"round": 1, "chains": {"south": "00"}},
        ],
    )
    def test_a_damaged_state_is_refused(self, value: dict[str, Any]) -> None:
        with pytest.raises((StateError, AggregationError)):
            PairKeys.from_json(TERMS, "north", value)

    def test_keys_with_every_site_or_none(self) -> None:
        with refused("keys_missing"):
            PairKeys(TERMS, "north", 0, {"south": bytes(32)})


def test_a_job_key_is_kept_and_read_again() -> None:
    key = JobKey.generate()
    assert JobKey.from_json(key.to_json()).public == key.public
