"""Jobs whose updates and models travel coded: what arrives, what is left out, and what a crash changes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cloister.client import cli_work
from cloister.client.held import HeldModels
from cloister.client.replies import Replies
from cloister.client.rests import Rests
from cloister.privacy import canonical
from cloister.privacy.codecs import coding, feedback
from cloister.privacy.errors import CloisterError, ModelError, PlanError, StateError
from cloister.privacy.plan import Plan
from cloister.privacy.update import Coded, Delta, Vector
from cloister.privacy.wire import broadcast, messages, sums
from cloister.privacy.wire.envelope import peek
from cloister.server.checkpoint import Checkpoint
from tests.parties import NAMES, Consortium
from tests.plans import plan_json
from tests.server.test_sums import FOUR, OFF, SECURE

pytestmark = pytest.mark.job

D = 700
WIDE = plan_json()["adapter"] | {"parameters": D}
CODECS: list[Any] = ["bf16", "int8", "int4", "ternary"]
TRAINING = plan_json()["training"] | {"rounds": 4}
SLOPE = np.linspace(0.5, 1.5, D, dtype=np.float32)
"""So that coordinates differ, and few levels do not do."""


def consortium(folder: Path, codec: str | None = None, down: str | None = None, **changes: Any) -> Consortium:
    folder.mkdir(exist_ok=True)
    how = {"secure": False, "minimum_sites": 2, "range": 4.0}
    how |= {name: value for name, value in (("codec", codec), ("down", down)) if value}
    found = Consortium(
        folder, **({"adapter": WIDE, "privacy": OFF, "training": TRAINING, "aggregation": how} | changes)
    )
    for site in found.sites.values():
        sloped(site)
    return found


def sloped(site: Any) -> None:
    learner = site.learner
    learner.train = lambda model, header: Delta(((learner.point * SLOPE - model) / 2).astype(np.float32), ())


def expected(codec: Any = None, down: Any = None, rounds: int = 4) -> Vector:
    """The model that the sites of ``NAMES`` make, worked out without envelopes."""
    model, owed, rests = np.zeros(D, np.float32), None, dict.fromkeys(NAMES)
    for _ in range(rounds):
        read = []
        for point, name in enumerate(NAMES, 1):
            delta = ((point * SLOPE - model) / 2).astype(np.float32)
            if codec:
                fed = feedback.encode(codec, delta, rests[name])
                delta, rests[name] = fed.values, fed.rest
            read.append(delta)
        mean = np.mean(read, axis=0, dtype=np.float64).astype(np.float32)
        if down:
            fed = feedback.encode(down, mean, owed)
            mean, owed = fed.values, fed.rest
        model = model + mean
    return model


@pytest.mark.parametrize("codec", CODECS)
def test_what_arrives_is_the_coded_updates_with_feedback(tmp_path: Path, codec: Any) -> None:
    found = consortium(tmp_path, codec)
    end = found.federation().run(found.grid())
    np.testing.assert_allclose(end.model, expected(codec), atol=2e-6)
    sent = [e.body["bytes"] for e in found.sites["north"].log.entries() if e.type == "update.sent"]
    assert len(sent) == 4
    overhead = sent[0] - coding.size(codec, D)
    assert 0 < overhead < 12_000  # seal and signatures, whatever the update


@pytest.mark.parametrize("down", CODECS)
def test_sites_add_what_changed_and_have_the_leads_model_bit_for_bit(tmp_path: Path, down: Any) -> None:
    found = consortium(tmp_path, "int8", down)
    contents = asked(found)
    end = found.federation().run(found.grid())
    np.testing.assert_allclose(end.model, expected("int8", down), atol=2e-6)
    for site in found.sites.values():
        np.testing.assert_array_equal(site.learner.released[0], end.model)  # type: ignore[attr-defined]
    full, change = 1 + 71 + 4 * D, 1 + 2 * 71 + coding.size(down, D)
    assert contents["north"] == [full, change, change, change, change]


def asked(found: Consortium) -> dict[str, list[int]]:
    """Site -> sizes of the tasks that it opens."""
    seen: dict[str, list[int]] = {name: [] for name in found.sites}
    for name, site in found.sites.items():
        through = site._task

        def watched(opened: Any, name: str = name, through: Any = through) -> messages.Task:
            seen[name].append(len(opened.content))
            task: messages.Task = through(opened)
            return task

        site._task = watched  # type: ignore[method-assign]
    return seen


def test_secure_sums_go_up_and_changes_down(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    how = SECURE | {"down": "int8"}
    found = Consortium(tmp_path / "a", FOUR, adapter=WIDE, privacy=OFF, aggregation=how)
    contents = asked(found)
    end = found.federation().run(found.grid())
    assert contents["coast"][-1] == 1 + 2 * 71 + coding.size("int8", D)
    assert end.rest is not None
    # Every learner goes half of its way to 1, 2, 3 or 4; what the last change left out is owed.
    np.testing.assert_allclose(end.model + end.rest, 1.875, atol=0.01)


def test_with_noise_every_site_is_charged_as_ever_and_the_code_is_of_what_was_noised(tmp_path: Path) -> None:
    how = {"secure": False, "minimum_sites": 2, "range": 4.0, "codec": "ternary", "down": "int4"}
    found = Consortium(tmp_path, adapter=WIDE, aggregation=how)
    found.federation().run(found.grid())
    for site in found.sites.values():
        kinds = [row.kind for row in site.ledger.rows("notes")]
        assert kinds == ["reserved", "spent", "released"] * found.plan.training.rounds


@pytest.mark.parametrize(
    ("how", "kind", "most"),
    [
        ({"secure": False, "minimum_sites": 3, "range": 4.0, "codec": "ternary"}, messages.UPDATE, 16_000),
        (SECURE | {"bits": 6, "norm": 400.0}, sums.MASKED, 60_000),
    ],
)
def test_an_update_of_minilm_with_lora_is_as_small_as_promised(
    tmp_path: Path, how: dict[str, Any], kind: str, most: int
) -> None:
    """Rank 8 on query and value of six layers, a head of two classes; four sites, local mode."""
    wide = plan_json()["adapter"] | {"parameters": 6 * 4 * 8 * 384 + 2 * 385}
    found = Consortium(
        tmp_path, FOUR, adapter=wide, aggregation=how, training=plan_json()["training"] | {"rounds": 1}
    )
    federation = found.federation()
    sizes, through = [], federation.mail.opened

    def opened(*given: Any) -> Any:
        answer = through(*given)
        if answer.header.kind == kind:
            sizes.append(len(answer.content))
        return answer

    federation.mail.opened = opened  # type: ignore[method-assign]
    federation.run(found.grid())
    assert len(sizes) == 4
    assert most - 4_000 < max(sizes) <= most


# Crashes


class Crashing(Replies):
    """The power fails before the reply is stored."""

    def store(self, header: Any, sealed: Any) -> None:
        if header.round == 3:
            raise KeyboardInterrupt
        super().store(header, sealed)


def restarted(found: Consortium, name: str) -> Any:
    site = found.site(name)
    sloped(site)
    return site


def test_a_site_that_fails_between_rest_and_reply_answers_with_the_same_bytes(tmp_path: Path) -> None:
    whole = consortium(tmp_path / "a", "ternary", "int4")
    end = whole.federation().run(whole.grid())
    found = consortium(tmp_path / "b", "ternary", "int4")
    found.sites["north"].replies = Crashing(tmp_path / "b" / "north" / "replies")
    with pytest.raises(KeyboardInterrupt):
        found.federation().run(found.grid())
    found.sites["north"] = restarted(found, "north")
    again = found.federation(resume=found.saved[-1]).run(found.grid())
    np.testing.assert_array_equal(again.model, end.model)


def test_a_lead_that_was_killed_ends_in_the_same_model_bit_for_bit(tmp_path: Path) -> None:
    whole = consortium(tmp_path / "a", "ternary", "ternary")
    end = whole.federation().run(whole.grid())
    found = consortium(tmp_path / "b", "ternary", "ternary")
    path = tmp_path / "checkpoint"

    def save(state: Checkpoint) -> None:
        state.save(path)
        if state.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        found.federation(save=save).run(found.grid())
    found.sites = {name: restarted(found, name) for name in NAMES}
    contents = asked(found)
    again = found.federation(resume=Checkpoint.load(path, found.plan.digest)).run(found.grid())
    np.testing.assert_array_equal(again.model, end.model)
    assert max(contents["west"]) == 1 + 2 * 71 + coding.size("ternary", D)  # they still have the model before


def test_a_site_that_was_away_gets_the_whole_model_again(tmp_path: Path) -> None:
    found = consortium(tmp_path, "int8", "int4")
    contents = asked(found)
    away = [messages.TASK]

    def weather(name: str, message: Any) -> None:
        if name == "south" and len(contents["west"]) == 1 and away:
            raise ConnectionError

    present = lambda: NAMES if len(contents["west"]) != 1 else ("north", "west")  # noqa: E731
    end = found.federation(present=present).run(found.grid(fault=weather))
    full = 1 + 71 + 4 * D
    assert contents["south"].count(full) >= 1
    np.testing.assert_array_equal(found.sites["south"].learner.released[0], end.model)  # type: ignore[attr-defined]


def test_a_site_that_lost_its_models_misses_one_round_and_not_the_job(tmp_path: Path) -> None:
    found = consortium(tmp_path, "int8", "int4")
    site = found.sites["south"]
    keep = site.replies.held.keep

    def forgetful(number: int, model: Vector) -> None:
        keep(number, model)
        if number == 2:
            for path in site.replies.held.folder.iterdir():
                path.unlink()

    object.__setattr__(site.replies.held, "keep", forgetful)
    end = found.federation().run(found.grid())
    closed = [e.body for e in found.log.entries() if e.type == "round.closed"]
    assert ["south" in body["accepted"] for body in closed] == [True, True, False, True]
    assert end.excluded == {}
    reasons = [e.body["reason"] for e in found.log.entries() if e.type == "update.refused"]
    assert reasons == ["model_unknown"]


def test_no_rest_stays_when_the_job_is_over(tmp_path: Path) -> None:
    found = consortium(tmp_path, "ternary", "ternary")
    found.federation().run(found.grid())
    assert not list(tmp_path.glob("*/rests/*"))


def test_an_end_that_is_told_twice_is_answered_twice(tmp_path: Path) -> None:
    """The answer may be lost on its way, and the lead asks again."""
    found = consortium(tmp_path, "ternary", "ternary")
    ends: list[str] = []
    handle = found.sites["north"].handle

    def watched(data: bytes) -> bytes:
        answer = handle(data)
        if peek(data, 1 << 20).kind == messages.FINISH:
            ends.append(peek(handle(data), 1 << 20).kind)
        return answer

    found.sites["north"].handle = watched  # type: ignore[method-assign]
    found.federation().run(found.grid())
    assert ends == [messages.CLOSED]


# What does not fit


def lies(found: Consortium, content: bytes) -> Checkpoint:
    found.sites["west"]._update = lambda *_: Coded(content, ())  # type: ignore[method-assign]
    return found.federation().run(found.grid())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "update_shape"),
        (bytes(coding.size("ternary", D) - 1), "update_shape"),
        (b"\xff" * coding.size("ternary", D), "update_not_finite"),
        (b"\x00\x7f" * 3 + b"\xf2" * (coding.size("ternary", D) - 6), "update_range"),
    ],
)
def test_what_is_no_code_of_the_plan_is_refused_by_name(tmp_path: Path, content: bytes, reason: str) -> None:
    end = lies(consortium(tmp_path, "ternary"), content)
    assert end.excluded == {"west": reason}
    assert np.isfinite(end.model).all()


def test_an_update_beyond_the_range_does_not_leave(tmp_path: Path) -> None:
    found = consortium(tmp_path, "int4")
    far = Delta(np.full(D, 100.0, dtype=np.float32), ())
    found.sites["west"].learner.train = lambda *_: far  # type: ignore[method-assign]
    assert found.federation().run(found.grid()).excluded == {"west": "update_range"}
    assert not any(event.type == "update.sent" for event in found.sites["west"].log.entries())


def test_a_change_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    """A lead that signs one model and sends the change to another."""
    found = consortium(tmp_path, "int8", "int8")
    federation = found.federation()
    through = federation._task

    def other(kind: str, answer: str, state: Checkpoint) -> Any:
        ask = through(kind, answer, state)
        if state.sent is None:
            return ask
        wrong = broadcast.Change(state.sent.base, coding.encode("int8", np.ones(D, np.float32)))
        return SimpleNamespace(
            kind=ask.kind,
            answer=ask.answer,
            patience=ask.patience,
            content=lambda site: broadcast.changed(state.acknowledged.get(site, ""), wrong),
        )

    federation._task = other  # type: ignore[method-assign]
    with pytest.raises(CloisterError, match="update_model_mismatch"):
        federation.run(found.grid())


@pytest.mark.parametrize("content", [b"", b"\x02" + bytes(200), b"\x01" + b"x" * 142])
def test_a_task_of_neither_kind_is_refused(content: bytes) -> None:
    with pytest.raises(CloisterError):
        broadcast.opened(content, "int8", 5, lambda _: np.zeros(5, np.float32))


def test_a_change_of_a_model_that_is_not_here_is_refused() -> None:
    change = broadcast.Change("sha256:" + "0" * 64, coding.encode("int8", np.ones(5, np.float32)))
    with pytest.raises(ModelError) as caught:
        broadcast.opened(broadcast.changed("", change), "int8", 5, lambda _: None)
    assert caught.value.id == "model_unknown"


# Files


def test_a_rest_is_that_of_the_round_before(tmp_path: Path) -> None:
    rests = Rests(tmp_path / "rests")
    assert rests.before(1, 3) is None
    for number in (1, 2, 3):
        rests.keep(number, np.full(3, number, np.float32))
    assert rests.before(3, 3).tolist() == [2, 2, 2]  # type: ignore[union-attr]  # the round is computed again
    assert rests.before(9, 3).tolist() == [3, 3, 3]  # type: ignore[union-attr]
    assert len(list((tmp_path / "rests").iterdir())) == 2
    rests.forget()
    assert rests.before(9, 3) is None


@pytest.mark.parametrize("harm", [b"", b"x" * 90])
def test_a_damaged_rest_is_no_rest(tmp_path: Path, harm: bytes) -> None:
    rests = Rests(tmp_path / "rests")
    rests.keep(1, np.ones(3, np.float32))
    (tmp_path / "rests" / "00001.rest").write_bytes(harm)
    with pytest.raises(StateError) as caught:
        rests.before(2, 3)
    assert caught.value.id == "state_damaged"


def test_the_newest_two_models_are_found_by_digest(tmp_path: Path) -> None:
    held = HeldModels(tmp_path / "models")
    models = [np.full(3, number, np.float32) for number in (1, 2, 3)]
    for number, model in enumerate(models, 1):
        held.keep(number, model)
    found = [held.find(messages.model_digest(model)) for model in models]
    assert found[0] is None
    np.testing.assert_array_equal(found[1:], models[1:])
    (tmp_path / "models" / "00003.model").write_bytes(b"cut")
    assert held.find(messages.model_digest(models[2])) is None


# The plan


class TestPlan:
    """What a plan may say of codecs."""

    @pytest.mark.parametrize("codec", CODECS)
    def test_they_survive_the_bytes_and_are_told(self, codec: str) -> None:
        how = {"secure": False, "minimum_sites": 2, "range": 4.0, "codec": codec, "down": codec}
        data = canonical.encode(plan_json(aggregation=how))
        found = Plan.from_bytes(data)
        assert found.to_bytes() == data
        told = cli_work._terms(found)
        assert f"updates are coded as {codec} with error feedback" in told
        assert f"changes of the model are coded as {codec}" in told

    @pytest.mark.parametrize("broken", [{"codec": "int2"}, {"codec": None}, {"down": 8}])
    def test_another_is_refused(self, broken: dict[str, Any]) -> None:
        self.refused(
            plan_json(aggregation={"secure": False, "minimum_sites": 2, "range": 4.0} | broken), "The plan"
        )

    def test_a_codec_with_secure_aggregation_is_refused_with_the_reason(self) -> None:
        self.refused(plan_json(FOUR, aggregation=SECURE | {"codec": "int8"}), "cannot add: use bits")

    def test_a_coded_change_in_joint_mode_is_refused_with_the_reason(self) -> None:
        joint = plan_json()["privacy"] | {"mode": "joint"}
        training = plan_json()["training"] | {"steps": 1}
        value = plan_json(FOUR, aggregation=SECURE | {"down": "int8"}, privacy=joint, training=training)
        self.refused(value, "from its exact sum")

    @staticmethod
    def refused(value: dict[str, Any], says: str) -> None:
        with pytest.raises(PlanError, match=says) as caught:
            Plan.from_bytes(canonical.encode(value))
        assert caught.value.id == "plan_malformed"
