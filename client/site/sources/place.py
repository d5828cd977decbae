"""Where a table is: a file, a folder, or a table or query of a database. Never with its password."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import model_validator

from cloister.privacy.errors import InputError, UsageError
from cloister.privacy.frozen import Part

if TYPE_CHECKING:
    from sqlalchemy import URL

_DRIVERS = {"sqlite": "sqlite", "sqlite+pysqlite": "sqlite"} | dict.fromkeys(
    ("postgresql", "postgresql+psycopg"), "postgresql+psycopg"
)
_SECRETS = ("password", "passwd", "sslpassword", "sslkeypassword", "oauth_client_secret")
_LONGEST_PASSWORD = 4096


class Place(Part):
    """Where a table is and how it is reached; what a registration keeps.

    Attributes:
        location: an absolute path without links, or a database URL without a password.
        table: of a database, as ``name`` or ``schema.name``.
        query: of a database, one SELECT; instead of a table.
        password_env: the environment variable that holds the database password.
        password_file: the file whose first line is the database password.
    """

    location: str
    table: str | None = None
    query: str | None = None
    password_env: str | None = None
    password_file: str | None = None

    @property
    def database(self) -> bool:
        """Whether it is in a database."""
        return "://" in self.location

    @property
    def title(self) -> str:
        """What errors and lists call it: no host, user or query of a database."""
        if not self.database:
            return self.location
        kind = self.location.partition(":")[0].partition("+")[0]
        return f"The query to the {kind} database" if self.table is None else f"The {kind} table {self.table}"

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.database != ((self.table is None) != (self.query is None)):
            raise ValueError("a database has either a table or a query, a file neither")
        if self.password_env is not None and self.password_file is not None:
            raise ValueError("a password comes from one place")
        return self

    @classmethod
    def of(
        cls,
        location: str | Path,
        *,
        table: str | None = None,
        query: str | None = None,
        password_env: str | None = None,
        password_file: Path | None = None,
    ) -> Place:
        """The place that a person named.

        Raises:
            UsageError: ``option_invalid``, options that do not go together.
            InputError: ``source_invalid``, a URL that cannot be used; ``password_exposed``, a URL with a
                password in it. Neither quotes the URL.
        """
        found = str(location)
        _check_options("://" in found, table, query, password_env, password_file)
        if "://" not in found:
            return cls(location=os.path.realpath(found))
        return cls(
            location=_url(found),
            table=table,
            query=query,
            password_env=password_env,
            password_file=None if password_file is None else str(password_file.absolute()),
        )

    def password(self) -> str | None:
        """The database password; None where libpq itself finds one (``PGPASSFILE``) or none is needed.

        Raises:
            InputError: ``password_missing``; never with the password or a part of it.
        """
        if self.password_env is not None:
            value = os.environ.get(self.password_env)
            if not value:
                raise InputError(
                    "password_missing",
                    f"The environment variable {self.password_env} holds no password.",
                    "Set it for this command and for the agent.",
                )
            return value
        return None if self.password_file is None else _first_line(Path(self.password_file))


def _check_options(
    database: bool, table: str | None, query: str | None, env: str | None, file: Path | None
) -> None:
    if not database and any(option is not None for option in (table, query, env, file)):
        raise UsageError(
            "option_invalid",
            "--table, --query, --password-env and --password-file are for database URLs.",
            "Leave them out for a file or folder.",
        )
    if database and (table is None) == (query is None):
        raise UsageError(
            "option_invalid", "A database needs a table or a query.", "Give --table or --query, and not both."
        )
    if env is not None and file is not None:
        raise UsageError(
            "option_invalid",
            "There are two places for the password.",
            "Give --password-env or --password-file.",
        )


def _url(text: str) -> str:
    """The URL in the form that is kept: known driver, no password, absolute path of a SQLite file."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise InputError("source_invalid", "The database URL cannot be read.", _URLS) from None
    if url.password is not None or any(name.lower() in _SECRETS for name in url.query):
        raise InputError(
            "password_exposed",
            "The database URL holds a password.",
            "Leave it out and give --password-env or --password-file, or set PGPASSFILE.",
        )
    if url.drivername not in _DRIVERS:
        raise InputError("source_invalid", "The URL is of a database that is not read here.", _URLS)
    url = url.set(drivername=_DRIVERS[url.drivername])
    return (_sqlite(url) if url.drivername == "sqlite" else url).render_as_string(hide_password=False)


def _sqlite(url: URL) -> URL:
    if not url.database or url.database == ":memory:" or url.database.startswith("file:") or url.query:
        raise InputError("source_invalid", "The SQLite URL names no file.", _URLS)
    return url.set(database=os.path.realpath(url.database))


def _first_line(path: Path) -> str:
    do = "Give a file that only its owner may read, with the password as its first line."
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise InputError("password_missing", f"{path} can be read by others.", do)
            line = file.readline(_LONGEST_PASSWORD).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        raise InputError("password_missing", f"{path} cannot be read.", do) from None
    if not line:
        raise InputError("password_missing", f"{path} holds no password.", do)
    return line


_URLS = "Give sqlite:///PATH or postgresql+psycopg://USER@HOST/DATABASE."
