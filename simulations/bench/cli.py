"""``cloister bench NAME``: the one place for figures."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cloister.privacy.console import Json
from cloister.privacy.errors import UsageError
from cloister.simulations.bench.result import Result
from cloister.simulations.bench.texts import TextFile

app = typer.Typer(add_completion=False)

BENCHES = {
    "round": "what a round costs beyond training: seconds, bytes, memory",
    "step": "what privacy costs in a training step: time, operations and memory, beside plain PEFT",
    "ledger": "how long a ledger of 60 entries takes to say its epsilon",
    "utility": "how near federated training comes to pooling, with privacy and without; a quarter of an hour",
    "utility-long": "LoRA on all layers in joint mode on SST-2, beside word counts and itself pooled; hours",
    "start": "whether a head that starts from an analytic round is worth its share of the budget",
    "codec": "what few bits a parameter keep of a mean, and of whole jobs; long",
    "faults": "what a crash costs: a process is killed at every point of the protocol of one job",
    "simulation": "how fast clients are simulated, beside Flower's own simulation over Ray; memory",
    "planner": "whether the planner foretells which mode and which method does best, in ten cases; long",
    "verify": "how quickly evidence is written and checked, and whether alterations are missed",
    "identifiers": "what detectors of identifiers find and miss, and texts a second",
    "masking": "what hiding an update costs a site: seconds beside Flower's SecAgg+, memory",
}
_TAKES_TEXTS, _TAKES_SPANS = "step", "identifiers"
_TAKES_FOLDERS = ("utility", "utility-long", "start", "codec", "planner")
_KEEPS = "utility-long"
_CPU, _TAKES_DEVICE = "cpu", "step"


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="; ".join(f"{k}: {v}" for k, v in BENCHES.items()))],
    data: Annotated[
        Path | None,
        typer.Option(
            help=f"{_TAKES_TEXTS}: real texts, a CSV, JSON lines or Parquet file. "
            f"{', '.join(_TAKES_FOLDERS)}: the folder of data sets. "
            f"{_TAKES_SPANS}: test.jsonl of presidio_pii."
        ),
    ] = None,
    text: Annotated[str, typer.Option("--text", help="Column of its texts.")] = "text",
    label: Annotated[str, typer.Option("--label", help="Column of its classes.")] = "label",
    device: Annotated[str, typer.Option(help=f"{_TAKES_DEVICE}: where the model is: cpu, cuda.")] = _CPU,
    out: Annotated[
        Path | None,
        typer.Option(help=f"{_KEEPS}: a folder that keeps finished runs, so that the next call goes on."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure one thing and print its figures beside their targets.

    Exits 0 when it ran, whether or not a target is met. Example: cloister bench round
    """
    if name not in BENCHES:
        raise UsageError(
            "option_invalid", f"There is no benchmark {name}.", f"There is: {', '.join(BENCHES)}."
        )
    value = _measured(name, data, text, label, device, out).to_json()
    if as_json:
        typer.echo(json.dumps(value))
        return
    typer.echo(f"{value['bench']} on {value['machine']}")
    for figure, number in value["figures"].items():
        target = value["targets"].get(figure)
        note = f"   target {target['limit']:g}: {'met' if target['met'] else 'NOT met'}" if target else ""
        typer.echo(f"  {figure:<28}{number:>14.6g}{note}")
    for line in value.get("notes", ()):
        typer.echo(line)


def _measured(name: str, data: Path | None, text: str, label: str, device: str, out: Path | None) -> Result:
    if out is not None and name != _KEEPS:
        raise UsageError("option_invalid", f"The benchmark {name} keeps no runs.", "Leave --out out.")
    if name in _TAKES_FOLDERS and device == _CPU:
        return _on_folder(name, data, out)
    if data is not None and name not in (_TAKES_TEXTS, _TAKES_SPANS):
        raise UsageError("option_invalid", f"The benchmark {name} takes no data.", "Leave --data out.")
    texts = None if data is None else TextFile(data, text, label)
    return _run(name, texts) if device == _CPU else _run_on(device, name, texts)


def _on_folder(name: str, data: Path | None, out: Path | None) -> Result:
    from cloister.simulations.scenarios.catalogue import DATA

    folder, module = DATA if data is None else data, _module(name)
    found: Result = module.run(folder, out) if name == _KEEPS else module.run(folder)
    return found


def _module(name: str) -> Any:
    return importlib.import_module(f"cloister.simulations.bench.{name.replace('-', '_')}")


def _run(name: str, texts: TextFile | None) -> Result:
    module = _module(name)
    found: Result = module.run() if texts is None else module.run(texts)
    return found


def _run_on(device: str, name: str, texts: TextFile | None) -> Result:
    """A benchmark on a GPU: random token ids in place of texts."""
    if name != _TAKES_DEVICE or texts is not None:
        raise UsageError(
            "option_invalid", "Only the benchmark step runs on a GPU, without --data.", "Leave --device out."
        )
    from cloister.simulations.bench import step_device

    return step_device.run(device)
