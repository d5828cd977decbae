"""What an aggregator's memory grows by while it folds large updates that arrive one by one.

    python -m cloister.simulations.bench.fold FOLDER PARAMETERS SITES

seals updates with real keys, one at a time, for a fresh process of this module that holds the lead's keys
only. That process runs the server's own code on each: open, check, fold. It reads the peak from the
kernel (``VmHWM``), so nothing between two samples is missed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cloister.privacy import canonical
from cloister.privacy.errors import RoundError
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.identity import PrivateIdentity, Roster
from cloister.privacy.plan import Plan
from cloister.privacy.secagg.encoding import encode
from cloister.privacy.update import Delta
from cloister.privacy.wire import messages
from cloister.privacy.wire.envelope import Header, seal
from cloister.server.app import Federation
from cloister.server.checkpoint import Checkpoint
from cloister.server.rounds import ACCEPTED, Round
from cloister.simulations.bench import kernel

_DIGEST = canonical.digest(b"what a plan of this benchmark agrees on")
_CHILD = "fold"


@dataclass(frozen=True)
class Folded:
    """What folding took.

    Attributes:
        growth_bytes: peak of the process less what it held before the first update came.
        update_bytes: one update, without its envelope.
        seconds: CPU time for one update.
    """

    growth_bytes: int
    update_bytes: int
    seconds: float

    @property
    def over_update(self) -> float:
        """The growth in updates."""
        return self.growth_bytes / self.update_bytes


def plan(parameters: int, roster: Roster) -> Plan:
    """A plan over the sites of a roster that names no real model."""

    def party(name: str) -> dict[str, canonical.Json]:
        return {"name": name, "identity": roster.member(name).digest(), "code": _DIGEST}

    value: dict[str, canonical.Json] = {
        "version": 1,
        "consortium": roster.consortium,
        "purpose": "a benchmark",
        "nonce": "0" * 32,
        "roster": roster.digest(),
        "lead": party(roster.lead.name),
        "sites": [
            party(site.name) | {"dataset": "none", "rows": {"low": 512, "high": 1023}}
            for site in roster.sites
        ],
        "base": {"name": "none", "digest": _DIGEST, "max_tokens": 32},
        "task": {"kind": "sequence-classification", "labels": ["a", "b"]},
        "adapter": {
            "kind": "lora",
            "rank": 8,
            "alpha": 16.0,
            "targets": ["query"],
            "top_layers": 1,
            "seed": _DIGEST,
            "parameters": parameters,
            "layout": _DIGEST,
        },
        "training": {
            "algorithm": "fedavg",
            "rounds": 1,
            "steps": 1,
            "rate": 1.0,
            "optimizer": "sgd",
            "head_rate": 0.1,
            "adapter_rate": 0.1,
            "momentum": 0.9,
        },
        "privacy": {
            "mode": "off",
            "unit": "record",
            "relation": "add-remove",
            "bound": 1.0,
            "noise_multiplier": 0.0,
            "epsilon": 0.0,
            "delta": 0.0,
        },
        "aggregation": {"secure": False, "minimum_sites": 1, "range": 4.0},
    }
    return Plan.from_bytes(canonical.encode(value))


def measure(folder: Path, parameters: int, sites: int) -> Folded:
    """Folds ``sites`` updates of 4 bytes a parameter, in a process of its own.

    Raises:
        RoundError: ``site_failed``, an update was not accepted.
    """
    lead = PrivateIdentity.generate("lead", "lead")
    keys = [PrivateIdentity.generate(f"site-{place}", "site") for place in range(sites)]
    roster = Roster("bench", (lead.public, *(key.public for key in keys)))
    agreed = plan(parameters, roster)
    folder.mkdir(parents=True, exist_ok=True)
    lead.save(folder / "lead")
    (folder / "roster").write_bytes(canonical.encode(roster.to_json()))
    (folder / "plan").write_bytes(agreed.to_bytes())
    command = [sys.executable, "-m", "cloister.simulations.bench.fold", _CHILD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdin is None or process.stdout is None:
            raise ValueError("a process with pipes has none")
        process.stdout.readline()
        for key in keys:
            (folder / "update").write_bytes(_sealed(agreed, key, lead))
            print(key.public.name, file=process.stdin, flush=True)
            if process.stdout.readline().strip() != ACCEPTED:
                raise RoundError("site_failed", f"The update of {key.public.name} was not accepted.")
        process.stdin.close()
        return Folded(**json.loads(process.stdout.read()))


def _sealed(agreed: Plan, site: PrivateIdentity, lead: PrivateIdentity) -> bytes:
    values = np.linspace(-1, 1, agreed.adapter.parameters, dtype=np.float32)
    encoded = encode(Delta(values, ()), agreed.weight(site.public.name), agreed.ring)
    header = Header(
        kind=messages.UPDATE,
        consortium=agreed.consortium,
        plan=agreed.digest,
        round=1,
        step=0,
        attempt=1,
        sender=site.public.name,
        recipient=lead.public.name,
        model=_DIGEST,
    )
    return seal(header, encoded.content, site, lead.public)


# The process that folds


def fold(folder: Path) -> None:
    """Folds the update in the folder for every name that comes in, then prints what it took."""
    roster = Roster.from_json(canonical.decode((folder / "roster").read_bytes()))
    agreed = Plan.from_bytes((folder / "plan").read_bytes())
    identity = PrivateIdentity.load(folder / "lead")
    federation = Federation(
        plan=agreed,
        identity=identity,
        roster=roster,
        log=EventLog.open(folder / "log", identity),
        resume=Checkpoint(agreed.digest, 0, np.zeros(0, dtype=np.float32), {}, {}),
        save=lambda _: None,
        present=lambda: (),
    )
    current = Round(agreed, 1, 1, _DIGEST, tuple(site.name for site in roster.sites))
    before, used = kernel.resident(), _cpu()
    print("ready", flush=True)
    count = 0
    for line in sys.stdin:
        site, count = line.strip(), count + 1
        data = (folder / "update").read_bytes()
        opened = federation.mail.questions.opened(current, site, (messages.UPDATE, messages.REFUSAL), data)
        current.accept(site, opened.pieces)
        print(current.standings[site].state, flush=True)
        del opened, data
    took = Folded(kernel.peak() - before, agreed.ring.content_bytes, (_cpu() - used) / max(1, count))
    print(json.dumps(vars(took)))


def _cpu() -> float:
    import resource

    spent = resource.getrusage(resource.RUSAGE_SELF)
    return spent.ru_utime + spent.ru_stime


def main(arguments: list[str]) -> None:
    """Measures once and prints one JSON object; or is the process that folds."""
    if arguments[0] == _CHILD:
        fold(Path(arguments[1]))
        return
    folder, parameters, sites = arguments
    print(json.dumps(vars(measure(Path(folder), int(parameters), int(sites)))))


if __name__ == "__main__":
    main(sys.argv[1:])
