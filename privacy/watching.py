"""The options with which a running agent or lead is watched (``journal``, ``metrics``), for both sides."""

from __future__ import annotations

from typing import Annotated

import typer

Metrics = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT", help="Show figures to Prometheus there; a port alone is on this machine only."
    ),
]
TensorBoardTo = Annotated[
    str,
    typer.Option(
        "--tensorboard",
        metavar="FOLDER",
        help="Write figures over rounds for TensorBoard (cloister[trackers]).",
    ),
]
MLflowTo = Annotated[
    str,
    typer.Option("--mlflow", metavar="FOLDER", help="The same for MLflow, as files; nothing is sent."),
]
JsonLines = Annotated[
    bool,
    typer.Option("--json", help="Say everything, and every event of the log, as one JSON object a line."),
]
