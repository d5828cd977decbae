"""Attacks on the finished model in evidence and report: beside the claim, red above it."""

from __future__ import annotations

from typing import Any

import pytest

from cloister.privacy import canonical
from cloister.privacy.errors import InputError
from cloister.privacy.evidence.evidence import Evidence, lower_bound
from cloister.privacy.evidence.papers.firstpage import page
from cloister.privacy.evidence.render import render
from tests.reports import evidence, without_privacy


def attacked(value: dict[str, Any], right: int, **changes: Any) -> dict[str, Any]:
    """The evidence with an attack at its first site; ``claimed`` is what that site claims."""
    stated = value["privacy"][0]
    delta = stated["delta"] or "0"
    one = {
        "site": stated["site"],
        "attack": "canaries",
        "model": value["model"]["digest"],
        "commitment": canonical.digest(b"coins"),
        "trials": "400",
        "guesses": "200",
        "correct": str(right),
        "claimed": stated["outside"] if stated.get("outside") else stated["epsilon"],
        "delta": delta,
        "bound": lower_bound(right, 200, 400, float(delta)),
        "auc": "0.61",
        "accused": "0.10",
        "found": "0.20",
        "exposure": "1.90",
        "covered": stated["epsilon"] is not None,
    }
    return value | {"attacks": [one | changes]}


def claiming(epsilon: str) -> dict[str, Any]:
    value = evidence()
    for stated in value["privacy"]:
        stated["epsilon"] = epsilon
        stated["accountants"] = {"rdp": epsilon, "pld": epsilon, "prv": None}
    return value


def test_a_bound_above_the_claim_is_red() -> None:
    shown = render(attacked(claiming("0.500"), 190))
    assert '<strong class="failed">FAILED: the claim is refuted</strong>' in shown
    assert shown.count('<strong class="failed">') == 2  # on the page of attacks, and on the decision sheet


@pytest.mark.parametrize(("opened", "grade"), [(True, "derived"), (False, "recorded")])
def test_a_row_names_its_events_and_rests_on_opened_coins(opened: bool, grade: str) -> None:
    value = attacked(claiming("0.500"), 100, opened=opened)
    site = value["privacy"][0]["site"]
    event = value["cited"][0]["event"]
    value["sources"] = [*value["sources"], {"about": f"canaries.{site}", "events": [event]}]
    shown = render(value)
    row = shown[
        shown.index(f"{site}, guessing") if f"{site}, guessing" in shown else shown.index("AUC 0.61") - 3000 :
    ]
    row = row[: row.index("AUC 0.61") + 600]
    assert f">{event}</a>" in row
    assert f'<span class="grade {grade}">' in row
    assert (f"{site} opened its canaries" in shown) == opened
    assert ("已公开其诱饵样本" in render(value, "zh")) == opened


def test_a_bound_below_the_claim_is_not() -> None:
    shown = render(attacked(claiming("0.500"), 100))
    assert 'class="failed"' not in shown
    assert "A low bound proves nothing" in shown
    assert "no membership inference is recorded" in shown


def test_without_a_claim_nothing_is_refuted() -> None:
    shown = render(attacked(without_privacy(), 200))
    assert 'class="failed"' not in shown
    assert "nothing was claimed" in shown
    assert "<strong>Not covered by epsilon:</strong> figures of these attacks" in shown


def test_attacks_that_were_not_run_are_listed() -> None:
    shown = render(evidence())
    assert "no guesses of canaries; the plan has none." in shown
    assert "no membership inference is recorded" in shown
    assert "Extraction of texts: does not apply" in shown
    assert "No attack was tried" in shown
    tried = render(attacked(evidence(), 100))
    assert "No attack was tried" not in tried


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_first_page_tells_whether_attacks_are_recorded(language: str) -> None:
    pages = [page(Evidence.from_json(value), language) for value in (evidence(), attacked(evidence(), 100))]
    assert pages[0] != pages[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"bound": "0.001"},
        {"bound": "9.000"},
        {"correct": "201"},
        {"trials": "100"},
        {"trials": "100001"},
        {"claimed": "9.000"},
        {"claimed": None},
        {"site": "nobody"},
        {"attack": "extraction"},
    ],
)
def test_evidence_that_contradicts_itself_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        Evidence.from_json(attacked(evidence(), 150, **changes))
    assert caught.value.id == "evidence_malformed"


def test_an_attack_stands_once_a_site() -> None:
    value = attacked(evidence(), 150)
    with pytest.raises(InputError):
        Evidence.from_json(value | {"attacks": value["attacks"] * 2})
