"""Robust rules: one conformance class for all of them, and jobs in which a site lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cloister.client import cli_work
from cloister.privacy import canonical
from cloister.privacy.errors import PlanError
from cloister.privacy.methods import Robust
from cloister.privacy.plan import Plan
from cloister.privacy.update import Encoded, Vector
from cloister.server.aggregation.rules import aggregate
from cloister.server.checkpoint import Checkpoint
from tests.parties import Consortium
from tests.plans import plan, plan_json
from tests.server.test_sums import FOUR, OFF, SECURE

pytestmark = pytest.mark.job

KINDS = ("trimmed-mean", "median", "multi-krum")
SOME = st.floats(-4, 4, width=32)


def updates(number: int) -> st.SearchStrategy[Vector]:
    return arrays(np.float32, (number, 3), elements=SOME)


class Rule:
    """What every rule promises."""

    kind: Any

    def rule(self, liars: int) -> Robust:
        return Robust(kind=self.kind, liars=liars)

    def test_updates_that_agree_are_the_result(self) -> None:
        one = np.array([0.1, -3.7, 0], np.float32)
        np.testing.assert_allclose(aggregate(self.rule(1), np.tile(one, (5, 1))), one, rtol=1e-6)

    def test_too_few_updates_are_no_question(self) -> None:
        with pytest.raises(ValueError, match="needs"):
            aggregate(self.rule(2), np.zeros((self.rule(2).fewest - 1, 3), np.float32))


class TestTrimmedMean(Rule):
    kind = "trimmed-mean"

    def test_by_hand(self) -> None:
        values = np.array([[1], [100], [2], [-50], [6]], np.float32)
        assert aggregate(self.rule(1), values).tolist() == [3.0]
        assert aggregate(self.rule(2), values).tolist() == [2.0]


class TestMedian(Rule):
    kind = "median"

    def test_by_hand(self) -> None:
        values = np.array([[1, 0], [100, 1], [2, 2], [-50, 3]], np.float32)
        assert aggregate(self.rule(1), values).tolist() == [1.5, 1.5]


class TestMultiKrum(Rule):
    kind = "multi-krum"

    def test_by_hand(self) -> None:
        # Scores by the two nearest: 0: 1+4, 1: 1+1, 2: 1+4, 7: 25+36, 40: the rest; 40 is left out.
        values = np.array([[0], [1], [40], [2], [7]], np.float32)
        assert aggregate(self.rule(1), values).tolist() == [2.5]

    def test_of_two_that_score_the_same_the_values_decide(self) -> None:
        values = np.array([[-3], [-1], [0], [1], [3]], np.float32)  # -3 and 3 score the same
        assert aggregate(self.rule(1), values).tolist() == aggregate(self.rule(1), values[::-1]).tolist()


# Laws


@pytest.mark.parametrize("kind", KINDS)
@given(st.data(), st.integers(1, 2), st.integers(0, 3))
def test_the_order_of_updates_does_not_matter(kind: Any, data: Any, liars: int, more: int) -> None:
    rule = Robust(kind=kind, liars=liars)
    found = data.draw(updates(rule.fewest + more))
    order = data.draw(st.permutations(range(len(found))))
    np.testing.assert_array_equal(aggregate(rule, found), aggregate(rule, found[list(order)]))


@pytest.mark.parametrize("kind", KINDS)
@given(st.data(), st.integers(1, 2), st.integers(0, 3))
def test_liars_cannot_move_it_far_from_the_honest(kind: Any, data: Any, liars: int, more: int) -> None:
    """No further than the honest values; with Multi-Krum, than its own bound beyond them."""
    rule = Robust(kind=kind, liars=liars)
    number = rule.fewest + more
    honest = data.draw(updates(number - liars))
    lies = data.draw(arrays(np.float32, (liars, 3), elements=st.floats(-1e6, 1e6, width=32)))
    found = aggregate(rule, np.concatenate([honest, lies]))
    apart = max(float(np.linalg.norm(one - other)) for one in honest for other in honest)
    slack = 1e-5 + ((number - liars - 2) ** 0.5 * apart if kind == "multi-krum" else 0.0)
    assert (found >= honest.min(axis=0) - slack).all()
    assert (found <= honest.max(axis=0) + slack).all()


# In a job

SIX = ("north", "south", "west", "coast", "hill", "lake")


def consortium(folder: Path, kind: str | None, **changes: Any) -> Consortium:
    folder.mkdir(exist_ok=True)
    how: dict[str, Any] = {"secure": False, "minimum_sites": 5, "range": 4.0}
    if kind:
        how["robust"] = {"kind": kind, "liars": 1}
    return Consortium(folder, SIX, **({"aggregation": how, "privacy": OFF} | changes))


def lies(found: Consortium, name: str, words: list[int] | bytes) -> Checkpoint:
    """The end of a run in which one site sends something of its own."""
    content = words if isinstance(words, bytes) else np.array(words, "<i4").tobytes()
    found.sites[name]._update = lambda *_: Encoded(content, ())  # type: ignore[method-assign]
    return found.federation().run(found.grid())


@pytest.mark.slow
@pytest.mark.parametrize("kind", [None, *KINDS])
def test_one_that_lies_moves_a_robust_job_no_further_than_the_honest_go(
    tmp_path: Path, kind: str | None
) -> None:
    """The honest go half way from 0 to 1, 2, 3, 4 and 5, then half of what is left."""
    found = consortium(tmp_path, kind)
    end = lies(found, "lake", [found.plan.ring.limit] * 5)
    assert end.round == found.plan.training.rounds
    assert end.excluded == {}  # within the range a lie is an update like any other
    assert (end.model > 5).all() == (kind is None)
    if kind:
        assert ((end.model > 0.75) & (end.model < 3.75)).all()


@pytest.mark.parametrize("content", [np.full(5, np.nan, "<f4").tobytes(), b"\x7f" * 20, b"", bytes(16)])
def test_what_is_no_update_is_refused_and_the_round_goes_on(tmp_path: Path, content: bytes) -> None:
    """NaN is an integer beyond the range."""
    found = consortium(tmp_path, "median", training=plan_json()["training"] | {"rounds": 1})
    end = lies(found, "lake", content)
    assert set(end.excluded) == {"lake"}
    assert np.isfinite(end.model).all()
    np.testing.assert_allclose(end.model, 1.5, rtol=1e-5)  # the median of 1 to 5, half way


def test_with_noise_of_its_own_a_site_is_charged_as_ever(tmp_path: Path) -> None:
    found = consortium(tmp_path, "trimmed-mean", privacy=plan_json()["privacy"])
    found.federation().run(found.grid())
    for site in found.sites.values():
        kinds = [row.kind for row in site.ledger.rows("notes")]
        assert kinds == ["reserved", "spent", "released"] * found.plan.training.rounds


def test_a_site_is_told_before_it_approves(tmp_path: Path) -> None:
    told = cli_work._terms(plan(SIX, aggregation=aggregation("median", 1, 5)))
    assert "fedavg, median against 1 that lie" in told
    assert "the server can see every single update" in told


def aggregation(kind: str, liars: int, minimum: int) -> dict[str, Any]:
    return {
        "secure": False,
        "minimum_sites": minimum,
        "range": 4.0,
        "robust": {"kind": kind, "liars": liars},
    }


class TestPlan:
    """What a plan may say of a rule."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_it_survives_the_bytes_and_is_named(self, kind: str) -> None:
        data = canonical.encode(plan_json(SIX, aggregation=aggregation(kind, 1, 5)))
        found = Plan.from_bytes(data)
        assert found.to_bytes() == data
        assert found.method == f"fedavg, {kind.replace('-', ' ')} against 1 that lie"

    def test_without_it_the_bytes_say_nothing(self) -> None:
        assert b"robust" not in plan().to_bytes()

    @pytest.mark.parametrize(
        ("kind", "liars", "minimum"), [("median", 1, 2), ("trimmed-mean", 2, 4), ("multi-krum", 1, 4)]
    )
    def test_too_few_sites_for_so_many_liars_are_refused(self, kind: str, liars: int, minimum: int) -> None:
        self.refused(plan_json(SIX, aggregation=aggregation(kind, liars, minimum)), "a round may have")
        Plan.from_bytes(canonical.encode(plan_json(SIX, aggregation=aggregation(kind, liars, minimum + 1))))

    @pytest.mark.parametrize("mode", ["local", "joint"])
    def test_secure_aggregation_refuses_it_and_says_why(self, mode: str) -> None:
        how = SECURE | {"robust": {"kind": "median", "liars": 1}}
        training = plan_json()["training"] | {"steps": 1}
        value = plan_json(
            FOUR, aggregation=how, training=training, privacy=plan_json()["privacy"] | {"mode": mode}
        )
        self.refused(value, "opens nothing but their sum")

    @pytest.mark.parametrize("broken", [None, {"kind": "bulyan", "liars": 1}, {"kind": "median", "liars": 0}])
    def test_another_is_refused(self, broken: Any) -> None:
        how = aggregation("median", 1, 5) | {"robust": broken}
        self.refused(plan_json(SIX, aggregation=how), "The plan")

    @staticmethod
    def refused(value: dict[str, Any], says: str) -> None:
        with pytest.raises(PlanError, match=says) as caught:
            Plan.from_bytes(canonical.encode(value))
        assert caught.value.id == "plan_malformed"
