"""``cloister bench NAME``: the one place for figures."""

from __future__ import annotations

import importlib
import json
from typing import Annotated

import typer

from cloister.privacy.errors import UsageError

app = typer.Typer(add_completion=False)

BENCHES = {
    "round": "what a round costs beyond training: seconds, bytes, memory",
    "step": "what privacy costs in a training step: time and operations, beside plain PEFT",
}


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="; ".join(f"{k}: {v}" for k, v in BENCHES.items()))],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure one thing and print its figures beside their targets.

    Exits 0 when it ran, whether or not a target is met. Example: cloister bench round
    """
    if name not in BENCHES:
        raise UsageError(
            "option_invalid", f"There is no benchmark {name}.", f"There is: {', '.join(BENCHES)}."
        )
    result = importlib.import_module(f"cloister.simulations.bench.{name.replace('-', '_')}").run()
    value = result.to_json()
    if as_json:
        typer.echo(json.dumps(value))
        return
    typer.echo(f"{value['bench']} on {value['machine']}")
    for figure, number in value["figures"].items():
        target = value["targets"].get(figure)
        note = f"   target {target['limit']:g}: {'met' if target['met'] else 'NOT met'}" if target else ""
        typer.echo(f"  {figure:<28}{number:>14.6g}{note}")
