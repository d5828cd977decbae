"""The base model in memory: its frozen encoder and its tokenizer, read from safetensors and JSON only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cloister.client.learn import heap
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
    import torch
    from transformers import AutoModel
    from transformers.utils.logging import disable_progress_bar

    heap.settle()  # from here on this process holds a model
    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        encoder: Any = AutoModel.from_pretrained(
            base.path,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except (OSError, ValueError) as error:
        raise ModelError("model_unsafe", f"{base.name} cannot be loaded: {error}", USE_SAFETENSORS) from error
    encoder.requires_grad_(False)
    encoder.eval()
    return encoder.to(device)  # type: ignore[no-any-return]


def tokenize(base: BaseModel, texts: Sequence[str], max_tokens: int) -> tuple[NDArray[np.int64], ...]:
    """The token ids of each text, cut to ``max_tokens``: one array of shape (tokens,) a text.

    Raises:
        ModelError: ``model_unsafe``, transformers cannot read the tokenizer as it is.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(base.path, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            "model_unsafe", f"The tokenizer of {base.name} cannot be loaded: {error}", USE_SAFETENSORS
        ) from error
    if not texts:
        return ()
    encoded = tokenizer(list(texts), truncation=True, max_length=max_tokens, return_attention_mask=False)
    return tuple(np.asarray(ids, dtype=np.int64) for ids in encoded["input_ids"])
