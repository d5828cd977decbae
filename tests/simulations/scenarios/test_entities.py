"""Clinical entities: the corpus as clinics, and the whole comparison on a tiny model of random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cloister.client.site.ledger import Ledger
from cloister.client.site.records import Records
from cloister.privacy.errors import InputError
from cloister.privacy.model import describe
from cloister.simulations.engine.plans import DATASET
from cloister.simulations.scenarios import diseases
from cloister.simulations.scenarios.catalogue import Scenario
from cloister.simulations.scenarios.figures import AVERAGED, METHODS
from cloister.simulations.scenarios.material import of_tags
from cloister.simulations.scenarios.simulation import simulate
from tests import models

REAL = Path(__file__).parents[3] / "../shared/data"
SITES = ("cancer", "nerves", "metabolism")


@pytest.mark.skipif(not (REAL / "ncbi_disease").is_dir(), reason="ncbi_disease is not here")
def test_clinics_differ_in_size_and_in_what_they_write_of():
    whole = diseases.read(REAL, "train")
    assert len(whole) == 5424
    sites = diseases.by_subject(whole, 0)
    assert {name: len(held) for name, held in sites.items()} == {
        name: runs * diseases.RUN for name, runs in diseases.RUNS.items()
    }
    runs = [set(held.persons) for held in sites.values()]
    assert sum(map(len, runs)) == len(set.union(*runs))

    def share(name: str, words: set[str]) -> float:
        said = [word.lower() for row in sites[name].tagged() for word in row.words]
        return sum(word in words for word in said) / len(said)

    for name in ("cancer", "nerves", "metabolism"):
        own = set(diseases.SUBJECTS[name].split())
        assert share(name, own) > 4 * max(share(other, own) for other in sites if other != name)
    assert set(diseases.by_subject(whole, 1)["cancer"].persons) != set(sites["cancer"].persons)


def test_without_its_subjects_a_corpus_is_refused(tmp_path):
    with pytest.raises(InputError) as caught:
        diseases.read(tmp_path, "train")
    assert caught.value.id == "file_missing"
    whole = Records(('["a"]',) * 40, ('["O"]',) * 40, tuple("abcde" * 8))
    with pytest.raises(InputError) as caught:
        diseases.by_subject(whole, 0)
    assert caught.value.id == "site_too_small"


def sentences(seed: int, rows: int = 60) -> Records:
    """Two words in a row are an entity where the first is "chest"."""
    rng = np.random.default_rng(seed)
    texts, tags = [], []
    for _ in range(rows):
        words = [str(word) for word in rng.choice(["chest", "pain", "card", "monday", "since"], 6)]
        found = ["O"] * 6
        for place, word in enumerate(words):
            if word == "chest":
                found[place] = "B-X"
        texts.append(json.dumps(words))
        tags.append(json.dumps(found))
    persons = tuple(f"{seed}-{row // 4}" for row in range(rows))
    return Records(tuple(texts), tuple(tags), persons, kind="token-classification")


@pytest.mark.job
def test_every_method_is_measured_in_whole_entities(tmp_path):
    base = describe(models.write(tmp_path / "model", layers=1))

    def material(_data, _seed, _mix=None):
        train = {name: sentences(place) for place, name in enumerate(SITES)}
        return of_tags(base, train, sentences(9, 48), by_person=False)

    out = tmp_path / "out"
    scenario = Scenario("tiny", "A title", "A story.", 8.0, 1e-5, material, meaning="Only a test.")
    lines: list[str] = []
    found = simulate(scenario, out=out, seeds=2, say=lines.append)
    result = json.loads((out / "result.json").read_text())
    assert set(result["methods"]) == set(METHODS | AVERAGED)
    assert (result["measure"], result["majority"], result["test_rows"]) == ("entity F1", 0.0, 48)
    assert found.unit == "record"
    pooled = result["methods"]["pooled"]
    assert pooled["accuracy"] > 0.9  # a word tells its tag: learnable, so a broken head would show
    assert pooled["interval"][0] <= pooled["accuracy"] <= pooled["interval"][1]
    assert result["methods"]["federated_averaging"]["accuracy"] > 0.9
    assert result["simple"]["accuracy"] > 0.99
    for name in ("federated_local", "federated_joint"):
        told = result["methods"][name]
        for site in SITES:
            ledger = Ledger(out / "ledgers" / name / f"{site}.sqlite")
            assert ledger.epsilon(DATASET) == told["epsilon"] <= 8.0
    page = (out / "simulation.html").read_text()
    assert "SIMULATION" in page
    assert "Only a test." in page
    assert "Entity F1 by method" in page
    assert "48 common test sentences" in page
    assert any("(3 of 10, about" in line for line in lines)
    assert any(line.startswith("No bundle: ") for line in lines)
    assert not (out / "bundle").exists()
