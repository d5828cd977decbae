"""``cloister lead versions`` and ``rollback``: the global models of a job, and going back to one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cloister.privacy.console import Json, say
from cloister.privacy.wire.messages import model_digest
from cloister.server.folder import LeadFolder
from cloister.server.jobs import Jobs
from cloister.server.options import HERE, Directory, JobName
from cloister.server.versions import Version, Versions


def register(app: typer.Typer) -> None:
    """Adds the commands of this module to ``cloister lead``."""
    for command in (versions, rollback):
        app.command()(command)


def versions(job: JobName, directory: Directory = HERE, json: Json = False) -> None:
    """List the global models of a job: after which round, how far the round moved it, what is kept.

    Example: cloister lead versions 3f9a --dir lead
    """
    folder = LeadFolder.open(directory)
    found = Jobs(folder.jobs).find(job)
    kept = Versions(found.folder, found.plan, folder.vault)
    visibility = found.plan.aggregation.visibility
    if json:
        say({"versions": [_entry(kept, version) for version in kept.all()], "visibility": visibility})
        return
    for version in kept.all():
        notes = [*(["far beyond the rounds before"] if version.jumped else [])]
        notes += [] if kept.has(version.round) else ["not kept"]
        line = f"round {version.round:>4}  {version.model[7:19]}  moved {version.norm:.4g}"
        typer.echo("; ".join([line, *notes]))
    typer.echo(f"{visibility}; what a round moved is all that can be watched here.")


def rollback(
    job: JobName,
    to: Annotated[int, typer.Option(min=1, help="After which round the wanted model stood.")],
    directory: Directory = HERE,
    json: Json = False,
) -> None:
    """Go back to an earlier global model of a stopped or failed job; rounds since stay charged.

    Example: cloister lead rollback 3f9a --to 7 --dir lead
    """
    folder = LeadFolder.open(directory)
    found = Jobs(folder.jobs).find(job)
    state = found.roll_back(to, folder.vault, folder.log)
    model, left = model_digest(state.model), found.plan.training.rounds - state.round
    if json:
        say({"job": found.plan.digest, "model": model, "round": state.round, "left": left})
        return
    typer.echo(f"The model is {model[7:19]} again; {left} rounds are left. Nothing charged is given back.")
    typer.echo(f"Next: cloister lead resume {found.plan.digest[7:19]} --dir {directory}")


def _entry(kept: Versions, version: Version) -> dict[str, Any]:
    return {**vars(version), "kept": kept.has(version.round)}
