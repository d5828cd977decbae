"""A policy's YAML: what is read, and that everything else is one typed refusal that says where."""

from __future__ import annotations

import json
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.privacy.errors import PolicyError
from cloister.privacy.policy.reading import LARGEST, read
from cloister.privacy.policy.template import template
from cloister.privacy.policy.terms import Policy
from tests.policies import policy, policy_json

TEXT = template(date(2026, 2, 3))


def refusal(text: str | bytes) -> str:
    with pytest.raises(PolicyError) as caught:
        read(text if isinstance(text, bytes) else text.encode())
    assert caught.value.id == "policy_malformed"
    assert "\n" not in caught.value.line()
    return caught.value.what


def test_the_template_is_a_policy_and_refuses_privacy_off() -> None:
    found = read(TEXT.encode())
    assert found.valid.model_dump() == {"begins": "2026-02-03", "ends": "2027-02-03"}
    assert found.privacy.modes == ("joint", "local")
    assert found.privacy.delta == 1e-5
    assert found.aggregation.secure
    assert Policy.from_bytes(found.to_bytes()) == found


def test_the_digest_is_of_the_value_not_of_its_layout() -> None:
    found = read(TEXT.encode())
    assert read(json.dumps(found.model_dump(mode="json")).encode()).digest == found.digest
    assert read(TEXT.replace("[joint, local]", "[local, joint, local]").encode()).digest == found.digest
    assert read(TEXT.replace("bound: 10", "bound: 9").encode()).digest != found.digest


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  bound: 10", "  bound: 10\n  bound: 11", "the key bound stands twice (line 41)"),
        ("  bound: 10", "  bond: 10", "privacy.bond: there is no such key (line 40)"),
        ("  bound: 10\n", "", "privacy.bound: the key is missing (line 34)"),
        ("bound: 10", "bound: 0", "privacy.bound: input should be greater than 0 (line 40)"),
        ("bound: 10", "bound: .inf", "privacy.bound: input should be a valid number"),
        ("bound: 10", "bound: 1e999", "privacy.bound:"),
        ("bound: 10", "bound: '10'", "privacy.bound: input should be a valid number"),
        ("version: 1", "version: 2", "version: input should be 1 (line 6)"),
        ("[joint, local]", "[joint, global]", "privacy.modes.2: input should be 'local', 'joint' or 'off'"),
        ("secure: true", "secure: yes", "aggregation.secure: input should be a valid boolean"),
        ("begins: 2026-02-03", "begins: 2026-02-30", "valid.begins:"),
        ("begins: 2026-02-03", "begins: 3.2.2026", "valid.begins: value error, a date is written"),
        ("hours: any", "hours: [19-7]", "time.hours: value error, hours are ranges such as 7-19"),
        ("hours: any", "hours: [24]", "time.hours.1: input should be less than or equal to 23"),
        ("days: any", "days: [someday]", "time.days.1: input should be 'mon'"),
        ("people: 1", "people: 0", "approval.people: input should be greater than or equal to 1"),
        ("[administrator, steward, validator]", "[lead]", "approval.roles.1: input should be"),
        ("people: 1", "people: &all 1", "anchors and aliases are not read (line 66)"),
        ("base: any ", "base: *all ", "anchors and aliases are not read"),
        ("version: 1", "version: !!python/object:os.system 1", "tags are not read (line 6)"),
        ("version: 1", "version: [" * 20, "nested too deeply"),
        ("version: 1", "? [a]\n: 1", "a key is a word"),
        ("version: 1", "version: 1\n---\nversion: 1", "it is not YAML"),
        ("version: 1", "version: 1: 2", "it is not YAML: mapping values are not allowed here (line 6)"),
        ('"*":', "Notes:", "datasets"),
    ],
)
def test_a_fault_is_named_with_its_key_and_line(old: str, new: str, said: str) -> None:
    assert TEXT.count(old) >= 1
    assert said in refusal(TEXT.replace(old, new, 1))


@pytest.mark.parametrize(
    "text", [b"", b"# nothing", b"[]", b"1", b"\xff\xfe", b"\x00", b"a: \x07", b"{" * 9999]
)
def test_what_is_no_policy_at_all(text: bytes) -> None:
    refusal(text)


def test_a_bomb_and_a_huge_file_are_refused_unread() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + k)}: &{chr(98 + k)} [{','.join([f'*{chr(97 + k)}'] * 9)}]\n" for k in range(12)
    )
    assert "anchors and aliases" in refusal(bomb)
    assert f"more than {LARGEST} bytes" in refusal(TEXT + "#" * LARGEST)


def test_plain_words_stay_words() -> None:
    value = policy_json(privacy__modes=["off"], valid__begins="2001-02-03")
    text = json.dumps(value).replace('["off"]', "[off]").replace('"2001-02-03"', "2001-02-03")
    assert read(text.encode()) == policy(privacy__modes=["off"], valid__begins="2001-02-03")


def test_canonical_bytes_only() -> None:
    data = policy().to_bytes()
    for bad in (data + b" ", data.replace(b'"version":1', b'"version":2'), b"{}", b"\xff", b"[" * 99_999):
        with pytest.raises(PolicyError):
            Policy.from_bytes(bad)


def attempt(data: bytes) -> None:
    """Either a policy or a typed refusal in one line."""
    lines = [""]
    try:
        read(data)
    except PolicyError as error:
        lines = error.line().splitlines()
    assert len(lines) == 1


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    attempt(data)


@given(st.integers(0, len(TEXT)), st.integers(0, 40), st.text(max_size=12))
def test_a_mutated_policy(place: int, length: int, text: str) -> None:
    mutated = TEXT[:place] + text + TEXT[place + length :]
    attempt(mutated.encode("utf-8", "surrogatepass"))


TOKENS = [
    "a",
    ":",
    " ",
    "\n",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "&a",
    "*a",
    "!",
    "!!str",
    "|",
    ">",
    "'",
    '"',
    "%",
    "?",
    ",",
]


@given(
    st.lists(
        st.sampled_from([*TOKENS, "---", "...", "\t", "#", "1e5", "version", "<<", "@", "\\x"]), max_size=30
    )
)
def test_any_tokens(tokens: list[str]) -> None:
    attempt("".join(tokens).encode())
