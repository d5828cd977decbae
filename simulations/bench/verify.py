"""``cloister bench verify``: how quickly evidence is written and checked, and whether alterations are missed.

A staged job of 10 sites and 50 rounds (``staged``): real keys, logs, ledgers and proofs, no training.
``verify_s`` is one whole check of the bundle as read from the disk, in a process of its own as a user runs
it: start of Python, imports and second accountant included. ``alterations`` are flips of one bit, each in
a file drawn at random; the table of semantic alterations is a test.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from cloister.privacy.evidence.bundle import Bundle
from cloister.privacy.evidence.checks import signatures
from cloister.privacy.evidence.checks.case import Opening
from cloister.privacy.evidence.checks.findings import Result
from cloister.privacy.evidence.checks.run import verify
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.identity import PrivateIdentity
from cloister.simulations.bench.result import Limit
from cloister.simulations.bench.result import Result as Figures
from cloister.simulations.bench.staged import staged

_SITES, _ROUNDS = 10, 50
_FLIPS = 300
_APPENDED = 300


def run(sites: int = _SITES, rounds: int = _ROUNDS) -> Figures:
    """Stages a job, makes its bundle, checks it, alters it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = staged(folder / "job", sites, rounds)
        made = job.contents()
        started = time.perf_counter()
        bundle = made.bundle(job.lead, *job.sites.values())
        bundle_s = time.perf_counter() - started
        bundle.write(folder / "bundle")
        seconds = _verified(folder / "bundle")
        started = time.perf_counter()
        verdict = verify(bundle, job.trust)
        warm = time.perf_counter() - started
        if verdict.result is not Result.VERIFIED:
            raise RuntimeError(verdict.findings[0].line())
        missed = _missed(bundle)
        figures = {
            "verify_s": seconds,
            "verify_warm_s": warm,
            "bundle_s": bundle_s,
            "events": float(verdict.events),
            "events_per_s": verdict.events / warm,
            "events_written_per_s": _written(folder / "log"),
            "bundle_bytes": float(sum(map(len, bundle.files.values()))),
            "alterations": float(_FLIPS),
            "alterations_missed": float(missed),
        }
    limits = {"verify_s": Limit(5.0), "alterations_missed": Limit(0.0)}
    return Figures("verify", figures, limits)


def _verified(folder: Path) -> float:
    """Seconds of the command that a user types."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "cloister.privacy.cli", "verify", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ))
    return time.perf_counter() - started


def _missed(bundle: Bundle) -> int:
    """How many of the flips of one bit nothing found."""
    case = Opening(bundle).case()
    if case is None:
        return _FLIPS
    draw, missed = random.Random(0), 0  # noqa: S311  # places to flip, no secrets
    names = sorted(bundle.files)
    for _ in range(_FLIPS):
        name = draw.choice(names)
        flipped = bytearray(bundle.files[name])
        place = draw.randrange(8 * len(flipped))
        flipped[place // 8] ^= 1 << place % 8
        other = Bundle({**bundle.files, name: bytes(flipped)})
        if name == "MANIFEST.json":
            missed += verify(other).result is Result.VERIFIED
        else:
            missed += not any(signatures.files(replace(case, bundle=other)))
    return missed


def _written(folder: Path) -> float:
    """Events a second, each synced to the disk before the next."""
    log = EventLog.open(folder, PrivateIdentity.generate("writer", "site"))
    started = time.perf_counter()
    for _ in range(_APPENDED):
        log.append("log.heartbeat")
    return _APPENDED / (time.perf_counter() - started)
