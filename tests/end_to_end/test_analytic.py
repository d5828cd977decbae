"""The analytic round over real processes: one secure sum, solved by the lead, kept by every site."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloister.client.jobs import Jobs as SiteJobs
from cloister.client.learn import export
from cloister.client.learn.adapters import place
from cloister.client.learn.features import Pooled, prepare
from cloister.client.learn.model import load_encoder, tokenize
from cloister.client.site.datasets import Datasets
from cloister.client.site.records import Records
from cloister.privacy.analytic.moments import plain
from cloister.privacy.analytic.ridge import solve
from cloister.privacy.analytic.solution import head
from cloister.privacy.dp import accounting
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.layout import Placement, layout
from cloister.server.analytic import Choice
from cloister.server.terms import Terms
from cloister.simulations.demo import DATASET, Run
from cloister.simulations.engine import rounds
from cloister.simulations.engine.adapters import SharedModel
from cloister.simulations.engine.plans import Promise
from cloister.simulations.engine.rounds import Seat
from cloister.simulations.engine.sums import OpenSums
from cloister.simulations.engine.ways import OneRound
from tests.ensemble import Stand, stand
from tests.hands import LABELS, hands

pytestmark = [pytest.mark.slow, pytest.mark.job]

SITES = ("coast", "north", "south", "west")
OFF = Terms("notes", LABELS, mode="off", secure=True, analytic=Choice("ridge", cosines=40))
PRIVATE = Terms("notes", LABELS, mode="local", secure=True, epsilon=4.0, analytic=Choice("ridge"))
BUDGET = replace(PRIVATE, epsilon=40.0, analytic=None)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Stand]:
    with (
        hands(tmp_path_factory.mktemp("analytic")) as person,
        stand(person, SITES, BUDGET, model) as found,
    ):
        yield found


def features(run: Run, records: Records) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What the frozen base model says of texts, worked out without the plan's head."""
    base = run.base
    order = layout(base.tensors, base.hidden, Placement(1, ("none",), 0, len(LABELS)))
    ids = tokenize(base, records.texts, run.plan.base.max_tokens)
    found = prepare(place(load_encoder(base), order, 1.0), ids)
    assert isinstance(found, Pooled)
    return np.asarray(found.values.numpy(), dtype=np.float64)


def of_model(run: Run, records: Records, where: Path) -> list[str]:
    """What an exported model finds in records."""
    return export.load(where, run.base).predict(list(records.texts))


def test_without_privacy_the_model_is_that_of_all_rows_in_one_place(four: Stand) -> None:
    run = four.run(OFF)
    plan, release = run.plan, run.plan.release
    analytic = plan.training.analytic
    assert analytic is not None
    assert release is not None
    train = [own for own, _ in run.records().values()]
    rows = np.concatenate([features(run, own) for own in train])
    labels = np.concatenate([own.targets(LABELS) for own in train])
    lifted = analytic.lift(cut=False).rows(rows)
    expected = solve(release.terms, plain(release.terms, lifted, labels), analytic.ridge)
    found, wanted = run.model(), head(analytic.lift(cut=False), expected)
    assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 1e-3

    # The same as a simulation's round of the same constants.
    way = OneRound(cosines=40, ridge=analytic.ridge)
    one = way.analytic(analytic.inputs, len(LABELS), release.rows, Promise("off"), release.n_min)
    assert (one.lift, one.release) == (analytic.lift(cut=False), release)

    # Every site keeps a model that says what the solution says, cosines included.
    for name, (_, held) in run.records().items():
        where = run.site_job(name) / "model"
        classes = expected.predict(analytic.lift(cut=False).rows(features(run, held)))
        assert of_model(run, held, where) == [LABELS[number] for number in classes]
        ended = [e.type for e in run.sites[name].log.entries() if e.job == plan.digest]
        assert ended.count("update.sent") == ended.count("sum.opened") == 1
        assert "budget.reserved" not in ended


@pytest.mark.parametrize("kind", ["ridge", "means"])
@pytest.mark.parametrize("mode", ["local", "joint"])
def test_with_privacy_one_full_batch_is_charged_at_every_site(four: Stand, mode: Any, kind: Any) -> None:
    before = {name: rows(four, name) for name in SITES}
    run = four.run(replace(PRIVATE, mode=mode, analytic=Choice(kind)))
    plan = run.plan
    mechanism = plan.round_mechanism
    assert mechanism is not None
    assert (mechanism.rate, mechanism.steps, plan.training.rounds) == (1.0, 1, 1)
    exact = accounting.epsilon([mechanism], plan.privacy.delta)
    assert 0.97 * 4.0 < exact <= 4.0
    for name in SITES:
        new = rows(four, name)[len(before[name]) :]
        kinds = [row.kind for row in new]
        assert kinds == (
            ["reserved", "released", "spent"] if mode == "joint" else ["reserved", "spent", "released"]
        )
        spent = next(row.reservation.mechanism for row in new if row.kind == "spent")
        known = plan.grid.settled(1.0, len(SITES)) if mode == "joint" else mechanism
        assert spent == known
        assert accounting.epsilon([spent], plan.privacy.delta) <= exact
        reserved = next(
            e for e in run.sites[name].log.entries() if e.job == plan.digest and e.type == "budget.reserved"
        )
        assert reserved.body["epsilon"] == pytest.approx(exact)
        folder = SiteJobs(run.sites[name]).find(plan.digest).folder
        assert (folder / "done").exists()
        assert not (folder / "audit.json").exists()
    assert np.isfinite(run.model()).all()
    assert run.model().any()


def test_a_head_that_starts_from_it_ends_as_in_the_engine(four: Stand, tmp_path: Path) -> None:
    """Without noise the same plan in the engine, over the same records, gives the same model."""
    terms = replace(OFF, analytic=None, start=Choice("ridge"), rounds=3, steps=2, rate=1.0)
    run = four.run(terms)
    plan, held = run.plan, {name: own for name, (own, _) in run.records().items()}
    shared, zero = SharedModel(plan, run.base), np.zeros(run.plan.adapter.parameters, dtype=np.float32)
    seats = {n: Seat(one, FixedEntropy(n.encode())) for n, one in shared.learners(held).items()}
    expected = rounds.local(plan, seats, OpenSums(SITES), zero).model
    np.testing.assert_allclose(run.model(), expected, rtol=1e-4, atol=1e-5)
    assert run.model().any()


@pytest.mark.parametrize("mode", ["local", "joint"])
def test_a_private_start_is_charged_like_every_step_after_it(four: Stand, mode: Any) -> None:
    before = {name: rows(four, name) for name in SITES}
    run = four.run(replace(PRIVATE, mode=mode, analytic=None, start=Choice("ridge"), rounds=3))
    mechanism = run.plan.round_mechanism
    assert mechanism is not None
    assert 0.97 * 4.0 < accounting.epsilon([mechanism] * 3, run.plan.privacy.delta) <= 4.0
    for name in SITES:
        new = rows(four, name)[len(before[name]) :]
        reserved = [row.reservation for row in new if row.kind == "reserved"]
        assert [(each.round, each.mechanism) for each in reserved] == [(n, mechanism) for n in (1, 2, 3)]
        told = [e for e in run.sites[name].log.entries() if e.job == run.plan.digest]
        # That noise made a model worse on a few held-out rows may happen, and is told.
        assert {e.body["reason"] for e in told if e.type == "incident.raised"} <= {"model_fell"}
        audited = next(e for e in told if e.type == "audit.result")
        assert not audited.body["failed"]
    assert run.model().any()


def rows(found: Stand, name: str) -> list[Any]:
    return list(Datasets(found.cast.sites[name]).ledger.rows(DATASET))
