"""An exported folder loads here and with plain PEFT, and says nothing of the machine."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cloister.client.learn import export
from cloister.client.learn.adapters import pool
from cloister.client.learn.evaluation import probabilities
from cloister.client.learn.features import Tokens
from cloister.client.learn.model import tokenize
from cloister.privacy.canonical import digest
from cloister.privacy.clauses import Adapter, Aggregation, Base, Party, Privacy, Rows, Site, Training
from cloister.privacy.errors import ModelError
from cloister.privacy.layout import Layout, Placement, layout
from cloister.privacy.model import BaseModel, describe
from cloister.privacy.plan import Plan
from cloister.privacy.task import Task
from tests import models

LABELS = ("cardiology", "neurology", "gastro", "endocrine")
TEXTS = ["chest pain since monday", "headache", "card"]
SOME = digest(b"some")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return describe(models.write(tmp_path_factory.mktemp("models") / "tiny"))


def plan_of(base: BaseModel, top_layers: int) -> tuple[Plan, Layout]:
    order = layout(base.tensors, base.hidden, Placement(3, ("query", "value"), top_layers, len(LABELS)))
    adapter = Adapter(
        rank=3,
        alpha=models.ALPHA,
        targets=("query", "value"),
        top_layers=top_layers,
        seed=SOME,
        parameters=order.size,
        layout=order.digest(),
    )
    site = Site(name="hill", identity=SOME, code=SOME, dataset="notes", rows=Rows(low=10, high=20))
    plan = Plan(
        consortium="valley",
        purpose="test",
        nonce="0" * 32,
        roster=SOME,
        lead=Party(name="lead", identity=SOME, code=SOME),
        sites=(site,),
        base=Base(name=base.name, digest=base.digest, max_tokens=16),
        task=Task(labels=LABELS),
        adapter=adapter,
        training=Training(rounds=1, steps=1, rate=1.0, optimizer="sgd", head_rate=1.0, adapter_rate=1.0),
        privacy=Privacy(mode="off", bound=1.0, noise_multiplier=0.0, epsilon=0.0, delta=0.0),
        aggregation=Aggregation(minimum_sites=1),
    )
    return plan, order


@pytest.fixture(params=[0, 2], ids=["head only", "two layers"])
def exported(request: pytest.FixtureRequest, base: BaseModel, tmp_path: Path) -> Path:
    plan, order = plan_of(base, request.param)
    export.save(tmp_path / "model", order, plan, models.vector(order.size))
    return tmp_path / "model"


def test_what_was_saved_is_what_was_trained(exported: Path, base: BaseModel) -> None:
    loaded = export.load(exported, base)
    placed = models.classifier(top_layers=2 if (exported / "adapter_config.json").exists() else 0)
    ids = tokenize(base, TEXTS, 16)
    expected = probabilities(placed, Tokens(ids), models.vector(placed.layout.size))
    np.testing.assert_array_equal(loaded.probabilities(TEXTS), expected)
    assert loaded.predict(TEXTS) == [LABELS[row] for row in expected.argmax(axis=1)]
    assert loaded.predict([]) == []


def test_it_is_loaded_to_a_device(exported: Path, base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def load(base: BaseModel, device: str = "cpu") -> torch.nn.Module:
        seen.append(device)
        return models.encoder()

    monkeypatch.setattr(export, "load_encoder", load)
    export.load(exported, base, "cuda:3")
    export.load(exported, base)
    assert seen == ["cuda:3", "cpu"]


@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)  # between peft and transformers
def test_plain_peft_loads_the_folder(base: BaseModel, tmp_path: Path) -> None:
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModel

    plan, order = plan_of(base, 2)
    export.save(tmp_path, order, plan, models.vector(order.size))
    theirs = PeftModel.from_pretrained(AutoModel.from_pretrained(base.path), tmp_path).eval()
    head = load_file(tmp_path / "head.safetensors")
    settings = json.loads((tmp_path / "config.json").read_text())
    ids = torch.from_numpy(tokenize(base, TEXTS[:1], 16)[0])[None]
    with torch.no_grad():
        states = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        features = settings["scale"] * pool(states, torch.ones_like(ids))
        found = (features @ head["head.weight"].T + head["head.bias"]).softmax(dim=1)
    np.testing.assert_allclose(
        found.numpy(), export.load(tmp_path, base).probabilities(TEXTS[:1]), rtol=0, atol=1e-6
    )
    assert settings["labels"] == list(LABELS)


def test_no_path_of_the_machine_is_written(exported: Path, base: BaseModel) -> None:
    for file in exported.iterdir():
        assert str(base.path).encode() not in file.read_bytes()


def test_another_base_model_is_refused(exported: Path, base: BaseModel) -> None:
    other = BaseModel(base.name, base.path, digest(b"another"))
    with pytest.raises(ModelError) as caught:
        export.load(exported, other)
    assert caught.value.id == "model_mismatch"


@pytest.mark.parametrize("name", ["config.json", "head.safetensors"])
@pytest.mark.parametrize("data", [None, b"", b"{}"])
def test_a_damaged_folder_is_refused(exported: Path, base: BaseModel, name: str, data: bytes | None) -> None:
    (exported / name).unlink()
    if data is not None:
        (exported / name).write_bytes(data)
    with pytest.raises(ModelError) as caught:
        export.load(exported, base)
    assert caught.value.id == "adapter_invalid"


def test_labels_that_do_not_fit_the_head_are_refused(exported: Path, base: BaseModel) -> None:
    settings = json.loads((exported / "config.json").read_text())
    settings["labels"].append("one more")
    (exported / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="number of labels"):
        export.load(exported, base)


def test_a_vector_of_another_length_is_refused(base: BaseModel, tmp_path: Path) -> None:
    plan, order = plan_of(base, 2)
    with pytest.raises(ModelError):
        export.save(tmp_path, order, plan, models.vector(order.size - 1))
    assert list(tmp_path.iterdir()) == []
