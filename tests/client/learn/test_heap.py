"""The allocator of a process that holds a model."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from cloister.client.learn import heap

_FREED = """
import mmap, resource, sys
from cloister.client.learn import heap
if sys.argv[1] == "settled":
    assert heap.settle()
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def block(size):
    at = libc.malloc(size)
    ctypes.memset(at, 1, size)
    return at
libc.free(block(24 << 20))  # from now on glibc keeps blocks up to this size
kept, pins = [block(16 << 20) for _ in range(8)], []
pins = [block(1000) for _ in range(100)]  # above all of them in the heap
for at in kept:
    libc.free(at)
print(int(open("/proc/self/statm").read().split()[1]) * mmap.PAGESIZE >> 20)
"""


def held(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _FREED, how], capture_output=True, text=True, check=True, timeout=60
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_freed_block_is_given_back() -> None:
    assert held("as it is") > held("settled") + 100


def test_it_may_be_asked_for_again_and_says_whether_it_was_done() -> None:
    assert [heap.settle(), heap.settle()] == [platform.libc_ver()[0] == "glibc"] * 2
