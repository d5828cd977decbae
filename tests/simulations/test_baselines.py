"""Baselines: trained by the federated run's own code, reproducible, and private only where promised."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cloister.client.learn.features import prepare
from cloister.client.learn.training import LocalTrainer
from cloister.client.site.records import Records
from cloister.privacy import canonical
from cloister.privacy.errors import InputError
from cloister.privacy.layout import Placement, layout
from cloister.privacy.model import BaseModel, describe
from cloister.privacy.plan import Plan
from cloister.simulations import baselines
from cloister.simulations.baselines import Documents, Ground, measure, tfidf
from cloister.simulations.generator import GeneratorSettings, generate, records
from tests import models, plans
from tests.analytic import analytic_json

pytestmark = pytest.mark.job

SITES = ("north", "south")
CHEST, HEAD, CARD = (" ".join([word] * 8) for word in ("chest", "head", "card"))
PRIVACY_OFF = {
    "mode": "off",
    "unit": "record",
    "relation": "add-remove",
    "bound": 0.5,
    "noise_multiplier": 0.0,
    "epsilon": 0.0,
    "delta": 0.0,
}
LONE = {"secure": False, "minimum_sites": 1, "range": 4.0}
TRAINING = {
    "algorithm": "fedavg",
    "rounds": 3,
    "steps": 4,
    "rate": 0.5,
    "optimizer": "adam",
    "head_rate": 0.3,
    "adapter_rate": 0.01,
    "momentum": 0.9,
}


def ground_of(plan: Plan, seed: bytes = b"seed") -> Ground:
    """Documents whose class a tiny random model can tell: each class has tokens of its own."""
    classifier = models.classifier(layers=2, top_layers=1)
    random = np.random.default_rng(1)

    def documents(number: int, classes: int) -> Documents:
        labels = random.integers(0, classes, number)
        ids = tuple(random.integers(5 + 2 * label, 7 + 2 * label, 6) for label in labels)
        return Documents(prepare(classifier, ids), labels, np.arange(number))

    pooled = documents(160, 4)
    narrow = np.flatnonzero(pooled.labels < 2)
    rest = np.flatnonzero(pooled.labels >= 2)
    train = {"north": pooled.take(narrow), "south": pooled.take(rest)}
    return Ground(plan, classifier, train, pooled, documents(120, 4), seed)


@pytest.fixture(scope="module")
def plain() -> Ground:
    return ground_of(plans.plan(SITES, training=TRAINING, privacy=PRIVACY_OFF))


@pytest.fixture(scope="module")
def private() -> Ground:
    return ground_of(plans.plan(SITES, training=TRAINING))


class TestTrained:
    def test_pooling_beats_a_site_that_lacks_classes(self, plain):
        together, alone = plain.together(), plain.alone("north")
        assert alone.plain <= 0.6 < 0.8 < together.plain

    def test_without_privacy_there_is_no_private_figure(self, plain):
        assert plain.alone("south").private is None

    def test_the_private_figure_pays_for_its_noise(self, private):
        loud = private.plan.model_copy(
            update={"privacy": private.plan.privacy.model_copy(update={"noise_multiplier": 1000.0})}
        )
        pair = replace(private, plan=loud).together()
        assert pair.private is not None
        assert pair.private < 0.6 < pair.plain

    def test_privacy_changes_nothing_of_the_plain_figure(self, plain, private):
        assert plain.alone("north").plain == private.alone("north").plain

    def test_the_seed_fixes_every_figure(self, private):
        assert private.alone("north") == ground_of(private.plan).alone("north")

    def test_the_private_run_has_the_mechanism_of_the_plan(self, private, monkeypatch):
        mechanisms, train = [], LocalTrainer.train

        def watched(self, *arguments):
            delta = train(self, *arguments)
            mechanisms.extend(delta.mechanisms)
            return delta

        monkeypatch.setattr(LocalTrainer, "train", watched)
        private.alone("south")
        assert mechanisms == [private.plan.round_mechanism] * TRAINING["rounds"]

    def test_pooled_sums_are_divided_by_the_units_of_all_sites(self, private, monkeypatch):
        units, train = set(), LocalTrainer.train

        def watched(self, start, settings, *rest):
            units.add(settings.expected_units)
            return train(self, start, settings, *rest)

        monkeypatch.setattr(LocalTrainer, "train", watched)
        private.together()
        assert units == {2 * 128}


class TestFederated:
    def test_a_plan_without_privacy_needs_no_second_figure(self, plain):
        assert plain.federated() is None

    def test_it_is_the_federation_without_noise(self, private):
        """With one site and no sampling it is that site alone; with two it beats both."""
        one = plans.plan(("north",), training=TRAINING | {"rate": 1.0}, aggregation=LONE)
        lone = replace(private, plan=one, train={"north": private.pooled})
        assert lone.federated() == lone.alone("north").plain > 0.8
        both = private.federated()
        assert both > max(private.alone(name).plain for name in SITES)

    def test_sites_count_by_their_public_weights(self, private):
        """A site whose weight is almost all decides alone."""
        value = plans.plan_json(SITES, training=TRAINING | {"rate": 1.0})
        value["sites"][1]["rows"] = {"low": 2**30, "high": 2**31 - 1}
        heavy = Plan.from_bytes(canonical.encode(value))
        settled = replace(private, plan=heavy).federated()
        assert settled <= 0.6


class TestParts:
    def test_the_units_of_a_site_are_numbered_anew_and_those_of_two_sites_are_never_one(self, plain):
        units = np.array([0, 0, 1, 2, 2, 3])
        whole = replace(plain.pooled.take(np.arange(6)), units=units)
        assert whole.take(np.array([2, 3, 4])).units.tolist() == [0, 1, 1]
        north = Records(("a", "b"), ("x", "y"), ("p", "p"))
        south = Records(("c", "d", "e"), ("x", "y", "x"), ("q", "p", "q"))
        assert baselines._numbered([north, south]).tolist() == [0, 0, 1, 2, 1]
        assert baselines._numbered([north, Records(("c", "d"), ("x", "y"))]).tolist() == [0, 0, 1, 2]

    def test_some_documents_have_the_logits_that_they_have_among_all(self, plain):
        whole, rows = plain.pooled, np.array([7, 3, 150])
        part = whole.take(rows)
        place = np.array([2, 0])
        assert part.features.lengths.tolist() == whole.features.lengths[rows].tolist()
        assert part.labels.tolist() == whole.labels[rows].tolist()
        found = part.features.logits(plain.classifier, place).detach().numpy()
        expected = whole.features.logits(plain.classifier, rows[place]).detach().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)


def plan_for(base: BaseModel) -> Plan:
    agreed = layout(base.tensors, base.hidden, Placement(2, ("query", "value"), 1, 3))
    part = plans.plan_json()["adapter"]
    return plans.plan(
        SITES,
        base={"name": base.name, "digest": base.digest, "max_tokens": 16},
        adapter=part | {"parameters": agreed.size, "layout": agreed.digest()},
        training=TRAINING,
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return describe(models.write(tmp_path_factory.mktemp("tiny")))


class TestMeasured:
    def test_every_way_to_train_gets_a_figure(self, base):
        train = {
            "north": Records((CHEST, HEAD) * 9, ("a", "b") * 9),
            "south": Records((CARD,) * 9, ("c",) * 9),
        }
        test = Records((CHEST, HEAD, CARD), ("a", "b", "c"))
        found = measure(Ground.of(plan_for(base), base, train, test, b"seed"), train, test)
        assert set(found.alone) == {"north", "south"}
        assert found.alone["south"].plain == pytest.approx(1 / 3)
        assert found.tfidf == 1.0
        assert found.pooled.plain > 1 / 3
        assert all(pair.private is not None for pair in (found.pooled, *found.alone.values()))

    @pytest.mark.parametrize("mode", ["off", "local"])
    def test_an_analytic_plan_is_compared_with_its_own_solution_in_one_place(self, base, mode):
        names = ("coast", "north", "south", "west")
        train = {name: Records((CHEST, HEAD, CARD) * 40, ("a", "b", "c") * 40) for name in names}
        test = Records((CHEST, HEAD, CARD), ("a", "b", "c"))
        inputs, epsilon = base.hidden, 40.0
        terms = analytic_json(mode, epsilon, inputs=inputs, cosines=8 if mode == "off" else 0)
        order = layout({}, inputs + terms["training"]["analytic"]["cosines"], Placement(1, ("q",), 0, 3))
        terms["adapter"] |= {"parameters": order.size, "layout": order.digest()}
        terms["base"] = {"name": "tiny", "digest": base.digest, "max_tokens": 32}
        ground = Ground.of(plans.plan(names, **terms), base, train, test, b"seed")
        found = measure(ground, train, test)
        assert found.pooled.plain == found.alone["north"].plain == 1.0
        assert (found.pooled.private is None) == (found.federated is None) == (mode == "off")

    def test_documents_of_a_site_are_its_own(self, base):
        train = {
            "north": Records(("chest pain",), ("a",)),
            "south": Records(("head", "card since monday"), ("b", "c")),
        }
        ground = Ground.of(plan_for(base), base, train, train["north"], b"seed")
        assert ground.train["north"].labels.tolist() == [0]
        assert ground.train["south"].labels.tolist() == [1, 2]
        assert ground.train["south"].features.lengths.tolist() == ground.pooled.features.lengths[1:].tolist()

    def test_a_class_that_the_plan_lacks_is_refused(self, base):
        odd = Records(("chest", "pain"), ("a", "unheard"))
        with pytest.raises(InputError) as caught:
            Ground.of(plan_for(base), base, {"north": odd, "south": odd}, odd, b"seed")
        assert caught.value.id == "class_unknown"


class TestTfIdf:
    @pytest.mark.slow
    def test_sites_are_worth_more_together_and_no_site_gives_the_game_away(self):
        """The defaults of the generator: pooled 0.82, sites 0.38 to 0.49."""
        corpus = generate(GeneratorSettings())
        sites = [records(notes) for notes in corpus.train.values()]
        test = records(corpus.test)
        pooled, alone = tfidf(sites, test), [tfidf([site], test) for site in sites]
        assert 0.70 < pooled < 0.86
        assert max(alone) < pooled - 0.15
        assert min(alone) > 1 / 6

    def test_words_that_decide_are_learnt(self):
        train = Records(("heart pain", "heart ache", "dry cough", "wet cough"), ("x", "x", "y", "y"))
        assert tfidf([train], Records(("heart", "cough"), ("x", "y"))) == 1.0
        assert tfidf([train], Records(("heart", "cough"), ("y", "x"))) == 0.0
