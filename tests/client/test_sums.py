"""A site's keys and sums on disk: it says the same again, and a failed write changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloister.client.sums import SecureSums
from cloister.privacy import durable
from cloister.privacy.errors import AggregationError, StateError
from cloister.privacy.secagg.keys import Introduction, JobKey
from cloister.privacy.update import Encoded
from cloister.privacy.wire import sums as wire
from cloister.privacy.wire.signed import Signed
from tests.sums import at, identity, terms_of

TERMS = terms_of(4)
PEERS = {name: identity(name).public for name in TERMS.sites}
SEED, ENCODED = bytes(range(32)), Encoded(np.arange(50, dtype="<i4").tobytes(), ())


def refused(error_id: str) -> Any:
    return pytest.raises(AggregationError, check=lambda error: error.id == error_id)


class Four:
    """The four sites of a job, each with its own file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sites = {name: self.open(name) for name in TERMS.sites}

    def open(self, name: str) -> SecureSums:
        (self.folder / name).mkdir(exist_ok=True)
        return SecureSums(TERMS, identity(name), PEERS, self.folder / name / "sums.json")

    def introductions(self) -> dict[str, Signed]:
        return {name: wire.signed_from_bytes(site.introduce()) for name, site in self.sites.items()}

    def agree(self) -> dict[str, dict[str, Signed]]:
        """What each site gets from the earlier ones."""
        everybody = wire.signatures_to_bytes(self.introductions())
        inbox: dict[str, dict[str, Signed]] = {name: {} for name in TERMS.sites}
        for name, site in self.sites.items():
            for taker, signed in wire.signatures_from_bytes(site.agree(everybody)).items():
                inbox[taker][name] = signed
        return inbox

    def ready(self) -> None:
        for name, given in self.agree().items():
            self.sites[name].adopt(wire.signatures_to_bytes(given))


@pytest.fixture
def four(tmp_path: Path) -> Four:
    return Four(tmp_path)


def test_asked_again_after_a_restart_a_site_says_the_same(four: Four) -> None:
    everybody = wire.signatures_to_bytes(four.introductions())
    said = four.sites["north"].introduce(), four.sites["north"].agree(everybody)
    again = four.open("north")
    assert (again.introduce(), again.agree(everybody)) == said


def test_both_ends_confirm_the_same_key(four: Four) -> None:
    said = {
        name: wire.confirmations_from_bytes(four.sites[name].adopt(wire.signatures_to_bytes(given)))
        for name, given in four.agree().items()
    }
    for one in TERMS.sites:
        for other in TERMS.sites:
            if one != other:
                assert said[one][other] == said[other][one]
    assert len({text for texts in said.values() for text in texts.values()}) == 6
    assert wire.confirmations_from_bytes(four.open("west").adopt(b"{}")) == said["west"]


def test_a_lead_cannot_change_the_keys_that_go_round(four: Four) -> None:
    """South's key is exchanged after north has agreed; south itself signed both."""
    signed = four.introductions()
    four.sites["north"].agree(wire.signatures_to_bytes(signed))
    other = Introduction.make(TERMS, JobKey.generate(), identity("south"))
    with refused("key_unusable"):
        four.open("north").agree(wire.signatures_to_bytes({**signed, "south": other}))


def test_what_was_said_in_the_agreement_is_kept_until_the_first_sum(four: Four) -> None:
    everybody = wire.signatures_to_bytes(four.introductions())
    four.ready()
    path = four.folder / "north" / "sums.json"
    said, before = four.open("north").agree(everybody), path.stat().st_size
    assert said
    four.sites["north"].mask(at(), ENCODED, SEED)
    assert path.stat().st_size < before / 2, "it is written three times a sum"
    with refused("key_unusable"):
        four.open("north").agree(everybody)


def test_a_site_finds_its_own_key_among_those_that_go_round(four: Four) -> None:
    other = Introduction.make(TERMS, JobKey.generate(), identity("north"))
    with refused("key_unusable"):
        four.sites["north"].agree(wire.signatures_to_bytes({**four.introductions(), "north": other}))


def test_nothing_is_adopted_or_masked_out_of_turn(four: Four) -> None:
    site = four.sites["coast"]
    with refused("keys_missing"):
        site.adopt(b"{}")
    with refused("keys_missing"):
        site.admit(at())
    with refused("keys_missing"):
        site.mask(at(), ENCODED, SEED)


@pytest.mark.parametrize("step", ["agree", "adopt", "mask", "sign", "finish"])
def test_a_full_disk_changes_nothing(four: Four, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    site, path = four.sites["coast"], four.folder / "coast" / "sums.json"
    everybody = wire.signatures_to_bytes(four.introductions())
    if step not in ("agree", "adopt"):
        four.ready()
    if step == "adopt":
        inbox = wire.signatures_to_bytes(four.agree()["coast"])
    if step == "sign":
        site.mask(at(), ENCODED, SEED)
    acts = {
        "agree": lambda: site.agree(everybody),
        "adopt": lambda: site.adopt(inbox),
        "mask": lambda: site.mask(at(), ENCODED, SEED),
        "sign": lambda: site.sign(at(), wire.survivors_to_bytes(TERMS.sites)),
        "finish": site.finish,
    }

    def full(*_: object, **__: object) -> None:
        raise StateError("disk_full", "full")

    before = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(durable, "write", full)
        with pytest.raises(StateError):
            acts[step]()
    assert path.read_bytes() == before
    assert site.survivors == ()
    acts[step]()  # once there is room
    assert path.read_bytes() != before


def test_a_refusal_changes_nothing_either(four: Four) -> None:
    four.ready()
    site, path = four.sites["north"], four.folder / "north" / "sums.json"
    site.mask(at(), ENCODED, SEED)
    before = path.read_bytes()
    with refused("below_n_min"):
        site.sign(at(), wire.survivors_to_bytes(TERMS.sites[:2]))
    assert (path.read_bytes(), site.survivors) == (before, ())


def test_what_a_crash_left_beside_the_file_is_swept_away(four: Four) -> None:
    torn = four.folder / "north" / ".sums.json.0011223344556677"
    torn.write_bytes(b"an old key")
    four.open("north")
    assert not torn.exists()


def test_others_may_not_read_it(four: Four) -> None:
    (four.folder / "north" / "sums.json").chmod(0o644)
    with pytest.raises(StateError, check=lambda error: error.id == "permissions"):
        four.open("north")


@pytest.mark.parametrize("data", [b"{}", b"[]", b"no JSON", b'{"v":1}'])
def test_a_damaged_file_is_refused(four: Four, data: bytes) -> None:
    (four.folder / "north" / "sums.json").write_bytes(data)
    with pytest.raises(StateError, check=lambda error: error.id == "state_damaged"):
        four.open("north")
