"""``cloister report``: the evidence of a job, in a folder that anybody can check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cloister.privacy.errors import InputError
from cloister.privacy.evidence.checks.findings import Result
from cloister.privacy.evidence.checks.run import verify
from cloister.privacy.evidence.part import PART_LIMIT, Part
from cloister.server.dossier import contents
from cloister.server.folder import LeadFolder
from cloister.server.jobs import Jobs

report = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@report.command()
def run(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The first digits of the plan's digest.")],
    out: Annotated[Path, typer.Option(help="A folder that does not exist or is empty.")],
    part: Annotated[
        list[Path],
        typer.Option(metavar="FILE", help="A site's part; once for each site.", default_factory=list),
    ],
    directory: Annotated[Path, typer.Option("--dir", help="The lead's folder.")] = Path(),
    audience: Annotated[
        Literal["auditor", "partner", "public"],
        typer.Option("--for", help="Who reads it: sites' policies are for an auditor only."),
    ] = "auditor",
) -> None:
    """Put everybody's evidence of a finished job into a bundle: report.html, events, heads, statements.

    Each site makes its part with `cloister site evidence JOB --out FILE`. What does not hold together is said
    and ends with the exit code of `cloister verify`; the bundle is written all the same.

    Example: cloister report 3f9a --dir lead --part north.part --part south.part --out bundle
    """
    folder = LeadFolder.open(directory)
    found = Jobs(folder.jobs).find(job)
    parts = [_read(file) for file in part]
    made = contents(folder, found, parts, audience=audience)
    bundle = made.bundle(folder.identity)
    bundle.write(out)
    folder.log.append("report.built", job=found.plan.digest, bundle=bundle.digest)
    typer.echo(f"{out} holds {len(bundle.files)} files. Every party may sign it: cloister site sign {out}")
    typer.echo(f"To check it: cloister verify {out} --trust KEYS")
    verdict = verify(bundle, {member.name: member.digest() for member in made.keys})
    if verdict.result is not Result.VERIFIED:  # it stands as it is: whoever reads it should see this, too
        for finding in verdict.findings:
            typer.echo(finding.line(), err=True)
        raise typer.Exit(verdict.result.code)


def _read(file: Path) -> Part:
    try:
        with file.open("rb") as opened:
            return Part.from_bytes(opened.read(PART_LIMIT + 1))
    except OSError as error:
        raise InputError("file_missing", f"{file} cannot be read: {error.strerror}.") from error
