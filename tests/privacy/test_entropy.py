"""Key streams against known answers, and what a ratchet must never do: repeat, go back, or give first."""

from __future__ import annotations

import errno
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.privacy import canonical, durable
from cloister.privacy.entropy import Entropy, FixedEntropy, KeyStream, Ratchet
from cloister.privacy.errors import EntropyError, StateError

VECTORS = Path(__file__).parents[1] / "vectors" / "entropy"
KNOWN = json.loads((VECTORS / "ratchet.json").read_text())
BROKEN = json.loads((VECTORS / "ratchet_broken.json").read_text())
JOB = KNOWN["state"]["job"]
KEYS = {state["round"]: state["key"] for state in KNOWN["states"]}
MODEL = canonical.digest(b"a model")
PLACE: dict[str, Any] = {"purpose": "noise", "round": 1, "step": 0, "attempt": 1, "model": MODEL}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ratchet's file with the known state."""
    place = tmp_path / "ratchet.key"
    durable.write(place, canonical.encode(KNOWN["state"]))
    return place


def state(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_bytes())
    return value


def first(source: Entropy, n: int = 32, **changes: Any) -> bytes:
    """The first bytes of a stream at ``PLACE`` but for some changes."""
    return source.stream(**(PLACE | changes)).bytes(n)


# Known answers


@pytest.mark.parametrize("case", KNOWN["streams"], ids=lambda case: str(case["place"])[:70])
def test_known_streams(path: Path, case: dict[str, Any]) -> None:
    ratchet = Ratchet(path, JOB)
    ratchet.advance(case["place"]["round"])
    known = bytes.fromhex(case["first"])
    assert first(ratchet, len(known), **case["place"]) == known
    again = Ratchet(path, JOB)  # a restart in the same round computes the same
    drawn = again.stream(**case["place"]).uniform(len(case["uniform"]))
    assert [value.hex() for value in drawn.tolist()] == case["uniform"]


@pytest.mark.parametrize("round", list(KEYS))
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "one by one"])
def test_known_states(path: Path, round: int, at_once: bool) -> None:
    ratchet = Ratchet(path, JOB)
    for step in [round] if at_once else range(round + 1):
        ratchet.advance(step)
    assert state(path) == {"job": JOB, "round": round, "key": KEYS[round]}
    assert path.read_bytes() == canonical.encode(state(path))


@given(st.lists(st.integers(0, 40), max_size=8))
def test_a_key_stream_goes_on_however_it_is_asked(sizes: list[int]) -> None:
    parts, whole = KeyStream(bytes(32)), KeyStream(bytes(32))
    assert b"".join(parts.bytes(n) for n in sizes) == whole.bytes(sum(sizes))


def test_words_and_uniforms_are_the_bytes_of_the_stream() -> None:
    data = KeyStream(bytes(32)).bytes(8000)
    words = [int.from_bytes(data[i : i + 8], "little") for i in range(0, 8000, 8)]
    assert KeyStream(bytes(32)).words(1000).tolist() == words
    drawn = KeyStream(bytes(32)).uniform(1000)
    assert drawn.dtype == np.float64
    assert drawn.tolist() == [(word >> 11) / 2**53 for word in words]
    assert 0 <= drawn.min() < 0.01
    assert 0.99 < drawn.max() < 1


class Words(KeyStream):
    """A stream of given words."""

    def __init__(self, *words: int) -> None:
        self._words = words

    def bytes(self, n: int) -> bytes:
        return b"".join(word.to_bytes(8, "little") for word in self._words)[:n]


def test_a_uniform_has_53_bits_and_never_reaches_1() -> None:
    drawn = Words(0, 2**11 - 1, 2**11, 2**64 - 1).uniform(4)
    assert drawn.tolist() == [0.0, 0.0, 2.0**-53, 1 - 2.0**-53]


# Every stream is another one, and is given once


CHANGES = [
    {"purpose": "sampling"},
    {"round": 2},
    {"step": 1},
    {"attempt": 2},
    {"model": canonical.digest(b"another model")},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_every_part_of_the_place_changes_the_stream(change: dict[str, Any]) -> None:
    assert first(FixedEntropy(b"seed", JOB), **change) != first(FixedEntropy(b"seed", JOB))


def test_job_and_seed_change_the_stream() -> None:
    sources = [FixedEntropy(b"seed", JOB), FixedEntropy(b"seed", "other"), FixedEntropy(b"other", JOB)]
    assert len({first(source) for source in sources}) == 3
    assert first(FixedEntropy(b"seed", JOB)) == first(FixedEntropy(b"seed", JOB))


@given(st.lists(st.tuples(st.text("ab1", max_size=3), st.integers(0, 12), st.integers(0, 12)), unique=True))
def test_no_two_places_share_a_stream(places: list[tuple[str, int, int]]) -> None:
    source = FixedEntropy(b"seed", JOB)
    drawn = {first(source, purpose=purpose, step=step, attempt=attempt) for purpose, step, attempt in places}
    assert len(drawn) == len(places)


@pytest.mark.parametrize("make", ["ratchet", "fixed"])
def test_no_stream_is_given_twice(path: Path, make: str) -> None:
    source: Entropy = Ratchet(path, JOB) if make == "ratchet" else FixedEntropy(b"seed")
    source.advance(1)
    once = first(source)
    for step in (1, 2):
        first(source, step=step)
    for step in (0, 1, 2):
        with pytest.raises(EntropyError) as caught:
            source.stream(**(PLACE | {"step": step}))
        assert caught.value.id == "key_already_used"
    source.advance(1)  # the round begins anew: all of it is computed again
    assert first(source) == once


@pytest.mark.parametrize("make", ["ratchet", "fixed"])
def test_a_round_that_is_over_is_gone(path: Path, make: str) -> None:
    source: Entropy = Ratchet(path, JOB) if make == "ratchet" else FixedEntropy(b"seed")
    source.advance(3)
    for action in (lambda: source.advance(2), lambda: source.stream(**(PLACE | {"round": 2}))):
        with pytest.raises(EntropyError) as caught:
            action()
        assert caught.value.id == "ratchet_behind"
    first(source, round=3)


def test_a_ratchet_gives_nothing_of_a_round_that_it_was_not_moved_to(path: Path) -> None:
    ratchet = Ratchet(path, JOB)
    with pytest.raises(EntropyError) as caught:
        ratchet.stream(**PLACE)
    assert caught.value.id == "ratchet_behind"


def test_global_seeds_change_nothing(tmp_path: Path) -> None:
    drawn, fixed = set(), set()
    for name in ("a", "b"):
        random.seed(0)
        np.random.seed(0)  # that this is harmless is what is tested
        ratchet = Ratchet(tmp_path / name, JOB)
        ratchet.advance(1)
        drawn.add(first(ratchet))
        fixed.add(first(FixedEntropy(b"seed")))
        random.seed(1)
        np.random.seed(1)
    assert len(drawn) == 2
    assert len(fixed) == 1


# The file


def test_a_first_use_makes_a_secret_of_its_own(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Ratchet(tmp_path / name, JOB)
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
        assert state(tmp_path / name) | {"key": ""} == {"job": JOB, "round": 0, "key": ""}
    keys = {state(tmp_path / name)["key"] for name in ("a", "b")}
    assert len(keys) == 2
    assert {len(key) for key in keys} == {64}


def test_no_old_key_is_left_in_the_folder(path: Path) -> None:
    ratchet = Ratchet(path, JOB)
    for now in (1, 2, 7):
        ratchet.advance(now)
        found = b"".join(file.read_bytes() for file in path.parent.iterdir()).decode()
        assert [key in found for key in KEYS.values()] == [at == now for at in KEYS]


def test_a_state_that_a_crash_left_is_gone_with_the_next_start(path: Path) -> None:
    left = path.with_name(f".{path.name}.{'0' * 16}")
    left.write_bytes(path.read_bytes())
    Ratchet(path, JOB).advance(1)
    assert [*path.parent.iterdir()] == [path]


def test_after_a_restart_old_rounds_stay_gone(path: Path) -> None:
    Ratchet(path, JOB).advance(2)
    with pytest.raises(EntropyError) as caught:
        Ratchet(path, JOB).advance(1)
    assert caught.value.id == "ratchet_behind"


def test_the_state_is_synced_before_a_key_is_given(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    ratchet = Ratchet(path, JOB)
    ratchet.advance(7)
    assert synced == [path.stat().st_ino, path.parent.stat().st_ino]
    assert state(path)["key"] == KEYS[7]
    first(ratchet, round=7)
    assert len(synced) == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("where", ["open", "fsync"])
def test_what_cannot_be_kept_is_not_given(
    path: Path, monkeypatch: pytest.MonkeyPatch, where: str, number: int
) -> None:
    ratchet = Ratchet(path, JOB)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, where, full)
        for _ in range(2):  # trying again must not make it true
            with pytest.raises(EntropyError) as caught:
                ratchet.advance(2)
            assert caught.value.id == "ratchet_unwritable"
            with pytest.raises(EntropyError) as refused:
                ratchet.stream(**(PLACE | {"round": 2}))
            assert refused.value.id == "ratchet_behind"
    assert state(path) == KNOWN["state"]
    ratchet.advance(2)
    assert state(path)["key"] == KEYS[2]


def test_a_folder_that_is_not_there_gives_nothing(tmp_path: Path) -> None:
    with pytest.raises(EntropyError) as caught:
        Ratchet(tmp_path / "none" / "ratchet.key", JOB)
    assert caught.value.id == "ratchet_unwritable"


@pytest.mark.parametrize("mode", [0o640, 0o644, 0o604, 0o622], ids=oct)
def test_a_state_that_others_can_reach_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(StateError) as caught:
        Ratchet(path, JOB)
    assert caught.value.id == "permissions"


@pytest.mark.parametrize("case", BROKEN["states"], ids=lambda case: str(case["why"]))
def test_a_damaged_state_is_refused_and_kept(path: Path, case: dict[str, str]) -> None:
    durable.write(path, case["text"].encode())
    with pytest.raises(StateError) as caught:
        Ratchet(path, BROKEN["job"])
    assert caught.value.id == "state_damaged"
    assert path.read_bytes() == case["text"].encode()  # never replaced by a new secret
