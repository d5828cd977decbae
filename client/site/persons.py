"""Whom rows are about, when the unit of privacy is the person.

The ids of a site's own column are put into one form and replaced by a keyed hash as soon as they are
read; the hash tells who is who within this dataset and nothing else. How many rows of one person count
is bounded here, by a choice that looks at no other person.
"""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np

from cloister.client.site.records import Missing, Records
from cloister.privacy.errors import InputError

MOST_ROWS = 8
"""Rows of one person that count, unless said otherwise."""
_ID, _ROW = b"cloister person id\0", b"cloister person row\0"


@dataclass(frozen=True)
class PersonColumn:
    """How a site says whom its rows are about.

    Attributes:
        name: the column of ids.
        most_rows: rows of one person that count at most, K >= 1.
        missing: ``refuse`` a file with rows without an id, or ``drop`` those rows.
    """

    name: str
    most_rows: int = MOST_ROWS
    missing: Missing = "refuse"


def normalised(value: str) -> str:
    """An id in one form: Unicode NFKC, without regard to case and outer space; "" where there is none.

    NFKC stands on both sides of the folding because folding alone can leave text that is not NFKC
    (Unicode 15, section 3.13, D146), and then one person could have two forms.
    """
    folded = unicodedata.normalize("NFKC", value).casefold()
    return unicodedata.normalize("NFKC", folded).strip()


def digest(value: str, key: bytes) -> str:
    """The keyed hash of an id (HMAC-SHA-256 of its normal form): 64 hex digits."""
    return hmac.new(key, _ID + normalised(value).encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def named(records: Records, missing: Missing) -> Records:
    """The records that say whom they are about.

    Args:
        records: as they were read, with the ids of the file as persons.
        missing: what becomes of rows without an id.

    Raises:
        InputError: ``person_missing``, some row has no id and ``missing`` is ``refuse``; ``site_empty``,
            no row has one.
    """
    if records.persons is None:
        raise ValueError("records without persons have no ids to hash")
    rows = [row for row, person in enumerate(records.persons) if normalised(person)]
    if not rows:
        raise InputError("site_empty", "No row says whom it is about.", "Name another column of person ids.")
    if len(rows) < len(records) and missing == "refuse":
        raise InputError(
            "person_missing",
            "Some rows do not say whom they are about.",
            "Fill in the ids, or leave those rows out with --missing-persons drop.",
        )
    return records.take(rows)


def keyed(records: Records, key: bytes, missing: Missing) -> Records:
    """The named records, with keyed hashes in place of their persons' ids.

    Args:
        records: as they were read, with the ids of the file as persons.
        key: the site's own secret; two sites with different keys cannot be joined by these hashes.
        missing: what becomes of rows without an id.

    Raises:
        InputError: as ``named``.
    """
    found = named(records, missing)
    return replace(found, persons=tuple(digest(person, key) for person in found.persons or ()))


def capped(records: Records, most_rows: int, key: bytes) -> Records:
    """At most ``most_rows`` rows of each person, in file order.

    The rows with the smallest keyed hashes of texts and label are kept; equal rows count each.

    Formal guarantees:
        Which rows of a person are kept is a function of that person's rows and the key alone. So adding
        or removing one person, however many rows the person has, adds or removes at most ``most_rows``
        rows of this result and changes no other row: the neighbour relation of the person unit.

    Args:
        records: with persons.
        most_rows: K >= 1.
        key: the site's own secret.
    """
    if records.persons is None or most_rows < 1:
        raise ValueError("rows are bounded for known persons, to at least 1")
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, person in enumerate(records.persons):
        rows_of[person].append(row)
    kept = [
        row
        for rows in rows_of.values()
        for row in sorted(rows, key=lambda row: _order(records, row, key))[:most_rows]
    ]
    return records.take(sorted(kept))


def numbers(records: Records) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Whose row each is: int64, shape (rows,), units numbered from 0 without gaps.

    A unit is a person where the records have persons, else each row is one.
    """
    if records.persons is None:
        return np.arange(len(records), dtype=np.int64)
    places = {person: place for place, person in enumerate(dict.fromkeys(records.persons))}
    return np.array([places[person] for person in records.persons], dtype=np.int64)


def _order(records: Records, row: int, key: bytes) -> bytes:
    """The rank of a row among its person's: a keyed hash of the person, the texts and the label."""
    mac = hmac.new(key, _ROW, hashlib.sha256)
    second = () if records.seconds is None else (records.seconds[row],)
    for part in ((records.persons or ())[row], records.texts[row], records.labels[row], *second):
        data = part.encode("utf-8", "surrogatepass")
        mac.update(len(data).to_bytes(8, "big") + data)
    return mac.digest()
