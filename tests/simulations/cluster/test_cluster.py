"""Flower's engine: the same models and the same epsilon as in this process; whatever fails ends the run."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from flwr.app import Context, Error, Message, RecordDict

from cloister.client.site.ledger import Ledger
from cloister.privacy import canonical
from cloister.privacy.cli import main
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.errors import CloisterError, InputError, PlanError, RoundError, UsageError
from cloister.privacy.model import describe
from cloister.privacy.plan import Plan
from cloister.simulations.cluster import running
from cloister.simulations.cluster.job import LOG, MODELS, OUTCOME, Job
from cloister.simulations.cluster.nodes import NamedGrid, NodeApp
from cloister.simulations.cluster.process import NOT_STARTED, Play
from cloister.simulations.cluster.running import Cluster
from cloister.simulations.cluster.terms import Terms
from cloister.simulations.engine.accounts import Book
from cloister.simulations.engine.consortium import Consortium
from cloister.simulations.engine.holding import Holding
from cloister.simulations.engine.methods import Analytic
from cloister.simulations.engine.plans import DATASET, Course, Parties, Promise
from cloister.simulations.engine.rounds import Account, Trained, Watch, unwatched
from cloister.simulations.engine.started import StartedSteps
from cloister.simulations.engine.ways import HeadSteps, OneRound, Setting, Way
from cloister.simulations.transport import LocalGrid
from tests import hearts, models
from tests.simulations.engine.test_adapters import KINDS, records

SITES = ("north", "south", "west", "coast")
INPUTS, ROWS = 6, 90
OFF, LOCAL, JOINT = Promise("off"), Promise("local", 4.0, 1e-5), Promise("joint", 4.0, 1e-5)
HEAD = HeadSteps(Course(rounds=3, steps=1, learning_rate=0.5))
NOISY = OneRound(constant=0.3, ridge=1.0, weight=0.5, noise_share=0.5)
CONTEXT = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})


def holding(seed: int, classes: Sequence[int], *, people: bool = False) -> Holding:
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, ROWS)
    features = np.eye(INPUTS)[labels] + 0.35 * rng.normal(size=(ROWS, INPUTS))
    units = np.arange(ROWS) // 3 if people else None
    return Holding(features / np.linalg.norm(features, axis=1, keepdims=True), labels, units)


def parties(*, people: bool = False, classes: int = 3) -> Parties:
    held = {
        name: holding(place, (place % classes, (place + 1) % classes), people=people)
        for place, name in enumerate(SITES)
    }
    return Parties(held, ("a", "b", "c")[:classes], ("made up", canonical.digest(b"made up")))


def seeds() -> dict[str, bytes]:
    return {name: name.encode() for name in SITES}


class OverLocalGrid:
    """Runs a plan as the engine's process does, over a grid that calls the nodes' app in this process."""

    def __init__(self, folder: Path, promise: Promise) -> None:
        self.job, self.promise = Job(folder), promise

    def run(
        self, plan: Plan, taking: Parties, watch: Watch = unwatched, analytic: Analytic | None = None
    ) -> Trained:
        terms = Terms(taking.roster, self.promise.epsilon, self.promise.delta)
        if analytic is not None:
            terms = Terms(terms.roster, terms.epsilon, terms.delta, analytic.lift.cut, analytic.digest)
        self.job.write(plan, terms, taking.identities, taking.holdings, seeds())
        Play(self.job).over(LocalGrid(dict.fromkeys(SITES, NodeApp(self.job.path))), CONTEXT)
        told = json.loads((self.job.path / OUTCOME).read_bytes())
        return running._told(plan, list(np.load(self.job.path / MODELS)), told["sums"], watch)


@pytest.mark.job
class TestConformance:
    @pytest.mark.parametrize(
        ("way", "promise", "people", "classes"),
        [
            (HEAD, OFF, False, 3),
            (HEAD, LOCAL, False, 2),
            (HEAD, JOINT, True, 3),
            (OneRound(cosines=20), OFF, True, 3),
            (OneRound(scale=0.3, constant=0.3, cut=True), OFF, False, 2),
            (OneRound(kind="means", noise_share=0.0), LOCAL, False, 3),
            (NOISY, JOINT, True, 2),
            (StartedSteps(NOISY, Course(2, 1, 0.5)), JOINT, True, 3),
            (StartedSteps(NOISY, Course(2, 1, 0.5)), LOCAL, False, 2),
        ],
    )
    def test_the_model_and_every_epsilon_are_those_of_the_engine(
        self, tmp_path: Path, way: Way, promise: Promise, people: bool, classes: int
    ) -> None:
        taking, books = parties(people=people, classes=classes), {}

        def account(site: str, job: str) -> Account:
            books[site] = Book.open(tmp_path / "own" / f"{site}.sqlite", taking.unit, promise, job)
            return books[site].account

        entropies = {name: FixedEntropy(seed) for name, seed in seeds().items()}
        accounts = None if promise is OFF else account
        own = way.federated(Setting(taking, promise, entropies, True, accounts, watched=True))
        far = OverLocalGrid(tmp_path / "far", promise)
        found = way.federated(Setting(taking, promise, {}, watched=True, elsewhere=far))
        rows = holding(99, range(classes)).features
        assert np.allclose(found.scores(rows), own.scores(rows), rtol=1e-5, atol=1e-5)
        assert (found.sums, found.bytes_up) == (own.sums, own.bytes_up)
        assert [(halt.sums, halt.bytes_up) for halt in found.halts] == [
            (halt.sums, halt.bytes_up) for halt in own.halts
        ]
        for name, book in books.items():
            ledger = Ledger(far.job.site(name).ledger)
            assert ledger.epsilon(DATASET) == book.epsilon > 3.5

    @pytest.mark.parametrize("kind", ["off, all layers", "local", "joint"])
    def test_lora_on_texts_ends_as_in_the_engine(self, tmp_path: Path, kind: str) -> None:
        base = describe(models.write(tmp_path / "tiny"))
        played = Consortium(base, {name: records(place) for place, name in enumerate(SITES[:3])})
        plan, start = played.draft(KINDS[kind])
        shared, promise = played.model(plan), Promise(KINDS[kind].mode, 4.0, 1e-5)
        books = {
            name: Book.open(tmp_path / f"{name}.sqlite", "record", promise, plan.digest)
            for name in played.records
        }
        seats = played.seats(shared, lambda name: books[name].account)
        own = played.run(shared, start, seats, masked=plan.aggregation.secure)
        job, terms = Job(tmp_path / "job"), Terms(played.roster, 4.0, 1e-5, base=str(base.path))
        drawn = {name: f"0/{name}".encode() for name in played.records}  # as Consortium.entropy says
        job.write(plan, terms, played.identities, played.records, drawn)
        Play(job).over(LocalGrid(dict.fromkeys(played.records, NodeApp(job.path))), CONTEXT)
        sums = json.loads((job.path / OUTCOME).read_bytes())["sums"]
        found = running._told(plan, list(np.load(job.path / MODELS)), sums, unwatched)
        assert np.allclose(found.model, own.model, rtol=1e-5, atol=1e-6)
        assert not np.allclose(found.model, start, atol=1e-3)
        assert (found.sums, found.bytes_up) == (own.sums, own.bytes_up)
        for name, book in books.items() if kind != "off, all layers" else ():
            assert Ledger(job.site(name).ledger).epsilon(DATASET) == book.epsilon > 0

    def test_what_our_own_engine_refuses_is_refused_before_anything_is_made(self, tmp_path: Path) -> None:
        base = describe(models.write(tmp_path / "tiny"))
        played = Consortium(base, {name: records(place) for place, name in enumerate(SITES)})
        plan, _ = played.draft(replace(KINDS["local"], bits=12))
        with pytest.raises(PlanError, match="words of 32 bits"):
            Cluster(tmp_path / "out", {}, LOCAL).train(plan, played)
        assert not (tmp_path / "out").exists()

    def test_a_site_that_refuses_ends_the_run_with_the_reason(self, tmp_path: Path) -> None:
        far = OverLocalGrid(tmp_path / "far", Promise("local", 0.5, 1e-5))  # what ledgers allow is too little
        with pytest.raises(RoundError) as caught:
            HEAD.federated(Setting(parties(), LOCAL, {}, elsewhere=far))
        assert caught.value.id == "site_failed"
        assert "budget_exceeded" in caught.value.what

    def test_a_site_whose_folder_is_gone_ends_the_run(self, tmp_path: Path) -> None:
        taking, job = parties(), Job(tmp_path / "job")
        plan = taking.plan("test", OFF, HEAD.course)
        job.write(plan, Terms(taking.roster), taking.identities, taking.holdings, seeds())
        job.site("west").path.rename(tmp_path / "elsewhere")
        with pytest.raises(RoundError, match="west failed in the simulation"):
            Play(job).over(LocalGrid(dict.fromkeys(SITES, NodeApp(job.path))), CONTEXT)
        assert not (job.path / OUTCOME).exists()


class FakeGrid:
    """A grid of two nodes, one of which has died."""

    def get_node_ids(self) -> list[int]:
        return [9, 4]

    def push_messages(self, messages: Sequence[Message]) -> list[str]:
        return []

    def pull_messages(self, ids: Sequence[str]) -> Iterator[Any]:
        error = Error(code=0, reason="<class 'ray.exceptions.ActorDiedError'>:<'The actor died …'>")
        yield SimpleNamespace(has_error=lambda: True, error=error, metadata=SimpleNamespace(src_node_id=9))


class TestFailures:
    def test_a_dead_actor_ends_the_run_and_is_named(self) -> None:
        grid: Any = NamedGrid(FakeGrid(), ["north", "south"])  # type: ignore[arg-type]
        assert [(node.node_id, node.name) for node in grid.get_nodes()] == [(4, "north"), (9, "south")]
        with pytest.raises(RoundError) as caught:
            list(grid.pull_messages(["1"]))
        assert caught.value.id == "site_failed"
        assert "worked for south failed: ActorDiedError" in caught.value.what

    def test_a_message_that_is_not_taken_ends_the_run(self) -> None:
        grid: Any = NamedGrid(FakeGrid(), ["north", "south"])  # type: ignore[arg-type]
        with pytest.raises(RoundError, match="did not take a message"):
            grid.push_messages([None])

    def test_without_ray_one_line_says_what_to_install(self, tmp_path, capsys, monkeypatch) -> None:
        monkeypatch.setitem(sys.modules, "ray", None)
        out = tmp_path / "out"
        assert main(["simulate", "heart", "--engine", "flower", "--out", str(out)]) == 1
        said = capsys.readouterr().err.strip()
        assert "pip install 'cloister[ray]'" in said
        assert said.endswith("[extra_missing]")
        assert "\n" not in said
        assert not out.exists()
        with pytest.raises(InputError):
            Cluster(out, {}, OFF).run(parties().plan("test", OFF, HEAD.course), parties())
        assert not out.exists()

    def test_a_process_that_ends_without_a_word_leaves_no_keys_and_no_rows(
        self, tmp_path, monkeypatch
    ) -> None:
        monkeypatch.setattr(running, "_PROCESS", "this")
        monkeypatch.setattr(running, "require", lambda: None)
        taking, folder = parties(), tmp_path / "out"
        with pytest.raises(RoundError, match=r"ended \(0\)") as caught:
            Cluster(folder, seeds(), OFF).run(taking.plan("test", OFF, HEAD.course), taking)
        assert str(folder / LOG) in caught.value.do
        assert [path.name for path in folder.iterdir()] == [LOG]

    def test_a_folder_that_holds_something_is_left_alone(self, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr(running, "require", lambda: None)
        (tmp_path / "mine").write_text("x")
        taking = parties()
        with pytest.raises(UsageError) as caught:
            Cluster(tmp_path, seeds(), OFF).run(taking.plan("test", OFF, HEAD.course), taking)
        assert caught.value.id == "folder_in_use"
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]

    def test_an_error_of_the_process_is_the_same_error_here(self) -> None:
        told = {"kind": "BudgetError", "id": "budget_exceeded", "what": "Too much.", "do": ""}
        error: CloisterError = running._error(told, Path("x.log"))
        assert (type(error).__name__, error.id, error.what) == ("BudgetError", "budget_exceeded", "Too much.")


@pytest.fixture
def ray() -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'cloister[ray]'")


def _skip_if_not_started(error: str) -> None:
    if NOT_STARTED in error:
        pytest.skip("Ray does not start on this machine now: its processes wait 15 s for each other")


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
class TestRay:
    def test_a_scenario_ends_in_the_same_figures_and_the_same_epsilon(
        self, tmp_path, capsys, monkeypatch
    ) -> None:
        data, results = hearts.folder(tmp_path / "data"), {}
        monkeypatch.chdir(tmp_path)
        for engine in ("own", "flower"):
            out = Path(engine)
            options = ["--data", str(data), "--out", str(out), "--seeds", "1", "--epsilon", "4"]
            code = main(["simulate", "heart", "--engine", engine, *options])
            said = capsys.readouterr().err
            _skip_if_not_started(said)
            assert code == 0, said
            results[engine] = json.loads((out / "result.json").read_text())
        own, flower = results["own"]["methods"], results["flower"]["methods"]
        for name in own:
            assert flower[name]["accuracy"] == pytest.approx(own[name]["accuracy"], abs=0.01), name
            exact = ("epsilon", "bytes_up", "sums", "noise_factor", "way")
            assert {key: flower[name][key] for key in exact} == {key: own[name][key] for key in exact}
        assert flower["federated_joint"]["epsilon"] > 3.9
        left = {path.name for path in (tmp_path / "flower" / "ledgers" / "federated_joint").iterdir()}
        assert left == {LOG, *(f"{site}.sqlite" for site in hearts.SITES)}

    def test_actors_that_are_killed_end_the_run(self, tmp_path: Path) -> None:
        taking, folder = parties(), tmp_path / "out"
        long = Course(rounds=400, steps=1, learning_rate=0.5)
        killed = threading.Event()

        def kill() -> None:
            while not killed.wait(0.2):
                logs = list(folder.glob("sites/*/log"))
                for process in psutil.Process().children(recursive=True) if logs else ():
                    if "ClientAppActor" in process.name() and time.time() - process.create_time() > 1:
                        process.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            with pytest.raises(RoundError) as caught:
                Cluster(folder, seeds(), OFF, workers=1).run(taking.plan("test", OFF, long), taking)
        finally:
            killed.set()
            killer.join()
        _skip_if_not_started(caught.value.what)
        assert caught.value.id == "site_failed"
        assert "The actor of Ray that worked for" in caught.value.what
        assert {path.name for path in folder.iterdir()} <= {LOG, *(f"{site}.sqlite" for site in SITES)}
