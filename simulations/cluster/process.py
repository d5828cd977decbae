"""The process of Flower's engine and of the lead of a simulated job; it starts Ray, or joins a cluster.

    python -m cloister.simulations.cluster.process FOLDER WORKERS

Writes ``models.npy``, the model after each round, and ``outcome.json``, last. Ends by itself, whatever
happens: with the process that started it, with an actor, or with a site that does not answer in time.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from cloister.privacy import durable
from cloister.privacy.descent import steps_of
from cloister.privacy.errors import CloisterError, RoundError
from cloister.privacy.update import Vector
from cloister.server.app import Federation, server_app
from cloister.server.checkpoint import Checkpoint
from cloister.server.post import Pace
from cloister.simulations.cluster.job import MODELS, OUTCOME, Job
from cloister.simulations.cluster.nodes import NamedGrid, NodeApp

_ANSWER_S = 3600.0
_PACE = Pace(answer=_ANSWER_S, absence=_ANSWER_S, resend=_ANSWER_S, join=60.0, poll=0.005, look=0.0)
_ORDERLY_S = 20.0
"""So long Flower and Ray get to end by themselves once the run has failed."""
_STORE = 256 << 20
"""Bytes of Ray's object store on this machine: no more than some updates lie there at a time."""
_TRIES = 3
NOT_STARTED = "Ray did not start."
_FAULTS = frozenset({"update.refused", "site.lost", "round.aborted", "surplus.kept"})


@dataclass
class Tally:
    """The log of the lead: counts opened sums, and ends the run at the first fault of a site.

    In a simulation nobody drops out on purpose, so what a real federation goes on from is a defect here.
    """

    sums: int = 0
    released: set[str] = field(default_factory=set)

    def append(self, type: str, *, job: str | None = None, round: int | None = None, **fields: Any) -> None:
        """See ``server.app.Log``.

        Raises:
            RoundError: ``site_failed``.
        """
        del job
        if type in _FAULTS:
            site, reason = fields.get("site", "the sum"), fields.get("reason", "")
            raise RoundError("site_failed", f"Round {round}: {site} failed in the simulation ({reason}).")
        self.sums += type == "sum.closed"
        if type == "model.released":
            self.released = set(fields["recipients"])

    note = append


@dataclass
class Play:
    """One run of a job.

    Attributes:
        job: its folder.
        tally: of the lead.
        models: after each round.
    """

    job: Job
    tally: Tally = field(default_factory=Tally)
    models: list[Vector] = field(default_factory=list)

    def app(self) -> ServerApp:
        """The real ServerApp, over nodes that have names."""
        app = ServerApp()

        @app.main()
        def main(grid: Grid, context: Context) -> None:
            try:
                self.over(grid, context)
            except CloisterError as error:
                self._fail(error)
                raise
            except Exception:
                traceback.print_exc()
                self._fail(RoundError("internal", "The lead of the simulation failed."))
                raise

        return app

    def over(self, grid: Grid, context: Context) -> None:
        """Runs the job over a grid, and writes down what came out.

        Raises:
            RoundError: ``site_failed``, ``deadline``, ``below_minimum``.
            CloisterError: what else the lead ends with.
        """
        named = NamedGrid(grid, [site.name for site in self.job.plan.sites])
        server_app(self._federation(named))(named, context)
        self._finish()

    def _federation(self, grid: NamedGrid) -> Federation:
        plan, terms = self.job.plan, self.job.terms
        return Federation(
            plan=plan,
            identity=self.job.lead,
            roster=terms.roster,
            log=self.tally,
            resume=Checkpoint(plan.digest, 0, self.job.start, {}, {}),
            save=self._save,
            present=grid.present,
            descent=steps_of(plan, terms.layout(plan)) if plan.stepped else None,
            pace=_PACE,
        )

    def _save(self, state: Checkpoint) -> None:
        if state.round > len(self.models):
            self.models.append(state.model)

    def _finish(self) -> None:
        plan = self.job.plan
        if missing := {site.name for site in plan.sites} - self.tally.released:
            raise RoundError("site_failed", f"{min(missing)} did not take the final model.")
        with (self.job.path / MODELS).open("wb") as file:
            np.save(file, np.stack(self.models))
        told = {"error": None, "sums": self.tally.sums}
        durable.write(self.job.path / OUTCOME, json.dumps(told).encode())

    def _fail(self, error: CloisterError) -> None:
        """Writes down why, and sees to it that this process ends even if an actor never does."""
        fail(self.job.path, error)
        last = threading.Timer(_ORDERLY_S, os._exit, (1,))
        last.daemon = True
        last.start()


def fail(path: Path, error: CloisterError) -> None:
    """Writes down why a run has failed; the first reason counts."""
    if not (path / OUTCOME).exists():
        told = {"kind": type(error).__name__, "id": error.id, "what": error.what, "do": error.do}
        durable.write(path / OUTCOME, json.dumps({"error": told}).encode())


def start_ray(workers: int) -> None:
    """Starts Ray on this machine, or joins the cluster that ``RAY_ADDRESS`` names; Flower finds it running.

    Raises:
        RoundError: ``internal``, it did not start.
    """
    ray = importlib.import_module("ray")
    known = [*sys.path, *filter(None, [os.environ.get("PYTHONPATH")])]
    how: dict[str, Any] = {"runtime_env": {"env_vars": {"PYTHONPATH": os.pathsep.join(known)}}}
    if not os.environ.get("RAY_ADDRESS"):  # a cluster has its own settings
        how |= {"num_cpus": workers, "object_store_memory": _STORE, "include_dashboard": False}
    for _ in range(_TRIES):
        try:
            ray.init(log_to_driver=True, **how)
        except Exception:  # noqa: BLE001  # Ray raises bare ones
            traceback.print_exc()
            ray.shutdown()
        else:
            return
    raise RoundError(
        "internal",
        NOT_STARTED,
        "Its processes wait some seconds for each other: try again when the machine is less busy, or start "
        "Ray beforehand and name it in RAY_ADDRESS.",
    )


def _leave_with_the_parent() -> None:
    """Ends this process and Ray's when the pipe from the one that started it is closed."""
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)


def main(path: Path, workers: int) -> None:
    """Is the process."""
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()
    try:
        job = Job(path)
        start_ray(workers)
        each: Any = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
        run_simulation(Play(job).app(), NodeApp(path), len(job.plan.sites), backend_config=each)
        done = (path / OUTCOME).exists()
    except CloisterError as error:
        fail(path, error)
        done = False
    except Exception as error:  # noqa: BLE001  # whatever Flower or Ray ends with: it is told
        traceback.print_exc()
        reason = type(error.__cause__ or error).__name__
        fail(path, RoundError("internal", f"Flower's engine failed: {reason}."))
        done = False
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if done else 1)  # a crashed engine leaves threads that would wait for ever


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
