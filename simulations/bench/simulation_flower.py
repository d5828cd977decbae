"""Flower's simulation over Ray, for ``cloister bench simulation``: one process, which starts Ray's own.

    python -m cloister.simulations.bench.simulation_flower KIND FOLDER

One actor with one thread trains, as in our process; Flower's server and Ray's own processes have the rest
of the machine. Writes ``KIND.npy``, the model at the end.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from cloister.privacy.update import Vector
from cloister.simulations.bench.simulation_app import app
from cloister.simulations.bench.simulation_work import Pace, Work


class Noting(FedAvg):
    """Federated averaging that notes the clock at the start of each round, and at the end of the last."""

    def __init__(self) -> None:
        super().__init__(fraction_train=1.0, fraction_evaluate=0.0)
        self.marks: list[tuple[float, float]] = []

    def mark(self) -> None:
        """Notes now."""
        self.marks.append((time.perf_counter(), _cpu()))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """See ``FedAvg``."""
        self.mark()
        return super().configure_train(server_round, arrays, config, grid)


def _cpu() -> float:
    """CPU seconds of this process and all below it."""
    own = psutil.Process()
    total = 0.0
    for process in (own, *own.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _state(vector: Vector, work: Work) -> OrderedDict[str, Any]:
    import torch

    order = work.layout(work.base)
    values = torch.from_numpy(vector)
    return OrderedDict((name, values[part].view(shape).clone()) for name, shape, part in order.slices())


def measure(kind: str, folder: Path) -> Pace:
    """Runs one kind of clients."""
    work, strategy, since = Work.load(folder), Noting(), psutil.Process().create_time()
    start = _state(work.start(work.layout(work.base)), work)
    ready: list[float] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, _context: Context) -> None:
        while len(list(grid.get_node_ids())) < work.clients:
            time.sleep(0.05)
        ready.append(time.time() - since)
        found = strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(start),
            num_rounds=work.rounds + 1,
            train_config=ConfigRecord({"kind": kind, "folder": str(folder)}),
        )
        strategy.mark()
        state = found.arrays.to_torch_state_dict()
        end = [state[name].reshape(-1).numpy() for name in sorted(state)]
        np.save(folder / f"{kind}.npy", np.concatenate(end))

    ray = {"num_cpus": 1, "include_dashboard": False}
    backend: Any = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": ray}
    run_simulation(server, app, work.clients, backend_config=backend)
    return Pace.of(ready[0], strategy.marks)


def main(kind: str, folder: Path) -> None:
    """Is the process that is measured; prints one JSON object.

    Where Flower's simulation crashes, its server waits on in a thread of its own: the process is ended.
    """
    try:
        pace = measure(kind, folder)
    except Exception:  # noqa: BLE001  # whatever it was: it is told, and nothing is measured
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    print(json.dumps(vars(pace)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
