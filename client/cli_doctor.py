"""``cloister site doctor``: what is wrong at this site, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloister.client import doctor as checks
from cloister.client.jobs import DONE, REFUSED, Jobs
from cloister.client.site.folder import SiteFolder
from cloister.privacy import canonical, checkup
from cloister.privacy.console import Json
from cloister.privacy.errors import CloisterError
from cloister.privacy.plan import Plan


def register(app: typer.Typer) -> None:
    """Adds the command to ``cloister site``."""
    app.command()(doctor)


def doctor(
    directory: Annotated[Path, typer.Option("--dir", help="The site's folder.")] = Path(),
    json: Json = False,
) -> None:
    """Check this machine, the folder, and the way to the lead. Exit code 1 if anything failed.

    Example: cloister site doctor --dir north
    """
    site = SiteFolder.open(directory)
    found = []
    for finding in checks.findings(site, _plans(site)):
        found.append(finding)
        if not json:
            typer.echo(finding.line())
    if json:
        typer.echo(canonical.encode({"checks": [vars(finding) for finding in found]}).decode())
    if checkup.failed(found):
        raise typer.Exit(1)


def _plans(site: SiteFolder) -> tuple[Plan, ...]:
    try:
        return tuple(job.plan for job in Jobs(site) if job.state not in (DONE, REFUSED))
    except CloisterError:  # what is damaged here is found by the checks
        return ()
