"""LoRA in the engine: the own steps of a site on a model that all share; masks that change no sum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cloister.client.learn import tasks
from cloister.client.learn.learner import SiteLearner
from cloister.client.site.records import Records, load
from cloister.privacy.dp import accounting
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.errors import CloisterError
from cloister.privacy.model import BaseModel, Columns, describe
from cloister.privacy.wire import messages
from cloister.privacy.wire.envelope import Header
from cloister.server.analytic import Choice
from cloister.server.terms import Rates, Terms
from cloister.simulations.engine.accounts import Book
from cloister.simulations.engine.consortium import Consortium
from cloister.simulations.engine.head import Moment
from cloister.simulations.engine.plans import DATASET, Promise
from cloister.simulations.engine.rounds import Account
from tests import models, tables

pytestmark = pytest.mark.job

SITES = ("north", "south", "west")
LABELS = ("cardiology", "neurology", "gastro")
_WORDS = {"cardiology": ("chest", "card"), "neurology": ("headache", "head"), "gastro": ("pain", "since")}
OFF = Terms("notes", LABELS, mode="off", rounds=2, steps=2, rate=0.5, rank=3)
LOCAL = replace(OFF, mode="local", epsilon=4.0, secure=True)
JOINT = replace(LOCAL, mode="joint", steps=None)
KINDS = {
    "off": OFF,
    "off, all layers": replace(OFF, top_layers=3, rates=Rates("sgd", 0.1, 0.1)),
    "local": LOCAL,
    "joint": JOINT,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return describe(models.write(tmp_path_factory.mktemp("model") / "tiny"))


def records(seed: int, rows: int = 24, *, persons: bool = False) -> Records:
    rng = np.random.default_rng(seed)
    labels = tuple(LABELS[(seed + row) % 3] for row in range(rows))
    texts = tuple(" ".join(rng.choice((*_WORDS[label], "monday"), rng.integers(3, 9))) for label in labels)
    whose = tuple(f"p{row // 3}" for row in range(rows)) if persons else None
    return Records(texts, labels, whose)


def consortium(base: BaseModel, *, persons: bool = False) -> Consortium:
    held = {name: records(place, persons=persons) for place, name in enumerate(SITES)}
    return Consortium(base, held)


def trained(played: Consortium, terms: Terms, *, masked: bool, accounts=None):
    plan, start = played.draft(terms)
    shared = played.model(plan)
    seats = played.seats(shared, accounts) if accounts else played.seats(shared)
    return plan, played.run(shared, start, seats, masked=masked)


@pytest.mark.parametrize("persons", [False, True], ids=["records", "persons"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_site_takes_the_steps_of_its_own_learner(
    base: BaseModel, kind: str, persons: bool, tmp_path: Path
) -> None:
    played = consortium(base, persons=persons)
    plan, start = played.draft(KINDS[kind])
    shared = played.model(plan)
    learners = shared.learners(played.records)
    digest = messages.model_digest(start)
    for name in reversed(SITES):  # whoever trained before leaves nothing behind
        empty = Records((), (), () if persons else None)
        (tmp_path / name).mkdir()
        own = SiteLearner(
            plan, name, base, (played.records[name], empty), FixedEntropy(b"a"), tmp_path / name
        )
        header = Header("task", plan.consortium, plan.digest, 1, 0, 1, "lead", name, digest)
        at, entropy = Moment(1, 1, digest), FixedEntropy(b"a")
        if plan.joint:
            share, expected = learners[name].share(start, entropy, at), own.share(start, header)
            assert share.mechanisms == expected.mechanisms
            assert share.values.tobytes() == expected.values.tobytes()
        else:
            delta, wanted = learners[name].train(start, entropy, at), own.train(start, header)
            assert delta.mechanisms == wanted.mechanisms
            assert delta.values.tobytes() == wanted.values.tobytes()
            assert np.abs(delta.values).max() > 0


@pytest.mark.parametrize("hidden", [None, 4])
@pytest.mark.parametrize("kind", ["off", "local", "joint"])
def test_rows_of_a_table_are_trained_on_as_a_site_does(kind: str, hidden: int | None, tmp_path: Path) -> None:
    held, foundation = {}, Columns.of(tables.TABLE)
    for seed, name in enumerate(SITES):
        rows = tables.write(tmp_path / f"{name}.csv", tables.patients(60, seed))
        held[name] = load(rows, text="", label="", table=tables.TABLE)
    terms = replace(KINDS[kind], labels=tables.TABLE.classes, table=tables.TABLE, hidden=hidden)
    played = Consortium(foundation, held)
    plan, start = played.draft(replace(terms, task="tabular-classification"))
    shared = played.model(plan)
    learners = shared.learners(held)
    digest = messages.model_digest(start)
    for name in reversed(SITES):
        (tmp_path / name).mkdir()
        both = (held[name], held[name].take([]))
        own = SiteLearner(plan, name, foundation, both, FixedEntropy(b"a"), tmp_path / name)
        header = Header("task", plan.consortium, plan.digest, 1, 0, 1, "lead", name, digest)
        at, entropy = Moment(1, 1, digest), FixedEntropy(b"a")
        found, expected = (
            (learners[name].share(start, entropy, at), own.share(start, header))
            if plan.joint
            else (learners[name].train(start, entropy, at), own.train(start, header))
        )
        assert found.mechanisms == expected.mechanisms
        assert found.values.tobytes() == expected.values.tobytes()
        assert np.abs(found.values).max() > 0
    masks = (True, False) if plan.aggregation.secure else (False,)
    ends = [played.run(shared, start, played.seats(shared), masked=masked).model for masked in masks]
    assert len({end.tobytes() for end in ends}) == 1
    if kind == "off" and hidden is None:  # a hidden layer starts from a seed of its own in each draft
        path = tables.write(tmp_path / "test.csv", tables.patients(200, 9))
        assert shared.accuracy(ends[0], load(path, text="", label="", table=tables.TABLE)) > 0.75


@pytest.mark.parametrize("kind", ["local", "joint"])
def test_masks_do_not_change_the_model(base: BaseModel, kind: str) -> None:
    played = consortium(base)
    plan, start = played.draft(KINDS[kind])
    shared = played.model(plan)
    found = [
        played.run(shared, start, played.seats(shared), masked=masked).model.tobytes()
        for masked in (True, False)
    ]
    assert found[0] == found[1] != start.tobytes()


def test_all_sites_train_on_one_model(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    real = tasks.load_encoder
    monkeypatch.setattr(tasks, "load_encoder", lambda base, *rest: loaded.append(base) or real(base, *rest))
    trained(consortium(base), OFF, masked=False)
    assert loaded == [base]


def test_training_finds_what_words_tell(base: BaseModel) -> None:
    played = consortium(base)
    plan, start = played.draft(replace(OFF, rounds=4, steps=10))
    shared = played.model(plan)
    test = records(9, 90)
    found = played.run(shared, start, played.seats(shared), masked=False)
    assert shared.accuracy(found.model, test) > shared.accuracy(start, test) + 0.3
    assert found.bytes_up == 4 * 4 * plan.adapter.parameters


def test_ledgers_are_charged_what_the_plan_says(base: BaseModel, tmp_path: Path) -> None:
    promise = Promise("local", LOCAL.epsilon, LOCAL.delta)
    books: dict[str, Book] = {}

    def account(name: str) -> Account:
        books[name] = Book.open(tmp_path / name / "ledger.sqlite", "record", promise, "sha256:" + "0" * 64)
        return books[name].account

    plan, _ = trained(consortium(base), LOCAL, masked=True, accounts=account)
    expected = accounting.epsilon([plan.round_mechanism] * plan.training.rounds, LOCAL.delta)
    assert set(books) == set(SITES)
    for book in books.values():
        assert book.epsilon == expected <= LOCAL.epsilon
        kinds = [row.kind for row in book.ledger.rows(DATASET)]
        assert kinds.count("reserved") == plan.training.rounds
    assert plan.round_mechanism == GaussianSteps(plan.privacy.noise_multiplier, 0.5, 2)


def _strange(played: Consortium, change: Records) -> Consortium:
    return replace(played, records={**played.records, "west": change})


@pytest.mark.parametrize(
    ("reason", "words", "run"),
    [
        ("plan_conflict", "nothing is masked", lambda p: trained(p, OFF, masked=True)),
        (
            "plan_conflict",
            "32 bits",
            lambda p: trained(p, replace(LOCAL, bits=8, mode="off"), masked=False),
        ),
        (
            "plan_conflict",
            "hides no update",
            lambda p: trained(replace(p, records={n: p.records[n] for n in SITES[:2]}), LOCAL, masked=True),
        ),
        (
            "plan_conflict",
            "unit of privacy",
            lambda p: trained(_strange(p, records(2, persons=True)), OFF, masked=False),
        ),
        (
            "task_unsupported",
            "cached features only",
            lambda p: trained(p, replace(JOINT, rounds=None, rate=None, analytic=Choice()), masked=False),
        ),
        (
            "site_empty",
            "no rows",
            lambda p: trained(_strange(p, Records((), ())), OFF, masked=False),
        ),
        (
            "class_unknown",
            "1 of 1 rows",
            lambda p: trained(_strange(p, Records(("knee",), ("surgery",))), OFF, masked=False),
        ),
    ],
)
def test_what_cannot_be_simulated_is_refused(base: BaseModel, reason: str, words: str, run) -> None:
    with pytest.raises(CloisterError) as caught:
        run(consortium(base))
    assert (caught.value.id, words in caught.value.what) == (reason, True), caught.value.line()


def test_a_plan_of_sites_that_are_not_there_is_refused(base: BaseModel) -> None:
    played = consortium(base)
    plan, _ = played.draft(OFF)
    fewer = {name: played.records[name] for name in SITES[:2]}
    with pytest.raises(CloisterError, match="no records of west"):
        played.model(plan).learners(fewer)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
