"""Splits over simulated sites: every one is a partition, and each does what its name says."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.client.site.records import Records
from cloister.privacy.errors import InputError
from cloister.simulations.partition import (
    Dirichlet,
    Iid,
    Natural,
    Pathological,
    Quantity,
    parse,
    site_names,
    split,
    together,
)


def rows_of(classes: list[int], places: int = 3) -> Records:
    count = len(classes)
    return Records(
        tuple(f"text {row}" for row in range(count)),
        tuple(f"class {k}" for k in classes),
        sites=tuple(f"place {row % places}" for row in range(count)),
    )


EVEN = rows_of([row % 6 for row in range(1200)])


class TestTogether:
    @given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 8)), min_size=1, max_size=60))
    def test_a_person_is_where_most_of_its_rows_were(self, rows):
        persons = [person for _, person in rows]
        records = Records(("t",) * len(rows), ("x",) * len(rows), tuple(f" P{p} " for p in persons))
        parts = [np.flatnonzero([at == site for at, _ in rows]) for site in range(3)]
        homes = {
            person: max(range(3), key=lambda site: (rows.count((site, person)), -site)) for person in persons
        }
        if set(homes.values()) != {0, 1, 2}:
            with pytest.raises(InputError) as caught:
                together(records, parts)
            assert caught.value.id == "site_empty"
            return
        for site, part in enumerate(together(records, parts)):
            assert part.tolist() == [row for row, person in enumerate(persons) if homes[person] == site]

    def test_spellings_of_one_person_stay_together(self):
        records = Records(("a", "b", "c", "d"), ("x",) * 4, ("Anna", " anna", "ANNA", "ben"))
        moved = together(records, [np.array([0, 1]), np.array([2, 3])])
        assert [part.tolist() for part in moved] == [[0, 1, 2], [3]]


class TestParsing:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("iid", Iid()),
            ("natural:hospital", Natural("hospital")),
            ("natural:a:b", Natural("a:b")),
            ("dirichlet:0.5", Dirichlet(0.5)),
            ("pathological:2", Pathological(2)),
            ("quantity:1e1", Quantity(10.0)),
        ],
    )
    def test_known_splits(self, text, value):
        assert parse(text) == value

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "iid:",
            "iid:1",
            "natural",
            "natural:",
            "dirichlet",
            "dirichlet:",
            "dirichlet:0",
            "dirichlet:-1",
            "dirichlet:nan",
            "dirichlet:inf",
            "pathological:0",
            "pathological:1.5",
            "pathological",
            "quantity:many",
            "quantity:0",
            "shards:2",
            "IID",
        ],
    )
    def test_anything_else_is_refused_and_the_known_ones_named(self, text):
        with pytest.raises(InputError) as caught:
            parse(text)
        assert caught.value.id == "split_invalid"
        assert "dirichlet:ALPHA" in caught.value.do


class TestLaws:
    @given(
        classes=st.lists(st.integers(0, 4), min_size=20, max_size=80),
        sites=st.integers(1, 5),
        spec=st.sampled_from([Iid(), Dirichlet(0.3), Dirichlet(50.0), Pathological(2), Quantity(0.5)]),
        seed=st.integers(0, 2**32),
    )
    def test_every_split_is_a_partition(self, classes, sites, spec, seed):
        records = rows_of(classes)
        known = len(records.classes())
        if isinstance(spec, Pathological) and not spec.classes <= known <= sites * spec.classes:
            return
        parts = split(records, sites, spec, seed, minimum=0)
        assert len(parts) == sites
        assert sorted(np.concatenate(parts).tolist()) == list(range(len(records)))

    @given(seed=st.integers(0, 2**32), minimum=st.integers(1, 30))
    def test_the_minimum_is_honoured(self, seed, minimum):
        parts = split(EVEN, 3, Quantity(1.0), seed, minimum)
        assert min(map(len, parts)) >= minimum

    @pytest.mark.parametrize(
        "spec", [Iid(), Natural("place"), Dirichlet(0.5), Pathological(3), Quantity(0.5)]
    )
    def test_the_seed_fixes_the_split(self, spec):
        first, again, other = (split(EVEN, 3, spec, seed) for seed in (1, 1, 2))
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        differs = any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))
        assert differs != isinstance(spec, Natural)


def mix(rows: np.ndarray) -> np.ndarray:
    counts = Counter(EVEN.labels[row] for row in rows)
    return np.array([counts[name] for name in EVEN.classes()]) / len(rows)


class TestMeaning:
    def test_iid_sites_are_of_equal_size(self):
        assert [len(rows) for rows in split(rows_of([0, 1] * 11), 4, Iid(), 0)] == [6, 6, 5, 5]

    def test_natural_sites_are_the_values_of_the_column(self):
        parts = split(EVEN, 3, Natural("place"), 0)
        assert site_names(EVEN) == ("place 0", "place 1", "place 2")
        assert [{EVEN.sites[row] for row in rows} for rows in parts] == [
            {"place 0"},
            {"place 1"},
            {"place 2"},
        ]

    def test_a_small_alpha_skews_the_classes_and_a_large_one_does_not(self):
        def largest(alpha: float) -> float:
            return float(np.mean([mix(rows).max() for rows in split(EVEN, 4, Dirichlet(alpha), 0)]))

        assert largest(0.1) > 0.4
        assert largest(1000.0) < 0.2

    def test_pathological_sites_have_their_number_of_classes(self):
        parts = split(EVEN, 4, Pathological(2), 7)
        assert [np.count_nonzero(mix(rows)) for rows in parts] == [2, 2, 2, 2]

    def test_quantity_skews_sizes_and_not_classes(self):
        parts = split(EVEN, 4, Quantity(0.5), 3, minimum=50)
        assert max(map(len, parts)) > 2 * min(map(len, parts))
        assert max(mix(rows).max() for rows in parts if len(rows) > 300) < 0.25


class TestRefusals:
    @pytest.mark.parametrize("spec", [Iid(), Dirichlet(0.01), Quantity(0.01)])
    def test_a_site_that_stays_too_small_is_refused(self, spec):
        with pytest.raises(InputError) as caught:
            split(rows_of([0, 1] * 10), 4, spec, 0, minimum=6)
        assert caught.value.id == "site_too_small"
        assert "6" in caught.value.what

    @pytest.mark.parametrize(("sites", "classes"), [(2, 2), (4, 7)])
    def test_classes_that_cannot_be_shared_out_are_refused(self, sites, classes):
        with pytest.raises(InputError) as caught:
            split(EVEN, sites, Pathological(classes), 0)
        assert caught.value.id == "split_invalid"

    def test_another_number_of_natural_sites_is_refused_with_the_right_one(self):
        with pytest.raises(InputError) as caught:
            split(EVEN, 4, Natural("place"), 0)
        assert caught.value.id == "split_invalid"
        assert "3" in caught.value.do

    def test_records_without_a_site_column_have_no_natural_sites(self):
        with pytest.raises(InputError) as caught:
            split(Records(("a", "b"), ("x", "y")), 2, Natural("place"), 0)
        assert caught.value.id == "split_invalid"
