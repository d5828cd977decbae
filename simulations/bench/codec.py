"""What few bits a parameter keep: of a mean of updates of a real LoRA adapter, and of whole jobs.

Whole jobs (``coded``) give the bytes of an update and the accuracy with and without coding.

Sixteen sites with synthetic notes of their own train MiniLM with LoRA for one round without privacy, from the
same start, as a plan without privacy says by default. Their updates go through the encoding of
``privacy.secagg.ring``, with and without the rotation, packed and unpacked, and are added on the ring. Bits
are those of the quantiser of one site; on the wire come those that hold the sum (four for sixteen sites).

The range of the encoding is public and therefore agreed before anybody trains. The figures are for the best
such range, which the longest update (or with no rotation the largest coordinate) just reaches, and for one
of twice that, ``loose``: every doubling beyond doubles the error. The error is the root of the mean square,
relative to that of the true mean.

==============================  =========================================================================
figure                          meaning
==============================  =========================================================================
parameters                      d
relative_error_BITS             with rotation
relative_error_BITS_loose       with rotation, and a range of twice what was needed
relative_error_BITS_plain       without rotation
bytes_a_parameter_BITS          packed size over d
clamped                         coordinates of all sites that were cut to the range, at any of these bits
peak                            largest coordinate over the root mean square, the mean of all sites
likeness                        how alike the updates are: length of their mean over their mean length
encode_cpu_s                    CPU seconds of a site to rotate, encode and pack, for 25 million parameters
plain_bytes                     an update of three levels with error feedback, before seal and signature
secure_bytes                    an update of 6 bits under secure aggregation, likewise: mask, shares and all
…_wire_up, …_wire_down          bytes of all envelopes, a site and round
accuracy_…                      of each way of ``coded.WAYS`` on the test sentences, the mean of the seeds
…_loss                          how much lower than that with 32 bits, in points: plain (no privacy), local
                                (three levels, local mode) and secure (6 bits, local mode)
…_spread                        from the worst to the best seed with 32 bits, in points
==============================  =========================================================================
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloister.client.learn.documents import Labelled
from cloister.client.learn.features import prepare
from cloister.client.learn.model import tokenize
from cloister.client.learn.training import LocalTrainer, Moment, Settings
from cloister.privacy import canonical
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.layout import initial
from cloister.privacy.model import DEFAULT, describe
from cloister.privacy.secagg import ring, rotation
from cloister.privacy.secagg.ring import Code
from cloister.privacy.update import Vector
from cloister.server.terms import COURSES, RATES, Terms
from cloister.simulations import stage
from cloister.simulations.bench import coded
from cloister.simulations.bench.result import Limit, Result
from cloister.simulations.bench.step_work import minilm

SITES, BITS = 16, (8, 12, 16)
LAYERS = 6
"""All layers of MiniLM carry LoRA."""
_LARGE = 25_000_000
_SEED = b"cloister bench codec"
_MODEL = canonical.digest(_SEED)
_LIMITS = {"relative_error_12": Limit(1e-3)}


@dataclass(frozen=True)
class Fidelity:
    """What became of a mean.

    Attributes:
        error: root mean square error, relative to the root mean square of the true mean.
        content_bytes: of one packed update.
        clamped: coordinates of all sites that were cut to the range.
    """

    error: float
    content_bytes: int
    clamped: int


def run(data: Path) -> Result:
    """Trains the sites and measures everything; the whole jobs take most of the time.

    Args:
        data: the folder of data sets, ``sst2`` among them.

    Raises:
        InputError: ``file_missing``.
    """
    told, limits = coded.run(data / "sst2")
    means = result(updates(), seconds(_LARGE))
    return Result("codec", told | means.figures, limits | means.limits)


def result(found: Sequence[Vector], encode_seconds: float) -> Result:
    """The figures of some updates, all of equal weight."""
    lengths = [norm(update) for update in found]
    figures: dict[str, float] = {
        "parameters": found[0].size,
        "likeness": norm(np.mean(found, axis=0)) / float(np.mean(lengths)),
        "encode_cpu_s": encode_seconds,
    }
    peaks = [float(np.abs(one).max()) * math.sqrt(one.size) / norm(one) for one in found]
    figures["peak"] = float(np.mean(peaks))
    turned = {bits: fidelity(found, bits) for bits in BITS}
    figures["clamped"] = sum(each.clamped for each in turned.values())
    for bits, done in turned.items():
        figures[f"relative_error_{bits}"] = done.error
        figures[f"relative_error_{bits}_loose"] = fidelity(found, bits, loose=2.0).error
        figures[f"relative_error_{bits}_plain"] = fidelity(found, bits, rotated=False).error
        figures[f"bytes_a_parameter_{bits}"] = done.content_bytes / found[0].size
    return Result("codec", figures, _LIMITS)


def updates(sites: int = SITES, layers: int = LAYERS, steps: int = COURSES["off"].steps) -> list[Vector]:
    """What one round without privacy changes at each site: float32, shape (d,), the head included."""
    play = stage.triage(sites, 0)
    base, classifier = describe(DEFAULT), minilm(layers, len(play.labels))
    start = initial(classifier.layout, _MODEL)
    rates = RATES["off"]
    found = []
    for name, records in play.train.items():
        settings = Settings(
            steps, COURSES["off"].rate, len(records), rates.optimizer, rates.head, rates.adapter
        )
        features = prepare(classifier, tokenize(base, records.texts, Terms.max_tokens))
        trainer = LocalTrainer(classifier, Labelled(classifier, features, records.targets(play.labels)))
        entropy = FixedEntropy(_SEED, job=name)
        found.append(trainer.train(start, settings, entropy, Moment(1, 1, _MODEL)).values)
    return found


def fidelity(found: Sequence[Vector], bits: int, *, rotated: bool = True, loose: float = 1.0) -> Fidelity:
    """What the mean of some updates is after the ring.

    Args:
        found: updates of equal weight.
        bits: of one site's quantiser.
        rotated: whether the updates are rotated first.
        loose: the range over the smallest that does.
    """
    weight = 1 / len(found)
    code = _code(found, bits, rotated, loose)
    total = np.zeros(code.parameters, dtype=np.uint32)
    clamped = 0
    for place, update in enumerate(found):
        weighted = update * np.float32(weight)
        stream = FixedEntropy(_SEED, job=f"site {place}").stream("rounding", round=1, model=_MODEL)
        done = ring.encode(rotation.rotate(weighted, _SEED) if rotated else weighted, code, stream)
        clamped += done.clamped
        total += ring.unpack(ring.pack(done.words, code.bits), code.bits, code.parameters)
    mean = ring.decode(total, code, len(found), 1.0)
    true = np.mean(np.asarray(found, dtype=np.float64), axis=0)
    error = norm((rotation.unrotate(mean, _SEED) if rotated else mean) - true) / norm(true)
    return Fidelity(error, code.content_bytes, clamped)


def _code(found: Sequence[Vector], bits: int, rotated: bool, loose: float) -> Code:
    sites, d = len(found), found[0].size
    if rotated:
        limit = rotation.clamp(max(map(norm, found)), d)
    else:
        limit = max(float(np.abs(update).max()) for update in found)
    return Code(d, bits + math.ceil(math.log2(sites)), sites, loose * limit / sites, clamps=rotated)


def norm(values: NDArray[Any]) -> float:
    """The Euclidean length, in float64."""
    return float(np.linalg.norm(values.astype(np.float64)))


def seconds(parameters: int, bits: int = 12, sites: int = SITES) -> float:
    """CPU seconds to rotate, encode and pack one update; the second time, in warm memory."""
    values = np.sin(np.arange(parameters, dtype=np.float32))
    code = _code([values] * sites, bits, True, 1.0)
    spent = math.inf
    for turn in ("first", "second"):
        stream = FixedEntropy(_SEED).stream(turn, round=1, model=_MODEL)
        started = time.process_time()
        ring.pack(ring.encode(rotation.rotate(values, _SEED), code, stream).words, code.bits)
        spent = min(spent, time.process_time() - started)
    return spent
