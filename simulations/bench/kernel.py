"""What the kernel says of this process.

Not ``getrusage``: its peak resident memory starts with that of the process that started this one.
"""

from __future__ import annotations

from pathlib import Path


def resident() -> int:
    """Bytes resident now."""
    return _size("VmRSS")


def peak() -> int:
    """The most bytes that were ever resident."""
    return _size("VmHWM")


def _size(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise KeyError(name)
