"""What ``deploy/`` says is what the product takes and what CI runs."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from cloister.client.cli import app as site_app
from cloister.server.cli import app as lead_app

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
APPS = {"site": site_app, "lead": lead_app}


def unit(path: Path) -> configparser.RawConfigParser:
    found = configparser.RawConfigParser(strict=False)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read(path)
    return found


def takes(words: list[str]) -> bool:
    """Whether the command line of a role has these sub-commands and options."""
    role, name, *rest = words
    command = get_command(APPS[role]).commands[name]  # type: ignore[attr-defined]
    options = {option for one in command.params for option in one.opts}
    return {word for word in rest if word.startswith("--")} <= options


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_runs_what_there_is_as_an_ordinary_user(path: Path) -> None:
    service = unit(path)["Service"]
    program, *words = shlex.split(service["ExecStart"])
    assert program == "/opt/cloister/.venv/bin/cloister"
    assert takes(words)
    assert words[0] in path.name
    assert (service["User"], service["NoNewPrivileges"], service["ProtectSystem"]) == (
        "cloister",
        "yes",
        "strict",
    )
    assert service["CapabilityBoundingSet"] == ""
    assert service["Restart"] == "on-failure"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_knows_every_key(path: Path, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd is not installed here")
    copy = tmp_path / path.name.replace("@", "@north")
    copy.write_text(path.read_text().replace("/opt/cloister/.venv/bin/cloister", "/bin/true"))
    said = subprocess.run([program, "verify", str(copy)], capture_output=True, text=True, check=False)
    assert not re.search("Unknown|Failed to parse|Invalid", said.stdout + said.stderr)


def runs() -> list[str]:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    return [line.removeprefix("RUN ") for line in lines if line.startswith("RUN ")]


def test_the_image_is_made_by_the_commands_that_ci_runs() -> None:
    ci, makefile = (ROOT / ".ci" / "run").read_text(), (ROOT / "Makefile").read_text()
    update, install, make, user = runs()
    assert update in ci
    assert re.sub(r" make$", ' "${lacking[@]}"', install) in ci
    assert make == "make .venv"
    assert re.search(r"^\.venv:", makefile, re.MULTILINE)
    assert user.startswith("useradd ")


def test_compose_runs_a_lead_and_a_site_without_privileges() -> None:
    found: Any = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert set(found["services"]) == {"lead", "site"}
    for name, service in found["services"].items():
        assert takes(service["command"])
        assert service["command"][0] == name
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert "ports" not in found["services"]["site"]
