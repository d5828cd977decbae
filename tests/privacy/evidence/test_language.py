"""The report in each language: no word is missing, none is dead, and the numbers are the same strings."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cloister.privacy.dp.statement import HAZARDS, NOT_COVERED
from cloister.privacy.evidence import promises, reading
from cloister.privacy.evidence.evidence import Evidence
from cloister.privacy.evidence.grades import Grade
from cloister.privacy.evidence.kinds import REASONS
from cloister.privacy.evidence.language import LANGUAGES, language
from cloister.privacy.evidence.papers import documents
from cloister.privacy.evidence.render import render
from tests.privacy.evidence.test_render import CASES, Element, Page, lines, visible
from tests.reports import evidence, jointly, per_person, without_privacy

PACKAGE = Path(__file__).parents[3] / "privacy" / "evidence"
ENGLISH, CHINESE = (language(name) for name in LANGUAGES)
TERMS = frozenset(
    {
        *(
            "Cloister",
            "SIMULATION",
            "Flower",
            "NIST",
            "SP",
            "SATRE",
            "TLS",
            "SHA",
            "URL",
            "HTTP",
            "Python",
            "SR",
        ),
        *("LoRA", "RDP", "PLD", "PRV", "TF", "IDF", "Wilson", "Rényi", "NaN", "Merkle", "KiB", "MiB", "GiB"),
        *("AUC", "epsilon", "Epsilon", "delta", "Delta", "float", "pickle"),
        *("approvals", "events"),  # folders of the bundle
        *(
            "local",
            "joint",
            "off",
            "sgd",
            "fedavg",
            "adam",
            "query",
            "value",
            "record",
            "person",
        ),  # the plan's
    }
)
"""What stands in Latin letters on a Chinese page on purpose, besides ids, names and what a lead wrote."""


def page(value: dict[str, Any], name: str) -> Element:
    return _page(json.dumps(value), name)


@cache
def _page(value: str, name: str) -> Element:
    return Page(render(json.loads(value), name)).root


def spoken(root: Element, value: dict[str, Any]) -> str:
    """What is visible without codes, links to events, words of a fingerprint and what the parties named."""

    def text(element: Element) -> str:
        if element.tag in ("code", "a", "style") or element.attributes.get("lang") == "en":
            return " "
        parts = [child if isinstance(child, str) else text(child) for child in element.children]
        return " ".join([element.attributes.get("data-label", ""), *parts])

    (body,) = root.tags("body")
    found = text(body)
    plan = value["plan"]
    names = [party["name"] for party in (plan["lead"], *plan["sites"])]
    names += [site["dataset"] for site in plan["sites"]] + plan["task"]["labels"] + plan["adapter"]["targets"]
    named = (plan["purpose"], plan["consortium"], plan["base"]["name"], *names)
    named += (plan["base"]["licence"],) if "licence" in plan["base"] else ()
    named += (*(one["event"] for one in value["cited"]), *(seen["group"] for seen in value["channels"]))
    for one in sorted({*named}, key=len, reverse=True):
        found = found.replace(one, " ")
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z|…|\w+…", " ", found)


def test_every_language_says_the_same_things() -> None:
    assert ENGLISH.words.keys() == CHINESE.words.keys()
    fields, tags = r"{\w+}", r"</?\w+>"
    for key, sentence in ENGLISH.words.items():
        other = CHINESE.words[key]
        assert other.strip()
        if key != "guarantee_note_person":  # the Chinese sentence names the person itself
            assert {*re.findall(fields, other)} == {*re.findall(fields, sentence)}, key
        assert sorted(re.findall(tags, other)) == sorted(re.findall(tags, sentence)), key


def test_every_id_has_words_in_every_language() -> None:
    """A new error id needs a line in ``words/ids.zh.json``."""
    assert CHINESE.reasons.keys() >= REASONS.keys()
    assert CHINESE.hazards.keys() == HAZARDS.keys()
    assert CHINESE.uncovered.keys() == NOT_COVERED.keys()
    assert CHINESE.meaning("not_an_id") == CHINESE.words["reason_other"]


def test_no_words_are_dead() -> None:
    sources = [PACKAGE / name for name in ("render.py", "promises.py", "language.py")]
    text = "".join(path.read_text() for path in (*sources, *(PACKAGE / "templates").rglob("*.html")))
    literals = {*re.findall(r"[\"'](\w+)[\"']", text), *re.findall(r"words\.(\w+)", text)}
    starts = {*re.findall(r"[\"'](\w+_)[\"'] ~", text), *re.findall(r"f\"(\w+_){", text)} | {"h"}
    grades = {f"{grade.name.lower()}{end}" for grade in Grade for end in ("", "_means")}
    for key in ENGLISH.words:
        plain = key.removesuffix("_one")
        known = {key, plain} & (literals | grades) or any(plain.startswith(start) for start in starts)
        assert known, key


@pytest.mark.parametrize("case", CASES)
def test_no_english_is_left_on_the_chinese_page(case: str) -> None:
    value = CASES[case]()
    if case == "hostile":
        pytest.skip("what a lead wrote stays as it is")
    left = {*re.findall(r"[A-Za-zéÀ-ÿ]{2,}", spoken(page(value, "zh"), value))} - TERMS
    assert left == set()


def test_english_left_over_would_be_found() -> None:
    left = {*re.findall(r"[A-Za-z]{2,}", spoken(page(evidence(), "en"), evidence()))} - TERMS
    assert {"The", "guaranteed", "lead"} <= left


@pytest.mark.parametrize("make", [evidence, per_person, jointly, without_privacy])
def test_numbers_digests_and_grades_are_the_same(make: Any) -> None:
    pages = [page(make(), name) for name in LANGUAGES]
    for what in ("code", "a"):
        shown = [
            Counter(one.text() for one in root.tags(what) if "event" in str(one.attributes) or what == "code")
            for root in pages
        ]
        assert shown[0] == shown[1]
    figures = [Counter(re.findall(r"\d+\.\d+|\d{3,}", visible(root))) for root in pages]
    assert figures[0] == figures[1]
    words = dict(
        zip((ENGLISH.grade(grade) for grade in Grade), (CHINESE.grade(g) for g in Grade), strict=True)
    )
    said = [[line.grades() for line in lines(root)] for root in pages]
    assert [[words[one] for one in row] for row in said[0]] == [
        [one.removeprefix(CHINESE.words["grade_said"]).strip() for one in row] for row in said[1]
    ]


def test_the_language_of_a_page_is_named() -> None:
    langs = [page(evidence(), name).tags("html")[0].attributes["lang"] for name in LANGUAGES]
    assert langs == ["en-GB", "zh-CN"]


def test_the_statement_is_that_of_the_terms() -> None:
    for make in (evidence, per_person, jointly, without_privacy):
        found = reading.statement_of(Evidence.from_json(make()).plan)
        said = [
            sentence.unescape().replace("\N{NO-BREAK SPACE}", " ")
            for sentence, _ in promises.lines(found, ENGLISH)
        ]
        assert said == [*found.lines()]


def test_grades_mean_what_the_words_say() -> None:
    for grade in Grade:
        assert ENGLISH.grade(grade) == grade.word
        assert ENGLISH.words[f"{grade.name.lower()}_means"] == grade.meaning


def test_the_chinese_report_is_a_document_of_the_bundle() -> None:
    assert documents(evidence())["report.zh.html"] == render(evidence(), "zh").encode()


def test_words_stay_on_one_line() -> None:
    for name in LANGUAGES:
        path = PACKAGE / "words" / f"report.{name}.json"
        assert all("\n" not in text for text in json.loads(path.read_text(encoding="utf-8")).values())
