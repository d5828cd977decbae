"""``cloister simulate``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from cloister.privacy.errors import UsageError
from cloister.simulations.scenarios.catalogue import DATA, SCENARIOS
from cloister.simulations.scenarios.choices import SEEDS

_COLUMNS = (0, 1, 3, 4, 6)
"""Of the table of a page: those that a terminal of 80 letters has room for."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def simulate(
    name: Annotated[str | None, typer.Argument(help="A scenario, or a .toml file of your own.")] = None,
    show_list: Annotated[bool, typer.Option("--list", help="Name the scenarios and end.")] = False,
    out: Annotated[Path, typer.Option(help="A folder that does not exist or is empty.")] = Path(
        "cloister-simulation"
    ),
    epsilon: Annotated[float | None, typer.Option(help="Privacy target, instead of the scenario's.")] = None,
    delta: Annotated[float | None, typer.Option(help="Its delta.")] = None,
    data: Annotated[Path, typer.Option(help="The folder of the data sets that some scenarios need.")] = DATA,
    seed: Annotated[int, typer.Option(min=0, help="Of splits, held-back rows and noise.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Noise seeds of a private method.")] = SEEDS,
    engine: Annotated[
        Literal["own", "flower"],
        typer.Option(
            help="What runs the federated methods' plans: this process, or Flower's engine over Ray, for "
            "clusters (cloister[ray]; docs/simulation.md)."
        ),
    ] = "own",
    bundle: Annotated[
        bool, typer.Option("--bundle/--no-bundle", help="Run the recommended way as a job, for a bundle.")
    ] = True,
    sweep: Annotated[
        Path | None,
        typer.Option(help="A .toml file that names a scenario and lists of values: runs them all."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print result.json instead of the table.")] = False,
) -> None:
    """Find out, before asking anybody, whether a consortium should federate, and how.

    Example: cloister simulate hospital-triage --out triage
    """
    if sweep is not None:
        _check_sweep(name, epsilon, delta, seed, seeds, engine)
        _sweep(sweep, out, data, as_json=as_json)
        return
    if show_list:
        _list(as_json=as_json)
        return
    if name is None:
        raise UsageError("option_invalid", "No scenario is named.", "See `cloister simulate --list`.")
    from cloister.simulations.scenarios import simulation

    console = Console(stderr=as_json, highlight=False)
    found = simulation.simulate(
        name,
        out=out,
        epsilon=epsilon,
        delta=delta,
        data=data,
        seed=seed,
        seeds=seeds,
        bundle=bundle,
        say=console.print,
        engine=engine,
    )
    if as_json:
        typer.echo(json.dumps(found.to_json()))
        return
    console.print(f"\nSIMULATION: {found.scenario.title}")
    table = Table()
    for place in _COLUMNS:
        table.add_column(found.heads[place], no_wrap=place == 0)
    for row in found.rows:
        table.add_row(*(row[place] for place in _COLUMNS))
    console.print(table)
    for line in found.advice:
        console.print(f"- {line}")
    _foreseen(console, found.foreseen)
    console.print(f"Everything is in {out}: simulation.html, result.json and the sites' ledgers.")
    if found.reported:
        console.print(f"The report of a job of the recommended way is in {out}/bundle. To check it:")
        console.print(f"cloister verify {out}/bundle --trust {out}/trust.json", soft_wrap=True)


def _foreseen(console: Console, lines: Sequence[str]) -> None:
    if lines:
        console.print("Beforehand, from public terms alone, the planner says:")
    for line in lines:
        console.print(f"- {line}")


def _check_sweep(*given: object) -> None:
    """What a sweep's file says, options cannot say as well."""
    if given != (None, None, None, 0, SEEDS, "own"):
        raise UsageError(
            "option_invalid",
            "The file of a sweep names its scenario, epsilon, delta and seeds, and runs in this process.",
            "Leave them out beside --sweep.",
        )


def _sweep(file: Path, out: Path, data: Path, *, as_json: bool) -> None:
    """Runs what is missing of a sweep."""
    from cloister.simulations.sweep.running import sweep

    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    found = sweep(file, out, data=data, say=console.print)
    if as_json:
        rows = found.table.to_pylist()
        typer.echo(json.dumps({"simulation": True, "ran": found.ran, "cells": rows}))
        return
    console.print(f"SIMULATION: {len(found.rows)} cells, {found.ran} of them run now.")
    console.print(f"Everything is in {out}: sweep.html and results.parquet.")


def _list(*, as_json: bool) -> None:
    if as_json:
        value = {each.name: {"title": each.title, "needs": each.needs} for each in SCENARIOS.values()}
        typer.echo(json.dumps(value))
        return
    for each in SCENARIOS.values():
        needs = f"   needs {each.needs}" if each.needs else ""
        typer.echo(f"{each.name:<18}{each.title}{needs}")
