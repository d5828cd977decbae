"""``cloister site data scan`` as terminal sessions."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from cloister.client.cli import app
from cloister.client.site.datasets import Datasets
from cloister.client.site.folder import SiteFolder
from cloister.client.site.identifiers import measured
from cloister.client.site.identifiers.findings import KINDS
from cloister.privacy import durable
from cloister.privacy.errors import CloisterError, InputError, UsageError

SECRET = ("ada@example.org", "4111 1111 1111 1111", "Marsh", "H1234567")
ROWS = [
    "Mail ada@example.org about card 4111 1111 1111 1111,a",
    "Dr. Ada Marsh saw H1234567,b",
    "nothing to see,a",
]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["data", "scan", *arguments])
    if result.exception is not None:
        raise result.exception
    assert not any(secret in result.output for secret in SECRET)
    return result.output


def refused(kind: type[CloisterError], *arguments: str) -> CloisterError:
    with pytest.raises(kind) as refusal:
        run(*arguments)
    assert not any(secret in refusal.value.line() for secret in SECRET)
    return refusal.value


@pytest.fixture
def notes(tmp_path):
    path = tmp_path / "notes.csv"
    path.write_text("\n".join(["text,label", *ROWS]) + "\n")
    return path


def test_a_scan_says_every_kind_with_its_measured_figures(notes, tmp_path):
    told = run(str(notes), "--dir", str(tmp_path)).splitlines()
    assert told[0] == "3 texts scanned; something was found in 2."
    assert sum("found in" in line for line in told) == len(KINDS)  # all but the whole texts, and the head
    assert any(line.startswith("  payment card: 1 found in 1 texts; recall") for line in told)
    assert told[-1] == measured.CAUTION


def test_the_sites_own_patterns_are_used(notes, tmp_path):
    (tmp_path / "identifiers.json").write_text('{"hospital-number": "H[0-9]{7}"}')
    assert "hospital-number: 1 found in 1 texts; the site's own pattern" in run(
        str(notes), "--dir", str(tmp_path)
    )


def test_json_has_the_counts_and_the_figures(notes, tmp_path):
    value = json.loads(run(str(notes), "--dir", str(tmp_path), "--json"))
    assert value["kinds"]["email"] == {"found": 1, "texts": 1}
    assert value["kinds"]["nhs"] == {"found": 0, "texts": 0}
    assert value["measured"] == measured.figures().to_json()
    assert value["caution"] == measured.CAUTION


def test_refuse_says_what_was_counted(notes, tmp_path):
    error = refused(InputError, str(notes), "--dir", str(tmp_path), "--action", "refuse")
    assert error.id == "identifiers_found"
    assert "card 1, email 1, name 1" in error.what
    clean = tmp_path / "clean.csv"
    clean.write_text("text,label\nfine,a\nwell,b\n")
    assert run(str(clean), "--dir", str(tmp_path), "--action", "refuse").startswith("2 texts scanned")


@pytest.mark.parametrize(
    ("options", "kind", "reason"),
    [
        (["--action", "mask"], UsageError, "option_invalid"),
        (["--model", "x"], UsageError, "option_invalid"),
        (["--text", "note"], InputError, "column_missing"),
    ],
)
def test_wrong_options_are_refused(notes, tmp_path, options, kind, reason):
    assert refused(kind, str(notes), "--dir", str(tmp_path), *options).id == reason


def test_a_name_is_that_of_a_registered_dataset(tmp_path):
    site = SiteFolder.create(tmp_path / "north", "north")
    assert refused(InputError, "none", "--dir", str(site.path)).id == "file_missing"


@pytest.fixture
def north(tmp_path):
    path = tmp_path / "many.csv"
    rows = [f"note {row} of ada{row}@example.org,{'ab'[row % 2]}" for row in range(50)]
    path.write_text("\n".join(["text,label", *rows]) + "\n")
    site = SiteFolder.create(tmp_path / "north", "north")
    durable.private_folder(site.path / "datasets")
    site.vault.write(site.path / "datasets" / "held-out.key", bytes(32))  # the same sides in every run
    return path, site


def register(path, site, *options):
    arguments = ["data", "add", str(path), "--dir", str(site.path), "--name", "notes", *options]
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None:
        raise result.exception
    assert "ada" not in result.output.replace("dataset", "")
    return result.output


def actions(site):
    return [event.body["action"] for event in site.log.entries() if event.type == "deid.scan"]


def test_registering_says_what_was_found(north):
    told = register(*north)
    assert "  e-mail: 50 found in 50 texts; recall" in told
    assert told.splitlines()[-1] == measured.CAUTION
    assert actions(north[1]) == ["warn"]


def test_masked_texts_are_what_a_job_opens_and_the_scan_still_sees_the_others(north):
    path, site = north
    register(path, site, "--identifiers", "mask")
    train, held = Datasets(site).open("notes")
    assert len(train) + len(held) == 50
    assert all(text.endswith(" of [EMAIL]") for text in (*train.texts, *held.texts))
    assert actions(site) == ["mask", "mask"]
    assert "e-mail: 50 found in 50 texts" in run("notes", "--dir", str(site.path))


def test_off_looks_at_nothing(north):
    path, site = north
    assert "found" not in register(path, site, "--identifiers", "off")
    assert "example.org" in Datasets(site).open("notes")[0].texts[0]
    assert actions(site) == []


def test_what_is_refused_is_not_registered_and_what_comes_later_is_not_opened(north):
    path, site = north
    with pytest.raises(InputError) as refusal:
        register(path, site, "--identifiers", "refuse")
    assert refusal.value.id == "identifiers_found"
    assert refusal.value.what == "50 of 50 texts hold what looks like identifiers: email 50."
    assert Datasets(site).all() == ()
    given = path.read_text()
    path.write_text(given.replace("@", " at "))
    register(path, site, "--identifiers", "refuse")
    path.write_text(given)
    with pytest.raises(InputError) as refusal:
        Datasets(site).open("notes")
    assert refusal.value.id == "identifiers_found"
    assert actions(site) == ["refuse", "refuse", "refuse"]


def test_sides_do_not_depend_on_the_action(north):
    path, site = north
    register(path, site, "--identifiers", "off")
    held = Datasets(site).open("notes")[1].texts
    register(path, site, "--identifiers", "mask")
    assert Datasets(site).read("notes")[1].texts == held
