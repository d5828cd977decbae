"""Every kind of source gives the same records, and none of them says what is in a cell when it fails."""

from __future__ import annotations

import csv
import gzip
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cloister.client.site import records
from cloister.client.site.records import Records
from cloister.client.site.sources import cells, reading
from cloister.client.site.sources.place import Place
from cloister.privacy.errors import CloisterError, UsageError
from tests import postgres
from tests.postgres import PASSWORD, Postgres

Row = tuple[str | None, ...]
NAMES = ("text", "label", "person")
ROWS: tuple[Row, ...] = (  # in ascending order, for databases have none
    ("NA", "2", "p2"),
    ('a "dry" cough\nfor days — née, 咳嗽', "01", "p1"),
    ("chest pain, at rest; DROP TABLE notes", "01", "p1"),
)
SECRET = "secret words of Ms Smith"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres.running() as found:
        yield found


def write_csv(folder: Path, rows: Sequence[Row], names: Sequence[str] = NAMES) -> Place:
    with gzip.open(folder / "rows.csv.gz", "wt", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return Place.of(folder / "rows.csv.gz")


def write_jsonl(folder: Path, rows: Sequence[Row]) -> Place:
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps(dict(zip(NAMES, row, strict=True))) + "\n" for row in rows)
    )
    return Place.of(folder / "rows.jsonl")


def write_parquet(folder: Path, rows: Sequence[Row], name: str = "rows.parquet") -> Place:
    import pyarrow
    import pyarrow.parquet

    columns = {
        name: pyarrow.array([row[place] for row in rows], pyarrow.string())
        for place, name in enumerate(NAMES)
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / name)
    return Place.of(folder / name)


def write_shards(folder: Path, rows: Sequence[Row]) -> Place:
    (folder / "shards").mkdir()
    write_parquet(folder / "shards", rows[:1], "train-00000-of-00002.parquet")
    write_parquet(folder / "shards", rows[1:], "train-00001-of-00002.parquet")
    return Place.of(folder / "shards")


def write_saved(folder: Path, rows: Sequence[Row]) -> Place:
    import datasets

    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        datasets.Dataset.from_list([dict(zip(NAMES, row, strict=True)) for row in rows]).save_to_disk(
            folder / "saved"
        )
    finally:
        if not bars:
            datasets.enable_progress_bars()
    return Place.of(folder / "saved")


def write_sqlite(folder: Path, rows: Sequence[Row], **place: str) -> Place:
    connection = sqlite3.connect(folder / "rows.db")
    connection.execute('CREATE TABLE "the notes" (text TEXT, label TEXT, person TEXT)')
    connection.executemany('INSERT INTO "the notes" VALUES (?, ?, ?)', reversed(rows))
    connection.commit()
    connection.close()
    return Place.of(f"sqlite:///{folder / 'rows.db'}", **(place or {"table": "the notes"}))  # type: ignore[arg-type]


def of_postgres(server: Postgres, rows: Sequence[Row], **place: Any) -> Place:
    server.run(
        "DROP SCHEMA IF EXISTS clinic CASCADE",
        "CREATE SCHEMA clinic",
        'CREATE TABLE clinic."the notes" (text text, label text, person text)',
        *(
            'INSERT INTO clinic."the notes" VALUES (' + ", ".join(_quoted(cell) for cell in row) + ")"
            for row in rows
        ),
    )
    return at(server, **place)


def at(server: Postgres, **place: Any) -> Place:
    return Place.of(server.url, **({"table": "clinic.the notes"} | place), password_env="CLINIC_PASSWORD")


def _quoted(cell: str | None) -> str:
    return "NULL" if cell is None else "'" + cell.replace("'", "''") + "'"


WRITERS = [write_csv, write_jsonl, write_parquet, write_shards, write_saved, write_sqlite]


@pytest.fixture(
    params=[*WRITERS, pytest.param(of_postgres, marks=pytest.mark.slow)], ids=lambda writer: writer.__name__
)
def write(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Place]:
    """Writes rows into a source of one kind."""
    monkeypatch.setenv("CLINIC_PASSWORD", PASSWORD)
    if request.param is of_postgres:
        server = request.getfixturevalue("server")
        return lambda rows: of_postgres(server, rows)
    return lambda rows: request.param(tmp_path, rows)


def refused(act: Callable[[], object], capfd: pytest.CaptureFixture[str] | None = None) -> CloisterError:
    """The error of a refusal, in which no cell and no password stands."""
    with pytest.raises(CloisterError) as caught:
        act()
    error = caught.value
    said = error.line() + ("".join(capfd.readouterr()) if capfd else "")
    assert "\n" not in error.line()
    assert SECRET not in said
    assert PASSWORD not in said
    return error


def read(place: Place) -> dict[str, tuple[str, ...]]:
    return reading.read(place, NAMES)


class TestEveryKind:
    """The conformance of sources: each test holds for every kind."""

    def test_the_same_table_gives_the_same_records(self, write: Callable[..., Place]) -> None:
        found = records.load(write(ROWS), text="text", label="label", person="person")
        texts, labels, persons = zip(*ROWS, strict=True)
        assert found == Records(texts, labels, persons)

    def test_the_columns_are_known(self, write: Callable[..., Place]) -> None:
        assert reading.columns(write(ROWS)) == NAMES

    def test_one_column_alone(self, write: Callable[..., Place]) -> None:
        assert reading.read(write(ROWS), ["label"])["label"] in (("2", "01", "01"), ("01", "01", "2"))

    def test_a_cell_without_a_value_is_empty_and_its_row_refused_or_dropped(
        self, write: Callable[..., Place]
    ) -> None:
        place = write([("", "1", "p"), *ROWS])
        error = refused(lambda: records.load(place, text="text", label="label"))
        assert (error.id, "text in 1 of 4" in error.what) == ("value_missing", True)
        assert len(records.load(place, text="text", label="label", missing="drop")) == 3

    def test_a_missing_column_is_named(self, write: Callable[..., Place]) -> None:
        place = write(ROWS)
        error = refused(lambda: reading.read(place, ["text", "ward"]))
        assert (error.id, "ward" in error.what, "text, label, person" in error.do) == (
            "column_missing",
            True,
            True,
        )

    def test_a_huge_cell_is_refused(
        self, write: Callable[..., Place], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(cells, "MOST_CHARACTERS", 5000)
        place = write([*ROWS, (SECRET + "x" * 5000, "1", "p")])
        assert refused(lambda: read(place), capfd).id == "cell_invalid"

    def test_more_than_may_be_read_together_is_refused(
        self, write: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cells, "MOST_OF_ALL", 50)
        place = write(ROWS)
        assert refused(lambda: read(place)).id == "cell_invalid"

    def test_a_source_without_rows_is_refused(self, write: Callable[..., Place], request: Any) -> None:
        if "write_saved" in request.node.name:
            pytest.skip("datasets writes no columns for an empty list")
        place = write(())
        assert refused(lambda: records.load(place, text="text", label="label")).id == "site_empty"


@pytest.mark.parametrize("write", WRITERS[:3] + WRITERS[5:])
def test_a_nul_is_refused(
    write: Callable[..., Place], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """PostgreSQL holds none."""
    place = write(tmp_path, [*ROWS, (f"{SECRET}\0", "1", "p")])
    assert refused(lambda: read(place), capfd).id == "cell_invalid"


class TestBrokenInput:
    @pytest.mark.parametrize(
        ("name", "content", "reason"),
        [
            ("a.csv", f"text,label,person,text\n{SECRET},1,p,{SECRET}\n".encode(), "column_twice"),
            ("a.csv", b"text,label,person\n\xff\xfe,1,p\n", "file_format"),
            ("a.csv", SECRET.encode("utf-16"), "file_format"),
            (
                "a.jsonl",
                f'{{"text": "{SECRET}", "text": "b", "label": 1, "person": 1}}\n'.encode(),
                "column_twice",
            ),
            ("a.jsonl", b'{"text": ' + b"[" * 200_000 + b"\n", "file_format"),
            ("a.jsonl", f'["{SECRET}"]\n'.encode(), "file_format"),
            ("a.jsonl", f'{{"text": "{SECRET}", "label": NaN, "person": 1}}\n'.encode(), "file_format"),
            ("a.jsonl", b'{"text": "\\ud800", "label": 1, "person": 1}\n', "cell_invalid"),
            (
                "a.jsonl",
                b'{"text": "a", "label": 1, "person": 1}\n{"text": 1, "label": 1, "person": 1}\n',
                "column_type",
            ),
            ("a.jsonl", f'{{"text": {{"a": "{SECRET}"}}, "label": 1, "person": 1}}'.encode(), "column_type"),
            ("a.jsonl", b'{"text": "a", "label": ' + b"1" * 5000 + b', "person": 1}', "file_format"),
            ("a.parquet", b"PAR1" + SECRET.encode() + b"PAR1", "file_format"),
            (
                "a.csv.gz",
                gzip.compress(b"text,label,person\n" + b"a,1,p\n" * 9999, mtime=0)[:60],
                "file_format",
            ),
        ],
    )
    def test_a_file(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, content: bytes, reason: str
    ) -> None:
        (tmp_path / name).write_bytes(content)
        assert refused(lambda: read(Place.of(tmp_path / name)), capfd).id == reason

    def test_a_pipe_is_no_file_and_nobody_waits_for_it(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "rows.csv")
        assert refused(lambda: read(Place.of(tmp_path / "rows.csv"))).id == "file_missing"

    @pytest.mark.parametrize("write", WRITERS)
    def test_a_link_that_takes_the_place_of_a_source(
        self, write: Callable[..., Place], tmp_path: Path
    ) -> None:
        place = write(tmp_path, ROWS)
        path = Path(place.location.removeprefix("sqlite:///"))
        path.rename(tmp_path / f"moved{path.suffix}")
        path.symlink_to(tmp_path / f"moved{path.suffix}")
        assert refused(lambda: read(place)).id == "source_replaced"

    @pytest.mark.parametrize(
        ("state", "reason"),
        [
            ('{"_data_files": [{"filename": "../secret.arrow"}]}', "file_format"),
            ('{"_data_files": []}', "file_format"),
            ("{}", "file_format"),
            ("[" * 100_000, "file_format"),
            ('{"_data_files": [{"filename": "gone.arrow"}]}', "file_missing"),
        ],
    )
    def test_a_folder_that_lists_what_it_has_not(self, tmp_path: Path, state: str, reason: str) -> None:
        place = write_saved(tmp_path, ROWS)
        (tmp_path / "saved" / "state.json").write_text(state)
        assert refused(lambda: read(place)).id == reason

    def test_a_folder_of_nothing_or_of_several_splits(self, tmp_path: Path) -> None:
        assert refused(lambda: read(Place.of(tmp_path))).id == "file_format"
        write_parquet(tmp_path, ROWS, "train-00000-of-00001.parquet")
        assert read(Place.of(tmp_path))["label"] == ("2", "01", "01")
        write_parquet(tmp_path, ROWS, "test-00000-of-00001.parquet")
        assert "more than one split" in refused(lambda: read(Place.of(tmp_path))).what
        (tmp_path / "dataset_dict.json").write_text("{}")
        assert refused(lambda: read(Place.of(tmp_path))).id == "file_format"


def test_numbers_with_names_come_out_as_their_names(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["heart", "head"])}
    )
    datasets.disable_progress_bars()
    data = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    data.save_to_disk(tmp_path / "saved")
    data.to_parquet(tmp_path / "rows.parquet")
    datasets.enable_progress_bars()
    for name in ("saved", "rows.parquet"):
        assert reading.read(Place.of(tmp_path / name), ["label"])["label"] == ("head", "heart", "")


class TestPlaces:
    @pytest.mark.parametrize(
        "url",
        [
            f"postgresql://me:{PASSWORD.replace(' ', '%20')}@host/db",
            f"postgresql+psycopg://me@host/db?password={PASSWORD.split()[0]}",
            f"postgresql://me@host/db?sslpassword={PASSWORD.split()[0]}",
        ],
    )
    def test_a_password_in_a_url_is_refused_and_not_said(self, url: str) -> None:
        error = refused(lambda: Place.of(url, table="notes"))
        assert error.id == "password_exposed"
        assert PASSWORD.split()[0] not in error.line()

    @pytest.mark.parametrize(
        "url",
        [
            "mysql://host/db",
            "sqlite://",
            "sqlite:///:memory:",
            "sqlite:///file:a?uri=true",
            "://",
            "postgresql://h:x/",
        ],
    )
    def test_other_urls_are_refused(self, url: str) -> None:
        assert refused(lambda: Place.of(url, table="notes")).id == "source_invalid"

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"table": "a", "query": "SELECT 1"},
            {"table": "a", "password_env": "A", "password_file": Path("b")},
        ],
    )
    def test_options_that_do_not_go_together(self, options: dict[str, Any]) -> None:
        with pytest.raises(UsageError):
            Place.of("postgresql://host/db", **options)
        with pytest.raises(UsageError):
            Place.of("notes.csv", table="a")

    def test_a_title_has_no_host_user_or_query(self) -> None:
        place = Place.of("postgresql://me@host/db", query=f"SELECT '{SECRET}'")
        assert place.title == "The query to the postgresql database"

    def test_a_password_from_a_file_of_the_owners_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "password"
        place = Place.of("postgresql://me@host/db", table="notes", password_file=path)
        assert refused(place.password).id == "password_missing"
        path.write_text(f"{PASSWORD}\nmore")
        path.chmod(0o640)
        assert refused(place.password).id == "password_missing"
        path.chmod(0o600)
        assert place.password() == PASSWORD
        path.write_text("\n")
        assert refused(place.password).id == "password_missing"

    def test_a_password_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        place = Place.of("postgresql://me@host/db", table="notes", password_env="CLINIC")
        monkeypatch.delenv("CLINIC", raising=False)
        assert refused(place.password).id == "password_missing"
        monkeypatch.setenv("CLINIC", PASSWORD)
        assert place.password() == PASSWORD
        assert PASSWORD not in place.model_dump_json()


class TestSqlite:
    def test_a_query(self, tmp_path: Path) -> None:
        query = "SELECT text, label, 'p%' || person AS person FROM \"the notes\" WHERE label = '01';"
        assert read(write_sqlite(tmp_path, ROWS, query=query))["person"] == ("p%p1", "p%p1")

    @pytest.mark.parametrize(
        "query",
        [
            'DELETE FROM "the notes"',
            'DROP TABLE "the notes"',
            "INSERT INTO \"the notes\" VALUES ('a', 'b', 'c') RETURNING text, label, person",
            "ATTACH 'other.db' AS other",
            "PRAGMA journal_mode = WAL",
            'SELECT 1; DELETE FROM "the notes"',
            "SELECT nothing",
            f"SELECT '{SECRET}",
            "",
        ],
    )
    def test_nothing_but_one_select_is_done(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str], query: str
    ) -> None:
        place = write_sqlite(tmp_path, ROWS, query=query)
        before = (tmp_path / "rows.db").read_bytes()
        assert refused(lambda: read(place), capfd).id in ("database_failed", "source_invalid")
        assert (tmp_path / "rows.db").read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == ["rows.db"]

    def test_a_column_that_a_query_names_twice(self, tmp_path: Path) -> None:
        place = write_sqlite(tmp_path, ROWS, query='SELECT text, text, label, person FROM "the notes"')
        assert refused(lambda: read(place)).id == "column_twice"

    @pytest.mark.parametrize("value", [f"x'{b'secret words of Ms Smith'.hex()}'", "42"])
    def test_values_that_are_no_texts(self, tmp_path: Path, value: str) -> None:
        query = f"SELECT text, label, person FROM \"the notes\" UNION ALL SELECT {value}, 'a', 'b'"
        assert refused(lambda: read(write_sqlite(tmp_path, ROWS, query=query))).id == "column_type"

    def test_bytes_that_are_no_utf_8(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        wrong = f"CAST(x'{SECRET.encode().hex()}ff' AS TEXT)"
        place = write_sqlite(tmp_path, ROWS, query=f'SELECT {wrong} AS text, label, person FROM "the notes"')
        assert refused(lambda: read(place), capfd).id in ("database_failed", "file_format")

    def test_no_database(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        place = Place.of(f"sqlite:///{tmp_path / 'a.db'}", table="notes")
        assert refused(lambda: read(place)).id == "file_missing"
        assert not (tmp_path / "a.db").exists()
        (tmp_path / "a.db").write_text(f"{SECRET} " * 400)
        error = refused(lambda: read(place), capfd)
        assert (error.id, "SQLITE_NOTADB" in error.what) == ("database_failed", True)


@pytest.mark.slow
class TestPostgres:
    @pytest.fixture(autouse=True)
    def _password(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CLINIC_PASSWORD", PASSWORD)

    def test_the_password_from_libpqs_own_file(
        self, server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        of_postgres(server, ROWS)
        (tmp_path / "pgpass").write_text(f"*:*:*:*:{PASSWORD}\n")
        (tmp_path / "pgpass").chmod(0o600)
        monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
        assert len(read(Place.of(server.url, table="clinic.the notes"))["text"]) == 3

    def test_a_wrong_password_is_not_said(
        self, server: Postgres, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        place = of_postgres(server, ROWS)
        monkeypatch.setenv("CLINIC_PASSWORD", SECRET)
        assert refused(lambda: read(place), capfd).id == "database_failed"

    def test_a_query(self, server: Postgres) -> None:
        query = "SELECT text, label, '%s' AS person FROM clinic.\"the notes\" WHERE label LIKE '%2' -- x"
        assert read(of_postgres(server, ROWS, table=None, query=query))["person"] == ("%s",)

    @pytest.mark.parametrize(
        "query",
        [
            'DELETE FROM clinic."the notes"',
            'WITH gone AS (DELETE FROM clinic."the notes" RETURNING *) SELECT * FROM gone',
            'SELECT 1; COMMIT; DELETE FROM clinic."the notes"',
            'SELECT text, label, person FROM clinic."the notes"; DELETE FROM clinic."the notes"',
            "SELECT clinic.forget()",
            "SELECT label::int AS text, label, person FROM (SELECT '"
            + SECRET
            + "' AS label, 'a' AS person) AS q",
            "SELECT nothing",
        ],
    )
    def test_nothing_but_one_select_is_done(
        self, server: Postgres, capfd: pytest.CaptureFixture[str], query: str
    ) -> None:
        place = of_postgres(server, ROWS, table=None, query=query)
        server.run(
            "CREATE FUNCTION clinic.forget() RETURNS text LANGUAGE sql "
            "AS $$ DELETE FROM clinic.\"the notes\"; SELECT 'gone' $$"
        )
        error = refused(lambda: read(place), capfd)
        assert error.id == "database_failed"
        assert server.rows('SELECT count(*) FROM clinic."the notes"') == [(3,)]

    def test_a_user_without_the_right_to_read(self, server: Postgres) -> None:
        of_postgres(server, ROWS)
        server.run("DROP ROLE IF EXISTS stranger", f"CREATE ROLE stranger LOGIN PASSWORD '{PASSWORD}'")
        place = Place.of(
            server.url.replace("owner@", "stranger@"),
            table="clinic.the notes",
            password_env="CLINIC_PASSWORD",
        )
        error = refused(lambda: read(place))
        assert (error.id, "42501" in error.what) == ("database_failed", True)

    def test_typed_columns_become_texts(self, server: Postgres) -> None:
        place = of_postgres(
            server,
            ROWS,
            table=None,
            query="SELECT 'a' AS text, 3 AS label, DATE '2026-01-02' AS person UNION ALL "
            "SELECT 'b', 4, NULL UNION ALL SELECT 'c', 5, DATE '2026-01-03'",
        )
        assert read(place) == {
            "text": ("a", "b", "c"),
            "label": ("3", "4", "5"),
            "person": ("2026-01-02", "", "2026-01-03"),
        }

    def test_a_server_that_goes_away_in_the_middle(
        self, server: Postgres, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        query = (
            f"SELECT '{SECRET}' AS text, g % 2 || '' AS label, '' AS person FROM generate_series(1, 200000) g"
        )
        place = of_postgres(server, ROWS, table=None, query=query)
        row, seen = cells.Texts.row, []

        def counted(self: cells.Texts, found: Sequence[object]) -> tuple[str, ...]:
            seen.append(1)
            if len(seen) == 1500:
                server.control("-m", "immediate", "stop")
            return row(self, found)

        monkeypatch.setattr(cells.Texts, "row", counted)
        try:
            assert refused(lambda: read(place), capfd).id == "database_failed"
            assert 1500 <= len(seen) < 200_000
            assert refused(lambda: read(place), capfd).id == "database_failed"  # it is not there at all
        finally:
            server.start()


def test_the_driver_may_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    place = Place.of("postgresql://me@host/db", table="notes")
    error = refused(lambda: read(place))
    assert (error.id, "cloister[postgres]" in error.do) == ("driver_missing", True)


def test_neither_torch_nor_a_database_is_loaded_for_a_file(tmp_path: Path) -> None:
    place = write_jsonl(tmp_path, ROWS)
    code = (
        "import sys; from cloister.client.site.sources import reading, place\n"
        f"reading.read(place.Place.of({place.location!r}), ['text'])\n"
        "assert not {'torch', 'sqlalchemy', 'pyarrow', 'psycopg', 'datasets'} & set(sys.modules)"
    )
    links = str(Path(__file__).parents[3] / ".links")
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": links})
