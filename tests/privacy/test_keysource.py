"""Where keys come from, and every way in which they do not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cloister.privacy import keysource
from cloister.privacy.errors import CloisterError, StateError, UsageError
from cloister.privacy.keysource import KeySource
from tests.waiting import eventually

SECRET = "correct horse battery staple"


def refused(error_id: str) -> Any:
    return pytest.raises(CloisterError, check=lambda error: error.id == error_id)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    return tmp_path / "site"


def passphrase(path: Path, text: str = SECRET + "\n", mode: int = 0o600) -> KeySource:
    path.write_text(text)
    path.chmod(mode)
    return KeySource.parse(f"passphrase-file:{path}")


def program(path: Path, text: str) -> KeySource:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return KeySource.parse(f"command:{path}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "passphrase-file",
        "passphrase-file:",
        "credential:",
        "credential:..",
        "credential:a/b",
        "credential:a b",
        "command:",
        "command: ",
        "command:echo 'open",
        "shell:echo",
        "/etc/passwd",
    ],
)
def test_what_is_no_source_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        KeySource.parse(text)
    assert caught.value.id == "option_invalid"


@pytest.mark.parametrize("text", ["passphrase-file:/media/key", "credential:cloister.key", "command:a 'b c'"])
def test_a_source_is_written_as_it_was_read(text: str) -> None:
    assert str(KeySource.parse(text)) == text


def test_a_relative_path_counts_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert KeySource.parse("passphrase-file:pass").value == str(tmp_path / "pass")
    with refused("option_invalid"):
        KeySource("passphrase-file", "pass")


# A passphrase file


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_passphrase_is_read_without_the_end_of_its_line(root: Path, tmp_path: Path, end: str) -> None:
    assert passphrase(tmp_path / "pass", SECRET + end).secret(root) == SECRET.encode()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_passphrase_that_others_can_read_is_refused(root: Path, tmp_path: Path, mode: int) -> None:
    with refused("permissions"):
        passphrase(tmp_path / "pass", mode=mode).secret(root)


def test_a_passphrase_beside_the_state_is_refused(root: Path, tmp_path: Path) -> None:
    (root / "deep").mkdir()
    with refused("state_sealed"):
        passphrase(root / "deep" / "pass").secret(root)
    (tmp_path / "link").symlink_to(root / "deep" / "pass")
    with refused("state_sealed"):
        KeySource.parse(f"passphrase-file:{tmp_path / 'link'}").secret(root)
    (tmp_path / "other").symlink_to(root)
    with refused("state_sealed"):
        KeySource.parse(f"passphrase-file:{root / 'deep' / 'pass'}").secret(tmp_path / "other")


def test_a_missing_passphrase_says_so(root: Path, tmp_path: Path) -> None:
    with refused("state_sealed"):
        KeySource.parse(f"passphrase-file:{tmp_path / 'none'}").secret(root)


@pytest.mark.parametrize("text", ["", "\n", "short", "x" * 15 + "\n"])
def test_a_passphrase_that_is_too_short_is_refused(root: Path, tmp_path: Path, text: str) -> None:
    with refused("state_sealed"):
        passphrase(tmp_path / "pass", text).secret(root)


# A credential of systemd


def test_a_credential_of_systemd_is_read(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cloister").write_text(SECRET)
    (tmp_path / "cloister").chmod(0o440)  # as systemd leaves it for a unit with a user of its own
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert KeySource.parse("credential:cloister").secret(root) == SECRET.encode()
    with refused("state_sealed"):
        KeySource.parse("credential:other").secret(root)


@pytest.mark.parametrize("place", [None, ""])
def test_without_systemd_there_is_no_credential(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str | None
) -> None:
    (tmp_path / "cloister").write_text(SECRET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    if place is not None:
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", place)
    with refused("state_sealed"):
        KeySource.parse("credential:cloister").secret(root)


# A command


def test_a_command_is_run_without_a_shell(root: Path, tmp_path: Path) -> None:
    shown = program(tmp_path / "show", 'printf "%s|" "$#" "$@"')
    line = f"{shown.value} 'two words' $HOME ; id"
    assert KeySource.parse(f"command:{line}").secret(root) == b"4|two words|$HOME|;|id|"


def test_a_command_gets_no_input(root: Path, tmp_path: Path) -> None:
    assert program(tmp_path / "read", f"cat; echo '{SECRET}'").secret(root) == SECRET.encode()


@pytest.mark.parametrize("text", [f"echo '{SECRET}'; exit 3", "kill -9 $$", "true", "echo short"])
def test_a_command_that_gives_nothing_is_refused(root: Path, tmp_path: Path, text: str) -> None:
    with refused("state_sealed"):
        program(tmp_path / "fails", text).secret(root)


def test_a_command_that_is_not_there_is_refused(root: Path, tmp_path: Path) -> None:
    with refused("state_sealed"):
        KeySource.parse(f"command:{tmp_path / 'none'}").secret(root)


def test_a_command_that_hangs_is_ended(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keysource, "_WAIT_S", 0.3)
    hangs = program(tmp_path / "hangs", f"echo $$ > {tmp_path / 'pid'}; echo '{SECRET}'; exec sleep 60")
    communicate, begun = subprocess.Popen.communicate, tmp_path / "pid"

    def patient(process: Any, *given: Any, **how: Any) -> Any:
        """Its time begins when it has begun, which may take a while on a busy machine."""
        assert eventually(lambda: begun.exists() and begun.read_text().endswith("\n"))
        return communicate(process, *given, **how)

    monkeypatch.setattr(subprocess.Popen, "communicate", patient)
    with refused("state_sealed"):
        hangs.secret(root)  # which has said its secret, and would give it after a minute
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize("end", ["exit 1", "sleep 60"])
def test_what_a_command_says_is_never_shown(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    end: str,
) -> None:
    monkeypatch.setattr(keysource, "_WAIT_S", 0.3)
    loud = program(tmp_path / "loud", f"echo '{SECRET}'; echo '{SECRET}' >&2; {end}")
    with pytest.raises(StateError) as caught:
        loud.secret(root)
    told = "".join(capfd.readouterr()) + caught.value.line() + repr(caught.value.__cause__)
    context = caught.value.__context__
    assert SECRET not in told
    assert context is None or caught.value.__suppress_context__
