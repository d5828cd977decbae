"""What somebody sees who records a network interface and reads other processes' memory; and how to find
an update in it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

WINDOW = 32
"""Bytes of an update that are looked for as they are: eight of its numbers."""

_EVERYTHING = 3  # ETH_P_ALL
_LARGEST = 1 << 17
_IP, _TCP = 14, 20
_SIEVE, _START = 22, 8


@dataclass
class Recording:
    """The payload of every packet of an interface."""

    data: bytearray = field(default_factory=bytearray)


@contextmanager
def recording(interface: str = "lo") -> Iterator[Recording]:
    """Records while the context is open.

    Raises:
        PermissionError: this process may not listen.
    """
    found, over = Recording(), threading.Event()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERYTHING)) as tap:
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 << 20)
        tap.bind((interface, 0))
        tap.settimeout(0.2)

        def listen() -> None:
            while not over.is_set():
                try:
                    packet = tap.recv(_LARGEST)
                except TimeoutError:
                    continue
                header = _IP + 4 * (packet[_IP] & 15)
                found.data += packet[header + _TCP :]

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield found
        finally:
            over.set()
            thread.join()


def memory(pid: int) -> Iterator[bytes]:
    """The writable memory of a process, region by region.

    Raises:
        PermissionError: this process may not read it.
    """
    with (Path("/proc") / str(pid) / "mem").open("rb", buffering=0) as file:
        for line in (Path("/proc") / str(pid) / "maps").read_text().splitlines():
            span, rights, *_ = line.split()
            if not rights.startswith("rw"):
                continue
            start, end = (int(number, 16) for number in span.split("-"))
            try:
                file.seek(start)
                yield file.read(end - start)
            except OSError:
                continue  # the region is gone, or of a device


def windows(update: bytes) -> set[bytes]:
    """Pieces of an update that would give it away: those of zeros and small numbers are everywhere."""
    pieces = (update[at : at + WINDOW] for at in range(0, len(update) - WINDOW, WINDOW))
    return {piece for piece in pieces if len(set(piece)) > WINDOW // 4 and len(set(piece[:_START])) > 4}


def verbatim(seen: Iterable[bytes], updates: Iterable[bytes]) -> int:
    """How many pieces of updates stand in what was seen, at any place."""
    wanted = set().union(*(windows(update) for update in updates))
    starts = np.array([int.from_bytes(piece[:_START], "little") for piece in wanted], dtype=np.uint64)
    sieve = np.zeros(1 << _SIEVE, dtype=np.bool_)
    sieve[_hashed(starts)] = True
    found: set[bytes] = set()
    for data in seen:
        for shift in range(_START):
            words = np.frombuffer(data, "<u8", max(0, len(data) - shift) // _START, shift)
            likely = np.flatnonzero(sieve[_hashed(words)])
            for at in likely[np.isin(words[likely], starts)]:
                place = shift + _START * int(at)
                found |= {bytes(data[place : place + WINDOW])} & wanted
    return len(found)


def _hashed(words: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Multiplicative hashing: a first look that is quick where there is much to look through."""
    return (words * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - _SIEVE)


def strongest(seen: bytes | bytearray, update: bytes) -> float:
    """The strongest correlation of an update with any stretch of what was seen, at any byte, as a z-score.

    Of n places where it is not, the strongest is about sqrt(2 ln n): 6 for ten million.
    """
    pattern = np.frombuffer(update, "<i4").astype(np.float64)
    pattern = (pattern - pattern.mean()) / (pattern.std() or 1.0)
    return max(_strongest(np.frombuffer(seen, "<i4", (len(seen) - s) // 4, s), pattern) for s in range(4))


def _strongest(words: np.ndarray[Any, np.dtype[np.int32]], pattern: Floats) -> float:
    size, values = len(pattern), words.astype(np.float64)
    if len(values) < size:
        return 0.0
    length = 1 << (len(values) + size - 1).bit_length()
    spectrum = np.fft.rfft(values, length) * np.conj(np.fft.rfft(pattern, length))
    products = np.fft.irfft(spectrum, length)[: len(values) - size + 1]
    sums = np.concatenate([[0.0], np.cumsum(values)])
    squares = np.concatenate([[0.0], np.cumsum(values**2)])
    mean = (sums[size:] - sums[:-size]) / size
    spread = np.sqrt(np.maximum((squares[size:] - squares[:-size]) / size - mean**2, 1.0))
    return float(np.abs(products / (spread * np.sqrt(size))).max())
