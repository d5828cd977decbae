"""``cloister site data``: register datasets, list them, and look at them without a job."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cloister.client import cli_identifiers
from cloister.client.site import check as checking
from cloister.client.site.check import Cells, Facts, Lengths, Parts, Report, Spread, Told
from cloister.client.site.datasets import Dataset, Datasets
from cloister.client.site.duplicates import NEAR, missed
from cloister.client.site.folder import SiteFolder
from cloister.client.site.identifiers.findings import Counts
from cloister.client.site.identifiers.screening import Action
from cloister.client.site.persons import MOST_ROWS, PersonColumn
from cloister.client.site.records import Missing
from cloister.client.site.selection import Selection, selected
from cloister.client.site.sources.place import Place
from cloister.privacy import table as tables
from cloister.privacy.console import Json, say
from cloister.privacy.errors import UsageError
from cloister.privacy.task import TaskKind

app = typer.Typer(no_args_is_help=True, help="The datasets of this site.")
cli_identifiers.register(app)

_SOURCE = "A .csv, .jsonl or .parquet file, a dataset folder, or a database URL without a password."
Directory = Annotated[Path, typer.Option("--dir", help="The site's folder.")]
Table = Annotated[str | None, typer.Option(help="Table of the database, as NAME or SCHEMA.NAME.")]
Columns = Annotated[
    Path | None,
    typer.Option(
        help="A TOML file of columns with public ranges, as the lead has it: rows are then those of a table."
    ),
]
Query = Annotated[str | None, typer.Option(help="One SELECT, instead of a table.")]
PasswordEnv = Annotated[str | None, typer.Option(help="Environment variable with the database password.")]
PasswordFile = Annotated[
    Path | None, typer.Option(help="File whose first line is the database password; its owner's alone.")
]
Text = Annotated[str, typer.Option(help="Column of the texts.")]
Label = Annotated[str, typer.Option(help="Column of the classes; by --task of tags or spans, or of answers.")]
Kind = Annotated[
    TaskKind, typer.Option("--task", help="What its rows are for: classes, tags of words, or answers.")
]
Pair = Annotated[str | None, typer.Option(help="Column of second texts: each row is then a pair of texts.")]
Person = Annotated[
    str | None, typer.Option(help="Column of person ids: the unit of privacy is then the person.")
]
RowsPerPerson = Annotated[
    int, typer.Option(min=1, max=10_000, help="Rows of one person that count, at most.")
]
MissingPersons = Annotated[
    Missing, typer.Option(help="Rows without a person id: refuse the data, or drop those rows.")
]
MissingValues = Annotated[
    Missing, typer.Option(help="Rows without a text or label: refuse the data, or drop those rows.")
]
HERE = Path()
_MOST_LABELS = 20
_ALL_TOKENS = 1_000_000


@app.command()
def add(
    source: Annotated[str, typer.Argument(help=f"{_SOURCE} It stays where it is.")],
    name: Annotated[str, typer.Option(help="What plans will call it: a-z, 0-9 and hyphen.")],
    text: Text = "text",
    label: Label = "label",
    task: Kind = "sequence-classification",
    pair: Pair = None,
    columns: Columns = None,
    epsilon: Annotated[
        float, typer.Option(help="Budget of everything ever learnt from it, per person or per record.")
    ] = 8.0,
    delta: Annotated[float, typer.Option(help="The budget's delta.")] = 1e-5,
    person: Person = None,
    rows_per_person: RowsPerPerson = MOST_ROWS,
    missing_persons: MissingPersons = "refuse",
    missing_values: MissingValues = "refuse",
    table: Table = None,
    query: Query = None,
    password_env: PasswordEnv = None,
    password_file: PasswordFile = None,
    pinned: Annotated[
        bool, typer.Option("--pinned", help="Refuse every job once the data are not the same.")
    ] = False,
    identifiers: Annotated[
        Action | None,
        typer.Option(
            help="What becomes of identifiers in its texts, now and in every job; warn without it, off with "
            "--columns."
        ),
    ] = None,
    directory: Directory = HERE,
    json: Json = False,
) -> None:
    """Register a dataset and set its privacy budget, once.

    The lead is told its name and the power-of-two bands of its numbers of rows and persons, nothing else.

    Example: cloister site data add notes.csv --dir north --name notes --label department --epsilon 8
    """
    place = Place.of(source, table=table, query=query, password_env=password_env, password_file=password_file)
    column = PersonColumn(person, rows_per_person, missing_persons) if person else None
    site, counts = SiteFolder.open(directory), list[Counts]()
    found = Datasets(site).register(
        place,
        name,
        _columns(columns, task, text, label),
        (epsilon, delta),
        column,
        task=task,
        pair=pair,
        missing=missing_values,
        pinned=pinned,
        identifiers=identifiers or ("off" if columns else "warn"),
        tell=counts.append,
    )
    if json:
        say(found.model_dump(mode="json"))
        return
    typer.echo(
        f"{name}: {found.rows.low} to {found.rows.high} rows to train on; a tenth is held out for scoring."
    )
    if found.persons is not None:
        typer.echo(
            f"They are of {found.persons.low} to {found.persons.high} persons; of one person at most "
            f"{found.persons.most_rows} rows count."
        )
    if found.table is not None:
        typer.echo(f"Learnt from {len(found.table.columns)} columns, agreed as {found.table.digest[7:19]}.")
    typer.echo(f"Budget: epsilon {epsilon:g}, delta {delta:g} per {found.unit}, over all jobs.")
    cli_identifiers.show(site, counts)


@app.command("list")
def list_(directory: Directory = HERE, json: Json = False) -> None:
    """List the registered datasets, what is told of them, and whether their data changed since.

    Example: cloister site data list --dir north
    """
    datasets = Datasets(SiteFolder.open(directory))
    if json:
        say(
            {
                "datasets": [
                    found.model_dump(mode="json") | {"changed": bool(datasets.changed(found.name))}
                    for found in datasets.all()
                ]
            }
        )
        return
    for found in datasets.all():
        for line in _registered(found):
            typer.echo(line)
        if changed := datasets.changed(found.name):
            typer.echo(f"  {changed}")


@app.command()
def check(
    target: Annotated[
        str | None, typer.Argument(metavar="[NAME|SOURCE]", help=f"A registered name; else: {_SOURCE}")
    ] = None,
    text: Text = "text",
    label: Label = "label",
    task: Kind = "sequence-classification",
    pair: Pair = None,
    columns: Columns = None,
    person: Person = None,
    rows_per_person: RowsPerPerson = MOST_ROWS,
    missing_persons: MissingPersons = "refuse",
    missing_values: MissingValues = "refuse",
    table: Table = None,
    query: Query = None,
    password_env: PasswordEnv = None,
    password_file: PasswordFile = None,
    model: Annotated[
        Path | None, typer.Option(help="Folder of a base model: texts are then counted in its tokens.")
    ] = None,
    directory: Directory = HERE,
    json: Json = False,
) -> None:
    """A dry run on the site's own data, without a job: what is there, what would be told, what would happen.

    Its exact figures are for this screen only. Exit code 1 if any of the data would be refused.

    Example: cloister site data check notes.csv --dir north --label department
    """
    datasets = Datasets(SiteFolder.open(directory))
    registered = {found.name: found for found in datasets.all()}
    lengths = _lengths(model) if model else None
    reports: list[tuple[Dataset | None, Report]] = []
    if target is None or target in registered:
        for chosen in [registered[target]] if target else [*registered.values()]:
            reports.append((chosen, checking.examine(datasets, chosen.selection, lengths)))
    else:
        place = Place.of(
            target, table=table, query=query, password_env=password_env, password_file=password_file
        )
        column = PersonColumn(person, rows_per_person, missing_persons) if person else None
        wanted = Selection(place, "", "", column, missing_values, task, pair)
        selection = selected(place, _columns(columns, task, text, label), wanted)
        reports.append((None, checking.examine(datasets, selection, lengths)))
    if not reports:
        raise UsageError(
            "option_invalid", "No dataset is registered here.", "Name a file, folder or database."
        )
    if json:
        say({"datasets": [_entry(*report) for report in reports]})
    else:
        for found, report in reports:
            typer.echo("\n".join(_lines(found, report)))
    if any(_refused(*report) for report in reports):
        raise typer.Exit(1)


def _columns(file: Path | None, task: TaskKind, text: str, label: str) -> tuple[str, str] | tables.Table:
    """The columns of text and label, or those of a file."""
    if file is None:
        if task == "tabular-classification":
            raise UsageError("option_invalid", "Rows of a table need their columns.", "Add --columns FILE.")
        return text, label
    if task not in ("sequence-classification", "tabular-classification") or (text, label) != (
        "text",
        "label",
    ):
        raise UsageError(
            "option_invalid",
            "The file of columns says what is learnt, and from what.",
            "Leave out --task, --text and --label.",
        )
    return tables.read(file)


def _registered(found: Dataset) -> Iterator[str]:
    pinned = ", pinned" if found.pinned else ""
    yield f"{found.name}: {found.place.title}{pinned}"
    most_rows = None if found.persons is None else found.persons.most_rows
    yield f"  {_told(Told(_pair(found), _persons(found), most_rows))}"
    yield f"  fingerprint {found.fingerprint}"


def _pair(found: Dataset) -> tuple[int, int]:
    return found.rows.low, found.rows.high


def _persons(found: Dataset) -> tuple[int, int] | None:
    return None if found.persons is None else (found.persons.low, found.persons.high)


def _told(told: Told) -> str:
    line = f"the lead is told: {told.rows[0]} to {told.rows[1]} rows to train on"
    if told.persons is None:
        return line
    low, high = told.persons
    return f"{line}, of {low} to {high} persons, at most {told.rows_per_person} rows of each"


def _altered(found: Dataset | None, report: Report) -> bool:
    return found is not None and bool(report.fingerprint) and report.fingerprint != found.fingerprint


def _verdict(found: Dataset | None, report: Report) -> str:
    """The line on what a job, or registering, would end in; "" where it would work."""
    if report.refusal or found is None or report.told is None:
        return report.refusal
    if (report.told.rows, report.told.persons) != (_pair(found), _persons(found)):
        return "The size left the band that was registered; register it again. [rows_changed]"
    if found.pinned and _altered(found, report):
        return "The dataset is pinned, and its data are others; register it again. [data_changed]"
    return ""


def _refused(found: Dataset | None, report: Report) -> bool:
    return bool(_verdict(found, report))


def _entry(found: Dataset | None, report: Report) -> dict[str, Any]:
    line = _verdict(found, report)
    return asdict(report) | {
        "name": found and found.name,
        "changed": _altered(found, report),
        "refusal": line,
        "reason": line.rpartition("[")[2].rstrip("]"),
    }


def _lines(found: Dataset | None, report: Report) -> Iterator[str]:
    yield f"{f'{found.name}: ' if found else ''}{report.source}, unit {report.unit}"
    yield f"  columns: {', '.join(report.columns)}"
    if report.missing:
        yield f"  not there: {', '.join(report.missing)}"
    if report.facts is not None:
        yield from _facts(report.facts)
    if report.parts is not None:
        yield from _parts(report, report.parts)
    if _altered(found, report):
        yield "  the data are not those that were registered"
    if report.told is not None:
        yield f"  {_told(report.told)}, and the name; nothing else leaves"
    line = _verdict(found, report)
    yield f"  it would be refused: {line}" if line else "  it would be accepted"


def _facts(facts: Facts) -> Iterator[str]:
    yield f"  rows: {facts.rows}, of which {facts.usable} have every value"
    for role, count in facts.without.items():
        yield f"  without {role}: {count}"
    labels = [f"{label!r} {count}" for label, count in facts.labels.items()]
    more = f" and {len(labels) - _MOST_LABELS} more" if len(labels) > _MOST_LABELS else ""
    if labels:
        yield f"  labels: {', '.join(labels[:_MOST_LABELS])}{more}"
    for what, spread in (("characters", facts.characters), ("words", facts.words), ("tokens", facts.tokens)):
        if spread is not None:
            yield f"  {what} a text: {_spread(spread)}"
    for cells in facts.cells:
        yield f"  column {cells.name}: {_cells(cells)}"
    if facts.people is not None:
        people = facts.people
        yield f"  persons: {people.persons}; rows of one: {_spread(people.rows)}"
        if people.forms:
            yield f"  ids written in more than one way, taken as one: {people.forms}"
        if people.rows.high == 1:
            yield "  every row has an id of its own: is this the column of persons, and not of rows?"
    twice = facts.twice
    what, several = ("cells", "rows") if facts.cells else ("text", "texts")
    yield (
        f"  same {what} as an earlier row: {twice.exact}; {several} with more than one label: "
        f"{twice.conflicting}"
    )
    if facts.cells:
        return
    bound = "" if twice.complete else "at least "
    yield (
        f"  near duplicates (similarity of three-word runs {NEAR:g} or more): {bound}{twice.pairs} pairs, "
        f"{twice.near} rows; a pair at {NEAR:g} is missed with probability {missed(NEAR):.0e}"
    )


def _cells(cells: Cells) -> str:
    """What a job would make of a column's cells."""
    counts = {"without a value": cells.without, "below the range": cells.below, "above it": cells.above}
    found = [
        f"{count} {what}" for what, count in (counts | {"that cannot be read": cells.wrong}).items() if count
    ]
    return ", ".join(found) or "all values in range"


def _spread(spread: Spread) -> str:
    return f"{spread.low} to {spread.high}, middle {spread.middle}, 95 % up to {spread.p95}"


def _parts(report: Report, parts: Parts) -> Iterator[str]:
    cap = f"; the cap of rows a person drops {parts.capped}" if report.unit == "person" else ""
    yield f"  training: {parts.train} rows, {parts.units} units of at least {report.smallest}{cap}"
    leakage = parts.leakage
    known = "" if leakage.persons is None else f"persons {leakage.persons}, "
    yield (
        f"  held out: {parts.held} rows; also in training: {known}same texts {leakage.texts}, "
        f"near duplicates {leakage.near}"
    )


def _lengths(model: Path) -> Lengths:
    from cloister.client.learn.model import tokenize
    from cloister.privacy.model import describe

    base = describe(str(model))
    return lambda texts: [len(ids) for ids in tokenize(base, texts, _ALL_TOKENS)]
