"""The units that a membership test is about: chosen so that each was as likely trained on as held out.

Which units a site holds out follows from a secret key and the unit alone (``records.hold_out``): nine of ten
are trained on, as by a coin. (Where coins hold out none, one unit is all the same; of as many units as a test
takes, that is less than once in ten million keys.) Of those a second keyed hash keeps one in nine. Among the
units that are kept, and those held out, fair and independent coins have then decided who was trained on, and
what guesses about them show is a bound, as for canaries.

Formal guarantees:
    None under differential privacy: what comes of the test is about real units. The coins are fair as far
    as HMAC-SHA-256 under the site's key is random, and as long as nobody chose the data, the plan or the
    model in the light of who is held out. Texts that stand in several rows share a side, so at record level
    they are left out.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.client.site.records import Records, plain, rows_band

Rows: TypeAlias = dict[str, list[int]]

FEWEST = 32
"""A test of fewer units shows nothing, and its figures would be about single ones."""
_CONTEXT = b"cloister membership test\0"


@dataclass(frozen=True, eq=False)
class Trial:
    """Units of which one half, more or less, was trained on.

    Attributes:
        records: their rows.
        units: whose each row is, int64, shape (rows,), numbered from 0 without gaps.
        members: which units were trained on, shape (units,).
        rest: training rows of all other units.
    """

    records: Records
    units: NDArray[np.int64]
    members: NDArray[np.bool_]
    rest: Records

    def __len__(self) -> int:
        return len(self.members)


def trial(train: Records, held: Records, *, fraction: float, key: bytes, job: str) -> Trial | None:
    """The units of a test; always the same of the same job. None if there are fewer than ``FEWEST``.

    Their number is a power of two, so that it tells no more than the public bands do.

    Args:
        train: the rows that were trained on, capped where persons are known.
        held: those held out, capped alike.
        fraction: the share held out that ``records.hold_out`` was given.
        key: the site's own secret.
        job: digest of the plan.
    """
    inside, outside = _single(train, held)
    limit = int(fraction / (1 - fraction) * 2**64)
    drawn = {unit: _draw(unit, key, job) for unit in (*inside, *outside)}
    even = [*outside, *(unit for unit in inside if drawn[unit][0] < limit)]
    if len(even) < FEWEST:
        return None
    chosen = sorted(even, key=lambda unit: drawn[unit][1])[: rows_band(len(even))[0]]
    members = np.array([unit in inside for unit in chosen], dtype=np.bool_)
    found = [train.take(inside[unit]) if unit in inside else held.take(outside[unit]) for unit in chosen]
    units = np.repeat(np.arange(len(chosen)), [len(part) for part in found]).astype(np.int64)
    taken = {row for unit in chosen for row in inside.get(unit, ())}
    rest = train.take([row for row in range(len(train)) if row not in taken])
    return Trial(_joined(found), units, members, rest)


def _single(train: Records, held: Records) -> tuple[Rows, Rows]:
    """Units by side, unit -> its rows; without those that share a coin with others."""
    inside, outside = _rows_of(train), _rows_of(held)
    both = inside.keys() & outside.keys()  # only texts that were masked alike
    if train.persons is None:
        both |= {unit for side in (inside, outside) for unit, rows in side.items() if len(rows) > 1}
    inside, outside = (
        {unit: rows for unit, rows in side.items() if unit not in both} for side in (inside, outside)
    )
    return inside, outside


def _rows_of(records: Records) -> Rows:
    found: Rows = defaultdict(list)
    for row, unit in enumerate(records.persons or map(plain, records.texts)):
        found[unit].append(row)
    return dict(found)


def _draw(unit: str, key: bytes, job: str) -> tuple[int, int]:
    """Two numbers below 2^64, random to whoever has not the key: whether a unit is kept, and its rank."""
    mac = hmac.digest(key, _CONTEXT + job.encode() + unit.encode("utf-8", "surrogatepass"), hashlib.sha256)
    return int.from_bytes(mac[:8]), int.from_bytes(mac[8:16])


def _joined(parts: Sequence[Records]) -> Records:
    paired = parts[0].seconds is not None
    return Records(
        texts=tuple(text for part in parts for text in part.texts),
        labels=tuple(label for part in parts for label in part.labels),
        seconds=tuple(text for part in parts for text in part.seconds or ()) if paired else None,
        kind=parts[0].kind,
        table=parts[0].table,
    )
