"""Rows of each task as a step sees them, against loops that take one row at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.nn.functional import cross_entropy

from cloister.client.learn import export, tasks
from cloister.client.learn.adapters import Tagger, Writer, set_flat
from cloister.client.learn.documents import NOTHING, Answered, Tagged
from cloister.client.learn.instruction import Form
from cloister.client.learn.training import LocalTrainer
from cloister.client.site.records import Records
from cloister.client.site.tagging import entities
from cloister.privacy import canonical
from cloister.privacy.errors import ModelError, PlanError
from cloister.privacy.layout import initial
from cloister.privacy.model import BaseModel, describe
from cloister.privacy.plan import Plan
from cloister.privacy.step.coverage import engine_for
from cloister.privacy.step.fused import FusedEngine
from cloister.server.proposal import draft
from cloister.server.terms import Terms
from tests import models
from tests.server.test_proposal import CODE, OFFERS, ROSTER

ANSWERS = Terms("a test", (), task="causal-lm", max_tokens=64)
TAGS = Terms("a test", ("O", "B-X", "I-X"), task="token-classification", max_tokens=32)
PAIRS = Terms("a test", ("same", "other"), pair=True, max_tokens=32)
ASKED = Records(
    ("what helps?", "why", "how long does it last, and what then?"),
    ("rest", "because of it", "long"),
    kind="causal-lm",
)
TAGGED = Records(
    ('["chest", "pain", "monday"]', "head ache", '["card"]'),
    (
        '["B-X", "I-X", "O"]',
        '[{"start": 0, "end": 9, "label": "X"}]',
        '["O"]',
    ),
    kind="token-classification",
)
PAIRED = Records(("chest pain", "head"), ("same", "other"), seconds=("pain", "card since monday"))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return describe(models.write(tmp_path_factory.mktemp("reader")))


@pytest.fixture(scope="module", params=["gpt2", "llama", "chat"])
def writer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    kind, template = ("llama", models.CHAT) if request.param == "chat" else (request.param, None)
    return describe(models.write_writer(tmp_path_factory.mktemp(request.param), kind, template))


def made(terms: Terms, base: BaseModel) -> tuple[Plan, Any, np.ndarray[Any, Any]]:
    """A plan, its model with random parameters, and these."""
    plan, _ = draft(terms, ROSTER, OFFERS, base, CODE)
    model = tasks.placed(plan, base, tasks.require_base(plan, base))
    vector = models.vector(plan.adapter.parameters)
    set_flat(model, vector)
    return plan, model, vector


class TestAnswers:
    """Loss on the answer's tokens, none on the instruction's."""

    def test_the_loss_is_the_mean_over_the_answers_tokens(self, writer: BaseModel) -> None:
        plan, model, _ = made(ANSWERS, writer)
        found = tasks.documents(plan, writer, model, ASKED)
        losses = found.losses(np.array([2, 0, 1])).detach()
        turns = Form.of(writer).turns(ASKED.texts, ASKED.labels, 64)
        for loss, row in zip(losses, (2, 0, 1), strict=True):
            ids, start = torch.from_numpy(turns.ids[row])[None], int(turns.starts[row])
            assert start >= 1
            logits = model(ids, torch.ones_like(ids))[0, start - 1 : -1]
            torch.testing.assert_close(loss, cross_entropy(logits, ids[0, start:]))

    def test_answers_are_what_follows_the_prompt_and_end_in_an_end(self, writer: BaseModel) -> None:
        form = Form.of(writer)
        turns = form.turns(ASKED.texts, ASKED.labels, 200)
        for row, answer in enumerate(ASKED.labels):
            start = turns.starts[row]
            told = form.tokenizer.decode(turns.ids[row][start:])
            assert told.strip() == f"{answer}</s>"
            assert turns.ids[row][:start].tolist() == form.prompt(ASKED.texts[row])
            assert ASKED.texts[row] in form.tokenizer.decode(turns.ids[row][:start])

    def test_a_long_row_is_cut_and_keeps_an_answer(self, writer: BaseModel) -> None:
        form = Form.of(writer)
        for question, answer in (("q" * 500, "a" * 500), ("q" * 500, "a"), ("q", "a" * 500)):
            turns = form.turns([question], [answer], 32)
            assert len(turns.ids[0]) <= 32
            assert 1 <= turns.starts[0] < len(turns.ids[0])
            assert turns.ids[0][0] == form.prompt(question)[0]
        both = form.turns(["q" * 500], ["a" * 500], 32)
        assert both.starts[0] == 16

    def test_the_fused_engine_takes_it_and_nothing_but_lora_is_trained(self, writer: BaseModel) -> None:
        plan, model, _ = made(ANSWERS, writer)
        assert isinstance(model, Writer)
        assert all("lora_" in name for name in model.trained)
        assert isinstance(engine_for(model, model.layout, model.trained), FusedEngine)
        LocalTrainer(model, tasks.documents(plan, writer, model, ASKED))

    def test_its_worth_is_the_loss_of_all_rows(self, writer: BaseModel) -> None:
        plan, model, _ = made(ANSWERS, writer)
        found = tasks.documents(plan, writer, model, ASKED)
        worth = found.worth()
        assert worth.loss == pytest.approx(float(found.losses(np.arange(3)).detach().mean()), rel=1e-5)
        assert worth.rows == 3
        assert 0 <= worth.accuracy <= 1

    @pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT's own call
    def test_other_programs_load_what_is_exported(self, writer: BaseModel, tmp_path: Path) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        plan, model, vector = made(ANSWERS, writer)
        export.save(tmp_path, model.layout, plan, vector, writer.stem)
        assert not (tmp_path / "head.safetensors").exists()
        theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(writer.path), tmp_path).eval()
        ids = torch.from_numpy(Form.of(writer).turns(["why"], ["so"], 64).ids[0])[None]
        with torch.no_grad():
            torch.testing.assert_close(theirs(input_ids=ids).logits, model(ids, torch.ones_like(ids)))
        names = sorted(load_file(tmp_path / "adapter_model.safetensors"))
        assert len(names) == len(model.layout.tensors)
        with pytest.raises(ModelError, match="not an exported classifier"):
            export.load(tmp_path, writer)


class TestTags:
    """A tag of each word, at its first token."""

    @pytest.mark.parametrize("top_layers", [0, 1, 3])
    def test_the_loss_is_the_mean_over_the_words(self, reader: BaseModel, top_layers: int) -> None:
        plan, model, _ = made(replace(TAGS, top_layers=top_layers), reader)
        assert isinstance(model, Tagger)
        found = tasks.documents(plan, reader, model, TAGGED)
        assert isinstance(found, Tagged)
        losses = found.losses(np.array([1, 2, 0])).detach()
        assert [sum(row != NOTHING) for row in found._targets] == [3, 2, 1]
        tokens, targets = tasks.tokens_of_words(reader, TAGGED.tags(TAGS.labels), 32)
        for loss, row in zip(losses, (1, 2, 0), strict=True):
            ids, target = torch.from_numpy(tokens[row])[None], torch.from_numpy(targets[row])
            each = cross_entropy(model(ids, torch.ones_like(ids))[0], target)
            torch.testing.assert_close(loss, each, rtol=1e-4, atol=1e-5)

    def test_its_worth_counts_whole_entities(self, reader: BaseModel) -> None:
        plan, model, _ = made(TAGS, reader)
        with torch.no_grad():
            model.head.weight.zero_()
            model.head.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))  # every word begins an entity
        worth = tasks.documents(plan, reader, model, TAGGED).worth()
        assert worth.accuracy == pytest.approx((1 / 3 + 1 / 2 + 0) / 3)
        assert worth.f1 == 0.0

    def test_entities(self) -> None:
        tags = ["B-X", "I-X", "O", "I-Y", "B-X", "B-X", "I-Y"]
        assert list(entities(tags)) == [(0, 2, "X"), (3, 4, "Y"), (4, 5, "X"), (5, 6, "X"), (6, 7, "Y")]


class TestPairs:
    """Two texts in one row."""

    def test_both_texts_and_their_order_count(self, reader: BaseModel) -> None:
        plan, model, _ = made(PAIRS, reader)
        rows = np.arange(2)
        with torch.no_grad():
            found = tasks.documents(plan, reader, model, PAIRED).losses(rows)
            turned = replace(PAIRED, texts=PAIRED.seconds or (), seconds=PAIRED.texts)
            other = tasks.documents(plan, reader, model, turned).losses(rows)
            alone = tasks.documents(plan, reader, model, replace(PAIRED, seconds=("", ""))).losses(rows)
        assert not torch.allclose(found, other)
        assert not torch.allclose(found, alone)


class TestRefusals:
    """What does not go together is refused, and no record is needed for that."""

    def test_a_base_that_cannot_generate(self, reader: BaseModel) -> None:
        with pytest.raises(PlanError, match="cannot learn to answer") as caught:
            draft(ANSWERS, ROSTER, OFFERS, reader, CODE)
        assert caught.value.id == "task_unsupported"

    def test_a_base_without_its_output_layer(self, tmp_path: Path) -> None:
        from transformers import AutoModel

        whole = models.write_writer(tmp_path / "whole", "llama")
        AutoModel.from_pretrained(whole).save_pretrained(whole)
        with pytest.raises(PlanError, match="no output layer") as caught:
            draft(ANSWERS, ROSTER, OFFERS, describe(whole), CODE)
        assert caught.value.id == "task_unsupported"

    @pytest.mark.parametrize(
        ("template", "says"),
        [
            (
                "{{ messages | map(attribute='content') | join }}{{ ':' if add_generation_prompt }}",
                "begin",
            ),
            ("{{ raise_exception('no') }}", "lay out"),
        ],
    )
    def test_a_template_in_which_no_answer_can_be_found(
        self, tmp_path: Path, template: str, says: str
    ) -> None:
        base = describe(models.write_writer(tmp_path / "odd", "gpt2", template))
        plan, _ = draft(ANSWERS, ROSTER, OFFERS, base, CODE)
        with pytest.raises(ModelError, match=says) as caught:
            tasks.require_base(plan, base)
        assert caught.value.id == "tokenizer_unfit"

    def test_a_tokenizer_that_ends_nothing(self, tmp_path: Path) -> None:
        import json

        folder = models.write_writer(tmp_path / "endless")
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text())
        path.write_text(json.dumps(settings | {"eos_token": None}))
        base = describe(folder)
        plan, _ = draft(ANSWERS, ROSTER, OFFERS, base, CODE)
        with pytest.raises(ModelError, match="no token that ends") as caught:
            tasks.require_base(plan, base)
        assert caught.value.id == "tokenizer_unfit"

    def test_a_tokenizer_without_a_separator(self, tmp_path: Path) -> None:
        base = describe(models.write_writer(tmp_path / "plain"))
        plan, _ = draft(PAIRS, ROSTER, OFFERS, base, CODE)
        with pytest.raises(ModelError, match="nothing between") as caught:
            tasks.require_base(plan, base)
        assert caught.value.id == "tokenizer_unfit"

    @pytest.mark.parametrize(
        ("terms", "says"),
        [
            (replace(ANSWERS, top_layers=0), "LoRA alone"),
            (replace(TAGS, canaries=40), "Canaries"),
            (replace(PAIRS, canaries=40), "Canaries"),
            (replace(TAGS, labels=("O", "I-X")), "tags are O"),
            (replace(ANSWERS, labels=("a", "b")), "no labels"),
            (replace(TAGS, pair=True), "pairs of texts"),
        ],
    )
    def test_terms_that_say_nothing_together(self, reader: BaseModel, terms: Terms, says: str) -> None:
        with pytest.raises(PlanError, match=says):
            draft(terms, ROSTER, OFFERS, reader, CODE)


def test_gpt2_which_keeps_its_maps_turned_has_the_layout_of_linear_ones(tmp_path: Path) -> None:
    base = describe(models.write_writer(tmp_path / "turned"))
    plan, start = draft(ANSWERS, ROSTER, OFFERS, base, CODE)
    order = tasks.require_base(plan, base)
    assert dict(order.tensors) == {
        "h.1.attn.c_attn.lora_A.weight": (8, 32),
        "h.1.attn.c_attn.lora_B.weight": (96, 8),
    }
    np.testing.assert_array_equal(start, initial(order, plan.adapter.seed))


def test_plans_of_old_have_the_bytes_of_old(reader: BaseModel) -> None:
    plan, _ = draft(Terms("a test", ("a", "b")), ROSTER, OFFERS, reader, CODE)
    value: Any = canonical.decode(plan.to_bytes())
    assert value["task"] == {"kind": "sequence-classification", "labels": ["a", "b"]}
    assert value["adapter"]["targets"] == ["query", "value"]


def test_one_row_is_one_sample(reader: BaseModel, tmp_path: Path) -> None:
    base = describe(models.write_writer(tmp_path / "writer"))
    plan, model, _ = made(ANSWERS, base)
    short = Records(("why",), ("so",), kind="causal-lm")
    both = Records(("why", "why"), ("so", "so, and so on " * 3), kind="causal-lm")
    alone = tasks.documents(plan, base, model, short)
    beside = tasks.documents(plan, base, model, both)
    assert isinstance(beside, Answered)
    torch.testing.assert_close(alone.losses(np.array([0]))[0], beside.losses(np.array([0, 1]))[0])
