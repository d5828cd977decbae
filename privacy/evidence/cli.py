"""``cloister verify``: checks a bundle offline, trusting nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloister.privacy import canonical
from cloister.privacy.console import Json
from cloister.privacy.errors import InputError


def run(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The folder of a bundle.")],
    trust: Annotated[
        Path | None,
        typer.Option(metavar="KEYS", help="Keys that you trust: the output of `cloister site peers --json`."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A released model: its folder, or its values as bytes."),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Also the slow accounts for a person at several sites (minutes).")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check a bundle of evidence: offline, without trust in who made it.

    Exits 0 if it is verified, 10 if something was altered, 11 if something is missing, 12 if a claim does
    not follow from the records, 13 if a key is not trusted. Each finding is one line: the check, the event
    or file, the reason.

    Example: cloister verify bundle --trust keys.json
    """
    from cloister.privacy.errors import EvidenceError
    from cloister.privacy.evidence.bundle import Bundle
    from cloister.privacy.evidence.checks.findings import Finding, Result
    from cloister.privacy.evidence.checks.run import Verdict, trusted
    from cloister.privacy.evidence.checks.run import verify as check

    keys = None if trust is None else trusted(_read(trust))
    try:
        verdict = check(Bundle.read(folder), keys, model, full=full)
    except EvidenceError as error:
        verdict = Verdict((Finding.of("files", str(folder), error),), (), 0, "")
    if as_json:
        typer.echo(canonical.encode(verdict.to_json()).decode())
    else:
        for finding in verdict.findings:
            typer.echo(finding.line())
        for note in verdict.notes:
            typer.echo(f"note: {note}")
        whole = verdict.result is Result.VERIFIED
        closing = (
            f"{verdict.events} events; what the parties signed holds together."
            if whole
            else "Do not rely on it."
        )
        typer.echo(f"{verdict.result.word}: {closing}")
    raise typer.Exit(verdict.result.code)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError("file_missing", f"{file} cannot be read: {error.strerror}.") from error


verify = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
verify.command()(run)
