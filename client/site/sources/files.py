"""Regular files, opened once and held: nobody can put another file in their place while they are read."""

from __future__ import annotations

import gzip
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from cloister.privacy.errors import InputError


@contextmanager
def regular(path: Path) -> Iterator[BinaryIO]:
    """A regular file that is not empty, for reading.

    Args:
        path: absolute and, when it was chosen, without links.

    Raises:
        InputError: ``file_missing``, ``source_replaced`` (a link now stands on the way), ``site_empty``.
    """
    check_place(path)
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _missing(path) from error
    found = os.fstat(number)
    if not stat.S_ISREG(found.st_mode):
        os.close(number)
        raise _missing(path)
    with os.fdopen(number, "rb") as file:
        if not found.st_size:
            raise InputError("site_empty", f"{path} is empty.", "Name a file that has rows.")
        yield file


def check_place(path: Path) -> None:
    """Refuses a path on which a link stands, raising ``InputError`` ``source_replaced``."""
    if os.path.realpath(path) != str(path):
        raise InputError(
            "source_replaced",
            f"A link now stands at {path} or on the way to it.",
            "Put the file back, or register the place that the link leads to.",
        )


@contextmanager
def text(path: Path) -> Iterator[io.TextIOWrapper]:
    """The text of a UTF-8 file, unpacked if its name ends in ``.gz``; a byte order mark is no part of it."""
    with regular(path) as file:
        packed = gzip.GzipFile(fileobj=file, mode="rb") if path.suffix.lower() == ".gz" else file
        with io.TextIOWrapper(cast(BinaryIO, packed), encoding="utf-8-sig", newline="") as found:
            yield found


def _missing(path: Path) -> InputError:
    return InputError(
        "file_missing", f"{path} does not exist or cannot be read.", "Give the path of a readable file."
    )
