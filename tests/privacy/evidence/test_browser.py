"""The report in a real browser: nothing sticks out, it prints, and an accessibility checker finds nothing."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloister.privacy.evidence.evidence import Evidence
from cloister.privacy.evidence.papers import firstpage
from cloister.privacy.evidence.render import render
from tests.reports import evidence, jointly, per_person, with_audit, with_ledgers, with_sums, without_privacy

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine"),
]
CASES = {
    "vector": evidence,
    "person": per_person,
    "joint": jointly,
    "off": without_privacy,
    "audited": lambda: with_audit(165, 171),
    "simulation": lambda: evidence(kind="simulation"),
    "sums": lambda: with_sums() | {"ledgers": with_ledgers()["ledgers"]},
    "nothing": lambda: evidence(accuracy=None, traffic=[], channels=[], progress=[], logs=[]),
}
OVERFLOW = """() => {
  const width = document.documentElement.clientWidth;
  const wide = [...document.querySelectorAll("body *")].filter(
    (e) => !e.closest(".unseen, thead, svg") && e.getBoundingClientRect().right > width + 1);
  return [document.documentElement.scrollWidth - width, wide.map((e) => e.outerHTML.slice(0, 120))];
}"""


MISSING = """() => {
  const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
  [canvas.width, canvas.height] = [40, 40];
  const drawn = (letter) => {
    pen.clearRect(0, 0, 40, 40);
    pen.font = "24px " + getComputedStyle(document.body).fontFamily;
    pen.fillText(letter, 4, 30);
    return canvas.toDataURL();
  };
  const box = drawn("\\u0378");
  return [...new Set(document.body.innerText)].filter((letter) => drawn(letter) === box);
}"""
"""The letters of a page that look like one that no font has (U+0378 is not assigned)."""


@pytest.fixture(scope="module", name="browser")
def _browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


def opened(browser: Any, folder: Path, value: dict[str, Any], width: int, language: str = "en") -> Any:
    """The report of some evidence in a window of a width, with all network requests refused."""
    place = folder / "report.html"
    place.write_text(render(value, language), encoding="utf-8")
    page = browser.new_context(viewport={"width": width, "height": 900}, offline=True).new_page()
    page.goto(place.as_uri())
    return page


SHOWN = [
    *((case, "en") for case in CASES),
    ("vector", "zh"),
    ("audited", "zh"),
    ("sums", "zh"),
    ("nothing", "zh"),
]


@pytest.mark.parametrize(("case", "language"), SHOWN)
@pytest.mark.parametrize("width", [360, 800, 1280])
def test_nothing_is_wider_than_the_window(
    browser: Any, tmp_path: Path, case: str, language: str, width: int
) -> None:
    page = opened(browser, tmp_path, CASES[case](), width, language)
    assert page.evaluate(OVERFLOW) == [0, []]
    page.context.close()


def test_what_is_too_wide_would_be_found(browser: Any, tmp_path: Path) -> None:
    page = opened(browser, tmp_path, evidence(), 360)
    page.evaluate("document.querySelector('h1').style.width = '900px'")
    assert page.evaluate(OVERFLOW)[0] > 0
    page.context.close()


@pytest.mark.parametrize("media", ["screen", "print"])
@pytest.mark.parametrize(("case", "language"), SHOWN)
def test_an_accessibility_checker_finds_nothing(
    browser: Any, tmp_path: Path, case: str, language: str, media: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = opened(browser, tmp_path, CASES[case](), 1280, language)
    page.emulate_media(media=media)
    found = Axe().run(page).response["violations"]
    assert [(one["id"], [node["html"][:160] for node in one["nodes"]]) for one in found] == []
    page.context.close()


def test_the_accessibility_checker_would_find_a_fault(browser: Any, tmp_path: Path) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = opened(browser, tmp_path, evidence(), 1280)
    page.evaluate("document.documentElement.lang = ''")
    assert "html-has-lang" in [one["id"] for one in Axe().run(page).response["violations"]]
    page.context.close()


@pytest.mark.parametrize("case", ["vector", "simulation"])
def test_it_prints_on_paper(browser: Any, tmp_path: Path, case: str) -> None:
    page = opened(browser, tmp_path, CASES[case](), 1280)
    paper = page.pdf(prefer_css_page_size=True)
    assert paper.startswith(b"%PDF-")
    page.emulate_media(media="print")
    styles = page.evaluate(
        """() => [getComputedStyle(document.querySelector("thead")).display,
                  getComputedStyle(document.body, "::before").position,
                  getComputedStyle(document.body, "::before").content,
                  getComputedStyle(document.querySelector("#s11")).breakBefore]"""
    )
    # The head of a table repeats, and what is fixed stands on every page.
    assert styles == ["table-header-group", "fixed", '"SIMULATION"', "page"]
    page.context.close()


def picture(page: Any) -> Any:
    """What is seen, as shades of grey."""
    return np.asarray(pytest.importorskip("PIL.Image").open(io.BytesIO(page.screenshot())).convert("L"))


@pytest.mark.parametrize("media", ["screen", "print"])
@pytest.mark.parametrize(("kind", "marked"), [("simulation", True), ("demo", True), ("federation", False)])
def test_the_mark_of_a_rehearsal_is_drawn_on_every_screen_and_hides_nothing(
    browser: Any, tmp_path: Path, media: str, kind: str, marked: bool
) -> None:
    """Looked at as a picture, wherever the page is scrolled to: it stands behind the letters, not on them."""
    page = opened(browser, tmp_path, evidence(kind=kind), 1000)
    page.emulate_media(media=media)
    for place in (0, 2000, 5000):
        page.evaluate(f"window.scrollTo(0, {place})")
        whole = picture(page)
        style = page.add_style_tag(content="body::before { display: none !important; }")
        bare = picture(page)
        style.evaluate("one => one.remove()")
        assert ((whole != bare).mean() > 0.005) == marked  # a wide word covers more, a redrawn edge less
        assert ((whole < 128) != (bare < 128)).mean() < 0.001  # all ink is where it was, and no more
    behind = page.evaluate(
        """() => { const mark = getComputedStyle(document.body, "::before");
                   return [mark.position, mark.zIndex, mark.pointerEvents]; }"""
    )
    assert behind == (["fixed", "-1", "none"] if marked else ["static", "auto", "auto"])
    page.context.close()


def test_paper_does_not_darken_the_mark(browser: Any, tmp_path: Path) -> None:
    """A browser that saves ink prints light letters dark, which then hide what is in front of them."""
    for number, text in enumerate((render(evidence()), firstpage.page(Evidence.from_json(evidence()), "en"))):
        place = tmp_path / f"{number}.html"
        place.write_bytes(text if isinstance(text, bytes) else text.encode())
        page = browser.new_page()
        page.goto(place.as_uri())
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).printColorAdjust") == "exact"
        page.close()


def has_chinese() -> bool:
    found = shutil.which("fc-list")
    return bool(found and subprocess.run([found, ":lang=zh"], capture_output=True, check=True).stdout)


@pytest.mark.parametrize("language", firstpage.LANGUAGES)
def test_the_first_page_by_itself_is_as_sound(browser: Any, tmp_path: Path, language: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    place = tmp_path / "first.html"
    place.write_bytes(firstpage.page(Evidence.from_json(evidence()), language))
    page = browser.new_context(viewport={"width": 360, "height": 900}, offline=True).new_page()
    page.goto(place.as_uri())
    assert page.evaluate(OVERFLOW) == [0, []]
    assert [one["id"] for one in Axe().run(page).response["violations"]] == []
    page.context.close()


def test_every_letter_has_a_shape(browser: Any, tmp_path: Path) -> None:
    page = opened(browser, tmp_path, evidence(), 1280)
    assert page.evaluate(MISSING) == []
    page.evaluate("document.body.append('\\u0379')")
    assert page.evaluate(MISSING) == ["\u0379"]
    page.context.close()


@pytest.mark.skipif(not has_chinese(), reason="there is no Chinese font on this machine")
def test_every_chinese_letter_has_a_shape(browser: Any, tmp_path: Path) -> None:
    place = tmp_path / "first.html"
    for shown in (firstpage.page(Evidence.from_json(evidence()), "zh"), render(evidence(), "zh").encode()):
        place.write_bytes(shown)
        page = browser.new_page()
        page.goto(place.as_uri())
        assert page.evaluate(MISSING) == []
        page.close()
