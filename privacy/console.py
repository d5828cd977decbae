"""What every command says to other programs: one JSON object, with ``--json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from cloister.privacy import canonical

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def say(value: Mapping[str, Any]) -> None:
    """Prints one JSON object, canonical, on a line."""
    typer.echo(canonical.encode(dict(value)).decode())
