"""A dataset's fingerprint: whether it is still the data that was registered, and nothing else.

Each row is reduced to the HMAC-SHA-256 of its cells, each with its length before it; the fingerprint is the
HMAC-SHA-256 of the columns' names and the rows' values in ascending order, under the same key.

Formal guarantees:
    Equal for the same rows in any order. Any other cell, one row more or less, a row that occurs more or
    less often, or another column makes another one, but for a collision of SHA-256. Without the key nobody
    can test a guess at the data (HMAC as a pseudorandom function; RFC 2104). What was not read, such as
    other columns of the file, is not covered.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping

from cloister.client.site.records import Records
from cloister.privacy import canonical

_ROW, _TABLE = b"cloister dataset row\0", b"cloister dataset\0"


def fingerprint(records: Records, names: Mapping[str, str], key: bytes) -> str:
    """The fingerprint of rows as they were read, before any is left out or replaced.

    Args:
        records: all rows.
        names: what each column is called in its source.
        key: the site's secret, which never leaves.

    Returns:
        ``sha256:`` and 64 hexadecimal digits.
    """
    used = (records.texts, records.labels, records.persons, records.sites, records.seconds)
    columns = [column for column in used if column is not None]
    rows = sorted(_row(cells, key) for cells in zip(*columns, strict=True))
    mac = hmac.new(key, _TABLE, hashlib.sha256)
    for part in (canonical.encode(dict(names)), *rows):
        mac.update(len(part).to_bytes(8) + part)
    return f"sha256:{mac.hexdigest()}"


def _row(cells: tuple[str, ...], key: bytes) -> bytes:
    return hmac.digest(key, _ROW + b"".join(_sized(cells)), hashlib.sha256)


def _sized(cells: tuple[str, ...]) -> Iterator[bytes]:
    for cell in cells:
        data = cell.encode()
        yield len(data).to_bytes(8) + data
