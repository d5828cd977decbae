"""What people read of a model of rows of a table: that it is one, and nothing of a base model."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cloister.privacy.evidence.card import card, loading_code
from cloister.privacy.evidence.evidence import Evidence
from cloister.privacy.evidence.papers.annex import annex
from cloister.privacy.evidence.papers.bom import bom
from cloister.privacy.evidence.papers.processing import record
from cloister.privacy.evidence.papers.registry import entry
from cloister.privacy.evidence.render import render
from tests import tables
from tests.privacy.test_table import table_plan
from tests.reports import replanned


def told(hidden: int | None = None) -> dict[str, Any]:
    """The evidence of the vector, had its plan been for rows of a table."""
    terms = table_plan()
    adapter = terms["adapter"] | ({"hidden": hidden} if hidden else {})
    value = replanned(task=terms["task"], base=terms["base"], adapter=adapter)
    value["model"] |= {
        "base": terms["base"]["name"],
        "base_digest": tables.TABLE.digest,
        "parameters": str(adapter["parameters"]),
    }
    return value


@pytest.mark.parametrize(("hidden", "words"), [(None, "a linear model"), (7, "one hidden layer of 7")])
def test_the_card(hidden: int | None, words: str) -> None:
    found = card(told(hidden))
    assert 'pipeline_tag: "tabular-classification"' in found
    assert 'library_name: "cloister"' in found
    assert "Sorts rows of a table into 2 classes: no, yes; by the columns age, chol, sex, pain." in found
    assert f"{words}" in found
    assert "without a base model" in found
    for claim in ("transformers", "AutoModel", "on top of", "base_model:", "has the digest above"):
        assert claim not in found
    code = loading_code(Evidence.from_json(told(hidden)))
    compile(code, "card", "exec")
    assert "{'age': ['55'], 'chol': ['250'], 'sex': ['f'], 'pain': ['1']}" in code


def test_the_papers() -> None:
    found = Evidence.from_json(told(7))
    made = json.loads(bom(found))
    assert "base-model" not in json.dumps(made)
    card_ = made["metadata"]["component"]["modelCard"]["modelParameters"]
    assert card_["architectureFamily"] == "dense"
    assert card_["modelArchitecture"].startswith("one hidden layer of 7")
    assert card_["inputs"] == [{"format": "row of a table"}]
    filled = annex(found).decode()
    assert '"pre_trained": "none"' in filled.replace('":"', '": "')
    assert '"age"' in filled
    filed = entry(found).decode()
    assert "without a base model" in filed
    assert "classifier of rows of 4 columns" in filed
    assert b"rows of a table with one label each" in record(found, found.plan.sites[0].name)


def test_the_report() -> None:
    for language in ("en", "zh"):
        hidden = render(told(7), language)
        assert "None" not in hidden
    assert "one hidden layer of 7 on the columns" in render(told(7))
    page = render(told())
    assert "sort rows of a table into 2 classes: no, yes" in page
    assert "none; a linear model on the columns: 20 numbers" in page
    assert "sorts rows of a table into classes that were fixed beforehand" in page
    assert "LoRA" not in page
    assert "20 trained numbers on 4 columns of a table, without a base model" in page
    assert "age, chol, sex, pain" in page
    assert "It is public and may have seen these records" not in page
