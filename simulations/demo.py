"""``cloister demo``: a whole federation on one machine, over real processes, ending in one honest table.

The demo only orchestrates. It makes the folders, plays the people who compare words and approve, starts
``cloister lead up`` and a ``cloister site up`` for each site, and watches. It may look into every folder
because it owns all the data; no party of a real federation could.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cloister.client.consortium import Consortium, join
from cloister.client.jobs import Jobs as SiteJobs
from cloister.client.site.datasets import Datasets
from cloister.client.site.folder import SiteFolder
from cloister.client.site.records import Records
from cloister.privacy import canonical, code
from cloister.privacy.errors import RoundError, TransportError
from cloister.privacy.model import BaseModel, Columns, agreed_layout, describe
from cloister.privacy.plan import Plan
from cloister.privacy.update import Vector
from cloister.privacy.wire.joining import Invite
from cloister.server.checkpoint import Checkpoint
from cloister.server.desk import FolderDesk
from cloister.server.folder import LeadFolder, Settings
from cloister.server.jobs import FAILED, FINISHED, STOPPED, Job
from cloister.server.proposal import draft
from cloister.server.terms import Terms
from cloister.simulations import stage
from cloister.simulations.permission import permit
from cloister.simulations.processes import Troupe, free_ports
from cloister.simulations.stage import Stage

DATASET = "records"
_START_S, _APPROVE_S = 120.0, 600.0
_LOOK_S = 0.25


@dataclass(frozen=True)
class Demo:
    """What a demo is asked for.

    Attributes:
        out: the folder that everything is written below.
        stage: the data.
        terms: the plan's terms.
        model: name or folder of the base model.
        host: the address of the lead, as sites see it.
    """

    out: Path
    stage: Stage
    terms: Terms
    model: str
    host: str = "127.0.0.1"

    def base(self) -> BaseModel:
        """The base model, or the columns of a table; raises ``ModelError`` as ``describe`` does."""
        return Columns.of(self.stage.table) if self.stage.table else describe(self.model)


@dataclass
class Cast:
    """The parties of a demo, once they are members of a consortium."""

    lead: LeadFolder
    sites: dict[str, SiteFolder]
    troupe: Troupe


@dataclass(frozen=True)
class Run:
    """What a finished federation left behind.

    Attributes:
        plan: the plan that was run.
        job: the lead's job.
        lead, sites: the folders of all parties.
        base: the base model.
        seconds: wall time from the proposal to the end.
    """

    plan: Plan
    job: Job
    lead: LeadFolder
    sites: Mapping[str, SiteFolder]
    base: BaseModel
    seconds: float

    def records(self) -> dict[str, tuple[Records, Records]]:
        """Site name -> the records that it trained on and those that it held out."""
        return {name: Datasets(site).open(DATASET) for name, site in self.sites.items()}

    def site_job(self, name: str) -> Path:
        """The folder of the job at a site."""
        return SiteJobs(self.sites[name]).find(self.plan.digest).folder

    def model(self) -> Vector:
        """The final global model."""
        return Checkpoint.load(self.job.folder / "checkpoint", self.plan.digest, self.lead.vault).model


@dataclass(frozen=True)
class Watcher:
    """Is told what happens, for people.

    Attributes:
        say: gets one line at each step.
        show: called again and again while the run goes on.
    """

    say: Callable[[str], None] = lambda _: None
    show: Callable[[Job, Mapping[str, SiteFolder]], None] = lambda _job, _sites: None


def assemble(demo: Demo, troupe: Troupe, say: Callable[[str], None]) -> Cast:
    """Makes a consortium: folders, keys, invites, confirmed words, registered records, running processes."""
    say(f"Making a consortium of {len(demo.stage.train)} sites in {demo.out}")
    fleet, consortium = free_ports(2)
    settings = Settings(consortium="demo", host=demo.host, port_fleet=fleet, port_consortium=consortium)
    lead = LeadFolder.create(demo.out / "lead", settings)
    troupe.start("lead", ["lead", "up", "--dir", str(lead.path)], demo.out / "lead.out")
    sites = {name: _enrol(demo, lead, name, troupe) for name in demo.stage.train}
    for site in sites.values():
        _confirm(site, lead, sites)
    for name, site in sites.items():
        arguments = ["site", "up", "--dir", str(site.path), "--model", demo.model]
        troupe.start(name, arguments, demo.out / f"{name}.out")
    return Cast(lead, sites, troupe)


def _enrol(demo: Demo, lead: LeadFolder, name: str, troupe: Troupe) -> SiteFolder:
    site = SiteFolder.create(demo.out / "sites" / name, name)
    path = demo.out / "sites" / f"{name}.csv"
    person = demo.stage.person
    stage.write(demo.stage.train[name], path, person)
    invite: Invite = lead.enrolment.invite(name, lead.settings.addresses)
    _wait(lambda: _joined(site, invite), _START_S, "the lead", troupe)
    budget = (max(demo.terms.epsilon, 1e-3), demo.terms.delta)
    column = person and replace(person, name=stage.PERSON)
    pair = None if demo.stage.train[name].seconds is None else stage.SECOND
    columns = demo.stage.table or ("text", "label")
    Datasets(site).register(path, DATASET, columns, budget, column, pair=pair)
    return site


def _joined(site: SiteFolder, invite: Invite) -> bool:
    try:
        join(site, invite)
    except TransportError:
        return False  # the lead is not up yet
    return True


def _confirm(site: SiteFolder, lead: LeadFolder, sites: Mapping[str, SiteFolder]) -> None:
    """Compares words as people would on the telephone: read from each party's own folder."""
    with Consortium(site) as member:
        member.roster()
    for party in (lead.identity.public, *(other.identity.public for other in sites.values())):
        if party.name != site.name:
            site.confirm(party.name, " ".join(party.words()))


def federate(demo: Demo, cast: Cast, watcher: Watcher) -> Run:
    """Proposes, lets every site approve, and watches the run to its end.

    Raises:
        RoundError: the run failed, with the lead's reason.
    """
    started = time.monotonic()
    job, base = propose(demo, cast)
    watcher.say(f"Proposed plan {job.plan.digest[7:19]}; every site checks and approves it")
    approve(job.plan, cast)
    while job.state not in (FINISHED, FAILED, STOPPED):
        cast.troupe.check()
        watcher.show(job, cast.sites)
        time.sleep(_LOOK_S)
    if job.state != FINISHED:
        raise RoundError(
            "below_minimum", job.reason or f"The run is {job.state}.", f"See {demo.out / 'lead.out'}."
        )
    seconds = time.monotonic() - started
    return Run(job.plan, job, cast.lead, cast.sites, base, seconds)


def propose(demo: Demo, cast: Cast) -> tuple[Job, BaseModel]:
    """Proposes the demo's plan, once every site has offered its records."""
    base = demo.base()
    desk = FolderDesk(cast.lead.path, cast.lead.log, cast.lead.vault)
    _wait(lambda: set(desk.offers()) >= set(cast.sites), _START_S, "the sites", cast.troupe)
    terms = replace(demo.terms, rehearsal="demo")
    plan, start = draft(terms, cast.lead.enrolment.roster, desk.offers(), base, code.installed())
    return desk.propose(plan, start, cast.lead.identity, agreed_layout(plan, base)), base


def approve(plan: Plan, cast: Cast) -> None:
    """Lets every site check and approve a plan, once it is there."""
    for site in cast.sites.values():
        jobs = SiteJobs(site)
        _wait(partial(_knows, jobs, plan), _APPROVE_S, site.name, cast.troupe)
        permit(site, plan)
        jobs.approve(jobs.find(plan.digest))


def _knows(jobs: SiteJobs, plan: Plan) -> bool:
    return any(job.plan == plan for job in jobs)


def _wait(ready: Callable[[], bool], seconds: float, whom: str, troupe: Troupe) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        troupe.check()
        if time.monotonic() > deadline:
            raise RoundError("deadline", f"Waited {seconds:.0f} seconds for {whom} in vain.")
        time.sleep(_LOOK_S)


def site_progress(site: SiteFolder, plan: Plan) -> list[dict[str, Any]]:
    """A site's own figures, round by round: accuracy on what it held out."""
    path = SiteJobs(site).find(plan.digest).folder / "progress.jsonl"
    if not path.exists():
        return []
    return [canonical.decode(line) for line in path.read_bytes().splitlines()]


def epsilon_so_far(site: SiteFolder, plan: Plan) -> str:
    """What a site's ledger says was spent, as text; empty without privacy."""
    return "" if plan.privacy.mode == "off" else f"{Datasets(site).ledger.epsilon(DATASET):.2f}"
