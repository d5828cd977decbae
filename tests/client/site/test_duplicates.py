"""Near duplicates: known pairs, none that is not one, and how many are missed."""

from __future__ import annotations

import random

import pytest

from cloister.client.site import duplicates
from cloister.client.site.duplicates import NEAR, missed, near

LONG = " ".join(f"w{n}" for n in range(40))  # 38 shingles


def similarity(first: str, second: str) -> float:
    """By the definition, on the words themselves."""
    sets = [
        {tuple(text.split()[k : k + 3]) for k in range(len(text.split()) - 2)} for text in (first, second)
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_one_word_more_at_the_end_is_near_and_another_text_is_not() -> None:
    other = " ".join(f"v{n}" for n in range(40))
    assert near([LONG, other, f"{LONG} more"]) == duplicates.Near(((0, 2),), complete=True)


def test_a_pair_below_the_bound_is_no_pair_although_it_is_a_candidate() -> None:
    changed = LONG.replace("w10 ", "x ").replace("w30 ", "y ")
    assert 0.7 < similarity(LONG, changed) < NEAR
    assert near([LONG, changed]).pairs == ()


@pytest.mark.parametrize("texts", [[], ["a"], ["a b", "a b c", "a c"], ["", "one two"]])
def test_short_texts_are_near_to_none(texts: list[str]) -> None:
    assert near(texts) == duplicates.Near((), complete=True)


def test_scripts_without_spaces_have_shingles_too() -> None:
    text = "病人胸痛三天伴有咳嗽和发热今晨来院就诊体温三十九度"
    assert near([text, text + "五", "完全不同的另一段文字没有相似之处吗"]).pairs == ((0, 1),)


def test_hardly_any_near_pair_is_missed_and_none_is_invented() -> None:
    """300 pairs of similarity 0.8 to 0.95 among 600 texts: about 0.1 missed are expected at worst."""
    choose = random.Random(7)
    texts, wanted = [], set()
    for pair in range(300):
        words = [f"t{pair}x{n}" for n in range(60)]
        first = " ".join(words)
        words[choose.randrange(58)] = "changed"
        texts += [first, " ".join(words)]
        wanted.add((2 * pair, 2 * pair + 1))
    assert all(similarity(texts[a], texts[b]) >= NEAR for a, b in wanted)
    found = set(near(texts).pairs)
    assert found <= wanted
    assert len(wanted - found) <= 2


def test_the_stated_error() -> None:
    assert missed(0.8) == pytest.approx(3.6e-4, rel=0.02)
    assert missed(0.9) == pytest.approx(1.8e-8, rel=0.1)
    assert missed(1.0) == 0


def test_too_many_candidates_end_the_search_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "MOST_PAIRS", 3)
    found = near([f"{LONG} {n}" for n in range(4)])
    assert not found.complete
    assert len(found.pairs) < 6
    assert len(near([f"{LONG} {n}" for n in range(3)]).pairs) == 3
