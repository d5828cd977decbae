"""``cloister bench round``: what a round costs beyond training, in seconds, bytes and memory.

=========================  ==============================================================================
figure                     meaning
=========================  ==============================================================================
overhead_s                 first training start of a round to that of the next, less the time in which any
                           site trained; median over the rounds in which sites score nothing
overhead_scored_s          the same over the rounds in which each site scores the new global model on its
                           held-out tenth, which other systems' sites do not do
wire_over_payload          bytes between lead and sites in a round, over the arrays that the plan must move:
                           4 bytes a parameter down and up for each site; from the first moment in which
                           every site trained to the last one, when no array is on its way
wire_over_rounds           bytes from the start of the sites' agents to the end, the plan, the handshakes
                           and the final model included, over the arrays of the rounds alone
inner_over_rounds          bytes between the lead's own two processes, which never leave its machine
wire_cabled                1: counted on an interface that only lead and sites share; 0: no namespace can
                           be made here, and all traffic of the machine's loopback interface is counted
federation_pss_gib         peak memory of lead, Flower and three sites; pages that they share count once
secure_over_plain          whole rounds of four sites, training included, with secure aggregation over
                           without: medians of two runs, one after the other
secure_extra_s             what secure aggregation adds to a round beyond training, by the same two runs
joint_step_extra_s         a step that four sites take together, beyond the time in which any site trains:
                           the model out, masked shares back, survivors signed, the sum opened, the step
fold_peak_over_update      growth of an aggregator process that folds 10 updates of 100 MiB, in updates
fold_cpu_s                 its CPU time for one of them
=========================  ==============================================================================
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from cloister.privacy.errors import RoundError
from cloister.privacy.model import DEFAULT
from cloister.simulations.bench import fold, wire
from cloister.simulations.bench.federation import Measured
from cloister.simulations.bench.fold import Folded
from cloister.simulations.bench.result import Limit, Result, spread

ROUNDS, JOINT_STEPS = 15, 40
_UPDATES, _PARAMETERS = 10, 100 * (1 << 20) // 4
_LIMITS = {
    "overhead_s": Limit(0.6),
    "wire_over_payload": Limit(1.05),
    "federation_pss_gib": Limit(2.2),
    "secure_over_plain": Limit(1.2),
    "secure_extra_s": Limit(0.5),
    "joint_step_extra_s": Limit(0.15),
    "fold_peak_over_update": Limit(3.0),
}


@dataclass(frozen=True)
class Four:
    """Runs of four sites: without secure aggregation, with it, and of joint steps."""

    plain: Measured
    secure: Measured
    joint: Measured


def run() -> Result:
    """Measures everything once, in about ten minutes on two idle cores.

    Raises:
        RoundError: a federation did not come to its end.
    """
    with tempfile.TemporaryDirectory(prefix="cloister-bench-") as folder:
        place = Path(folder)
        folded = fold.measure(place / "fold", _PARAMETERS, _UPDATES)
        compared = _federation(place, "compared", ROUNDS)
        runs = (("plain", ROUNDS), ("secure", ROUNDS), ("joint", JOINT_STEPS))
        four = Four(*(_federation(place, kind, rounds) for kind, rounds in runs))
    return result(compared, four, folded)


def result(measured: Measured, four: Four, folded: Folded) -> Result:
    """The figures of what was measured."""
    steady = {} if measured.steady is None else {"wire_over_payload": measured.steady}
    figures = {
        **spread("overhead_s", measured.gaps),
        **spread("overhead_scored_s", measured.scored_gaps),
        **steady,
        "wire_over_rounds": measured.whole_bytes / measured.round_bytes,
        "inner_over_rounds": measured.inner_bytes / measured.round_bytes,
        "wire_cabled": float(measured.cabled),
        "federation_pss_gib": measured.pss_gib,
        "secure_over_plain": median(four.secure.rounds) / median(four.plain.rounds),
        "secure_extra_s": median(four.secure.gaps) - median(four.plain.gaps),
        **spread("joint_step_extra_s", four.joint.gaps),
        "fold_peak_over_update": folded.over_update,
        "fold_cpu_s": folded.seconds,
    }
    return Result("round", figures, _LIMITS)


def _federation(place: Path, kind: str, rounds: int) -> Measured:
    """Runs a federation in a network namespace of its own, where one can be made."""
    isolation = wire.isolation()
    module = ["-m", "cloister.simulations.bench.federation"]
    arguments = [str(place / kind), kind, str(rounds), DEFAULT, *(["cable"] if isolation else [])]
    done = subprocess.run(
        [*isolation, sys.executable, *module, *arguments], check=False, capture_output=True, text=True
    )
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise RoundError("site_failed", f"The federation failed: {words[-1] if words else 'no word'}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))
