"""Attacks on the finished model in evidence and report: beside the claim, red above it."""

from __future__ import annotations

from typing import Any

import pytest

from cloister.privacy import canonical
from cloister.privacy.dp import tails
from cloister.privacy.errors import InputError
from cloister.privacy.evidence.evidence import Evidence, lower_bound
from cloister.privacy.evidence.extraction import shares
from cloister.privacy.evidence.papers.firstpage import page
from cloister.privacy.evidence.render import render
from tests.reports import evidence, replanned, without_privacy


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


def test_who_ran_an_attack_stands_with_the_software_that_the_plan_names_there() -> None:
    first, *others = evidence()["plan"]["sites"]
    other = canonical.digest(b"other code")
    value = replanned(sites=[first, *(site | {"code": other} for site in others)])
    shown = render(attacked(value, 100))
    assert f"Who ran it: {first['name']}, on its own data and into its own log" in shown
    assert shown.count("Who ran it") == 1
    assert f'by the digest <code class="short">{first["code"][7:19]}…</code>.' in shown
    two = attacked(value, 100)
    two["attacks"] += [two["attacks"][0] | {"site": one["name"]} for one in others[::2]]
    shown = render(two)
    assert f"Who ran it: {others[0]['name']} and {others[2]['name']}, each on its own data" in shown
    assert f'by the digest <code class="short">{other[7:19]}…</code>.' in shown
    assert "Who ran it" not in render(evidence())


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


# A model that writes


def writing(extracted: int | None, **changes: Any) -> dict[str, Any]:
    """The evidence of a model that writes, asked for the answers of 64 canaries at its first site."""
    value = replanned(task={"kind": "causal-lm", "labels": []}, canaries=64)
    if extracted is None:
        return value
    one = {
        "site": value["privacy"][0]["site"],
        "model": value["model"]["digest"],
        "commitment": canonical.digest(b"coins"),
        "trained": "30",
        "extracted": str(extracted),
        "others": "34",
        "guessed": "0",
        "before": "0",
        **shares(30, extracted, 34, 0),
        "covered": True,
    }
    return value | {"extractions": [one | changes]}


def test_what_came_out_word_for_word_is_red_and_stands_on_the_page_of_model_risk() -> None:
    shown = render(writing(30))
    assert "of 30 that it was trained on, 30 came out word for word (a share of 0.904 to 1.000" in shown
    assert shown.count('<strong class="failed">') == 2
    assert "expect the same of real ones" in shown
    assert "泄露其训练所用的虚假记录" in render(writing(30), "zh")


@pytest.mark.parametrize("extracted", [0, 1])
def test_what_chance_explains_is_not(extracted: int) -> None:
    shown = render(writing(extracted))
    assert 'class="failed"' not in shown
    assert "No more came out than by chance." in shown
    assert "it gave no more away than by chance, at 1 of 4 sites" in shown


def test_an_extraction_that_was_not_tried_is_not_known() -> None:
    shown = render(writing(None))
    assert "no extraction of canaries is recorded." in shown
    assert "Whether it gives away what it was trained on was not tried" in shown
    assert "does not apply" in render(evidence())


@pytest.mark.parametrize(
    "changes",
    [
        {"at_least": "0.000"},
        {"others_at_most": "0.000"},
        {"before": "31"},
        {"trained": "9"},
        {"site": "no"},
    ],
)
def test_an_extraction_that_contradicts_itself_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Evidence.from_json(writing(20, **changes))


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 30, 0.0, 0.0950), (30, 30, 0.9050, 1.0), (3, 20, 0.0422, 0.3437), (10, 20, 0.3020, 0.6980)],
)
def test_bounds_of_shares_are_those_of_clopper_and_pearson(
    successes: int, trials: int, low: float, high: float
) -> None:
    """One-sided at 95 %, which is two-sided at 90 %: scipy's ``binomtest(...).proportion_ci(0.9)``."""
    assert tails.share_at_least(successes, trials) == pytest.approx(low, abs=1e-4)
    assert tails.share_at_most(successes, trials) == pytest.approx(high, abs=1e-4)
