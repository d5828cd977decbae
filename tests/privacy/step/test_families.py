"""Whole models of three families, tiny and random, through the engine that covers them, against a loop.

The loop takes single rows without padding, hooks or checkpoints. The rows of a batch are padded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cloister.privacy.errors import ModelError
from cloister.privacy.layout import Layout
from cloister.privacy.step.coverage import engine_for
from cloister.privacy.step.fused import FusedEngine
from cloister.privacy.step.hooks import HooksEngine
from cloister.privacy.step.interface import MicroBatch

Family: TypeAlias = Literal["bert", "gpt2", "llama"]
Task: TypeAlias = Literal["sequence", "token", "causal"]
FAMILIES: tuple[Family, ...] = ("bert", "gpt2", "llama")
TASKS: tuple[Task, ...] = ("sequence", "token", "causal")

LENGTHS = (7, 4, 9, 5)
UNITS = np.array([0, 1, 2, 1])
WORDS, CLASSES = 50, 3

_WIDTH = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
_CONFIGS: dict[Family, Callable[..., Any]] = {
    "bert": lambda **options: transformers.BertConfig(
        **_WIDTH, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **options
    ),
    "gpt2": lambda **options: transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **options
    ),
    "llama": lambda **options: transformers.LlamaConfig(**_WIDTH, num_key_value_heads=1, **options),
}
_MODELS: dict[Family, dict[Task, str]] = {
    "bert": {
        "sequence": "BertForSequenceClassification",
        "token": "BertForTokenClassification",
        "causal": "BertLMHeadModel",
    },
    "gpt2": {
        "sequence": "GPT2ForSequenceClassification",
        "token": "GPT2ForTokenClassification",
        "causal": "GPT2LMHeadModel",
    },
    "llama": {
        "sequence": "LlamaForSequenceClassification",
        "token": "LlamaForTokenClassification",
        "causal": "LlamaForCausalLM",
    },
}
_TARGETS: dict[Family, list[str]] = {
    "bert": ["query", "value"],
    "gpt2": ["c_attn"],
    "llama": ["q_proj", "v_proj"],
}
_HEADS = ("classifier", "score", "lm_head")


@dataclass(frozen=True, eq=False)
class Case:
    """A model with its task and rows."""

    model: Any
    family: Family
    task: Task
    rows: tuple[Tensor, ...] = field(
        default_factory=lambda: tuple(
            torch.randint(1, WORDS, (size,), generator=torch.Generator().manual_seed(size))
            for size in LENGTHS
        )
    )

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in sorted(self.model.named_parameters()) if p.requires_grad}

    @property
    def layout(self) -> Layout:
        return Layout(tuple((name, tuple(p.shape)) for name, p in self.trained.items()))

    def losses(self, at: NDArray[np.int64]) -> Tensor:
        """The mean loss over the real tokens of each of some rows, padded to the longest."""
        rows = [self.rows[row] for row in at]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        # One row of positions for all would have no gradient for each of them.
        given = {"position_ids": torch.arange(ids.shape[1]).expand_as(ids).contiguous()}
        if self.family == "bert":
            given["token_type_ids"] = torch.zeros_like(ids)
        if self.family != "bert":
            given["use_cache"] = False  # type: ignore[assignment]
        logits = self.model(input_ids=ids, attention_mask=mask, **given).logits
        if self.task == "sequence":
            return cross_entropy(logits, ids.sum(dim=1) % CLASSES, reduction="none")
        if self.task == "token":
            targets, counted = ids % CLASSES, mask
        else:
            logits, targets, counted = logits[:, :-1], ids[:, 1:], mask[:, 1:]
        each = cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        return (each * counted).sum(dim=1) / counted.sum(dim=1)

    def batch(self, *rows: int) -> MicroBatch:
        at = np.array(rows)
        return MicroBatch(lambda: self.losses(at), UNITS[at])

    def everyone(self) -> list[MicroBatch]:
        return [self.batch(*range(len(self.rows)))]


def naive(case: Case, bound: float) -> NDArray[np.float64]:
    """Gradients of one row at a time, summed by unit, cut, summed."""
    total = np.zeros(case.layout.size)
    for unit in np.unique(UNITS):
        gradient = np.zeros(case.layout.size)
        for row in np.flatnonzero(unit == UNITS):
            parts = torch.autograd.grad(
                case.losses(np.array([row]))[0], list(case.trained.values()), materialize_grads=True
            )
            gradient += torch.cat([part.reshape(-1) for part in parts]).double().numpy()
        total += gradient * min(1.0, bound / (float(np.linalg.norm(gradient)) + 1e-6))
    return total


def whole(family: Family, task: Task, *, attention: str = "sdpa", **options: Any) -> Case:
    """A model of which every tensor is trained."""
    torch.manual_seed(0)
    config = _CONFIGS[family](
        vocab_size=WORDS,
        max_position_embeddings=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **options,
    )
    config.num_labels = CLASSES
    config.is_decoder = task == "causal"
    config._attn_implementation = attention
    model = getattr(transformers, _MODELS[family][task])(config)
    for parameter in model.parameters():  # as after some training, so that no gradient is nearly zero
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    return Case(model.eval(), family, task)


def adapted(family: Family, task: Task, *, attention: str = "sdpa") -> Case:
    """A model with LoRA, and a trained head where that is a layer of its own."""
    case = whole(family, task, attention=attention, tie_word_embeddings=False)
    case.model.requires_grad_(False)
    config = LoraConfig(r=2, lora_alpha=4, target_modules=_TARGETS[family], fan_in_fan_out=family == "gpt2")
    inject_adapter_in_model(config, case.model)
    for name, parameter in case.model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.3)
        parameter.requires_grad_("lora_" in name or name.split(".")[0] in _HEADS)
    return case


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_lora_and_head(family: Family, task: Task, attention: str) -> None:
    case = adapted(family, task, attention=attention)
    engine = engine_for(case.model, case.layout, case.trained)
    assert isinstance(engine, FusedEngine)
    found = engine.clipped(case.everyone(), 1.0).values
    expected = naive(case, 1.0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert np.linalg.norm(expected) > 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_book_is_as_exact(family: Family) -> None:
    case = adapted(family, "token")
    engine = FusedEngine(case.model, case.layout, case.trained, buffer_bytes=2000)
    found = engine.clipped(case.everyone(), 1.0).values
    np.testing.assert_allclose(found, naive(case, 1.0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_micro_batches_of_one_batch_give_the_sum_of_the_whole(family: Family) -> None:
    case = adapted(family, "causal")
    engine = engine_for(case.model, case.layout, case.trained)
    together = engine.clipped(case.everyone(), 1.0).values
    apart = engine.clipped([case.batch(1, 3), case.batch(0), case.batch(2)], 1.0).values
    np.testing.assert_allclose(apart, together, rtol=0, atol=1e-6)


@pytest.mark.parametrize("buffer_bytes", [2000, 1 << 20])
@pytest.mark.parametrize("family", FAMILIES)
def test_under_bfloat16_close_and_cut_to_the_bound(family: Family, buffer_bytes: int) -> None:
    case = whole(family, "token") if family == "llama" else adapted(family, "token")
    for layer in case.model.modules():
        if isinstance(layer, nn.Embedding):
            layer.requires_grad_(False)
    engine = FusedEngine(case.model, case.layout, case.trained, buffer_bytes=buffer_bytes)

    def narrow() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return case.losses(np.arange(len(UNITS))).float()

    found = engine.clipped([MicroBatch(narrow, UNITS)], 1.0).values
    np.testing.assert_allclose(found, naive(case, 1.0), rtol=0, atol=0.05)
    one = engine.clipped([MicroBatch(narrow, 0 * UNITS)], 1e-3).values
    assert float(np.linalg.norm(one)) == pytest.approx(1e-3, rel=2e-3)
    assert float(np.linalg.norm(one)) <= 1e-3


@pytest.mark.parametrize("bound", [1.0, 1e4])  # all units are cut; none is
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_through_the_hooks(family: Family, task: Task, bound: float) -> None:
    case = whole(family, task, tie_word_embeddings=False)
    engine = engine_for(case.model, case.layout, case.trained)
    assert isinstance(engine, HooksEngine)
    found, expected = engine.clipped(case.everyone(), bound).values, naive(case, bound)
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


class TestTiedEmbeddings:
    """The output layer of a causal model uses the weight of the embedding."""

    @pytest.mark.parametrize("family", ["gpt2", "llama"])
    def test_the_hooks_sum_both_uses(self, family: Family) -> None:
        case = whole(family, "causal", tie_word_embeddings=True)
        assert not any(name.startswith("lm_head") for name in case.trained)
        found = engine_for(case.model, case.layout, case.trained).clipped(case.everyone(), 1.0).values
        expected = naive(case, 1.0)
        assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)

    def test_a_bias_that_stands_twice_in_one_layer_is_refused(self) -> None:
        case = whole("bert", "causal", tie_word_embeddings=True)
        with pytest.raises(ModelError, match=r"cls\.predictions uses one tensor in two places") as caught:
            engine_for(case.model, case.layout, case.trained)
        assert caught.value.id == "layer_unsupported"


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_every_tensor_but_the_embeddings_is_fused(family: Family) -> None:
    case = whole(family, "token")
    for layer in case.model.modules():
        if isinstance(layer, nn.Embedding):
            layer.requires_grad_(False)
    engine = engine_for(case.model, case.layout, case.trained)
    assert isinstance(engine, FusedEngine)
    found, expected = engine.clipped(case.everyone(), 1.0).values, naive(case, 1.0)
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)
    assert any("orm.weight" in name for name in case.trained)


class TestCheckpointing:
    """Activations are formed a second time in the backward pass."""

    def checkpointed(self, case: Case, *, reentrant: bool) -> Case:
        case.model.train()  # without dropout; the only mode in which these models checkpoint
        case.model.activation_checkpointing_enable({"use_reentrant": reentrant})
        return case

    @pytest.mark.parametrize("reentrant", [False, True])
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("buffer_bytes", [2000, 1 << 20])
    def test_lora_with_both_kinds(self, family: Family, reentrant: bool, buffer_bytes: int) -> None:
        case = adapted(family, "sequence")
        expected = naive(case, 1.0)
        self.checkpointed(case, reentrant=reentrant)
        engine = FusedEngine(case.model, case.layout, case.trained, buffer_bytes=buffer_bytes)
        found = engine.clipped(case.everyone(), 1.0).values
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_the_reentrant_kind_below_a_frozen_embedding_is_refused(self, family: Family) -> None:
        case = self.checkpointed(adapted(family, "sequence"), reentrant=True)
        case.model.disable_input_require_grads()  # what transformers lets the embedding's output require
        engine = engine_for(case.model, case.layout, case.trained)
        with (
            pytest.warns(UserWarning, match="None of the inputs have requires_grad"),
            pytest.raises(ModelError, match="got no gradient"),
        ):
            engine.clipped(case.everyone(), 1.0)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_hooks_take_the_reentrant_kind(self, family: Family) -> None:
        case = whole(family, "sequence")
        expected = naive(case, 1.0)
        self.checkpointed(case, reentrant=True)
        engine = engine_for(case.model, case.layout, case.trained)
        found = engine.clipped(case.everyone(), 1.0).values
        assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_hooks_refuse_the_other_kind(self, family: Family) -> None:
        case = self.checkpointed(whole(family, "sequence"), reentrant=False)
        engine = engine_for(case.model, case.layout, case.trained)
        with pytest.raises(ModelError) as caught:
            engine.clipped(case.everyone(), 1.0)
        assert caught.value.id == "layer_unsupported"


def test_without_positions_of_each_row_the_hooks_refuse() -> None:
    case = whole("gpt2", "token")
    ids = torch.stack([row[:4] for row in case.rows])
    part = MicroBatch(lambda: case.model(input_ids=ids).logits.square().mean(dim=(1, 2)), UNITS)
    with pytest.raises(ModelError) as caught:
        engine_for(case.model, case.layout, case.trained).clipped([part], 1.0)
    assert caught.value.id == "layer_unsupported"
