from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cloister.client.site.folder import SiteFolder, Stored
from cloister.privacy import canonical
from cloister.privacy.channel.certificates import Authority
from cloister.privacy.errors import CloisterError
from cloister.privacy.identity import PrivateIdentity, Roster
from cloister.privacy.wire.joining import sign_roster
from cloister.privacy.wire.signed import Signed


def reason(action: Any) -> str:
    with pytest.raises(CloisterError) as caught:
        action()
    return caught.value.id


class Lead:
    """A lead that signs any roster."""

    def __init__(self) -> None:
        self.identity = PrivateIdentity.generate("lead", "lead")
        self.authority = Authority.create("sites")

    def admit(self, site: SiteFolder, *others: PrivateIdentity) -> None:
        """Makes a site a member without any network."""
        pem = self.authority.certificate_pem.decode()
        membership = Stored(
            invite="0" * 32,
            consortium="hospitals",
            lead=self.identity.public.to_json(),
            service="127.0.0.1:1",
            fleet="127.0.0.1:2",
            authority=pem,
            certificate=self.authority.issue(site.signing_request().encode(), site.name).decode(),
        )
        site.become_member(membership, self.roster(site.identity, *others))

    def roster(self, *sites: PrivateIdentity, consortium: str = "hospitals") -> Signed:
        members = (self.identity.public, *(site.public for site in sites))
        return sign_roster(Roster(consortium, members), self.identity)


@pytest.fixture
def lead() -> Lead:
    return Lead()


@pytest.fixture
def north(tmp_path: Path, lead: Lead) -> SiteFolder:
    site = SiteFolder.create(tmp_path / "north", "north")
    lead.admit(site)
    return site


def standing(site: SiteFolder) -> dict[str, bool]:
    return {peer.identity.name: peer.confirmed for peer in site.peers()}


def test_a_new_folder_is_private_and_not_a_member(tmp_path: Path) -> None:
    site = SiteFolder.create(tmp_path / "north", "north")
    assert SiteFolder.open(site.path).identity.public == site.identity.public
    assert not site.joined
    assert reason(lambda: site.membership) == "not_enrolled"
    assert reason(site.peers) == "not_enrolled"
    readable = [path.name for path in site.path.rglob("*") if path.stat().st_mode & 0o077]
    assert readable == ["identity.json"]


def test_a_name_that_is_none_leaves_nothing_behind(tmp_path: Path) -> None:
    assert reason(lambda: SiteFolder.create(tmp_path / "x", "No Name")) == "identity_malformed"
    assert not (tmp_path / "x").exists()


def test_other_folders_are_not_a_sites(tmp_path: Path) -> None:
    assert reason(lambda: SiteFolder.open(tmp_path)) == "state_missing"


def test_one_agent_works_in_a_folder(north: SiteFolder) -> None:
    with north.running():
        assert reason(lambda: SiteFolder.open(north.path).running().__enter__()) == "state_locked"


def test_nobody_but_the_site_itself_is_confirmed_at_first(north: SiteFolder) -> None:
    assert standing(north) == {"lead": False, "north": True}


@pytest.mark.parametrize("form", [str, str.upper, lambda words: f" {words.replace(' ', ',  ')}\n"])
def test_words_confirm_however_they_are_typed(north: SiteFolder, lead: Lead, form: Any) -> None:
    north.confirm("lead", form(" ".join(lead.identity.public.words())))
    assert standing(north) == {"lead": True, "north": True}
    *_, event = north.log.entries()
    assert (event.type, event.body["party"], event.body["method"]) == ("key.confirmed", "lead", "words")


def test_other_words_do_not(north: SiteFolder, lead: Lead) -> None:
    right = lead.identity.public.words()
    for words in ("", " ".join(right[:-1]), " ".join((*right, right[0])), " ".join(reversed(right))):
        assert reason(lambda words=words: north.confirm("lead", words)) == "fingerprint_mismatch"
    assert reason(lambda: north.confirm("stranger", " ".join(right))) == "party_unknown"
    assert standing(north)["lead"] is False


def test_a_changed_key_must_be_confirmed_again(north: SiteFolder, lead: Lead) -> None:
    south, other = (PrivateIdentity.generate("south", "site") for _ in range(2))
    north.keep_roster(lead.roster(north.identity, south))
    north.confirm("south", " ".join(south.public.words()))
    assert standing(north)["south"] is True
    north.keep_roster(lead.roster(north.identity, other))
    assert standing(north)["south"] is False
    assert reason(lambda: north.confirm("south", " ".join(south.public.words()))) == "fingerprint_mismatch"


def test_a_roster_must_be_the_leads_and_hold_this_site(north: SiteFolder, lead: Lead) -> None:
    kept = north.roster
    impostor, double = Lead(), PrivateIdentity.generate("north", "site")
    for signed, expected in (
        (impostor.roster(north.identity), "signature_invalid"),
        (lead.roster(north.identity, consortium="banks"), "roster_mismatch"),
        (lead.roster(), "roster_mismatch"),
        (lead.roster(double), "roster_mismatch"),
    ):
        assert reason(lambda signed=signed: north.keep_roster(signed)) == expected
    assert north.roster == kept


def test_a_roster_of_another_lead_is_refused_even_if_the_lead_signed_it(
    north: SiteFolder, lead: Lead
) -> None:
    other = PrivateIdentity.generate("lead", "lead")
    roster = Roster("hospitals", (other.public, north.identity.public))
    assert reason(lambda: north.keep_roster(sign_roster(roster, lead.identity))) == "roster_mismatch"


def test_an_altered_roster_is_not_read(north: SiteFolder) -> None:
    path = north.path / "roster.json"
    value = canonical.decode(path.read_bytes())
    path.write_bytes(canonical.encode(value | {"content": value["content"].replace("north", "worth")}))
    assert reason(lambda: north.roster) == "signature_invalid"


@pytest.mark.parametrize(
    ("name", "action"),
    [("membership.json", "membership"), ("roster.json", "roster"), ("confirmed.json", "peers")],
)
def test_damaged_files_are_named(north: SiteFolder, name: str, action: str) -> None:
    path = north.path / name
    path.touch(mode=0o600)
    path.write_bytes(b"{")
    with pytest.raises(CloisterError) as caught:
        value = getattr(north, action)
        value()
    assert (caught.value.id, name in caught.value.what) == ("state_damaged", True)
