"""Persons: one form of an id, keyed hashes, and a bound on rows that looks at no other person."""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.client.site.persons import capped, digest, keyed, named, normalised, numbers
from cloister.client.site.records import Records, hold_out
from cloister.privacy.errors import InputError

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
IDS = st.sampled_from(["anna", "ben", "cleo"])
ROWS = st.lists(st.tuples(st.text(max_size=3), st.sampled_from("xy"), IDS), min_size=1, max_size=25)


def records(rows: Sequence[tuple[str, str, str]]) -> Records:
    texts, labels, persons = zip(*rows, strict=True)
    return Records(texts, labels, persons)


def rows_of(found: Records) -> list[tuple[str, str, str]]:
    return list(zip(found.texts, found.labels, found.persons or (), strict=True))


class TestIds:
    @pytest.mark.parametrize(
        "same",
        [
            ("P-17", " p-17\t", "Ｐ－１７", "p-17\N{NO-BREAK SPACE}"),
            ("Zoë", "zoe\N{COMBINING DIAERESIS}", "ZOË"),
            ("Straße", "STRASSE"),
            ("ﬁnn", "Finn"),
        ],
    )
    def test_one_person_in_different_spellings(self, same):
        assert len({normalised(value) for value in same}) == 1
        assert len({digest(value, KEY) for value in same}) == 1

    @pytest.mark.parametrize("pair", [("17", "017"), ("a b", "ab"), ("anna", "anne"), ("1", "1.0")])
    def test_other_ids_are_other_persons(self, pair):
        assert digest(pair[0], KEY) != digest(pair[1], KEY)

    @given(st.text())
    def test_the_form_is_a_fixed_point(self, value):
        once = normalised(value)
        assert normalised(once) == once
        assert once == once.strip()

    @given(st.text(), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]), st.sampled_from([" ", "\t", "\u2003"]))
    def test_unicode_form_and_outer_space_do_not_matter(self, value, form, space):
        assert normalised(space + unicodedata.normalize(form, value) + space) == normalised(value)

    def test_the_hash_is_hmac_sha_256_of_the_form(self):
        expected = hmac.new(KEY, b"cloister person id\0" + b"p-17", hashlib.sha256).hexdigest()
        assert digest(" P-17 ", KEY) == expected

    @given(st.text(), st.text())
    def test_equal_forms_and_only_those_have_equal_hashes(self, one, two):
        assert (digest(one, KEY) == digest(two, KEY)) == (normalised(one) == normalised(two))

    @given(st.text())
    def test_another_key_gives_another_hash(self, value):
        assert digest(value, KEY) != digest(value, OTHER_KEY)

    def test_no_raw_id_is_left(self):
        found = keyed(records([("t", "x", "Anna 1975"), ("u", "y", "anna 1975")]), KEY, "refuse")
        assert found.persons == (digest("anna 1975", KEY),) * 2
        assert "anna" not in repr(found).lower()


class TestMissing:
    ROWS = (("one", "x", "anna"), ("two", "y", " \t"), ("three", "x", "\u2003"), ("four", "y", "ben"))

    def test_rows_without_an_id_are_refused_without_a_count(self):
        with pytest.raises(InputError) as caught:
            keyed(records(self.ROWS), KEY, "refuse")
        assert caught.value.id == "person_missing"
        assert "\n" not in caught.value.line()
        assert not any(character.isdigit() for character in caught.value.line())
        assert "--missing-persons drop" in caught.value.do

    def test_or_dropped(self):
        found = keyed(records(self.ROWS), KEY, "drop")
        assert found.texts == ("one", "four")
        assert found.persons == (digest("anna", KEY), digest("ben", KEY))

    def test_whole_columns_are_not_refused(self):
        rows = records([self.ROWS[0], self.ROWS[3]])
        assert named(rows, "refuse") == rows

    @pytest.mark.parametrize("missing", ["refuse", "drop"])
    def test_a_column_without_any_id_is_refused(self, missing):
        with pytest.raises(InputError) as caught:
            named(records(self.ROWS[1:3]), missing)
        assert caught.value.id == "site_empty"


class TestCap:
    @given(ROWS, st.integers(1, 5))
    def test_of_each_person_so_many_rows_are_kept_and_not_fewer(self, rows, most):
        found = capped(records(rows), most, KEY).persons or ()
        for person in {person for _, _, person in rows}:
            there = sum(other == person for _, _, other in rows)
            assert found.count(person) == min(most, there)

    @given(ROWS, ROWS, st.integers(1, 5))
    def test_other_persons_change_nothing(self, rows, others, most):
        others = [(text, label, f"other {person}") for text, label, person in others]
        alone = rows_of(capped(records(rows), most, KEY))
        among = rows_of(capped(records(others + rows + others), most, KEY))
        assert [row for row in among if not row[2].startswith("other")] == alone

    @given(ROWS, st.integers(1, 5), st.randoms(use_true_random=False))
    def test_the_order_of_the_file_changes_nothing(self, rows, most, random):
        shuffled = list(rows)
        random.shuffle(shuffled)
        assert sorted(rows_of(capped(records(rows), most, KEY))) == sorted(
            rows_of(capped(records(shuffled), most, KEY))
        )

    @given(ROWS)
    def test_the_order_of_the_file_is_kept(self, rows):
        numbered = [(f"{place:03} {text}", label, person) for place, (text, label, person) in enumerate(rows)]
        texts = capped(records(numbered), 2, KEY).texts
        assert list(texts) == sorted(texts)

    def test_the_choice_is_neither_first_nor_last_nor_known_without_the_key(self):
        rows = records([(f"text {number}", "x", "anna") for number in range(100)])
        chosen = {key: capped(rows, 10, key).texts for key in (KEY, OTHER_KEY)}
        assert chosen[KEY] != chosen[OTHER_KEY]
        places = np.array([int(text.split()[1]) for text in chosen[KEY] + chosen[OTHER_KEY]])
        assert places.min() < 30
        assert places.max() > 70

    @pytest.mark.parametrize("most", [0, -1])
    def test_a_bound_below_one_is_an_error(self, most):
        with pytest.raises(ValueError, match="at least 1"):
            capped(records([("t", "x", "anna")]), most, KEY)

    def test_records_without_persons_have_no_bound(self):
        with pytest.raises(ValueError, match="known persons"):
            capped(Records(("t",), ("x",)), 1, KEY)


class TestNumbers:
    def test_rows_of_one_person_have_one_number(self):
        rows = records([("a", "x", "ben"), ("b", "x", "anna"), ("c", "y", "ben")])
        assert numbers(rows).tolist() == [0, 1, 0]

    def test_without_persons_each_row_is_a_unit(self):
        assert numbers(Records(("a", "b"), ("x", "y"))).tolist() == [0, 1]
        assert numbers(Records(("a", "b"), ("x", "y"))).dtype == np.int64


class TestHeldOut:
    def test_a_person_is_wholly_on_one_side(self):
        rows = [(f"text {k} of {p}", "xy"[k % 2], f"person {p}") for p in range(200) for k in range(4)]
        train, held = hold_out(records(rows), fraction=0.25, key=KEY)
        assert not set(train.persons or ()) & set(held.persons or ())
        assert 25 < len(set(held.persons or ())) < 75  # 4 standard errors around 50
        assert len(train) + len(held) == 800

    def test_the_side_of_a_person_does_not_depend_on_texts_or_others(self):
        rows = [(f"text {p}", "xy"[p % 2], f"person {p}") for p in range(100)]
        more = [(f"new {k} of {p}", "x", f"person {p}") for p in range(50, 150) for k in range(3)]
        _, before = hold_out(records(rows), fraction=0.3, key=KEY)
        _, after = hold_out(records(rows + more), fraction=0.3, key=KEY)
        known = {f"person {p}" for p in range(100)}
        assert set(after.persons or ()) & known == set(before.persons or ())

    def test_one_person_cannot_be_divided(self):
        with pytest.raises(InputError) as caught:
            hold_out(records([(f"text {k}", "x", "anna") for k in range(50)]), fraction=0.5, key=KEY)
        assert caught.value.id == "site_too_small"
