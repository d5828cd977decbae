"""Heads over the real service: every party ends up with the others' heads, and a rewrite is found."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cloister.client.consortium import Consortium
from cloister.client.site.folder import SiteFolder
from cloister.client.witnessing import Heads
from cloister.privacy.errors import CloisterError, TransportError
from cloister.privacy.evidence import files
from cloister.privacy.evidence.heads import SignedHead, origin_of
from cloister.privacy.evidence.log import EventLog, verify_log
from cloister.privacy.evidence.witnessing import OVERDUE_S, WHOLE_S, Said, Witness
from cloister.privacy.identity import PrivateIdentity, PublicIdentity
from tests.proxy import ConnectProxy
from tests.service import Service

pytestmark = pytest.mark.job

NAMES = ("north", "south", "west")


class Parties:
    """A lead and three sites that show each other heads."""

    def __init__(self, service: Service, stack: ExitStack) -> None:
        self.service = service
        self.sites = {name: service.member(name) for name in NAMES}
        self.heads: dict[str, Heads] = {}
        self.now = 1000.0
        service.server._witnesses._clock = lambda: self.now
        for name in NAMES:
            self.connect(name, stack)

    def connect(self, name: str, stack: ExitStack) -> Heads:
        site = self.sites[name] = SiteFolder.open(self.sites[name].path)
        member = stack.enter_context(Consortium(site))
        member.roster()
        self.heads[name] = Heads(site, member, lambda: self.now)
        return self.heads[name]

    def round(self, *names: str, whole: bool = False) -> None:
        for name in names or NAMES:
            self.heads[name].exchange(whole=whole)

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


def messages(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of question and answer of every call from now on."""
    carried, ask = list[int](), Consortium.heads

    def counted(member: Consortium, said: bytes) -> bytes:
        answer = ask(member, said)
        carried.append(len(said) + len(answer))
        return answer

    monkeypatch.setattr(Consortium, "heads", counted)
    return carried


@pytest.mark.parametrize("last", ["whole", "light"])
def test_every_party_holds_a_countersigned_head_of_every_other_and_its_own_come_back(
    parties: Parties, last: str
) -> None:
    """After whole heads in every call; and after one of each and light ones since, then of both weights."""
    light = last == "light"
    for name in NAMES:
        parties.heads[name].check()
    for _ in range(4):
        parties.round(whole=not light)
    everybody = ("lead", *NAMES)
    for name in everybody:
        path, own, log = parties.folder(name)
        for other in set(everybody) - {name}:
            their_path, theirs, _ = parties.folder(other)
            held = Witness(path).newest(theirs)
            assert held is not None, f"{name} holds no head of {other}"
            assert held.verify(theirs, (own,), light=light) == (name,)
            whole = files.read_head(next((path / "witnessed").glob(f"{other}-*.head")))
            assert whole.verify(theirs, (own,)) == (name,)
            verify_log(their_path / "log", theirs, (whole,))
        for weight in {False, light}:
            vouched = set[str]()
            for head in files.stored_heads(path / "log", light=weight):
                others = [parties.folder(other)[1] for other in everybody if other != name]
                vouched |= set(head.verify(own, others, light=weight))
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


def test_a_round_between_two_whole_heads_costs_few_bytes_and_no_post_quantum_signature(
    parties: Parties, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried = messages(monkeypatch)
    signed = list[str]()
    sign = PrivateIdentity.sign
    monkeypatch.setattr(
        PrivateIdentity, "sign", lambda *a, **k: (signed.append(k["context"]), sign(*a, **k))[1]
    )
    for _ in range(4):
        parties.round()  # whole heads go round, and every countersignature of them comes back
    carried.clear(), signed.clear()
    parties.now += WHOLE_S - 1
    for _ in range(2):
        parties.round()
    assert max(carried) < 5_000
    assert signed == []
    carried.clear()
    for _ in range(3):
        parties.round(whole=True)
    assert min(carried[-3:]) > 45_000


def test_after_a_while_a_whole_head_is_shown_by_everybody(parties: Parties) -> None:
    def whole() -> dict[str, int]:
        return {name: len(files.stored_heads(parties.folder(name)[0] / "log")) for name in ("lead", *NAMES)}

    for _ in range(3):
        parties.round()
    before = whole()
    parties.now += WHOLE_S - 1
    parties.round()
    assert whole() == before
    parties.now += 1
    parties.round()
    for name in NAMES:
        assert whole()[name] == before[name] + 1
    assert whole()["lead"] > before["lead"]
    after = whole()
    parties.round()
    assert whole() == after


def test_the_lead_shows_a_whole_head_when_its_own_is_old_and_only_light_ones_come(parties: Parties) -> None:
    for _ in range(3):
        parties.round()
    lead = parties.folder("lead")[0] / "log"
    before = len(files.stored_heads(lead))
    parties.round("north")
    assert len(files.stored_heads(lead)) == before
    parties.service.server._witnesses._clock = lambda: parties.now + WHOLE_S
    parties.round("north")
    assert len(files.stored_heads(lead)) == before + 1
    held = files.read_head(next((parties.sites["north"].path / "witnessed").glob("lead-*.head")))
    assert held.text() == files.stored_heads(lead)[-1].text()


def test_a_whole_head_is_passed_on_also_where_a_light_one_is_newer(parties: Parties) -> None:
    for _ in range(3):
        parties.round()
    north, south = parties.sites["north"], parties.sites["south"]
    parties.round("north", whole=True)
    whole = files.stored_heads(north.path / "log")[-1]
    parties.round("north", "south")
    (kept,) = (south.path / "witnessed").glob("north-*.head")
    assert files.read_head(kept).text() == whole.text()
    for _ in range(2):  # north has to learn first that south begins at the whole one
        parties.round("north", "south")
    held = Witness(south.path).newest(north.identity.public)
    assert held is not None
    assert (held.light, held.size > whole.size) == (True, True)


def test_a_site_that_calls_less_often_is_shown_every_newest_head(parties: Parties) -> None:
    """North calls twice for one call of south; what it shows is to begin at what south took meanwhile."""
    for _ in range(3):
        parties.round()
    north, south = parties.sites["north"], parties.sites["south"]
    for _ in range(3):
        parties.round("north", "north", "south")
        newest = files.stored_heads(north.path / "log", light=True)[-1]
        assert Witness(south.path).held()[newest.origin] == newest.size


def test_a_call_that_fails_is_followed_by_a_whole_head(
    parties: Parties, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the lead took of it, nobody knows."""
    for _ in range(2):
        parties.round()
    north = parties.sites["north"]
    before = len(files.stored_heads(north.path / "log"))

    def cut(member: Consortium, said: bytes) -> bytes:
        raise TransportError("unreachable", "The lead cannot be reached.")

    with monkeypatch.context() as patch, pytest.raises(TransportError):
        patch.setattr(Consortium, "heads", cut)
        parties.round("north")
    parties.round("north")
    assert len(files.stored_heads(north.path / "log")) == before + 1
    parties.round("north")
    assert len(files.stored_heads(north.path / "log")) == before + 1


def test_a_site_that_shows_light_heads_alone_is_refused_by_the_lead_and_then_shows_a_whole_one(
    parties: Parties,
) -> None:
    for _ in range(2):
        parties.round()
    lead = parties.service.lead
    (kept,) = (lead.path / "witnessed").glob("north-*.head")
    os.utime(kept, (time.time() - OVERDUE_S - 60,) * 2)
    held = Witness(lead.path).held()
    with pytest.raises(CloisterError) as caught:
        parties.round("north")
    assert caught.value.id == "head_invalid"
    assert Witness(lead.path).held() == held
    parties.round("north")
    assert Witness(lead.path).held() != held
    assert time.time() - kept.stat().st_mtime < OVERDUE_S


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


def test_what_goes_over_the_wire_is_compressed(parties: Parties, monkeypatch: pytest.MonkeyPatch) -> None:
    carried = messages(monkeypatch)
    parties.round()
    with ConnectProxy() as proxy, ExitStack() as stack:
        monkeypatch.setenv("https_proxy", proxy.url)
        north = parties.connect("north", stack)
        north.exchange()  # the first call of a connection carries more
        for whole in (True, False):
            parties.round("south", "west", whole=whole)
            before = sum(proxy.carried)
            north.exchange(whole=whole)
            assert sum(proxy.carried) - before < 0.85 * carried[-1]


@pytest.mark.parametrize("whole", [False, True])
def test_a_site_that_shows_a_second_history_is_named_and_no_job_goes_on_with_it(
    parties: Parties, tmp_path: Path, whole: bool
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
    liar._others, liar._whole = {held.size}, time.monotonic()  # what the lead would tell it
    with stack_member, pytest.raises(CloisterError) as caught:
        liar.exchange(whole=whole)
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
        head.verify(copy.identity.public, light=head.light)
    assert SignedHead.parse(kept.read_bytes()).light is not whole
    assert held.light  # a light head was enough to notice it


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


def test_a_light_countersignature_of_another_head_is_not_passed_on(parties: Parties) -> None:
    for _ in range(4):
        parties.round()
    north, south = parties.sites["north"], parties.sites["south"]
    marks = parties.heads["south"]._marks
    note = next(note for note in marks if note.startswith("cloister/north/"))
    signed = SignedHead.parse(note.encode())
    assert signed.light
    north.log.append("log.heartbeat")
    parties.round("north")
    later = max(files.stored_heads(north.path / "log", light=True), key=lambda head: head.size)
    forged = SignedHead(later.origin, later.size, later.root, signed.signatures)
    said = Said(marks=(forged.serialise().decode(),))
    with Consortium(south) as member, pytest.raises(CloisterError) as caught:
        member.heads(said.to_bytes())
    assert caught.value.id == "head_invalid"


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
