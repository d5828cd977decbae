"""A PostgreSQL server of our own, thrown away at the end; run by an ordinary user, for it refuses root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PASSWORD = "correct horse battery staple"
_ADMIN = "owner"


def binaries() -> Path | None:
    """The folder of the newest server programs (Debian's ``postgresql``), if there are any."""
    found = shutil.which("initdb")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    return Path(found).parent if found else next(iter(reversed(folders)), None)


@dataclass(frozen=True)
class Postgres:
    """A running server.

    Attributes:
        folder: where its data and its socket are.
        programs: where ``pg_ctl`` is.
    """

    folder: Path
    programs: Path

    @property
    def url(self) -> str:
        """The URL of its database, without a password."""
        return f"postgresql+psycopg://{_ADMIN}@/postgres?host={self.folder}"

    def run(self, *statements: str) -> None:
        """Executes statements as the owner of the server."""
        import psycopg

        with psycopg.connect(
            host=self.folder, user=_ADMIN, dbname="postgres", password=PASSWORD
        ) as connection:
            for statement in statements:
                connection.execute(statement)

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """What a query gives."""
        import psycopg

        with psycopg.connect(
            host=self.folder, user=_ADMIN, dbname="postgres", password=PASSWORD
        ) as connection:
            return connection.execute(query).fetchall()

    def control(self, *words: str) -> None:
        """Starts or stops it."""
        _as_user(self.programs / "pg_ctl", "-D", str(self.folder / "data"), "-w", *words)

    def start(self) -> None:
        """Starts it, on a socket in its folder alone."""
        options = f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c fsync=off"
        self.control("-l", str(self.folder / "log"), "-o", options, "start")


@contextmanager
def running() -> Iterator[Postgres]:
    """A server that exists in this block; skips the test where the programs or the driver are absent."""
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    pytest.importorskip("psycopg", reason="the driver is not installed (pip install 'cloister[postgres]')")
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "password").write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (folder, folder / "password"):
                os.chown(path, *_user())
        server = Postgres(folder, programs)
        _as_user(
            programs / "initdb",
            *("-D", str(folder / "data"), "-U", _ADMIN, "--auth=scram-sha-256", "-E", "UTF8", "--locale=C"),
            *(f"--pwfile={folder / 'password'}", "--no-sync"),
        )
        server.start()
        try:
            yield server
        finally:
            server.control("-m", "immediate", "stop")


def _user() -> tuple[int, int]:
    """The ordinary user that stands in for root."""
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return found.pw_uid, found.pw_gid
    pytest.skip("there is no ordinary user to run PostgreSQL as")


def _as_user(program: Path, *arguments: str) -> None:
    user, group = _user() if os.geteuid() == 0 else (None, None)
    done = subprocess.run(
        [str(program), *arguments],
        user=user,
        group=group,
        extra_groups=[] if user is not None else None,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # a pipe would stay open in the server and never end
        stderr=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{program.name} failed: {done.returncode}"
