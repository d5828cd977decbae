"""LoRA and head on a frozen encoder, and the flat vector that holds all that is trained."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cloister.client.learn.adapters import get_flat, place, pool, set_flat
from cloister.privacy.errors import ModelError
from cloister.privacy.layout import Layout, initial
from tests import models

SEED = "sha256:" + "5e" * 32


@pytest.mark.parametrize("top_layers", [0, 1, 3])
def test_exactly_the_layout_is_trained(top_layers: int) -> None:
    placed = models.classifier(top_layers=top_layers)
    trainable = [parameter for parameter in placed.parameters() if parameter.requires_grad]
    assert sum(parameter.numel() for parameter in trainable) == placed.layout.size
    assert {name: tuple(p.shape) for name, p in placed.trained.items()} == dict(placed.layout.tensors)


def test_lora_sits_in_the_top_layers_only() -> None:
    names = [name for name in models.classifier(top_layers=1).trained if "lora" in name]
    assert len(names) == 4
    assert all(name.startswith("encoder.layer.2.attention.self.") for name in names)


def test_a_vector_comes_back_as_it_was_set() -> None:
    placed = models.classifier()
    values = models.vector(placed.layout.size, seed=9)
    set_flat(placed, values)
    np.testing.assert_array_equal(get_flat(placed), values)
    name, shape, part = list(placed.layout.slices())[-1]
    np.testing.assert_array_equal(placed.trained[name].detach().numpy(), values[part].reshape(shape))


def test_the_model_keeps_a_copy_of_the_vector() -> None:
    placed = models.classifier()
    values = models.vector(placed.layout.size, seed=9)
    set_flat(placed, values)
    kept = get_flat(placed)
    values[:] = 0
    np.testing.assert_array_equal(get_flat(placed), kept)
    assert kept.any()


def test_a_vector_of_another_length_is_refused() -> None:
    placed = models.classifier()
    with pytest.raises(ModelError) as caught:
        set_flat(placed, np.zeros(placed.layout.size + 1, dtype=np.float32))
    assert caught.value.id == "adapter_invalid"


def test_at_the_start_features_are_those_of_the_base_model_and_no_class_is_preferred() -> None:
    placed = models.classifier()
    set_flat(placed, initial(placed.layout, SEED))
    ids = torch.from_numpy(models.documents(1)[0])[None]
    mask = torch.ones_like(ids)
    with torch.no_grad():
        expected = pool(models.encoder()(input_ids=ids, attention_mask=mask).last_hidden_state, mask)
        torch.testing.assert_close(placed.pooled(ids, mask), expected)
        torch.testing.assert_close(placed(ids, mask), torch.zeros(1, 4))


def test_lora_changes_what_the_encoder_says() -> None:
    placed = models.classifier()
    ids = torch.from_numpy(models.documents(1)[0])[None]
    mask = torch.ones_like(ids)
    with torch.no_grad():
        plain = pool(models.encoder()(input_ids=ids, attention_mask=mask).last_hidden_state, mask)
        assert (placed.pooled(ids, mask) - plain).abs().max() > 0.01


@pytest.mark.parametrize(
    "tensors",
    [
        (("head.bias", (4,)), ("head.weight", (4, 31))),
        (
            ("encoder.layer.9.attention.self.query.lora_A.weight", (3, 32)),
            ("head.bias", (4,)),
            ("head.weight", (4, 32)),
        ),
        (
            ("encoder.layer.2.attention.self.query.lora_A.weight", (3, 32)),
            ("head.bias", (4,)),
            ("head.weight", (4, 32)),
        ),
        (("encoder.layer.2.attention.self.query.lora_A.weight", (3, 32)),),
    ],
    ids=["width", "no such layer", "A without B", "no head"],
)
def test_a_layout_that_does_not_fit_is_refused(tensors: tuple[tuple[str, tuple[int, ...]], ...]) -> None:
    with pytest.raises(ModelError) as caught:
        place(models.encoder(), Layout(tensors), models.ALPHA)
    assert caught.value.id == "adapter_invalid"


@given(st.integers(1, 6), st.integers(0, 5))
def test_padding_changes_no_pooled_feature(tokens: int, padding: int) -> None:
    states = torch.from_numpy(models.vector(tokens * 8).reshape(1, tokens, 8))
    noise = torch.full((1, padding, 8), 1e3)
    mask = torch.tensor([[1] * tokens + [0] * padding])
    padded = pool(torch.cat([states, noise], dim=1), mask)
    torch.testing.assert_close(padded, pool(states, torch.ones(1, tokens)))
    torch.testing.assert_close(padded.norm(), torch.tensor(1.0))
