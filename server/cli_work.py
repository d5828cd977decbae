"""``cloister lead`` at work: the aggregator, and what an operator does to its jobs."""

from __future__ import annotations

import signal
import threading
from typing import Annotated, Any

import typer

from cloister.privacy.console import Json, say
from cloister.privacy.journal import Journal
from cloister.privacy.watching import JsonLines, Metrics, MLflowTo, TensorBoardTo
from cloister.server.folder import LeadFolder
from cloister.server.jobs import FINISHED, Job, Jobs
from cloister.server.options import HERE, Directory, JobName


def register(app: typer.Typer) -> None:
    """Adds the commands of this module to ``cloister lead``."""
    for command in (up, status, stop, resume):
        app.command()(command)


def up(
    directory: Directory = HERE,
    once: Annotated[
        bool, typer.Option("--once", help="End with the first job; exit 1 if it failed.")
    ] = False,
    metrics: Metrics = "",
    tensorboard: TensorBoardTo = "",
    mlflow: MLflowTo = "",
    as_json: JsonLines = False,
) -> None:
    """Run the aggregator, the consortium service and Flower's server until stopped.

    A job that was interrupted goes on from its checkpoint.

    Example: cloister lead up --dir lead --metrics 9464
    """
    from cloister.privacy.metrics import endpoint
    from cloister.privacy.tracking import tracking
    from cloister.server.figures import LeadFigures
    from cloister.server.lead import Lead

    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    folder = LeadFolder.open(directory)
    with Journal(typer.echo, folder.log, machine=as_json) as journal:
        lead = Lead(folder, journal.say)
        name = folder.identity.public.name
        trackers = tracking(folder.log, name, journal.say, tensorboard=tensorboard, mlflow=mlflow)
        with endpoint(metrics, folder.log, LeadFigures(folder, lambda: lead.present())), trackers:
            ended = lead.run(stopping, once=once)
    if ended and ended.state != FINISHED:
        raise typer.Exit(1)


def status(directory: Directory = HERE, json: Json = False) -> None:
    """Show every job: its state, round, who answered, bytes moved. Never how well a site's data is learnt.

    Example: cloister lead status --dir lead
    """
    folder = LeadFolder.open(directory)
    found = [_entry(job) for job in Jobs(folder.jobs)]
    if json:
        say({"jobs": found})
        return
    for entry in found:
        typer.echo(f"{entry['job'][7:19]}  {entry['state']:<9} {entry['purpose']}")
        if entry["reason"]:
            typer.echo(f"  {entry['reason']}")
        for name, reason in entry["left"].items():
            typer.echo(f"  {name} has left: {reason}")
        if entry["progress"]:
            progress = entry["progress"]
            standings = ", ".join(f"{name} {standing}" for name, standing in progress["standings"].items())
            typer.echo(f"  round {progress['round']} of {progress['rounds']}: {standings}")
            typer.echo(f"  {progress['bytes_up']} bytes up, {progress['bytes_down']} bytes down")


def stop(job: JobName, directory: Directory = HERE, json: Json = False) -> None:
    """Ask a running job to stop; its checkpoint stays.

    Example: cloister lead stop 3f9a --dir lead
    """
    found = Jobs(LeadFolder.open(directory).jobs).find(job)
    found.stop()
    if json:
        say(_entry(found) | {"stopping": found.stopping()})
        return
    typer.echo("It stops before the next answer is used. `cloister lead resume` goes on.")


def resume(
    job: JobName,
    directory: Directory = HERE,
    give_up: Annotated[
        bool,
        typer.Option("--give-up", help="Without the round whose sum was begun; its cost stays charged."),
    ] = False,
    json: Json = False,
) -> None:
    """Let a stopped or failed job go on from its checkpoint.

    Example: cloister lead resume 3f9a --dir lead
    """
    found = Jobs(LeadFolder.open(directory).jobs).find(job)
    found.resume(give_up=give_up)
    if json:
        say(_entry(found) | {"stopping": found.stopping()})
        return
    typer.echo("It goes on where it stopped, if `cloister lead up` runs.")


def _entry(job: Job) -> dict[str, Any]:
    return {
        "job": job.plan.digest,
        "state": job.state,
        "reason": job.reason,
        "purpose": job.plan.purpose,
        "decisions": {name: decision.approve for name, decision in job.decisions().items()},
        "left": job.left(),
        "progress": job.progress,
    }
