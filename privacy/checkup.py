"""Checks of the state of a folder and of this machine that a site and a lead have in common.

Each gives a ``Finding``: one sentence, and what to do where something is not as it should be. Nothing is
repaired, and nothing is written but a probe file that is removed again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509

from cloister.privacy import durable
from cloister.privacy.errors import CloisterError, LogError
from cloister.privacy.evidence.chain import verify_log
from cloister.privacy.identity import PublicIdentity

Standing = Literal["ok", "warning", "failed"]

MIB = 1 << 20
LEAST_DISK, AMPLE_DISK = 64 * MIB, 1024 * MIB
LEAST_MEMORY, AMPLE_MEMORY = 256 * MIB, 1024 * MIB
FEW_INODES = 1000
SOON = timedelta(days=14)


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: its name.
        standing: ``ok``, ``warning`` (it works, but not for long or not well) or ``failed``.
        what: one sentence.
        do: what to do; empty where all is well.
    """

    check: str
    standing: Standing
    what: str
    do: str = ""

    def line(self) -> str:
        """The line a person sees."""
        return f"{self.standing:<8} {self.check}: {self.what}{' ' + self.do if self.do else ''}"


def examine(check: str, look: Callable[[], Finding]) -> Finding:
    """What ``look`` finds; an error of ours is a finding as well."""
    try:
        return look()
    except CloisterError as error:
        return Finding(check, "failed", f"{error.what} [{error.id}]", error.do)


def permissions(folder: Path, owner: int, secrets: Iterable[str] = ()) -> Finding:
    """Whether everything in a folder belongs to ``owner`` (a user id) and nobody else can read it.

    Args:
        folder: the folder.
        owner: whose it should be.
        secrets: patterns of secret files, beside those that end in ``.key``.
    """
    foreign, readable = 0, 0
    secret = {path for pattern in secrets for path in folder.glob(pattern)}
    for path in (folder, *folder.rglob("*")):
        try:
            found = path.lstat()
        except FileNotFoundError:  # replaced at this moment by whoever works in the folder
            continue
        foreign += found.st_uid != owner
        # A private folder closes what is in it; its own mode and that of secret files are what matters.
        close = path == folder or path.suffix == ".key" or path in secret
        readable += close and bool(found.st_mode & 0o077)
    if readable:
        what = f"others can read {folder} or {readable} of its secret files."
        return Finding("permissions", "failed", what, f"chmod -R go= {folder}")
    if foreign:
        what = f"{foreign} files in {folder} belong to another user."
        return Finding("permissions", "failed", what, f"chown -R them to user {owner}, who runs Cloister.")
    return Finding("permissions", "ok", f"only user {owner} can read {folder}.")


def disk(folder: Path) -> Finding:
    """Whether there is room for files, in bytes and in inodes."""
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    what = f"{free // MIB} MiB are free for {folder}."
    if free < LEAST_DISK:
        return Finding("disk", "failed", what, "Make room: nothing can be recorded without it.")
    if found.f_files and found.f_favail < FEW_INODES:
        return Finding(
            "disk", "failed", f"only {found.f_favail} more files fit there.", "Remove small files."
        )
    if free < AMPLE_DISK:
        return Finding("disk", "warning", what, "Make room before the next job.")
    return Finding("disk", "ok", what)


def writing(folder: Path) -> Finding:
    """Whether a file can be written, synced to the disk and removed.

    Raises:
        StateError: ``disk_full`` or ``state_unwritable``.
    """
    probe = folder / "doctor.probe"
    try:
        durable.write(probe, b"\0" * 4096)
    finally:
        probe.unlink(missing_ok=True)
    return Finding("writing", "ok", "a file was written, synced and removed.")


def memory(available: int) -> Finding:
    """Whether so many bytes of memory are enough to load a small model."""
    what = f"{available // MIB} MiB of memory are available."
    if available < LEAST_MEMORY:
        return Finding("memory", "failed", what, "End other programs, or use a larger machine.")
    if available < AMPLE_MEMORY:
        return Finding("memory", "warning", what, "A model may not fit beside what runs now.")
    return Finding("memory", "ok", what)


def certificate(name: str, pem: bytes, now: datetime, renewal: str) -> Finding:
    """Whether a certificate is valid at a time and for a while longer."""
    check = f"certificate {name}"
    try:
        found = x509.load_pem_x509_certificate(pem)
    except ValueError:
        return Finding(check, "failed", "it cannot be read.", renewal)
    end = found.not_valid_after_utc
    if now > end:
        return Finding(check, "failed", f"it ended on {end:%Y-%m-%d}.", renewal)
    if now < found.not_valid_before_utc:
        what = f"it begins on {found.not_valid_before_utc:%Y-%m-%d}, after this machine's clock."
        return Finding(check, "failed", what, "Set the clock.")
    return Finding(
        check,
        "warning" if end - now < SOON else "ok",
        f"it is valid until {end:%Y-%m-%d}.",
        renewal if end - now < SOON else "",
    )


def log(folder: Path, public: PublicIdentity) -> Finding:
    """Whether the chain, the tree and the signed head of an event log hold.

    Raises:
        LogError: they do not, or the log cannot be read. Without a head there is a warning only.
    """
    try:
        verified = verify_log(folder, public)
    except LogError as error:
        if error.id != "head_missing":
            raise
        what = "no head was signed yet, so it was not verified."
        return Finding("event log", "warning", what, "`cloister site log` signs one and verifies.")
    return Finding("event log", "ok", f"{verified.size} events; chain, tree and signed head hold.")


def failed(findings: Iterable[Finding]) -> bool:
    """Whether any check failed."""
    return any(finding.standing == "failed" for finding in findings)
