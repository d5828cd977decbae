"""Secure sums: exact or refused. The attacks are against the real state machines of site and server."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.privacy import canonical
from cloister.privacy.errors import AggregationError, CloisterError, StateError
from cloister.privacy.secagg.rounds import SURVIVORS, Opening, survivors_bytes
from cloister.privacy.secagg.site import SiteSums
from cloister.privacy.wire.signed import Signed
from tests import sums
from tests.sums import Adders, at, identity, terms_of

OTHER_MODEL = canonical.digest(b"another model")


@pytest.fixture
def four() -> Adders:
    return Adders(terms_of(4))


def refused(error_id: str) -> Any:
    return pytest.raises(AggregationError, check=lambda error: error.id == error_id)


def signatures(adders: Adders, place: sums.At, survivors: tuple[str, ...]) -> dict[str, Signed]:
    return {name: adders.sites[name].sign(place, survivors) for name in survivors}


class TestSums:
    def test_the_sum_is_exact(self, four: Adders) -> None:
        np.testing.assert_array_equal(four.run(at()), four.expected(four.terms.sites))

    def test_masked_vectors_are_not_the_vectors(self, four: Adders) -> None:
        for name in four.terms.sites:
            masked = four.masked(name, at()).words
            assert (masked == four.inputs[name]).sum() <= 1
        server_without_masks = np.sum([four.masked(n, at()).words for n in four.terms.sites], 0, np.uint32)
        assert (server_without_masks == four.expected(four.terms.sites)).sum() <= 1  # self masks are left

    def test_a_whole_job_of_rounds_and_steps(self, four: Adders) -> None:
        for number in (1, 2, 5):
            for step in (1, 2):
                place = at(number, step)
                np.testing.assert_array_equal(four.run(place), four.expected(four.terms.sites))

    @pytest.mark.parametrize("gone", ["north", "south", "coast"])
    def test_missing_before_upload(self, four: Adders, gone: str) -> None:
        rest = [name for name in four.terms.sites if name != gone]
        np.testing.assert_array_equal(four.run(at(), missing=[gone]), four.expected(rest))

    @pytest.mark.parametrize("phase", ["unsigned", "unopened"])
    def test_lost_after_upload(self, four: Adders, phase: str) -> None:
        found = four.run(at(), **{phase: ["west"]})
        np.testing.assert_array_equal(found, four.expected(four.terms.sites))

    def test_the_double_fault_fails_cleanly_and_the_next_round_is_sound(self) -> None:
        adders = Adders(terms_of(6))
        with refused("sum_lost"):
            adders.run(at(1), missing=["north"], unopened=["hill"])
        np.testing.assert_array_equal(adders.run(at(2)), adders.expected(adders.terms.sites))

    def test_too_few_uploads_open_nothing_and_a_late_comer_completes_the_sum(self, four: Adders) -> None:
        place, server = at(), four.server(at())
        for name in ("north", "south"):
            server.add(name, four.masked(name, place))
        with refused("below_n_min"):
            server.survivors()
        server.add("west", four.masked("west", place))
        assert server.survivors() == ("north", "south", "west")
        with refused("sum_over"):
            server.add("coast", four.masked("coast", place))

    def test_a_restart_at_any_moment_changes_nothing(self, four: Adders) -> None:
        place, server = at(), four.server(at())

        def restart() -> None:
            for name, data in sums.states(four).items():
                site = four.sites[name]
                value = canonical.decode(data)
                four.sites[name] = SiteSums.from_json(four.terms, site.identity, site.peers, value)

        restart()
        for name in four.terms.sites:
            server.add(name, four.masked(name, place))
        restart()
        survivors = server.survivors()
        for name, signed in signatures(four, place, survivors).items():
            server.signed(name, signed)
        restart()
        for name in survivors[:3]:
            server.opened(name, four.sites[name].open(place, survivors, server.signatures()))
        restart()
        for name in survivors[:3]:
            server.recovered(name, four.sites[name].recover(place, server.shares_for(name)))
        np.testing.assert_array_equal(server.total(), four.expected(survivors))

    def test_the_same_sum_is_masked_alike_after_a_crash(self, four: Adders) -> None:
        first, second = four.masked("north", at()), four.masked("north", at())
        np.testing.assert_array_equal(first.words, second.words)
        assert first.commitment == second.commitment

    @given(st.data())
    def test_any_drops_give_the_exact_sum_or_the_refusal_that_they_must(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(3, 6))
        terms = terms_of(count, minimum=data.draw(st.integers(sums.SumTerms.least_threshold(count), count)))
        adders = Adders(terms)
        few = st.sets(st.sampled_from(terms.sites), max_size=2)
        missing, unsigned, unopened = (data.draw(few) for _ in range(3))
        expected = fate(terms, missing, unsigned, unopened)
        found, why = outcome(adders, at(1), missing=missing, unsigned=unsigned, unopened=unopened)
        assert why == expected
        if not why:
            np.testing.assert_array_equal(found, adders.expected(set(terms.sites) - missing))
        np.testing.assert_array_equal(adders.run(at(2)), adders.expected(terms.sites))  # and then it goes on


def fate(terms: sums.SumTerms, missing: set[str], unsigned: set[str], unopened: set[str]) -> str:
    """What must become of a sum, from who goes away when."""
    survivors = set(terms.sites) - missing
    if len(survivors) < terms.minimum:
        return "below_n_min"
    if len(survivors - unsigned) < terms.threshold:
        return "too_few_signatures"
    open_ = survivors - unsigned - unopened
    if open_ == survivors:
        return ""
    if missing and open_:
        return "sum_lost"
    return "" if len(open_) >= terms.threshold else "too_few_shares"


def outcome(adders: Adders, place: sums.At, **gone: set[str]) -> tuple[Any, str]:
    try:
        return adders.run(place, **gone), ""
    except AggregationError as error:
        return None, error.id


class TestAttacks:
    """Numbers are those of the list of attacks that this protocol must withstand."""

    def test_1_both_kinds_in_one_request(self, four: Adders) -> None:
        place = at()
        masked = {name: four.masked(name, place) for name in four.terms.sites}
        survivors = ("north", "south", "west")
        signed = signatures(four, place, survivors)
        site = four.sites["north"]
        opening = site.open(place, survivors, signed)
        assert set(opening.pairs) == {"coast"}  # of a survivor no pair key is ever opened
        with refused("both_kinds_requested"):
            site.recover(place, {"coast": masked["coast"].shares["north"]})

    def test_2_both_kinds_over_two_messages_and_a_restart(self, four: Adders) -> None:
        place = at()
        masked = {name: four.masked(name, place) for name in four.terms.sites}
        everybody = four.terms.sites
        site = four.sites["north"]
        site.open(place, everybody, signatures(four, place, everybody))
        site.recover(place, {"coast": masked["coast"].shares["north"]})
        value = canonical.decode(canonical.encode(site.to_json()))
        again = SiteSums.from_json(four.terms, site.identity, site.peers, value)
        with refused("survivor_set_fixed"):
            again.sign(place, ("north", "south", "west"))
        with refused("survivor_set_fixed"):
            again.open(place, ("north", "south", "west"), {})

    def test_3_two_survivor_sets_in_one_round(self, four: Adders) -> None:
        place = at()
        for name in four.terms.sites:
            four.masked(name, place)
        four.sites["north"].sign(place, four.terms.sites)
        with refused("survivor_set_fixed"):
            four.sites["north"].sign(place, ("north", "south", "west"))
        with refused("survivor_set_fixed"):
            four.masked("north", at(attempt=2))

    def test_3_two_sets_cannot_both_find_signatures(self) -> None:
        terms = terms_of(6)
        adders = Adders(terms)
        for name in terms.sites:
            adders.masked(name, at())
        one, two = terms.sites[:4], terms.sites[2:]
        signed = {name: adders.sites[name].sign(at(), one) for name in one}
        others = {name: adders.sites[name].sign(at(), two) for name in two if name not in one}
        colluder = Signed.make(survivors_bytes(adders.terms, at(), two), identity("west"), SURVIVORS)
        assert len(signed) == terms.threshold > len(others) + 1
        with refused("too_few_signatures"):
            adders.sites["hill"].open(at(), two, others | {"west": colluder})

    def test_4_an_old_attempt_after_a_new_one(self, four: Adders) -> None:
        old, new = at(), at(attempt=2)
        for name in four.terms.sites:
            four.masked(name, old)
        np.testing.assert_array_equal(four.run(new), four.expected(four.terms.sites))
        for site in four.sites.values():
            with refused("sum_unknown"):
                site.sign(old, four.terms.sites)
        with refused("survivor_set_fixed"):
            four.masked("north", old)

    @pytest.mark.parametrize(
        "changes",
        [{"threshold": 2}, {"minimum": 2}, {"colluding": 0}, {"sites": sums.NAMES[:2], "minimum": 2}],
    )
    def test_7_terms_that_do_not_protect(self, changes: dict[str, Any]) -> None:
        with refused("terms_too_weak"):
            replace(terms_of(4), **changes)

    def test_8_another_model_at_one_site(self, four: Adders) -> None:
        other = at(model=OTHER_MODEL)
        for name in four.terms.sites:
            four.masked(name, other if name == "coast" else at())
        survivors = four.terms.sites
        with refused("model_differs"):
            four.masked("north", other)
        with refused("model_differs"):
            four.sites["coast"].sign(at(), survivors)
        signed = {name: four.sites[name].sign(at(), survivors) for name in survivors if name != "coast"}
        signed["coast"] = four.sites["coast"].sign(other, survivors)
        with refused("model_differs"):
            four.sites["north"].open(at(), survivors, signed)

    @pytest.mark.parametrize("other", [at(2), at(1, 1)])
    def test_9_replay_across_sums(self, four: Adders, other: sums.At) -> None:
        for name in four.terms.sites:
            four.masked(name, at())
        old = signatures(four, at(), four.terms.sites)
        for name in four.terms.sites:
            four.masked(name, other)
            four.sites[name].sign(other, four.terms.sites)
        with refused("model_differs"):
            four.sites["north"].open(other, four.terms.sites, old)
        with refused("sum_unknown"):
            four.sites["north"].open(at(), four.terms.sites, old)

    def test_9_replay_across_jobs(self, four: Adders) -> None:
        other = Adders(replace(four.terms, job=canonical.digest(b"another plan")))
        for adders in (four, other):
            for name in four.terms.sites:
                adders.masked(name, at())
        foreign = signatures(other, at(), four.terms.sites)
        signatures(four, at(), four.terms.sites)
        with refused("model_differs"):
            four.sites["north"].open(at(), four.terms.sites, foreign)

    def test_10_forged_shares(self) -> None:
        adders = Adders(terms_of(6))
        server, place = adders.server(at()), at()
        for name in adders.terms.sites:
            server.add(name, adders.masked(name, place))
        survivors = server.survivors()
        for name, signed in signatures(adders, place, survivors).items():
            server.signed(name, signed)
        for name in survivors[:-1]:
            server.opened(name, adders.sites[name].open(place, survivors, server.signatures()))
        given = {n: adders.sites[n].recover(place, server.shares_for(n)) for n in survivors[:-1]}
        forged = bytearray(given["north"]["lake"])
        forged[-1] ^= 1
        with refused("commitment_mismatch"):
            server.recovered("north", {"lake": bytes(forged)})
        for name in survivors[1:-2]:
            server.recovered(name, given[name])
        with refused("too_few_shares"):
            server.total()  # three of four
        server.recovered("hill", given["hill"])
        np.testing.assert_array_equal(server.total(), adders.expected(survivors))

    def test_10_shares_of_something_else(self, four: Adders) -> None:
        server = four.server(at())
        for name in four.terms.sites:
            masked = four.masked(name, at())
            if name == "coast":  # it lies about what it shares, consistently
                masked = replace(masked, commitment=canonical.digest(b"another seed"))
            server.add(name, masked)
        survivors = server.survivors()
        for name, signed in signatures(four, at(), survivors).items():
            server.signed(name, signed)
        for name in survivors[:-1]:
            server.opened(name, four.sites[name].open(at(), survivors, server.signatures()))
        for name in survivors[:-1]:
            server.recovered(name, four.sites[name].recover(at(), server.shares_for(name)))
        with refused("too_few_shares"):
            server.total()

    def test_10_a_seed_that_was_not_committed_to(self, four: Adders) -> None:
        server = four.server(at())
        for name in four.terms.sites:
            server.add(name, four.masked(name, at()))
        server.survivors()
        with refused("commitment_mismatch"):
            server.opened("north", Opening(bytes(32), {}))

    def test_what_a_site_opens_is_what_it_was_asked_for(self, four: Adders) -> None:
        server = four.server(at())
        for name in ("north", "south", "west"):
            server.add(name, four.masked(name, at()))
        survivors = server.survivors()
        signed = {name: four.sites[name].sign(at(), survivors) for name in survivors}
        sound = four.sites["north"].open(at(), survivors, signed)
        for pairs in ({}, {"coast": b"short"}, sound.pairs | {"south": bytes(32)}):
            with refused("reveal_malformed"):
                server.opened("north", replace(sound, pairs=pairs))
        server.opened("north", sound)
        assert server.openers() == ("north",)

    def test_whoever_opens_other_shares_than_those_of_lost_sites(self, four: Adders) -> None:
        server = four.server(at())
        for name in four.terms.sites:
            server.add(name, four.masked(name, at()))
        survivors = server.survivors()
        signed = signatures(four, at(), survivors)
        for name in survivors[:-1]:
            server.opened(name, four.sites[name].open(at(), survivors, signed))
        given = four.sites["north"].recover(at(), server.shares_for("north"))
        for wrong in ({}, {"stranger": given["coast"]}):
            with refused("reveal_malformed"):
                server.recovered("north", wrong)
        with refused("sum_unknown"):
            server.recovered("stranger", given)
        with refused("sum_unknown"):
            server.shares_for("coast")  # it is the lost one

    def test_11_no_keystream_twice(self, four: Adders) -> None:
        seen = set()
        site = four.sites["north"]
        for place in (at(1, 1), at(1, 2), at(1, 2, 2), at(2), at(2, model=OTHER_MODEL)):
            site.keys.advance(place.round)
            for peer in four.terms.sites[1:]:
                seen |= {
                    site.keys.mask(peer, place),
                    site.keys.share(peer, place, "north"),
                    site.keys.share(peer, place, peer),
                }
        assert len(seen) == 5 * 3 * 3
        with pytest.raises(CloisterError, check=lambda error: error.id == "ratchet_behind"):
            site.keys.mask("south", at(1))

    def test_14_too_few_signatures(self, four: Adders) -> None:
        with refused("too_few_signatures"):
            four.run(at(), unsigned=["north", "south"])

    def test_15_below_the_minimum_nothing_is_signed(self) -> None:
        adders = Adders(terms_of(4, minimum=4))
        for name in adders.terms.sites:
            adders.masked(name, at())
        with refused("below_n_min"):
            adders.sites["north"].sign(at(), ("north", "south", "west"))

    @pytest.mark.parametrize(
        "survivors",
        [
            ("south", "west", "coast"),
            ("north", "south", "stranger"),
            ("south", "north", "west"),
            ("north", "north", "south", "west"),
            (),
        ],
    )
    def test_malformed_survivor_sets(self, four: Adders, survivors: tuple[str, ...]) -> None:
        four.masked("north", at())
        with refused("survivors_invalid"):
            four.sites["north"].sign(at(), survivors)

    def test_nothing_is_opened_before_the_set_is_signed_here(self, four: Adders) -> None:
        for name in four.terms.sites:
            four.masked(name, at())
        signed = {name: four.sites[name].sign(at(), four.terms.sites) for name in four.terms.sites[1:]}
        with refused("survivor_set_fixed"):
            four.sites["north"].open(at(), four.terms.sites, signed)
        four.sites["north"].sign(at(), four.terms.sites)
        with refused("too_few_signatures"):
            four.sites["north"].recover(at(), {"south": b""})

    def test_a_signature_of_nobody(self, four: Adders) -> None:
        for name in four.terms.sites:
            four.masked(name, at())
        signed = signatures(four, at(), four.terms.sites)
        forged = signed | {"south": signed["west"]}
        with pytest.raises(CloisterError, check=lambda error: error.id == "signature_invalid"):
            four.sites["north"].open(at(), four.terms.sites, forged)

    def test_a_share_of_another_sum_or_holder_does_not_open(self, four: Adders) -> None:
        old = {name: four.masked(name, at()) for name in four.terms.sites}
        new = {name: four.masked(name, at(2)) for name in four.terms.sites}
        site = four.sites["north"]
        site.open(at(2), four.terms.sites, signatures(four, at(2), four.terms.sites))
        for wrong in (old["west"].shares["north"], new["west"].shares["south"], b"", bytes(200)):
            with refused("share_malformed"):
                site.recover(at(2), {"west": wrong})

    def test_11_another_vector_or_seed_for_one_sum(self, four: Adders) -> None:
        site, place = four.sites["north"], at()
        first = four.masked("north", place).words
        other = four.inputs["north"] + np.uint32(1)
        with refused("sum_over"):
            site.mask(place, other, four.seed("north", place))
        used_up = pytest.raises(CloisterError, check=lambda error: error.id == "key_already_used")
        with used_up:
            site.mask(place, four.inputs["north"].copy(), bytes(32))
        with used_up:
            site.mask(at(2), four.inputs["north"].copy(), four.seed("north", place))
        np.testing.assert_array_equal(four.masked("north", place).words, first)  # nothing was changed by it

    @pytest.mark.parametrize(
        "fields",
        [
            (0, 0, 1),
            (1, -1, 1),
            (1, 0, 0),
            (2**60, 0, 1),
            ("1", 0, 1),
            (True, 0, 1),
            (1.0, 0, 1),
            (None, 0, 1),
        ],
    )
    def test_sums_that_no_plan_has(self, fields: tuple[Any, Any, Any]) -> None:
        with refused("sum_unknown"):
            sums.At(*fields, sums.MODEL)
        with refused("sum_unknown"):
            sums.At(1, 0, 1, "model")

    @pytest.mark.parametrize(
        "words", [np.zeros(1, np.uint32), np.zeros(50, np.int64), np.zeros(51, np.uint32), b""]
    )
    def test_what_is_no_masked_vector_changes_no_sum(self, four: Adders, words: Any) -> None:
        server, masked = four.server(at()), four.masked("north", at())
        with pytest.raises(CloisterError, check=lambda error: error.id == "update_shape"):
            server.add("north", replace(masked, words=words))
        server.add("north", masked)
        np.testing.assert_array_equal(server._total, masked.words)

    def test_nothing_is_summed_before_the_set_is_fixed(self, four: Adders) -> None:
        server = four.server(at())
        server.add("north", four.masked("north", at()))
        with refused("sum_unknown"):
            server.total()

    def test_21_after_the_next_round_no_old_key_is_in_the_state(self, four: Adders) -> None:
        four.run(at(1))
        site = four.sites["north"]
        secrets = [site.seed, *(site.keys.mask(peer, at(1)) for peer in four.terms.sites[1:])]
        chains = list(site.keys.chains.values())
        four.run(at(2))
        state = sums.states(four)["north"].decode()
        assert not any(secret.hex() in state for secret in secrets + chains)

    def test_22_a_poisoned_vector_is_not_stopped(self, four: Adders) -> None:
        """Documented: masks hide what a malicious site sends; the sum holds it."""
        four.inputs["west"][:] = 2**31
        np.testing.assert_array_equal(four.run(at()), four.expected(four.terms.sites))


@pytest.mark.parametrize(
    "broken",
    [
        {"v": 2},
        {"job": "x"},
        {"seed": "zz"},
        {"seed": ""},
        {"at": {"round": 1}},
        {"at": {"round": "x", "step": 0, "attempt": 1, "model": sums.MODEL}},
        {"at": {"round": 2, "step": 0, "attempt": 1, "model": sums.MODEL}},
        {"keys": {}},
        {"keys": {"round": 1, "chains": {}}},
        {"survivors": None},
        {"survivors": "abc"},
        {"opened": "no"},
        {"sent": None},
    ],
)
def test_a_damaged_state_is_refused(four: Adders, broken: dict[str, Any]) -> None:
    site = four.sites["north"]
    four.masked("north", at(1))
    with pytest.raises(StateError, check=lambda error: error.id == "state_damaged"):
        SiteSums.from_json(four.terms, site.identity, site.peers, site.to_json() | broken)


def test_what_is_no_vector_of_the_job_is_refused(four: Adders) -> None:
    for wrong in (np.zeros(3, dtype=np.uint32), np.zeros(sums.PARAMETERS, dtype=np.int64)):
        with pytest.raises(ValueError, match="secure sum"):
            four.sites["north"].mask(at(), wrong, bytes(32))
