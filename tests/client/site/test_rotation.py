"""New keys for a site: what the lead, the others and a running job make of them, and crashes in between."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cloister.client.consortium import Consortium
from cloister.client.site import rotation
from cloister.client.site.datasets import Datasets
from cloister.client.site.folder import SiteFolder
from cloister.client.site.policies import Policies
from cloister.client.witnessing import Heads
from cloister.privacy import canonical, durable
from cloister.privacy.errors import CloisterError, StateError
from cloister.privacy.evidence.log import events_of, verify_log
from cloister.privacy.identity import PrivateIdentity
from cloister.privacy.wire.succession import Handover, heir
from cloister.server.membership import MembersFile
from tests.service import Service


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path) as running:
        yield running


def rotate(site: SiteFolder) -> SiteFolder:
    with Consortium(site) as member:
        return rotation.answered(site, member.succeed(rotation.prepare(site, "rotated")))


def confirmed(site: SiteFolder) -> dict[str, bool]:
    return {peer.identity.name: peer.confirmed for peer in site.peers()}


def test_the_others_take_on_new_keys_that_the_confirmed_ones_have_signed(service: Service) -> None:
    north, south = service.member("north"), service.member("south")
    with Consortium(south) as member:
        member.roster()
        south.confirm("north", " ".join(north.identity.public.words()))
        new = rotate(north)
        member.roster()
    assert new.identity.public != north.identity.public
    assert confirmed(south)["north"]
    (peer,) = (peer for peer in south.peers() if peer.identity.name == "north")
    assert peer.followed
    assert peer.identity == new.identity.public
    kinds = [(event.type, event.body.get("method")) for event in south.log.entries()]
    assert ("key.confirmed", "signature") in kinds
    assert south.known.identity(north.identity.public.digest()) == north.identity.public


def test_who_never_confirmed_the_old_keys_has_to_compare_the_new_ones(service: Service) -> None:
    north, south = service.member("north"), service.member("south")
    rotate(north)
    with Consortium(south) as member:
        member.roster()
    assert not confirmed(south)["north"]


def test_new_keys_that_the_lead_made_up_are_not_confirmed(service: Service) -> None:
    """A lead that swaps a member's keys without the member's signature."""
    north, south = service.member("north"), service.member("south")
    with Consortium(south) as member:
        member.roster()
        south.confirm("north", " ".join(north.identity.public.words()))
        rotate(north)
        members = MembersFile(service.lead.path / "roster.json")
        members.write(members.read().state, handovers=[])
        member.roster()
    assert not confirmed(south)["north"]


def test_the_new_log_goes_on_from_the_old_one(service: Service) -> None:
    north = service.member("north")
    old = north.identity.public
    new = rotate(north)
    retired = rotation.place(new, old.digest()) / "log"
    verify_log(retired, old)
    *_, rotated, last = events_of(retired)
    assert (rotated.type, last.type) == ("key.rotated", "log.rotated")
    first = next(iter(new.log.entries()))
    assert first.body["previous"] == canonical.digest(last.encode())
    assert first.body["identity"] == last.body["identity"] == new.identity.public.digest()
    with Consortium(new) as member:
        heads = Heads(new, member)
        heads.check()
        heads.exchange()
    verify_log(new.path / "log", new.identity.public)


def test_the_new_log_says_what_stands(service: Service) -> None:
    """It alone is shown of later jobs: without this, their evidence would lack keys, policy and budget."""
    north, south, west = (service.member(name) for name in ("north", "south", "west"))
    with Consortium(north) as member:
        member.roster()
    for party in (service.lead.identity.public, south.identity.public, west.identity.public):
        north.confirm(party.name, " ".join(party.words()))
    policy = Policies(north).current()
    Datasets(north).ledger.open_budget("notes", "record", 8.0, 1e-5)
    gone: dict[str, Any] = {"party": "west", "identity": west.identity.public.digest()}
    north.log.append("key.revoked", **gone)
    vouched: dict[str, Any] = {"party": "east", "identity": west.identity.public.digest()}
    north.log.append("key.confirmed", **vouched, method="authority")
    for _ in range(2):
        north = rotate(north)
        said = [(event.type, dict(event.body)) for event in north.log.entries()][1:]
        known = [(body["party"], body["identity"]) for type_, body in said if type_ == "key.confirmed"]
        parties = (service.lead.identity.public, south.identity.public)
        assert known == [(party.name, party.digest()) for party in parties]
        assert ("policy.loaded", {"policy": policy.digest}) in said
        assert [body["epsilon"] for type_, body in said if type_ == "budget.opened"] == [8]
        assert len(said) == 4


def test_what_stands_is_said_once_though_it_is_cut_off(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    north = service.member("north")
    Datasets(north).ledger.open_budget("notes", "record", 8.0, 1e-5)

    def cut(*_: Any) -> None:
        raise StateError("disk_full", "The disk is full.")

    with Consortium(north) as member:
        answer = member.succeed(rotation.prepare(north, "rotated"))
    with monkeypatch.context() as patch, pytest.raises(StateError):
        patch.setattr(SiteFolder, "become_member", cut)
        rotation.answered(north, answer)
    new = rotation.settle(north.path)
    assert [event.type for event in new.log.entries()].count("budget.opened") == 1


def test_the_old_certificate_opens_nothing_but_the_same_change_again(service: Service) -> None:
    north = service.member("north")
    with Consortium(north) as old:
        handover = rotation.prepare(north, "rotated")
        first = old.succeed(handover)
        assert old.succeed(handover).certificate == first.certificate
        with pytest.raises(CloisterError) as caught:
            old.status()
        assert caught.value.id == "certificate_invalid"
        shutil.rmtree(north.path / "next")
        with pytest.raises(CloisterError) as other:
            old.succeed(rotation.prepare(north, "rotated"))
        assert other.value.id == "certificate_invalid"


@pytest.mark.parametrize("step", range(1, 12))
def test_a_crash_anywhere_is_finished_by_the_next_try(
    service: Service, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every durable write of the settling fails once; then the command is given again."""
    north = service.member("north")
    old = north.identity.public
    with Consortium(north) as member:
        membership = member.succeed(rotation.prepare(north, "rotated"))
    real, count = durable.write, 0

    def failing(path: Path, data: bytes, *args: Any, **kwargs: Any) -> None:
        nonlocal count
        count += 1
        if count == step:
            raise StateError("state_unwritable", "pulled the plug")
        real(path, data, *args, **kwargs)

    monkeypatch.setattr(durable, "write", failing)
    with suppress(CloisterError):
        rotation.answered(north, membership)
    assert count >= min(step, 8), "the settling has fewer writes than this test believes"
    monkeypatch.setattr(durable, "write", real)
    site = rotation.settle(north.path)
    if site.identity.public == old:  # the answer was never kept: it is asked for again
        site = rotate(site)
    assert site.identity.public != old
    assert not (site.path / "next").exists()
    verify_log(rotation.place(site, old.digest()) / "log", old)
    first = next(iter(site.log.entries()))
    assert "previous" in first.body
    with Consortium(site) as member:
        assert member.roster().member("north") == site.identity.public


def test_an_unfinished_change_is_not_worked_with(service: Service) -> None:
    north = service.member("north")
    rotation.prepare(north, "rotated")
    with pytest.raises(StateError) as caught, north.running():
        pass
    assert caught.value.id == "rotation_unfinished"


def test_old_keys_are_kept_for_running_jobs_and_then_forgotten(service: Service) -> None:
    north = service.member("north")
    old = north.identity.public.digest()
    new = rotate(north)
    assert new.identity_of(old).public.digest() == old
    rotation.forget(new, {old})
    assert new.identity_of(old).public.digest() == old
    rotation.forget(new, set())
    with pytest.raises(CloisterError) as caught:
        new.identity_of(old)
    assert caught.value.id == "identity_missing"


def test_a_locked_folder_rotates_and_stays_locked(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloister.privacy.keyring._COST", 1 << 14)
    from cloister.client.consortium import join
    from cloister.privacy.keysource import KeySource
    from cloister.privacy.vault import MAGIC

    (tmp_path / "pass").write_text("a passphrase of some length\n")
    (tmp_path / "pass").chmod(0o600)
    source = KeySource.parse(f"passphrase-file:{tmp_path / 'pass'}")
    north = SiteFolder.create(tmp_path / "locked", "north", source)
    join(north, service.invite("north"))
    new = rotate(north)
    secrets = [*new.path.glob("**/identity.key"), new.path / "tls" / "site.key"]
    assert len(secrets) == 3
    assert all(path.read_bytes().startswith(MAGIC) for path in secrets)


class TestHandover:
    old = PrivateIdentity.generate("north", "site")
    new = PrivateIdentity.generate("north", "site")

    def made(self, **changes: Any) -> Handover:
        from cloister.privacy.wire.succession import Succession

        said: dict[str, Any] = {
            "consortium": "hospitals",
            "previous": self.old.public.digest(),
            "identity": self.new.public.to_json(),
            "csr": "-----BEGIN CERTIFICATE REQUEST-----",
        }
        return Handover.make(Succession(**(said | changes)), self.old, self.new)

    def test_a_chain_leads_to_the_newest_keys(self) -> None:
        assert heir(self.old.public, [self.made()], "hospitals") == self.new.public
        assert heir(self.old.public, [], "hospitals") == self.old.public

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"consortium": "banks"}, "wrong_context"),
            ({"identity": old.public.to_json()}, "signature_invalid"),
            ({"identity": PrivateIdentity.generate("south", "site").public.to_json()}, "signature_invalid"),
        ],
    )
    def test_what_does_not_hold_is_refused(self, changes: dict[str, Any], reason: str) -> None:
        with pytest.raises(CloisterError) as caught:
            heir(self.old.public, [self.made(**changes)], "hospitals")
        assert caught.value.id == reason

    def test_one_signature_is_not_enough(self) -> None:
        good = self.made()
        for forged in (Handover(good.new, good.new), Handover(good.old, good.old)):
            with pytest.raises(CloisterError) as caught:
                forged.opened(self.old.public, "hospitals")
            assert caught.value.id == "signature_invalid"
