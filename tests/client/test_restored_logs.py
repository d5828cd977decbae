"""A site is restored from a backup: its log was begun anew, and the bundle says so, or is not accepted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.client import restoration
from cloister.client.consortium import Consortium
from cloister.client.deposition import Deposition
from cloister.client.site import backup, rotation
from cloister.client.site.folder import SiteFolder
from cloister.client.witnessing import Heads
from cloister.privacy import keyring
from cloister.privacy.errors import EvidenceError
from cloister.privacy.evidence import selection
from cloister.privacy.evidence.bundle import Bundle
from cloister.privacy.evidence.checks import logs
from cloister.privacy.evidence.checks.case import Opening
from cloister.privacy.evidence.checks.findings import Result
from cloister.privacy.keysource import KeySource
from cloister.server.dossier import contents
from cloister.simulations.bench.staged import made_up
from tests.dossiers import Dossiers, lines, passphrase
from tests.service import Service

pytestmark = pytest.mark.job


class Lost(Dossiers):
    """A job in which everybody saw heads of north's log, which loses its folder later."""

    def __init__(self, service: Service, source: KeySource) -> None:
        super().__init__(service)
        self.source, self.copy = source, service.path / "north.backup"

    def work(self, backed_up_after: int = 0) -> None:
        """The rounds and the end, with a backup after one of the rounds."""
        model = made_up("model", 0)
        for number in range(1, self.rounds + 1):
            model = self.play.round(number, model)
            self.exchange("north")
            if number == backed_up_after:
                self.back_up()
        self.end(model)

    def exchange(self, *names: str) -> None:
        """Sites show their heads, and take those of the others."""
        for name in names:
            with Consortium(self.sites[name]) as member:
                heads = Heads(self.sites[name], member)
                for _ in range(2):
                    heads.exchange()

    def back_up(self) -> None:
        backup.write(self.sites["north"], self.copy, self.source)

    def restore(self) -> restoration.Restored:
        root = self.service.path / "again"
        restoration.from_backup(self.copy, root, None)
        done = restoration.settle(root)
        self.sites["north"] = SiteFolder.open(root)
        return done

    def bundle(self) -> Bundle:
        parts = [Deposition(site).part(self.site_job(name)) for name, site in self.sites.items()]
        return contents(self.lead, self.job, parts).bundle(self.lead.identity)

    def sign(self, bundle: Bundle, name: str) -> None:
        Deposition(self.sites[name]).signature(self.site_job(name), bundle.for_party(name))


@pytest.fixture
def lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(keyring, "_COST", 1 << 14)
    with Service(tmp_path) as service:
        yield Lost(service, passphrase(tmp_path))


def seen_and_backed_up(lost: Lost) -> None:
    """A usual day: the job is over, others have seen its end, a backup is made, and more follows."""
    lost.work()
    lost.exchange("north", "south", "east")
    lost.back_up()
    lost.sites["north"].log.append("log.heartbeat")
    lost.exchange("north", "south")


def test_a_site_restored_after_a_job_has_evidence_of_it_that_says_what_is_lost(lost: Lost) -> None:
    seen_and_backed_up(lost)
    done = lost.restore()
    assert done.held > done.had
    bundle = lost.bundle()
    verdict = lost.check(bundle)
    assert lines(verdict) == []
    (said,) = (event for event in lost.sites["north"].log.entries() if event.type == "log.restored")
    assert said.body["previous"] == lost.plan.site("north").identity
    (note,) = (note for note in verdict.notes if "begun anew" in note)
    label = lost.sites["north"].identity.public.digest()[7:23]
    assert note == (
        f"The log of north was begun anew on {said.ts[:10]} after a restore (north@{label}/{said.seq}): of "
        f"the one before {done.had} events are there; by its word others held a head of {done.held}. What "
        "came after them is lost."
    )
    assert b"Log begun anew after a restore" in bundle.files["report.html"]
    for name in ("north", "south", "east"):
        lost.sign(bundle, name)


def test_who_holds_a_later_head_than_the_site_tells_of_does_not_sign(
    lost: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head was seen after the job, so the bundle does not show that it was."""
    seen_and_backed_up(lost)
    real = restoration._begun_anew
    monkeypatch.setattr(restoration, "_begun_anew", lambda *given: real(*given) | {"held": 0})
    lost.restore()
    bundle = lost.bundle()
    lost.sign(bundle, "east")
    with pytest.raises(EvidenceError) as caught:
        lost.sign(bundle, "south")
    assert caught.value.id == "bundle_incomplete"
    assert "when it was countersigned here; the bundle tells of" in caught.value.what


@pytest.mark.parametrize(
    ("grown", "reason"), [(0, "the one that is shown ends at"), (80, "nothing shows that the log of north")]
)
def test_a_restore_hides_nothing_of_a_log_that_others_have_seen_more_of(
    lost: Lost, grown: int, reason: str
) -> None:
    """A site restores a copy from before an entry, of which others hold a head; all that it says is true."""
    lost.work()
    lost.back_up()
    lost.sites["north"].log.append("log.heartbeat")
    lost.exchange("north")
    lost.restore()
    for _ in range(grown):  # until the new log is longer than the head of the old one
        lost.sites["north"].log.append("log.heartbeat")
    verdict = lost.check(lost.bundle())
    assert verdict.result is Result.INCOMPLETE
    assert {finding.check for finding in verdict.findings} == {"heads"}
    assert any(reason in line for line in lines(verdict))


@pytest.mark.parametrize("told", [True, False])
def test_a_copy_that_was_closed_for_other_keys_is_a_copy_all_the_same(
    lost: Lost, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """It must say how much of it others held, or a site could lose events and be asked for none of them."""
    lost.work()
    lost.exchange("north", "south", "east")
    lost.sites["north"].log.append("log.rotated", identity=made_up("key"))
    lost.back_up()
    if not told:
        real = restoration._begun_anew
        monkeypatch.setattr(
            restoration, "_begun_anew", lambda *given: {k: v for k, v in real(*given).items() if k != "held"}
        )
    lost.restore()
    verdict = lost.check(lost.bundle())
    if told:
        assert lines(verdict) == []
        return
    assert verdict.result is Result.ALTERED
    assert any("does not say how much of the log of north others held" in line for line in lines(verdict))
    case = Opening(lost.bundle()).case()
    assert case is not None
    (old, most), _ = logs.told(case, "north")
    assert most == old.newest.size, "who holds a later head than that does not sign"


def test_a_restore_to_the_middle_of_a_job_hides_no_round(lost: Lost) -> None:
    lost.work(backed_up_after=2)
    lost.exchange("north")
    lost.restore()
    verdict = lost.check(lost.bundle())
    assert verdict.result is not Result.VERIFIED
    assert {"heads", "updates"} <= {finding.check for finding in verdict.findings}


def _says_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(selection, "_ALWAYS", selection._ALWAYS - {"log.restored"})


def _names_another_end(patch: pytest.MonkeyPatch) -> None:
    real = restoration._begun_anew
    patch.setattr(restoration, "_begun_anew", lambda *given: real(*given) | {"size": 10})


def _names_other_keys(patch: pytest.MonkeyPatch) -> None:
    real = restoration._begun_anew
    patch.setattr(restoration, "_begun_anew", lambda *given: real(*given) | {"previous": made_up("key")})


def _signs_for_another_reason(patch: pytest.MonkeyPatch) -> None:
    real = rotation.prepare
    patch.setattr(rotation, "prepare", lambda site, _: real(site, "rotated"))


_OPEN = "the log of north is not shown to the end that its old keys signed"


@pytest.mark.parametrize(
    ("cheat", "result", "reason"),
    [
        (_says_nothing, Result.INCOMPLETE, _OPEN),
        (_names_another_end, Result.ALTERED, "the log before is not the copy that it names"),
        (_names_other_keys, Result.INCOMPLETE, _OPEN),
        (_signs_for_another_reason, Result.INCOMPLETE, _OPEN),
    ],
)
def test_a_log_that_ends_without_a_word_of_the_site_is_not_whole(
    lost: Lost,
    monkeypatch: pytest.MonkeyPatch,
    cheat: Callable[[pytest.MonkeyPatch], None],
    result: Result,
    reason: str,
) -> None:
    seen_and_backed_up(lost)
    with monkeypatch.context() as patch:
        cheat(patch)
        lost.restore()
        bundle = lost.bundle()
    verdict = lost.check(bundle)
    assert verdict.result is result
    assert any(line.startswith(f"{result.word}: chain: ") and reason in line for line in lines(verdict))
