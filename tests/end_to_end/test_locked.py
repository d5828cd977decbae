"""The documented federation over real processes, with every folder locked by another kind of source."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloister.client.site.folder import SiteFolder
from cloister.privacy.vault import MAGIC
from cloister.server.folder import LeadFolder
from tests.by_hand import ByHand
from tests.hands import hands
from tests.locked import leaks, secret_files

pytestmark = pytest.mark.slow

FOLDERS = ("lead", "north", "south")
SOURCES = {"lead": "command:cat {place}/lead.pass", "north": "passphrase-file:north.pass"}
SOURCES["south"] = "credential:south.pass"


@dataclass
class LockedByHand(ByHand):
    """Does what the document says, but names a key wherever a folder is made."""

    def _do(self, words: list[str]) -> str:
        if words[1] == "init":
            source = SOURCES[words[words.index("--dir") + 1]]
            words = [*words, "--key", source.format(place=self.hands.place)]
        return super()._do(words)


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[LockedByHand]:
    place = tmp_path_factory.mktemp("locked")
    for name in FOLDERS:
        (place / f"{name}.pass").write_text(f"the passphrase of {name}\n")
        (place / f"{name}.pass").chmod(0o600)
    with hands(place, CREDENTIALS_DIRECTORY=str(place)) as person:
        found = LockedByHand(person, model, place / "outside.txt")
        found.follow()
        found.ended(found.job)
        yield found


@pytest.fixture
def here(locked: LockedByHand, monkeypatch: pytest.MonkeyPatch) -> LockedByHand:
    """In the place where the commands ran."""
    monkeypatch.chdir(locked.hands.place)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(locked.hands.place))
    return locked


def test_the_job_is_finished(locked: LockedByHand) -> None:
    entry = locked.jobs()[locked.job]
    assert (entry["state"], entry["reason"]) == ("finished", "")


@pytest.mark.parametrize("name", FOLDERS)
def test_no_secret_is_in_clear(here: LockedByHand, name: str) -> None:
    folder = LeadFolder.open(Path(name)) if name == "lead" else SiteFolder.open(Path(name))
    files = secret_files(folder)
    assert len(files) >= 5
    assert all(path.read_bytes().startswith(MAGIC) for path in files)
    assert leaks(folder) == set()


def test_no_key_of_tls_is_in_clear_anywhere(here: LockedByHand) -> None:
    files = [path for name in FOLDERS for path in Path(name).rglob("*") if path.is_file()]
    keys = [path for path in files if b"PRIVATE KEY" in path.read_bytes()]
    assert {path.as_posix() for path in keys} == {
        "lead/flower/server.key",
        "lead/flower/loopback.key",
        "lead/flower/operator.key",
        "north/fleet/site.key",
        "south/fleet/site.key",
    }
    for path in keys:
        assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")


def test_a_change_of_the_key_waits_for_the_lead_and_then_it_goes_on(here: LockedByHand) -> None:
    new = here.hands.place / "new.pass"
    new.write_text("another passphrase of the lead")
    new.chmod(0o600)
    change = ("lead", "key", "change", "--dir", "lead", "--key", "passphrase-file:new.pass")
    assert here.lead is not None
    assert "[state_locked]" in here.hands.run(*change).line
    assert here.lead.end() == 0
    here.hands.do(*change)
    (here.hands.place / "lead.pass").unlink()
    assert json.loads((here.hands.place / "lead" / "vault.json").read_bytes())["terms"]["state"] == "settled"
    here.lead = here.hands.start("lead", "lead", "up", "--dir", "lead")
    here.lead.hear("is up")
    peers = here.hands.do("site", "peers", "--dir", "north")
    assert "confirmed" in peers


def test_without_its_key_a_site_says_what_to_do_in_one_line(here: LockedByHand) -> None:
    (here.hands.place / "north.pass").rename(here.hands.place / "elsewhere")
    said = here.hands.run("site", "peers", "--dir", "north", "--offline")
    assert (said.code, "Mount or restore it. [state_sealed]" in said.line) == (1, True)
    (here.hands.place / "north.pass").write_text("the passphrase of somebody else")
    (here.hands.place / "north.pass").chmod(0o600)
    assert "does not open" in here.hands.run("site", "peers", "--dir", "north", "--offline").line
