"""The order of the trained parameters, by hand for a small model, and what cannot be laid out."""

from __future__ import annotations

import json
import struct
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from cloister.privacy import canonical
from cloister.privacy.errors import ModelError
from cloister.privacy.layout import Layout, Placement, depth, initial, layout, shapes

# Two layers of hidden width 4, feed-forward width 6, as BERT names them.
TENSORS: dict[str, tuple[int, ...]] = {"embeddings.word_embeddings.weight": (30, 4)} | {
    f"encoder.layer.{layer}.{name}": shape
    for layer in (0, 1)
    for name, shape in {
        "attention.self.query.weight": (4, 4),
        "attention.self.query.bias": (4,),
        "attention.self.value.weight": (4, 4),
        "attention.output.LayerNorm.weight": (4,),
        "intermediate.dense.weight": (6, 4),
        "output.dense.weight": (4, 6),
    }.items()
}
PLACEMENT = Placement(rank=2, targets=("query", "value"), top_layers=1, classes=3)
QUERY, VALUE = "encoder.layer.1.attention.self.query", "encoder.layer.1.attention.self.value"
KNOWN = (
    (f"{QUERY}.lora_A.weight", (2, 4)),
    (f"{QUERY}.lora_B.weight", (4, 2)),
    (f"{VALUE}.lora_A.weight", (2, 4)),
    (f"{VALUE}.lora_B.weight", (4, 2)),
    ("head.bias", (3,)),
    ("head.weight", (3, 4)),
)
SEED = canonical.digest(b"seed")
KNOWN_START = [-0.2543923854827881, 0.07472848892211914]


def place(**changes: Any) -> Placement:
    return Placement(**({"rank": 2, "targets": ("query", "value"), "top_layers": 1, "classes": 3} | changes))


def test_a_layout_by_hand() -> None:
    made = layout(TENSORS, 4, PLACEMENT)
    assert made.tensors == KNOWN
    assert made.size == 8 + 8 + 8 + 8 + 3 + 12
    places = {name: (place.start, place.stop) for name, _, place in made.slices()}
    assert places == dict(
        zip(
            (name for name, _ in KNOWN),
            [(0, 8), (8, 16), (16, 24), (24, 32), (32, 35), (35, 47)],
            strict=True,
        )
    )
    text = json.dumps([[name, list(shape)] for name, shape in KNOWN], separators=(",", ":"))
    assert made.digest() == canonical.digest(text.encode())


def test_modules_that_are_not_square_and_share_a_last_name() -> None:
    made = dict(layout(TENSORS, 4, place(rank=1, targets=("dense",))).tensors)
    assert made["encoder.layer.1.intermediate.dense.lora_A.weight"] == (1, 4)
    assert made["encoder.layer.1.intermediate.dense.lora_B.weight"] == (6, 1)
    assert made["encoder.layer.1.output.dense.lora_A.weight"] == (1, 6)
    assert made["encoder.layer.1.output.dense.lora_B.weight"] == (4, 1)
    assert len(made) == 6


@pytest.mark.parametrize(("top", "layers"), [(0, set()), (1, {"1"}), (2, {"0", "1"}), (9, {"0", "1"})])
def test_only_the_top_layers_are_adapted(top: int, layers: set[str]) -> None:
    names = [name for name, _ in layout(TENSORS, 4, place(top_layers=top)).tensors]
    assert {name.split(".")[2] for name in names if "lora" in name} == layers
    assert len(names) == 2 + 4 * len(layers)


@given(st.permutations(list(TENSORS)))
def test_the_order_of_the_files_leaves_no_trace(names: list[str]) -> None:
    assert layout({name: TENSORS[name] for name in names}, 4, PLACEMENT).tensors == KNOWN


@pytest.mark.parametrize(
    "changed",
    [place(rank=3), place(targets=("query",)), place(top_layers=2), place(classes=4), place(top_layers=0)],
    ids=str,
)
def test_every_public_fact_is_in_the_digest(changed: Placement) -> None:
    assert layout(TENSORS, 4, changed).digest() != layout(TENSORS, 4, PLACEMENT).digest()
    assert layout(TENSORS, 5, PLACEMENT).digest() != layout(TENSORS, 4, PLACEMENT).digest()


@pytest.mark.parametrize(
    "targets",
    [("key",), ("query", "valeu"), ("LayerNorm",), ("self",), ("",), ("query.weight",), ("encoder",)],
    ids=str,
)
def test_a_target_that_is_no_linear_module_is_refused(targets: tuple[str, ...]) -> None:
    with pytest.raises(ModelError) as caught:
        layout(TENSORS, 4, place(targets=targets))
    assert caught.value.id == "adapter_invalid"


def test_a_target_of_lower_layers_only_is_refused() -> None:
    tensors = {name: shape for name, shape in TENSORS.items() if "layer.1.attention.self.value" not in name}
    with pytest.raises(ModelError) as caught:
        layout(tensors, 4, PLACEMENT)
    assert caught.value.id == "adapter_invalid"
    assert "value" in caught.value.what
    assert "query" not in caught.value.what


def test_a_target_that_is_linear_in_one_place_only_is_refused() -> None:
    tensors = TENSORS | {"encoder.layer.1.pooler.query.weight": (4,)}
    with pytest.raises(ModelError) as caught:
        layout(tensors, 4, PLACEMENT)
    assert caught.value.id == "adapter_invalid"


def test_a_model_without_layers_takes_a_head_only() -> None:
    tensors = {"embeddings.weight": (30, 4)}
    assert layout(tensors, 4, place(top_layers=0)).tensors == KNOWN[4:]
    with pytest.raises(ModelError) as caught:
        layout(tensors, 4, PLACEMENT)
    assert caught.value.id == "adapter_invalid"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], 0),
        (["embeddings.weight"], 0),
        (["encoder.layer.0.x", "encoder.layer.11.x"], 12),
        (["model.layers.3.mlp.weight"], 4),
        (["h.5.attn.weight", "h.10.attn.weight"], 11),
        (["layers.weight", "player.7.x", "health.9.x"], 0),
    ],
)
def test_the_depth_of_the_usual_families(names: list[str], expected: int) -> None:
    assert depth(names) == expected


# The start


def test_a_start_by_hand() -> None:
    made = layout(TENSORS, 4, PLACEMENT)
    values = initial(made, SEED)
    stream = Cipher(algorithms.AES(canonical.raw(SEED)), modes.CTR(bytes(16))).encryptor().update(bytes(64))
    drawn = [(word / 2**31 - 1) / 2 for word in struct.unpack("<16I", stream)]  # sqrt(4) is 2
    expected = np.zeros(47, dtype=np.float32)
    expected[0:8], expected[16:24] = drawn[:8], drawn[8:]
    assert values.dtype == np.float32
    assert values.tobytes() == expected.tobytes()
    assert values[:2].tolist() == KNOWN_START


def test_the_start_depends_on_the_seed_alone() -> None:
    made = layout(TENSORS, 4, PLACEMENT)
    np.random.seed(0)  # a global seed must change nothing
    first = initial(made, SEED)
    np.random.seed(1)
    assert initial(made, SEED).tobytes() == first.tobytes()
    assert initial(made, canonical.digest(b"other")).tobytes() != first.tobytes()


def test_the_start_is_spread_over_its_range_and_never_leaves_it() -> None:
    values = initial(Layout((("a.lora_A.weight", (50, 100)), ("a.lora_B.weight", (100, 50)))), SEED)
    drawn, bound = values[:5000], np.float32(1 / sqrt(100))
    assert np.abs(drawn).max() <= bound
    assert abs(float(drawn.mean())) < 0.1 * bound
    assert abs(float(drawn.std()) * sqrt(3) / bound - 1) < 0.05
    assert not values[5000:].any()


@pytest.mark.parametrize("seed", ["", "sha256:00", "0" * 64])
def test_a_seed_is_a_digest(seed: str) -> None:
    with pytest.raises(ValueError):
        initial(layout(TENSORS, 4, PLACEMENT), seed)


# Files


def test_shapes_of_real_files(tmp_path: Path) -> None:
    one = {"a.weight": np.zeros((2, 3), np.float32), "scalar": np.zeros((), np.float32)}
    save_file(one, tmp_path / "1.safetensors", metadata={"format": "pt"})
    save_file({"b": np.zeros((0, 4), np.float32)}, tmp_path / "2.safetensors")
    found = shapes([tmp_path / "1.safetensors", tmp_path / "2.safetensors"])
    assert found == {"a.weight": (2, 3), "scalar": (), "b": (0, 4)}


def framed(header: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        framed(b""),
        framed(b"{"),
        framed(b"null"),
        framed(b"[]"),
        framed(b'{"a":1}'),
        framed(b'{"a":{}}'),
        framed(b'{"a":{"shape":null}}'),
        framed(b'{"a":{"shape":7}}'),
        framed(b'{"a":{"shape":"12"}}'),
        framed(b'{"a":{"shape":{"1":2}}}'),
        framed(b'{"a":{"shape":[1.5]}}'),
        framed(b'{"a":{"shape":[true]}}'),
        framed(b'{"a":{"shape":["1"]}}'),
        framed(b'{"a":{"shape":[-1]}}'),
        framed(b'{"a":{"shape":[1]}}', 2**64 - 1),
        framed(b'{"a":{"shape":[1]}}', 20),
        framed(b"[" * 100_000),
        framed(b"\xff\xfe"),
        b"\x80\x05\x95pickled",
        b"PK\x03\x04 a zip of pickles",
    ],
    ids=lambda data: repr(data)[:40],
)
def test_a_file_that_is_not_safetensors_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(ModelError) as caught:
        shapes([tmp_path / "model.safetensors"])
    assert caught.value.id == "model_unsafe"
