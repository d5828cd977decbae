"""How a demo ends: baselines, table, result.json, model, model card and report in the output folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

from rich.console import RenderableType

from cloister.client.attacks import ModelAudit
from cloister.client.jobs import Jobs as SiteJobs
from cloister.privacy import durable
from cloister.privacy.evidence.card import card
from cloister.privacy.evidence.render import render
from cloister.simulations import baselines, dossier, outcome, stage
from cloister.simulations.baselines import Ground
from cloister.simulations.demo import Demo, Run
from cloister.simulations.outcome import Outcome
from cloister.simulations.played import trust_file
from cloister.simulations.processes import Memory

_SEED = b"cloister demo: baselines"


def conclude(
    demo: Demo, run: Run, memory: Memory, say: Callable[[str], None]
) -> tuple[dict[str, Any], list[RenderableType]]:
    """Compares the federation with its baselines and writes everything down.

    Returns:
        The value of ``result.json``, and what to print.
    """
    say("Training what it is compared with: each site alone and all records in one place")
    records = run.records()
    train = {name: part for name, (part, _) in records.items()}
    ground = Ground.of(run.plan, run.base, train, demo.stage.test, _SEED)
    held = {name: part for name, (_, part) in records.items()}
    federated, own = ground.scores(run.model(), run.base, held)
    compared = baselines.measure(ground, train, demo.stage.test)
    found = Outcome(run, compared, federated, own, stage.majority(demo.stage.test), memory.peak_rss)
    say("Attacking the finished model at every site")
    for site in run.sites.values():
        audited = ModelAudit(site, SiteJobs(site).find(run.plan.digest), run.base)
        for one in audited.run()[0]:
            audited.release(one)
            audited.open(one)
    made = dossier.gather(found, len(demo.stage.test))
    bundle = dossier.bundle(found, made)
    bundle.write(demo.out / "bundle")
    result = found.to_json() | {"bundle": "bundle"}
    _keep(demo, "result.json", json.dumps(result, indent=2) + "\n")
    evidence = made.evidence
    _keep(demo, "evidence.json", json.dumps(evidence, indent=1, ensure_ascii=False) + "\n")
    _keep(demo, "report.html", render(evidence))
    _keep(demo, "trust.json", trust_file(made.keys).decode())
    shutil.copytree(run.site_job(next(iter(run.sites))) / "model", demo.out / "model")
    _keep(demo, "model/README.md", card(evidence))
    return result, [outcome.table(found), *outcome.reading(found)]


def _keep(demo: Demo, name: str, text: str) -> None:
    durable.write(demo.out / name, text.encode(), mode=0o644)
