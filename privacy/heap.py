"""How this process gives memory back: what the C library's allocator and Python's collector are told.

A forward pass allocates and frees blocks of many sizes. glibc raises the size from which it maps a block
apart with each block that is freed, up to 32 MiB, and then keeps freed blocks in a heap that falls to
pieces. With the threshold fixed, every large block is mapped apart and returned when it is freed.

glibc also gives threads arenas of their own, up to eight for each core, and what is freed in one does not
serve another. A lead or an agent has some twenty threads that each serve a few messages a round; over a long
job every arena grows to the most that it ever held. With one arena, what one thread frees the next one takes.
Large tensors are mapped apart and Python has an allocator of its own above this one, so that threads seldom
meet here.

Before the arena, glibc keeps up to seven freed blocks of each of 64 sizes for each thread. They count as
taken: blocks beside them do not join, and their pages are not given back. Some twenty threads take and free
all over the heap, so that it falls to pieces, more with every round. That was most of what a site grew by. No
call turns these caches off, only the environment that a process starts with; so what runs for long starts
itself again in one.

Python looks for garbage in cycles among old objects only when a quarter as many have been added to them
since. Modules and a model are some half a million objects, so that what a training step leaves in cycles,
graphs of tensors among it, would lie there for hundreds of rounds. What is there when a job begins is
therefore taken out of the count. Nor is that enough: old objects are looked at each time that 70,000 more
containers were made than went, and a round makes few that stay. In a site that was once in some two hundred
rounds, while every HTTP call leaves its request and its response in a cycle. So it is done by the clock, too.

oneDNN, with which PyTorch works out activations on a processor, keeps the last 1,024 kernels that it has
made, one for each shape; with Poisson samples nearly every step has shapes of its own, and a site would grow
for hundreds of rounds. It is told to keep fewer; those of the layers of one step find room.

Smaller blocks of many sizes still leave holes behind. At the same time whole pages in them are given back
(docs/benchmarks.md says what all this is worth).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
import time

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _ARENA_MAX = -3, -1, -8  # malloc.h
_LARGE = 1 << 20
_KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32"}
"""What oneDNN reads when it is first used."""
_TRIM_EVERY_S = 5.0
"""A look for whole free pages takes some milliseconds in a process that holds a model."""
_CACHES, _STARTED = "glibc.malloc.tcache_count", "CLOISTER_STARTED_ANEW"
_LIBC = ctypes.CDLL(None)
_trimmed, _frozen = -_TRIM_EVERY_S, False


def start_anew() -> None:
    """Starts this process once more, without glibc's caches of each thread; it keeps its number.

    To be called first of all by what runs for long, before there are threads, locks or output. Does not come
    back the first time. Where the environment says how large the caches are, where the allocator is another,
    or where the system does not let the process start again, it goes on as it is.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    # A process with more rights than who started it loses its tunables; without a mark it would never end.
    if _STARTED in os.environ or _CACHES in tunables or not hasattr(_LIBC, "mallopt"):
        return
    told = {"GLIBC_TUNABLES": ":".join(filter(None, (tunables, f"{_CACHES}=0"))), _STARTED: "1"}
    with contextlib.suppress(OSError):
        command = [sys.executable, *sys.orig_argv[1:]]
        os.execve(command[0], command, {**os.environ, **told})  # noqa: S606  # what runs already, no shell


def settle() -> bool:
    """Fixes the thresholds of the allocator, its one arena, and how many kernels are kept, in this process.

    To be called before there are threads and before a model runs; again has no effect.

    Returns:
        Whether the allocator was told: only glibc has such a call.
    """
    for name, value in _KERNELS.items():
        os.environ.setdefault(name, value)
    mallopt = getattr(_LIBC, "mallopt", None)
    if mallopt is None:
        return False
    # All three must be asked for, whatever the first answers.
    done = [mallopt(_MMAP_THRESHOLD, _LARGE), mallopt(_TRIM_THRESHOLD, _LARGE), mallopt(_ARENA_MAX, 1)]
    return all(done)


def freeze() -> None:
    """Collects garbage, and lets later collections pass over what is left and come early.

    To be called whenever something has been loaded that stays: what was passed over before is looked at once
    more.
    """
    global _frozen
    _frozen = True
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.collect()  # sets the count that the next full collection waits for to what is not frozen: nothing


def trim() -> bool:
    """Collects garbage and gives whole free pages back to the system, every five seconds at most.

    To be called where something large has just ended, as a step of training. Without ``freeze`` before,
    garbage is left to Python: to look at all objects of a process that holds a model takes too long.

    Returns:
        Whether there was anything to give back.
    """
    global _trimmed
    now = time.monotonic()
    if now - _trimmed < _TRIM_EVERY_S:
        return False
    _trimmed = now
    if _frozen:
        gc.collect()
    given_back = getattr(_LIBC, "malloc_trim", None)
    return given_back is not None and bool(given_back(0))
