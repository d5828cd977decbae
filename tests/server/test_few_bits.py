"""Jobs whose updates travel with few bits: the model of the plain job within the stated error."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cloister.client import cli_work
from cloister.client.replies import Replies
from cloister.privacy import canonical
from cloister.privacy.entropy import Entropy, FixedEntropy, KeyStream
from cloister.privacy.errors import PlanError, UpdateError
from cloister.privacy.plan import Plan
from cloister.privacy.update import Delta, Encoded, Vector
from cloister.privacy.wire import messages, sums
from cloister.privacy.wire.envelope import Opened, peek
from tests.parties import Consortium
from tests.plans import plan, plan_json
from tests.server.test_sums import FOUR, OFF, SECURE, Weather, run

pytestmark = pytest.mark.job

D = 5001
"""No power of two, and no whole number of bytes at 12 bits."""
NORM = 40.0
"""The longest weighted update of ``MeanLearner`` is 35.4."""
WIDE = plan_json()["adapter"] | {"parameters": D}


def consortium(folder: Path, bits: int | None = 12, norm: float = NORM, **changes: Any) -> Consortium:
    folder.mkdir(exist_ok=True)
    how = SECURE if bits is None else SECURE | {"bits": bits, "norm": norm}
    return Consortium(folder, FOUR, **({"adapter": WIDE, "privacy": OFF, "aggregation": how} | changes))


def plain(folder: Path, *, without: tuple[str, ...] = ()) -> Vector:
    """The model that the same sites make with 32 bits and no secrecy."""
    folder.mkdir()
    how = {"secure": False, "minimum_sites": 3, "range": 4.0}
    found = Consortium(folder, FOUR, adapter=WIDE, privacy=OFF, aggregation=how)
    return run(found, Weather(*((name, messages.TASK) for name in without))).model


def stated(found: Consortium, sites: int = 4) -> float:
    """The root mean square length of the error after two rounds.

    That of a round is the codec's. The second round halves the first one's, for every learner goes half of
    what is left of its way; both are independent.
    """
    few = found.plan.quantisation
    assert few is not None
    once = few.code.step / 2 * math.sqrt(sites * D) / (sites / len(FOUR))
    return once * math.sqrt(1 + 1 / 4)


def opened(found: Consortium) -> list[str]:
    return [
        event.body["missing"] for event in found.sites["south"].log.entries() if event.type == "sum.opened"
    ]


@pytest.mark.parametrize("bits", [8, 12, 16, 31])
def test_the_model_is_that_of_the_plain_job_within_the_stated_error(tmp_path: Path, bits: int) -> None:
    found = consortium(tmp_path / "a", bits)
    error = run(found, Weather()).model - plain(tmp_path / "b")
    float32 = 1e-5 * math.sqrt(D)
    assert np.linalg.norm(error) <= 1.05 * stated(found) + float32
    if bits <= 16:
        assert np.linalg.norm(error) > 0.6 * stated(found)  # it went through the encoding
        assert abs(error.mean()) < 6 * stated(found) / D  # which leans to neither side


@pytest.mark.slow
@pytest.mark.parametrize("name", ["north", "coast"])
def test_a_site_that_stays_away_is_left_out_of_the_mean(tmp_path: Path, name: str) -> None:
    found = consortium(tmp_path / "a")
    error = run(found, Weather((name, messages.TASK))).model - plain(tmp_path / "b", without=(name,))
    assert np.linalg.norm(error) <= 1.05 * stated(found, 3)
    assert opened(found) == [[name]] * found.plan.training.rounds


@pytest.mark.slow
@pytest.mark.parametrize("kind", [sums.SURVIVE, sums.OPEN])
def test_a_site_lost_after_its_upload_is_in_the_mean(tmp_path: Path, kind: str) -> None:
    found = consortium(tmp_path / "a")
    error = run(found, Weather(("west", kind), back=messages.TASK)).model - plain(tmp_path / "b")
    assert np.linalg.norm(error) <= 1.05 * stated(found)
    recovered = [e.body for e in found.sites["north"].log.entries() if e.type == "sum.recovered"]
    assert recovered == [{"lost": ["west"], "step": 0}]


def test_with_noise_every_site_is_charged_as_ever(tmp_path: Path) -> None:
    found = consortium(tmp_path, privacy=plan_json()["privacy"])
    run(found, Weather())
    for site in found.sites.values():
        kinds = [row.kind for row in site.ledger.rows("notes")]
        assert kinds == ["reserved", "spent", "released"] * found.plan.training.rounds


def uploads(found: Consortium) -> list[bytes]:
    """Runs the job; the contents of all masked updates."""
    seen: list[bytes] = []
    federation = found.federation()
    through = federation.mail.opened

    def watched(*given: Any) -> Opened:
        answer = through(*given)
        if answer.header.kind == sums.MASKED:
            seen.append(bytes(answer.content))
        return answer

    federation.mail.opened = watched  # type: ignore[method-assign]
    federation.run(found.grid())
    return seen


@pytest.mark.parametrize(("bits", "size"), [(12, 7502), (16, 10002), (31, 19379), (None, 20004)])
def test_on_the_wire_are_so_many_bits_behind_the_head(tmp_path: Path, bits: int | None, size: int) -> None:
    contents = uploads(consortium(tmp_path, bits))
    assert len(contents) == len(FOUR) * 2
    for content in contents:
        head = int.from_bytes(content[:4])
        assert set(canonical.decode(content[4 : 4 + head])) == {"commitment", "shares", "digests"}
        assert len(content) == 4 + head + size


def test_what_arrives_at_the_lead_is_uniform_and_tells_no_update(tmp_path: Path) -> None:
    found = consortium(tmp_path, training=plan_json()["training"] | {"rounds": 1})
    clear: dict[str, np.ndarray] = {}
    for name, site in found.sites.items():
        through = site._update

        def watched(*given: Any, name: str = name, through: Any = through) -> Encoded:
            encoded: Encoded = through(*given)
            clear[name] = np.frombuffer(encoded.content, "<u4")
            return encoded

        site._update = watched  # type: ignore[method-assign]
    arrived = [sums.masked_from_bytes(content, D, 12).words for content in uploads(found)]
    six_errors = 6 / math.sqrt(D)
    for words in arrived:
        assert words.max() < 2**12
        assert abs(words.mean() / 2**12 - 0.5) < six_errors / math.sqrt(12)
        for update in clear.values():
            # On the circle of residues: neither equal nor opposite more often than by chance.
            turned = np.exp(2j * np.pi * (words.astype(int) - update.astype(int)) / 2**12)
            assert abs(turned.mean()) < six_errors


@pytest.mark.slow
@pytest.mark.parametrize("kind", [sums.SURVIVE, sums.OPEN])
def test_after_a_restart_of_everybody_the_same_sum_is_opened(tmp_path: Path, kind: str) -> None:
    def dies(name: str, message: Any) -> None:
        if peek(message.content["envelope"]["b"], 1 << 20).kind == kind:
            raise KeyboardInterrupt

    found = consortium(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        found.federation().run(found.grid(fault=dies))
    found.sites = {name: found.site(name) for name in FOUR}
    end = found.federation(resume=found.saved[-1]).run(found.grid())
    assert np.linalg.norm(end.model - plain(tmp_path / "b")) <= 1.05 * stated(found)


class Crashing(Replies):
    """The power fails before the reply is stored."""

    def store(self, header: Any, sealed: Any) -> None:
        raise KeyboardInterrupt


def test_a_crash_between_masking_and_storing_gives_the_same_words_again(tmp_path: Path) -> None:
    """Another rounding would be another vector under the same masks, which the site refuses."""
    found = consortium(tmp_path)
    found.sites["north"].replies = Crashing(tmp_path / "north" / "replies")
    with pytest.raises(KeyboardInterrupt):
        found.federation().run(found.grid())
    found.sites["north"] = found.site("north")
    end = found.federation(resume=found.saved[-1]).run(found.grid())
    assert end.round == found.plan.training.rounds
    sums_closed = [e.body["survivors"] for e in found.log.entries() if e.type == "sum.closed"]
    assert sums_closed == [sorted(FOUR)] * end.round


# Randomness


@dataclass
class Watched:
    """Entropy that writes down what was asked of it."""

    inner: Entropy
    given: list[tuple[Any, ...]] = field(default_factory=list)
    first: list[bytes] = field(default_factory=list)

    def advance(self, round: int) -> None:
        self.inner.advance(round)

    def stream(self, purpose: str, *, round: int, step: int = 0, attempt: int = 1, model: str) -> KeyStream:
        at = {"round": round, "step": step, "attempt": attempt, "model": model}
        self.given.append((purpose, *at.values()))
        stream = self.inner.stream(purpose, **at)  # type: ignore[arg-type]
        self.first.append(stream.bytes(64))
        return stream


def test_no_key_stream_serves_twice(tmp_path: Path) -> None:
    found = consortium(tmp_path, privacy=plan_json()["privacy"])
    watched = {name: Watched(site.entropy) for name, site in found.sites.items()}
    for name, site in found.sites.items():
        site.entropy = site.learner.entropy = watched[name]  # type: ignore[attr-defined]
    run(found, Weather())
    for one in watched.values():
        assert [given[0] for given in one.given] == ["noise", "rounding", "self-mask"] * 2
        assert len(set(one.given)) == len(one.given)
    streams = [start for one in watched.values() for start in one.first]
    assert len(set(streams)) == len(streams)


def test_the_rounding_comes_from_the_ratchet_and_from_nothing_else(tmp_path: Path) -> None:
    found = consortium(tmp_path)
    site, federation = found.sites["north"], found.federation()
    header = federation.mail.questions.header(
        federation._stage(federation.resume, 1), "north", sums.MASKED, up=True
    )
    contents = {}
    for ratchet, seed in ((b"one", 0), (b"one", 1), (b"two", 0)):
        random.seed(seed)
        np.random.seed(seed)
        site.entropy = FixedEntropy(ratchet)
        contents[ratchet, seed] = site._update(federation.resume.model, header, None).content
    assert contents[b"one", 0] == contents[b"one", 1] != contents[b"two", 0]


# What does not fit


def test_an_update_longer_than_the_norm_does_not_leave(tmp_path: Path) -> None:
    found = consortium(tmp_path / "a")
    far = Delta(np.full(D, 100.0, dtype=np.float32), ())
    found.sites["coast"].learner.train = lambda *_: far  # type: ignore[method-assign]
    end = run(found, Weather())
    assert end.excluded == {"coast": "update_range"}
    assert not any(event.type == "update.sent" for event in found.sites["coast"].log.entries())
    assert np.linalg.norm(end.model - plain(tmp_path / "b", without=("coast",))) <= 1.05 * stated(found, 3)


def test_a_sum_that_honest_sites_cannot_give_ends_its_round_and_not_the_job(tmp_path: Path) -> None:
    found = consortium(tmp_path)
    honest = found.sites["north"]._update
    words = np.full(D, 2**11 - 1, dtype="<u4").tobytes()
    found.sites["north"]._update = lambda *_: Encoded(words, (), 12)  # type: ignore[method-assign]
    with pytest.raises(UpdateError) as caught:
        run(found, Weather(("coast", messages.TASK)))
    assert caught.value.id == "update_range"
    state = found.saved[-1]
    assert (state.round, state.survivors) == (1, ())
    np.testing.assert_array_equal(state.model, 0)
    assert [e.body["reason"] for e in found.log.entries() if e.type == "round.aborted"] == ["update_range"]
    found.sites["north"]._update = honest  # type: ignore[method-assign]
    end = found.federation(resume=state).run(found.grid())
    assert end.round == found.plan.training.rounds


def test_an_upload_with_a_word_too_few_is_refused_by_name(tmp_path: Path) -> None:
    found = consortium(tmp_path)
    hide = found.sites["coast"]._hide
    found.sites["coast"]._hide = (  # type: ignore[method-assign]
        lambda header, encoded: hide(header, Encoded(encoded.content, (), 11))
    )
    assert run(found, Weather()).excluded == {"coast": "envelope_malformed"}


# The plan


@pytest.mark.parametrize("bits", [None, 12])
def test_a_site_is_told_before_it_approves(tmp_path: Path, bits: int | None) -> None:
    site = consortium(tmp_path, bits).sites["north"]
    job = SimpleNamespace(plan=site.plan, state="proposed", folder=tmp_path)
    told = cli_work._entry(site, job)["terms"]  # type: ignore[arg-type]
    assert told.endswith("sites; updates are rounded to 12 bits a parameter") == (bits == 12)
    assert ("bits" in told) == (bits == 12)


class TestPlan:
    """What a plan may say of bits."""

    def value(self, **changes: Any) -> dict[str, Any]:
        return plan_json(FOUR, aggregation=SECURE | {"bits": 12, "norm": 2.0}, **changes)

    @pytest.mark.parametrize("privacy", [OFF, plan_json()["privacy"]])
    @pytest.mark.parametrize("bits", [6, 12, 31])
    def test_bits_and_norm_survive_the_bytes(self, privacy: dict[str, Any], bits: int) -> None:
        data = canonical.encode(
            plan_json(FOUR, privacy=privacy, aggregation=SECURE | {"bits": bits, "norm": 2.0})
        )
        read = Plan.from_bytes(data)
        assert read.to_bytes() == data
        assert read.aggregation.width == bits
        few = read.quantisation
        assert few is not None
        assert (few.sums, few.bits, few.norm) == (read.sum_terms, bits, 2.0)

    def test_without_them_the_bytes_say_nothing_of_them(self) -> None:
        found = plan(FOUR, aggregation=SECURE)
        assert found.quantisation is None
        assert found.aggregation.width == 32
        assert b"bits" not in found.to_bytes()
        assert b"norm" not in found.to_bytes()

    @pytest.mark.parametrize(
        "broken",
        [
            *({"bits": bits} for bits in (0, 5, 32, 33, -12, 12.5, "12", True, None)),
            *({"norm": norm} for norm in (0.0, -1.0, "2", None)),
            {"bits": None, "norm": None},  # absent, never null
        ],
    )
    def test_other_bits_are_refused(self, broken: dict[str, Any]) -> None:
        self.refused(self.value() | {"aggregation": SECURE | {"bits": 12, "norm": 2.0} | broken})

    @pytest.mark.parametrize("missing", ["bits", "norm"])
    def test_one_without_the_other_is_refused(self, missing: str) -> None:
        value = self.value()
        del value["aggregation"][missing]
        self.refused(value)

    def test_bits_without_secure_aggregation_are_refused(self) -> None:
        how = {"secure": False, "minimum_sites": 3, "range": 4.0, "bits": 12, "norm": 2.0}
        self.refused(plan_json(FOUR, aggregation=how), "few bits belong to secure aggregation")

    def test_joint_privacy_with_bits_is_refused(self) -> None:
        joint = plan_json()["privacy"] | {"mode": "joint"}
        value = self.value(privacy=joint, training=plan_json()["training"] | {"steps": 1})
        self.refused(value, "joint privacy has a grid of its own")

    def test_bits_that_leave_a_site_no_levels_are_refused(self) -> None:
        names = tuple(f"site-{k}" for k in range(20))
        how = SECURE | {"minimum_sites": 20, "threshold": 20, "bits": 6, "norm": 2.0}
        self.refused(plan_json(names, aggregation=how), "6 bits leave 3 levels")

    @staticmethod
    def refused(value: dict[str, Any], says: str = "The plan") -> None:
        with pytest.raises(PlanError, match=says) as caught:
            Plan.from_bytes(canonical.encode(value))
        assert caught.value.id == "plan_malformed"
