"""Which parameters are trained, in which order: the flat vector that every party means.

The layout follows from public facts only: the shapes in the header of the base model's safetensors
files, the adapter's settings and the number of classes. So the lead can state an update's exact size
without torch, and every site gets the same order.

Names are those of PEFT without its wrappers: ``<module>.lora_A.weight`` (rank x in),
``<module>.lora_B.weight`` (out x rank), ``head.weight`` (classes x hidden), ``head.bias``. A model without
a base model has ``hidden.weight`` (hidden x features) and ``hidden.bias``, or neither, and a head.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from cloister.privacy import canonical
from cloister.privacy.errors import ModelError
from cloister.privacy.update import Vector

SCALE = 8.0
"""What unit-length pooled features are multiplied with before the head.

A head on features of length 1 needs large weights to be sure of anything, and small learning rates
would never get there.
"""

HIDDEN = "hidden.weight"
"""The weights of a hidden layer, where there is no base model."""

_HEADER_LIMIT = 100 << 20
_LAYER = re.compile(r"(?:^|\.)(?:layer|layers|h)\.(\d+)\.")


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the trained tensors, sorted by name.

    Attributes:
        tensors: (name, shape) pairs; a tensor's values follow each other in row-major order.
    """

    tensors: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def size(self) -> int:
        """d, the number of trained parameters."""
        return sum(prod(shape) for _, shape in self.tensors)

    def digest(self) -> str:
        """The digest of names and shapes."""
        return canonical.digest(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Names and shapes as canonical JSON."""
        return canonical.encode([[name, list(shape)] for name, shape in self.tensors])

    @classmethod
    def from_bytes(cls, data: bytes, digest: str) -> Layout:
        """The layout of a digest.

        Raises:
            ModelError: ``adapter_invalid``, these bytes have another digest.
        """
        refusal = ModelError("adapter_invalid", "The order of the trained parameters is not the plan's.")
        if canonical.digest(data) != digest:
            raise refusal
        value: Any = canonical.decode(data, otherwise=refusal)
        return cls(tuple((name, tuple(shape)) for name, shape in value))

    def slices(self) -> Iterator[tuple[str, tuple[int, ...], slice]]:
        """Each tensor's name, shape and place in the flat vector."""
        start = 0
        for name, shape in self.tensors:
            stop = start + prod(shape)
            yield name, shape, slice(start, stop)
            start = stop


@dataclass(frozen=True)
class Placement:
    """Where the adapter sits.

    Attributes:
        rank: r of LoRA.
        targets: last names of the adapted Linear modules, such as ``query``.
        top_layers: how many of the last layers are adapted; 0 for none (a head only).
        classes: the number of labels; 0 for no head.
    """

    rank: int
    targets: tuple[str, ...]
    top_layers: int
    classes: int


def shapes(files: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape from the headers of safetensors files.

    Raises:
        ModelError: ``model_unsafe`` for a file that is not safetensors.
    """
    found: dict[str, tuple[int, ...]] = {}
    for path in files:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(min(length, _HEADER_LIMIT))
        try:
            if len(header) != length:
                raise ValueError("the header is cut, or longer than any model needs")
            tensors = json.loads(header)
            found |= {k: _shape(v["shape"]) for k, v in tensors.items() if k != "__metadata__"}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ModelError("model_unsafe", f"{path.name} is not a safetensors file.") from error
    return found


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(size) is int and size >= 0 for size in value):
        raise ValueError("not a shape")
    return tuple(value)


def depth(tensors: Iterable[str]) -> int:
    """The number of transformer layers that the tensor names speak of."""
    return 1 + max((int(m.group(1)) for name in tensors if (m := _LAYER.search(name))), default=-1)


USUAL_TARGETS = (("query", "value"), ("q_proj", "v_proj"), ("c_attn",), ("q_lin", "v_lin"))
"""Where LoRA is put unless said otherwise: on what makes queries and values, by what that is called."""


def usual_targets(tensors: Iterable[str]) -> tuple[str, ...]:
    """The usual targets of a base model; those of BERT where none is known, which a layout then refuses."""
    there = {name.removesuffix(".weight").rpartition(".")[2] for name in tensors}
    return next((names for names in USUAL_TARGETS if there.issuperset(names)), USUAL_TARGETS[0])


def layout(tensors: Mapping[str, tuple[int, ...]], hidden: int, placement: Placement) -> Layout:
    """The layout of LoRA on the named targets of the top layers, and a linear head where there are classes.

    Args:
        tensors: name -> shape of the base model, (out, in) where it is that of a linear map.
        hidden: the width of the pooled features.
        placement: where the adapter sits.

    Raises:
        ModelError: ``adapter_invalid`` if a target is found in none of the top layers or is not Linear.
    """
    first = depth(tensors) - placement.top_layers
    entries: list[tuple[str, tuple[int, ...]]] = []
    if placement.classes:
        entries += [("head.bias", (placement.classes,)), ("head.weight", (placement.classes, hidden))]
    missing = set(placement.targets) if placement.top_layers else set()
    for name, shape in tensors.items():
        match = _LAYER.search(name)
        module = name.removesuffix(".weight")
        target = module.rpartition(".")[2]
        if match is None or int(match.group(1)) < first or not name.endswith(".weight"):
            continue
        if target in placement.targets:
            if len(shape) != 2:
                raise ModelError("adapter_invalid", f"{module} is not a Linear module.")
            missing.discard(target)
            entries.append((f"{module}.lora_A.weight", (placement.rank, shape[1])))
            entries.append((f"{module}.lora_B.weight", (shape[0], placement.rank)))
    if missing:
        raise ModelError(
            "adapter_invalid", f"No adapted layer has a module named {' or '.join(sorted(missing))}."
        )
    return Layout(tuple(sorted(entries)))


def dense(features: int, hidden: int | None, classes: int) -> Layout:
    """The layout of a linear map on features, or of one hidden layer and a linear map."""
    inner = [("hidden.bias", (hidden,)), ("hidden.weight", (hidden, features))] if hidden else []
    head = [("head.bias", (classes,)), ("head.weight", (classes, hidden or features))]
    return Layout(tuple(sorted([*inner, *head])))


def initial(plan: Layout, seed: str) -> Vector:
    """The start of training: float32, shape (d,), the same for every party.

    LoRA's A is uniform in +-1/sqrt(in) (the spread PEFT starts from), drawn from AES-256-CTR under
    the digest ``seed``, which is public; B and the head are zero, so the start is the base model. The weights
    of a hidden layer are drawn as A is.
    """
    stream = Cipher(algorithms.AES(canonical.raw(seed)), modes.CTR(bytes(16))).encryptor()
    values = np.zeros(plan.size, dtype=np.float32)
    for name, shape, place in plan.slices():
        if name.endswith((".lora_A.weight", HIDDEN)):
            words = np.frombuffer(stream.update(bytes(4 * prod(shape))), dtype="<u4")
            values[place] = (words / 2**31 - 1) / sqrt(shape[1])
    return values
