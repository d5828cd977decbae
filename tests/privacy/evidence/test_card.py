"""The model card: a header that hubs can read, honest sections, and code that really loads the adapter."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloister.privacy.errors import InputError
from cloister.privacy.evidence.card import card, loading_code
from cloister.privacy.evidence.evidence import Evidence
from tests.reports import evidence, licensed, per_person, replanned, without_privacy

HOSTILE = "<script>alert(1)</script>\n# Title\n---\n| a | [b](javascript:c) `d` $e$ ![f](g)"


def header(text: str) -> dict[str, Any]:
    start, block, _ = text.split("---\n", 2)
    assert start == ""
    found: dict[str, Any] = yaml.safe_load(block)
    return found


def headings(text: str) -> list[str]:
    return re.findall(r"^#+ .*$", text, re.MULTILINE)


def named(base: str) -> dict[str, Any]:
    """The evidence of a run on another base model."""
    value = replanned(base=evidence()["plan"]["base"] | {"name": base})
    value["model"]["base"] = base
    return value


def head_only() -> dict[str, Any]:
    return replanned(adapter=evidence()["plan"]["adapter"] | {"top_layers": 0})


def test_the_header_is_what_a_hub_reads() -> None:
    assert header(card(evidence())) == {
        "base_model": "sentence-transformers/all-MiniLM-L6-v2",
        "library_name": "peft",
        "license": "unknown",
        "metrics": ["accuracy"],
        "pipeline_tag": "text-classification",
        "tags": ["cloister", "federated-learning", "differential-privacy"],
    }


def test_the_header_claims_no_more_than_there_is() -> None:
    assert "differential-privacy" not in header(card(without_privacy()))["tags"]
    assert header(card(head_only()))["library_name"] == "transformers"
    assert "base_model" not in header(card(named("our own model")))
    assert header(card(named("owner/model")))["base_model"] == "owner/model"


def test_a_licence_is_that_of_the_base_model_as_it_was_declared() -> None:
    text = card(licensed())
    assert "| licence of the base model | apache-2.0, as the lead declared it |" in text
    assert header(text)["license"] == "unknown"
    assert "licence of the base model" not in card(evidence())


def test_the_sections() -> None:
    assert headings(card(evidence())) == [
        "# Triage notes to departments",
        "## Use",
        "## Privacy: record-level, not person-level",
        "## Accuracy",
        "## Training",
        "## Limits",
    ]


def test_privacy_is_stated_per_site_with_the_worst_case() -> None:
    text = card(evidence())
    assert "| river-practice | 6.31 | 0.00001 | 10 |" in text
    assert "can be right at most 99.97\N{NO-BREAK SPACE}%" in text


def test_the_unit_and_the_neighbours_are_stated() -> None:
    record, person = card(evidence()), card(per_person(most_rows=5))
    assert "one record added to or removed from one site's data" in record
    assert "Somebody with several records" in record
    assert "## Privacy: person-level" in headings(person)
    said = " ".join(person.split())
    assert "one person added to or removed from one site's data with all of that person's rows" in said
    assert "of which at most 5 are used" in said
    assert "| site | epsilon per person | delta | budget |" in person
    assert "record-level" not in person
    assert "person-level" not in record.replace("not person-level", "")


def test_without_privacy_nothing_is_promised() -> None:
    text = card(without_privacy())
    assert "None is guaranteed" in text
    assert "50:50" not in text


def test_without_updates_there_is_nothing_to_state() -> None:
    assert "no guarantee to state" in card(evidence(privacy=[], rounds=[]))


def test_accuracy_is_read_honestly() -> None:
    text = card(evidence())
    assert "| federated (this model) | 77.6\N{NO-BREAK SPACE}% |" in text
    assert "at one site alone for lake-hospital." in text
    assert "does not beat word counts" in text
    assert "not covered by epsilon" in text
    better = evidence(accuracy=evidence()["accuracy"] | {"tfidf": 0.5, "sites": []})
    assert "does not beat" not in card(better)
    assert "Accuracy was not measured." in card(evidence(accuracy=None))


def test_words_that_promise_too_much_are_not_used() -> None:
    for value in (evidence(), without_privacy(), head_only()):
        assert not re.search(r"complian|anonym|unhackable", card(value), re.IGNORECASE)


def test_hostile_text_is_text() -> None:
    value = replanned(purpose=HOSTILE)
    text = card(value)
    assert headings(text)[1:] == headings(card(evidence()))[1:]
    title = headings(text)[0]
    assert "<" not in title
    assert not re.search(r"(?<!\\)[\[\]`|$!]", title)
    assert text.count("\n---\n") == card(evidence()).count("\n---\n")


def test_a_hostile_base_model_stays_a_string() -> None:
    name = "'); import os  # BASE ENCODER\n```\n\""
    code = loading_code(Evidence.from_json(named(name)))
    assert len(code.splitlines()) == 10
    assert repr(name) in code
    compile(code, "card", "exec")


def test_the_same_evidence_gives_the_same_bytes() -> None:
    assert card(evidence()) == card(evidence())


def test_evidence_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(InputError):
        card(evidence(purpose="another"))


def test_the_code_has_ten_lines() -> None:
    assert len(loading_code(Evidence.from_json(evidence())).splitlines()) == 10
    assert "peft" not in loading_code(Evidence.from_json(head_only())).lower()
    assert f"```python\n{loading_code(Evidence.from_json(evidence()))}```" in card(evidence())


@pytest.mark.slow
@pytest.mark.parametrize("top_layers", [0, 2])
def test_the_code_of_the_card_loads_the_exported_folder(tmp_path: Path, top_layers: int) -> None:
    from cloister.client.learn import export
    from cloister.privacy.layout import Placement, layout
    from cloister.privacy.model import describe
    from cloister.privacy.plan import Plan
    from tests import models

    base = describe(models.write(tmp_path / "base"))
    value = evidence()
    labels = tuple(value["plan"]["task"]["labels"])
    order = layout(base.tensors, base.hidden, Placement(3, ("query", "value"), top_layers, len(labels)))
    adapter = value["plan"]["adapter"] | {"rank": 3, "top_layers": top_layers, "parameters": order.size}
    value = replanned(adapter=adapter, base={"name": str(base.path), "digest": base.digest, "max_tokens": 8})
    value["model"] |= {"base": str(base.path), "base_digest": base.digest, "parameters": str(order.size)}
    folder = tmp_path / "model"
    plan = Plan.model_validate_json(Evidence.from_json(value).plan.model_dump_json())
    export.save(folder, order, plan, models.vector(order.size))
    (folder / "README.md").write_text(card(value))
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert code is not None
    text = "chest pain since monday headache card chest pain headache"
    done = subprocess.run(
        [sys.executable, "-c", code[1].replace("a text", text)],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    assert done.stdout.strip() == str(export.load(folder, base).predict([text]))
