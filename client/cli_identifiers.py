"""``cloister site data scan``: what detectors find in a site's texts, beside what they miss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cloister.client.site import records
from cloister.client.site.datasets import Datasets
from cloister.client.site.folder import SiteFolder
from cloister.client.site.identifiers import gate, measured, presidio, site_patterns
from cloister.client.site.identifiers.detection import Scanner
from cloister.client.site.identifiers.findings import KINDS, Counts
from cloister.client.site.identifiers.screening import Action, refuse, screen
from cloister.privacy import canonical
from cloister.privacy.console import Json
from cloister.privacy.errors import UsageError

HERE = Path()


def register(app: typer.Typer) -> None:
    """Adds the command of this module to a group."""
    app.command()(scan)


def scan(
    source: Annotated[str, typer.Argument(metavar="FILE|NAME", help="A file, or a registered dataset.")],
    text: Annotated[str, typer.Option(help="Column of the texts, of a file.")] = "text",
    label: Annotated[str, typer.Option(help="Column of the classes, of a file.")] = "label",
    action: Annotated[
        Action, typer.Option(help="warn: only count. refuse: fail if anything is found.")
    ] = "warn",
    with_presidio: Annotated[
        bool, typer.Option("--presidio", help="Also ask Presidio, if installed.")
    ] = False,
    model: Annotated[Path | None, typer.Option(help="Folder of a spaCy model for Presidio.")] = None,
    directory: Annotated[Path, typer.Option("--dir", help="The site's folder.")] = HERE,
    json: Json = False,
) -> None:
    """Count what looks like identifiers in texts, beside the measured recall of each detector.

    Nothing is changed or sent; no text is shown. The site's own patterns are read from identifiers.json in
    its folder.

    Example: cloister site data scan notes.csv --dir north --text note --label department
    """
    if action not in ("warn", "refuse"):
        raise UsageError("option_invalid", f"A scan does not {action}.", "Use --action warn or refuse.")
    if model is not None and not with_presidio:
        raise UsageError("option_invalid", "--model is for Presidio.", "Add --presidio, or leave it out.")
    patterns = site_patterns.load(directory / site_patterns.FILE)
    others = (presidio.detector(model),) if with_presidio else ()
    scanner = Scanner(patterns, others)
    counts = _scan(source, (text, label), directory, scanner)
    if action == "refuse":
        refuse(counts)
    if json:
        typer.echo(canonical.encode(told(counts, patterns)).decode())
        return
    for line in measured.lines(counts, patterns):
        typer.echo(line)


def show(site: SiteFolder, scans: Iterable[Counts]) -> None:
    """Prints scans of a site's dataset for its people."""
    for counts in scans:
        for line in measured.lines(counts, gate.scanner(site).patterns):
            typer.echo(line)


def told(counts: Counts, own: Mapping[str, str]) -> dict[str, Any]:
    """A scan as a value: exact counts, for this machine only, and the figures of the detectors."""
    kinds = {
        kind: {"found": counts.found.get(kind, 0), "texts": counts.within.get(kind, 0)}
        for kind in (*KINDS, *own)
    }
    return {
        "texts": counts.texts,
        "touched": counts.touched,
        "kinds": kinds,
        "measured": measured.figures().to_json(),
        "caution": measured.CAUTION,
    }


def _scan(source: str, columns: tuple[str, str], directory: Path, scanner: Scanner) -> Counts:
    """The counts of a file, or of all rows of a registered dataset."""
    if Path(source).exists():
        parts = [records.load(Path(source), text=columns[0], label=columns[1])]
    else:
        parts = list(Datasets(SiteFolder.open(directory)).read(source))
    looked = [screen(part, scanner, "warn").counts for part in parts]
    return sum((one for one in looked if one is not None), start=Counts(0))
