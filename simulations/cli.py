"""``cloister demo``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from cloister.client.cli_data import MissingPersons, RowsPerPerson
from cloister.client.site.folder import SiteFolder
from cloister.client.site.persons import MOST_ROWS, PersonColumn
from cloister.privacy import folder
from cloister.privacy import table as tables
from cloister.privacy.errors import UsageError
from cloister.privacy.model import DEFAULT
from cloister.server.compatibility import check, check_bits
from cloister.server.jobs import Job
from cloister.server.options import (
    ANALYTIC,
    PRIVACY,
    SUMS,
    TASK,
    TRAINING,
    Bits,
    Canaries,
    Columned,
    Delta,
    Hidden,
    Model,
    TakeBack,
    analytic_choice,
)
from cloister.server.terms import Terms
from cloister.simulations import demo as stagecraft
from cloister.simulations import stage
from cloister.simulations.processes import Memory, Troupe
from cloister.simulations.stage import Source, Stage

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_SECURE_SITES = 3  # with one that may collude, two others stand behind every sum


@app.command()
def demo(
    data: Annotated[
        Path | None, typer.Option(help="Your own CSV, JSON lines or Parquet file.", rich_help_panel=TASK)
    ] = None,
    text: Annotated[str, typer.Option("--text", help="Column of the texts.", rich_help_panel=TASK)] = "text",
    label: Annotated[
        str, typer.Option("--label", help="Column of the classes.", rich_help_panel=TASK)
    ] = "label",
    pair: Annotated[
        str | None,
        typer.Option("--pair", help="Column of second texts: each row is then a pair.", rich_help_panel=TASK),
    ] = None,
    columns: Columned = None,
    hidden: Hidden = None,
    person: Annotated[
        str | None,
        typer.Option(
            help="Column of person ids: the unit of privacy is the person; of the embedded notes: patient.",
            rich_help_panel=PRIVACY,
        ),
    ] = None,
    rows_per_person: RowsPerPerson = MOST_ROWS,
    missing_persons: MissingPersons = "refuse",
    site: Annotated[str | None, typer.Option(help="Column that names sites.", rich_help_panel=SUMS)] = None,
    sites: Annotated[int, typer.Option(min=1, max=50, help="Number of sites.", rich_help_panel=SUMS)] = 4,
    split: Annotated[
        str,
        typer.Option(
            help="iid, natural:COLUMN, dirichlet:ALPHA, pathological:K or quantity:ALPHA.",
            rich_help_panel=SUMS,
        ),
    ] = "dirichlet:0.5",
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds.", rich_help_panel=TRAINING)] = None,
    privacy: Annotated[
        Literal["local", "joint", "off"],
        typer.Option(
            help="Where noise is added: at each site for itself, in shares for all, or nowhere.",
            rich_help_panel=PRIVACY,
        ),
    ] = "local",
    epsilon: Annotated[
        float,
        typer.Option(
            help="Privacy target of the whole run, per person or per record.", rich_help_panel=PRIVACY
        ),
    ] = 8.0,
    delta: Delta = 1e-5,
    top_layers: Annotated[
        int | None,
        typer.Option(min=0, help="Layers with LoRA, counted from the top.", rich_help_panel=TRAINING),
    ] = None,
    secure: Annotated[
        bool,
        typer.Option(
            help="Open nothing but sums; without it the lead sees every single update.", rich_help_panel=SUMS
        ),
    ] = True,
    take_back: TakeBack = False,
    bits: Bits = None,
    canaries: Canaries = None,
    method: Annotated[
        Literal["ridge", "means"] | None,
        typer.Option(
            help="One analytic round in the place of training: ridge regression, or class means.",
            rich_help_panel=ANALYTIC,
        ),
    ] = None,
    model: Model = DEFAULT,
    out: Annotated[Path, typer.Option(help="A folder that does not exist or is empty.")] = Path(
        "cloister-demo"
    ),
    seed: Annotated[int, typer.Option(help="Of the data and its split; never of noise.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print result.json instead of the table.")] = False,
) -> None:
    """Run a whole federation on this machine: one lead and several sites, each a process of its own.

    Example: cloister demo --data intents.csv --text text --label label --split dirichlet:0.5
    """
    _check_target(epsilon, delta)
    column = PersonColumn(person, rows_per_person, missing_persons) if person else None
    if data is None:
        if pair or columns:
            raise UsageError(
                "option_invalid", "The embedded notes have one text.", "Leave out --pair and --columns."
            )
        play = stage.triage(sites, seed, column)
    else:
        spec = f"natural:{site}" if site and split == "dirichlet:0.5" else split
        table = tables.read(columns) if columns else None
        play = stage.from_file(Source(data, text, label, site, spec, column, pair, table), sites, seed)
    terms = Terms(purpose=play.purpose, labels=play.labels, mode=privacy)
    terms = replace(terms, unit="person" if person else "record", secure=secure, bits=bits)
    terms = replace(terms, canaries=canaries, surplus=take_back, pair=pair is not None)
    terms = replace(terms, analytic=analytic_choice(method, None, None, top_layers))
    if play.table:
        _check_columns(pair, text, label, canaries)
        terms = replace(terms, task="tabular-classification", table=play.table)
    terms = replace(terms, hidden=hidden)
    _check_sites(len(play.train), privacy, secure=secure)
    check_bits(terms, len(play.train))
    if privacy != "off":
        terms = replace(terms, epsilon=epsilon, delta=delta)
    if rounds:
        terms = replace(terms, rounds=rounds)
    if top_layers is not None:
        terms = replace(terms, top_layers=top_layers)
    check(terms)
    found = stagecraft.Demo(out, play, terms, model)
    found.base()  # a model that is not there is told before anything is made
    folder.claim(out)
    _perform(found, as_json=as_json)


def _check_columns(pair: str | None, text: str, label: str, canaries: int | None) -> None:
    if pair or canaries or (text, label) != ("text", "label"):
        raise UsageError(
            "option_invalid",
            "The file of columns says what is learnt, and from what; a table has no canaries.",
            "Leave out --text, --label, --pair and --canaries.",
        )


def _check_sites(sites: int, privacy: str, *, secure: bool) -> None:
    if privacy == "joint" and not secure:
        raise UsageError(
            "option_invalid",
            "Joint privacy needs secure aggregation: a share of the noise protects nobody by itself.",
            "Leave out --no-secure.",
        )
    if secure and sites < _SECURE_SITES:
        raise UsageError(
            "option_invalid",
            f"Secure aggregation needs at least {_SECURE_SITES} sites; this demo has {sites}.",
            "Take more sites, or add --no-secure: the lead then sees every single update.",
        )


def _check_target(epsilon: float, delta: float) -> None:
    if not (epsilon > 0 and 0 < delta < 1):
        raise UsageError(
            "option_invalid",
            "Epsilon must be above 0 and delta between 0 and 1.",
            "Try --epsilon 8 --delta 1e-5.",
        )


def _perform(demo_: stagecraft.Demo, *, as_json: bool) -> None:
    """Runs the demo, then prints the table, or the result as JSON."""
    from cloister.simulations.ending import conclude

    console = Console(stderr=as_json, highlight=False)
    with Memory().watching() as memory:
        with Troupe() as troupe, Live(console=console, refresh_per_second=4, transient=True) as live:
            watcher = stagecraft.Watcher(say=console.print, show=_shower(live, demo_.stage))
            cast = stagecraft.assemble(demo_, troupe, watcher.say)
            run = stagecraft.federate(demo_, cast, watcher)
        result, shown = conclude(demo_, run, memory, console.print)
    if as_json:
        typer.echo(json.dumps(result))
        return
    for part in shown:
        console.print(part)
    console.print(f"Everything is in {demo_.out}: result.json, report.html, model/, and each party's folder.")
    console.print(f"To check its evidence: cloister verify {demo_.out}/bundle --trust {demo_.out}/trust.json")


def _shower(live: Live, play: Stage) -> Callable[[Job, Mapping[str, SiteFolder]], None]:
    """Shows the state of a run while it goes on."""

    def show(job: Job, sites: Mapping[str, SiteFolder]) -> None:
        live.update(_board(job, sites, play))

    return show


def _board(job: Job, sites: Mapping[str, SiteFolder], play: Stage) -> Table:
    """One line a site: where it stands in the round, its own figures so far, its budget."""
    progress: Mapping[str, Any] = job.progress
    rounds = job.plan.training.rounds
    up, down = progress.get("bytes_up", 0) / 1e6, progress.get("bytes_down", 0) / 1e6
    title = f"round {progress.get('round', 0)} of {rounds} ({job.state})   {up:.1f} MB up, {down:.1f} MB down"
    board = Table(title=title, title_justify="left")
    spent = f"epsilon so far, per {job.plan.privacy.unit}"
    for column in ("site", "records", "this round", "accuracy on own held-out records", spent):
        board.add_column(column)
    standings = progress.get("standings", {})
    for name, site in sites.items():
        figures = stagecraft.site_progress(site, job.plan)
        accuracy = figures[-1]["accuracy"] if figures else None
        board.add_row(
            name,
            str(len(play.train[name])),
            str(standings.get(name, "")),
            "" if accuracy is None else f"{100 * accuracy:.1f} %",
            stagecraft.epsilon_so_far(site, job.plan),
        )
    return board
