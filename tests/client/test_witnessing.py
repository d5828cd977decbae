"""Heads over the real service: every party ends up with the others' heads, and a rewrite is found."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cloister.client.consortium import Consortium
from cloister.client.site.folder import SiteFolder
from cloister.client.witnessing import Heads
from cloister.privacy.errors import CloisterError
from cloister.privacy.evidence import files
from cloister.privacy.evidence.heads import SignedHead, origin_of
from cloister.privacy.evidence.log import EventLog, verify_log
from cloister.privacy.evidence.witnessing import Said, Witness
from cloister.privacy.identity import PublicIdentity
from tests.service import Service

pytestmark = pytest.mark.job

NAMES = ("north", "south", "west")


class Parties:
    """A lead and three sites that show each other heads."""

    def __init__(self, service: Service, stack: ExitStack) -> None:
        self.service = service
        self.sites = {name: service.member(name) for name in NAMES}
        self.heads: dict[str, Heads] = {}
        for name in NAMES:
            self.connect(name, stack)

    def connect(self, name: str, stack: ExitStack) -> Heads:
        site = self.sites[name] = SiteFolder.open(self.sites[name].path)
        member = stack.enter_context(Consortium(site))
        member.roster()
        self.heads[name] = Heads(site, member)
        return self.heads[name]

    def round(self, *names: str) -> None:
        for name in names or NAMES:
            self.heads[name].exchange()

    def folder(self, name: str) -> tuple[Path, PublicIdentity, EventLog]:
        if name == "lead":
            lead = self.service.lead
            return lead.path, lead.identity.public, lead.log
        site = self.sites[name]
        return site.path, site.identity.public, site.log


@pytest.fixture
def parties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parties]:
    monkeypatch.setattr("cloister.server.witnesses._FRESH_S", 0.0)
    with Service(tmp_path) as service, ExitStack() as stack:
        yield Parties(service, stack)


def test_every_party_holds_a_countersigned_head_of_every_other_and_its_own_come_back(
    parties: Parties,
) -> None:
    for name in NAMES:
        parties.heads[name].check()
    for _ in range(4):
        parties.round()
    everybody = ("lead", *NAMES)
    for name in everybody:
        path, own, log = parties.folder(name)
        for other in set(everybody) - {name}:
            their_path, theirs, _ = parties.folder(other)
            held = Witness(path).newest(theirs)
            assert held is not None, f"{name} holds no head of {other}"
            assert held.verify(theirs, (own,)) == (name,)
            verify_log(their_path / "log", theirs, (held,))
        vouched = set[str]()
        for head in files.stored_heads(path / "log"):
            vouched |= set(
                head.verify(own, [parties.folder(other)[1] for other in everybody if other != name])
            )
        assert vouched == set(everybody) - {name}
        kinds = [event.type for event in log.entries()]
        assert {"log.witnessed", "log.countersigned"} <= set(kinds)


def test_what_the_lead_countersigned_is_on_its_disk_before_it_answers(
    parties: Parties, monkeypatch: pytest.MonkeyPatch
) -> None:
    parties.round()
    monkeypatch.setattr("cloister.server.witnesses._FRESH_S", 3600.0)  # no head of its own, which syncs, too
    log = parties.service.lead.log
    before = log.since(0)[1]
    parties.round("north")
    assert log._durable is log._tip
    assert "log.witnessed" in [event.type for event in log.since(before)[0]]


def test_a_round_costs_a_site_one_call_and_bounded_events(parties: Parties) -> None:
    for _ in range(4):
        parties.round()
    log = parties.sites["north"].log
    before = len(list(log.entries()))
    parties.round()
    assert len(list(log.entries())) - before <= 2 * len(NAMES)


def test_after_a_restart_of_everybody_the_heads_go_on(tmp_path: Path) -> None:
    with Service(tmp_path) as service, ExitStack() as stack:
        parties = Parties(service, stack)
        for _ in range(3):
            parties.round()
        # The lead forgets what only passes through it, and the sites whom they told what.
        from cloister.server.consortium import ConsortiumServer

        service.server.stop(0)
        service.server = ConsortiumServer(service.lead, service.desk, service.addresses.service)
        service.server.start()
        for name in NAMES:
            parties.connect(name, stack).check()
        before = Witness(parties.sites["north"].path).held()
        for _ in range(4):
            parties.round()
        after = Witness(parties.sites["north"].path).held()
        assert before.keys() == after.keys()
        assert all(after[origin] > before[origin] for origin in before)


def test_an_old_copy_of_a_folder_is_noticed_before_anything_is_done(parties: Parties, tmp_path: Path) -> None:
    parties.round()
    copy = shutil.copytree(parties.sites["north"].path, tmp_path / "copy")
    parties.sites["north"].log.append("log.heartbeat")
    parties.round()
    with Consortium(SiteFolder.open(copy)) as member, pytest.raises(CloisterError) as caught:
        Heads(SiteFolder.open(copy), member).check()
    assert caught.value.id == "log_rolled_back"
    assert "restore --here" in caught.value.line()
    with ExitStack() as stack:  # the newest folder is none
        parties.connect("north", stack).check()


def test_a_site_that_shows_a_second_history_is_named_and_no_job_goes_on_with_it(
    parties: Parties, tmp_path: Path
) -> None:
    """An old copy of the folder, used by a site that leaves the check out, and written longer than before."""
    parties.round()
    copy = SiteFolder.open(shutil.copytree(parties.sites["north"].path, tmp_path / "copy"))
    parties.sites["north"].log.append("log.heartbeat")
    parties.round()
    parties.round()
    held = Witness(parties.service.lead.path).newest(copy.identity.public)
    assert held is not None
    while copy.log.head().size < held.size:
        copy.log.append("log.heartbeat")
    liar = Heads(copy, stack_member := Consortium(copy))
    liar._others = {held.size}  # what the lead would tell it
    with stack_member, pytest.raises(CloisterError) as caught:
        liar.exchange()
    assert caught.value.id == "log_forked"
    lead = parties.service.lead
    (incident,) = (event.body for event in lead.log.entries() if event.type == "incident.raised")
    assert (incident["reason"], incident["party"]) == ("log_forked", "north")
    witness = Witness(lead.path)
    assert witness.conflicts() == {origin_of(copy.identity.public)}
    with pytest.raises(CloisterError, match="north"):
        witness.refuse_conflicts([copy.identity.public])
    (kept,) = (lead.path / "witnessed").glob("north-*.conflict")
    both = (SignedHead.parse(kept.read_bytes()), witness.newest(copy.identity.public))
    for head in both:  # the two are the proof, whoever holds them
        assert head is not None
        head.verify(copy.identity.public)


def test_a_lead_that_shows_a_site_another_history_is_found_there(parties: Parties, tmp_path: Path) -> None:
    parties.round()
    parties.round()
    lead, north = parties.service.lead, parties.heads["north"]
    held = north.witness.newest(lead.identity.public)
    assert held is not None
    other = EventLog.open(tmp_path / "other", lead.identity)
    while other.head().size < held.size + 5:
        other.append("log.heartbeat")
    proof = other.consistency(held.size, held.size + 5)
    with pytest.raises(CloisterError) as caught:
        north.witness.take(lead.identity.public, other.head(), proof)
    assert caught.value.id == "proof_invalid"
    with pytest.raises(CloisterError) as again:
        north.witness.refuse_conflicts(parties.sites["north"].roster.members)
    assert again.value.id == "log_forked"
    assert north.witness.newest(lead.identity.public) == held


def test_nobody_countersigns_for_somebody_else(parties: Parties) -> None:
    """South hands in a mark of west's; and a mark of a head that was never shown is no mark."""
    parties.round()
    parties.round()
    north = parties.sites["north"]
    mine = Witness(north.path).newest(parties.service.lead.identity.public)
    assert mine is not None
    forged = SignedHead(mine.origin, mine.size, mine.root, mine.signatures[1:])
    said = Said(marks=(forged.serialise().decode(),))
    before = parties.service.events("log.countersigned")
    with Consortium(parties.sites["south"]) as south:
        south.heads(said.to_bytes())
    assert parties.service.events("log.countersigned") == before


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"version":2}', b'{"head":"x","version":1}', b"\xff"]
)
def test_what_is_not_of_the_protocol_is_refused(parties: Parties, content: bytes) -> None:
    with Consortium(parties.sites["north"]) as member:
        if content == b"{}":
            content = b'{"held":{"cloister/x/y":1},"version":1}'
        with pytest.raises(CloisterError) as caught:
            member.heads(content)
    assert caught.value.id in ("protocol", "head_invalid")
