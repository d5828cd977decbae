"""The command ``cloister``: a table of sub-commands, each in a module that is imported only when chosen.

What the table names and this installation does not hold is not listed. A module gives a Typer app or a
Click command. An error of ours becomes one line and its exit code, never a traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import NamedTuple

from cloister.privacy import heap
from cloister.privacy.errors import CloisterError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

_WRONG_USE = 2

_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""What libraries read when they are imported: nothing is looked for outside this machine."""


class Command(NamedTuple):
    """Where a sub-command is, as ``module:name``, and one line on what it is for."""

    place: str
    purpose: str

    @property
    def module(self) -> str:
        """The module that holds it."""
        return self.place.partition(":")[0]

    @property
    def name(self) -> str:
        """Its name there."""
        return self.place.partition(":")[2]


COMMANDS = {
    "demo": Command(
        "cloister.simulations.cli:app", "A whole federation on this machine, over real processes."
    ),
    "lead": Command("cloister.server.cli:app", "For the lead of a consortium."),
    "site": Command("cloister.client.cli:app", "For a site that takes part."),
    "authority": Command(
        "cloister.privacy.cli_authority:app", "For somebody who vouches for the keys of members."
    ),
    "simulate": Command(
        "cloister.simulations.scenarios.cli:app", "Research in one process, before asking anybody."
    ),
    "report": Command("cloister.server.cli_report:report", "The evidence of a job, for people."),
    "verify": Command(
        "cloister.privacy.evidence.cli:verify", "Checks evidence without trusting who made it."
    ),
    "predict": Command("cloister.client.use.cli:predict", "Uses a released model."),
    "serve": Command("cloister.client.use.cli:serve", "Serves a released model on this machine."),
    "export": Command("cloister.client.use.cli:export", "Writes a released model in another format."),
    "explain": Command("cloister.client.use.cli:explain", "Shows why a model answers as it does."),
    "bench": Command("cloister.simulations.bench.cli:app", "Measures; --json for programs."),
}


def installed(command: Command) -> bool:
    """Whether this installation holds the module of a sub-command; it is not imported."""
    parts = command.module.split(".")
    # A parent that is missing, too, would make find_spec raise.
    return all(find_spec(".".join(parts[: end + 1])) is not None for end in range(len(parts)))


def usage() -> str:
    """The text of ``cloister --help``."""
    lines = [f"  {name:<10}{command.purpose}" for name, command in COMMANDS.items() if installed(command)]
    return "\n".join(
        [
            "Usage: cloister COMMAND [OPTIONS]",
            "",
            "Train one model together; keep every record at home.",
            "",
            "Commands:",
            *lines,
            "",
            "`cloister COMMAND --help` says more. `cloister --version` names the release.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Returns:
        The exit code: 0 done, 1 it failed and said why, 2 wrong use, 130 interrupted; others are the
        command's own.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen, rest = (given[0], given[1:]) if given else ("", [])
    if chosen in ("--help", "-h", ""):
        print(usage(), file=sys.stdout if chosen else sys.stderr)
        return 0 if chosen else _WRONG_USE
    if chosen == "--version":
        print(f"cloister {_version()}")
        return 0
    command = COMMANDS.get(chosen)
    if command is None or not installed(command):
        print(f"There is no command {chosen!r}. Try `cloister --help`.", file=sys.stderr)
        return _WRONG_USE
    if arguments is None and rest[:1] == ["up"]:  # a process of its own that runs for long
        heap.start_anew()
    _close_hub()
    heap.settle()
    try:
        return _run(command, chosen, rest)
    except CloisterError as error:
        print(error.line(), file=sys.stderr)
        return error.EXIT
    except KeyboardInterrupt:
        return INTERRUPTED


def _version() -> str:
    """The release that is installed, whole or as the verifier alone (``packaging/verify``)."""
    try:
        return metadata.version("cloister")
    except metadata.PackageNotFoundError:
        return metadata.version("cloister-verify")


def _close_hub() -> None:
    from cloister.privacy.model import HUB, NAMED  # numpy comes with it, which --help can do without

    if "HF_HUB_OFFLINE" not in os.environ:
        os.environ[HUB] = NAMED
    for name, value in _OFFLINE.items():
        os.environ.setdefault(name, value)


def _run(command: Command, name: str, arguments: Sequence[str]) -> int:
    from click import Abort, ClickException

    app = getattr(import_module(command.module), command.name)
    try:
        code = app(args=list(arguments), prog_name=f"cloister {name}", standalone_mode=False)
    except ClickException as error:
        error.show()
        return error.exit_code
    except Abort:  # Ctrl-C, or the end of the input at a question
        return INTERRUPTED
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
