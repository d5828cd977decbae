"""Where the key of a locked folder comes from: a passphrase file, a systemd credential or a command.

A folder says in clear where its key is; the key itself is never in it. What a source gives may be a
passphrase or random bytes: scrypt makes a key of it either way (``privacy.keyring``).
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from cloister.privacy import folder
from cloister.privacy.errors import StateError, UsageError

SHORTEST = 16
_WAIT_S = 30.0
_CREDENTIAL = re.compile(r"[A-Za-z0-9_.-]{1,255}")
_FORMS = "Use passphrase-file:PATH, credential:NAME or command:CMD."


@dataclass(frozen=True)
class KeySource:
    """One source, as it is written: ``KIND:VALUE``.

    Attributes:
        kind: ``passphrase-file``, ``credential`` or ``command``.
        value: an absolute path; the name of a credential; a command line, which no shell reads.
    """

    KINDS: ClassVar[tuple[str, ...]] = ("passphrase-file", "credential", "command")

    kind: str
    value: str

    def __post_init__(self) -> None:
        if self.kind not in self.KINDS or not _valid(self.kind, self.value):
            raise UsageError(
                "option_invalid", f"{str(self).removesuffix(':')!r} is no source of a key.", _FORMS
            )

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The source that a person wrote; a relative path counts from here.

        Raises:
            UsageError: ``option_invalid``.
        """
        kind, _, value = text.partition(":")
        if kind == "passphrase-file" and value:
            value = str(Path(value).expanduser().absolute())
        return cls(kind, value)

    def secret(self, root: Path) -> bytes:
        """What the source gives, without the line's end.

        Args:
            root: the folder that it opens, in which it must not lie.

        Raises:
            StateError: ``state_sealed``, there is nothing or too little; ``permissions``, others can read it.
        """
        read: dict[str, Callable[[], bytes]] = {
            "passphrase-file": lambda: _of_file(Path(self.value), root),
            "credential": lambda: _of_credential(self.value),
            "command": lambda: _of_command(self.value),
        }
        secret = read[self.kind]().rstrip(b"\r\n")
        if len(secret) < SHORTEST:
            raise _closed(f"{self} gives fewer than {SHORTEST} bytes.", "Use a longer passphrase.")
        return secret


def _valid(kind: str, value: str) -> bool:
    if kind == "credential":
        return _CREDENTIAL.fullmatch(value) is not None and value not in (".", "..")
    if kind == "passphrase-file":
        return Path(value).is_absolute() and "\0" not in value
    return bool(_words(value)) and "\0" not in value


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # a quotation that does not end
        return []


def _closed(what: str, do: str) -> StateError:
    return StateError("state_sealed", what, do)


def _of_file(path: Path, root: Path) -> bytes:
    if path.resolve().is_relative_to(root.resolve()):
        raise _closed(f"{path} lies in the folder that it opens.", "Keep it on another disk.")
    try:
        return folder.read(path)
    except StateError as error:
        if error.id != "state_missing":
            raise
        raise _closed(f"The passphrase file {path} cannot be read.", "Mount or restore it.") from error


def _of_credential(name: str) -> bytes:
    """A credential that systemd holds for this unit. Its mode is systemd's business: it may be an ACL's."""
    place = os.environ.get("CREDENTIALS_DIRECTORY", "")
    try:
        if place:
            return (Path(place) / name).read_bytes()
    except OSError as error:
        raise _without(name) from error
    raise _without(name)


def _without(name: str) -> StateError:
    return _closed(
        f"systemd gave no credential {name}.",
        f"Set LoadCredentialEncrypted={name} in the unit that runs this.",
    )


def _of_command(line: str) -> bytes:
    """What a command prints. Neither that nor what it says of errors is ever shown: both may hold the key."""
    words = _words(line)
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_WAIT_S,
            check=False,
        )
    except OSError as error:
        raise _closed(f"{words[0]} cannot be run.", "Run the command by hand to see why.") from error
    except subprocess.TimeoutExpired:
        # Not the cause: it holds what the command had printed.
        raise _closed(
            f"{words[0]} gave no key in {_WAIT_S:g} s.", "Run the command by hand to see why."
        ) from None
    if done.returncode:
        raise _closed(f"{words[0]} failed (exit {done.returncode}).", "Run the command by hand to see why.")
    return done.stdout
