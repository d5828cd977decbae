"""The figures of coded jobs: what is measured is the product, and the arithmetic is right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cloister.client.site.records import Records
from cloister.privacy.codecs import coding
from cloister.privacy.errors import InputError
from cloister.simulations.bench import coded
from cloister.simulations.bench.coded import Moved, Sentences

LOADED = Path("../shared/data/sst2")


def test_losses_are_points_below_the_same_without_coding() -> None:
    found = {way: [Moved(0.8, 100, 300.0, 400.0), Moved(0.7, 100, 300.0, 400.0)] for way in coded.WAYS}
    found["off_coded"] = [Moved(0.7, 15_000, 1.0, 2.0), Moved(0.6, 15_482, 3.0, 4.0)]
    found["local_secure"] = [Moved(0.9, 60_001, 5.0, 6.0), Moved(0.8, 59_000, 5.0, 6.0)]
    figures, limits = coded.figures(found)
    assert figures["plain_bytes"] == 15_482
    assert figures["plain_wire_up"] == 2.0
    assert figures["plain_loss"] == pytest.approx(10)
    assert figures["secure_loss"] == pytest.approx(-10)
    assert figures["plain_spread"] == pytest.approx(10)
    assert figures["accuracy_local_full"] == pytest.approx(0.75)
    met = {name: limit.met(figures[name]) for name, limit in limits.items()}
    assert met == {
        "plain_bytes": True,
        "secure_bytes": False,
        "plain_loss": limits["plain_loss"].met(figures["plain_loss"]),
        "local_loss": True,
        "secure_loss": True,
    }


def test_without_the_data_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--data") as caught:
        coded.run(tmp_path)
    assert caught.value.id == "file_missing"


def test_seeds_give_the_same_sentences_again() -> None:
    if not LOADED.exists():
        pytest.skip("sst2 is not here")
    one, again, other = (Sentences.load(LOADED, seed).train for seed in (1, 1, 2))
    assert one == again != other
    assert sum(map(len, one.values())) == coded.ROWS * len(coded.SITES)


@pytest.mark.slow
@pytest.mark.parametrize(("way", "codec"), [("off_coded", "ternary"), ("local_secure", None)])
def test_a_job_is_measured_end_to_end(tmp_path: Path, way: str, codec: str | None) -> None:
    texts = tuple(f"a {word} film number {place}" for place in range(12) for word in ("bad", "good"))
    records = Records(texts, tuple("01"[place % 2] for place in range(24)))
    told = Sentences(dict.fromkeys(coded.SITES, records), records)
    terms = replace(coded.WAYS[way], rounds=2, steps=1, top_layers=1)
    found = coded.Stand(told, terms, 0, tmp_path).run()
    d = 4 * 8 * 384 + 2 * 385
    assert 0 <= found.accuracy <= 1
    if codec:
        assert found.content == coding.size("ternary", d)
    else:
        assert 6 * d / 8 < found.content < 6 * d / 8 + 8_000
    assert found.up > found.content
    assert found.down > 0
