"""A lead is restored from a backup: it makes evidence of jobs from before, which says what is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.client.consortium import Consortium
from cloister.client.deposition import Deposition
from cloister.client.witnessing import Heads
from cloister.privacy import canonical, keyring
from cloister.privacy.errors import EvidenceError, IdentityError, StateError
from cloister.privacy.evidence.bundle import Bundle
from cloister.privacy.evidence.checks import logs
from cloister.privacy.evidence.checks.case import Opening
from cloister.privacy.evidence.checks.findings import Result
from cloister.privacy.evidence.checks.logs import told
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.keysource import KeySource
from cloister.server import backup
from cloister.server.consortium import ConsortiumServer
from cloister.server.dossier import contents
from cloister.server.folder import LeadFolder
from cloister.server.jobs import Jobs
from cloister.simulations.bench.staged import made_up
from tests.dossiers import Dossiers, lines, passphrase
from tests.service import Service

pytestmark = pytest.mark.job


class Lost(Dossiers):
    """A job in which everybody saw heads of the lead's log, whose folder is lost later."""

    def __init__(self, service: Service, source: KeySource) -> None:
        super().__init__(service)
        self.source, self.copy = source, service.path / "lead.backup"

    def work(self, backed_up_after: int = 0, seen: int = 0) -> None:
        """The rounds and the end, with a backup after one of them, or a head that only north has seen."""
        model = made_up("model", 0)
        for number in range(1, self.rounds + 1):
            model = self.play.round(number, model)
            self.exchange()
            if number == backed_up_after:
                self.back_up()
        if seen:
            head = {"party": self.plan.lead.name, "size": seen, "root": made_up("root")}
            self.sites["north"].log.append("log.witnessed", **head)
        self.end(model)

    def exchange(self) -> None:
        """All sites take heads of the lead's log, and show their own."""
        for site in self.sites.values():
            with Consortium(site) as member:
                heads = Heads(site, member)
                for _ in range(2):
                    heads.check()
                    heads.exchange()

    def back_up(self) -> None:
        backup.write(self.lead, self.copy, self.source)

    def restore(self) -> LeadFolder:
        """The lead in a new folder, whose sites have taken its new keys on."""
        self.service.server.stop(0)
        lead = backup.restore(self.copy, self.service.path / "lead-again", None)
        self.service.server = ConsortiumServer(lead, self.service.desk, self.service.addresses.service)
        self.service.server.start()
        for site in self.sites.values():
            with Consortium(site) as member:
                Heads(site, member).check()
                member.open()
                member.roster()
        return lead

    def bundle(self, lead: LeadFolder) -> Bundle:
        parts = [Deposition(site).part(self.site_job(name)) for name, site in self.sites.items()]
        (job,) = Jobs(lead.jobs, lead.vault)
        return contents(lead, job, parts).bundle(lead.identity)


@pytest.fixture
def lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lost]:
    monkeypatch.setattr(keyring, "_COST", 1 << 14)
    with Service(tmp_path) as service:
        yield Lost(service, passphrase(tmp_path))


def test_a_lead_restored_after_a_job_has_evidence_of_it_that_says_what_is_lost(lost: Lost) -> None:
    lost.work()
    lost.exchange()
    lost.back_up()
    size = sum(1 for _ in lost.lead.log.entries())
    lost.lead.log.append("log.heartbeat")
    lost.exchange()
    lead = lost.restore()
    bundle = lost.bundle(lead)
    verdict = lost.check(bundle)
    assert lines(verdict) == []
    assert verdict.result is Result.VERIFIED
    (said,) = (event for event in lead.log.entries() if event.type == "log.restored")
    label = lead.identity.public.digest()[7:23]
    name = lead.identity.public.name
    (note,) = (note for note in verdict.notes if "begun anew" in note)
    assert note == (
        f"The log of {name} was begun anew on {said.ts[:10]} after a restore ({name}@{label}/{said.seq}): of "
        f"the one before {size} events are there; whether others held a later head it could not ask. What "
        "came after them is lost."
    )
    assert b"Log begun anew after a restore" in bundle.files["report.html"]
    for site in lost.sites:
        Deposition(lost.sites[site]).signature(lost.site_job(site), bundle.for_party(site))


def test_a_restore_hides_nothing_of_a_log_that_sites_have_seen_more_of(lost: Lost) -> None:
    """A site wrote down a later head than the copy has: of a lead that is none, that is a log put back."""
    lost.work(seen=10_000)
    lost.back_up()
    for lead, result in ((lost.lead, Result.ALTERED), (lost.restore(), Result.INCOMPLETE)):
        verdict = lost.check(lost.bundle(lead))
        assert verdict.result is result
        assert {finding.check for finding in verdict.findings} == {"heads"}
        assert any("had 10000 events then; the one that is shown ends at" in line for line in lines(verdict))


def test_a_head_that_the_copy_lacks_is_not_held_against_the_log_that_came_after(lost: Lost) -> None:
    """The new log has grown beyond it, and shows another root at its size."""
    lost.work(seen=400)
    lost.back_up()
    assert sum(1 for _ in lost.lead.log.entries()) < 400
    lead = lost.restore()
    for size in (400, 401):
        with lead.log.batch():
            for _ in range(size - sum(1 for _ in lead.log.entries())):
                lead.log.append("log.heartbeat")
        lead.log.head()
    verdict = lost.check(lost.bundle(lead))
    assert verdict.result is Result.INCOMPLETE
    assert all("nothing shows that the log of lead began with this head" in line for line in lines(verdict))


def test_a_restore_that_is_cut_off_leaves_no_folder_of_a_lead(
    lost: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost.back_up()
    monkeypatch.setattr(Jobs, "__iter__", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        backup.restore(lost.copy, lost.service.path / "lead-again", None)
    with pytest.raises(StateError) as caught:
        LeadFolder.open(lost.service.path / "lead-again")
    assert caught.value.id == "state_missing"


def test_of_a_job_that_went_on_after_the_backup_there_is_no_evidence(lost: Lost) -> None:
    lost.work(backed_up_after=2)
    with pytest.raises(EvidenceError) as caught:
        lost.bundle(lost.restore())
    assert caught.value.id == "job_unfinished"


def test_a_site_that_does_not_say_what_others_held_is_found(lost: Lost) -> None:
    """Only a lead, which can ask nobody, may leave it out: a site's log is then held to what others know."""
    lost.work()
    lost.exchange()
    lost.back_up()
    bundle = lost.bundle(lost.restore())
    assert lost.check(bundle).result is Result.VERIFIED
    case = Opening(bundle).case()
    assert case is not None
    assert [most for name in case.writers for _, most in told(case, name)] == [None] * 6
    plan = case.plan.model_copy(update={"lead": case.plan.sites[0]})
    found = [one.reason for one in logs._linked(replace(case, plan=plan), "lead", case.writers["lead"])]
    assert found == ["it does not say how much of the log of lead others held"]


def _says_nothing(body: dict[str, Any]) -> dict[str, Any]:
    return body | {"previous": made_up("key")}


def _names_another_end(body: dict[str, Any]) -> dict[str, Any]:
    return body | {"size": 10}


@pytest.mark.parametrize(
    ("cheat", "result", "reason"),
    [
        (_says_nothing, Result.INCOMPLETE, "is not shown to the end that its old keys signed"),
        (_names_another_end, Result.ALTERED, "the log before is not the copy that it names"),
    ],
)
def test_a_log_that_ends_without_a_word_of_the_lead_is_not_whole(
    lost: Lost,
    monkeypatch: pytest.MonkeyPatch,
    cheat: Callable[[dict[str, Any]], dict[str, Any]],
    result: Result,
    reason: str,
) -> None:
    lost.work()
    lost.exchange()
    lost.back_up()
    real = EventLog.append

    def lying(log: EventLog, type: str, **fields: Any) -> Any:
        return real(log, type, **(cheat(fields) if type == "log.restored" else fields))

    with monkeypatch.context() as patch:
        patch.setattr(EventLog, "append", lying)
        lead = lost.restore()
    verdict = lost.check(lost.bundle(lead))
    assert verdict.result is result
    assert any(line.startswith(f"{result.word}: chain: ") and reason in line for line in lines(verdict))


def test_a_lead_restored_twice_knows_both_keys_from_before(lost: Lost) -> None:
    lost.work()
    lost.exchange()
    lost.back_up()
    first = lost.restore()
    lost.copy = lost.service.path / "again.backup"
    backup.write(first, lost.copy, lost.source)
    lost.service.server.stop(0)
    second = backup.restore(lost.copy, lost.service.path / "lead-thrice", None)
    assert len({one.identity.public for one in (lost.lead, first, second)}) == 3
    bundle = lost.bundle(second)
    assert lost.check(bundle).result is Result.VERIFIED
    assert len([name for name in bundle.files if name.startswith("successions/")]) == 2


def test_a_plan_under_keys_that_no_lead_had_is_refused(lost: Lost) -> None:
    lost.work()
    lost.back_up()
    lead = lost.restore()
    value = canonical.decode(lost.plan.to_bytes(), otherwise=ValueError())
    value["lead"]["identity"] = made_up("key")
    with pytest.raises(IdentityError) as caught:
        lead.enrolment.roster_of(type(lost.plan).from_bytes(canonical.encode(value)))
    assert caught.value.id == "roster_mismatch"
