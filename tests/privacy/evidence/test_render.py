"""The report: every line graded, nothing remote, nothing executable, honest words, the same bytes twice."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cloister.privacy.errors import InputError
from cloister.privacy.evidence import render as module
from cloister.privacy.evidence.grades import Grade
from cloister.privacy.evidence.language import language
from cloister.privacy.evidence.render import render
from tests.reports import (
    SECURE,
    VECTOR,
    audit,
    evidence,
    jointly,
    licensed,
    per_person,
    replanned,
    with_audit,
    with_ledgers,
    with_sums,
    without_privacy,
)

ROOT = Path(__file__).parents[3]
VOID = {"meta", "br", "line", "circle", "path", "rect"}
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;</style>"
WORDS = [grade.word for grade in Grade]


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        return self.attributes.get("class", "").split()

    @cached_property
    def elements(self) -> list[Element]:
        """This one and all below it, as they are read; of a page that is whole."""
        below = [child for child in self.children if isinstance(child, Element)]
        return [self, *(found for child in below for found in child.elements)]

    def all(self, wanted: Callable[[Element], bool]) -> list[Element]:
        return list(filter(wanted, self.elements))

    def tags(self, *names: str) -> list[Element]:
        return self.all(lambda element: element.tag in names)

    def text(self) -> str:
        """What is read out: texts, and the labels of cells."""
        parts = [child if isinstance(child, str) else child.text() for child in self.children]
        return " ".join(" ".join([self.attributes.get("data-label", ""), *parts]).split())

    def grades(self) -> list[str]:
        found = self.all(lambda element: "grade" in element.classes)
        return [element.text().removeprefix("Grade: ") for element in found]


class Page(HTMLParser):
    """A strict reader: every element that is opened is closed, in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.root = Element("", {})
        self._open = [self.root]
        self.feed(html)
        self.close()
        assert self._open == [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self._open[-1].children.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)


def page(value: dict[str, Any]) -> Element:
    """The page of some evidence; the same evidence is rendered once for all that is asked of it."""
    return _page(json.dumps(value))


@cache
def _page(value: str) -> Element:
    return Page(render(json.loads(value))).root


def visible(root: Element) -> str:
    (body,) = root.tags("body")
    return body.text()


def section(root: Element, number: int) -> Element:
    return next(s for s in root.tags("section") if s.attributes["id"] == f"s{number}")


def lines(root: Element) -> list[Element]:
    """Everything that states something: lines, facts, table rows, the banner."""
    rows = [row for body in root.tags("tbody") for row in body.tags("tr")]
    return root.all(lambda element: bool({"line", "banner"} & set(element.classes))) + rows


def with_many_sites() -> dict[str, Any]:
    """Twelve sites, the vector's four and copies of the last."""
    value = evidence()
    plan = value["plan"]
    names = [f"copy-{number}" for number in range(8)]
    last = plan["sites"][-1]
    value = replanned(sites=plan["sites"] + [last | {"name": name} for name in names])
    value["parties"] += [value["parties"][-1] | {"name": name} for name in names]
    for part, key in (("privacy", "site"), ("traffic", "site"), ("channels", "site")):
        value[part] += [value[part][-1] | {key: name} for name in names]
    value["accuracy"]["sites"] += [value["accuracy"]["sites"][-1] | {"name": name} for name in names]
    value["progress"] += [
        point | {"site": name}
        for name in names
        for point in evidence()["progress"]
        if point["site"] == "town-hospital"
    ]
    for done in value["rounds"]:
        done["lost"] += [{"site": name, "reason": "deadline"} for name in names]
    return value


def older() -> dict[str, Any]:
    """Evidence from before it said how units were drawn, where noise came from, and what data and software
    there were."""
    value = evidence()
    del value["datasets"], value["software"]
    value["privacy"] = [
        {name: said for name, said in stated.items() if name not in ("sampler", "entropy")}
        for stated in value["privacy"]
    ]
    return value


def with_nothing() -> dict[str, Any]:
    """A run in which nothing happened and nothing was measured."""
    lists = ("rounds", "privacy", "traffic", "channels", "progress", "logs")
    return evidence(**{name: [] for name in lists}, accuracy=None, peak_memory=None)


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "demo": evidence,
    "federation": lambda: evidence(kind="federation"),
    "simulation": lambda: evidence(kind="simulation", channels=[]),
    "without privacy": without_privacy,
    "joint": jointly,
    "without accuracy": lambda: evidence(accuracy=None),
    "head only": lambda: replanned(adapter=evidence()["plan"]["adapter"] | {"top_layers": 0}),
    "many sites": with_many_sites,
    "nothing": with_nothing,
    "audited": lambda: with_audit(165, 171),
    "refuted": lambda: with_audit(200, claimed="3.000"),
    "licensed": licensed,
    "older": lambda: older(),
    "secure": lambda: replanned(aggregation=SECURE),
    "summed": with_sums,
    "ledgers": with_ledgers,
    "hostile": lambda: replanned(purpose=HOSTILE),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def value(request: pytest.FixtureRequest) -> dict[str, Any]:
    made: dict[str, Any] = request.param()
    return made


def test_every_line_has_one_grade(value: dict[str, Any]) -> None:
    found = lines(page(value))
    assert len(found) > 40
    for line in found:
        (word,) = line.grades()
        assert word in WORDS


def test_nothing_is_stated_outside_lines(value: dict[str, Any]) -> None:
    (main,) = page(value).tags("main")
    for paragraph in main.tags("p"):
        assert paragraph.classes == ["note"]
        assert not paragraph.grades()
    stated = main.all(lambda element: element.tag in ("li", "dd") and "line" not in element.classes)
    inside = {id(dd) for fact in main.all(lambda e: "fact" in e.classes) for dd in fact.tags("dd")}
    assert all(id(element) in inside for element in stated)


def test_epsilon_is_never_proven(value: dict[str, Any]) -> None:
    about = [line for line in lines(page(value)) if re.search("epsilon|ε", line.text(), re.IGNORECASE)]
    assert about
    assert Grade.PROVEN.word not in [word for line in about for word in line.grades()]


def test_a_guarantee_is_derived() -> None:
    rows = section(page(evidence()), 3).tags("tbody")[0].tags("tr")
    assert [row.grades() for row in rows] == [["Derived"]] * 4


def test_words_that_promise_too_much_are_not_used(value: dict[str, Any]) -> None:
    assert not re.search(r"complian|anonym|unhackable|unbreakable", visible(page(value)), re.IGNORECASE)


def test_nothing_runs_and_nothing_is_fetched(value: dict[str, Any]) -> None:
    root = page(value)
    assert not root.tags("script", "link", "img", "iframe", "object", "embed", "form", "base", "use", "image")
    everything = root.all(lambda _: True)
    names = Counter(name for element in everything for name in element.attributes)
    assert not [
        name for name in names if name.startswith("on") or name in ("src", "style", "srcset", "action")
    ]
    assert all(re.match("#(s|event-)", element.attributes["href"]) for element in root.tags("a"))
    (style,) = root.tags("style")
    assert not re.search(r"url\(|@import|@font-face|expression", style.text())
    assert "http" not in render(evidence())


def test_the_same_evidence_gives_the_same_bytes() -> None:
    chosen = [CASES[name] for name in sorted(CASES)[::6]]
    first = [render(case()) for case in chosen]
    module._template.cache_clear()
    assert [render(case()) for case in chosen] == first


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_process() -> None:
    script = (
        "import json, sys; from cloister.privacy.evidence.render import render;"
        "sys.stdout.buffer.write(render(json.load(open(sys.argv[1], encoding='utf-8'))).encode())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script, str(VECTOR)],
            capture_output=True,
            check=True,
            cwd=ROOT / ".links",
            env={"PYTHONHASHSEED": seed, "LC_ALL": "C"},
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {render(evidence()).encode()}


def test_hostile_text_is_text() -> None:
    terms = evidence()["plan"]
    value = replanned(
        purpose=HOSTILE,
        base=terms["base"] | {"name": HOSTILE},
        task=terms["task"] | {"labels": [HOSTILE, "b"]},
        adapter=terms["adapter"] | {"targets": [HOSTILE]},
    )
    value["model"]["base"] = HOSTILE
    root = page(value)
    assert not root.tags("script", "img")
    assert root.tags("h1")[0].text() == HOSTILE
    assert visible(root).count(HOSTILE) >= 5


def test_it_can_be_read_by_a_screen_reader(value: dict[str, Any]) -> None:
    root = page(value)
    assert root.tags("html")[0].attributes["lang"] == "en-GB"
    assert len(root.tags("h1")) == len(root.tags("main")) == len(root.tags("title")) - len(root.tags("svg"))
    levels = [int(heading.tag[1]) for heading in root.tags("h1", "h2", "h3")]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [element.attributes["id"] for element in root.all(lambda element: "id" in element.attributes)]
    assert len(ids) == len(set(ids))
    named = root.all(lambda element: "aria-labelledby" in element.attributes)
    assert {name for element in named for name in element.attributes["aria-labelledby"].split()} <= set(ids)
    for picture in root.tags("svg"):
        assert picture.attributes["role"] == "img"
        assert picture in named
    for table in root.tags("table"):
        width = len(table.tags("thead")[0].tags("th"))
        assert table.tags("caption")
        assert all(len(row.tags("th", "td")) == width for row in table.tags("tr"))


def test_links_lead_to_every_section(value: dict[str, Any]) -> None:
    root = page(value)
    (contents,) = root.tags("nav")
    assert [a.attributes["href"] for a in contents.tags("a")] == [
        "#" + s.attributes["id"] for s in root.tags("section")
    ]


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_stands_out_from_the_paper() -> None:
    """At least 4.5 to 1, as WCAG 2 asks at level AA."""
    css = page(evidence()).tags("style")[0].text()
    colours = dict(re.findall(r"--(ink|soft|accent|faint): (#[0-9a-f]{6});", css))
    assert len(colours) == 4
    pairs = [("ink", "#ffffff"), ("soft", "#ffffff"), ("accent", "#ffffff"), ("ink", colours["faint"])]
    for text, paper in pairs:
        light, dark = luminance(paper), luminance(colours[text])
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_the_first_page_answers_the_privacy_officer() -> None:
    root = page(evidence())
    text = section(root, 1).text()
    for said in (
        "valley-trust , and 4 sites: hill-clinic, lake-hospital, river-practice and town-hospital",
        "hill-clinic sent the lead 926.11 KiB in sealed messages and received 1.02 MiB",
        "an epsilon of at most 7.99 at a delta of 0.00001",
        "record-level, not person-level",
        "can be right at most 99.97 % of the time",
        "Secure aggregation is not on",
        "lake-hospital was refused in round 3: a value of an update is beyond the range of the plan",
        "river-practice was lost in rounds 6–8: a site went away and did not come back in time",
    ):
        assert said in text
    assert section(root, 3).tags("h2")[0].text().endswith("record-level, not person-level")


def test_a_person_is_promised_all_its_rows() -> None:
    root = page(per_person(most_rows=5))
    first, third = section(root, 1).text(), section(root, 3)
    assert third.tags("h2")[0].text().endswith("person-level")
    for said in (
        "To every person at every site",
        "as if that one person’s rows had not been used",
        "all rows of one person at a site together, of which at most 5 are used",
        "whether a given person’s rows were used can be right at most 99.97 % of the time",
        "of 64–127 persons",
    ):
        assert said in first
    for said in (
        "one person added to or removed from the site’s data with all rows that count",
        "neighbouring datasets differ by one person, added or removed with all rows. At most 5 rows",
        "clips each person’s summed gradient to the bound",
    ):
        assert said in third.text()
    whole = root.text()
    assert "per person; what came of it" in whole
    for weaker in ("record-level", "one record", "per record", "a given record"):
        assert weaker not in whole


def test_a_joint_run_says_whose_noise_protects_whom() -> None:
    root = page(jointly())
    first, third = section(root, 1).text(), section(root, 3).text()
    for said in (
        "with the site’s share of the noise",
        "up to 1 of the other sites acting together with them",
        "provided that secure aggregation held",
    ):
        assert said in first
    for said in (
        "adds a share of exact discrete Gaussian noise",
        "the fewest shares a sum may hold, 3, less 1 for sites that collude",
        "epsilon is smaller: hill-clinic 5.120",
        "By itself, a site’s share of the noise is less than the plan promises",
    ):
        assert said in third
    local = page(evidence()).text()
    for only_joint in ("share of the noise", "acting together", "one noise"):
        assert only_joint not in local
    assert "add up" in local
    assert "add up" not in root.text()


def test_a_record_is_promised_no_more() -> None:
    whole = page(evidence()).text()
    for said in ("neighbouring datasets differ by one record", "per record; what came of it"):
        assert said in whole
    for stronger in ("per person", "one person’s", "every person"):
        assert stronger not in whole


def test_an_audit_says_what_it_found_and_what_it_cannot_see() -> None:
    third = section(page(with_audit(165, 171)), 3).text()
    bound = audit(165)["bound"]
    for said in (
        "Pipeline lower bound",
        "165 of 200",
        bound,
        "not refuted",
        "river-practice: no audit of its pipeline is recorded",
        "whether gradients are right",
        "it cannot exceed 4.1",
    ):
        assert said in third
    assert "FAILED" not in third


def test_a_refuted_claim_is_said_to_have_failed() -> None:
    assert "FAILED: the claim is refuted" in section(page(with_audit(200, claimed="3.000")), 3).text()


def test_more_rows_and_more_sites_have_figures_of_their_own() -> None:
    third = section(page(evidence()), 3).text()
    for said in (
        "somebody with 2 records at one site, epsilon is at most",
        "a record that 3 sites of this job hold",
    ):
        assert said in third
    assert "records at one site, epsilon" not in section(page(per_person()), 3).text()


def test_the_statement_names_what_was_not_checked() -> None:
    third = section(page(evidence()), 3).text()
    assert "Statement after NIST SP 800-226" in third
    assert "Not checked: that the low bits" in third
    assert "Not covered: when an answer comes" in third


def test_secure_aggregation_is_said_with_its_limits() -> None:
    root = page(replanned(aggregation=SECURE))
    first, limits = section(root, 1).text(), section(root, 9).text()
    assert "could open nothing but their sum over at least 3 sites, unless more than 1 site" in first
    assert "The lead adds them up and opens the sum" in first
    assert "can see every single update" not in root.text()
    assert "nobody outside the project has reviewed it" in limits
    assert "3 survivors sign a survivor set" in section(root, 8).text()


def test_a_bound_is_rounded_up() -> None:
    assert module.ceiling(0.731059) == "73.11\N{NO-BREAK SPACE}%"
    assert module.ceiling(0.5) == "50.00\N{NO-BREAK SPACE}%"
    assert module.ceiling(0.99999) == "100.00\N{NO-BREAK SPACE}%"


def test_without_privacy_nothing_is_promised() -> None:
    root = page(without_privacy())
    assert "Nothing is guaranteed." in section(root, 1).text()
    assert "every single update exactly" in section(root, 1).text()
    assert section(root, 3).tags("h2")[0].text().endswith("none")
    assert not section(root, 3).tags("table", "svg")


def test_a_plan_with_privacy_and_no_updates_says_so() -> None:
    text = section(page(with_nothing()), 1).text()
    assert "No site let anything out in this job" in text
    assert "Nothing is guaranteed" not in text


def test_where_federated_does_not_win_it_is_said() -> None:
    text = section(page(evidence()), 7).text()
    assert "Federated, 77.6 %, does not beat word counts with a linear classifier (TF-IDF)" in text
    assert "At lake-hospital, federated does not beat the same model trained at that site alone" in text
    assert "At hill-clinic and town-hospital, federated is ahead of" in text
    assert "Not covered by epsilon:" in text


def test_where_federated_wins_it_is_said_too() -> None:
    value = evidence(accuracy=evidence()["accuracy"] | {"tfidf": 0.6})
    text = section(page(value), 7).text()
    assert "Federated, 77.6 %, beats word counts" in text


def test_without_accuracy_it_is_not_known() -> None:
    found = section(page(evidence(accuracy=None)), 7)
    assert found.tags("li")[0].grades() == ["Not known"]
    assert "does not beat" not in found.text()


def test_the_plots_are_there() -> None:
    root = page(evidence())
    (epsilons,) = section(root, 3).tags("svg")
    assert [text.text() for text in epsilons.tags("text")] == [
        *("0", "2", "4", "6", "8", "10"),
        *map(str, range(1, 9)),
        *("round", "smallest budget 10", "3 sites", "river-practice"),
    ]
    assert "80 %" in [text.text() for text in section(root, 7).tags("svg")[0].tags("text")]
    assert len(section(root, 7).tags("svg")) == 2
    assert len(section(root, 7).tags("rect")) == 4 + 2 * 4


def test_many_sites_are_listed_in_tables_only() -> None:
    root = page(with_many_sites())
    assert "copy-3" not in " ".join(line.text() for line in section(root, 1).tags("li")[:5])
    assert "2 more are listed in section 4." in section(root, 1).text()
    assert section(root, 1).text().count("copy-") == section(root, 1).text().count("was lost in rounds 1–8")
    assert len(section(root, 5).tags("tbody")[0].tags("tr")) == 12
    assert len(section(root, 7).tags("rect")) == 4


@pytest.mark.parametrize(
    "said",
    [
        "the lead’s server can see the update of each site",
        "A site can misstate its data, its noise or its code",
        "metrics, timing, participation, message sizes and row bands",
        "Nobody outside the project has reviewed",
        "If all parties agree to it, every log can be forged, unless somebody outside holds a head of one",
        "What nobody wrote down cannot be found either",
        "the time of day is only what its clock said",
        "The mapping to laws and standards in the bundle has a date",
        "are words of whoever made the report",
        "It is written from evidence that travels in a bundle; section 14 has the command that checks it",
        "no legal advice, no certificate",
        "is not taken out of models that exist already",
    ],
)
def test_the_limits_are_printed(said: str) -> None:
    assert said in section(page(evidence()), 9).text()


@pytest.mark.parametrize(
    ("kind", "said"), [("simulation", "no evidence about any"), ("demo", "on one machine")]
)
def test_what_is_no_federation_says_so_on_top(kind: str, said: str) -> None:
    (banner,) = page(evidence(kind=kind)).all(lambda element: "banner" in element.classes)
    assert said in banner.text()
    assert not page(evidence(kind="federation")).all(lambda element: "banner" in element.classes)


def test_evidence_that_contradicts_itself_is_not_rendered() -> None:
    with pytest.raises(InputError) as caught:
        render(evidence(purpose="another"))
    assert caught.value.id == "evidence_malformed"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("0", "0 bytes"),
        ("1023", "1023 bytes"),
        ("1024", "1.00 KiB"),
        ("1572864", "1.50 MiB"),
        ("9" * 15, "909.49 TiB"),
    ],
)
def test_sizes(number: str, text: str) -> None:
    assert language("en").size(number) == text.replace(" ", "\N{NO-BREAK SPACE}")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [("0.2", "under 1_s"), ("59.6", "1_min"), ("143.2", "2_min 23_s"), ("7260", "2_h 1_min")],
)
def test_durations(seconds: str, text: str) -> None:
    assert language("en").duration(seconds) == text.replace("_", "\N{NO-BREAK SPACE}")


def test_numbers_without_exponents() -> None:
    assert [module.decimal(text) for text in ("1e-05", "0.5", "3e-10")] == ["0.00001", "0.5", "0.0000000003"]


@pytest.mark.parametrize("project", [ROOT, ROOT / "packaging" / "verify"], ids=["cloister", "verifier"])
def test_the_wheel_would_carry_the_templates(project: Path) -> None:
    told = tomllib.loads((project / "pyproject.toml").read_text())
    patterns = told["tool"]["setuptools"]["package-data"]["*"]
    package = ROOT / "privacy" / "evidence"
    carried = {path for pattern in patterns for path in package.glob(pattern)}
    carried |= {path for pattern in patterns for path in (package / "papers").glob(pattern)}
    assert {*package.rglob("*.html"), *package.rglob("*.json")} <= carried
    assert package / "templates" / "report-1.html" in carried


def test_the_cover_prints_the_command_that_checks_and_no_verdict() -> None:
    (header,) = page(evidence()).tags("header")
    assert "cloister verify BUNDLE --trust KEYS" in header.text()
    assert not re.search(r"\b(verified|passed|valid)\b", header.text(), re.IGNORECASE)


def test_the_first_page_has_the_odds_of_whoever_is_there_more_than_once() -> None:
    text = section(page(evidence()), 1).text()
    found = dict(re.findall(r"(with \d records|at \d sites)(?: at one site)? at most ([\d.]+)", text))
    assert [*found] == ["with 2 records", "with 4 records", "with 8 records", "at 2 sites", "at 3 sites"]
    one = float(re.findall(r"can be right at most ([\d.]+)", text)[0])
    assert one < float(found["at 2 sites"]) <= float(found["at 3 sites"])
    assert "records at one site" not in section(page(per_person()), 1).text()


def test_the_ledger_page_says_what_was_charged_and_where_the_ledger_stood() -> None:
    rows = section(page(evidence()), 10).tags("tbody")[0].tags("tr")
    assert len(rows) == 4
    assert "epsilon 6.31" in rows[2].text()
    reached = {p["site"]: p["epsilon"] for p in evidence()["progress"] if p["epsilon"]}
    for row, total in zip(rows, reached.values(), strict=True):
        (said,) = re.findall(r"Ledger ([\d.]+)", row.text())
        assert total <= float(said) < total + 0.001
    unknown = section(page(evidence(progress=[])), 10).tags("tbody")[0].tags("tr")
    assert all("Ledger not known" in row.text() for row in unknown)
    assert "Nothing was charged" in section(page(without_privacy()), 10).text()


def test_every_round_has_a_bar_as_high_as_its_survivors_are_many() -> None:
    bars = section(page(evidence()), 10).tags("rect")
    full, less = "110.0", "82.5"
    heights = [bar.attributes["height"] for bar in bars]
    assert heights == [full, full, less, full, full, less, less, less]


def test_secure_aggregation_names_its_smallest_sum() -> None:
    text = section(page(replanned(aggregation=SECURE)), 10).text()
    assert "The smallest sum that was opened holds 3 sites" in text
    assert "Secure aggregation is off" in section(page(evidence()), 10).text()


def test_the_egress_sheet_leaves_the_decision_to_people() -> None:
    rows = section(page(with_audit(200, claimed="3.000")), 11).tags("tbody")[0].tags("tr")
    said = {row.tags("th")[0].text(): (row.text(), row.grades()) for row in rows}
    assert said["Decision"][1] == ["Not known"]
    assert said["Was the finished model attacked?"][1] == ["Not known"]
    assert "a claim failed" in said["Was the pipeline audited?"][0]
    assert said["Could the lead see single updates?"][1] == ["Proven"]
    assert said["Limit on what it tells"][1] == ["Derived"]


def test_figures_on_few_test_records_are_held_back() -> None:
    value = evidence()
    for site, rows in zip(value["accuracy"]["sites"], ("9", "10", "1200", None), strict=True):
        site["test_rows"] = rows
    rows = section(page(value), 7).tags("tbody")[0].tags("tr")
    assert [row.text().count("held back") for row in rows] == [3, 0, 0, 0]
    assert "95 %" not in rows[0].text()
    assert "95 %: " in rows[1].text()


@pytest.mark.parametrize(
    ("kind", "word"), [("simulation", "SIMULATION"), ("demo", "SIMULATION"), ("federation", None)]
)
def test_what_it_is_the_plan_says(kind: str, word: str | None) -> None:
    assert word is None or word in render(evidence(kind=kind))
    with pytest.raises(InputError, match="rehearsal"):
        render(evidence(kind=kind) | {"kind": "demo" if kind != "demo" else "federation"})


@pytest.mark.parametrize(
    ("kind", "word"), [("simulation", "SIMULATION"), ("demo", "SIMULATION"), ("federation", None)]
)
def test_what_is_no_federation_says_so_across_every_page(kind: str, word: str | None) -> None:
    css = page(evidence(kind=kind)).tags("style")[0].text()
    assert re.findall(r'body::before { content: "(\w+)"; position: fixed', css) == ([word] if word else [])
    assert re.findall(r'@top-right { content: "(\w+)"', css) == ([word] if word else [])


def test_what_was_not_tested_is_not_known() -> None:
    assert {*section(page(evidence()), 13).grades()} == {"Not known"}


def _ends() -> dict[str, Any]:
    """The evidence of a run whose first two sites wrote down their ends, the second another one."""
    value = evidence()
    own = ("tls", "group", "site_certificate", "lead_certificate")
    first, second = value["channels"][:2]
    first["seen_at_site"] = {name: first[name] for name in own}
    first["flower"] = first["seen_at_site"] | {"group": "not-seen"}
    second["seen_at_site"] = {name: second[name] for name in own} | {"group": "X25519"}
    return value


def test_the_key_that_messages_are_sealed_for_stands_with_its_party() -> None:
    value = evidence()
    rows = section(page(value), 6).tags("tbody")[1].tags("tr")
    for row, party in zip(rows, value["parties"], strict=True):
        assert row.tags("th")[0].text().startswith(party["name"])
        assert party["sealing"] in row.text()
        assert row.grades() == ["Proven"]


def test_an_audit_says_who_ran_it() -> None:
    (said,) = [line for line in lines(page(with_audit(165, 171))) if "Who ran it" in line.text()]
    assert "hill-clinic and lake-hospital, each on its own data" in said.text()
    assert said.grades() == ["Recorded"]
    assert "Who ran it" not in page(evidence()).text()


def test_a_connection_stands_as_both_ends_saw_it_or_is_not_known() -> None:
    value = _ends()
    first, second, third = (seen["site"] for seen in value["channels"][:3])
    text = section(page(value), 6).text()
    sites = len(value["plan"]["sites"])
    assert f"both ends wrote the same at 1 of {sites} sites" in text
    assert f"{second} : the two ends did not write the same" in text
    assert f"{third}: what its end saw of the connection to the consortium service." in text
    assert f"{first}: what its end saw" not in text
    assert f"{second}: what its end saw of the connection to Flower." in text
    rows = section(page(value), 6).tags("tbody")[0].tags("tr")
    assert len(rows) == len(value["channels"]) + 3


def fact(root: Element, term: str) -> Element:
    """The fact of a page that has this heading; of several, the first."""
    found = root.all(lambda e: "fact" in e.classes and e.tags("dt")[0].text() == term)
    return found[0]


def test_the_cover_counts_the_lines_of_its_page_by_grade(value: dict[str, Any]) -> None:
    root = page(value)
    counted = Counter(word for line in lines(root) for word in line.grades())
    (legend,) = root.all(lambda element: "legend" in element.classes)
    for word in WORDS:
        (entry,) = [one for one in legend.tags("div") if one.grades() == [word]]
        number = counted[word]
        assert entry.text().endswith(f" {number} line{'s' if number != 1 else ''}")
    said = fact(root, "Left to people").text()
    assert f"Declared: {counted['Declared']}, and nobody confirmed any" in said
    assert f"Not known: {counted['Not known']}. All lines with a grade: {counted.total()}." in said


def test_the_cover_says_of_when_it_speaks_and_until_when_it_counts() -> None:
    root = page(evidence())
    period = "Period 2026-11-24T14:11:46.920Z to 2026-11-24T14:12:02.144Z"
    assert fact(root, "Period").text().startswith(period)
    until = fact(root, "Counts until")
    assert until.text().startswith("Counts until 2027-12-31, when the first paper ends")
    assert "state at 2026-11-24T14:12:02.317Z" in until.text()
    assert until.grades() == ["Recorded"]
    value = evidence()
    for one in value["consents"]:
        one["until"] = None
    assert fact(page(value), "Counts until").grades() == ["Not known"]


def test_a_site_says_of_its_data_what_its_log_holds_or_nothing() -> None:
    data = section(page(evidence()), 18)
    rows = {row.tags("th")[0].text().split()[0]: row for row in data.tags("tbody")[0].tags("tr")}
    assert rows["hill-clinic"].grades() == rows["lake-hospital"].grades() == ["Recorded"]
    assert "1024–2047 records" in rows["hill-clinic"].text()
    assert "each time" not in rows["hill-clinic"].text()
    assert "3 times 1 of these with other data" in rows["lake-hospital"].text()
    assert rows["river-practice"].grades() == ["Not known"]
    assert "256–511 records" in rows["river-practice"].text()
    assert "not recorded; the size is the plan’s" in rows["river-practice"].text()
    assert "There is no cap" in data.text()
    value = evidence()
    value["datasets"][0]["times"] = "2"
    assert "2 times the same data each time" in section(page(value), 18).text()
    assert "64–127 persons, at most 8 records of each" in section(page(per_person()), 18).text()


def test_a_search_stands_in_bands_beside_the_recall_of_its_detectors() -> None:
    data = section(page(evidence()), 18)
    assert "name after a title or cue 128–255" in data.text()
    assert "0–15 of every other kind" in data.text()
    assert "0–15 of every kind" in data.text()
    assert "river-practice: no search for identifiers is recorded." in data.text()
    (names,) = [row for row in data.tags("tr") if row.text().startswith("name after a title or cue")]
    assert names.grades() == ["Declared"]
    assert "0.15 of 247" in names.text()
    value = evidence()
    for opened in value["datasets"]:
        opened["scans"][0]["detector"] = "sha256:" + "0" * 64
    unknown = section(page(value), 18).text()
    assert "find: not measured here" in unknown
    assert "0.15 of 247" not in unknown


def test_a_licence_is_declared_or_not_known() -> None:
    assert fact(page(licensed()), "Its licence").grades() == ["Declared"]
    assert "apache-2.0, as the lead declared it" in fact(page(licensed()), "Its licence").text()
    assert fact(page(evidence()), "Its licence").grades() == ["Not known"]
    for shown in (page(licensed()), page(evidence())):
        for_the_manager = fact(section(shown, 12), "Base model")
        assert for_the_manager.grades() == fact(section(shown, 8), "Its licence").grades()


def _sourced(**sites: str | None) -> Element:
    value = evidence()
    for stated in value["privacy"]:
        stated["entropy"] = sites.get(stated["site"].split("-")[0], "ratchet")
    return section(page(value), 8)


def test_whether_it_can_be_made_again_depends_on_where_noise_came_from() -> None:
    assert "At every site, the training, bit for bit: by nobody" in _sourced().text()
    mixed = _sourced(hill="fixed", lake=None, town="mixed").text()
    assert "At river-practice, the training, bit for bit: by nobody, since the secrets" in mixed
    assert "At hill-clinic, the training, bit for bit: from the seed, which is known" in mixed
    assert "At lake-hospital, the training, bit for bit: where noise and draws came from is not" in mixed
    assert "At town-hospital, the training, bit for bit: by nobody, since noise did not" in mixed


def test_steps_that_sites_took_again_are_recorded_in_joint_mode_alone() -> None:
    again = "the software of every site takes each step again"
    assert again in section(page(jointly()), 8).text()
    assert again not in section(page(evidence()), 8).text()
    assert "no site took the steps of the lead again" in section(page(evidence()), 8).text()


def test_who_withdrew_is_said() -> None:
    assert "Withdrawn: river-practice" in section(page(evidence()), 15).text()
    value = evidence()
    left = [one for one in value["incidents"] if one["type"] != "site.withdrew"]
    gone = {event for one in value["incidents"] if one not in left for event in one["events"]}
    value |= {"incidents": left, "cited": [one for one in value["cited"] if one["event"] not in gone]}
    assert "Withdrawn: nobody" in section(page(value), 15).text()
