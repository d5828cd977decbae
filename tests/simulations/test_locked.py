"""Locked folders in a whole job: whoever has the files has none of the keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloister.client.learn.learner import audit_of
from cloister.client.participation import Participant
from cloister.client.site.datasets import Datasets
from cloister.client.site.folder import SiteFolder
from cloister.client.sums import SecureSums
from cloister.privacy import durable, keyring
from cloister.privacy.entropy import Ratchet
from cloister.privacy.errors import CloisterError
from cloister.privacy.identity import PrivateIdentity, Role
from cloister.privacy.keysource import KeySource
from cloister.server.checkpoint import Checkpoint
from cloister.server.folder import LeadFolder, Settings
from cloister.server.jobs import Jobs
from cloister.server.versions import Versions
from tests.hands import write_records
from tests.locked import leaks, names_of, patterns, secret_files, secrets_of
from tests.parties import Consortium
from tests.site_keys import fix_keys

pytestmark = pytest.mark.job

FOUR = ("north", "south", "west", "coast")
SECURE = {"secure": True, "minimum_sites": 3, "range": 4.0, "threshold": 3, "colluding": 1}
IN_CLEAR = (
    "config.json",
    "vault.json",
    "lock",
    "datasets/keys.lock",
    "roster.json",
    "identity/identity.json",
    "*.pem",
    "log/*",
    "ledger.sqlite*",
    "datasets/*.json",
    "replies/*",
    "offers/*",
    "jobs/*/plan.*",
    "jobs/*/state.json",
    "jobs/*/versions.jsonl",
    "policy.yaml",
)
"""What may lie in clear in a locked folder; ``docs/keys.md`` says so."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "_COST", 1 << 14)


class Housed(Consortium):
    """A consortium whose parties live in folders as the commands make them, under ``source`` or in clear."""

    def __init__(self, place: Path, source: KeySource | None) -> None:
        self.source = source
        self.houses: dict[str, SiteFolder | LeadFolder] = {}
        super().__init__(place, FOUR, aggregation=SECURE)
        lead = self.houses["lead"]
        assert isinstance(lead, LeadFolder)
        start = np.linspace(0.1, 0.9, self.plan.adapter.parameters, dtype=np.float32)
        self.job = Jobs(lead.jobs, lead.vault).propose(self.plan, start, self.lead)
        for name in FOUR:
            site = self.houses[name]
            assert isinstance(site, SiteFolder)
            fix_keys(site)
            Datasets(site).register(
                write_records(place / f"{name}.csv", 5), "more", ("text", "department"), (1, 1e-5)
            )

    def made(self, name: str, role: Role) -> PrivateIdentity:
        if role == "lead":
            settings = Settings(consortium="hospitals")
            self.houses[name] = LeadFolder.create(self.folder / name, settings, source=self.source)
        else:
            self.houses[name] = SiteFolder.create(self.folder / name, name, self.source)
        return self.houses[name].identity

    def state(self, name: str) -> Path:
        place = self.folder / name / "jobs" / self.plan.digest[7:23]
        durable.private_folder(place)
        return place

    def ratchet(self, name: str) -> Ratchet:
        return Ratchet(self.state(name) / "ratchet.key", self.plan.digest, self.houses[name].vault)

    def secure(self, name: str) -> SecureSums:
        terms = self.plan.sum_terms
        assert terms is not None
        peers = {peer: self.keys[peer].public for peer in terms.sites}
        place = self.state(name) / "sums.json"
        return SecureSums(terms, self.keys[name], peers, place, self.houses[name].vault)

    def site(self, name: str) -> Participant:
        audit_of(self.plan, self.state(name) / "audit.json", self.houses[name].vault)
        return super().site(name)

    def run(self, look: Callable[[bool], None]) -> Checkpoint:
        """The job, with a look at the folders after each round."""
        place, vault = self.job.folder / "checkpoint", self.houses["lead"].vault
        versions = Versions(self.job.folder, self.plan, vault)

        def save(checkpoint: Checkpoint) -> None:
            checkpoint.save(place, vault)
            versions.keep(checkpoint.model, checkpoint)
            look(checkpoint.round > 0)

        return self.federation(save=save, resume=Checkpoint.load(place, self.plan.digest, vault)).run(
            self.grid()
        )


@pytest.fixture
def source(tmp_path: Path) -> KeySource:
    durable.write(tmp_path / "pass", b"correct horse battery staple")
    return KeySource("passphrase-file", str(tmp_path / "pass"))


def test_in_a_locked_folder_no_secret_is_in_clear_at_any_time_of_a_job(
    tmp_path: Path, source: KeySource
) -> None:
    (tmp_path / "run").mkdir()
    found, looks = Housed(tmp_path / "run", source), []

    def look(begun: bool) -> None:
        for house in found.houses.values():
            later = {one for one in patterns(house) if one.startswith(("next/", "retired/"))}
            later |= set() if begun else {one for one in patterns(house) if "versions" in one}
            # Of plans with a codec, or with canaries, only.
            later |= {one for one in patterns(house) if "rests" in one or "canaries" in one}
            assert names_of(house, secret_files(house)) == set(patterns(house)) - later
            assert leaks(house) == set()
            looks.append(len(secrets_of(house)))

    look(False)
    end = found.run(look)
    assert (end.round, len(looks) >= 3 * len(found.houses)) == (2, True)
    for name, house in found.houses.items():
        files = {path for path in house.path.rglob("*") if path.is_file()} - set(secret_files(house))
        unknown = [
            path.relative_to(house.path).as_posix()
            for path in files
            if not any(fnmatch(path.relative_to(house.path).as_posix(), known) for known in IN_CLEAR)
        ]
        assert not unknown, (name, unknown)


def test_the_search_finds_every_secret_of_an_open_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    found = Housed(tmp_path / "run", None)
    found.run(lambda _: None)
    for house in found.houses.values():
        over = {path for path in secret_files(house) if path.name == "sums.json"}  # it forgets its keys
        expected = {str(path.relative_to(house.path)) for path in secret_files(house) if path not in over}
        assert leaks(house) == expected


@pytest.mark.slow
def test_a_locked_site_goes_on_after_a_restart_and_a_change_of_its_key(
    tmp_path: Path, source: KeySource
) -> None:
    (tmp_path / "run").mkdir()
    found = Housed(tmp_path / "run", source)
    durable.write(tmp_path / "new", b"another passphrase of some length")
    for name in FOUR:
        site = SiteFolder.open(found.folder / name)
        site.change_key(KeySource("passphrase-file", str(tmp_path / "new")))
    (tmp_path / "pass").unlink()
    for name in FOUR:
        found.houses[name] = SiteFolder.open(found.folder / name)
        assert found.houses[name].identity.public == found.keys[name].public
    found.sites = {name: found.site(name) for name in FOUR}
    assert found.federation().run(found.grid()).round == 2
    with pytest.raises(CloisterError) as caught:
        _ = LeadFolder.open(found.folder / "lead").identity
    assert caught.value.id == "state_sealed"


def test_a_running_folder_does_not_change_its_key(tmp_path: Path, source: KeySource) -> None:
    site = SiteFolder.create(tmp_path / "site", "north")
    lead = LeadFolder.create(tmp_path / "lead", Settings(consortium="hospitals"))
    for house in (site, lead):
        with house.running(), pytest.raises(CloisterError) as caught:
            house.change_key(source)
        assert caught.value.id == "state_locked"
        house.change_key(source)
        assert leaks(type(house).open(house.path)) == set()


def test_what_was_interrupted_is_finished_at_the_next_start(
    tmp_path: Path, source: KeySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = SiteFolder.create(tmp_path / "site", "north")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(keyring, "settle", interrupted(keyring.settle))
        site.change_key(source)
    with SiteFolder.open(site.path).running():
        assert leaks(SiteFolder.open(site.path)) == set()


def interrupted(settle: Callable[..., None]) -> Callable[..., None]:
    calls: list[None] = []

    def twice(*arguments: Any) -> None:
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        settle(*arguments)

    return twice


def test_without_a_key_folders_are_as_before(tmp_path: Path) -> None:
    site = SiteFolder.create(tmp_path / "site", "north")
    lead = LeadFolder.create(tmp_path / "lead", Settings(consortium="hospitals"))
    for house in (site, lead):
        assert not (house.path / "vault.json").exists()
    assert json.loads((site.path / "identity" / "identity.key").read_bytes())["name"] == "north"
    assert site.tls_key == (site.path / "tls" / "site.key").read_bytes()
    assert lead.tls("server").key == (lead.path / "tls" / "server.key").read_bytes()
