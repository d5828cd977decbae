"""The first page in each language: the same facts, twelve graded sentences, nothing that runs."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from cloister.privacy.evidence.evidence import Evidence
from cloister.privacy.evidence.papers import firstpage
from tests.reports import evidence, jointly, per_person, replanned, without_privacy

CASES = {
    "vector": evidence(),
    "person": per_person(),
    "joint": jointly(),
    "off": without_privacy(),
    "nothing": evidence(rounds=[], privacy=[], traffic=[], progress=[], accuracy=None),
}


def shown(value: dict[str, Any], language: str) -> str:
    return firstpage.page(Evidence.from_json(value), language).decode()


def rows(text: str) -> list[tuple[str, str]]:
    found = re.findall(r'<tr><th scope="row">\d+</th><td>(.*?)</td><td>(.*?)</td></tr>', text)
    return [(html.unescape(sentence), grade) for sentence, grade in found]


def test_catalogues_have_the_same_keys_and_the_same_places() -> None:
    first, *others = (firstpage.words(language) for language in firstpage.LANGUAGES)
    for other in others:
        assert other.keys() == first.keys()
        for key, text in first.items():
            assert sorted(re.findall(r"{\w+}", text)) == sorted(re.findall(r"{\w+}", other[key])), key


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("language", firstpage.LANGUAGES)
def test_there_are_twelve_graded_sentences_and_epsilon_is_not_proven(case: str, language: str) -> None:
    found = rows(shown(CASES[case], language))
    words = firstpage.words(language)
    assert len(found) == 12
    assert {grade for _, grade in found} <= {
        words[name] for name in ("proven", "derived", "recorded", "declared", "not_known")
    }
    assert words["proven"] not in [grade for sentence, grade in found if "epsilon" in sentence]


@pytest.mark.parametrize("case", CASES)
def test_every_language_says_the_same_figures(case: str) -> None:
    said = [
        [(sorted(re.findall(r"\d[\d.,]*\d|\d", re.sub("50:50", "", sentence)))) for sentence, _ in rows(text)]
        for text in (shown(CASES[case], language) for language in firstpage.LANGUAGES)
    ]
    assert said[0] == said[1]


def test_nothing_runs_and_nothing_is_fetched() -> None:
    text = shown(replanned(purpose="<script>alert(1)</script>{lead}"), "zh")
    assert "<script" not in text
    assert "{lead}" in text
    assert not re.search(r"https?:|url\(|@import|src=|href=", text)


@pytest.mark.parametrize(("kind", "mark"), [("simulation", "模拟 SIMULATION"), ("federation", None)])
def test_the_kind_stands_across_the_page(kind: str, mark: str | None) -> None:
    found = re.findall(r'body::before { content: "(.*?)"', shown(evidence(kind=kind), "zh"))
    assert found == ([mark] if mark else [])
