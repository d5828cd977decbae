"""The documents name every error, every command and every figure."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cloister.privacy.errors import CloisterError, PlanError, areas

ROOT = Path(__file__).parents[1]
DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_every_error_id_is_documented_with_its_meaning() -> None:
    text = (ROOT / "docs" / "errors.md").read_text()
    for area in areas():
        for reason, meaning in area.REASONS.items():
            assert f"| `{reason}` | {meaning} |" in text, f"docs/errors.md lacks {reason}; run `make docs`"


def test_error_ids_are_unique_over_all_areas() -> None:
    ids = [reason for area in areas() for reason in area.REASONS]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[a-z][a-z_]{2,39}", reason) for reason in ids)


def test_an_undeclared_id_is_a_bug() -> None:
    with pytest.raises(KeyError):
        PlanError("no_such_reason", "what")


def test_an_error_is_one_line_with_its_id() -> None:
    error: CloisterError = PlanError("plan_conflict", "Two parts disagree.", "Change one.")
    assert error.line() == "Two parts disagree. Change one. [plan_conflict]"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("path", DOCS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", DOCS, ids=lambda p: str(p.relative_to(ROOT)))
def test_words_that_promise_too_much_are_not_used(path: Path) -> None:
    found = re.findall(r"\b(compliant|anonymous|unhackable|anonymi[sz]ed)\b", path.read_text(), re.IGNORECASE)
    assert not found
