"""What a model is worth on labelled documents of this site. Nothing here is covered by epsilon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from cloister.client.learn.adapters import Classifier, set_flat
from cloister.client.learn.features import Features, chunks
from cloister.privacy.update import Vector

Classes: TypeAlias = NDArray[np.int64]
Losses: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """How predictions compare with labels.

    Attributes:
        accuracy: the fraction that is right.
        macro_f1: F1 averaged over the classes that occur in labels or predictions.
        documents: how many were compared.
    """

    accuracy: float
    macro_f1: float
    documents: int


@torch.no_grad()
def probabilities(classifier: Classifier, features: Features, vector: Vector) -> NDArray[np.float32]:
    """Class probabilities under the parameters ``vector``: float32, shape (documents, classes)."""
    set_flat(classifier, vector)
    lengths = features.lengths
    found = np.empty((len(lengths), classifier.head.out_features), dtype=np.float32)
    for rows in chunks(lengths, np.arange(len(lengths))):
        found[rows] = features.logits(classifier, rows).softmax(dim=1).cpu().numpy()
    return found


@torch.no_grad()
def losses(classifier: Classifier, features: Features, vector: Vector, labels: Classes) -> Losses:
    """The cross entropy of each document under the parameters ``vector``: float64, shape (documents,)."""
    set_flat(classifier, vector)
    targets, found = torch.from_numpy(labels), np.empty(len(labels))
    for rows in chunks(features.lengths, np.arange(len(labels))):
        logits = features.logits(classifier, rows).cpu()
        found[rows] = cross_entropy(logits, targets[torch.from_numpy(rows)], reduction="none").numpy()
    return found


def predict(classifier: Classifier, features: Features, vector: Vector) -> Classes:
    """The most probable class of each document: int64, shape (documents,)."""
    found: Classes = probabilities(classifier, features, vector).argmax(axis=1)
    return found


def score(predicted: Classes, labels: Classes) -> Scores:
    """Scores of predicted classes against labels, both of shape (documents,), at least one document."""
    right = predicted == labels
    classes = np.union1d(predicted, labels)
    hits = np.array([np.sum(right & (labels == k)) for k in classes])
    sizes = np.array([np.sum(predicted == k) + np.sum(labels == k) for k in classes])
    return Scores(float(right.mean()), float((2 * hits / sizes).mean()), len(labels))
