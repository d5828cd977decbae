"""The allocator of a process that runs for long."""

from __future__ import annotations

import errno
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from cloister.privacy import heap

_BLOCKS = """
import ctypes, mmap, sys
from cloister.privacy import heap
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def block(size):
    at = libc.malloc(size)
    ctypes.memset(at, 1, size)
    return at
def show():
    print(int(open("/proc/self/statm").read().split()[1]) * mmap.PAGESIZE >> 20)
"""

_FREED = f"""{_BLOCKS}
if sys.argv[1] == "settled":
    assert heap.settle()
libc.free(block(24 << 20))  # from now on glibc keeps blocks up to this size
kept = [block(16 << 20) for _ in range(8)]
pin = block(1 << 20)  # above all of them in the heap: no hole there is as large
for at in kept:
    libc.free(at)
show()
"""

_ARENAS = """
import ctypes, sys, threading
from cloister.privacy import heap
if sys.argv[1] == "settled":
    assert heap.settle()
libc, together = ctypes.CDLL(None), threading.Barrier(8)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
def work():
    libc.malloc(1000)
    together.wait()  # eight threads are alive at once, and have taken memory
threads = [threading.Thread(target=work) for _ in range(8)]
for one in threads:
    one.start()
for one in threads:
    one.join()
libc.fopen.restype, libc.fopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p]
libc.malloc_info.argtypes, libc.fclose.argtypes = [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]
stream = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, stream)
libc.fclose(stream)
print(open(sys.argv[2]).read().count("<heap nr="))
"""


def told(program: str, *arguments: str) -> int:
    """The number that a process of its own prints."""
    ours = ("ONEDNN_", "GLIBC_", "CLOISTER_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env=environment,
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_freed_block_is_given_back() -> None:
    assert told(_FREED, "as it is") > told(_FREED, "settled") + 100


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_threads_share_one_arena(tmp_path: Path) -> None:
    assert told(_ARENAS, "as it is", str(tmp_path / "a")) > 1
    assert told(_ARENAS, "settled", str(tmp_path / "b")) == 1


def test_it_may_be_asked_for_again_and_says_whether_it_was_done() -> None:
    assert [heap.settle(), heap.settle()] == [platform.libc_ver()[0] == "glibc"] * 2


_CACHED = f"""{_BLOCKS}
class Taken(ctypes.Structure):  # struct mallinfo2
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ord sm hblk hblkhd usm fsm uord ford keep".split()]
libc.mallinfo2.restype = Taken
if sys.argv[1] == "anew":
    heap.start_anew()
    heap.start_anew()  # comes back: this is the second life
taken = [block(1000) for _ in range(7)]  # and nothing of this size is left in the cache
before = libc.mallinfo2().uord
for at in taken:
    libc.free(at)
print(before - libc.mallinfo2().uord)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the caches are glibc's")
def test_a_process_started_anew_keeps_no_freed_block_for_its_thread() -> None:
    assert told(_CACHED, "as it is") < 1000 < 7000 <= told(_CACHED, "anew")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the caches are glibc's")
@pytest.mark.parametrize(
    ("given", "tunables"),
    [
        ({}, "glibc.malloc.tcache_count=0"),
        ({"GLIBC_TUNABLES": "glibc.malloc.check=1"}, "glibc.malloc.check=1:glibc.malloc.tcache_count=0"),
        ({"GLIBC_TUNABLES": "glibc.malloc.tcache_count=3"}, None),
        ({"CLOISTER_STARTED_ANEW": "1"}, None),  # a process whose tunables the system took away
    ],
)
def test_it_starts_anew_once_and_with_what_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], tunables: str | None
) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []

    def start(path: str, command: list[str], environment: dict[str, str]) -> None:
        started.append((command, environment))
        assert path == command[0]
        raise OSError(errno.EPERM, "a system that forbids it")

    monkeypatch.setattr(os, "environ", {"PATH": "/bin", **given})
    monkeypatch.setattr(os, "execve", start)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "cloister.privacy.cli", "site", "up"])
    heap.start_anew()
    if tunables is None:
        assert started == []
        return
    ((command, environment),) = started
    assert command == [sys.executable, "-m", "cloister.privacy.cli", "site", "up"]
    assert environment == {"PATH": "/bin", "GLIBC_TUNABLES": tunables, "CLOISTER_STARTED_ANEW": "1"}


_HOLES = f"""{_BLOCKS}
assert heap.settle()
kept = [block(64 << 10) for _ in range(1000)]
stays = [(block(64 << 10), block(100)) for _ in range(100)]  # above all of them in the heap
for at in kept[::2]:
    libc.free(at)
if sys.argv[1] == "trimmed":
    assert heap.trim() and not heap.trim()  # the second time is too soon
show()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim is glibc's")
def test_holes_are_given_back() -> None:
    assert told(_HOLES, "as it is") > told(_HOLES, "trimmed") + 20


_CYCLES = """
import gc, sys, weakref
from cloister.privacy import heap
class Old:
    pass
stays = [[number] for number in range(600_000)]
gc.collect()
if sys.argv[1] == "frozen":
    heap.freeze()
cycle = Old()
cycle.itself, seen = cycle, weakref.ref(cycle)
gc.collect(1)
gc.collect(1)  # it has become old
del cycle
news = [[number] for number in range(90_000)]  # less than a quarter of what stays
print(int(seen() is None))
"""


def test_garbage_in_cycles_does_not_wait_for_what_stays() -> None:
    assert [told(_CYCLES, how) for how in ("as it is", "frozen")] == [0, 1]


_WAITING = """
import sys, weakref
from cloister.privacy import heap
class Old:
    pass
if sys.argv[1] == "frozen":
    heap.freeze()
cycle = Old()
cycle.itself, seen = cycle, weakref.ref(cycle)
del cycle
heap.trim()
print(int(seen() is None))
"""


def test_garbage_in_cycles_does_not_wait_for_much_that_is_new_either() -> None:
    assert [told(_WAITING, how) for how in ("as it is", "frozen")] == [0, 1]


_SHAPES = """
import ctypes, sys
from cloister.privacy import heap
if sys.argv[1] == "settled":
    assert heap.settle()
import torch
class Taken(ctypes.Structure):  # struct mallinfo2
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ord sm hblk hblkhd usm fsm uord ford keep".split()]
mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Taken
def pass_by(shapes):
    for rows in shapes:
        torch.nn.functional.gelu(torch.ones(rows, 8, requires_grad=True)).sum().backward()
pass_by(range(1, 100))
before = mallinfo2().uord
pass_by(range(100, 400))
print((mallinfo2().uord - before) >> 10)
"""


@pytest.mark.job
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallinfo2 is glibc's")
def test_kernels_of_shapes_that_do_not_come_again_are_not_kept() -> None:
    assert told(_SHAPES, "settled") < 100 < 1000 < told(_SHAPES, "as it is")
