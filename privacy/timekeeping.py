"""What the kernel says of this machine's clock, and how long a time is, in a few words.

``state`` asks with adjtimex(2), which changes nothing and needs no right. It tells whether a program or a
pulse keeps the clock in step (``STA_UNSYNC``), and how wrong the clock may be at most by the account of
whatever does (``maxerror``). It does not tell whose time that is, nor whether it is right. A system without
that call, or one that refuses it, is ``unknown``.
"""

from __future__ import annotations

import ctypes
import sys
import time
from dataclasses import dataclass
from functools import cache
from typing import Any

_UNSYNCHRONISED, _PULSE = 0x0040, 0x0100
"""``STA_UNSYNC`` and ``STA_PPSSIGNAL`` of <linux/timex.h>."""

_BANDS_US = {"10ms": 10_000, "100ms": 100_000, "1s": 1_000_000, "10s": 10_000_000}
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


@dataclass(frozen=True)
class ClockState:
    """A machine's clock, in words that an event may hold.

    Attributes:
        state: ``synchronised``, ``not-synchronised`` or ``unknown``.
        source: what keeps it in step: a ``pulse``, a ``service``, ``none``, or ``unknown``.
        error: how wrong it may be at most: up to ``10ms``, ``100ms``, ``1s``, ``10s``, ``more``, ``unknown``.
    """

    state: str
    source: str
    error: str

    def fields(self) -> dict[str, Any]:
        """The fields of an event."""
        return dict(vars(self))


UNKNOWN = ClockState("unknown", "unknown", "unknown")


class _Timex(ctypes.Structure):
    """``struct timex`` as far as its status; what the call fills in behind that is room."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("room", ctypes.c_char * 256),
    )


@cache
def _libc() -> ctypes.CDLL:
    """Looked up once: each look leaves a class in a cycle."""
    return ctypes.CDLL(None, use_errno=True)


def state() -> ClockState:
    """The clock of this machine now."""
    if sys.platform != "linux":
        return UNKNOWN
    asked = _Timex()
    try:
        said = _libc().adjtimex(ctypes.byref(asked))
    except (OSError, AttributeError):
        return UNKNOWN
    return UNKNOWN if said < 0 else told(asked.status, asked.maxerror)


def told(status: int, most_us: int) -> ClockState:
    """What status bits and largest error, in microseconds, amount to."""
    if status & _UNSYNCHRONISED:
        return ClockState("not-synchronised", "none", "unknown")
    error = next((name for name, most in _BANDS_US.items() if 0 <= most_us <= most), "more")
    return ClockState("synchronised", "pulse" if status & _PULSE else "service", error)


def steady() -> float:
    """Seconds since the machine was started, asleep or not: nobody sets this clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def span(seconds: float) -> str:
    """``seconds`` (under a minute), ``minutes`` (under an hour), ``hours`` (under a day) or ``days``."""
    if abs(seconds) < _MINUTE:
        return "seconds"
    if abs(seconds) < _HOUR:
        return "minutes"
    return "hours" if abs(seconds) < _DAY else "days"
