"""How this process gives memory back: the C library's allocator, told once.

A forward pass allocates and frees blocks of many sizes. glibc raises the size from which it maps a block
apart with each block that is freed, up to 32 MiB, and then keeps freed blocks in a heap that falls to
pieces. With the threshold fixed, every large block is mapped apart and returned when it is freed
(docs/benchmarks.md says what that is worth).
"""

from __future__ import annotations

import ctypes

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _ARENA_MAX = -3, -1, -8  # malloc.h
_LARGE = 1 << 20


def settle() -> bool:
    """Fixes the thresholds of glibc's allocator for this process; again has no effect.

    Returns:
        Whether it was done: another C library has no such call, and needs none.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # All three must be asked for, whatever the first answers.
    done = [mallopt(_MMAP_THRESHOLD, _LARGE), mallopt(_TRIM_THRESHOLD, _LARGE), mallopt(_ARENA_MAX, 2)]
    return all(done)
