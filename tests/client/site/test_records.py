"""Reading a site's file: every format, every refusal, and what is kept from others."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.client.site.records import Records, hold_out, load, rows_band
from cloister.privacy.errors import InputError

DATA = Path(__file__).parents[3] / "../shared/data"
ROWS = (
    {"text": "chest pain, at rest", "label": "01", "person": "p1", "place": "north"},
    {"text": "NA", "label": "2", "person": "p2", "place": "south"},
    {"text": 'a "dry" cough\nfor days — née', "label": "01", "person": "p1", "place": "north"},
)


def write_csv(path: Path, rows: tuple[dict[str, str], ...] = ROWS, bom: bool = False) -> Path:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8-sig" if bom else "utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: tuple[dict[str, str], ...] = ROWS) -> Path:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def write_parquet(path: Path, rows: tuple[dict[str, str], ...] = ROWS) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


def refusal(path: Path, **columns: str) -> InputError:
    with pytest.raises(InputError) as caught:
        load(path, **({"text": "text", "label": "label"} | columns))
    assert "\n" not in caught.value.line()
    return caught.value


class TestFormats:
    @pytest.mark.parametrize(
        "path",
        [
            pytest.param(("rows.csv", write_csv), id="csv"),
            pytest.param(("rows.csv.gz", write_csv), id="csv.gz"),
            pytest.param(("rows.v2.CSV", write_csv), id="upper-case"),
            pytest.param(("rows.jsonl", write_jsonl), id="jsonl"),
            pytest.param(("rows.jsonl.gz", write_jsonl), id="jsonl.gz"),
            pytest.param(("rows.parquet", write_parquet), id="parquet"),
        ],
    )
    def test_all_hold_the_same_records(self, tmp_path, path):
        name, write = path
        records = load(write(tmp_path / name), text="text", label="label", person="person", site="place")
        assert records == Records(
            tuple(row["text"] for row in ROWS),
            tuple(row["label"] for row in ROWS),
            tuple(row["person"] for row in ROWS),
            tuple(row["place"] for row in ROWS),
        )

    def test_a_byte_order_mark_is_not_part_of_the_first_column(self, tmp_path):
        records = load(write_csv(tmp_path / "excel.csv", bom=True), text="text", label="label")
        assert records.texts[0] == "chest pain, at rest"

    def test_numbers_of_a_typed_file_become_their_text(self, tmp_path):
        (tmp_path / "numbers.jsonl").write_text('{"text": "a", "label": 0}\n{"text": "b", "label": 1}\n')
        assert load(tmp_path / "numbers.jsonl", text="text", label="label").labels == ("0", "1")

    def test_persons_and_sites_are_absent_unless_named(self, tmp_path):
        records = load(write_csv(tmp_path / "rows.csv"), text="text", label="label")
        assert records.persons is None
        assert records.sites is None

    def test_one_column_may_serve_twice(self, tmp_path):
        records = load(write_csv(tmp_path / "rows.csv"), text="text", label="place", site="place")
        assert records.sites == records.labels == ("north", "south", "north")


class TestRefusals:
    def test_a_missing_file_is_named(self, tmp_path):
        error = refusal(tmp_path / "nowhere.csv")
        assert (error.id, "nowhere.csv" in error.what) == ("file_missing", True)

    def test_a_folder_is_no_file(self, tmp_path):
        (tmp_path / "folder.csv").mkdir()
        assert refusal(tmp_path / "folder.csv").id == "file_missing"

    @pytest.mark.parametrize("name", ["rows.xlsx", "rows", "rows.gz", "rows.parquet.gz", "csv"])
    def test_another_ending_is_refused(self, tmp_path, name):
        (tmp_path / name).write_text("text,label\n")
        assert refusal(tmp_path / name).id == "file_format"

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("ragged.csv", b"text,label\na,1\nsecret words,2,3,4\n"),
            ("wide.csv", b"text,label\nsecret words,a,1\nmore,b,2\n"),
            ("short.csv", b"text,label\nsecret words\nb,2\n"),
            ("quote.csv", b'text,label\n"secret words,1\nb,2\n'),
            ("latin.csv", "text,label\nnée,1\nb,2\n".encode("latin-1")),
            ("cut.csv.gz", gzip.compress(b"text,label\n" + b"a,1\nb,2\n" * 999, mtime=0)[:40]),
            ("plain.csv.gz", b"text,label\na,1\nb,2\n"),
            ("broken.jsonl", b'{"text": "secret words", "label": \n'),
            ("plain.parquet", b"text,label\na,1\nb,2\n"),
        ],
    )
    def test_broken_content_is_refused_without_quoting_it(self, tmp_path, capfd, name, content):
        (tmp_path / name).write_bytes(content)
        error = refusal(tmp_path / name)
        assert error.id == "file_format"
        assert "secret words" not in error.line() + "".join(capfd.readouterr())

    @pytest.mark.parametrize("write", [write_csv, write_jsonl, write_parquet])
    def test_a_missing_column_is_named_and_the_present_ones_listed(self, tmp_path, write):
        ending = {write_csv: ".csv", write_jsonl: ".jsonl", write_parquet: ".parquet"}[write]
        error = refusal(write(tmp_path / f"rows{ending}"), label="department")
        assert error.id == "column_missing"
        assert "department" in error.what
        assert "text, label, person, place" in error.do

    @pytest.mark.parametrize("column", ["text", "label", "place"])
    def test_rows_without_a_value_are_counted(self, tmp_path, column):
        rows = (*ROWS, ROWS[0] | {column: ""}, ROWS[1] | {column: " \t"})
        error = refusal(write_csv(tmp_path / "rows.csv", rows), person="person", site="place")
        assert error.id == "value_missing"
        assert f"{column} in 2 of 5" in error.what

    def test_a_row_may_lack_its_person_because_a_policy_decides(self, tmp_path):
        rows = (*ROWS, ROWS[0] | {"person": ""})
        found = load(write_csv(tmp_path / "rows.csv", rows), text="text", label="label", person="person")
        assert found.persons == (*(row["person"] for row in ROWS), "")

    def test_null_and_nan_are_missing_values(self, tmp_path):
        rows = ({"text": "a", "label": 1.5}, {"text": None, "label": float("nan")})
        error = refusal(write_parquet(tmp_path / "rows.parquet", rows))
        assert (error.id, "text in 1, label in 1 of 2" in error.what) == ("value_missing", True)

    def test_a_column_of_lists_is_no_text(self, tmp_path):
        (tmp_path / "lists.jsonl").write_text('{"text": ["a"], "label": "x"}\n')
        assert refusal(tmp_path / "lists.jsonl").id == "column_type"

    def test_one_class_is_refused(self, tmp_path):
        error = refusal(write_csv(tmp_path / "rows.csv", (ROWS[0], ROWS[2])))
        assert (error.id, "label" in error.what) == ("one_class", True)

    @pytest.mark.parametrize("content", ["", "text,label\n"])
    def test_no_rows_are_refused(self, tmp_path, content):
        (tmp_path / "empty.csv").write_text(content)
        assert refusal(tmp_path / "empty.csv").id == "site_empty"

    def test_unknown_classes_are_counted_and_not_quoted(self, tmp_path):
        records = load(write_csv(tmp_path / "rows.csv"), text="label", label="text")
        with pytest.raises(InputError) as caught:
            records.targets(["chest pain, at rest", "NA"])
        assert caught.value.id == "class_unknown"
        assert "1 of 3" in caught.value.what
        assert "cough" not in caught.value.line()


class TestRecords:
    def test_targets_follow_the_order_of_the_plan(self):
        records = Records(("a", "b", "c"), ("x", "y", "x"))
        assert records.targets(["y", "x", "z"]).tolist() == [1, 0, 1]
        assert records.targets(["y", "x"]).dtype == np.int64
        assert records.classes() == ("x", "y")

    def test_take_keeps_the_columns_together(self):
        records = Records(("a", "b", "c"), ("x", "y", "z"), ("p", "q", "r"), ("s", "t", "u"))
        assert records.take([2, 0]) == Records(("c", "a"), ("z", "x"), ("r", "p"), ("u", "s"))

    def test_columns_of_different_length_are_a_bug(self):
        with pytest.raises(ValueError, match="differ"):
            Records(("a",), ("x", "y"))

    def test_the_printed_form_shows_no_record(self):
        assert "secret" not in repr(Records(("secret",), ("secret",), ("secret",), ("secret",)))


class TestHoldOut:
    RECORDS = Records(tuple(f"text {n % 150}" for n in range(200)), tuple(str(n % 3) for n in range(200)))

    def test_it_is_a_partition_with_no_text_on_both_sides(self):
        train, held = hold_out(self.RECORDS, fraction=0.25, key=b"k" * 32)
        assert len(train) + len(held) == 200
        assert not set(train.texts) & set(held.texts)
        assert 25 < len(held) < 75

    def test_the_side_depends_on_text_and_key_only(self):
        _, held = hold_out(self.RECORDS, fraction=0.25, key=b"k" * 32)
        _, again = hold_out(self.RECORDS.take(range(199, -1, -1)), fraction=0.25, key=b"k" * 32)
        _, other = hold_out(self.RECORDS, fraction=0.25, key=b"l" * 32)
        assert set(held.texts) == set(again.texts) != set(other.texts)

    def test_texts_that_differ_only_in_form_stay_together(self):
        pairs = [(f"Café  note {n} ", f"cafe\u0301 NOTE {n}") for n in range(100)]
        records = Records(tuple(text for pair in pairs for text in pair), ("x", "y") * 100)
        _, held = hold_out(records, fraction=0.5, key=b"")
        assert all((first in held.texts) == (second in held.texts) for first, second in pairs)

    def test_a_side_without_rows_is_refused(self):
        with pytest.raises(InputError) as caught:
            hold_out(Records(("same", "same"), ("x", "y")), fraction=0.5, key=b"k")
        assert caught.value.id == "site_too_small"

    def test_of_few_texts_one_is_held_out_whatever_the_key(self):
        """Of 20 texts chance alone holds out none under one key in eight."""
        few = Records(tuple(f"text {n % 20}" for n in range(40)), ("x", "y") * 20)
        found = [hold_out(few, fraction=0.1, key=bytes([key])) for key in range(100)]
        alone = [held for _, held in found if len(set(held.texts)) == 1]
        assert all(held.texts for _, held in found)
        assert all(len(held) == 2 for held in alone)  # both rows of the text
        assert len(alone) > 25  # one by chance, or none and then this one

    @given(st.sets(st.integers(0, 500), min_size=2, max_size=25), st.integers(0, 500), st.binary(max_size=4))
    def test_one_text_more_changes_one_text_of_the_training_rows_at_most(self, texts, more, key):
        def trained(numbers):
            rows = tuple(f"text {n}" for n in sorted(numbers))
            try:
                return set(hold_out(Records(rows, ("x",) * len(rows)), fraction=0.1, key=key)[0].texts)
            except InputError:
                return set()  # all were held out: nothing is trained on

        assert len(trained(texts) ^ trained(texts | {more})) <= 1

    @pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0])
    def test_a_share_outside_its_range_is_a_bug(self, fraction):
        with pytest.raises(ValueError, match="between 0 and 1"):
            hold_out(self.RECORDS, fraction=fraction, key=b"k")


class TestBands:
    @pytest.mark.parametrize(
        ("rows", "band"),
        [(1, (1, 1)), (2, (2, 3)), (511, (256, 511)), (512, (512, 1023)), (600, (512, 1023))],
    )
    def test_known_answers(self, rows, band):
        assert rows_band(rows) == band

    @given(st.integers(1, 2**40))
    def test_the_bands_partition_the_counts(self, rows):
        low, high = rows_band(rows)
        assert low <= rows <= high
        assert rows_band(low) == rows_band(high) == (low, high)
        assert rows_band(high + 1)[0] == high + 1

    def test_no_rows_have_no_band(self):
        with pytest.raises(InputError) as caught:
            rows_band(0)
        assert caught.value.id == "site_empty"


class TestNothingStaysBehind:
    def test_no_copy_of_the_records_is_left_on_the_disk(self, tmp_path, monkeypatch):
        temporary = tmp_path / "temporary"
        temporary.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        load(write_jsonl(tmp_path / "rows.jsonl"), text="text", label="label")
        assert list(temporary.iterdir()) == []
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["rows.jsonl", "temporary"]

    def test_a_refused_file_leaves_no_copy_either(self, tmp_path, monkeypatch):
        temporary = tmp_path / "temporary"
        temporary.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        refusal(write_jsonl(tmp_path / "rows.jsonl"), label="department")
        assert list(temporary.iterdir()) == []

    @pytest.mark.slow
    def test_the_home_folder_stays_untouched_and_torch_unloaded(self, tmp_path):
        path = write_jsonl(tmp_path / "rows.jsonl")
        (tmp_path / "home").mkdir()
        code = (
            "import sys; from pathlib import Path; from cloister.client.site.records import load\n"
            f"load(Path({str(path)!r}), text='text', label='label'); assert 'torch' not in sys.modules"
        )
        links = str(Path(__file__).parents[3] / ".links")
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            env={"HOME": str(tmp_path / "home"), "PYTHONPATH": links, "PATH": ""},
        )
        assert list((tmp_path / "home").rglob("*")) == []


@pytest.mark.skipif(not DATA.exists(), reason="the shared data folder is not beside this checkout")
class TestRealFiles:
    @pytest.mark.parametrize(
        ("name", "columns", "rows", "classes"),
        [
            ("banking77/test.csv", ("text", "label"), 3080, 77),
            ("sst2/test.csv", ("text", "label"), 872, 2),
            ("mts_dialog/train.jsonl.gz", ("dialogue", "label"), 1201, 20),
            ("medquad/test.jsonl.gz", ("question", "site"), 1593, 8),
        ],
    )
    def test_row_and_class_counts_are_known(self, name, columns, rows, classes):
        records = load(DATA / name, text=columns[0], label=columns[1])
        assert (len(records), len(records.classes())) == (rows, classes)
