"""The base model in memory: its frozen encoder and its tokenizer, read from safetensors and JSON only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cloister.privacy import heap
from cloister.privacy.errors import ModelError
from cloister.privacy.layout import SCALE as SCALE
from cloister.privacy.model import USE_SAFETENSORS, BaseModel

if TYPE_CHECKING:
    from torch import nn

LORA_A = ".lora_A.weight"
"""How the layout names LoRA's A of a module; what stands before it is the module's name."""


def load_encoder(base: BaseModel, device: str = "cpu") -> nn.Module:
    """The encoder in float32, frozen, without dropout.

    Args:
        base: the base model on this machine.
        device: where it is put, as torch names it; all that is placed on it or computed with it follows.

    Raises:
        ModelError: ``model_unsafe``, transformers cannot read the folder as it is.
    """
    return _loaded("AutoModel", base, device)  # type: ignore[no-any-return]


def load_writer(base: BaseModel, device: str = "cpu") -> tuple[nn.Module, nn.Module]:
    """The encoder of a model that generates text, and its output layer, both as ``load_encoder``.

    Raises:
        ModelError: ``model_unsafe``.
    """
    whole = _loaded("AutoModelForCausalLM", base, device)
    return whole.base_model, whole.get_output_embeddings()


def _loaded(kind: str, base: BaseModel, device: str) -> Any:
    import torch
    import transformers
    from transformers.utils.logging import disable_progress_bar

    heap.settle()  # from here on this process holds a model
    disable_progress_bar()
    try:
        model: Any = getattr(transformers, kind).from_pretrained(
            base.path,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except (OSError, ValueError) as error:
        raise ModelError("model_unsafe", f"{base.name} cannot be loaded: {error}", USE_SAFETENSORS) from error
    model.requires_grad_(False)
    model.eval()
    return model.to(device)


def tokenizer_of(base: BaseModel) -> Any:
    """The tokenizer of a base model.

    Raises:
        ModelError: ``model_unsafe``, transformers cannot read the tokenizer as it is.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(base.path, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            "model_unsafe", f"The tokenizer of {base.name} cannot be loaded: {error}", USE_SAFETENSORS
        ) from error


def tokenize(
    base: BaseModel, texts: Sequence[str], max_tokens: int, seconds: Sequence[str] | None = None
) -> tuple[NDArray[np.int64], ...]:
    """The token ids of each text, or pair of texts, cut to ``max_tokens``: one array of shape (tokens,) each.

    The longer text of a pair is cut first. Both stand in one row, the tokenizer's own separator between them.

    Raises:
        ModelError: ``model_unsafe``, transformers cannot read the tokenizer as it is.
    """
    tokenizer = tokenizer_of(base)
    if not texts:
        return ()
    pairs = None if seconds is None else list(seconds)
    encoded = tokenizer(
        list(texts), pairs, truncation=True, max_length=max_tokens, return_attention_mask=False
    )
    return tuple(np.asarray(ids, dtype=np.int64) for ids in encoded["input_ids"])
