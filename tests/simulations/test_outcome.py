"""The table of a demo and the sentences below it: the unit and its absence are said, and costs are honest."""

from __future__ import annotations

from io import StringIO
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from cloister.privacy import canonical
from cloister.privacy.plan import Plan
from cloister.simulations import outcome
from cloister.simulations.baselines import Baselines, Pair
from cloister.simulations.outcome import Outcome
from tests.plans import DIGEST, persons_json, plan_json

SITES = ("north", "south")
OFF = {"mode": "off", "noise_multiplier": 0, "epsilon": 0, "delta": 0}


def log(plan: Plan, right: int | None) -> Any:
    """What a site's log says of its audit, with so many right guesses; None where it says nothing."""
    committed = {"commitment": DIGEST, "phantoms": 1000, "guesses": 200}
    result = {"commitment": DIGEST, "correct": right, "claimed": 3.0, "bound": 0.0, "delta": 1e-5}
    result["failed"] = False
    events = [
        SimpleNamespace(type=type_, job=plan.digest, body=body)
        for type_, body in (("audit.committed", committed), ("audit.result", result))
    ]
    return SimpleNamespace(log=SimpleNamespace(entries=lambda: events if right else []))


def found(value: dict[str, Any], right: tuple[int | None, int | None] = (158, 167)) -> Outcome:
    plan = Plan.from_bytes(canonical.encode(value))
    private = plan.privacy.mode == "local"
    pair = Pair(0.7, 0.6 if private else None)
    compared = Baselines(0.5, pair, dict.fromkeys(SITES, Pair(0.4, 0.3 if private else None)), None)
    if private:
        compared = Baselines(compared.tfidf, pair, compared.alone, 0.68)
    sites = {name: log(plan, guesses) for name, guesses in zip(SITES, right, strict=True)}
    run = SimpleNamespace(plan=plan, sites=sites, job=SimpleNamespace())
    return Outcome(cast(Any, run), compared, 0.55, dict.fromkeys(SITES, 0.5), 0.2, 0)


def shown(value: dict[str, Any], **changes: Any) -> str:
    file = StringIO()
    console = Console(file=file, width=200)
    for part in (outcome.table(found(value, **changes)), *outcome.reading(found(value, **changes))):
        console.print(part)
    return file.getvalue()


def off(value: dict[str, Any]) -> dict[str, Any]:
    return value | {"privacy": value["privacy"] | OFF}


def test_per_person_is_said_with_its_neighbours() -> None:
    text = shown(persons_json(SITES))
    assert "epsilon 8 per person" in text
    assert "adding or removing one person with all rows, at most 8 of which count" in text
    assert "per record" not in text


def test_per_record_is_said_and_what_it_is_not() -> None:
    text = shown(plan_json(SITES))
    assert "epsilon 8 per record" in text
    assert "per record, not per person" in text
    assert "adding or removing one row" in text


def test_the_cost_of_privacy_is_printed() -> None:
    text = shown(plan_json(SITES))
    (line,) = [line for line in text.splitlines() if "all sites, federated" in line]
    assert "68.0 %" in line
    assert "55.0 %" in line
    assert "Privacy costs the federation 13.0 points" in text
    assert "there it costs 10.0 points" in text


def test_the_audit_is_told_for_what_it_is() -> None:
    text = shown(plan_json(SITES))
    assert "pipeline lower bound 1.03 to 1.30 by site; the claim is not refuted" in text
    assert "A low bound proves nothing" in text
    assert "1 sites REFUTE" in shown(plan_json(SITES), right=(158, 200))
    assert "was not audited" in shown(plan_json(SITES), right=(158, None))


@pytest.mark.parametrize("value", [plan_json(SITES), persons_json(SITES)])
def test_without_privacy_the_figure_stands_beside_the_absence_of_a_guarantee(value: dict[str, Any]) -> None:
    text = shown(off(value))
    assert "NO PRIVACY" in text
    assert "This run has no privacy guarantee" in text
    (line,) = [line for line in text.splitlines() if "all sites, federated" in line]
    assert "55.0 %" in line
    assert "epsilon" not in text


@pytest.mark.parametrize(("value", "unit"), [(plan_json(SITES), "record"), (persons_json(SITES), "person")])
def test_the_result_has_the_unit_even_without_privacy(value: dict[str, Any], unit: str) -> None:
    run = found(off(value)).run
    assert outcome.epsilon(run, "north") == {
        "value": None,
        "delta": None,
        "unit": unit,
        "mode": "off",
        "accountants": {},
    }
