"""The engine's methods: masked sums open what open ones do, and every ledger is charged beforehand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cloister.privacy import canonical
from cloister.privacy.analytic.lift import Lift
from cloister.privacy.analytic.moments import Terms, plain
from cloister.privacy.analytic.release import Release
from cloister.privacy.analytic.ridge import distance, solve
from cloister.privacy.dp import accounting
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.errors import AggregationError, BudgetError, PlanError
from cloister.privacy.secagg.terms import At, SumTerms
from cloister.simulations.engine import methods
from cloister.simulations.engine.head import Steps, scores
from cloister.simulations.engine.holding import Holding, pooled
from cloister.simulations.engine.methods import Analytic, Member
from cloister.simulations.engine.plans import Course, Parties, Promise
from cloister.simulations.engine.rounds import Account
from cloister.simulations.engine.sums import MaskedSums, OpenSums, job_of

pytestmark = pytest.mark.job

SITES = ("north", "south", "west", "coast")
LABELS = ("a", "b", "c")
INPUTS = 6


def holding(seed: int, rows: int = 90, classes=(0, 1, 2)) -> Holding:
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, rows)
    centres = np.eye(INPUTS)[:3]
    features = centres[labels] + 0.35 * rng.normal(size=(rows, INPUTS))
    return Holding(features / np.linalg.norm(features, axis=1, keepdims=True), labels)


@pytest.fixture(scope="module")
def parties() -> Parties:
    skewed = {name: holding(place, classes=(place % 3, (place + 1) % 3)) for place, name in enumerate(SITES)}
    return Parties(skewed, LABELS, ("made up", canonical.digest(b"made up")))


def test_among_many_sites_the_step_of_the_fixed_point_is_no_coarser() -> None:
    """The step grows with the number of sites, and what one of them changes falls with it."""

    def step(held: dict[str, Holding]) -> tuple[float, float]:
        plan = Parties(held, LABELS, ("made up", canonical.digest(b"made up"))).plan("a head", Promise())
        return plan.ring.step, plan.aggregation.range

    few = step({f"site-{place}": holding(place, 40) for place in range(4)})
    many = step({f"site-{place}": holding(place, 40) for place in range(60)})
    assert few == (pytest.approx(64 * 4 / 2**31), 64.0)
    assert many[0] == pytest.approx(few[0])
    # One that has most of the rows changes as much as it does among few.
    skewed = step({f"site-{place}": holding(place, 4000 if place == 0 else 40) for place in range(20)})
    assert skewed[1] == 64.0


TEST = holding(99, 300)


def members(parties: Parties, accounts=None) -> dict[str, Member]:
    found = {name: Member(held, FixedEntropy(name.encode())) for name, held in parties.holdings.items()}
    return {
        name: replace(one, account=(accounts or {}).get(name, one.account)) for name, one in found.items()
    }


def masked(parties: Parties, terms: SumTerms, taking: dict[str, Member]) -> MaskedSums:
    return MaskedSums(terms, parties.identities, {name: one.entropy for name, one in taking.items()})


def accuracy(model, test: Holding = TEST) -> float:
    return float((scores(model, test.features, 3).argmax(axis=1) == test.labels).mean())


JOINT = Promise("joint", 4.0, 1e-5, 4.0)
COURSE = Course(rounds=4, steps=1, learning_rate=0.5)


class TestSums:
    def test_masked_sums_open_bit_for_bit_what_open_ones_do(self, parties):
        plan = parties.plan("test", JOINT, COURSE)
        taking = members(parties)
        found = methods.joint(plan, taking, masked(parties, plan.sum_terms, taking))
        expected = methods.joint(plan, members(parties), OpenSums(SITES))
        assert found.model.tobytes() == expected.model.tobytes()
        assert found.bytes_up == 4 * 4 * plan.adapter.parameters

    @pytest.mark.parametrize("silent", [(), ("west",)])
    def test_a_site_that_drops_out_is_left_out(self, parties, silent):
        terms = SumTerms("sha256:" + "0" * 64, "sha256:" + "1" * 64, SITES, 5, 3, 3)
        taking = members(parties)
        words = {name: np.full(5, place + 2**31, dtype="<u4").tobytes() for place, name in enumerate(SITES)}
        if not silent:
            del words["south"]
        at = At(1, 0, 1, job_of("model"))
        opened = masked(parties, terms, taking).open(at, words.items(), silent)
        assert opened.words.tolist() == OpenSums(SITES).open(at, words.items()).words.tolist()
        assert opened.survivors == tuple(name for name in SITES if name in words)

    def test_below_the_minimum_nothing_is_opened(self, parties):
        terms = SumTerms("sha256:" + "0" * 64, "sha256:" + "1" * 64, SITES, 5, 3, 3)
        taking = members(parties)
        with pytest.raises(AggregationError) as caught:
            masked(parties, terms, taking).open(
                At(1, 0, 1, job_of("m")), dict.fromkeys(SITES[:2], bytes(20)).items()
            )
        assert caught.value.id == "below_n_min"


class TestAnalytic:
    def analytic(self, parties, **changes) -> Analytic:
        rows = tuple(held.rows_band.high for held in parties.holdings.values())
        release = Release(Terms(INPUTS + 21, 3), rows, **changes)
        return Analytic(Lift(INPUTS, cosines=20, cut=release.mode != "off"), release, 0.3)

    def test_one_round_is_the_pooled_solution(self, parties):
        one, taking = self.analytic(parties), members(parties)
        terms = SumTerms(one.digest, parties.roster.digest(), SITES, one.release.terms.parameters, 3, 3)
        found = one.run(taking, masked(parties, terms, taking))
        everything = pooled(parties.holdings)
        expected = solve(
            one.release.terms,
            plain(one.release.terms, one.lift.rows(everything.features), everything.labels),
            0.3,
        )
        assert distance(found, expected) < 1e-3
        assert one.accuracy(found, TEST) > 0.9

    def test_every_constant_is_in_the_digest(self, parties):
        one = self.analytic(parties)
        others = [
            replace(one, ridge=0.4),
            replace(one, noise_share=0.5),
            replace(one, lift=replace(one.lift, seed=canonical.digest(b"x"))),
            replace(one, lift=replace(one.lift, bandwidth=2.0)),
            replace(one, release=replace(one.release, rows=(300,) * 4)),
            replace(one, release=replace(one.release, terms=replace(one.release.terms, bound=2.0))),
            self.analytic(parties, mode="local", noise_multiplier=2.0),
        ]
        assert len({one.digest, *(other.digest for other in others)}) == 1 + len(others)

    @pytest.mark.parametrize("mode", ["local", "joint"])
    def test_noise_costs_accuracy_and_is_charged(self, parties, mode):
        charged: dict[str, list] = {name: [] for name in SITES}
        accounts = {
            name: Account(reserve=lambda _, what, name=name: charged[name].append(what)) for name in SITES
        }
        loud = self.analytic(parties, mode=mode, noise_multiplier=500.0, n_min=3)
        model = loud.run(members(parties, accounts), OpenSums(SITES))
        assert loud.accuracy(model, TEST) < 0.8
        assert charged == {name: [loud.release.mechanism] for name in SITES}

    def test_surplus_noise_leaves_the_same_steps_masked_or_not_and_less_noise(self, parties):
        back = Parties(parties.holdings, LABELS, parties.base, surplus=True)
        plan = back.plan("test", JOINT, COURSE)
        reserved, settled = [], []
        account = Account(lambda _, what: reserved.append(what), lambda _, what: settled.append(what))
        plain = methods.joint(plan, members(back, {"north": account}), OpenSums(SITES))
        taking = members(back)
        found = methods.joint(plan, taking, masked(back, plan.sum_terms, taking))
        np.testing.assert_array_equal(plain.model, found.model)
        assert reserved == settled == [plan.round_mechanism] * 4
        assert (plain.sums, plain.bytes_up) == (8, 8 * 4 * plan.adapter.parameters)
        left = methods.joint(parties.plan("test", JOINT, COURSE), members(parties), OpenSums(SITES))
        assert (left.sums, left.bytes_up) == (4, plain.bytes_up / 2)
        assert (plain.model != left.model).any()

    def test_surplus_noise_is_not_given_for_a_part_of_the_sum(self, parties):
        back = Parties(parties.holdings, LABELS, parties.base, surplus=True)
        plan = back.plan("test", JOINT, COURSE)
        sums = masked(back, plan.sum_terms, members(back))
        words = {name: bytes(4 * plan.adapter.parameters) for name in SITES}
        at = At(1, 0, 1, canonical.digest(b"m"))
        sums.open(at, words.items())
        for fewer in (SITES[:3], SITES[1:]):
            with pytest.raises(AggregationError, check=lambda error: error.id == "surplus_refused"):
                sums.open(replace(at, step=1), [(name, words[name]) for name in fewer], over=fewer)
        short = [(name, words[name]) for name in SITES[:3]]
        with pytest.raises(AggregationError, check=lambda error: error.id == "survivor_set_fixed"):
            sums.open(replace(at, step=1), short, over=SITES)

    def test_a_budget_that_refuses_stops_everything(self, parties):
        def refuse(number, mechanism):
            raise BudgetError("budget_exceeded", "No more.")

        class Never:
            def open(self, at, words, *, over=()):
                for _ in words:
                    raise AssertionError("something left the site")

        accounts = {"north": Account(reserve=refuse)}
        for run in (
            lambda: self.analytic(parties, mode="local", noise_multiplier=1.0).run(
                members(parties, accounts), Never()
            ),
            lambda: methods.joint(parties.plan("x", JOINT, COURSE), members(parties, accounts), Never()),
            lambda: methods.local(
                parties.plan("x", replace(JOINT, mode="local"), COURSE), members(parties, accounts), Never()
            ),
        ):
            with pytest.raises(BudgetError):
                run()


class TestPlans:
    @pytest.mark.parametrize(
        ("course", "epsilon", "reason", "words"),
        [
            (replace(COURSE, steps=2), 4.0, "plan_malformed", "in joint mode a round is one step"),
            (COURSE, 1e-6, "plan_conflict", "No noise keeps 4 steps"),
            (replace(COURSE, learning_rate=-1.0), 4.0, "plan_malformed", "head_rate"),
        ],
    )
    def test_what_no_plan_can_say_is_refused(self, parties, course, epsilon, reason, words):
        with pytest.raises(PlanError) as caught:
            parties.plan("x", replace(JOINT, epsilon=epsilon), course)
        assert caught.value.id == reason
        assert words in caught.value.what

    def test_two_sites_are_too_few_to_hide_one(self, parties):
        few = Parties({name: parties.holdings[name] for name in SITES[:2]}, LABELS, parties.base)
        with pytest.raises(PlanError):
            few.plan("x", JOINT, COURSE)


class TestHeads:
    def test_federation_learns_what_no_site_can(self, parties):
        plan = parties.plan("test", Promise(), Course(5, 10, 0.3))
        together = accuracy(methods.local(plan, members(parties), OpenSums(SITES)).model)
        lone = [
            accuracy(methods.alone(held, 3, Steps(50, 1.0, len(held), 0.3, 0.9), FixedEntropy(b"l")))
            for held in parties.holdings.values()
        ]
        assert together > max(lone) + 0.1

    def test_epsilon_is_the_plans_and_more_survivors_cost_less(self, parties):
        plan = parties.plan("test", JOINT, COURSE)
        reserved, settled = [], []
        account = Account(lambda _, what: reserved.append(what), lambda _, what: settled.append(what))
        methods.joint(plan, members(parties, {"north": account}), OpenSums(SITES))
        assert accounting.epsilon(reserved, 1e-5) <= 4.0
        assert accounting.epsilon(settled, 1e-5) < accounting.epsilon(reserved, 1e-5)
        assert len(reserved) == len(settled) == 4

    def test_local_noise_is_larger_than_joint_noise(self, parties):
        """The models of 25 pairs of runs with noise far above the signal, at equal epsilon."""
        spread = {}
        for mode in ("local", "joint"):
            plan = parties.plan("test", Promise(mode, 0.05, 1e-5, 1.0), Course(1, 1, 1.0, 0.0))
            way = methods.local if mode == "local" else methods.joint
            models = []
            for turn in range(25):
                taking = {
                    name: replace(one, entropy=FixedEntropy(f"{name} {turn}".encode()))
                    for name, one in members(parties).items()
                }
                models.append(way(plan, taking, OpenSums(SITES)).model)
            spread[mode] = float(np.std(models, axis=0).mean())
        assert 1.25 < spread["local"] / spread["joint"] < 1.6  # 2 over the square root of 2
