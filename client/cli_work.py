"""``cloister site`` at work: jobs, the agent, ledger and log."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cloister.client.approvals import Voice
from cloister.client.cli_evidence import PoliciesShown
from cloister.client.cli_policy import role_of
from cloister.client.jobs import WAITING, Job, Jobs
from cloister.client.limits import Share
from cloister.client.site.datasets import Datasets
from cloister.client.site.folder import SiteFolder
from cloister.privacy import canonical
from cloister.privacy.console import Json, say
from cloister.privacy.errors import PolicyError, UsageError
from cloister.privacy.journal import Journal
from cloister.privacy.plan import Plan
from cloister.privacy.watching import JsonLines, Metrics, MLflowTo, TensorBoardTo
from cloister.privacy.wire.messages import known

Directory = Annotated[Path, typer.Option("--dir", help="The site's folder.")]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="The first digits of the plan's digest.")]
HERE = Path()
_MOST_LOSS = 700.0  # beyond it a perplexity is no float


def register(app: typer.Typer) -> None:
    """Adds the commands of this module to ``cloister site``."""
    for command in (up, jobs, approve, refuse, ledger, log):
        app.command()(command)


def up(
    directory: Directory = HERE,
    model: Annotated[str, typer.Option(help="Where the base model is, if not where its name leads.")] = "",
    device: Annotated[
        str, typer.Option(help="Where the model trains, as torch names it: cpu, cuda, cuda:1.")
    ] = "cpu",
    nice: Annotated[int, typer.Option(min=0, max=19, help="How far it steps back for other programs.")] = 0,
    threads: Annotated[int, typer.Option(min=0, help="Threads to train with; 0: torch's own choice.")] = 0,
    gpu_memory: Annotated[
        float, typer.Option(help="Share of the GPU's memory that it may take, up to 1.")
    ] = 1.0,
    evidence: Annotated[
        Literal["sign", "part", "none"],
        typer.Option(
            help="Of a finished job: hand over this site's part and sign the checked bundle, the part only, "
            "or nothing."
        ),
    ] = "sign",
    policies: PoliciesShown = "whole",
    metrics: Metrics = "",
    tensorboard: TensorBoardTo = "",
    mlflow: MLflowTo = "",
    as_json: JsonLines = False,
) -> None:
    """Run the site's agent until it is stopped. It connects outbound only.

    In which hours rounds may start is said by the site's policy.

    Example: cloister site up --dir north --nice 10 --threads 4
    """
    from cloister.client.agent import Agent
    from cloister.client.figures import SiteFigures
    from cloister.privacy.metrics import endpoint
    from cloister.privacy.tracking import tracking

    _check_device(device)
    Share(nice, threads, gpu_memory).apply(device)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    site = SiteFolder.open(directory)
    with Journal(_say, site.log, machine=as_json) as journal:
        journal.say(f"{site.name} is up; the lead is {site.membership.service}.")
        trackers = tracking(site.log, site.name, journal.say, tensorboard=tensorboard, mlflow=mlflow)
        with endpoint(metrics, site.log, SiteFigures(site)), trackers:
            whole = Agent(site, model, journal.say, device, evidence, policies).run(stop)
        if not whole:
            journal.say("Stopped in the middle of a round; it will be computed again at the next start.")
    if not whole:
        sys.stdout.flush()
        os._exit(0)  # the interpreter must not be taken down under a thread that computes in torch


def _check_device(device: str) -> None:
    """Refuses a device that is not there, before anything is joined or trained."""
    if device == "cpu":
        return
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            "option_invalid", f"There is no device {device} here.", "Leave --device out, or see `nvidia-smi`."
        ) from error


def jobs(directory: Directory = HERE, json: Json = False) -> None:
    """List the plans that were proposed, what they would cost, and this site's own figures.

    Example: cloister site jobs --dir north
    """
    site = SiteFolder.open(directory)
    found = [_entry(site, job) for job in Jobs(site)]
    if json:
        say({"jobs": found})
        return
    for entry in found:
        typer.echo(f"{entry['job'][7:19]}  {entry['state']:<9} {entry['purpose']}")
        typer.echo(f"  {entry['terms']}")
        for line in entry["policy"]:
            typer.echo(f"  policy: {line}")
        if entry["loss"] is not None:
            typer.echo(
                f"  mean loss on own held-out answers: {entry['loss']:.3f}, perplexity "
                f"{math.exp(min(entry['loss'], _MOST_LOSS)):.4g} (not sent to anybody)"
            )
        elif entry["accuracy"] is not None:
            typer.echo(
                f"  accuracy on own held-out records: {100 * entry['accuracy']:.1f} % (not sent to anybody)"
            )


def approve(
    job: JobName,
    role: Annotated[str, typer.Option("--as", help="In which role.")] = "administrator",
    person: Annotated[str, typer.Option(help="Who approves; the role, if nobody is named.")] = "",
    sign: Annotated[Path | None, typer.Option(help="PEM file of the person's Ed25519 private key.")] = None,
    model: Annotated[str, typer.Option(help="Where the base model is, if not where its name leads.")] = "",
    directory: Directory = HERE,
    json: Json = False,
) -> None:
    """Check a plan and approve it. Everything that fails is said, and nothing is approved half.

    Records are read last: another base model, tokenizer or shape, or too little budget, is refused before.

    If the policy asks for more people, the approval is kept, and the plan waits for theirs.

    Example: cloister site approve 3f9a --as steward --person dana --sign dana.key --dir north
    """
    site = SiteFolder.open(directory)
    jobs_ = Jobs(site, model=model)
    found = jobs_.find(job)
    decided = jobs_.approve(found, Voice(role_of(role), person, sign))
    changed = Datasets(site).changed(found.plan.site(site.name).dataset)
    waiting = [one.line() for one in jobs_.rulings.decide(found.plan).deciding] if decided is None else []
    if json:
        told = {"job": found.plan.digest, "approved": decided is not None}
        say({**told, "waiting": waiting, "changed": bool(changed)})
        return
    if changed:
        typer.echo(changed)
    if decided is None:
        typer.echo(f"Kept. {found.plan.digest[7:19]} waits for more: {'; '.join(waiting)}.")
        return
    typer.echo(f"Approved {found.plan.digest[7:19]}. The agent tells the lead once the model is loaded.")


def refuse(
    job: JobName,
    reason: Annotated[
        str, typer.Option(help="Id of the reason; docs/errors.md lists them.")
    ] = "site_refused",
    directory: Directory = HERE,
) -> None:
    """Refuse a plan. The lead learns the id of the reason.

    Example: cloister site refuse 3f9a --dir north --reason budget_exceeded
    """
    if not known(reason):
        raise UsageError("option_invalid", f"There is no error id {reason}.", "docs/errors.md lists them.")
    jobs_ = Jobs(SiteFolder.open(directory))
    found = jobs_.find(job)
    jobs_.refuse(found, reason)
    typer.echo(f"Refused {found.plan.digest[7:19]}: {reason}.")


def ledger(directory: Directory = HERE, json: Json = False) -> None:
    """Show every dataset's budget, and each reserve, spend and release, in all consortia if folders share it.

    Example: cloister site ledger --dir north
    """
    site = SiteFolder.open(directory)
    book, own = Datasets(site).ledger, {job.plan.digest for job in Jobs(site)}
    budgets: list[dict[str, Any]] = [
        {
            "dataset": budget.dataset,
            "unit": budget.unit,
            "epsilon": budget.epsilon,
            "delta": budget.delta,
            "spent": book.epsilon(budget.dataset),
            "rows": [
                {
                    "kind": row.kind,
                    "job": row.reservation.job,
                    "round": row.reservation.round,
                    "attempt": row.reservation.attempt,
                    "total": row.total,
                    "here": row.reservation.job in own,
                }
                for row in book.rows(budget.dataset)
            ],
        }
        for budget in book.budgets()
    ]
    if json:
        say({"budgets": budgets})
        return
    for entry in budgets:
        typer.echo(
            f"{entry['dataset']}: epsilon {entry['spent']:.4f} of {entry['epsilon']:g} spent "
            f"(delta {entry['delta']:g}, per {entry['unit']})"
        )
        for row in entry["rows"]:
            place = "" if row["here"] else "  in another folder"
            line = f"{row['job'][7:19]} round {row['round']:>3}  {row['kind']:<9} {row['total']:.4f}{place}"
            typer.echo(f"  {line}")


def log(
    directory: Directory = HERE,
    last: Annotated[int, typer.Option(min=1, help="How many of the newest events.")] = 20,
    json: Json = False,
) -> None:
    """Verify the site's event log and print its newest events.

    Example: cloister site log --dir north --last 5
    """
    from cloister.privacy.evidence.log import verify_log

    site = SiteFolder.open(directory)
    site.log.head()
    verified = verify_log(site.path / "log", site.identity.public)
    newest = list(site.log.entries())[-last:]
    if json:
        events = [canonical.decode(event.encode()) for event in newest]
        say({"size": verified.size, "root": verified.root.hex(), "events": events})
        return
    for event in newest:
        place = f" round {event.round}" if event.round is not None else ""
        typer.echo(f"{event.seq:>6}  {event.ts}  {event.type}{place}")
    typer.echo(f"{verified.size} events; the chain, the tree and the signed head hold.")


def _entry(site: SiteFolder, job: Job) -> dict[str, Any]:
    plan = job.plan
    path = job.folder / "progress.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    last: dict[str, Any] = canonical.decode(lines[-1]) if lines else {}
    return {
        "job": plan.digest,
        "state": job.state,
        "purpose": plan.purpose,
        "terms": _terms(plan),
        "dataset": plan.site(site.name).dataset,
        "policy": _policy_on(site, job),
        "accuracy": last.get("accuracy"),
        "loss": last.get("loss"),
        "entity_f1": last.get("entity_f1"),
    }


def _policy_on(site: SiteFolder, job: Job) -> list[str]:
    """What the site's policy has against a plan that waits, or waits for."""
    if job.state != WAITING:
        return []
    try:
        return [one.line() for one in Jobs(site).rulings.decide(job.plan).deciding]
    except PolicyError as error:
        return [error.line()]


def _terms(plan: Plan) -> str:
    """What a plan asks and promises, in a line, for whoever approves it."""
    privacy, training, how = plan.privacy, plan.training, plan.aggregation
    steps = f"{training.steps} step{'' if training.steps == 1 else 's'}"
    steps += " by Adam" if plan.joint and training.optimizer == "adam" else ""
    cost = "NO privacy" if privacy.mode == "off" else f"epsilon {privacy.epsilon:g} per {privacy.unit}"
    if privacy.unit == "person":
        cost += f" (rows of one person: at most {plan.most_rows} count)"
    course = "one sum over all records" if training.analytic else f"{training.rounds} rounds of {steps}"
    if training.start:
        course += ", the first of them one sum over all records"
    parts = [f"{course}, {cost}, with {len(plan.sites)} sites"]
    if plan.method != training.algorithm:
        parts.append(f"the method is {plan.method}")
    if plan.joint:
        parts.append(
            "the noise is shared: it protects while secure aggregation holds and at most "
            f"{how.colluding} of the others act together with the lead"
        )
    if plan.rehearsal:
        parts.append(f"it is a {plan.rehearsal}, in which no organisation takes part")
    if plan.canaries:
        parts.append(f"{plan.canaries} canaries: false records that each site makes up, half are trained on")
    said = (how.visibility, how.rounding, how.taking_back)
    return "; ".join([*parts, *(_inside(sentence) for sentence in said if sentence)])


def _inside(sentence: str) -> str:
    """A sentence within another."""
    return f"{sentence[0].lower()}{sentence[1:]}"


def _say(line: str) -> None:
    typer.echo(line)
