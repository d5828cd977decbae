from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cloister.privacy.errors import UsageError
from cloister.simulations.bench import cli
from cloister.simulations.bench import round as bench_round
from cloister.simulations.bench import step as bench_step
from cloister.simulations.bench.cli import BENCHES, app
from cloister.simulations.bench.federation import Measured, Meter, gaps, lengths, quiet_moments, union
from cloister.simulations.bench.fold import Folded
from cloister.simulations.bench.result import Limit, Result, spread
from cloister.simulations.bench.site import Interval, TimedLearner, intervals, scored
from cloister.simulations.bench.texts import TextFile

MEASURED = Measured(
    rounds=[2.0, 4.0, 3.0],
    gaps=[0.3, 0.2, 0.7],
    scored_gaps=[1.5],
    steady=1.04,
    whole_bytes=3_000,
    inner_bytes=2_100,
    round_bytes=2_000,
    pss_gib=2.5,
    cabled=True,
)
FOUR = bench_round.Four(
    plain=MEASURED,
    secure=replace(MEASURED, rounds=[3.3], gaps=[0.7, 0.6, 0.5]),
    joint=replace(MEASURED, gaps=[0.1, 0.2, 0.14]),
)
RESULT = bench_round.result(MEASURED, FOUR, Folded(300, 100, 0.1))


def test_a_spread_is_the_median_and_both_ends() -> None:
    assert spread("x", iter([5.0, 1.0, 3.0])) == {"x": 3.0, "x_min": 1.0, "x_max": 5.0}


@pytest.mark.parametrize(
    ("limit", "value", "met"),
    [
        (Limit(2.0), 2.0, True),
        (Limit(2.0), 2.1, False),
        (Limit(2.0, at_least=True), 2.0, True),
        (Limit(2.0, at_least=True), 1.9, False),
    ],
)
def test_a_limit_is_met_up_to_itself(limit: Limit, value: float, met: bool) -> None:
    assert limit.met(value) is met


def test_a_result_has_the_agreed_shape_and_targets_of_its_figures_only() -> None:
    value = Result("thing", {"a": 1.0, "b": 3.0}, {"b": Limit(2.0), "c": Limit(1.0)}).to_json()
    assert list(value) == ["bench", "machine", "figures", "targets"]
    assert value["figures"] == {"a": 1.0, "b": 3.0}
    assert value["targets"] == {"b": {"limit": 2.0, "met": False}}
    assert "cores" in value["machine"]


def test_the_figures_of_a_round() -> None:
    figures = RESULT.figures
    assert (figures["overhead_s"], figures["overhead_s_min"], figures["overhead_s_max"]) == (0.3, 0.2, 0.7)
    assert figures["wire_over_payload"] == 1.04
    assert figures["wire_over_rounds"] == 1.5
    assert figures["fold_peak_over_update"] == 3.0
    assert {name: target["met"] for name, target in RESULT.to_json()["targets"].items()} == {
        "overhead_s": True,
        "wire_over_payload": True,
        "federation_pss_gib": False,
        "secure_over_plain": True,
        "secure_extra_s": True,
        "joint_step_extra_s": True,
        "fold_peak_over_update": True,
    }
    assert figures["secure_over_plain"] == pytest.approx(1.1)
    assert figures["secure_extra_s"] == pytest.approx(0.3)
    assert figures["joint_step_extra_s"] == 0.14


@pytest.mark.parametrize("arguments", [["round", "--json"], ["round"]])
def test_the_command_exits_0_also_where_a_target_is_missed(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_round, "run", lambda: RESULT)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    if "--json" in arguments:
        assert json.loads(done.stdout) == RESULT.to_json()
    else:
        lines = {line.split()[0]: line for line in done.stdout.splitlines()[1:]}
        assert set(lines) == set(RESULT.figures)
        assert "target 2.2: NOT met" in lines["federation_pss_gib"]
        assert "target 0.6: met" in lines["overhead_s"]


def test_texts_reach_the_benchmark_that_takes_them_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[TextFile | None] = []

    def run(data: TextFile | None = None) -> Result:
        seen.append(data)
        return RESULT

    monkeypatch.setattr(bench_step, "run", run)
    assert CliRunner().invoke(app, ["step"]).exit_code == 0
    assert CliRunner().invoke(app, ["step", "--data", "a.csv", "--label", "intent"]).exit_code == 0
    assert seen == [None, TextFile(Path("a.csv"), "text", "intent")]
    done = CliRunner().invoke(app, ["ledger", "--data", "a.csv"])
    assert isinstance(done.exception, UsageError)


@pytest.mark.parametrize("name", BENCHES)
def test_every_benchmark_that_is_listed_can_be_run(name: str) -> None:
    module = cli._module(name)
    assert callable(module.run)


def test_an_unknown_benchmark_is_refused() -> None:
    done = CliRunner().invoke(app, ["nothing"])
    assert isinstance(done.exception, UsageError)


def test_a_union_counts_time_that_intervals_share_once() -> None:
    noted = [Interval(1, 5.0, 6.0), Interval(1, 0.0, 2.0), Interval(1, 1.0, 1.5), Interval(1, 1.5, 3.0)]
    assert union(noted) == 4.0


def test_a_gap_is_what_no_site_trained_in() -> None:
    noted = [
        Interval(1, 0.0, 2.0),
        Interval(1, 1.0, 3.0),
        Interval(2, 3.5, 4.0),
        Interval(2, 5.0, 6.0),
        Interval(3, 6.25, 7.0),
    ]
    assert gaps(noted) == {1: 0.5, 2: 6.25 - 3.5 - 0.5 - 1.0}
    assert lengths(noted) == {1: 3.5, 2: 6.25 - 3.5}


def test_a_moment_is_quiet_when_all_sites_train() -> None:
    noted = [
        *(Interval(1, start, 3.0 + start) for start in (0.0, 1.0, 2.0)),
        *(Interval(2, start, start + 1.0) for start in (6.0, 6.5, 7.5)),
        *(Interval(3, start, start + 1.0) for start in (9.0, 9.5)),
    ]
    assert quiet_moments(noted, 3) == {1: 2.5}


def test_steady_bytes_are_counted_between_quiet_moments() -> None:
    meter = Meter(None)
    meter._readings = [(0.0, 5_000), (1.4, 5_500), (1.6, 9_000), (3.4, 9_660), (3.6, 20_000)]
    noted = [Interval(number, number, number + 1.0) for number in (1, 2, 3) for _ in range(3)]
    assert meter.steady(noted, 1_000, 3) == (9_660 - 5_500) / 4_000
    assert meter.steady(noted[:3], 1_000, 3) is None


def test_a_timed_learner_hands_everything_on_and_notes_when_it_trained(tmp_path) -> None:
    class Learner:
        def __init__(self) -> None:
            self.kept: list[int] = []
            self.released: list[str] = []

        def train(self, model, header):
            return (model, header.round)

        def keep(self, model, round) -> None:
            self.kept.append(round)

        def release(self, model) -> None:
            self.released.append(model)

    class Header:
        round = 7

    inner = Learner()
    timed = TimedLearner(inner, tmp_path / "times")
    assert timed.train("model", Header) == ("model", 7)
    (noted,) = intervals(tmp_path / "times")
    assert noted.round == 7
    assert noted.start <= noted.end
    for number in range(9):
        timed.keep("model", number)
    timed.release("final")
    assert inner.kept == [number for number in range(9) if scored(number)] == [0, 4, 8]
    assert inner.released == ["final"]
