"""The same plan over real processes, over a grid without sockets, and in the engine of simulations.

All three end in the same model, bit for bit, where nothing is drawn or all draw from the same streams, and in
the same ledgers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cloister.client.app import client_app
from cloister.client.learn.learner import SiteLearner
from cloister.client.participation import Participant
from cloister.client.replies import Replies
from cloister.client.site.datasets import Datasets
from cloister.client.site.folder import SiteFolder
from cloister.client.site.ledger import Ledger
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.layout import initial
from cloister.privacy.model import agreed_layout
from cloister.privacy.wire import messages
from cloister.server.app import Federation
from cloister.server.checkpoint import Checkpoint
from cloister.server.terms import Terms
from cloister.simulations.demo import DATASET, Run
from cloister.simulations.engine import rounds
from cloister.simulations.engine.accounts import Book
from cloister.simulations.engine.adapters import SharedModel
from cloister.simulations.engine.plans import Promise
from cloister.simulations.engine.rounds import Seat
from cloister.simulations.transport import LocalGrid
from tests.ensemble import Stand, stand
from tests.hands import LABELS, hands

pytestmark = pytest.mark.slow

PLAIN = Terms("notes", LABELS, mode="off", rounds=3, steps=3, rate=1.0)
PRIVATE = replace(PLAIN, mode="local", rate=0.4, epsilon=2.0)
BUDGET = replace(PRIVATE, epsilon=8.0)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Stand]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with (
        hands(tmp_path_factory.mktemp("conformance")) as person,
        stand(person, ("north", "south"), BUDGET, model) as found,
    ):
        yield found
    torch.set_num_threads(threads)


def without_sockets(run: Run, place: Path) -> tuple[Checkpoint, dict[str, Participant]]:
    """The plan of a run again, in this process: same keys, same records, ledgers and logs of its own."""
    plan, lead = run.plan, run.lead
    sites = {name: participant(run, site, place / name) for name, site in run.sites.items()}
    federation = Federation(
        plan=plan,
        identity=lead.identity,
        roster=lead.enrolment.roster,
        log=EventLog.open(place / "lead", lead.identity),
        resume=Checkpoint(plan.digest, 0, start(run), {}, {}),
        save=lambda _: None,
        present=lambda: tuple(sites),
    )
    grid = LocalGrid({name: client_app({plan.digest: site}) for name, site in sites.items()})
    return federation.run(grid), sites


def in_the_engine(run: Run, place: Path) -> tuple[NDArray[np.float32], dict[str, Book]]:
    """The plan of a run again, on one model that all sites share, with accounts of its own."""
    plan, promise = run.plan, Promise(run.plan.privacy.mode, BUDGET.epsilon, BUDGET.delta)
    learners = SharedModel(plan, run.base).learners({name: own for name, (own, _) in run.records().items()})
    books = {n: Book.open(place / n / "ledger.sqlite", "record", promise, plan.digest) for n in learners}
    seats = {
        name: Seat(learner, FixedEntropy(name.encode()), books[name].account)
        for name, learner in learners.items()
    }
    return rounds.local(plan, seats, None, start(run)).model, books


def start(run: Run) -> NDArray[np.float32]:
    """The model before round 1, worked out from the plan alone."""
    return initial(agreed_layout(run.plan, run.base), run.plan.adapter.seed)


def participant(run: Run, site: SiteFolder, place: Path) -> Participant:
    place.mkdir(parents=True, mode=0o700)
    log = EventLog.open(place / "log", site.identity)
    ledger = Ledger(place / "ledger.sqlite", log)
    ledger.open_budget(DATASET, "record", BUDGET.epsilon, BUDGET.delta)
    entropy = FixedEntropy(site.name.encode())
    records = Datasets(site).open(DATASET)
    learner = SiteLearner(run.plan, site.name, run.base, records, entropy, place)
    lead = site.roster.lead
    return Participant(
        run.plan, site.identity, lead, learner, ledger, entropy, log, Replies(place / "replies")
    )


def test_without_noise_both_end_in_the_same_model_bit_for_bit(both: Stand, tmp_path: Path) -> None:
    run = both.run(PLAIN)
    end, _ = without_sockets(run, tmp_path)
    assert run.job.progress["model"] == messages.model_digest(end.model)
    assert run.job.progress["model"] != messages.model_digest(start(run))
    assert np.isfinite(end.model).all()
    shared, _ = in_the_engine(run, tmp_path / "engine")
    assert run.job.progress["model"] == messages.model_digest(shared)


def test_with_noise_the_ledgers_are_exactly_equal(both: Stand, tmp_path: Path) -> None:
    run = both.run(PRIVATE)
    end, sites = without_sockets(run, tmp_path)
    for name, site in sites.items():
        real = Datasets(run.sites[name]).ledger
        assert real.epsilon(DATASET) == site.ledger.epsilon(DATASET) <= PRIVATE.epsilon
        assert [(row.kind, row.total) for row in real.rows(DATASET)] == [
            (row.kind, row.total) for row in site.ledger.rows(DATASET)
        ]
    assert run.job.progress["model"] != messages.model_digest(end.model)  # noise of its own on each side
    shared, books = in_the_engine(run, tmp_path / "engine")
    for name, book in books.items():
        real = Datasets(run.sites[name]).ledger
        assert book.epsilon == real.epsilon(DATASET)
        charged = [(row.reservation.mechanism, row.total) for row in real.rows(DATASET)]
        assert [(row.reservation.mechanism, row.total) for row in book.ledger.rows(DATASET)] == [
            row
            for row, kind in zip(charged, (r.kind for r in real.rows(DATASET)), strict=True)
            if kind != "released"
        ]
    assert messages.model_digest(shared) == messages.model_digest(end.model)  # the same streams
