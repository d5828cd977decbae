from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from types import ModuleType
from typing import Any

import pytest
import typer

from cloister.privacy import cli
from cloister.privacy.errors import StateError, UsageError


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A table with one sub-command, whose behaviour a test sets, and two that are not installed."""
    module = ModuleType("odd")
    monkeypatch.setitem(sys.modules, "odd", module)
    monkeypatch.setattr(cli, "installed", lambda command: command.module == "odd")
    table = {
        "odd": cli.Command("odd:app", "Odd."),
        "gone": cli.Command("cloister.gone:app", "Gone."),
    }
    monkeypatch.setattr(cli, "COMMANDS", table)
    return module


def behaving(action: Any) -> typer.Typer:
    app = typer.Typer()
    app.command()(action)
    return app


def raising(error: BaseException) -> Any:
    def action() -> None:
        raise error

    return action


def test_help_lists_what_is_installed(odd: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert "odd       Odd." in out
    assert "Gone." not in out


def test_no_command_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Usage: cloister COMMAND")


@pytest.mark.parametrize("name", ["gone", "none", "--verbose"])
def test_what_is_not_there_is_wrong_use(
    odd: ModuleType, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([name]) == 2
    assert capsys.readouterr().err == f"There is no command {name!r}. Try `cloister --help`.\n"


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"cloister {metadata.version('cloister')}\n"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            StateError("disk_full", "The disk is full.", "Make room."),
            1,
            "The disk is full. Make room. [disk_full]\n",
        ),
        (UsageError("option_invalid", "No such split."), 2, "No such split. [option_invalid]\n"),
        (KeyboardInterrupt(), 130, ""),
        (typer.Exit(11), 11, ""),
    ],
)
def test_an_error_is_one_line_and_its_code(
    odd: Any, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    odd.app = behaving(raising(error))
    assert cli.main(["odd"]) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err.lstrip("\n")) == ("", line)


def test_what_is_unforeseen_is_not_hidden(odd: Any) -> None:
    odd.app = behaving(raising(RuntimeError("a bug")))
    with pytest.raises(RuntimeError):
        cli.main(["odd"])


def test_wrong_options_are_wrong_use(odd: Any, capsys: pytest.CaptureFixture[str]) -> None:
    odd.app = behaving(lambda: None)
    assert cli.main(["odd", "--nothing"]) == 2
    assert "--nothing" in capsys.readouterr().err


def test_arguments_reach_the_command(odd: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def action(word: str, times: int = 1) -> None:
        typer.echo(word * times)

    odd.app = behaving(action)
    assert cli.main(["odd", "ho", "--times", "2"]) == 0
    assert capsys.readouterr().out == "hoho\n"


@pytest.mark.parametrize(
    ("line", "arguments", "anew"),
    [
        (["cloister", "odd", "up"], None, 1),
        (["cloister", "odd", "down"], None, 0),
        (["pytest"], ["odd", "up"], 0),  # not a process of its own
    ],
)
def test_what_runs_for_long_starts_anew(
    odd: Any, monkeypatch: pytest.MonkeyPatch, line: list[str], arguments: list[str] | None, anew: int
) -> None:
    started: list[None] = []
    odd.app = behaving(lambda word: None)
    monkeypatch.setattr(sys, "argv", line)
    monkeypatch.setattr(cli.heap, "start_anew", lambda: started.append(None))
    assert cli.main(arguments) == 0
    assert len(started) == anew


def test_the_real_table_finds_the_real_modules() -> None:
    assert cli.installed(cli.COMMANDS["lead"])
    assert cli.installed(cli.COMMANDS["site"])
    assert not cli.installed(cli.Command("cloister.nowhere.cli:app", ""))


@pytest.mark.slow
def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from cloister.privacy.cli import main; main(['--help']);"
        "print({'torch', 'numpy', 'grpc', 'flwr', 'typer', 'pydantic', 'cryptography'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
