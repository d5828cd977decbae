"""The form of a line, and that the vocabulary takes nothing that could be a record."""

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.privacy import canonical
from cloister.privacy.errors import LogError
from cloister.privacy.evidence import vocabulary
from cloister.privacy.evidence.events import GENESIS, Event, check, timestamp
from cloister.privacy.evidence.vocabulary import FAMILIES

VECTORS = Path(__file__).parents[2] / "vectors" / "evidence"
KNOWN = json.loads((VECTORS / "events.json").read_text())
BROKEN = json.loads((VECTORS / "events_broken.json").read_text())

D = "sha256:" + "ab" * 32


def refused(*arguments):
    with pytest.raises(LogError) as refusal:
        check(*arguments)
    assert refusal.value.id == "event_malformed"
    return refusal.value


@pytest.mark.parametrize("case", KNOWN, ids=lambda case: case["type"])
def test_known_lines(case):
    line = case["line"].encode()
    event = Event.decode(line)
    assert event.type == case["type"]
    assert event.encode() == line
    assert canonical.digest(line) == case["hash"]


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case["why"])
def test_broken_lines_are_refused(case):
    with pytest.raises(LogError) as refusal:
        Event.decode(case["line"].encode())
    assert refusal.value.id == "event_malformed"


def test_known_lines_cover_every_scope():
    scopes = {(FAMILIES[case["type"]].job, FAMILIES[case["type"]].round) for case in KNOWN}
    assert scopes == {(family.job, family.round) for family in FAMILIES.values()}


SAMPLES = {
    vocabulary.DIGEST: D,
    vocabulary.NAME: "north-clinic",
    vocabulary.RULE: "privacy.epsilon",
    vocabulary.REASON: "budget_exceeded",
    vocabulary.DATE: "2026-02-28",
    vocabulary.BAND: "200-499",
    vocabulary.COUNT: 7,
    vocabulary.FLAG: True,
    vocabulary.EPSILON: 1.5,
    vocabulary.DELTA: 1e-5,
    vocabulary.RATE: 0.01,
    vocabulary.SCALE: 1.1,
    vocabulary.HUNDREDTH: 0.87,
    vocabulary.BITS: 1.44,
    vocabulary.VERSION: "2.13.0+cpu",
}


def sample(kind):
    """A value that a kind takes: its first word, where it is a set of words or a list of them."""
    if kind in SAMPLES:
        return SAMPLES[kind]
    if kind.meaning.startswith("set of: name"):
        return ["east", "west"]
    if kind.meaning == f"set of: {vocabulary.RULE.meaning}":
        return ["aggregation.secure", "privacy.epsilon"]
    words = kind.meaning.removeprefix("set of: ").removeprefix("one of ").split(", ")
    return [words[0]] if kind.meaning.startswith("set") else words[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_takes_its_fields_and_nothing_else(name):
    family = FAMILIES[name]
    scope = (D if family.job == "always" else None, 3 if family.round == "always" else None)
    body = {field.removesuffix("?"): sample(kind) for field, kind in family.fields.items()}
    check(name, *scope, body)
    needed = {field: body[field] for field in family.fields if not field.endswith("?")}
    check(name, *scope, needed)
    for field in needed:
        refused(name, *scope, {key: value for key, value in needed.items() if key != field})
    refused(name, *scope, body | {"note": D})
    for field in body:
        refused(name, *scope, body | {field: "Patient 4711 was seen in /srv/records"})
        refused(name, *scope, body | {field: None})


@pytest.mark.parametrize(
    ("name", "job", "round_"),
    [
        ("log.heartbeat", D, None),  # never names a job
        ("log.heartbeat", None, 1),
        ("job.finished", None, None),  # always names one
        ("round.opened", D, None),
        ("incident.raised", None, 1),  # a round without its job
        ("incident.raised", "job-1", None),
        ("incident.raised", D, -1),
        ("incident.raised", D, True),
        ("no.such", None, None),
    ],
)
def test_wrong_scope_is_refused(name, job, round_):
    family = FAMILIES.get(name)
    body = {f: sample(kind) for f, kind in family.fields.items() if not f.endswith("?")} if family else {}
    refused(name, job, round_, body)


def test_the_error_never_repeats_the_value():
    error = refused("log.recovered", None, None, {"bytes": "born 1970-01-01"})
    assert "1970" not in error.line()
    error = refused("log.recovered", None, None, {"bytes": 1, "patient-4711": 1})
    assert "4711" not in error.line()


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (vocabulary.NAME, ["a", "north-clinic", "a" * 40], ["", "A", "a b", "a/b", "a.b", "1", "a" * 41]),
        (vocabulary.DIGEST, [D], [D.upper(), D[:-1], D + "\n", "ab" * 32, b"x"]),
        (vocabulary.REASON, ["internal", "log_unwritable"], ["", "no_such_reason", "Internal"]),
        (vocabulary.DATE, ["2024-02-29"], ["2023-02-29", "2024-2-9", "20240229", "2024-02-29T00:00:00Z"]),
        (vocabulary.COUNT, [0, 2**53 - 1], [-1, 2**53, 1.0, True, "1"]),
        (vocabulary.FLAG, [True, False], [0, 1, "true"]),
        (vocabulary.EPSILON, [0, 8, 0.5], [-0.1, float("inf"), float("nan"), True, "8", 2e9]),
        (vocabulary.DELTA, [0, 1e-5], [1, -1e-5, float("nan")]),
        (vocabulary.RATE, [1, 0.01], [0, 1.01]),
        (vocabulary.HUNDREDTH, [0, 1, 0.5, 0.29], [0.123, 0.8333333333333334, 1.01, -0.01, True]),
        (vocabulary.BITS, [0, 1.44, 64], [0.123, -0.01, 64.01, True]),
        (
            vocabulary.VERSION,
            ["3", "3.11.7", "2.13.0+cpu", "2.13.0+cu130", "1.0rc1", "0.6.0.post1", "1.2.dev20", "1+other"],
            ["", "v1", "1.2.3.4.5", "1.2+north-clinic", "1.2+git.north", "1 2", "1.2\n", "123456", 3],
        ),
        (vocabulary.many(vocabulary.NAME), [[], ["a", "b"], ("a",)], [["b", "a"], ["a", "a"], ["A"], "ab"]),
        (vocabulary.UNIT, ["record"], ["records", "", None, ["record"]]),
    ],
    ids=lambda value: value.meaning if isinstance(value, vocabulary.Kind) else "",
)  # fmt: skip
def test_kinds(kind, good, bad):
    assert [value for value in good if not kind.holds(value)] == []
    assert [value for value in bad if kind.holds(value)] == []


@pytest.mark.parametrize("band", ["100-199", "0-9", "1-10", "1000-1999", "200-499"])
def test_wide_bands_are_taken(band):
    assert vocabulary.BAND.holds(band)


@pytest.mark.parametrize(
    "band",
    ["100-100", "100-101", "5-6", "1000-1100", "199-100", "0100-0199", "100-", "-5", "100 - 199", "100"],
)
def test_a_band_that_is_nearly_a_number_is_refused(band):
    assert not vocabulary.BAND.holds(band)


KINDS = {kind for family in FAMILIES.values() for kind in family.fields.values()}


@given(st.from_regex(r"[A-Za-z0-9]*[ /\\\\@:;,'\u00e9\u4e2d][^\n]{0,30}", fullmatch=True))
def test_no_kind_takes_a_sentence_or_a_path(text):
    assert [kind.meaning for kind in KINDS if kind.holds(text)] == []


@given(st.integers() | st.floats() | st.binary() | st.dictionaries(st.text(), st.integers()))
def test_no_kind_of_words_takes_another_type(value):
    words = {kind for kind in KINDS if kind.holds(sample(kind)) and isinstance(sample(kind), str)}
    assert [kind.meaning for kind in words if kind.holds(value)] == []


def event(**changes):
    fields = {
        "writer": "north-clinic",
        "seq": 0,
        "ts": "2026-01-31T12:00:00.000Z",
        "type": "incident.raised",
        "job": D,
        "round": 2,
        "body": {"reason": "internal", "severity": "low"},
        "prev": GENESIS,
    }
    return Event(**(fields | changes))


@given(
    st.integers(0, 2**40),
    st.none() | st.integers(0, 10**6),
    st.sampled_from(sorted(vocabulary._REASONS)),
    st.datetimes(timezones=st.just(UTC)),
)
def test_decoding_undoes_encoding(seq, round_, reason, moment):
    written = event(
        seq=seq, round=round_, ts=timestamp(moment), body={"reason": reason, "severity": "high", "party": "a"}
    )
    assert Event.decode(written.encode()) == written


@pytest.mark.parametrize(
    "changes",
    [
        {"writer": "North Clinic"},
        {"seq": -1},
        {"ts": "2026-01-31T12:00:00Z"},
        {"ts": "2026-02-31T12:00:00.000Z"},
        {"prev": "sha256:0"},
        {"type": 3},
        {"body": []},
    ],
)
def test_a_wrong_frame_is_refused(changes):
    with pytest.raises(LogError) as refusal:
        event(**changes).encode()
    assert refusal.value.id == "event_malformed"


def test_times_are_written_in_utc_with_milliseconds():
    east = timezone(timedelta(hours=5, minutes=30))
    assert timestamp(datetime(2026, 1, 31, 12, 0, 0, 999_999, east)) == "2026-01-31T06:30:00.999Z"


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(ValueError, match="time zone"):
        timestamp(datetime(2026, 1, 31))
