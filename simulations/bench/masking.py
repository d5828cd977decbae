"""``cloister bench masking``: what hiding one update from the server costs a site.

A vector of 25 million words is masked for 64 peers on one core, by ``privacy.secagg.masking`` and by the
generator and addition of Flower's own SecAgg+ (``flwr.common.secure_aggregation``: Mersenne twister and
64-bit integers, as its client calls them, without its quantisation, its keys and its final reduction).
Both do the whole work, in turns, each after a few masks that are not timed; the bare cipher runs beside
them. All seconds are CPU seconds, so other processes on the machine hardly count. The memory is that of a
process of its own, by the kernel's account.

=========================  ==============================================================================
figure                     meaning
=========================  ==============================================================================
cpu_ratio_flower           Flower's seconds over ours; median of repeats
aes_fraction               our words per second over those of the bare cipher, AES-256-CTR, at the
                           fastest of three block sizes; median of repeats
working_memory_mib         the peak while masking less what was resident before, vector included
mask_cpu_s                 our seconds
flower_cpu_s               Flower's seconds
aes_gb_s                   gigabytes a second of the bare cipher
=========================  ==============================================================================
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_addition, parameters_subtraction
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from numpy.typing import NDArray

from cloister.privacy.errors import RoundError
from cloister.privacy.secagg import masking
from cloister.privacy.secagg.masking import Mask
from cloister.simulations.bench import kernel
from cloister.simulations.bench.result import Limit, Result, spread

MIB = 1 << 20
_REPEATS = 5
# Flower's side goes through fresh memory. Where a virtual machine asks its host for each page that is touched
# for the first time, that may take longer than the work: a figure of the host, not of Flower.
_WARMING = 3
_CIPHER_BLOCKS = (64 << 10, 256 << 10, 1 << 20)
_CIPHER_BYTES = 1 << 30
_LIMITS = {
    "cpu_ratio_flower": Limit(8.0, at_least=True),
    "aes_fraction": Limit(0.6, at_least=True),
    "working_memory_mib": Limit(2.0),
}


@dataclass(frozen=True)
class Work:
    """A vector's length, and for how many peers it is masked."""

    parameters: int = 25_000_000
    peers: int = 64

    @property
    def masks(self) -> list[Mask]:
        """One a peer, the signs in turns."""
        names = (f"cloister bench masking {peer}".encode() for peer in range(self.peers))
        return [Mask(hashlib.sha256(name).digest(), 1 - 2 * (peer % 2)) for peer, name in enumerate(names)]

    @property
    def keystream_bytes(self) -> int:
        """Of all masks together."""
        return 4 * self.parameters * self.peers


@dataclass(frozen=True)
class Timing:
    """One repeat.

    Attributes:
        ours, flower: CPU seconds for the whole work.
        cipher_rate: bytes that the bare cipher makes in one CPU second.
    """

    ours: float
    flower: float
    cipher_rate: float


def run() -> Result:
    """Measures everything, in a minute and a half.

    Raises:
        RoundError: ``site_failed``, the process whose memory is measured failed.
    """
    work = Work()
    growth = memory(work)
    return result(work, [timing(work) for _ in range(_REPEATS)], growth)


def result(work: Work, timings: Sequence[Timing], growth: int) -> Result:
    """The figures of what was measured; ``growth`` in bytes."""
    size = work.keystream_bytes
    figures = {
        **spread("cpu_ratio_flower", (one.flower / one.ours for one in timings)),
        **spread("aes_fraction", (size / one.ours / one.cipher_rate for one in timings)),
        "working_memory_mib": growth / MIB,
        **spread("mask_cpu_s", (one.ours for one in timings)),
        **spread("flower_cpu_s", (one.flower for one in timings)),
        **spread("aes_gb_s", (one.cipher_rate / 1e9 for one in timings)),
    }
    return Result("masking", figures, _LIMITS)


# Time


def timing(work: Work) -> Timing:
    """One repeat of all three."""
    masks, vector = work.masks, clear(work)
    wide = [vector.astype(np.int64)]
    masking.apply(vector, masks[:_WARMING])
    ours = spent(partial(masking.apply, vector, masks))
    by_flower(wide, masks[:_WARMING])
    theirs = spent(partial(by_flower, wide, masks))
    size = min(_CIPHER_BYTES, work.keystream_bytes)
    rates = [size / spent(partial(cipher, size, block)) for block in _CIPHER_BLOCKS]
    return Timing(ours, theirs, max(rates))


def spent(task: Callable[[], object]) -> float:
    """CPU seconds of this process for a task."""
    started = time.process_time()
    task()
    return time.process_time() - started


def clear(work: Work) -> NDArray[np.uint32]:
    """A vector that lies in memory, as an encoded update does."""
    return np.ones(work.parameters, dtype="<u4")


def by_flower(vector: list[NDArray[np.int64]], masks: Sequence[Mask]) -> list[NDArray[np.int64]]:
    """The vector with the masks of Flower's SecAgg+ for the same keys, as its client adds them."""
    for mask in masks:
        pad = pseudo_rand_gen(mask.key, 1 << 32, [part.shape for part in vector])
        combine = parameters_addition if mask.sign > 0 else parameters_subtraction
        vector = combine(vector, pad)
    return vector


def cipher(size: int, block: int) -> None:
    """``size`` bytes of AES-256-CTR keystream, up to a last block, into one buffer over and over."""
    zeros, into = bytes(block), bytearray(block)
    context = Cipher(algorithms.AES(bytes(32)), modes.CTR(bytes(16))).encryptor()
    for _ in range(size // block):
        context.update_into(zeros, into)


# Memory


def memory(work: Work) -> int:
    """Bytes by which a fresh process grows while it masks a vector.

    Raises:
        RoundError: ``site_failed``, it did not come to its end.
    """
    command = [sys.executable, "-m", "cloister.simulations.bench.masking", str(work.parameters)]
    done = subprocess.run([*command, str(work.peers)], check=False, capture_output=True, text=True)
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise RoundError("site_failed", f"The measured process failed: {words[-1] if words else 'no word'}")
    return int(json.loads(done.stdout.splitlines()[-1]))


def growth(work: Work) -> int:
    """The same of this process; its peak so far must not be above what it holds with the vector."""
    vector, masks = clear(work), work.masks
    before = kernel.resident()
    masking.apply(vector, masks)
    return kernel.peak() - before


def main(arguments: list[str]) -> None:
    """Is the process whose memory is measured; prints one number."""
    parameters, peers = arguments
    print(json.dumps(growth(Work(int(parameters), int(peers)))))


if __name__ == "__main__":
    main(sys.argv[1:])
