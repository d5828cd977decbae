"""Runs a plan of a simulation under Flower's own engine, and brings home what came out.

    cluster = Cluster(folder, seeds, Promise("joint", 3.0, 1e-5))
    trained = cluster.run(plan, parties)

Over the sites' own ClientApps and the lead's own ServerApp; secure sums go in Flower's messages. Beside
``engine.rounds`` it exists for machines in a cluster: on one machine it only costs time.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cloister.privacy.errors import CloisterError, InputError, PlanError, RoundError
from cloister.privacy.folder import claim
from cloister.privacy.identity import PrivateIdentity
from cloister.privacy.plan import Plan
from cloister.privacy.update import Vector
from cloister.simulations.cluster.job import LOG, MODELS, OUTCOME, Job
from cloister.simulations.cluster.site import Rows
from cloister.simulations.cluster.terms import Terms
from cloister.simulations.engine.methods import Analytic
from cloister.simulations.engine.plans import Parties, Promise
from cloister.simulations.engine.rounds import Trained, Watch, unwatched

if TYPE_CHECKING:
    from cloister.simulations.engine.consortium import Consortium

_PROCESS = "cloister.simulations.cluster.process"
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def require() -> None:
    """Refuses where Flower's engine cannot run.

    Raises:
        InputError: ``extra_missing``.
    """
    if importlib.util.find_spec("ray") is None:
        raise InputError(
            "extra_missing",
            "Flower's engine needs Ray, which is not installed.",
            "Install it: pip install 'cloister[ray]', or leave out --engine flower.",
        )


@dataclass(frozen=True, eq=False)
class Cluster:
    """Where and how plans run.

    Attributes:
        folder: does not exist or is empty; all machines of a cluster must see it under the same path. Only
            ledgers and the engine's log stay.
        seeds: site name -> seed of its sampling and noise.
        promise: what the sites' ledgers allow.
        workers: actors on this machine; None for one a site, but no more than it has processors. With
            ``RAY_ADDRESS`` in the environment a cluster is joined, which has its own.
    """

    folder: Path
    seeds: Mapping[str, bytes]
    promise: Promise
    workers: int | None = None

    def run(
        self, plan: Plan, parties: Parties, watch: Watch = unwatched, analytic: Analytic | None = None
    ) -> Trained:
        """Runs a plan to its end.

        Args:
            plan: of these parties.
            parties: who takes part.
            watch: told afterwards of each round.
            analytic: of an analytic plan, the engine's own round, with whose noise and cut it is run.

        Raises:
            InputError: ``extra_missing``.
            UsageError: ``folder_in_use``.
            RoundError: ``site_failed``, ``deadline``, ``internal``; a process, an actor or a site failed.
            CloisterError: what the lead ended with.
        """
        terms = Terms(parties.roster, self.promise.epsilon, self.promise.delta)
        if analytic is not None:
            terms = replace(terms, cut=analytic.lift.cut, bound_to=analytic.digest)
        return self._run(plan, terms, parties.identities, parties.holdings, watch)

    def train(self, plan: Plan, played: Consortium, watch: Watch = unwatched) -> Trained:
        """Runs a plan on texts to its end: LoRA, or a head.

        Args:
            plan: as the consortium drafted it.
            played: who takes part; the folder of its base model is seen by all machines.
            watch: told afterwards of each round.

        Raises:
            PlanError: ``plan_conflict``, ``task_unsupported``: as in our own engine.
            InputError, RoundError, CloisterError: as ``run``.
        """
        how = plan.aggregation
        if how.bits is not None or how.codec is not None or how.down is not None or plan.canaries:
            raise PlanError(
                "plan_conflict",
                "A simulation adds up words of 32 bits and plants no canaries, and the plan has such.",
                "Leave out bits, codecs and canaries.",
            )
        if not plan.task.classifies or plan.task.table or plan.training.analytic:
            raise PlanError(
                "task_unsupported",
                "On texts only classes are simulated, by steps.",
                "Take features for an analytic round, or run the plan over real processes.",
            )
        terms = Terms(played.roster, self.promise.epsilon, self.promise.delta)
        terms = replace(terms, base=str(played.base.path.resolve()))
        return self._run(plan, terms, played.identities, played.records, watch)

    def _run(
        self,
        plan: Plan,
        terms: Terms,
        identities: Mapping[str, PrivateIdentity],
        rows: Mapping[str, Rows],
        watch: Watch,
    ) -> Trained:
        require()
        claim(self.folder)  # what is there already is nobody's to delete
        job = Job(self.folder.resolve())  # actors work in folders of their own
        try:
            job.write(plan, terms, identities, rows, self.seeds)
            with _process(job.path, self._workers(plan)) as process:
                process.wait()
            models, sums = self._outcome(process.returncode)
        finally:
            self._clear(plan)
        return _told(plan, models, sums, watch)

    def _workers(self, plan: Plan) -> int:
        return self.workers or min(len(plan.sites), os.cpu_count() or 1)

    def _outcome(self, status: int) -> tuple[list[Vector], int]:
        """The models after each round, and how many sums were opened."""
        log, path = self.folder / LOG, self.folder / OUTCOME
        if not path.exists():
            raise RoundError(
                "site_failed", f"The process of Flower's engine ended ({status}).", f"Its output is in {log}."
            )
        told: dict[str, Any] = json.loads(path.read_bytes())
        if told["error"] is not None:
            raise _error(told["error"], log)
        return list(np.load(self.folder / MODELS, allow_pickle=False)), int(told["sums"])

    def _clear(self, plan: Plan) -> None:
        """Leaves nothing of the run but its log and what the sites' ledgers hold; no rows and no keys."""
        job = Job(self.folder)
        for site in plan.sites:
            ledger = job.site(site.name).ledger
            if ledger.exists():
                ledger.replace(self.folder / f"{site.name}.sqlite")
        for path in self.folder.iterdir() if self.folder.exists() else ():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOG and path.suffix != ".sqlite":
                path.unlink()


def _told(plan: Plan, models: list[Vector], sums: int, watch: Watch) -> Trained:
    """What ``engine.rounds`` would say of the same rounds."""
    rounds, each = len(models), 4 * plan.summands(len(models))
    sums = sums or rounds  # without secure aggregation each round adds up what the lead sees
    more, opened = 4 * plan.summands(1) - each, 0  # an analytic first round is one sum of another length
    for number, model in enumerate(models, start=1):
        opened = (
            1 + (number - 1) * (sums - 1) // (rounds - 1) if plan.training.start else number * sums // rounds
        )
        watch(opened, opened * each + more, model)
    return Trained(models[-1], sums * each + more, sums)


def _error(told: Mapping[str, str], log: Path) -> CloisterError:
    """An error of the other process, as it was raised there."""
    kinds = {kind.__name__: kind for kind in CloisterError.__subclasses__()}
    return kinds[told["kind"]](told["id"], told["what"], told["do"] or f"Flower's output is in {log}.")


@contextlib.contextmanager
def _process(folder: Path, workers: int) -> Iterator[subprocess.Popen[bytes]]:
    """The process of the engine, first of a group of its own; at the end nothing of that group is left."""
    command = [sys.executable, "-m", _PROCESS, str(folder), str(workers)]
    with (folder / LOG).open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **_QUIET},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # some of Ray's own processes outlive their driver
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin:
            process.stdin.close()
