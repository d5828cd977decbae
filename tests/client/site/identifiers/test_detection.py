"""Laws of scanning and masking, over texts that are made to be awkward."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.client.site.identifiers import detection, gold
from cloister.client.site.identifiers.detection import Scanner, token
from cloister.client.site.identifiers.findings import KINDS, Counts, Found
from cloister.client.site.identifiers.folding import HIDDEN, fold

SCANNER = Scanner({"hospital-number": r"\bH[0-9]{7}\b"})
PIECES = [one.text[span.start : span.end] for one in gold.notes() for span in one.spans]
GLUE = [
    "",
    " ",
    "-",
    ".",
    "\u200b",
    "\u0301",
    "[",
    "]",
    "@",
    "1",
    "0",
    "\n",
    "，",
    HIDDEN,
    "H1234567",
    "[EMAIL]",
    "Dr. ",
]
TEXTS = st.one_of(
    st.text(max_size=60),
    st.text("0123456789 -.+()/:aAxX@", max_size=60),
    st.lists(st.sampled_from(PIECES + GLUE), max_size=12).map("".join),
)


@given(TEXTS)
def test_masking_twice_is_masking_once_and_nothing_is_left_to_find(text):
    once = SCANNER.mask(text)
    assert SCANNER.find(once) == ()
    assert SCANNER.mask(once) == once


@given(TEXTS)
def test_findings_are_in_order_within_the_text_and_do_not_overlap(text):
    place = 0
    for one in SCANNER.find(text):
        assert place <= one.start < one.end <= len(text)
        place = one.end
    assert SCANNER.find(text) == SCANNER.find(text)


@given(st.text(max_size=80))
def test_folding_keeps_the_way_back(text):
    folded = fold(text)
    assert len(folded.text) == len(folded.starts) == len(folded.ends) or len(folded.text) == len(text)
    place = 0
    for index in range(len(folded.text)):
        start, end = folded.span(index, index + 1)
        assert place <= start < end <= len(text)
        place = end
        left_out = text[start + 1 : end]
        assert all(unicodedata.category(one) in {"Cf", "Mn", "Me"} for one in left_out)
    assert HIDDEN not in folded.text


SPREAD = ["\u200b", "\u00ad", "\ufeff", "\u2060"]


@given(
    st.sampled_from(["4111111111111111", "ada@example.org", "192.0.2.17", "DE89370400440532013000"]),
    st.lists(st.tuples(st.integers(1, 14), st.sampled_from(SPREAD)), max_size=4),
    st.text("äöü\u200b ,", max_size=6),
)
def test_what_has_no_width_hides_nothing_and_spans_point_into_the_text_itself(plain, put, before):
    text = plain
    for place, nothing in sorted(put, reverse=True):
        text = text[: min(place, len(plain) - 1)] + nothing + text[min(place, len(plain) - 1) :]
    [(start, end)] = [(one.start, one.end) for one in SCANNER.find(f"{before} {text} ä")]
    assert f"{before} {text} ä"[start:end] == text


def test_known_masks():
    text = "Mail ada@example.org, card 4111 1111 1111 1111, H1234567; [EMAIL] stays."
    assert SCANNER.mask(text) == "Mail [EMAIL], card [CARD], [HOSPITAL-NUMBER]; [EMAIL] stays."
    assert SCANNER.mask("nothing here") == "nothing here"
    assert SCANNER.mask("") == ""


def test_composed_and_decomposed_letters_give_the_same():
    plain, parts = "Dr. José Rühl", unicodedata.normalize("NFD", "Dr. José Rühl")
    assert SCANNER.mask(f"{plain}, x") == SCANNER.mask(f"{parts}, x") == "Dr. [NAME], x"


def test_a_text_in_which_every_look_finds_more_is_masked_whole():
    scanner = Scanner({"first": r"\bx"})  # one more at every look
    assert scanner.mask("xx") == "[FIRST][FIRST]"
    assert scanner.mask("x" * 500) == token("unsettled")
    assert scanner.find(scanner.mask("x" * 500)) == ()


def test_a_site_pattern_never_reaches_over_what_is_masked():
    scanner = Scanner({"greedy": r"id: .{1,30}"})
    assert scanner.mask("id: ada@example.org and more of it all over") == "[GREEDY] all over"
    assert scanner.mask("id: [EMAIL] and more") == "id: [EMAIL] and more"


def test_tokens_are_found_by_no_detector():
    for kind in KINDS:
        assert SCANNER.find(f"a {token(kind)} b {token(kind)}") == ()


def test_counts_add_up():
    first = Counts.of([(Found("ip", 0, 1), Found("ip", 2, 3)), ()])
    assert first == Counts(2, 1, {"ip": 2}, {"ip": 1})
    both = first + Counts.of([(Found("url", 0, 1),)])
    assert both == Counts(3, 2, {"ip": 2, "url": 1}, {"ip": 1, "url": 1})
    assert both.line() == "ip 2, url 1"


def test_the_digest_is_of_the_sources():
    assert detection.digest().startswith("sha256:")
    assert len(detection.digest()) == 71


@pytest.mark.parametrize("text", ["\ud800 ada@example.org", "\x00", "\U0010ffff" * 9])
def test_broken_texts_are_scanned(text):
    assert SCANNER.mask(SCANNER.mask(text)) == SCANNER.mask(text)
