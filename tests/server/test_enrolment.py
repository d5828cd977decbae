"""Enrolment: what makes a member, and every way in that is refused."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from cloister.client.site.folder import SiteFolder, Stored
from cloister.privacy import canonical
from cloister.privacy.channel.certificates import (
    common_name,
    fingerprint,
    new_tls_key,
    signing_request,
)
from cloister.privacy.errors import ChannelError, CloisterError
from cloister.privacy.evidence.log import EventLog, now
from cloister.privacy.identity import PrivateIdentity, Signature
from cloister.privacy.wire.joining import (
    REQUEST_CONTEXT,
    Invite,
    Membership,
    Request,
    moment,
    open_roster,
    parse,
)
from cloister.privacy.wire.signed import Signed
from cloister.server.enrolment import Addresses, Enrolment
from cloister.server.folder import LeadFolder, Settings

PLACES = Addresses("127.0.0.1:8441", "127.0.0.1:8440")


class Desk:
    """The lead's side with a clock that tests move, and requests as sites make them."""

    def __init__(self, path: Path) -> None:
        self.folder = LeadFolder.create(path, Settings(consortium="hospitals"))
        self.now = now()
        self.enrolment = self.reopened()

    def reopened(self) -> Enrolment:
        """As another process sees it."""
        return Enrolment(
            self.folder.path / "roster.json",
            self.folder.identity,
            sites=self.folder.authority("sites"),
            invites=self.folder.authority("invites"),
            log=EventLog.open(self.folder.path / "log", self.folder.identity),
            clock=lambda: self.now,
        )

    def invite(self, name: str = "north") -> Invite:
        return self.enrolment.invite(name, PLACES)

    def enrol(self, invite: Invite, request: Signed) -> Signed:
        caller = self.enrolment.caller(fingerprint(invite.certificate))
        return self.enrolment.enrol(caller, request)

    def refusal(self, invite: Invite, request: Signed) -> str:
        """The id of a refusal, which is logged and changes nothing."""
        before = (self.folder.path / "roster.json").read_bytes()
        with pytest.raises(CloisterError) as caught:
            self.enrol(invite, request)
        assert (self.folder.path / "roster.json").read_bytes() == before
        *_, event = self.folder.log.entries()
        assert (event.type, event.body["reason"]) == ("invite.refused", caught.value.id)
        return caught.value.id


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "lead")


@pytest.fixture
def north() -> PrivateIdentity:
    return PrivateIdentity.generate("north", "site")


def ask(invite: Invite, site: PrivateIdentity, csr: bytes | None = None, **changes: Any) -> Signed:
    """A request to join."""
    request = Request(
        **{
            "consortium": invite.consortium,
            "invite": invite.id,
            "identity": site.public.to_json(),
            "csr": (csr or signing_request(new_tls_key(), "anything")).decode(),
        }
        | changes
    )
    return request.signed(site)


def test_a_site_with_an_invite_becomes_a_member(desk: Desk, north: PrivateIdentity) -> None:
    request = ask(invite := desk.invite(), north)
    membership = Membership.opened(desk.enrol(invite, request), invite.leader, request)
    roster = open_roster(Signed.from_json(membership.roster), invite.leader, "hospitals")
    assert roster.sites == (north.public,)
    assert common_name(membership.certificate) == "north"  # whatever the request called itself
    caller = desk.enrolment.caller(fingerprint(membership.certificate))
    assert (caller.name, caller.identity, caller.invite) == ("north", north.public, "")


def test_the_log_tells_what_happened_and_no_secret(desk: Desk, north: PrivateIdentity) -> None:
    desk.enrol(invite := desk.invite(), ask(invite, north))
    events = list(desk.folder.log.entries())
    assert [event.type for event in events[1:]] == [
        "invite.issued",
        "key.enrolled",
        "certificate.issued",
        "site.joined",
        "roster.changed",
    ]
    assert invite.id not in str(events)
    assert invite.key not in (desk.folder.path / "roster.json").read_text()


def test_another_process_sees_a_new_member_at_once(desk: Desk, north: PrivateIdentity) -> None:
    other = desk.reopened()
    invite = other.invite("north", PLACES)
    desk.enrol(invite, ask(invite, north))
    assert other.roster.sites == (north.public,)


def test_a_lost_answer_is_given_again(desk: Desk, north: PrivateIdentity) -> None:
    invite, csr = desk.invite(), signing_request(new_tls_key(), "north")
    request = ask(invite, north, csr)
    first = Membership.opened(desk.enrol(invite, request), invite.leader, request)
    desk.now += timedelta(days=7, hours=1)  # past the invite's date, too
    again = ask(invite, north, csr)
    second = Membership.opened(desk.enrol(invite, again), invite.leader, again)
    assert first.certificate == second.certificate
    assert len(desk.enrolment.roster.sites) == 1


def test_a_used_invite_is_of_no_use_to_another_key(desk: Desk, north: PrivateIdentity) -> None:
    invite, csr = desk.invite(), signing_request(new_tls_key(), "north")
    desk.enrol(invite, ask(invite, north, csr))
    assert desk.refusal(invite, ask(invite, PrivateIdentity.generate("north", "site"), csr)) == "invite_used"
    assert desk.refusal(invite, ask(invite, north)) == "invite_used"  # another TLS key


def test_an_invite_ends(desk: Desk, north: PrivateIdentity) -> None:
    invite = desk.invite()
    desk.now += timedelta(days=7, hours=1)
    assert desk.refusal(invite, ask(invite, north)) == "invite_expired"
    with pytest.raises(CloisterError) as caught:
        invite.refuse_expired(desk.now)
    assert caught.value.id == "invite_expired"
    desk.now += timedelta(days=1)
    with pytest.raises(ChannelError) as late:
        desk.enrolment.caller(fingerprint(invite.certificate))
    assert late.value.id == "certificate_invalid"


def test_an_invite_is_for_one_name(desk: Desk) -> None:
    invite = desk.invite()
    for name, role in (("south", "site"), ("north", "lead")):
        stranger = PrivateIdentity.generate(name, role)
        assert desk.refusal(invite, ask(invite, stranger)) == "invite_other_site"


@pytest.mark.parametrize("changes", [{"id": "0" * 32}, {"consortium": "banks"}], ids=str)
def test_a_request_names_the_invite_of_its_certificate(
    desk: Desk, north: PrivateIdentity, changes: dict[str, str]
) -> None:
    invite = desk.invite()
    assert desk.refusal(invite, ask(invite.model_copy(update=changes), north)) == "invite_unknown"


def test_the_id_of_another_invite_is_of_no_use(desk: Desk, north: PrivateIdentity) -> None:
    mine, other = desk.invite("north"), desk.invite("south")
    assert desk.refusal(other, ask(mine, north)) == "invite_unknown"


def test_a_request_is_signed_by_the_keys_that_it_brings(desk: Desk, north: PrivateIdentity) -> None:
    invite, other = desk.invite(), PrivateIdentity.generate("north", "site")
    good = ask(invite, north)
    half = Signature(good.signature.ed25519, bytes(3309))
    for forged in (
        Signed(good.content, Signature(b"", b"")),
        Signed(good.content, half),
        Signed.make(good.content, other, REQUEST_CONTEXT),
        Signed.make(good.content, north, "cloister/offer/1"),
    ):
        assert desk.refusal(invite, forged) == "request_unsigned"


def test_a_stolen_public_identity_is_not_enough(desk: Desk, north: PrivateIdentity) -> None:
    """Somebody with the invite registers keys that they do not hold."""
    invite, thief = desk.invite(), PrivateIdentity.generate("north", "site")
    assert desk.refusal(invite, ask(invite, thief, identity=north.public.to_json())) == "request_unsigned"


def test_a_key_belongs_to_one_member(desk: Desk, north: PrivateIdentity) -> None:
    desk.enrol(invite := desk.invite(), ask(invite, north))
    copy = PrivateIdentity("south", "site", north._seeds, new_tls_key())  # all keys but the node key
    other = desk.invite("south")
    assert desk.refusal(other, ask(other, copy)) == "key_duplicate"


def test_a_name_belongs_to_one_member(desk: Desk, north: PrivateIdentity) -> None:
    first, second = desk.invite(), desk.invite()
    desk.enrol(first, ask(first, north))
    assert desk.refusal(second, ask(second, PrivateIdentity.generate("north", "site"))) == "name_taken"
    for name in ("north", "lead"):
        with pytest.raises(CloisterError) as caught:
            desk.invite(name)
        assert caught.value.id == "name_taken"


@pytest.mark.parametrize("name", ["", "North", "a b", "../x", "-a", "a" * 41])
def test_an_invite_is_for_a_name(desk: Desk, name: str) -> None:
    with pytest.raises(CloisterError) as caught:
        desk.invite(name)
    assert caught.value.id == "identity_malformed"


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"kind":"cloister-join"}'])
def test_bytes_that_are_no_request_are_refused(desk: Desk, content: bytes) -> None:
    assert desk.refusal(desk.invite(), Signed(content, Signature(b"", b""))) == "protocol"


def test_a_request_whose_signing_request_is_none_is_refused(desk: Desk, north: PrivateIdentity) -> None:
    invite = desk.invite()
    broken = ask(invite, north, csr=b"-----BEGIN CERTIFICATE REQUEST-----")
    assert desk.refusal(invite, broken) == "certificate_invalid"


def test_a_key_that_nobody_can_seal_for_is_refused(desk: Desk, north: PrivateIdentity) -> None:
    invite = desk.invite()
    identity = north.public.to_json() | {"hpke": "ff" * 1216}
    assert desk.refusal(invite, ask(invite, north, identity=identity)) == "identity_malformed"


def test_a_members_certificate_ends(desk: Desk, north: PrivateIdentity) -> None:
    request = ask(invite := desk.invite(), north)
    membership = Membership.opened(desk.enrol(invite, request), invite.leader, request)
    desk.now += timedelta(days=91)
    with pytest.raises(ChannelError) as caught:
        desk.enrolment.caller(fingerprint(membership.certificate))
    assert caught.value.id == "certificate_invalid"


def test_an_unknown_certificate_is_nobodys(desk: Desk) -> None:
    _, certificate = desk.folder.authority("sites").client("north")
    with pytest.raises(ChannelError) as caught:
        desk.enrolment.caller(fingerprint(certificate))
    assert caught.value.id == "certificate_invalid"


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"version":1}'])
def test_a_damaged_file_stops_everything(desk: Desk, damage: bytes) -> None:
    (desk.folder.path / "roster.json").write_bytes(damage)
    with pytest.raises(CloisterError) as caught:
        _ = desk.reopened().roster
    assert caught.value.id == "state_damaged"


def test_the_lead_answers_only_under_its_own_signatures(desk: Desk, north: PrivateIdentity) -> None:
    invite = desk.invite()
    request = ask(invite, north)
    answer = desk.enrol(invite, request)
    other = ask(invite, north)
    for lead, asked, expected in (
        (invite.leader, other, "wrong_context"),
        (north.public, request, "signature_invalid"),
    ):
        with pytest.raises(ChannelError) as caught:
            Membership.opened(answer, lead, asked)
        assert caught.value.id == expected


def test_a_certificate_over_another_key_is_not_kept(desk: Desk, tmp_path: Path) -> None:
    site = SiteFolder.create(tmp_path / "north", "north")
    invite = desk.invite()
    request = ask(invite, site.identity)  # with a TLS key that is not the folder's
    membership = Membership.opened(desk.enrol(invite, request), invite.leader, request)
    with pytest.raises(ChannelError) as caught:
        site.become_member(Stored.of(invite, membership.certificate), Signed.from_json(membership.roster))
    assert caught.value.id == "certificate_invalid"
    assert not site.joined


def test_the_certificates_of_invites_are_of_no_authority_that_flower_trusts(desk: Desk) -> None:
    invite = desk.invite()
    assert common_name(invite.certificate) == f"invite:{invite.id}"
    certificate = x509.load_pem_x509_certificate(invite.certificate.encode())
    for door in ("sites", "operator"):
        authority = x509.load_pem_x509_certificate(desk.folder.authority(door).certificate_pem)
        with pytest.raises(ValueError, match=r"[Ii]ssuer"):
            certificate.verify_directly_issued_by(authority)
    invites = x509.load_pem_x509_certificate(desk.folder.authority("invites").certificate_pem)
    certificate.verify_directly_issued_by(invites)


def test_an_invite_file_survives_a_round_trip(desk: Desk) -> None:
    invite = desk.invite()
    assert Invite.from_bytes(invite.to_bytes()) == invite


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "cloister-plan"},
        {"version": 2},
        {"id": "abc"},
        {"site": "Not A Name"},
        {"service": "no port"},
        {"service": "host:99999999"},
        {"lead": {}},
        {"lead": None},
        {"authority": "none"},
        {"not_after": "tomorrow"},
        {"not_after": "2026-13-01T00:00:00Z"},
        {"more": 1},
    ],
    ids=str,
)
def test_an_altered_invite_file_is_refused(desk: Desk, changes: dict[str, Any]) -> None:
    value = canonical.decode(desk.invite().to_bytes()) | changes
    with pytest.raises(CloisterError) as caught:
        Invite.from_bytes(canonical.encode(value))
    assert caught.value.id == "invite_malformed"


@pytest.mark.parametrize(
    "data", [b"", b"\xff" * 100, b"{}", b"[" * 70_000], ids=["empty", "bytes", "object", "deep"]
)
def test_other_files_are_not_invites(data: bytes) -> None:
    with pytest.raises(CloisterError) as caught:
        Invite.from_bytes(data)
    assert caught.value.id == "invite_malformed"


def test_moments_are_written_in_utc() -> None:
    when = datetime.fromisoformat("2026-01-31T12:00:00+02:00")
    assert moment(when) == "2026-01-31T10:00:00Z"
    assert parse(moment(when)) == when
