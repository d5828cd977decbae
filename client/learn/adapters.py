"""What is trained: a frozen encoder, LoRA where the plan's layout says, and a head by the kind of task.

A classifier has mean pooling and a linear head, a tagger a linear head over every token; a writer has none,
and goes on with the frozen output layer of its base model.

All that is trained is one flat float32 vector in the order of ``privacy.layout``; ``set_flat`` and
``get_flat`` copy between that vector and the parameters.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cloister.client.learn.model import LORA_A, SCALE
from cloister.privacy.errors import ModelError
from cloister.privacy.layout import Layout
from cloister.privacy.update import Vector


class Adapted(nn.Module):
    """A frozen encoder with what is trained on it.

    Attributes:
        encoder: the base model, LoRA in place, all else frozen and without dropout.
        layout: the order of the trained tensors.
        trained: layout name -> parameter.
    """

    trained: dict[str, nn.Parameter]

    def __init__(self, encoder: nn.Module, layout: Layout) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.layout = layout

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        found: Tensor = next(self.encoder.parameters())
        return found.device

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The encoder's last states, shape (n, tokens, hidden), of token ids and mask."""
        states: Tensor = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return states

    def _settle(self) -> None:
        """Notes what is trained, in float32, and that it is what the layout names.

        Raises:
            ModelError: ``adapter_invalid``.
        """
        self.trained = {_layout_name(name): p for name, p in self.named_parameters() if p.requires_grad}
        for parameter in self.trained.values():
            parameter.data = parameter.data.float()  # PEFT makes LoRA in the type of its base
        placed = {name: tuple(parameter.shape) for name, parameter in self.trained.items()}
        if odd := sorted(set(placed.items()) ^ set(self.layout.tensors)):
            raise ModelError("adapter_invalid", f"The layout does not fit the model at {odd[0][0]}.")


class Classifier(Adapted):
    """Encoder, masked mean pooling to unit length, times ``SCALE``, linear head.

    Attributes:
        head: classes x hidden weights and a bias.
        widen: what puts features beside the pooled ones before the head; None for nothing.
    """

    def __init__(
        self, encoder: nn.Module, head: nn.Linear, layout: Layout, widen: nn.Module | None = None
    ) -> None:
        super().__init__(encoder, layout)
        self.head = head
        self.widen = widen
        self._settle()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits, shape (n, classes), of token ids and mask, both int64 of shape (n, tokens)."""
        return self.classify(self.pooled(ids, mask))

    def pooled(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Features of unit length, shape (n, hidden), of token ids and mask."""
        return pool(self.states(ids, mask), mask)

    def classify(self, pooled: Tensor) -> Tensor:
        """Logits, shape (n, classes), of pooled features."""
        wide = pooled if self.widen is None else self.widen(pooled)
        logits: Tensor = self.head(SCALE * wide)
        return logits


class Tagger(Classifier):
    """Encoder, each token's state to unit length, times ``SCALE``, linear head."""

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits, shape (n, tokens, tags), of token ids and mask, both int64 of shape (n, tokens)."""
        return self.tag(self.states(ids, mask))

    def tag(self, states: Tensor) -> Tensor:
        """Logits, shape (n, tokens, tags), of the last states."""
        return self.classify(nn.functional.normalize(states.float(), dim=-1))


class Writer(Adapted):
    """A model that goes on with a text; LoRA alone is trained.

    Attributes:
        words: the frozen map from a state to the logits of the next token.
    """

    def __init__(self, encoder: nn.Module, words: nn.Module, layout: Layout) -> None:
        super().__init__(encoder, layout)
        self.words = words
        self._settle()

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """As of any encoder; nothing is kept for a next token."""
        found = self.encoder(input_ids=ids, attention_mask=mask, use_cache=False)
        states: Tensor = found.last_hidden_state
        return states

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits of the next token, shape (n, tokens, vocabulary)."""
        logits: Tensor = self.words(self.states(ids, mask))
        return logits


def place(
    encoder: nn.Module, layout: Layout, alpha: float, widen: nn.Module | None = None, more: int = 0
) -> Classifier:
    """Puts LoRA and a head on a frozen encoder, which is changed in place.

    Args:
        encoder: a base model as ``model.load_encoder`` gives it; LoRA and head are put where it is. It may
            be in half precision: what is trained is float32 all the same.
        layout: what is trained; ranks, targets and classes follow from its names and shapes.
        alpha: LoRA's alpha: an adapter's output is multiplied with alpha / rank.
        widen: what puts features beside the pooled ones; it is put where the encoder is.
        more: how many features that puts there.

    Raises:
        ModelError: ``adapter_invalid``, the layout does not fit the encoder.
    """
    head = _headed(encoder, layout, alpha, more)
    return Classifier(encoder, head, layout, widen.to(head.weight.device) if widen else None)


def place_tagger(encoder: nn.Module, layout: Layout, alpha: float) -> Tagger:
    """As ``place``, with the head over every token."""
    return Tagger(encoder, _headed(encoder, layout, alpha), layout)


def place_writer(encoder: nn.Module, words: nn.Module, layout: Layout, alpha: float) -> Writer:
    """As ``place``, without a head: ``words`` is the base model's own output layer, and stays frozen."""
    encoder.requires_grad_(False)
    words.requires_grad_(False)
    _adapt(encoder, layout, alpha)
    return Writer(encoder, words, layout)


def _headed(encoder: nn.Module, layout: Layout, alpha: float, more: int = 0) -> nn.Linear:
    """Puts LoRA on an encoder and makes a head for its features, and so many more."""
    classes, hidden = dict(layout.tensors).get("head.weight", (0, 0))
    width = getattr(encoder.config, "hidden_size", None)
    if width is None or hidden != width + more:
        raise ModelError("adapter_invalid", f"The layout has no head for features of width {width}.")
    encoder.requires_grad_(False)
    _adapt(encoder, layout, alpha)
    return nn.Linear(hidden, classes, dtype=torch.float32, device=next(encoder.parameters()).device)


def _adapt(encoder: nn.Module, layout: Layout, alpha: float) -> None:
    shapes = dict(layout.tensors)
    modules = [name.removesuffix(LORA_A) for name in shapes if name.endswith(LORA_A)]
    if modules:
        _inject(encoder, modules, shapes[modules[0] + LORA_A][0], alpha)


def get_flat(classifier: Adapted) -> Vector:
    """A copy of all trained parameters: float32, shape (d,)."""
    parts = [classifier.trained[name].detach().reshape(-1) for name, _ in classifier.layout.tensors]
    return torch.cat(parts).to("cpu", torch.float32).numpy()


def set_flat(classifier: Adapted, vector: Vector) -> None:
    """Copies ``vector``, float32 of shape (d,), into the trained parameters.

    Raises:
        ModelError: ``adapter_invalid``, the vector has another length than the layout.
    """
    if vector.shape != (classifier.layout.size,):
        raise ModelError(
            "adapter_invalid", f"{vector.size} values do not fit {classifier.layout.size} parameters."
        )
    values = torch.from_numpy(np.array(vector, dtype=np.float32)).to(classifier.device)
    with torch.no_grad():
        for name, shape, part in classifier.layout.slices():
            classifier.trained[name].copy_(values[part].view(shape))


def pool(states: Tensor, mask: Tensor) -> Tensor:
    """The mean over real tokens, scaled to length 1: (n, tokens, hidden) and (n, tokens) to (n, hidden)."""
    states = states.float()  # bfloat16 cannot count more than 256 tokens
    weights = mask.unsqueeze(-1).to(states.dtype)
    mean = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    return nn.functional.normalize(mean, dim=1)


def _inject(encoder: nn.Module, modules: list[str], rank: int, alpha: float) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # only ever divided by the rank
        lora_dropout=0.0,
        bias="none",
        target_modules=modules,
        fan_in_fan_out=getattr(encoder.config, "model_type", "") == "gpt2",  # its maps are (in, out)
    )
    try:
        inject_adapter_in_model(config, encoder)
    except ValueError as error:
        raise ModelError("adapter_invalid", f"LoRA cannot be placed: {error}") from error


def _layout_name(parameter: str) -> str:
    return parameter.removeprefix("encoder.").replace(".default.", ".")
