"""``cloister report``: the evidence of a job, in a folder that anybody can check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cloister.privacy.errors import InputError
from cloister.privacy.evidence.bundle import Bundle
from cloister.privacy.evidence.checks.findings import Result
from cloister.privacy.evidence.part import PART_LIMIT, Part
from cloister.server.dossier import Assembly
from cloister.server.folder import LeadFolder
from cloister.server.gathering import Gathering
from cloister.server.jobs import Job, Jobs

report = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@report.command()
def run(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The first digits of the plan's digest.")],
    out: Annotated[Path, typer.Option(help="A folder that does not exist or is empty.")],
    part: Annotated[
        list[Path],
        typer.Option(metavar="FILE", help="A site's part that came as a file.", default_factory=list),
    ],
    directory: Annotated[Path, typer.Option("--dir", help="The lead's folder.")] = Path(),
    audience: Annotated[
        Literal["auditor", "partner", "public"],
        typer.Option("--for", help="Who reads it: sites' policies are for an auditor only."),
    ] = "auditor",
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds in which sites may hand over their parts and sign.")
    ] = 60.0,
) -> None:
    """Put everybody's evidence of a finished job into a bundle: report.html, events, heads, statements.

    While `cloister lead up` runs, sites that are up are asked for their parts, check the bundle and sign it.
    One that is not up hands over a file (`cloister site evidence JOB --out FILE`). What does not hold
    together is said and ends with the exit code of `cloister verify`; the bundle is written all the same.

    Example: cloister report 3f9a --dir lead --out bundle
    """
    folder = LeadFolder.open(directory)
    found = Jobs(folder.jobs).find(job)
    given = {one.writer: one for one in map(_read, part)}
    bundle, verdict = Assembly(folder, found, given, audience, wait).bundle()
    bundle.write(out)
    folder.log.append("report.built", job=found.plan.digest, bundle=bundle.digest)
    typer.echo(f"{out} holds {len(bundle.files)} files. {_signed(bundle, found, out)}")
    typer.echo(f"To check it: cloister verify {out} --trust KEYS")
    if verdict.result is not Result.VERIFIED:  # it stands as it is: whoever reads it should see this, too
        for finding in verdict.findings:
            typer.echo(finding.line(), err=True)
        raise typer.Exit(verdict.result.code)


def _signed(bundle: Bundle, job: Job, out: Path) -> str:
    """Who has signed, who has not, and why not where a site gave its reason."""
    marks = {mark.key.split("/")[1] for mark in bundle.manifest.marks}
    missing = sorted({site.name for site in job.plan.sites} - marks)
    if not missing:
        return "Every party has signed it."
    words = Gathering.of(job).words(bundle.digest)
    reasons = {name: f" ({words[name].refused})" if name in words else "" for name in missing}
    told = ", ".join(f"{name}{reasons[name]}" for name in missing)
    return f"Not signed by {told}; each of them may: cloister site sign {out}"


def _read(file: Path) -> Part:
    try:
        with file.open("rb") as opened:
            return Part.from_bytes(opened.read(PART_LIMIT + 1))
    except OSError as error:
        raise InputError("file_missing", f"{file} cannot be read: {error.strerror}.") from error
