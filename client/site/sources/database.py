"""Tables and queries of SQL databases, through SQLAlchemy: read-only, streamed, in one snapshot.

Formal guarantees:
    SQLite files are opened with ``mode=ro`` and an authorizer that lets nothing pass but reads.
    PostgreSQL sessions are READ ONLY and REPEATABLE READ, and a query goes through a server-side cursor,
    which takes one statement and only a query. A function that the database's owner defined may still
    act outside the transaction: give Cloister an account that may read the table and nothing else.
    No error has words of the database or its driver in it, for those quote rows and addresses.
"""

from __future__ import annotations

import sqlite3
import string
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import (
    URL,
    Connection,
    CursorResult,
    Engine,
    column,
    create_engine,
    make_url,
    select,
    table,
    true,
)
from sqlalchemy import text as clause
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from cloister.client.site.sources import files
from cloister.client.site.sources.place import Place
from cloister.privacy.errors import InputError

_BATCH = 1000
_WAIT_S = 10
_READS = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
)


class Rows:
    """A table or query on an open connection. Databases give rows in any order."""

    ordered = False

    def __init__(self, connection: Connection, place: Place) -> None:
        self._connection, self._place = connection, place
        with self._executed(None) as result:
            self.columns: Sequence[str] = list(result.keys())

    def rows(self, names: Sequence[str]) -> Generator[Sequence[object], None, None]:
        """See ``Table``; of a table, only the named columns are asked for."""
        with self._executed(names) as result:
            there = list(result.keys())
            places = [there.index(name) for name in names]
            for part in result.partitions(_BATCH):
                yield from ([row[place] for place in places] for row in part)

    @contextmanager
    def _executed(self, names: Sequence[str] | None) -> Iterator[CursorResult[Any]]:
        """The running query, or the select of some columns of the table; of all columns no rows."""
        if self._place.query is not None:
            result = self._connection.exec_driver_sql(self._place.query.strip().rstrip(";"))
        else:
            schema, _, name = (self._place.table or "").rpartition(".")
            columns: list[Any] = [clause("*")] if names is None else [column(each) for each in names]
            statement = select(*columns).select_from(table(name, schema=schema or None))
            result = self._connection.execute(statement.where(~true()) if names is None else statement)
        try:
            if not result.returns_rows:
                raise InputError("source_invalid", f"{self._place.title} gives no rows.", "Give one SELECT.")
            yield result
        finally:
            result.close()


@contextmanager
def opened(place: Place) -> Iterator[Rows]:
    """An open table or query.

    Raises:
        InputError: ``driver_missing``, ``password_missing``, ``file_missing`` or ``source_replaced`` of a
            SQLite file, ``database_failed`` whatever the database or the way to it does.
    """
    engine = _engine(make_url(place.location), place)
    try:
        with _errors(place, engine), engine.connect() as connection:
            yield Rows(_read_only(connection), place)
    finally:
        engine.dispose()


def _engine(url: URL, place: Place) -> Engine:
    if url.get_backend_name() == "sqlite":
        path = Path(url.database or "")
        with files.regular(path):
            return create_engine(url, creator=lambda: _sqlite(path), poolclass=NullPool, hide_parameters=True)
    password = place.password()
    try:
        return create_engine(
            url if password is None else url.set(password=password),
            poolclass=NullPool,
            hide_parameters=True,
            connect_args={"connect_timeout": _WAIT_S, "tcp_user_timeout": 1000 * _WAIT_S},
        )
    except ModuleNotFoundError:
        raise InputError(
            "driver_missing",
            "The driver for PostgreSQL is not installed.",
            "Install `cloister[postgres]`.",
        ) from None


def _read_only(connection: Connection) -> Connection:
    options: dict[str, Any] = {"stream_results": True, "no_parameters": True}
    if connection.dialect.name == "postgresql":
        options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    return connection.execution_options(**options)


def _sqlite(path: Path) -> sqlite3.Connection:
    found = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=_WAIT_S)
    found.set_authorizer(_allowed)
    return found


def _allowed(action: int, name: str | None, value: str | None, _: str | None, __: str | None) -> int:
    """Reads only; of settings only that they are asked for, which SQLAlchemy does."""
    asks = action == sqlite3.SQLITE_PRAGMA and name == "read_uncommitted" and value is None
    allowed = action in _READS or asks or action == sqlite3.SQLITE_TRANSACTION
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


@contextmanager
def _errors(place: Place, engine: Engine) -> Iterator[None]:
    """Failures of the database as ``database_failed``, with the standard code of the failure alone."""
    driver = engine.dialect.loaded_dbapi
    try:
        yield
    except (SQLAlchemyError, driver.Error, driver.Warning, OSError) as error:
        raise InputError(
            "database_failed",
            f"{place.title} could not be read{_code(error)}.",
            "See that it runs and that table, query, user and password are right; its own log says more.",
        ) from None


def _code(error: BaseException) -> str:
    """The SQLSTATE or SQLite error name: from a fixed list, never words with values in them."""
    original = getattr(error, "orig", error)
    code = getattr(original, "sqlstate", None) or getattr(original, "sqlite_errorname", None)
    known = (
        isinstance(code, str)
        and len(code) < 40
        and set(code) <= {*string.ascii_uppercase, *string.digits, "_"}
    )
    return f" ({code})" if known else ""
