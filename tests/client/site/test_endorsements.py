"""Keys that an authority signed for: how statements reach the sites, and what a lead cannot make of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloister.client.consortium import Consortium
from cloister.client.site import rotation
from cloister.client.site.folder import Peer, SiteFolder
from cloister.privacy.authority import Authority
from cloister.privacy.cli import main
from cloister.privacy.errors import CloisterError
from cloister.privacy.identity import PrivateIdentity, PublicIdentity, Roster
from cloister.privacy.wire.endorsement import Endorsement
from cloister.server.membership import MembersFile
from tests.policies import allow
from tests.service import Service

MINISTRY = Authority.generate("ministry")
NAMED = (MINISTRY.public.digest(),)
TODAY = "2026-06-30"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path) as running:
        yield running


def vouch(member: PublicIdentity, by: Authority = MINISTRY, consortium: str = "hospitals") -> Endorsement:
    return Endorsement.make(by, consortium, member, "2026-01-01", "2999-12-31")


def reason(act: Any) -> str:
    with pytest.raises(CloisterError) as caught:
        act()
    assert "\n" not in caught.value.line()
    return caught.value.id


def fetched(site: SiteFolder) -> dict[str, Peer]:
    with Consortium(site) as member:
        member.roster()
    return {peer.identity.name: peer for peer in site.peers()}


def doubts(site: SiteFolder, name: str) -> tuple[str, ...] | None:
    return fetched(site)[name].doubts(NAMED, TODAY)


def test_what_a_member_hands_in_reaches_every_site(service: Service) -> None:
    north, south = service.member("north"), service.member("south")
    assert doubts(south, "north") == ()
    with Consortium(north) as member:
        member.endorse(vouch(north.identity.public))
    service.lead.endorsements.keep(vouch(service.lead.identity.public), service.lead.enrolment.roster)
    assert doubts(south, "north") is None
    assert doubts(south, "lead") is None
    forged = vouch(north.identity.public, by=Authority.generate("academy"))
    service.lead.endorsements.keep(forged, service.lead.enrolment.roster)
    peer = fetched(south)["north"]
    assert len(peer.endorsements) == 2
    assert [one.authority.name for one in peer.vouched(NAMED, TODAY)] == ["ministry"]
    assert not peer.confirmed  # nobody compared words; whether it counts is for the policy
    unknown = " ".join(peer.doubts((), TODAY) or ())
    assert "does not name the authority ministry" in unknown
    assert "does not name the authority academy" in unknown
    assert "begins on 2026-01-01" in " ".join(peer.doubts(NAMED, "2025-12-31") or ())


def test_a_member_speaks_for_its_own_keys_only(service: Service) -> None:
    north, south = service.member("north"), service.member("south")
    with Consortium(north) as member:
        for found in (
            vouch(south.identity.public),
            vouch(PrivateIdentity.generate("north", "site").public),
            vouch(north.identity.public, consortium="banks"),
        ):
            assert reason(lambda found=found: member.endorse(found)) == "endorsement_other"
    assert list(service.lead.endorsements.about(service.lead.enrolment.roster)) == []


# A lead that invents a member


@pytest.fixture
def cheated(service: Service) -> SiteFolder:
    """North, in a consortium to which the lead has added a site of its own."""
    north = service.member("north")
    service.member("west")  # the lead holds its keys
    return north


def invented(service: Service) -> PublicIdentity:
    return service.lead.enrolment.roster.member("west")


def smuggle(service: Service, data: bytes) -> None:
    """Puts anything where the lead keeps statements that it hands out."""
    place, west = service.lead.endorsements.path, invented(service)
    place.mkdir(mode=0o700, exist_ok=True)
    path = place / f"{west.digest()[7:39]}-{'0' * 32}.json"
    path.write_bytes(data)
    path.chmod(0o600)


def test_an_authority_of_the_leads_own_does_not_count(cheated: SiteFolder, service: Service) -> None:
    """It may call itself what it likes: the policy names keys."""
    forged = vouch(invented(service), by=Authority.generate("ministry"))
    service.lead.endorsements.keep(forged, service.lead.enrolment.roster)
    (why,) = doubts(cheated, "west") or ()
    assert "does not name the authority ministry" in why


def test_a_statement_about_another_member_does_not_count(cheated: SiteFolder, service: Service) -> None:
    """The ministry's word for north's keys, handed out as one for the invented member."""
    genuine = vouch(cheated.identity.public)
    cheated.keep_endorsements([genuine.to_bytes()])
    assert fetched(cheated)["west"].endorsements == ()
    assert doubts(cheated, "west") == ()


@pytest.mark.parametrize("old", ["north", "2999-12-31", "site"])
def test_a_statement_that_the_lead_altered_is_refused(
    cheated: SiteFolder, service: Service, old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte of it is signed; a lead that hands such a one out gives no roster at all."""
    genuine, west = vouch(cheated.identity.public), invented(service)
    altered = genuine.to_bytes().replace(cheated.identity.public.digest().encode(), west.digest().encode())
    altered = altered.replace(old.encode(), {"north": b"west", "site": b"lead"}.get(old, b"3999-12-31"))
    handed = type("Handed", (), {"to_bytes": lambda _: altered})()
    monkeypatch.setattr(type(service.lead.endorsements), "about", lambda *_: iter((handed,)))
    with Consortium(cheated) as member:
        assert reason(member.roster) == "signature_invalid"
    assert doubts_kept(cheated) == ()


def doubts_kept(site: SiteFolder) -> tuple[str, ...] | None:
    (west,) = (peer for peer in site.peers() if peer.identity.name == "west")
    return west.doubts(NAMED, TODAY)


def test_what_was_put_into_the_leads_folder_by_hand_is_found_there(
    cheated: SiteFolder, service: Service
) -> None:
    smuggle(service, vouch(invented(service), by=MINISTRY).to_bytes()[:-2] + b"0}")
    with Consortium(cheated) as member:
        assert reason(member.roster) == "state_damaged"
    assert doubts_kept(cheated) == ()


# New keys


def rotate(site: SiteFolder) -> SiteFolder:
    with Consortium(site) as member:
        return rotation.answered(site, member.succeed(rotation.prepare(site, "rotated")))


def test_new_keys_need_a_new_statement(service: Service) -> None:
    """A succession carries what people confirmed here, and never what an authority said of the old keys."""
    north, south = service.member("north"), service.member("south")
    with Consortium(north) as member:
        member.endorse(vouch(north.identity.public))
    assert doubts(south, "north") is None
    new = rotate(north)
    assert doubts(south, "north") == ()
    assert not fetched(south)["north"].followed
    with Consortium(new) as member:
        assert reason(lambda: member.endorse(vouch(north.identity.public))) == "endorsement_other"
        member.endorse(vouch(new.identity.public))
    assert doubts(south, "north") is None


def test_confirmed_keys_still_hand_over(service: Service) -> None:
    north, south = service.member("north"), service.member("south")
    fetched(south)
    south.confirm("north", " ".join(north.identity.public.words()))
    rotate(north)
    assert fetched(south)["north"].followed
    assert doubts(south, "north") is None


def test_keys_that_were_replaced_do_not_come_back_with_an_old_statement(service: Service) -> None:
    """Whoever stole north's old keys, and a lead that lists them again."""
    north, south = service.member("north"), service.member("south")
    old = vouch(north.identity.public)
    fetched(south)
    rotate(north)
    fetched(south)
    file = MembersFile(service.lead.path / "roster.json")
    members = file.read()
    kept = [north.identity.public if one.name == "north" else one for one in members.roster.members]
    file.write(members.state, roster=Roster("hospitals", tuple(kept)).to_json())
    fetched(south)
    south.keep_endorsements([old.to_bytes()])
    (peer,) = (peer for peer in south.peers() if peer.identity.name == "north")
    assert peer.identity == north.identity.public
    assert peer.doubts(NAMED, TODAY) == ()


def test_a_site_joins_with_what_an_authority_signed(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    south, west = service.member("south"), service.site("west")
    invite, wrong, right = (tmp_path / name for name in ("invite", "wrong", "right"))
    invite.write_bytes(service.invite("west").to_bytes())
    wrong.write_bytes(vouch(south.identity.public).to_bytes())
    right.write_bytes(vouch(west.identity.public).to_bytes())
    asked = ["site", "join", str(invite), "--dir", str(west.path), "--endorsement"]
    assert main([*asked, str(wrong)]) == 1
    assert "[endorsement_other]" in capsys.readouterr().err
    assert "west" not in fetched(south)  # nothing was done: the invite is as good as before
    assert main([*asked, str(right)]) == 0
    assert doubts(south, "west") is None


# A session


@pytest.mark.job
def test_a_session(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    north, south = service.member("north"), service.member("south")
    monkeypatch.chdir(tmp_path)

    def run(*words: str, code: int = 0) -> str:
        assert main(list(words)) == code, capsys.readouterr().err
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    def sign(member: PublicIdentity, file: str) -> None:
        given = ("--words", " ".join(member.words()), "--out", file, "--dir", "ministry")
        run("authority", "sign", file.replace("endorsement", "identity"), "--consortium", "hospitals", *given)

    run("authority", "init", "--name", "ministry", "--dir", "ministry")
    for folder, name in ((north.path, "north"), (service.lead.path, "lead")):
        (tmp_path / f"{name}.identity").write_bytes((folder / "identity" / "identity.json").read_bytes())
    sign(north.identity.public, "north.endorsement")
    sign(service.lead.identity.public, "lead.endorsement")
    said = run("site", "endorse", "north.endorsement", "--dir", str(north.path))
    assert said.startswith("The lead has it, and gives it to every site")
    assert run("lead", "endorse", "lead.endorsement", "--dir", str(service.lead.path)).startswith(
        "ministry has signed for lead, until "
    )
    shown = run("site", "peers", "--dir", str(south.path))
    assert "north (site): not confirmed. The policy does not name the authority ministry" in shown
    allow(south, roster__authorities=[Authority.open(tmp_path / "ministry").public.digest()])
    shown = run("site", "peers", "--dir", str(south.path))
    assert "north (site): not confirmed here, but signed for by ministry until " in shown
    assert "lead (lead): not confirmed here, but signed for by ministry until " in shown
    assert "counts while" not in run("site", "endorse", "north.endorsement", "--dir", str(north.path))
    assert "It counts while the policy names sha256:" in run(
        "site", "endorse", "north.endorsement", "--dir", str(south.path)
    )
    assert run("site", "endorse", "none", "--dir", str(south.path), code=1).endswith(
        "[endorsement_malformed]\n"
    )
    (tmp_path / "bad").write_bytes((tmp_path / "north.endorsement").read_bytes()[:-3])
    assert run("lead", "endorse", "bad", "--dir", str(service.lead.path), code=1).endswith(
        "[endorsement_malformed]\n"
    )
