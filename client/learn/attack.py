"""Attacks on a finished model, by the losses that it has on units: what its owner could compute as well.

- Canaries: the lower the model's loss on one, the likelier it was trained on. The start of training, the
  natural reference, knows none of them and has the same loss on every text: its head is zero.
- Of a model that writes, canaries are scored by how much less its loss on their answers is than that of its
  base model, and drawn out: asked the instruction alone, it gives the answer word for word or it does not.
- Membership: the loss of the model less that of a reference that was trained on none of the tested units: a
  linear head on the frozen base model, or on a table's features, fitted to the site's other training rows.
  Hard units are so for both. Of a model that writes, its base model is the reference.

An adversary with more models of the same data, or who sees every round, can do better (docs/privacy.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from cloister.client.learn import tabular
from cloister.client.learn.adapters import Classifier, Writer, set_flat
from cloister.client.learn.documents import Answered
from cloister.client.learn.evaluation import losses
from cloister.client.learn.features import Pooled, Tokens, chunks
from cloister.client.learn.instruction import Form
from cloister.client.learn.model import SCALE, tokenize
from cloister.client.site.records import Records
from cloister.client.site.trial import Trial
from cloister.privacy.layout import initial
from cloister.privacy.model import BaseModel
from cloister.privacy.plan import Plan
from cloister.privacy.update import Vector

Floats: TypeAlias = NDArray[np.float64]
Found: TypeAlias = NDArray[np.bool_]

_DECAY, _STEPS = 1e-3, 50


def on_canaries(plan: Plan, base: BaseModel, classifier: Classifier, model: Vector, own: Records) -> Floats:
    """A score of each canary, float64, shape (canaries,): higher where it was likely trained on."""
    return -losses(classifier, _tokens(plan, base, own), model, own.targets(plan.task.labels))


def on_units(plan: Plan, base: BaseModel, classifier: Classifier, model: Vector, trial: Trial) -> Floats:
    """A score of each unit of a trial, float64, shape (units,): the mean over its rows.

    Args:
        plan: of the job.
        base: the base model.
        classifier: a model as ``adapters.place`` gives it; its trained parameters are overwritten.
        model: the finished parameters, float32, shape (d,).
        trial: the units.
    """
    labels, rows = trial.records.targets(plan.task.labels), _rows(plan, base, trial.records)
    attacked = losses(classifier, rows, model, labels)
    set_flat(classifier, initial(classifier.layout, plan.adapter.seed))
    head = _fitted(_pooled(classifier, _rows(plan, base, trial.rest)), trial.rest, plan.task.labels)
    logits = _pooled(classifier, rows) @ head
    reference = cross_entropy(logits, torch.from_numpy(labels), reduction="none").numpy()
    means: Floats = np.bincount(trial.units, weights=reference - attacked) / np.bincount(trial.units)
    return means


@dataclass(frozen=True, eq=False)
class Recited:
    """What a model that writes makes of false records, all of shape (canaries,).

    Attributes:
        scores: of each, higher where it was likely trained on.
        after: whether the finished model gives its answer word for word.
        before: whether its base model does.
    """

    scores: Floats
    after: Found
    before: Found


def drawn_out(plan: Plan, base: BaseModel, writer: Writer, model: Vector, own: Records) -> Recited:
    """Asks the finished model, and its base model, for the answers of canaries; arguments as ``on_units``."""
    rows = Answered(writer, Form.of(base).turns(own.texts, own.labels, plan.max_tokens))
    set_flat(writer, initial(writer.layout, plan.adapter.seed))
    reference, before = rows.recited()
    set_flat(writer, model)
    losses, after = rows.recited()
    return Recited(reference - losses, after, before)


def on_written(plan: Plan, base: BaseModel, writer: Writer, model: Vector, trial: Trial) -> Floats:
    """As ``on_units``, of a model that writes."""
    found = drawn_out(plan, base, writer, model, trial.records)
    means: Floats = np.bincount(trial.units, weights=found.scores) / np.bincount(trial.units)
    return means


def _rows(plan: Plan, base: BaseModel, records: Records) -> Tokens | Pooled:
    """Records in the form that the model starts from."""
    return tabular.features(plan.task.table, records) if plan.task.table else _tokens(plan, base, records)


def _tokens(plan: Plan, base: BaseModel, records: Records) -> Tokens:
    return Tokens(tuple(tokenize(base, records.texts, plan.max_tokens, records.seconds)))


@torch.no_grad()
def _pooled(classifier: Classifier, tokens: Tokens | Pooled) -> Tensor:
    """Features of the base model, or of a table, with a constant, float64, shape (documents, hidden + 1)."""
    if isinstance(tokens, Pooled):
        return torch.nn.functional.pad(SCALE * tokens.values.double(), (0, 1), value=1.0)
    width = int(classifier.encoder.config.hidden_size)
    found = torch.ones((len(tokens.ids), width + 1), dtype=torch.float64)
    for rows in chunks(tokens.lengths, np.arange(len(tokens.ids))):
        values = classifier.pooled(*tokens.padded(classifier, rows)).cpu()
        found[torch.from_numpy(rows), :-1] = SCALE * values.double()
    return found


def _fitted(features: Tensor, records: Records, labels: tuple[str, ...]) -> Tensor:
    """Multinomial logistic regression: float64, shape (hidden + 1, classes). The same each time."""
    head = torch.zeros((features.shape[1], len(labels)), dtype=torch.float64, requires_grad=True)
    targets = torch.from_numpy(records.targets(labels))
    descent = torch.optim.LBFGS([head], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        descent.zero_grad()
        value = cross_entropy(features @ head, targets) + _DECAY * head.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    descent.step(loss)  # type: ignore[no-untyped-call]
    return head.detach()
