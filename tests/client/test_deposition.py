"""Parts and signatures over the real service: what arrives, what a site signs, and what both ends refuse."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cloister.client.consortium import Consortium
from cloister.client.deposition import Deposing, Deposition, Willing
from cloister.privacy import canonical
from cloister.privacy.errors import CloisterError, EvidenceError
from cloister.privacy.evidence.bundle import Bundle, relisted
from cloister.privacy.evidence.checks.case import Opening
from cloister.privacy.evidence.checks.findings import Result
from cloister.privacy.evidence.checks.run import verify
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.evidence.part import Part
from cloister.privacy.evidence.witnessing import Witness
from cloister.privacy.wire import consortium_pb2 as pb
from cloister.privacy.wire import portions
from cloister.privacy.wire.portions import Wish, Word, cut
from cloister.server.dossier import Assembly, contents
from cloister.server.gathering import Gathering
from tests.dossiers import NAMES, Dossiers, finished
from tests.fleet import environment, until
from tests.service import Service

pytestmark = pytest.mark.job


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dossiers]:
    with Service(tmp_path_factory.mktemp("consortium")) as service:
        yield finished(service)


@pytest.fixture
def made(staged: Dossiers) -> Dossiers:
    """The job just after its end: nothing was handed over or signed."""
    shutil.rmtree(staged.job.folder / "evidence", ignore_errors=True)
    staged.job.move("finished")
    staged.service.server.collector._noted.clear()
    for name, site in staged.sites.items():
        shutil.rmtree(site.path / "witnessed", ignore_errors=True)
        (staged.site_job(name).folder / "handed").unlink(missing_ok=True)
    return staged


@contextmanager
def agent(made: Dossiers, name: str, willing: Willing = "sign") -> Iterator[Deposing]:
    """What the agent of a site does about evidence, one turn at a time, with what it has said in ``said``."""
    said: list[str] = []
    with Consortium(made.sites[name]) as member:
        deposing = Deposing(made.sites[name], member, said.append, willing)
        deposing.said = said  # type: ignore[attr-defined]
        yield deposing


def turn(made: Dossiers, *names: str, willing: Willing = "sign") -> list[str]:
    """One turn of agents; what they said."""
    said: list[str] = []
    for name in names or NAMES:
        with agent(made, name, willing) as one:
            if willing != "none":
                one.answer()
            said += one.said  # type: ignore[attr-defined]
    return said


@contextmanager
def agents(made: Dossiers, **willing: Willing) -> Iterator[None]:
    """All agents at once, told of news all the time."""
    ended = threading.Event()

    def work(name: str) -> None:
        with agent(made, name, willing.get(name, "sign")) as one:
            one.start()
            while not ended.wait(0.05):
                one.mark()
            one.stop(10)

    threads = [threading.Thread(target=work, args=(name,)) for name in NAMES]
    for thread in threads:
        thread.start()
    try:
        with made.lead.running():
            yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def gathering(made: Dossiers) -> Gathering:
    return Gathering.of(made.job)


def offered(made: Dossiers, change: Callable[[Bundle], Bundle] = lambda bundle: bundle) -> Bundle:
    """The lead's bundle of the parts that arrived, laid out for signatures."""
    parts = gathering(made).parts().values()
    bundle = change(contents(made.lead, made.job, parts).bundle(made.lead.identity))
    gathering(made).offer(bundle)
    return bundle


def incidents(log: Any) -> list[tuple[Any, Any]]:
    return [(e.body["reason"], e.body.get("party")) for e in log.entries() if e.type == "incident.raised"]


def trust(made: Dossiers) -> dict[str, str]:
    return {party.name: party.identity for party in (made.plan.lead, *made.plan.sites)}


@pytest.mark.slow
def test_parts_come_in_the_bundle_goes_out_and_signatures_come_back(made: Dossiers, tmp_path: Path) -> None:
    with agents(made):
        bundle, verdict = Assembly(made.lead, made.job, {}, wait=60).bundle()
    assert verdict.result is Result.VERIFIED
    signed = bundle.manifest.verify(
        [made.lead.identity.public, *(s.identity.public for s in made.sites.values())]
    )
    assert set(signed) == {"lead", *NAMES}
    bundle.write(tmp_path / "bundle")
    whole = verify(Bundle.read(tmp_path / "bundle"), trust(made))
    assert whole.result is Result.VERIFIED
    assert not [note for note in whole.notes if "is not signed by" in note]
    for site in made.sites.values():
        *_, said = (e for e in site.log.entries() if e.type == "report.verified")
        assert (said.job, said.body["bundle"], said.body["result"]) == (
            made.plan.digest,
            bundle.digest,
            "verified",
        )


@pytest.mark.slow
def test_who_does_not_sign_in_time_is_listed(made: Dossiers) -> None:
    with agents(made, west="part"):
        bundle, verdict = Assembly(made.lead, made.job, {}, wait=8).bundle()
    assert verdict.result is Result.VERIFIED
    (note,) = (note for note in verify(bundle, trust(made)).notes if "is not signed by" in note)
    assert note == "MANIFEST.json is not signed by west."


def test_without_a_part_there_is_no_bundle_and_who_lacks_is_told(made: Dossiers) -> None:
    turn(made, "east", "north", "south")
    with pytest.raises(EvidenceError, match="The parts of west are not here") as caught:
        Assembly(made.lead, made.job, {}).bundle()
    assert caught.value.id == "bundle_incomplete"
    part = Deposition(made.sites["west"]).part(made.site_job("west"))
    bundle, verdict = Assembly(made.lead, made.job, {"west": part}).bundle()
    assert (verdict.result, bundle.manifest.verify([made.lead.identity.public])) == (
        Result.VERIFIED,
        ("lead",),
    )


def test_a_part_is_asked_for_once_and_again_when_the_lead_asks_anew(made: Dossiers) -> None:
    wished = lambda: [wish.asked for wish in _wishes(made, "north")]  # noqa: E731
    assert wished() == [1]
    assert turn(made, "north") == [
        f"Handed over the evidence of {made.plan.digest[7:19]}: {_events(made)} events."
    ]
    assert wished() == []
    gathering(made).ask()
    assert wished() == [2]
    turn(made, "north")
    assert (wished(), gathering(made).answered()) == ([], {"north": 2})


def _events(made: Dossiers) -> int:
    return len(gathering(made).parts()["north"].events)


def _wishes(made: Dossiers, name: str) -> tuple[Wish, ...]:
    with Consortium(made.sites[name]) as member:
        return member.wanted()


def test_what_was_handed_over_and_signed_outlasts_both_ends(made: Dossiers) -> None:
    """Nothing is kept in memory: another lead process and another agent go on from the files."""
    turn(made)
    bundle = offered(made)
    turn(made, "east")
    again = Gathering(made.job.folder / "evidence", made.plan)
    assert (set(again.answered()), set(again.words(bundle.digest))) == (set(NAMES), {"east"})
    turn(made, "east", "north")
    assert set(again.words(bundle.digest)) == {"east", "north"}
    assert all(not word.refused for word in again.words(bundle.digest).values())


def test_policies_of_a_site_are_shown_to_no_other(made: Dossiers) -> None:
    turn(made)
    bundle = offered(made)
    policies = {name for name in bundle.files if name.startswith("policies/")}
    with Consortium(made.sites["north"]) as member:
        shown = member.bundle(Wish(job=made.plan.digest, bundle=bundle.digest))
    assert {name for name in shown if name.startswith("policies/")} == {
        name for name in policies if name.startswith("policies/north@")
    }
    assert set(bundle.files) - set(shown) == {n for n in policies if not n.startswith("policies/north@")}


# What a lead may try


def _own(bundle: Bundle, made: Dossiers, name: str, data: bytes) -> Bundle:
    return relisted(Bundle({**bundle.files, name: data}), made.plan, "auditor", made.lead.identity)


def _altered_event(made: Dossiers) -> Callable[[Bundle], Bundle]:
    place = "events/north.jsonl"
    return lambda b: _own(
        b, made, place, b.files[place].replace(b'"reason":"survivor', b'"reason":"survivor', 0) + b"x\n"
    )


def _left_out(made: Dossiers) -> Callable[[Bundle], Bundle]:
    place = "events/north.jsonl"
    return lambda b: _own(b, made, place, b"\n".join(b.files[place].split(b"\n")[:-3]) + b"\n")


def _older(made: Dossiers) -> Callable[[Bundle], Bundle]:
    """A part that north has signed, but never handed over: the lead got it elsewhere."""
    site = made.sites["north"]
    site.log.append("log.heartbeat")
    other = Part.make(site.log, site.identity, made.plan)
    parts = {**gathering(made).parts(), "north": other}
    return lambda _: contents(made.lead, made.job, parts.values()).bundle(made.lead.identity)


def _other_page(made: Dossiers) -> Callable[[Bundle], Bundle]:
    return lambda b: _own(b, made, "report.html", b.files["report.html"].replace(b"8", b"3", 1))


def _other_plan(made: Dossiers) -> Callable[[Bundle], Bundle]:
    value = canonical.decode(made.plan.to_bytes()) | {"purpose": "something else"}
    return lambda b: _own(b, made, "plan.json", canonical.encode(value))


@pytest.mark.parametrize(
    ("cheat", "reason"),
    [
        (_altered_event, "bundle_altered"),
        (_left_out, "bundle_altered"),
        (_older, "part_replaced"),
        (_other_page, "bundle_altered"),
        (_other_plan, "bundle_altered"),
    ],
)
def test_a_site_signs_nothing_that_does_not_hold(
    made: Dossiers, cheat: Callable[[Dossiers], Callable[[Bundle], Bundle]], reason: str
) -> None:
    turn(made)
    bundle = offered(made, cheat(made))
    (line,) = turn(made, "north")
    assert "is not signed." in line
    assert line.endswith(f"[{reason}]")
    assert incidents(made.sites["north"].log)[-1] == (reason, "lead")
    assert incidents(made.lead.log)[-1] == (reason, "north")
    assert gathering(made).words(bundle.digest)["north"].refused == reason
    assert turn(made, "north") == []  # said once


@pytest.mark.parametrize(("more", "reason"), [(0, "log_forked"), (1, "bundle_incomplete")])
def test_a_site_holds_the_bundle_to_the_heads_that_it_countersigned(
    made: Dossiers, more: int, reason: str, tmp_path: Path
) -> None:
    """It countersigned a head of another log of the lead, of a size that the bundle shows or does not."""
    turn(made)
    site, bundle = made.sites["north"], offered(made)
    case = Opening(bundle).case()
    assert case is not None
    size = case.writers["lead"].logs[0].grown[0].size + more
    fork = EventLog.open(tmp_path / "fork", made.lead.identity)
    for _ in range(size - 1):
        fork.append("log.heartbeat")
    held = Witness(site.path)._path(fork.head().origin, "head")
    held.parent.mkdir()
    held.write_bytes(fork.head().serialise())
    (line,) = turn(made, "north")
    assert line.endswith(f"[{reason}]")


# What a site may try


@pytest.fixture
def handed(made: Dossiers) -> Callable[..., str]:
    """Hands files over as a site; the id of the refusal."""

    def hand(name: str, files: dict[str, bytes], **wish: Any) -> str:
        wanted = Wish(**{"job": made.plan.digest, "asked": 1, **wish})
        with Consortium(made.sites[name]) as member, pytest.raises(CloisterError) as caught:
            member.hand_over(wanted, files)
        return caught.value.id

    return hand


def _part(made: Dossiers, name: str) -> dict[str, bytes]:
    return dict(Deposition(made.sites[name]).part(made.site_job(name)).files)


def test_a_site_hands_over_its_own_part_only(made: Dossiers, handed: Callable[..., str]) -> None:
    assert handed("south", _part(made, "north")) == "wrong_context"
    assert incidents(made.lead.log)[-1] == ("wrong_context", "south")
    assert gathering(made).answered() == {}


def test_a_part_of_another_job_is_refused(made: Dossiers, handed: Callable[..., str]) -> None:
    site = made.sites["north"]
    value = canonical.decode(made.plan.to_bytes()) | {"nonce": "0" * 32}
    other = type(made.plan).from_bytes(canonical.encode(value))
    site.log.append("job.refused", job=other.digest, reason="site_refused")
    replayed = dict(Part.make(site.log, site.identity, other).files)
    assert handed("north", replayed) == "wrong_context"
    assert handed("north", _part(made, "north"), job=other.digest) == "plan_unknown"


def test_an_older_part_does_not_take_the_place_of_a_newer_one(
    made: Dossiers, handed: Callable[..., str]
) -> None:
    older = _part(made, "north")
    made.sites["north"].log.append("log.heartbeat")
    turn(made, "north")
    gathering(made).ask()
    assert handed("north", older, asked=2) == "part_replaced"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: {**f, "events/north.jsonl": f["events/north.jsonl"] + b"x"}, "bundle_altered"),
        (lambda f: {n: d for n, d in f.items() if "part.dsse" not in n}, "bundle_incomplete"),
        (lambda f: {n: d for n, d in f.items() if "growth" not in n}, "bundle_altered"),
        (lambda f: {**f, "plan.json": b"{}"}, "wrong_context"),
        (lambda f: {**f, "../north": b"{}"}, "wrong_context"),
        (lambda f: {}, "bundle_incomplete"),
    ],
)
def test_a_part_that_is_not_what_the_site_signed_is_refused(
    made: Dossiers, handed: Callable[..., str], change: Any, reason: str
) -> None:
    assert handed("north", change(_part(made, "north"))) == reason
    assert incidents(made.lead.log)[-1] == (reason, "north")


def test_a_part_that_is_too_large_is_refused_before_it_is_read(
    made: Dossiers, handed: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloister.server.gathering.largest_part", lambda plan: 100_000)
    assert handed("north", {"events/north.jsonl": bytes(200_000)}) == "too_large"


def test_a_part_before_the_end_of_the_job_is_refused(made: Dossiers, handed: Callable[..., str]) -> None:
    made.job.move("running")
    assert _wishes(made, "north") == ()
    assert handed("north", _part(made, "north")) == "job_unfinished"


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ({"ed25519": "00" * 64, "mldsa65": "00" * 3309}, "signature_invalid"),
        ({}, "signature_invalid"),
        ({"refused": "no_such_reason"}, "protocol"),
        ({"bundle": canonical.digest(b"another")}, "bundle_unknown"),
    ],
)
def test_the_lead_keeps_no_word_that_is_none(made: Dossiers, word: dict[str, str], reason: str) -> None:
    turn(made)
    bundle = offered(made)
    said = Word(**{"job": made.plan.digest, "bundle": bundle.digest, **word})
    with Consortium(made.sites["north"]) as member, pytest.raises(CloisterError) as caught:
        member.say(said)
    assert caught.value.id == reason
    assert gathering(made).words(bundle.digest) == {}


def test_one_sites_signature_is_not_anothers(made: Dossiers) -> None:
    turn(made)
    bundle = offered(made)
    signed = bundle.signature(made.sites["north"].identity)
    word = Word(
        job=made.plan.digest, bundle=bundle.digest, ed25519=signed.ed25519.hex(), mldsa65=signed.mldsa65.hex()
    )
    with Consortium(made.sites["south"]) as member, pytest.raises(CloisterError) as caught:
        member.say(word)
    assert caught.value.id == "signature_invalid"


def test_a_site_that_never_approved_says_nothing(made: Dossiers) -> None:
    folder = made.site_job("north").folder
    for file in ("done", "decision.json"):
        (folder / file).rename(folder / f"{file}.away")
    (line,) = turn(made, "north")
    for file in ("done", "decision.json"):
        (folder / f"{file}.away").rename(folder / file)
    assert line.endswith("[plan_not_approved]")
    assert gathering(made).answered() == {}


# Portions


def test_portions_give_the_files_back() -> None:
    files = {"a": b"", "b": bytes(portions.PORTION * 2 + 1), "c/d": b"x"}
    assert portions.joined(cut(files), 1 << 20) == files


@pytest.mark.parametrize(
    ("sent", "limit", "reason"),
    [
        (["a", "b", "a"], 100, "protocol"),
        (["a", "b"], 3, "too_large"),
    ],
)
def test_portions_that_are_none(sent: list[str], limit: int, reason: str) -> None:
    with pytest.raises(CloisterError) as caught:
        portions.joined((pb.Portion(name=name, data=b"xy") for name in sent), limit)
    assert caught.value.id == reason


@pytest.mark.slow
def test_a_running_agent_hands_over_and_signs_by_itself(made: Dossiers) -> None:
    """`cloister site up`, as a process: told that there is news, it does what is wanted."""
    north = made.sites["north"]
    command = [sys.executable, "-m", "cloister.privacy.cli", "site", "up", "--dir", str(north.path)]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    presence = made.service.server.presence
    try:
        until(lambda: "north" in gathering(made).answered(), "a part of north", 300)
        turn(made, "east", "south", "west")
        bundle = offered(made)
        presence.announce("evidence")
        until(lambda: "north" in gathering(made).words(bundle.digest), "a word of north", 300)
        assert gathering(made).words(bundle.digest)["north"].refused == ""
    finally:
        process.terminate()
        said, _ = process.communicate(timeout=120)
    assert f"Handed over the evidence of {made.plan.digest[7:19]}" in said
    assert f"Checked and signed the evidence of {made.plan.digest[7:19]}." in said
    made.sites["north"] = type(north).open(north.path)  # the process wrote to its log
