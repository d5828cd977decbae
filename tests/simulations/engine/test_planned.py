"""What ``cloister lead plan`` foretells is what a job comes to: bytes as encoded, epsilon by the ledgers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.privacy import code
from cloister.privacy.model import BaseModel, describe
from cloister.privacy.secagg.terms import At
from cloister.server.outline import Ground, outline
from cloister.server.terms import Terms
from cloister.simulations.engine import rounds
from cloister.simulations.engine.accounts import Book
from cloister.simulations.engine.consortium import Consortium, _offer
from cloister.simulations.engine.plans import Promise
from cloister.simulations.engine.sums import Opened, OpenSums
from tests import models
from tests.simulations.engine.test_adapters import LABELS, records

pytestmark = pytest.mark.job

SITES = ("north", "south", "west", "east")
TERMS = Terms("notes", LABELS, mode="local", epsilon=4.0, rounds=2, secure=True)


class Counted(OpenSums):
    """Sums that weigh what each site sends."""

    def open(self, at: At, words: Iterable[tuple[str, bytes]], *, over: tuple[str, ...] = ()) -> Opened:
        def weighed() -> Iterator[tuple[str, bytes]]:
            for name, content in words:
                sent[name] += len(content)
                yield name, content

        return super().open(at, weighed(), over=over)


sent: Counter[str] = Counter()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return describe(models.write(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.mark.parametrize("top_layers", [0, 1, 3])
@pytest.mark.parametrize("mode", ["local", "joint", "joint, surplus taken back"])
def test_a_lora_plan_costs_what_was_foretold(
    base: BaseModel, tmp_path: Path, mode: str, top_layers: int
) -> None:
    joint = mode.startswith("joint")
    terms = replace(
        TERMS, mode="joint" if joint else "local", surplus="taken back" in mode, top_layers=top_layers
    )
    held = {name: records(place) for place, name in enumerate(SITES)}
    played, digest = Consortium(base, held), code.installed()
    offers = {name: _offer(name, each, digest) for name, each in held.items()}
    told = outline(terms, Ground(played.roster, offers, base, digest))
    plan, start = played.draft(terms)
    shared, promise = played.model(plan), Promise("local", 4.0, 1e-5)
    books = {
        name: Book.open(tmp_path / name / "ledger.sqlite", "record", promise, plan.digest) for name in SITES
    }
    seats, sums = played.seats(shared, lambda name: books[name].account), Counted(SITES)
    sent.clear()
    done = (
        rounds.joint(plan, shared.layout, seats, sums, start)
        if joint
        else rounds.local(plan, seats, sums, start)
    )
    assert dict(sent) == dict.fromkeys(SITES, told.bytes_up)
    assert done.sums == told.sums
    assert {book.epsilon for book in books.values()} == {told.epsilon}
    assert plan.privacy.noise_multiplier == told.plan.privacy.noise_multiplier
