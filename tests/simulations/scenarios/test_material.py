"""The rows of a scenario: nobody is on both sides, and a file that is none is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cloister.client.site.records import Records
from cloister.privacy.errors import InputError
from cloister.privacy.model import BaseModel
from cloister.privacy.plan import Plan
from cloister.simulations.engine.holding import Holding
from cloister.simulations.engine.plans import Promise
from cloister.simulations.partition import Dirichlet
from cloister.simulations.scenarios import material, tables
from cloister.simulations.scenarios.catalogue import SCENARIOS, by_column, spread
from cloister.simulations.scenarios.comparison import Contest, sides
from cloister.simulations.scenarios.figures import wilson
from cloister.simulations.scenarios.material import Table, of_tables, of_texts, read
from cloister.simulations.scenarios.progress import Progress

REAL = Path(__file__).parents[3] / "../shared/data"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a,b\n", "site_empty"),
        ("a,b\n1,2,3\n", "file_format"),
        ("a,b\n1\n", "file_format"),
        ('a,b\n"1,2\n', "file_format"),
        ("a,b\n\xe9,2\n", "file_format"),
    ],
)
def test_files_that_are_no_tables_are_refused(text, reason, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.id == reason


def test_a_table_is_read_as_it_stands(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1, x\n2,\n")
    table = read(path)
    assert table.columns == {"a": ("1", "2"), "b": (" x", "")}
    assert table.take(np.array([1])).columns == {"a": ("2",), "b": ("",)}


def test_sites_are_disjoint_and_together_all_rows():
    table = Table({"row": tuple(map(str, range(400))), "y": tuple("ab"[k % 2] for k in range(400))})
    parts = spread(table, "y", ("n", "s", "w"), Dirichlet(1.0), 3)
    rows = [row for part in parts.values() for row in part.columns["row"]]
    assert sorted(rows, key=int) == list(table.columns["row"])
    assert set(by_column(table, "y")) == {"a", "b"}


def test_persons_are_on_one_side_of_what_is_held_back():
    units = np.repeat(np.arange(40), 3)
    held = Holding(np.arange(120.0)[:, None], np.zeros(120, dtype=np.int64), units)
    rest, back = sides(held, np.random.default_rng(0))
    persons = [{int(row) // 3 for row in side.features[:, 0]} for side in (rest, back)]
    assert not persons[0] & persons[1]
    assert len(back) == 18
    assert len(rest) + len(back) == 120


def test_a_label_that_no_training_row_has_is_refused():
    columns = tables.Columns((tables.Number("x", 0, 1),))
    train = {"n": Table({"x": ("1", "2"), "y": ("a", "b")})}
    with pytest.raises(InputError) as caught:
        of_tables(columns, "y", train, train, Table({"x": ("1",), "y": ("c",)}))
    assert caught.value.id == "class_unknown"
    with pytest.raises(InputError) as caught:
        of_tables(columns, "z", train, train, train["n"])
    assert caught.value.id == "column_missing"


@pytest.mark.parametrize(
    ("north", "test", "reason", "words"),
    [
        ("aaaa", "ab", "one_class", "n holds one class only"),
        ("abab", "abcc", "class_unknown", "2 of 4 test rows have a class that no site has"),
    ],
)
def test_what_no_site_could_learn_is_refused_before_a_text_is_read(north, test, reason, words):
    def of(labels: str) -> Records:
        return Records(tuple(f"text {n}" for n in range(len(labels))), tuple(labels))

    nowhere = BaseModel("none", Path("/nowhere"), "sha256:" + "0" * 64)
    with pytest.raises(InputError) as caught:
        of_texts(nowhere, {"n": of(north), "s": of("abba")}, of(test))
    assert caught.value.id == reason
    assert words in caught.value.what


@pytest.mark.parametrize(("card", "licence"), [("---\nlicense: mit\n---\n", "mit"), ("# no header\n", None)])
def test_the_plan_of_a_simulation_carries_what_the_card_of_its_base_model_declares(
    card, licence, tmp_path, monkeypatch
):
    (tmp_path / "README.md").write_text(card)
    base = BaseModel("tiny", tmp_path, "sha256:" + "0" * 64)
    monkeypatch.setattr(material, "_features", lambda _, texts: np.eye(6)[np.arange(len(texts)) % 6])

    def of(labels: str) -> Records:
        return Records(tuple(f"text {n} of {labels[:9]}" for n in range(len(labels))), tuple(labels))

    found = of_texts(base, {"n": of("ab" * 40), "s": of("ba" * 41), "w": of("aabb" * 20)}, of("ab"))
    contest = Contest(found, 8.0, 1e-5, 0, tmp_path)
    for parties in (contest._parties, contest._trial):
        plan = parties.plan("a try", Promise("local", 8.0, 1e-5))
        assert plan.base.licence == licence
        assert Plan.from_bytes(plan.to_bytes()) == plan
        assert (b'"licence"' in plan.to_bytes()) is (licence is not None)


def test_progress_says_what_is_left_by_what_was():
    said: list[str] = []
    times = iter([0.0, 10.0, 30.0, 40.0])
    progress = Progress(4, said.append, lambda: next(times))
    for words in "abcd":
        progress.begin(words)
    assert said == [
        "a … (1 of 4)",
        "b … (2 of 4, about 30 s left)",
        "c … (3 of 4, about 30 s left)",
        "d … (4 of 4, about 13 s left)",
    ]


def test_the_interval_of_wilson():
    """Known answer: 81 of 263, Newcombe 1998, table I (0.2553, 0.3662)."""
    low, high = wilson(81 / 263, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson(0.0, 20)[0] == 0.0
    assert wilson(1.0, 20)[1] == 1.0


@pytest.mark.skipif(not REAL.is_dir(), reason="the data sets are not here")
def test_the_public_ranges_fit_the_real_tables():
    heart = SCENARIOS["heart"].material(REAL, 0)
    assert {name: len(held) for name, held in heart.train.items()} == {
        "cleveland": 199,
        "hungarian": 172,
        "switzerland": 30,
        "va": 85,
    }
    assert len(heart.test) == 254
    credit = SCENARIOS["credit-risk"].material(REAL, 0)
    sizes = [len(side) for name in credit.train for side in (credit.train[name], credit.own[name])]
    assert sum(sizes) == 750
    assert heart.train["va"].features.shape[1] == 16
    assert credit.test.features.shape[1] == tables.CREDIT.width
