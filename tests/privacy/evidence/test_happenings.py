"""Consents, decisions, incidents and citations follow from events, are bounded, and are verified."""

from __future__ import annotations

from typing import Any

import pytest

from cloister.privacy.errors import InputError
from cloister.privacy.evidence import happenings
from cloister.privacy.evidence.checks.run import verify
from cloister.privacy.evidence.events import GENESIS, Event
from cloister.privacy.evidence.evidence import Evidence
from cloister.privacy.evidence.render import render
from tests.privacy.evidence.conftest import Stage
from tests.privacy.evidence.test_render import Element, Page, section
from tests.reports import evidence

pytestmark = pytest.mark.job

JOB = "sha256:" + "0" * 64


def event(seq: int, type: str, writer: str = "lead", round: int | None = None, **body: Any) -> Event:
    return Event(writer, seq, f"2026-01-31T12:00:{seq % 60:02}.000Z", type, JOB, round, body, GENESIS)


def test_what_repeats_is_one_entry_with_its_number() -> None:
    failed = [event(n, "auth.failed", reason="certificate_invalid") for n in range(10_000)]
    other = event(10_000, "auth.failed", reason="replay", party="north")
    found = happenings.incidents({"lead": [*failed, other]})
    assert [(one["times"], one["events"]) for one in found] == [
        ("10000", ["lead/0", "lead/9999"]),
        ("1", ["lead/10000"]),
    ]
    assert [one["about"] for one in found] == [None, "north"]
    assert len(happenings.cited({"lead": [*failed, other]}, found)) == 3


def test_decisions_with_other_outcomes_stand_apart() -> None:
    body = {"policy": JOB, "request": JOB, "rules": ["approval.people"]}
    made = [
        event(n, "policy.decision", "north", **body, outcome=outcome)
        for n, outcome in enumerate(("ask", "ask", "refuse"))
    ]
    changed = event(3, "dataset.changed", "north", dataset="notes", outcome="refused")
    found = happenings.decisions({"north": [*made, changed]})
    assert [(one["outcome"], one["times"]) for one in found] == [
        ("ask", "2"),
        ("refuse", "1"),
        ("refuse", "1"),
    ]
    assert found[2]["about"] == "notes"


def test_a_consent_says_who_by_role_and_when() -> None:
    granted = event(4, "approval.granted", "north", subject=JOB, stage="start", role="steward")
    (found,) = happenings.consents({"north": [granted]})
    assert (found["role"], found["stage"], found["about"], found["event"]) == (
        *("steward", "start", JOB),
        "north/4",
    )
    assert found["at"] == granted.ts


def test_an_approval_that_was_signed_names_the_key_and_nobody() -> None:
    body = {"subject": JOB, "stage": "start", "role": "steward"}
    signed = event(4, "approval.granted", "north", **body, key=JOB)
    plain = event(5, "approval.granted", "north", **body)
    assert [one["key"] for one in happenings.consents({"north": [signed, plain]})] == [JOB, None]
    value = evidence()
    place = next(i for i, one in enumerate(value["consents"]) if one["type"] == "approval.granted")
    value["consents"][place]["key"] = "sha256:" + "ab" * 32
    fifteenth = section(Page(render(value)).root, 15)
    rows = fifteenth.tags("tbody")[0].tags("tr")
    assert [i for i, row in enumerate(rows) if "signed with the key abababababab…" in row.text()] == [place]
    (unnamed,) = [one for one in fifteenth.tags("li") if "Who these persons are" in one.text()]
    assert unnamed.grades() == ["Not known"]
    nothing: dict[str, Any] = {key: [] for key in ("consents", "decisions", "incidents", "sources", "cited")}
    nobody = section(Page(render(evidence(**nothing))).root, 15)
    assert "Who these persons are" not in nobody.text()


def test_a_line_cites_few_events(stage: Stage) -> None:
    plan = stage.plain.job.plan
    lost = [event(n, "site.lost", round=1, site="site-01", reason="site_lost") for n in range(1, 40)]
    lead = [Event(**{**vars(e), "job": plan.digest}) for e in (*lost, event(99, "round.closed", round=1))]
    (found,) = [s for s in happenings.sources(plan, {"lead": lead}) if s["about"] == "round.1"]
    assert len(found["events"]) == happenings.MOST_CITED
    assert (found["events"][0], found["events"][-1]) == ("lead/99", "lead/39")


def anchors(root: Element) -> set[str]:
    return {row.attributes["id"] for row in section(root, 19).tags("tr") if "id" in row.attributes}


@pytest.mark.parametrize("name", ["en", "zh"])
def test_every_event_that_a_line_names_stands_on_the_page(name: str) -> None:
    root = Page(render(evidence(), name)).root
    named = {a.attributes["href"][1:] for a in root.tags("a") if "event-" in a.attributes["href"]}
    assert named == anchors(root)
    assert len(named) == len(evidence()["cited"]) > 50


def test_what_rests_on_events_names_them() -> None:
    root = Page(render(evidence())).root
    for number in (2, 4, 5, 6):
        assert all(row.tags("a") for row in section(root, number).tags("tbody")[0].tags("tr"))
    (seventh,) = [r for r in section(root, 4).tags("tr") if r.text().startswith("Round 6 ")]
    assert len(seventh.tags("a")) == 2  # closed, and one site lost


def test_tables_say_what_was_decided_and_what_went_wrong() -> None:
    root = Page(render(evidence())).root
    consents, decisions, incidents = (section(root, number).text() for number in (15, 16, 17))
    for said in ("data use agreement", "until 2027-12-31", "Approved before the start", "data steward"):
        assert said in consents
    for said in ("ask a person", "Update refused", "update_range", "Policy in force"):
        assert said in decisions
    for said in ("model_fell", "Sign-in refused", "Connection refused", "Site withdrew", "Site lost"):
        assert said in incidents


def test_limits_and_values_of_policies_are_said_not_to_be_here() -> None:
    (said,) = [one for one in section(Page(render(evidence())).root, 16).tags("li") if "limit" in one.text()]
    assert said.grades() == ["Declared"]
    assert "no site is shown the policy of another" in said.text()


def clocked(**changes: Any) -> dict[str, Any]:
    value = {"party": "hill-clinic", "state": "synchronised", "source": "service", "error": "100ms"}
    value |= {"set": "1", "gaps": "2", "at_least": "-0.120", "at_most": "0.310", "events": []}
    return value | changes


def test_clocks_and_gaps_stand_beside_incidents() -> None:
    text = section(Page(render(evidence())).root, 17).text()
    assert "No party wrote down what its clock was." in text
    lead = clocked(party="valley-trust", state=None, source=None, error=None, at_least=None, at_most=None)
    gap = {"party": "hill-clinic", "type": "log.gap", "about": None, "reason": None, "times": "1"}
    gap |= {"first": "2026-11-24T14:11:46Z", "last": "2026-11-24T14:11:46Z", "how": "unclean"}
    gap |= {"lasted": "hours", "events": [evidence()["cited"][0]["event"]]}
    value = evidence(clocks=[lead, clocked()])
    value["incidents"] = [*value["incidents"], gap]
    root = Page(render(value)).root
    text = section(root, 17).text()
    assert "kept in step by a time service, wrong by 100 ms at most, it says" in text
    assert "-0.120 to 0.310 s" in text
    assert "Gap in the log the process had not ended as it should, less than a day" in text
    rows = section(root, 17).tags("tbody")[1].tags("tr")
    assert [row.grades() for row in rows] == [["Not known"], ["Recorded"]]
    assert "未正常结束" in section(Page(render(value, "zh")).root, 17).text()


def test_clocks_and_gaps_follow_from_the_logs(stage: Stage) -> None:
    value = stage.away.job.contents().evidence
    (gap,) = [one for one in value["incidents"] if one["type"] == "log.gap"]
    assert (gap["party"], gap["how"], gap["lasted"]) == ("lead", "restart", "hours")
    assert not [one for one in value["incidents"] if one["type"] == "clock.status"]  # none has changed
    lead, *sites = value["clocks"]
    assert (lead["party"], lead["gaps"], lead["at_least"]) == ("lead", "1", None)
    for one in sites:
        assert one["state"] == "synchronised"
        assert float(one["at_least"]) <= 0 <= float(one["at_most"]) < 1  # one clock for all


def test_where_nothing_is_recorded_it_is_said() -> None:
    nothing: dict[str, Any] = {key: [] for key in ("consents", "decisions", "incidents", "sources", "cited")}
    root = Page(render(evidence(**nothing))).root
    for number in (15, 16, 17):
        assert section(root, number).tags("li")[0].grades() == ["Recorded"]
    assert section(root, 19).grades() == ["Not known"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda value: value["cited"].pop(), "not those that the entries name"),
        (lambda value: value["cited"].append(value["cited"][0]), "not those that the entries name"),
        (lambda value: value["sources"].append(value["sources"][0]), "twice"),
        (lambda value: value["incidents"][0].update(party="nobody"), "nobody in the plan"),
    ],
)
def test_lists_that_contradict_each_other_are_refused(change: Any, why: str) -> None:
    value = evidence()
    change(value)
    with pytest.raises(InputError, match=why):
        Evidence.from_json(value)


@pytest.mark.parametrize("field", ["consents", "decisions", "sources", "cited"])
def test_a_list_that_leaves_something_out_is_found(stage: Stage, field: str) -> None:
    """Whoever verifies derives each list again; the cheat signs everything anew and keeps it consistent."""
    forger = stage.plain
    honest = forger.job.contents()
    assert honest.evidence[field]
    value = {**honest.evidence}
    value[field] = value[field][field != "cited" :]
    parts = ("sources", "decisions", "incidents", "clocks", "sums", "ledgers")
    named = {one for part in parts for e in value[part] for one in e["events"]}
    named |= {one["event"] for one in value["consents"]}
    value["cited"] = [one for one in value["cited"] if one["event"] in named]
    if field == "cited":
        value["cited"][0] = {**value["cited"][0], "at": "2020-01-01T00:00:00Z"}
    contents = type(honest)(**{**vars(honest), "evidence": value})
    found = verify(contents.bundle(forger.job.lead), forger.job.trust).findings
    assert any(one.check == "evidence" and field in one.place for one in found)
