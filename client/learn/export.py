"""What was trained as a folder of its own, and a classifier back from it.

The folder is a plain PEFT adapter, so that other programs load it with
``PeftModel.from_pretrained(AutoModel.from_pretrained(base), folder)``. Beside it stand the head and
what is needed to classify text: labels, length limit, pooling, the digest of the base model. A
classifier without LoRA has the head only. A head on random cosines too (``privacy.analytic``) says so in
``config.json``, with their seed: they are worked out, not stored. A model of rows of a
table is its weights and its columns, without a base model (``client.learn.scoring``). Saving needs neither
torch nor peft.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from cloister.client.learn.model import LORA_A, SCALE, load_encoder, tokenize
from cloister.client.learn.scoring import FORMAT, WEIGHTS
from cloister.privacy import canonical
from cloister.privacy.analytic.lift import Lift
from cloister.privacy.errors import ModelError, PlanError
from cloister.privacy.layout import Layout
from cloister.privacy.model import BaseModel
from cloister.privacy.plan import Plan
from cloister.privacy.update import Vector

if TYPE_CHECKING:
    from cloister.client.learn.adapters import Classifier

_HEAD, _ADAPTER = "head.safetensors", "adapter_model.safetensors"
_PEFT = "base_model.model."


@dataclass(frozen=True, eq=False)
class TextClassifier:
    """A classifier of texts, ready to use.

    Attributes:
        classifier: the model with the exported parameters in place.
        base: the base model on this machine.
        labels: the classes, in the order of the head's rows.
        max_tokens: where texts are cut.
    """

    classifier: Classifier
    base: BaseModel
    labels: tuple[str, ...]
    max_tokens: int

    def probabilities(
        self, texts: Sequence[str], seconds: Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        """Class probabilities of texts, or of pairs of them, float32, shape (texts, labels)."""
        from cloister.client.learn import adapters, evaluation, features

        tokens = features.Tokens(tokenize(self.base, texts, self.max_tokens, seconds))
        return evaluation.probabilities(self.classifier, tokens, adapters.get_flat(self.classifier))

    def predict(self, texts: Sequence[str], seconds: Sequence[str] | None = None) -> list[str]:
        """The most probable label of each text, or pair of texts."""
        return [self.labels[row] for row in self.probabilities(texts, seconds).argmax(axis=1)]


def save(folder: Path, layout: Layout, plan: Plan, vector: Vector, stem: str = "") -> None:
    """Writes what was trained to ``folder``, which may exist. No path of this machine is written.

    Args:
        folder: where to.
        layout: the order of ``vector``.
        plan: the plan that it was trained under.
        vector: the trained parameters, float32, shape (d,).
        stem: what stands before the encoder's names in a whole model that generates text.

    Raises:
        ModelError: ``adapter_invalid``, the vector does not fit the layout.
    """
    if vector.shape != (layout.size,):
        raise ModelError("adapter_invalid", f"{vector.size} values do not fit {layout.size} parameters.")
    tensors = {name: vector[place].reshape(shape) for name, shape, place in layout.slices()}
    if plan.task.table:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / WEIGHTS)
        _write_json(folder / "config.json", _table_config(plan))
        return
    head = {name: tensor for name, tensor in tensors.items() if name.startswith("head.")}
    lora = {_PEFT + stem + name: tensor for name, tensor in tensors.items() if name not in head}
    folder.mkdir(parents=True, exist_ok=True)
    if head:
        save_file(head, folder / _HEAD)
    _write_json(folder / "config.json", _config(plan))
    if lora:
        save_file(lora, folder / _ADAPTER, metadata={"format": "pt"})
        _write_json(folder / "adapter_config.json", _adapter_config(layout, plan, stem))


def vector_of(folder: Path, layout: Layout, stem: str = "") -> Vector:
    """What was trained, as it stands in a folder that ``save`` wrote, float32, shape (d,).

    Raises:
        ModelError: ``adapter_invalid``, the folder is damaged, or of another layout.
    """
    try:
        found = load_file(folder / _ADAPTER)
        parts = [found[_PEFT + stem + name].astype(np.float32) for name, _ in layout.tensors]
    except (OSError, SafetensorError, KeyError) as error:
        raise ModelError("adapter_invalid", f"{folder} holds no adapter of this plan.") from error
    if [part.shape for part in parts] != [shape for _, shape in layout.tensors]:
        raise ModelError("adapter_invalid", f"{folder} holds an adapter of another plan.")
    return np.concatenate([part.ravel() for part in parts])


def load(folder: Path, base: BaseModel, device: str = "cpu") -> TextClassifier:
    """The classifier that ``save`` wrote.

    Args:
        folder: the exported folder.
        base: the base model on this machine.
        device: where the classifier is put, as torch names it.

    Raises:
        ModelError: ``model_mismatch``, it was trained on another base model; ``adapter_invalid``, the
            folder is incomplete or damaged, or holds something else than a classifier.
    """
    from cloister.client.learn.adapters import set_flat
    from cloister.client.learn.analytic import placed

    try:
        config = json.loads((folder / "config.json").read_bytes())
        if config["format"] != _FORMATS["sequence-classification"]:
            raise ValueError("no classifier")
        found = load_file(folder / _HEAD)
        if (folder / _ADAPTER).is_file():
            found |= {
                name.removeprefix(_PEFT): tensor for name, tensor in load_file(folder / _ADAPTER).items()
            }
        digest, labels = str(config["base"]["digest"]), tuple(config["labels"])
        alpha, max_tokens = float(config["alpha"]), int(config["max_tokens"])
        waves = config.get("cosines")
        lift = waves and Lift(
            int(waves["inputs"]), int(waves["number"]), float(waves["bandwidth"]), str(waves["seed"])
        )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, PlanError) as error:
        raise ModelError("adapter_invalid", f"{folder} is not an exported classifier.") from error
    base.require(digest)
    layout = Layout(tuple(sorted((name, tensor.shape) for name, tensor in found.items())))
    classifier = placed(load_encoder(base, device), layout, alpha, lift)
    if classifier.head.out_features != len(labels):
        raise ModelError("adapter_invalid", f"{folder} has another number of labels than its head.")
    set_flat(classifier, np.concatenate([found[name].ravel() for name, _ in layout.tensors]))
    return TextClassifier(classifier, base, labels, max_tokens)


_FORMATS = {
    "sequence-classification": "cloister-classifier-1",
    "token-classification": "cloister-tagger-1",
    "causal-lm": "cloister-writer-1",
}


def _config(plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = {
        "format": _FORMATS[plan.task.kind],
        "base": {"name": plan.base.name, "digest": plan.base.digest},
        "alpha": plan.lora.alpha,
        "max_tokens": plan.max_tokens,
    }
    if plan.task.labels:  # each token's state of a tagger, the mean of them of a classifier, to length 1
        found |= {"labels": list(plan.task.labels), "normalize": True, "scale": SCALE}
    if plan.task.classifies:
        found |= {"pooling": "mean"}
    return found | _cosines(plan)


def _table_config(plan: Plan) -> dict[str, Any]:
    """What is needed to use a model of rows of a table: its columns, which hold its classes."""
    table = canonical.decode(plan.task.table.to_bytes()) if plan.task.table else None
    return {"format": FORMAT, "table": table, "scale": SCALE, **_cosines(plan)}


def _cosines(plan: Plan) -> dict[str, Any]:
    if not (analytic := plan.training.analytic) or not analytic.cosines:
        return {}
    named = ("inputs", "bandwidth", "seed")
    return {"cosines": {"number": analytic.cosines, **{n: getattr(analytic, n) for n in named}}}


def _adapter_config(layout: Layout, plan: Plan, stem: str) -> dict[str, Any]:
    turned = (
        {"fan_in_fan_out": True}
        if any(name.endswith(f".c_attn{LORA_A}") for name, _ in layout.tensors)
        else {}
    )
    return {
        **turned,
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if plan.task.kind == "causal-lm" else "FEATURE_EXTRACTION",
        "base_model_name_or_path": plan.base.name,
        "inference_mode": True,
        "r": plan.lora.rank,
        "lora_alpha": plan.lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": [
            stem + name.removesuffix(LORA_A) for name, _ in layout.tensors if name.endswith(LORA_A)
        ],
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_bytes(canonical.encode(value))
