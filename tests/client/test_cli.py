"""Terminal sessions: a lead and two sites, from nothing to confirmed peers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from cloister.client.cli import app as site_app
from cloister.client.site.folder import SiteFolder
from cloister.privacy.cli import main
from cloister.server.cli import app as lead_app
from cloister.server.consortium import ConsortiumServer
from cloister.server.folder import LeadFolder
from tests.ports import free_port
from tests.service import MemoryDesk, Service
from tests.site_keys import fix_keys

Run = Callable[..., str]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs a command line in a folder of its own; returns what it prints, or the error line if it fails."""
    monkeypatch.chdir(tmp_path)

    def command(line: str, *more: str, code: int = 0) -> str:
        assert main([*line.split(), *more]) == code, capsys.readouterr().err
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    return command


@pytest.fixture
def lead(run: Run, tmp_path: Path) -> Iterator[LeadFolder]:
    """A lead whose service runs, on the port that its config names."""
    run(f"lead init --dir lead --name hospitals --host 127.0.0.1 --port-consortium {free_port()}")
    folder = LeadFolder.open(tmp_path / "lead")
    server = ConsortiumServer(folder, MemoryDesk())
    server.start()
    yield folder
    server.stop(0)


def words(run: Run, line: str, name: str) -> str:
    """The words of a member as a command shows them."""
    members: list[Any] = json.loads(run(line))["members"]
    return " ".join(next(member["words"] for member in members if member["name"] == name))


@pytest.mark.job
def test_from_nothing_to_confirmed_peers(run: Run, lead: LeadFolder) -> None:
    for name in ("north", "south"):
        assert f"{name}.invite lets {name} join hospitals once" in run(
            f"lead invite {name} --dir lead --out {name}.invite"
        )
        assert f"The site {name} is in {name}." in run(f"site init --dir {name} --name {name}")
        joined = run(f"site join {name}.invite --dir {name}")
        assert f"{name} is a member of hospitals, led by lead." in joined
        assert words(run, "lead peers --dir lead --json", "lead") in joined

    shown = run("site peers --dir north").splitlines()
    assert shown[0::2] == [
        "lead (lead): not confirmed",
        "north (site): this site",
        "south (site): not confirmed",
    ]
    assert all(len(line.split()) == 12 for line in shown[1::2])

    for name in ("lead", "south"):
        own = words(run, "lead peers --dir lead --json", name)
        assert own == words(run, "site peers --dir south --json", name)
        assert run(f"site peers confirm {name} --dir north --words", own) == f"{name} is confirmed.\n"
    assert "not confirmed" not in run("site peers --dir north")
    assert run("site peers --dir south").count("not confirmed") == 2


def test_wrong_words_are_refused(run: Run, lead: LeadFolder) -> None:
    run("lead invite north --dir lead --out north.invite")
    run("site init --dir north --name north")
    run("site join north.invite --dir north")
    refused = run("site peers confirm lead --dir north --words", "abandon " * 12, code=1)
    assert refused.startswith("These are not the words of lead's keys")
    assert refused.endswith("[fingerprint_mismatch]\n")
    assert refused.count("\n") == 1


def test_without_the_lead_the_kept_roster_is_shown(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Service(tmp_path / "service") as service:
        north = service.member("north")
    assert main(["site", "peers", "--dir", str(north.path)]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("lead (lead): not confirmed\n")
    assert "[unreachable] Showing the roster that was kept." in captured.err
    assert main(["site", "peers", "--dir", str(north.path), "--offline", "--json"]) == 0
    captured = capsys.readouterr()
    assert [member["own"] for member in json.loads(captured.out)["members"]] == [False, True]
    assert captured.err == ""


@pytest.mark.parametrize(
    ("line", "code", "id"),
    [
        ("site join none.invite --dir north", 1, "invite_malformed"),
        ("site join garbage.invite --dir north", 1, "invite_malformed"),
        ("site peers --dir north", 1, "not_enrolled"),
        ("site peers --dir nowhere", 1, "state_missing"),
        ("site init --dir north --name north", 2, "folder_in_use"),
        ("site init --dir other --name North", 1, "identity_malformed"),
        ("lead init --dir other --name Hospitals", 2, "option_invalid"),
        ("lead init --dir other --name hospitals --port-fleet 0", 2, "option_invalid"),
        ("lead init --dir other --name hospitals --host a_b", 2, "option_invalid"),
        ("lead invite north --dir north --out x", 1, "state_missing"),
        ("lead peers --dir nowhere", 1, "state_missing"),
    ],
)
def test_what_goes_wrong_is_one_line_with_an_id(
    run: Run, tmp_path: Path, line: str, code: int, id: str
) -> None:
    run("site init --dir north --name north")
    (tmp_path / "garbage.invite").write_bytes(b"\x00garbage")
    error = run(line, code=code)
    assert error.endswith(f"[{id}]\n")
    assert error.count("\n") == 1
    assert not (tmp_path / "other").exists()


def test_an_invite_is_private_and_replaces_nothing(run: Run, tmp_path: Path) -> None:
    run("lead init --dir lead --name hospitals")
    made = json.loads(run("lead invite north --dir lead --out north.invite --days 2 --json"))
    assert made["site"] == "north"
    invite = tmp_path / "north.invite"
    assert invite.stat().st_mode & 0o777 == 0o600
    before = invite.read_bytes()
    assert "[folder_in_use]" in run("lead invite north --dir lead --out north.invite", code=2)
    assert invite.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("party", "options"), [("site", "--dir made --name north"), ("lead", "--dir made --name hospitals")]
)
def test_a_folder_that_is_locked_and_locked_anew(run: Run, tmp_path: Path, party: str, options: str) -> None:
    for name in ("old", "new"):
        (tmp_path / name).write_text(f"the {name} passphrase of a {party}")
        (tmp_path / name).chmod(0o600)
    shown = json.loads(run(f"{party} init {options} --key passphrase-file:old --json"))
    secret = tmp_path / "made" / "identity" / "identity.key"
    before = secret.read_bytes()
    assert before.startswith(b"cloister-vault/1\n")
    assert "[option_invalid]" in run(f"{party} key change --dir made --key new", code=2)
    assert "[state_sealed]" in run(f"{party} key change --dir made --key passphrase-file:none", code=1)
    assert secret.read_bytes() == before
    assert "encrypted under the key from passphrase-file:" in run(
        f"{party} key change --dir made --key passphrase-file:new"
    )
    assert secret.read_bytes() != before
    (tmp_path / "old").unlink()
    folder = SiteFolder.open(tmp_path / "made") if party == "site" else LeadFolder.open(tmp_path / "made")
    assert folder.identity.public.digest() == shown["identity"]


@pytest.mark.parametrize("party", ["site", "lead"])
def test_a_key_that_cannot_be_had_leaves_an_empty_folder_behind(run: Run, tmp_path: Path, party: str) -> None:
    for source in ("passphrase-file:none", "passphrase-file:made/inside", "credential:none", "command:false"):
        error = run(f"{party} init --dir made --name north --key {source}", code=1)
        assert error.endswith("[state_sealed]\n")
        assert error.count("\n") == 1
    assert [*(tmp_path / "made").iterdir()] == []


def test_init_prints_json_for_programs(run: Run) -> None:
    site = json.loads(run("site init --dir north --name north --json"))
    lead = json.loads(run("lead init --dir lead --name hospitals --json"))
    assert len(site["words"]) == len(lead["words"]) == 12
    assert (site["name"], lead["consortium"], lead["lead"]) == ("north", "hospitals", "lead")


@pytest.mark.parametrize("command", ["lead", "site", "lead key change", "site peers", "site data check"])
def test_a_command_explains_itself(run: Run, command: str) -> None:
    text = run(f"{command} --help")
    assert f"Usage: cloister {command}" in text


def leaves(group: Any, line: str) -> Iterator[tuple[str, str]]:
    """Every command below a group, and what its help says."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, f"{line} {name}")
        else:
            yield f"{line} {name}", " ".join((command.help or "").split())


@pytest.mark.parametrize(("party", "app"), [("lead", lead_app), ("site", site_app)])
def test_every_command_has_an_example(party: str, app: typer.Typer) -> None:
    found = dict(leaves(typer.main.get_command(app), party))
    assert len(found) >= 18
    assert {line for line, text in found.items() if f"Example: cloister {line}" not in text} == set()


def test_a_dataset_with_persons(run: Run, tmp_path: Path) -> None:
    run("site init --dir north --name north")
    fix_keys(SiteFolder.open(tmp_path / "north"))
    rows = [f"note {k} of {k // 4},{'ab'[k % 2]},P {k // 4}" for k in range(240)]
    (tmp_path / "notes.csv").write_text("\n".join(["text,label,patient", *rows]) + "\n")
    said = run("site data add notes.csv --dir north --name notes --person patient --rows-per-person 2")
    assert "They are of 32 to 63 persons; of one person at most 2 rows count." in said
    assert "Budget: epsilon 8, delta 1e-05 per person, over all jobs." in said
    assert "per person" in run("site ledger --dir north")
    (tmp_path / "more.csv").write_text("\n".join(["text,label,patient", *rows, "unsigned,a,"]) + "\n")
    more = "site data add more.csv --dir north --name more --person patient"
    assert run(more, code=1).strip().endswith("[person_missing]")
    assert run(f"{more} --missing-persons drop")
    assert "per record" in run("site data add notes.csv --dir north --name plain")


@pytest.mark.parametrize("device", ["cuda:99", "no-such-device"])
def test_a_device_that_is_not_there_is_refused_before_anything_runs(
    device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["site", "up", "--dir", str(tmp_path), "--device", device]) == 2
    assert "[option_invalid]" in capsys.readouterr().err
