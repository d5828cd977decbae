"""New keys in the middle of a job, a restored site, and a revoked one, over real processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.client.jobs import LEFT
from cloister.client.jobs import Jobs as SiteJobs
from cloister.client.site.datasets import Datasets
from cloister.client.site.folder import SiteFolder
from cloister.privacy.dp import accounting
from cloister.privacy.evidence.files import read_head
from cloister.privacy.evidence.heads import origin_of
from cloister.privacy.evidence.log import verify_log
from cloister.privacy.evidence.witnessing import Witness
from cloister.privacy.plan import Plan
from cloister.server.jobs import FINISHED, Jobs
from cloister.server.terms import Terms
from cloister.simulations.demo import DATASET
from tests.ensemble import Ensemble, Stand, stand
from tests.hands import LABELS, hands, until

SITES = ("north", "south", "west")
TERMS = Terms("notes", LABELS, rounds=8, steps=2, rate=0.3, minimum_sites=2, epsilon=4.0)
BUDGET = replace(TERMS, epsilon=60.0)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Stand]:
    place = tmp_path_factory.mktemp("custody")
    (place / "pass").write_text("the passphrase of the backups\n")
    (place / "pass").chmod(0o600)
    with hands(place) as person, stand(person, SITES, BUDGET, model) as found:
        yield found


@pytest.fixture
def actors(standing: Stand) -> Ensemble:
    ensemble = standing.cast.troupe
    assert isinstance(ensemble, Ensemble)
    ensemble.mend()
    return ensemble


def spent(site: SiteFolder, plan: Plan) -> list[int]:
    """Rounds of a job that a ledger holds."""
    rows = [row for row in Datasets(site).ledger.rows(DATASET) if row.kind == "reserved"]
    return [row.reservation.round for row in rows if row.reservation.job == plan.digest]


def accepted(standing: Stand, plan: Plan) -> dict[int, list[str]]:
    return {event.round: event.body["accepted"] for event in standing.events(plan, "round.closed")}


def stop_without(standing: Stand, actors: Ensemble, plan: Plan) -> None:
    """The site west dies in a round, and the lead is started anew: it waits for west before it goes on."""
    standing.hold(plan, "west", {"north", "south"})
    actors.actors["lead"].kill()
    actors.actors["west"].kill()
    actors.again("lead").hear("Running")


def test_a_job_goes_on_under_the_keys_that_its_plan_names(standing: Stand, actors: Ensemble) -> None:
    west = standing.cast.sites["west"]
    with standing.running(TERMS) as (end, plan):
        stop_without(standing, actors, plan)
        told = actors._person.json("site", "rotate", "--dir", str(west.path))
        assert told["previous"] == plan.site("west").identity != told["identity"]
        actors.again("west")
        end.result()
    standing.cast.sites["west"] = new = SiteFolder.open(west.path)
    assert "west" in accepted(standing, plan)[TERMS.rounds]
    assert len(set(spent(new, plan))) == len(spent(new, plan))
    (job,) = SiteJobs(new)
    until(lambda: job.state == "done", "the end of the job at west")
    old = new.path / "retired" / told["previous"][7:23]
    until(lambda: not (old / "identity" / "identity.key").exists(), "the end of the old keys")
    assert (old / "log" / "events.jsonl").exists()
    peers = actors._person.json("site", "peers", "--dir", str(standing.cast.sites["north"].path))
    (peer,) = (peer for peer in peers["members"] if peer["name"] == "west")
    assert (peer["identity"], peer["confirmed"], peer["followed"]) == (told["identity"], True, True)


def test_a_restored_site_has_charged_everything_and_takes_part_again(
    standing: Stand, actors: Ensemble
) -> None:
    person, west = actors._person, SiteFolder.open(standing.cast.sites["west"].path)
    file, again = person.place / "west.backup", person.place / "again"
    longer = replace(TERMS, rounds=40)  # it must not end while the backup is made
    with standing.running(longer) as (end, plan):
        backup = ("site", "backup", "--dir", str(west.path), "--out", str(file))
        person.do(*backup, "--key", f"passphrase-file:{person.place / 'pass'}")
        later = len(standing.events(plan, "round.closed")) + 2  # by then others hold a newer head of west
        until(lambda: len(standing.events(plan, "round.closed")) >= later, "two rounds after the backup")
        stop_without(standing, actors, plan)
        true = Datasets(west).ledger.epsilon(DATASET)
        told = person.json("site", "restore", str(file), "--dir", str(again))
        assert plan.digest in told["charged"]
        assert plan.digest in told["left"]
        assert told["held"] >= told["had"]
        standing.cast.sites["west"] = restored = SiteFolder.open(again)
        actors._lines["west"] = [
            str(again) if word == str(west.path) else word for word in actors._lines["west"]
        ]
        actors.again("west")
        end.result()
    assert "west" not in accepted(standing, plan)[longer.rounds]
    entry = next(one for one in person.json("lead", "status", "--dir", str(standing.cast.lead.path))["jobs"]
                 if one["job"] == plan.digest)  # fmt: skip
    assert entry["left"] == {"west": "state_restored"}
    assert spent(restored, plan) == list(range(1, longer.rounds + 1))
    after_restore = Datasets(restored).ledger.epsilon(DATASET)
    assert after_restore >= true
    assert SiteJobs(restored).find(plan.digest).state == LEFT

    run = standing.run(TERMS)  # all three again, on what is left of the budget
    assert "west" in accepted(standing, run.plan)[TERMS.rounds]
    assert run.plan.round_mechanism is not None
    reserved = [row.reservation for row in Datasets(restored).ledger.rows(DATASET) if row.kind == "reserved"]
    total = accounting.epsilon([one.mechanism for one in reserved], 1e-5)
    assert Datasets(restored).ledger.epsilon(DATASET) == pytest.approx(total)
    assert total > after_restore
    verify_log(restored.path / "log", restored.identity.public)

    old = person.run("site", "up", "--dir", str(west.path))  # the folder that was restored elsewhere
    assert old.code == 1
    assert "Traceback" not in old.err


def test_a_restored_lead_reports_a_job_from_before(standing: Stand, actors: Ensemble) -> None:
    person, lead, sites = actors._person, standing.cast.lead, standing.cast.sites
    now = {name: site.identity.public.digest() for name, site in sites.items()}
    (plan,) = (
        job.plan
        for job in Jobs(lead.jobs, lead.vault)
        if job.state == FINISHED and {site.name: site.identity for site in job.plan.sites} == now
    )
    file, again, key = person.place / "lead.backup", person.place / "lead-again", person.place / "pass"
    person.do(
        "lead", "backup", "--dir", str(lead.path), "--out", str(file), "--key", f"passphrase-file:{key}"
    )
    person.do("lead", "restore", str(file), "--dir", str(again))
    parts: list[str] = []
    for name, site in sites.items():
        parts += ["--part", str(person.place / f"{name}.part")]
        person.do("site", "evidence", plan.digest[7:], "--dir", str(site.path), "--out", parts[-1])
    parties = (plan.lead, *plan.sites)
    bundle, trust = person.place / "bundle", person.place / "trust.json"
    person.do("report", plan.digest[7:], "--dir", str(again), "--out", str(bundle), *parts)
    named = [{"name": one.name, "identity": one.identity, "confirmed": True} for one in parties]
    trust.write_text(json.dumps({"members": named}))
    said = person.do("verify", str(bundle), "--trust", str(trust))
    assert "was begun anew" in said
    assert "What came after them is lost." in " ".join(said.split())


def test_every_party_holds_heads_of_every_other(standing: Stand, actors: Ensemble) -> None:
    folders = {"lead": standing.cast.lead, **standing.cast.sites}

    def complete() -> bool:
        wanted = {name: origin_of(folder.identity.public) for name, folder in folders.items()}
        return all(
            {origin for other, origin in wanted.items() if other != name} <= set(Witness(folder.path).held())
            for name, folder in folders.items()
        )

    until(complete, "heads everywhere")
    for name, folder in folders.items():
        for other, theirs in folders.items():
            if name != other:
                own, log = folder.identity.public, origin_of(theirs.identity.public)
                held = Witness(folder.path).newest(theirs.identity.public)
                assert held is not None
                assert held.verify(theirs.identity.public, [own], light=held.light) == (name,)
                place = log.removeprefix("cloister/").replace("/", "-")
                whole = read_head(folder.path / "witnessed" / f"{place}.head")
                assert whole.size <= held.size
                verify_log(theirs.path / "log", theirs.identity.public, [whole])


def test_a_revoked_site_is_cut_off_and_the_job_goes_on(standing: Stand, actors: Ensemble) -> None:
    person, lead = actors._person, standing.cast.lead
    longer = replace(TERMS, rounds=12)
    with standing.running(longer) as (end, plan):
        held_in = standing.hold(plan, "south", {"north", "west"})
        told = json.loads(person.do("lead", "revoke", "south", "--dir", str(lead.path), "--json"))
        assert told["identity"] == plan.site("south").identity
        actors.actors["south"].go_on()
        end.result()
    closed = accepted(standing, plan)
    assert all("south" not in closed[number] for number in closed if number > held_in)
    lost = [event.body for event in standing.events(plan, "site.lost") if event.body["site"] == "south"]
    assert {body["reason"] for body in lost} <= {"key_revoked", "site_lost"}
    assert "key_revoked" in {body["reason"] for body in lost} or held_in not in closed
    actors.actors["south"].end()
    again = person.run("site", "up", "--dir", str(standing.cast.sites["south"].path))
    assert (again.code, "certificate_invalid" in again.err) == (1, True)
    for name in ("north", "west"):
        log = standing.cast.sites[name].log
        until(
            lambda log=log: any(
                e.type == "key.revoked" and e.body["party"] == "south" for e in log.entries()
            ),
            f"the revocation at {name}",
        )
    assert [job.left() for job in Jobs(lead.jobs) if job.plan.digest == plan.digest] == [{}]
