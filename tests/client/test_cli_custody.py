"""Terminal sessions: backups, restores, new keys, leaving and revoking."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.client.consortium import Consortium
from cloister.client.jobs import Jobs
from cloister.client.site.folder import SiteFolder
from cloister.client.witnessing import Heads
from cloister.privacy import canonical, keyring
from cloister.privacy.cli import main
from cloister.privacy.consent import approval
from cloister.privacy.plan import Plan
from cloister.server.consortium import ConsortiumServer
from cloister.server.desk import FolderDesk
from cloister.server.folder import LeadFolder
from tests.notes import notes
from tests.parties import start
from tests.plans import plan_json
from tests.ports import free_port
from tests.shared import reserve

pytestmark = pytest.mark.job


class Terminal:
    """A lead whose service runs, two sites that have joined, and a job that both approved."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.run(f"lead init --dir lead --name hospitals --host 127.0.0.1 --port-consortium {free_port()}")
        self.lead = LeadFolder.open(Path("lead"))
        self.desk = FolderDesk(self.lead.path, self.lead.log)
        self.server = ConsortiumServer(self.lead, self.desk)
        self.server.start()
        for name in ("north", "south"):
            self.run(f"lead invite {name} --dir lead --out {name}.invite")
            self.run(f"site init --dir {name} --name {name}")
            self.run(f"site join {name}.invite --dir {name}")
        value = plan_json(("north", "south"))
        value["lead"] |= {"name": "lead", "identity": self.lead.identity.public.digest()}
        for site in value["sites"]:
            site["identity"] = SiteFolder.open(Path(site["name"])).identity.public.digest()
        self.plan = Plan.from_bytes(canonical.encode(value))
        self.desk.jobs.propose(self.plan, start(self.plan), self.lead.identity)
        north = SiteFolder.open(Path("north"))
        with Consortium(north) as member:
            (found,) = member.proposals()
            jobs = Jobs(north)
            jobs._decide(jobs.keep(found.plan, found.signed), approval(found.plan, "north"))
            member.roster()
            Heads(north, member).exchange()
        Path("pass").write_text("a passphrase of some length\n")
        Path("pass").chmod(0o600)

    def run(self, line: str, code: int = 0) -> str:
        assert main(line.split()) == code, self._capsys.readouterr().err
        captured = self._capsys.readouterr()
        return captured.err if code else captured.out


@pytest.fixture
def terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Terminal]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keyring, "_COST", 1 << 14)
    found = Terminal(capsys)
    yield found
    found.server.stop(0)


def test_two_folders_of_a_site_share_a_ledger(terminal: Terminal) -> None:
    notes(Path("notes.csv"))
    add = "site data add notes.csv --name notes --identifiers off"
    terminal.run(f"{add} --dir north")
    terminal.run("site init --dir abroad --name north")
    shown = terminal.run("site share north --dir abroad").splitlines()
    paths = [str(Path(name).resolve()) for name in ("north", "abroad")]
    assert shown[0] == f"abroad charges the ledger in {paths[0]}, as do: {', '.join(paths)}"
    assert shown[1].startswith(f"Make a backup of {paths[0]} now")
    told = json.loads(terminal.run("site share north --dir abroad --json"))
    assert told == {"ledger": f"{paths[0]}/ledger.sqlite", "folders": paths}
    terminal.run(f"{add} --dir abroad")
    assert "[data_twice]" in terminal.run(
        f"{add.replace('--name notes', '--name more')} --dir abroad", code=1
    )
    reserve(SiteFolder.open(Path("north")), terminal.plan, 1)
    for folder, here in (("north", True), ("abroad", False)):
        (budget,) = json.loads(terminal.run(f"site ledger --dir {folder} --json"))["budgets"]
        assert [(row["job"], row["here"]) for row in budget["rows"]] == [(terminal.plan.digest, here)]
    assert terminal.run("site ledger --dir abroad").splitlines()[1].endswith("  in another folder")
    assert "share it." in terminal.run("site doctor --dir abroad")
    assert "[ledger_foreign]" in terminal.run("site share south --dir north", code=1)
    assert "[ledger_missing]" in terminal.run("site share south --dir abroad", code=1)
    with SiteFolder.open(Path("abroad")).running():
        assert "[state_locked]" in terminal.run("site share north --dir abroad", code=1)


def test_a_site_is_backed_up_and_restored(terminal: Terminal) -> None:
    key = f"passphrase-file:{Path('pass').absolute()}"
    assert "backup holds" in terminal.run(f"site backup --dir north --out north.backup --key {key}").replace(
        "north.", ""
    )
    again = terminal.run(f"site backup --dir north --out north.backup --key {key}", code=2)
    assert "[folder_in_use]" in again
    terminal.run("site backup --dir north --out other.backup", code=2)  # never in clear
    assert not Path("other.backup").exists()
    shown = terminal.run("site restore north.backup --dir again").splitlines()
    assert shown[0].startswith("The log of the copy has ")
    assert any("charged in full; its dataset stands at epsilon" in line for line in shown)
    assert any(line.endswith("left. The lead knows.") for line in shown)
    assert shown[-1] == "north has new keys, signed by the old ones. Go on: cloister site up --dir again"
    (entry,) = json.loads(terminal.run("lead status --dir lead --json"))["jobs"]
    assert entry["left"] == {"north": "state_restored"}
    (job,) = json.loads(terminal.run("site jobs --dir again --json"))["jobs"]
    assert job["state"] == "left"


def test_an_old_copy_is_restored_in_its_place(terminal: Terminal) -> None:
    shutil.copytree("north", "copy")
    told = json.loads(terminal.run("site restore --here --dir copy --json"))
    assert told["left"] == [terminal.plan.digest]
    for wrong in ("site restore --dir copy", "site restore north.backup --here --dir copy"):
        assert "[option_invalid]" in terminal.run(wrong, code=2)
    assert "[backup_damaged]" in terminal.run("site restore north.invite --dir new", code=1)
    assert not Path("new").exists()


def test_nothing_can_be_done_in_a_copy_until_it_is_charged(terminal: Terminal) -> None:
    terminal.run(
        f"site backup --dir north --out north.backup --key passphrase-file:{Path('pass').absolute()}"
    )
    terminal.server.stop(0)
    assert "[unreachable]" in terminal.run("site restore north.backup --dir again", code=1)
    name = terminal.plan.digest[7:19]
    for command in (f"withdraw {name}", "rotate", "backup --out x --key command:true", "up"):
        said = terminal.run(f"site {command} --dir again", code=1)
        assert "[state_restored]" in said
        assert "cloister site restore --here --dir again" in said


def test_stopping_a_job_for_programs(terminal: Terminal) -> None:
    name, job = terminal.plan.digest[7:19], terminal.desk.jobs.find(terminal.plan.digest)
    told = json.loads(terminal.run(f"lead stop {name} --dir lead --json"))
    assert (told["job"], told["state"], told["stopping"]) == (terminal.plan.digest, "proposed", True)
    assert "[plan_not_approved]" in terminal.run(f"lead resume {name} --dir lead --json", code=1)
    job.move("stopped", "The operator stopped it.")
    told = json.loads(terminal.run(f"lead resume {name} --dir lead --json"))
    assert (told["state"], told["reason"], told["stopping"]) == ("approved", "", False)
    job.move("stopped")
    assert terminal.run(f"lead stop {name} --dir lead").startswith("It stops before the next answer")
    assert terminal.run(f"lead resume {name} --dir lead").startswith("It goes on where it stopped")


def test_the_log_for_programs(terminal: Terminal) -> None:
    told = json.loads(terminal.run("site log --dir north --last 2 --json"))
    lines = Path("north/log/events.jsonl").read_bytes().splitlines()
    assert [canonical.encode(event) for event in told["events"]] == lines[-2:]
    north = SiteFolder.open(Path("north"))
    assert (told["size"], told["root"]) == (len(lines), north.log.head().root.hex())
    assert "events; the chain, the tree and the signed head hold." in terminal.run("site log --dir north")


def test_new_keys(terminal: Terminal) -> None:
    before = SiteFolder.open(Path("north")).identity.public
    shown = terminal.run("site rotate --dir north").splitlines()
    after = SiteFolder.open(Path("north")).identity.public
    assert shown == [
        "north has new keys. Their words:",
        f"  {' '.join(after.words())}",
        "1 running jobs go on under the old ones, which are kept for them alone.",
    ]
    assert after != before
    told = json.loads(terminal.run("site rotate --dir north --json"))
    assert told["previous"] == after.digest()
    members = json.loads(terminal.run("lead peers --dir lead --json"))["members"]
    assert told["identity"] in [member["identity"] for member in members]
    assert SiteFolder.open(Path("north")).identity_of(before.digest())  # for the job, after two changes


def test_new_keys_wait_for_the_agent_to_stop(terminal: Terminal) -> None:
    with SiteFolder.open(Path("north")).running():
        assert "[state_locked]" in terminal.run("site rotate --dir north", code=1)


def test_leaving_a_job(terminal: Terminal) -> None:
    name = terminal.plan.digest[7:19]
    shown = terminal.run(f"site withdraw {name} --dir north").splitlines()
    assert shown[0] == f"north has left {name}. The lead knows."
    assert shown[1].startswith("What this undoes:")
    assert shown[2].startswith("What it does not undo: models of earlier rounds")
    assert "north has left: withdrawn" in terminal.run("lead status --dir lead")
    assert "[withdrawn]" in terminal.run(f"site approve {name} --dir north", code=1)
    assert "[option_invalid]" in terminal.run("site withdraw --dir north", code=2)
    assert "[option_invalid]" in terminal.run(f"site withdraw {name} --all --dir north", code=2)


def test_leaving_the_consortium(terminal: Terminal) -> None:
    told = json.loads(terminal.run("site withdraw --all --dir north --json"))
    assert told == {"left": [terminal.plan.digest], "consortium": True}
    members = json.loads(terminal.run("lead peers --dir lead --json"))["members"]
    assert [member["name"] for member in members] == ["lead", "south"]
    assert "certificate" in terminal.run("site rotate --dir north", code=1)


def test_revoking(terminal: Terminal) -> None:
    assert "The keys of south are revoked." in terminal.run("lead revoke south --dir lead")
    assert "[party_unknown]" in terminal.run("lead revoke south --dir lead", code=1)
    assert "[option_invalid]" in terminal.run("lead revoke north --dir lead --reason nonsense", code=2)
    terminal.run("site peers --dir north")
    shown = json.loads(terminal.run("site peers --dir north --json"))["members"]
    assert [member["name"] for member in shown] == ["lead", "north"]


def test_a_lead_is_backed_up_and_restored(terminal: Terminal) -> None:
    key = f"passphrase-file:{Path('pass').absolute()}"
    terminal.run(f"lead backup --dir lead --out lead.backup --key {key}")
    shown = terminal.run("lead restore lead.backup --dir again").splitlines()
    assert shown[0] == "The lead of hospitals is in again, with north, south."
    assert shown[1] == "It has new keys, signed by the old ones. Their words:"
    (entry,) = json.loads(terminal.run("lead status --dir again --json"))["jobs"]
    assert (entry["state"], entry["reason"]) == (
        "failed",
        "The lead was restored from a backup; propose the plan anew.",
    )
    assert "[option_invalid]" in terminal.run("site restore lead.backup --dir north-again", code=2)
