"""Revoked and withdrawn sites, and a lead's backup, over the real service; the fleet listener's list."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloister.client.app import client_app
from cloister.client.consortium import Consortium, join
from cloister.client.site.folder import SiteFolder
from cloister.client.witnessing import Heads
from cloister.privacy import canonical, keyring
from cloister.privacy.channel.certificates import fingerprint
from cloister.privacy.consent import WITHDRAWAL_CONTEXT, Withdrawal, approval
from cloister.privacy.errors import CloisterError, RoundError
from cloister.privacy.evidence.log import events_of
from cloister.privacy.identity import Signature
from cloister.privacy.keysource import KeySource
from cloister.privacy.plan import Plan
from cloister.privacy.wire import consortium_pb2 as pb
from cloister.privacy.wire.signed import Signed
from cloister.server import backup
from cloister.server.consortium import ConsortiumServer
from cloister.server.desk import FolderDesk
from cloister.server.folder import LeadFolder
from cloister.server.jobs import FAILED, REFUSED, RUNNING
from cloister.server.membership import Admitted, MembersFile
from cloister.simulations.transport import LocalGrid
from tests.parties import NAMES, start
from tests.parties import Consortium as Parties
from tests.plans import plan_json
from tests.service import Service

NOBODY = Signature(b"", b"")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path) as running:
        yield running


# Revocation


def test_a_revoked_site_is_refused_at_both_listeners_at_once(service: Service) -> None:
    north, south = service.member("north"), service.member("south")
    admitted = Admitted(service.lead.path / "roster.json")
    marks = {site.name: fingerprint(site.membership.certificate) for site in (north, south)}
    assert admitted() == set(marks.values())
    with Consortium(north) as member:
        member.status()
        service.lead.enrolment.revoke("north")
        with pytest.raises(CloisterError) as caught:
            member.status()
    assert caught.value.id == "certificate_invalid"
    assert admitted() == {marks["south"]}
    (event,) = service.events("key.revoked")
    assert event.body["party"] == "north"


def test_a_call_that_is_open_is_cut(service: Service) -> None:
    north = service.member("north")
    with Consortium(north) as member:
        watching = iter(member.line.stream("Watch", pb.Empty()))
        next(watching)
        assert service.server.present() == {"north"}
        service.server.cut(["north"])
        list(watching)  # ends
        assert service.server.present() == frozenset()


def test_revocation_reaches_the_others_and_the_keys_never_come_back(service: Service) -> None:
    north, south = service.member("north"), service.member("south")
    enrolment = service.lead.enrolment
    with Consortium(south) as member:
        member.roster()
        south.confirm("north", " ".join(north.identity.public.words()))
        members = MembersFile(service.lead.path / "roster.json")
        old = members.read().state
        enrolment.revoke("north")
        member.roster()
        assert [peer.identity.name for peer in south.peers()] == ["lead", "south"]
        assert [e.body["party"] for e in south.log.entries() if e.type == "key.revoked"] == ["north"]
        members.write(old)  # a lead that takes it back, or that was restored from before
        with pytest.raises(CloisterError) as caught:
            member.roster()
    assert caught.value.id == "key_revoked"


def test_with_new_keys_and_an_invite_the_name_may_come_back_unconfirmed(service: Service) -> None:
    service.member("north")
    south = service.member("south")
    service.lead.enrolment.revoke("north")
    again = SiteFolder.create(service.path / "north-again", "north")
    join(again, service.invite("north"))
    with Consortium(south) as member:
        member.roster()
    (peer,) = (peer for peer in south.peers() if peer.identity.name == "north")
    assert not peer.confirmed


@pytest.mark.parametrize("name", ["lead", "nobody"])
def test_only_a_member_that_is_a_site_can_be_revoked(service: Service, name: str) -> None:
    with pytest.raises(CloisterError) as caught:
        service.lead.enrolment.revoke(name)
    assert caught.value.id == "party_unknown"


def test_a_site_that_withdraws_from_everything_is_revoked(service: Service) -> None:
    north = service.member("north")
    with Consortium(north) as member:
        member.withdraw(Withdrawal(site="north", plan=""))
        with pytest.raises(CloisterError):
            member.status()
    assert [member.name for member in service.lead.enrolment.roster.members] == ["lead"]


def test_nobody_withdraws_for_somebody_else(service: Service) -> None:
    north = service.member("north")
    service.member("south")
    said = Withdrawal(site="south", plan="")
    with Consortium(north) as member, pytest.raises(CloisterError) as caught:
        signed = Signed.make(said.to_bytes(), north.identity, WITHDRAWAL_CONTEXT)
        member.line.ask("Withdraw", pb.Signed(**signed.fields()))
    assert caught.value.id == "wrong_context"
    assert service.desk.withdrawals == []


# Jobs without a site


@pytest.mark.parametrize("minimum", [2, 3])
def test_a_job_goes_on_without_a_site_that_has_left_if_enough_are_there(tmp_path: Path, minimum: int) -> None:
    value = plan_json(NAMES)["aggregation"] | {"minimum_sites": minimum}
    parties = Parties(tmp_path, aggregation=value)
    grid = LocalGrid({name: client_app({parties.plan.digest: site}) for name, site in parties.sites.items()})
    federation = parties.federation(
        left=lambda: {"west": "withdrawn"} if parties.saved and parties.saved[-1].round >= 1 else {}
    )
    if minimum == 3:
        with pytest.raises(RoundError) as caught:
            federation.run(grid)
        assert caught.value.id == "below_minimum"
        return
    end = federation.run(grid)
    assert end.round == parties.plan.training.rounds
    closed = {e.round: e.body["accepted"] for e in parties.log.entries() if e.type == "round.closed"}
    assert closed[1] == ["north", "south", "west"]
    assert all(closed[number] == ["north", "south"] for number in closed if number > 1)


def test_a_withdrawal_is_kept_and_shown_and_ends_what_had_not_begun(tmp_path: Path) -> None:
    parties = Parties(tmp_path)
    desk = FolderDesk(tmp_path / "desk", parties.log)
    job = desk.jobs.propose(parties.plan, start(parties.plan), parties.lead)
    said = Withdrawal(site="west", plan=parties.plan.digest)
    desk.withdraw(said, NOBODY, parties.keys["west"].public)
    desk.withdraw(said, NOBODY, parties.keys["west"].public)
    assert job.left() == {"west": "withdrawn"}
    assert job.state == REFUSED
    assert len([e for e in parties.log.entries() if e.type == "site.withdrew"]) == 1
    with pytest.raises(CloisterError) as caught:
        stranger = Withdrawal(site="east", plan=parties.plan.digest)
        desk.withdraw(stranger, NOBODY, parties.keys["west"].public)
    assert caught.value.id == "plan_unknown"


# The lead's backup


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeySource:
    monkeypatch.setattr(keyring, "_COST", 1 << 14)
    (tmp_path / "pass").write_text("a passphrase of some length\n")
    (tmp_path / "pass").chmod(0o600)
    return KeySource.parse(f"passphrase-file:{tmp_path / 'pass'}")


def proposed(lead: LeadFolder, sites: list[SiteFolder]) -> Any:
    value = plan_json(tuple(site.name for site in sites))
    value["roster"] = lead.enrolment.roster.digest()
    value["lead"] |= {"name": "lead", "identity": lead.identity.public.digest()}
    for named, site in zip(value["sites"], sites, strict=True):
        named["identity"] = site.identity.public.digest()
    plan = Plan.from_bytes(canonical.encode(value))
    return FolderDesk(lead.path, lead.log).jobs.propose(plan, start(plan), lead.identity)


def test_a_restored_lead_has_new_keys_that_its_sites_take_on(
    service: Service, source: KeySource, tmp_path: Path
) -> None:
    sites = [service.member(name) for name in NAMES]
    north, lead = sites[0], service.lead
    with Consortium(north) as member:
        member.roster()
        north.confirm("lead", " ".join(lead.identity.public.words()))
    job = proposed(lead, sites)
    job.decide(approval(job.plan, "north"), NOBODY)
    job.move(RUNNING)
    backup.write(lead, tmp_path / "lead.backup", source)
    lead.log.append("log.heartbeat")
    with Consortium(north) as member:
        heads = Heads(north, member)
        for _ in range(2):
            heads.check()
            heads.exchange()
    service.server.stop(0)

    restored = backup.restore(tmp_path / "lead.backup", tmp_path / "again", None)
    old, new = lead.identity.public, restored.identity.public
    assert new != old
    (found,) = FolderDesk(restored.path, restored.log, restored.vault).jobs
    assert (found.state, found.plan) == (FAILED, job.plan)
    first = next(iter(restored.log.entries()))
    *_, last = events_of(restored.path / "retired" / old.digest()[7:23] / "log")
    assert first.body["previous"] == canonical.digest(last.encode())

    service.server = ConsortiumServer(restored, service.desk, service.addresses.service)
    service.server.start()
    with Consortium(north) as member:
        heads = Heads(north, member)
        heads.check()
        member.open()
        roster = member.roster()
        heads.exchange()
    assert roster.lead == new == north.membership.leader
    assert {peer.identity.name: peer.confirmed for peer in north.peers()}["lead"]
    assert heads.witness.conflicts() == frozenset()


def test_a_lead_with_keys_of_its_own_making_is_not_followed(
    service: Service, source: KeySource, tmp_path: Path
) -> None:
    """Somebody with the lead's certificates but not its keys."""
    north = service.member("north")
    backup.write(service.lead, tmp_path / "lead.backup", source)
    service.server.stop(0)
    restored = backup.restore(tmp_path / "lead.backup", tmp_path / "again", None)
    members = MembersFile(restored.path / "roster.json")
    members.write(members.read().state, handovers=[])
    service.server = ConsortiumServer(restored, service.desk, service.addresses.service)
    service.server.start()
    with Consortium(north) as member, pytest.raises(CloisterError) as caught:
        member.roster()
    assert caught.value.id == "signature_invalid"
    assert north.membership.leader == service.lead.identity.public


def test_a_leads_backup_holds_no_secret_in_clear_and_its_folder_stays_locked(
    service: Service, source: KeySource, tmp_path: Path
) -> None:
    path = tmp_path / "lead.backup"
    backup.write(service.lead, path, source)
    assert b"PRIVATE KEY" not in path.read_bytes()
    restored = backup.restore(path, tmp_path / "again", None)
    keys = [*restored.path.glob("authorities/*.key"), *restored.path.glob("tls/*.key")]
    assert len(keys) == 6
    assert not any(b"PRIVATE KEY" in key.read_bytes() for key in keys)
    assert not list((restored.path / "retired").glob("*/identity/identity.key"))
