"""LoRA, or a head, at a simulated site of texts: each actor keeps one model, and what frozen layers say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cloister.client.guard import Score
from cloister.client.learn.documents import Documents
from cloister.client.learn.learner import audit_of, require_unit
from cloister.client.site import persons
from cloister.client.site.records import Records
from cloister.privacy import durable
from cloister.privacy.dp.audit import Audit
from cloister.privacy.entropy import Entropy
from cloister.privacy.errors import PlanError, StateError
from cloister.privacy.model import describe
from cloister.privacy.plan import Plan
from cloister.privacy.update import Delta, Encoded, Share, Surplus, Vector
from cloister.privacy.wire.envelope import Header
from cloister.simulations.engine.adapters import AdapterLearner, SharedModel
from cloister.simulations.engine.head import Moment

_AUDIT = "audit.json"


@dataclass(frozen=True, eq=False)
class Reader:
    """What one simulated site learns of texts; see ``contribution.Learner`` and ``AdapterLearner``.

    Attributes:
        learner: the engine's.
        entropy: where sampling and noise come from.
        audit: of its private steps, kept beside the records; None without privacy.
        path: the folder of the audit.
    """

    learner: AdapterLearner
    entropy: Entropy
    audit: Audit | None
    path: Path

    def train(self, model: Vector, header: Header) -> Delta:
        """See ``AdapterLearner``."""
        with self._audited():
            return self.learner.train(model, self.entropy, _moment(header))

    def share(self, model: Vector, header: Header) -> Share:
        """See ``AdapterLearner``."""
        with self._audited():
            return self.learner.share(model, self.entropy, _moment(header))

    def surplus(self, header: Header, survivors: int) -> Surplus:
        """See ``AdapterLearner``."""
        return self.learner.surplus(survivors, self.entropy, _moment(header))

    def sums(self, header: Header) -> Encoded:  # noqa: ARG002
        """Texts have no analytic round here.

        Raises:
            PlanError: ``task_unsupported``.
        """
        raise PlanError("task_unsupported", "An analytic round is simulated on cached features only.")

    def keep(self, model: Vector, round: int) -> Score | None:  # noqa: ARG002
        """Nothing is kept back at a simulated site; whoever simulates scores the models."""
        return None

    def release(self, model: Vector) -> None:
        """The lead of a simulation keeps the model."""

    @contextmanager
    def _audited(self) -> Iterator[None]:
        """What the audit saw is on disk at the end, also where it failed."""
        try:
            yield
        finally:
            if self.audit:
                durable.write(self.path / _AUDIT, self.audit.to_bytes())


def learner(plan: Plan, site: str, base: str, records: Path, entropy: Entropy) -> Reader:
    """The learner of one site, its audit as it was left.

    Args:
        plan: what is learnt.
        site: its name.
        base: folder of the base model.
        records: the file of its records.
        entropy: where sampling and noise come from.

    Raises:
        StateError: ``state_damaged``.
        PlanError: ``plan_conflict``, the records are of another unit of privacy.
        ModelError, InputError: the model is not the plan's, or the records are not its task's.
    """
    shared = _model(plan.to_bytes(), base)
    rows, units = _read(shared, site, records)
    audit = audit_of(plan, records.with_name(_AUDIT))
    return Reader(shared.learner(site, rows, units, audit), entropy, audit, records.parent)


@cache
def _model(plan: bytes, base: str) -> SharedModel:
    torch.set_num_threads(1)  # actors share the processors
    return SharedModel(Plan.from_bytes(plan), describe(base))


@cache
def _read(shared: SharedModel, site: str, path: Path) -> tuple[Documents, NDArray[np.int64]]:
    """The rows of a file, read by the frozen layers once in each process, and whose they are."""
    try:
        told = json.loads(path.read_bytes())
        lists = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
        records = Records(**lists)  # type: ignore[arg-type]  # the kind is text like any other
    except (OSError, ValueError, TypeError) as error:
        raise StateError(
            "state_damaged",
            f"{path} does not hold a site's records.",
            "All machines of a cluster must see the same folder.",
        ) from error
    require_unit(shared.plan, site, records)
    return shared.documents(records), persons.numbers(records)


def _moment(header: Header) -> Moment:
    return Moment(header.round, header.attempt, header.model)
