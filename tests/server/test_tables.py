"""Plans for rows of a table: what is drafted, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloister.privacy.clauses import Dense, Rows
from cloister.privacy.consent import Offer
from cloister.privacy.errors import CloisterError, ModelError, PlanError
from cloister.privacy.identity import PrivateIdentity, Roster
from cloister.privacy.layout import dense, initial
from cloister.privacy.model import DEFAULT, BaseModel, Columns, agreed_layout, foundation
from cloister.privacy.plan import Plan
from cloister.privacy.policy.request import Known, Request
from cloister.server.analytic import Choice
from cloister.server.options import with_table
from cloister.server.proposal import draft
from cloister.server.terms import Terms
from tests import tables

CODE = "sha256:" + "c" * 64
NAMES = ("north", "south", "west", "coast")
ROSTER = Roster(
    "hospitals",
    (
        PrivateIdentity.generate("lead", "lead").public,
        *(PrivateIdentity.generate(n, "site").public for n in NAMES),
    ),
)
OFFERS = {n: Offer(site=n, dataset="rows", rows=Rows(low=128, high=255), code=CODE) for n in NAMES}
TERMS = Terms("hearts", tables.TABLE.classes, task="tabular-classification", table=tables.TABLE, secure=True)
BASE = Columns.of(tables.TABLE)


def drafted(**more: Any) -> tuple[Plan, Any]:
    return draft(replace(TERMS, **more), ROSTER, OFFERS, BASE, CODE)


@pytest.mark.parametrize("mode", ["local", "joint", "off"])
@pytest.mark.parametrize("hidden", [None, 5])
def test_a_draft_is_a_whole_plan(mode: str, hidden: int | None) -> None:
    plan, start = drafted(mode=mode, hidden=hidden)
    assert Plan.from_bytes(plan.to_bytes()) == plan
    order = agreed_layout(plan, foundation(plan, "somewhere"))
    assert order == dense(tables.TABLE.width, hidden, 2)
    np.testing.assert_array_equal(start, initial(order, plan.adapter.seed))
    assert bool(start.any()) == bool(hidden)  # else a hidden layer would never learn
    assert isinstance(plan.adapter, Dense)
    assert (b'"hidden"' in plan.to_bytes()) == bool(hidden)
    assert b'"max_tokens"' not in plan.to_bytes()
    assert plan.task.described == "classifier of rows of 4 columns with 2 classes"


def test_an_analytic_plan_is_on_the_features() -> None:
    plan, _ = drafted(mode="joint", analytic=Choice("ridge"))
    assert plan.training.analytic is not None
    assert plan.training.analytic.inputs == tables.TABLE.width


def test_a_policy_says_which_columns_may_be_learnt_from() -> None:
    plan, _ = drafted()
    known = Known(at="2026-11-28T12:00:00Z", asked="2026-11-28T12:00:00Z")
    assert Request.of(plan, "north", known).base == tables.TABLE.digest


CONFLICTS: list[tuple[dict[str, Any], str]] = [
    ({"hidden": 5, "analytic": Choice("ridge")}, "A hidden layer is trained by steps"),
    ({"canaries": 20}, "Canaries are single texts"),
    ({"factors": "up"}, "no LoRA"),
    ({"labels": ("a", "b")}, "labels are not the classes"),
    ({"hidden": 5000}, "hidden"),
]


@pytest.mark.parametrize(("more", "words"), CONFLICTS)
def test_what_does_not_go_together(more: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        drafted(**more)


def test_a_base_model_does_not_learn_a_table_nor_columns_texts() -> None:
    other = BaseModel("tiny", Path(), "sha256:" + "a" * 64)
    with pytest.raises(PlanError, match="Rows of a table are learnt from columns"):
        draft(TERMS, ROSTER, OFFERS, other, CODE)
    with pytest.raises(PlanError, match="Rows of a table are learnt from columns"):
        draft(Terms("texts", ("a", "b")), ROSTER, OFFERS, BASE, CODE)
    plan, _ = drafted()
    with pytest.raises(ModelError, match="have the digest"):
        agreed_layout(plan, other)
    for one in ("lora", "max_tokens"):
        with pytest.raises(PlanError, match="and not texts"):
            getattr(plan, one)


OPTIONS: list[tuple[dict[str, Any], Path | None, int | None, str, str]] = [
    ({}, None, 5, DEFAULT, "Add --columns FILE."),
    ({"task": "tabular-classification"}, None, None, DEFAULT, "Add --columns FILE."),
    ({"labels": ("a", "b")}, Path("columns.toml"), None, DEFAULT, "Leave out --labels."),
    ({"pair": True}, Path("columns.toml"), None, "./model", "Leave out --pair and --model."),
    ({"task": "causal-lm"}, Path("columns.toml"), None, DEFAULT, "Leave out --task."),
    ({}, Path("none.toml"), None, DEFAULT, "Give a TOML file of columns."),
]


@pytest.mark.parametrize(("more", "file", "hidden", "model", "do"), OPTIONS)
def test_options_of_a_proposal(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: dict[str, Any],
    file: Path | None,
    hidden: int | None,
    model: str,
    do: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("columns.toml").write_bytes(tables.COLUMNS)
    with pytest.raises(CloisterError) as caught:
        with_table(replace(Terms("hearts"), **more), file, hidden, model)
    assert caught.value.do == do
    terms, base = with_table(Terms("hearts"), Path("columns.toml"), 5, DEFAULT)
    assert (terms.table, terms.labels, terms.hidden, base) == (tables.TABLE, ("no", "yes"), 5, BASE)
