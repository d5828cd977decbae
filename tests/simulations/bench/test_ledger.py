"""The entries of the ledger's benchmark and its figures."""

from pathlib import Path

import pytest

from cloister.client.site.ledger import Ledger
from cloister.privacy.dp import accounting
from cloister.privacy.errors import RoundError
from cloister.simulations.bench import ledger
from cloister.simulations.bench.result import Result


def test_no_two_entries_are_alike() -> None:
    found = ledger.entries()
    assert len(found) == 60
    assert len({entry.noise_multiplier for entry in found}) == 60
    assert len({entry.rate for entry in found}) == 60
    assert len({entry.steps for entry in found}) > 20
    assert len(accounting.merged(found)) == 60  # nothing is merged, so nothing is computed once for two


def test_the_ledger_that_is_timed_holds_the_entries_and_says_their_epsilon(tmp_path: Path) -> None:
    mechanisms = ledger.entries(3)
    seconds = ledger.written(tmp_path / "ledger.db", mechanisms)
    assert len(seconds) == 3
    opened = Ledger(tmp_path / "ledger.db")
    assert [row.reservation.mechanism for row in opened.rows()] == mechanisms
    assert opened.epsilon("bench") == accounting.epsilon(mechanisms, 1e-5)


def test_asking_twice_asks_twice() -> None:
    asked = []
    cold, warm = ledger.twice(lambda: float(asked.append(None) or 0))
    assert len(asked) == 2
    assert min(cold, warm) >= 0


def test_the_figures_of_a_ledger() -> None:
    accounts = ((0.5, 0.01), (1.5, 0.02), (1.2, 0.03))
    reopened = ((0.6, 0.1), (0.7, 0.2), (0.8, 0.3))
    found = ledger.result(0.004, accounts, reopened)
    figures = found.figures
    assert isinstance(found, Result)
    assert (figures["ruling_s"], figures["ruling_s_min"], figures["ruling_s_max"]) == (1.2, 0.5, 1.5)
    assert (figures["ruling_warm_s"], figures["reopened_s"], figures["reopened_warm_s"]) == (0.02, 0.7, 0.2)
    assert (figures["reserve_s"], figures["entries"]) == (0.004, 60)
    targets = found.to_json()["targets"]
    assert {name: target["met"] for name, target in targets.items()} == {
        "ruling_s": False,
        "reopened_s": True,
    }


def test_every_figure_is_explained() -> None:
    found = ledger.result(0.0, ((0.0, 0.0),), ((0.0, 0.0),))
    explained = {line.split()[0] for line in (ledger.__doc__ or "").splitlines() if line[:1].islower()}
    assert {name for name in found.figures if not name.endswith(("_min", "_max"))} <= explained


def test_a_fresh_process_answers_for_a_ledger_file(tmp_path: Path) -> None:
    ledger.written(tmp_path / "ledger.db", ledger.entries(2))
    cold, warm = ledger._child([str(tmp_path / "ledger.db")])
    assert min(cold, warm) > 0
    with pytest.raises(RoundError, check=lambda error: error.id == "site_failed"):
        ledger._child([str(tmp_path / "empty.db")])  # no budget is open there
