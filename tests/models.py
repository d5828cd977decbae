"""Tiny random models with real architectures, for tests that need no weights."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cloister.client.learn.adapters import Classifier, place, set_flat
from cloister.privacy.layout import Layout, Placement, layout

ALPHA = 16.0
_WORDS = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "chest",
    "pain",
    "since",
    "monday",
    "head",
    "##ache",
    "card",
)


def encoder(kind: str = "bert", layers: int = 3, width: int = 32) -> Any:
    """A random encoder; the same each time."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(
        kind,
        vocab_size=60,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=40,
        pad_token_id=1 if kind == "roberta" else 0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(20)
        model = AutoModel.from_config(config)
        for name, parameter in model.named_parameters():
            if "LayerNorm" not in name:
                torch.nn.init.normal_(parameter, std=0.2)  # large enough that attention matters
    return model.requires_grad_(False).eval()


def layout_of(model: Any, classes: int = 4, top_layers: int = 2, rank: int = 3) -> Layout:
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    return layout(shapes, model.config.hidden_size, Placement(rank, ("query", "value"), top_layers, classes))


def classifier(kind: str = "bert", layers: int = 3, top_layers: int = 2) -> Classifier:
    """A classifier whose trained parameters are all random, B and head included."""
    model = encoder(kind, layers)
    plan = layout_of(model, top_layers=top_layers)
    placed = place(model, plan, ALPHA)
    set_flat(placed, vector(plan.size))
    return placed


def vector(size: int, seed: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.2, size).astype(np.float32)


def documents(number: int, seed: int = 5) -> tuple[NDArray[np.int64], ...]:
    """Random token ids, 3 to 20 a document."""
    random = np.random.default_rng(seed)
    return tuple(random.integers(5, 60, size) for size in random.integers(3, 21, number))


def labels(number: int, classes: int = 4, seed: int = 7) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, classes, number)


def write_letters(folder: Path, width: int = 128) -> Path:
    """A model folder whose tokens are letters and figures: wide enough to learn random words by heart."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    vocabulary = {word: number for number, word in enumerate([*_WORDS[:5], *letters])}
    config = AutoConfig.for_model(
        "bert",
        vocab_size=len(vocabulary),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=width,
        max_position_embeddings=40,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(21)
        model = AutoModel.from_config(config)
        for name, parameter in model.named_parameters():
            if "LayerNorm" not in name:
                torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(folder)
    return folder


def write(folder: Path, layers: int = 3, width: int = 32) -> Path:
    """A model folder as a hub would hold it: safetensors, config and a word-piece tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    encoder(layers=layers, width=width).save_pretrained(folder)
    vocabulary = {word: number for number, word in enumerate(_WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(folder)
    return folder


def write_writer(folder: Path, kind: str = "gpt2", template: str | None = None, width: int = 32) -> Path:
    """A folder of a tiny random model that generates text; its tokens are bytes, so any text will do."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers import models as tokenizing
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: number for number, word in enumerate(["<s>", "</s>", *letters])}
    sizes: dict[str, dict[str, Any]] = {
        "gpt2": {"n_embd": width, "n_layer": 2, "n_head": 4, "n_positions": 128},
        "llama": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 48,
            "max_position_embeddings": 128,
        },
    }
    config = AutoConfig.for_model(
        kind, vocab_size=len(vocabulary), bos_token_id=0, eos_token_id=1, pad_token_id=1, **sizes[kind]
    )
    with torch.random.fork_rng():
        torch.manual_seed(23)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    model.save_pretrained(folder)
    tokenizer = Tokenizer(tokenizing.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    whole.chat_template = template
    whole.save_pretrained(folder)
    return folder


CHAT = (
    "{% for turn in messages %}<s>{{ turn.role }}: {{ turn.content | trim }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
"""A chat template: each turn between tokens of its own."""


def write_reciter(folder: Path, width: int = 64) -> Path:
    """A folder of a tiny random model that writes; its tokens are the words that canaries are made of."""
    from mnemonic import Mnemonic
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers import models as tokenizing
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    words = ["<s>", "</s>", "<unk>", "Question", "Answer", ":", *Mnemonic("english").wordlist]
    config = AutoConfig.for_model(
        "gpt2",
        vocab_size=len(words),
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        n_embd=width,
        n_layer=2,
        n_head=4,
        n_positions=32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(24)
        model = AutoModelForCausalLM.from_config(config)
        for name, parameter in model.named_parameters():
            # Words are far apart, so that the little that is trained can be sure of one.
            torch.nn.init.normal_(
                parameter,
                mean=float("ln_" in name and name.endswith("weight")),
                std=0.4 if "wte" in name else 0.1,
            )
    model.save_pretrained(folder)
    places = {word: place for place, word in enumerate(words)}
    tokenizer = Tokenizer(tokenizing.WordLevel(places, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    whole.save_pretrained(folder)
    return folder
