"""Surplus noise on the wire: known answers for what is asked, signed and given, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cloister.privacy import canonical
from cloister.privacy.dp import joint
from cloister.privacy.dp.grid import Grid
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.errors import ChannelError
from cloister.privacy.secagg.encoding import residues
from cloister.privacy.secagg.rounds import survivors_bytes
from cloister.privacy.secagg.surplus import place
from cloister.privacy.secagg.terms import At
from cloister.privacy.wire import messages, sums
from tests.sums import terms_of

VECTORS = Path(__file__).parents[2] / "vectors" / "sums"
KNOWN = json.loads((VECTORS / "surplus.json").read_text())
BROKEN = json.loads((VECTORS / "surplus_broken.json").read_text())
SITES = tuple(KNOWN["sites"])


def test_the_question_is_the_survivor_set() -> None:
    content = bytes.fromhex(KNOWN["content"])
    assert sums.survivors_to_bytes(SITES) == content
    assert sums.survivors_from_bytes(bytearray(content)) == SITES


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case["why"])
def test_anything_else_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(ChannelError) as caught:
        sums.survivors_from_bytes(bytes.fromhex(case["content"]))
    assert caught.value.id == "envelope_malformed"


def test_what_survivors_sign_names_step_1() -> None:
    at = At(**KNOWN["at"])
    assert at == place(At(3, 0, 1, at.model))
    assert survivors_bytes(terms_of(4), at, SITES).hex() == KNOWN["statement"]


@pytest.mark.parametrize("survivors", KNOWN["surplus"])
def test_the_parts_of_known_streams(survivors: str) -> None:
    grid, entropy = Grid(**KNOWN["grid"]), FixedEntropy(b"surplus")
    assert [part.hex() for part in grid.parts] == KNOWN["parts"]

    def streams(purpose: str) -> Any:
        return entropy.stream(purpose, round=3, step=1, model=KNOWN["at"]["model"])

    found = joint.surplus(grid.parameters, grid, int(survivors), streams)
    assert residues(found).content.hex() == KNOWN["surplus"][survivors]
    assert residues(found).mechanisms == ()


@pytest.mark.parametrize(
    ("kind", "said", "with_", "without"),
    [
        (messages.TASK, 0, 0, 0),
        (messages.TASK, 1, 0, 0),
        (messages.FINISH, 1, 0, 0),
        (sums.ADOPT, 1, 0, 0),
        (sums.SURVIVE, 0, 0, 0),
        (sums.SURVIVE, 1, 1, 0),
        (sums.OPEN, 1, 1, 0),
        (sums.RECOVER, 1, 1, 0),
        (sums.RECOVER, 2, 0, 0),
        (sums.SURPLUS, 0, 1, 0),
        (sums.SURPLUS, 1, 1, 0),
        (sums.SURPLUS, 2, 1, 0),
    ],
)
def test_the_step_that_a_question_may_be_about(kind: str, said: int, with_: int, without: int) -> None:
    assert sums.step_of(kind, said, surplus=True) == with_
    assert sums.step_of(kind, said, surplus=False) == without


def test_the_statement_is_canonical() -> None:
    data = bytes.fromhex(KNOWN["statement"])
    assert canonical.encode(json.loads(data)) == data
