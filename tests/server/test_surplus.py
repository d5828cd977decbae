"""Surplus noise taken back over real envelopes, ledgers, logs and state files, and what may go wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from cloister.privacy import canonical
from cloister.privacy.errors import ChannelError, EntropyError, PlanError, RoundError
from cloister.privacy.plan import Plan
from cloister.privacy.secagg import surplus
from cloister.privacy.secagg.terms import At
from cloister.privacy.update import Vector
from cloister.privacy.wire import messages, sums
from cloister.privacy.wire.envelope import Opened, peek
from cloister.server.checkpoint import Checkpoint
from cloister.server.sums import Ask
from tests.parties import Consortium, asked
from tests.plans import plan, plan_json
from tests.server.test_joint import JOINT, TRAINING, Postman
from tests.server.test_sums import FOUR, SECURE, Weather, kind_of, run

pytestmark = pytest.mark.job

SURPLUS = SECURE | {"surplus": True}
ROUNDS = 3


def changes(**more: Any) -> dict[str, Any]:
    return {"privacy": JOINT, "training": TRAINING | {"rounds": ROUNDS}, "aggregation": SURPLUS} | more


def consortium(folder: Path, **more: Any) -> Consortium:
    folder.mkdir(exist_ok=True)
    return Consortium(folder, FOUR, **changes(**more))


def bodies(found: Consortium, site: str, type_: str) -> list[Mapping[str, Any]]:
    log = found.log if site == "lead" else found.sites[site].log
    return [event.body for event in log.entries() if event.type == type_]


def steps(found: Consortium) -> list[tuple[int | None, object]]:
    return [(e.round, e.body["step"]) for e in found.log.entries() if e.type == "sum.closed"]


class TestPlan:
    """What a plan may say of surplus noise."""

    def test_a_plan_without_it_keeps_its_bytes_and_one_with_it_survives_its_own(self) -> None:
        assert b"surplus" not in plan(FOUR, **changes(aggregation=SECURE)).to_bytes()
        found = plan(FOUR, **changes())
        assert b'"surplus":true' in found.to_bytes()
        assert Plan.from_bytes(found.to_bytes()) == found

    def test_the_reserve_is_the_same_and_a_share_is_made_of_two_parts(self) -> None:
        with_, without = plan(FOUR, **changes()), plan(FOUR, **changes(aggregation=SECURE))
        assert with_.round_mechanism == without.round_mechanism
        assert len(with_.grid.parts) == 2
        assert with_.grid.share == without.grid.share

    @pytest.mark.parametrize(
        ("more", "says"),
        [
            ({"aggregation": SECURE | {"surplus": False}}, "surplus"),
            ({"aggregation": SECURE | {"surplus": 1}}, "leaves a field to its default"),
            ({"aggregation": SURPLUS | {"minimum_sites": 4}}, "No site may be lost"),
            ({"privacy": plan_json()["privacy"]}, "belongs to joint privacy"),
            ({"privacy": JOINT | {"noise_multiplier": 0.03}}, "A part of a share"),
        ],
    )
    def test_terms_that_cannot_be_kept_are_refused(self, more: dict[str, Any], says: str) -> None:
        with pytest.raises(PlanError, match=says) as caught:
            plan(FOUR, **changes(**more))
        assert caught.value.id == "plan_malformed"


class TestRounds:
    """A whole job."""

    def test_every_step_is_taken_without_surplus_noise_and_every_site_follows(self, tmp_path: Path) -> None:
        found = consortium(tmp_path)
        said: list[str] = []
        for site in found.sites.values():
            site.complain = said.append
        end = run(found, Weather())
        assert said == []
        assert steps(found) == [(number, step) for number in range(1, ROUNDS + 1) for step in (0, 1)]
        np.testing.assert_array_equal(found.sites["north"].learner.released[0], end.model)  # type: ignore[attr-defined]
        pairs = zip(pending(found), taken(found), strict=True)
        assert all((before != after).any() for before, after in pairs), "something was taken out"

    def test_over_the_consortium_service_it_is_the_same(self, tmp_path: Path) -> None:
        found = consortium(tmp_path)
        end = found.federation(exchange=Postman(found)).run(found.grid())
        assert end.round == ROUNDS
        assert steps(found) == [(number, step) for number in range(1, ROUNDS + 1) for step in (0, 1)]

    def test_the_ledger_charges_the_noise_that_is_left_which_is_the_reserve(self, tmp_path: Path) -> None:
        found = consortium(tmp_path)
        run(found, Weather())
        rows = found.sites["north"].ledger.rows("notes")
        assert [row.kind for row in rows] == ["reserved", "released", "spent"] * ROUNDS
        assert {row.reservation.mechanism for row in rows} == {found.plan.round_mechanism}
        for given in bodies(found, "north", "surplus.given"):
            assert given["survivors"] == sorted(FOUR)
            assert given["noise_left"] == pytest.approx(1.5, rel=1e-12)

    def test_where_a_site_is_missing_from_the_step_nothing_is_surplus(self, tmp_path: Path) -> None:
        found = consortium(tmp_path)
        run(found, Weather(("west", messages.TASK), back=messages.FINISH))
        assert steps(found) == [(number, 0) for number in range(1, ROUNDS + 1)]
        assert not bodies(found, "north", "surplus.given")
        assert not bodies(found, "lead", "surplus.kept")

    def test_a_site_lost_before_it_gives_its_surplus_leaves_all_noise_in_and_the_run_goes_on(
        self, tmp_path: Path
    ) -> None:
        found = consortium(tmp_path)
        end = run(found, Weather(("west", sums.SURPLUS), back=messages.TASK))
        assert end.round == ROUNDS
        assert steps(found) == [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1)]
        assert bodies(found, "lead", "surplus.kept") == [
            {"reason": "surplus_refused", "survivors": sorted(FOUR)}
        ]
        np.testing.assert_array_equal(taken(found)[0], pending(found)[0])
        assert not bodies(found, "lead", "site.lost"), "its update is in the step"
        spent = [row for row in found.sites["north"].ledger.rows("notes") if row.kind == "spent"]
        assert {row.reservation.mechanism for row in spent} == {found.plan.round_mechanism}

    @pytest.mark.parametrize("kind", [sums.SURVIVE, sums.OPEN])
    def test_a_site_lost_after_it_gave_its_surplus_is_recovered(self, tmp_path: Path, kind: str) -> None:
        found = consortium(tmp_path)
        weather = Second("west", kind)
        end = run(found, weather)
        assert end.round == ROUNDS
        assert weather.left
        assert steps(found)[:2] == [(1, 0), (1, 1)]
        assert [body["step"] for body in bodies(found, "north", "sum.recovered")] == [1]

    def test_a_site_that_starts_again_in_between_gives_the_same_noise(self, tmp_path: Path) -> None:
        found = consortium(tmp_path)
        for name in FOUR:

            def restarted(data: bytes, name: str = name) -> bytes:
                return found.site(name).handle(data)

            found.sites[name].handle = restarted  # type: ignore[method-assign]
        run(found, Weather())
        assert steps(found) == [(number, step) for number in range(1, ROUNDS + 1) for step in (0, 1)]
        self.check_noise(found)

    @staticmethod
    def check_noise(found: Consortium) -> None:
        """With the surplus left in, the sums would be larger: what came out is small against the noise."""
        for before, after in zip(pending(found), taken(found), strict=True):
            gone = (before - after).view(np.int32)
            assert 0 < np.abs(gone).max() < 12 * found.plan.grid.share

    @pytest.mark.parametrize("kind", [sums.SURPLUS, sums.SURVIVE, sums.OPEN])
    def test_a_lead_that_dies_in_between_ends_in_the_same_step(self, tmp_path: Path, kind: str) -> None:
        found = consortium(tmp_path)
        dead: list[bool] = []

        def dies(name: str, message: Message) -> None:
            if (kind_of(message), name, step_of(message)) == (kind, "south", 1) and not dead:
                dead.append(True)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            found.federation().run(found.grid(fault=dies))
        begun = found.saved[-1]
        assert begun.pending is not None
        begun.save(tmp_path / "checkpoint")
        again = Checkpoint.load(tmp_path / "checkpoint", found.plan.digest)
        assert again.pending is not None
        np.testing.assert_array_equal(again.pending.words, begun.pending.words)
        end = found.federation(resume=again).run(found.grid())
        assert (end.round, end.pending) == (ROUNDS, None)
        assert (1, 1) in steps(found)
        assert not bodies(found, "lead", "surplus.kept")
        for name in FOUR:
            assert len(bodies(found, name, "surplus.given")) == ROUNDS, "sent again, not made again"
            assert found.sites[name].learner.trained == ROUNDS  # type: ignore[attr-defined]

    def test_a_pending_step_whose_survivor_stays_away_can_be_given_up(self, tmp_path: Path) -> None:
        found = consortium(tmp_path)

        def dying(state: Checkpoint) -> None:
            found.saved.append(state)
            if state.pending:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            found.federation(save=dying).run(found.grid())
        away = Weather(("west", messages.TASK), back=messages.FINISH)
        with pytest.raises(RoundError, match="--give-up"):
            found.federation(resume=found.saved[-1], present=away.present).run(found.grid(fault=away))
        end = found.federation(resume=found.saved[-1], give_up=True).run(found.grid())
        assert (end.round, end.pending) == (ROUNDS, None)


class TestLies:
    """A lead that asks for surplus noise when, of whom or for whom it must not."""

    def asked(
        self, found: Consortium, kind: str, content: bytes, *, step: int = 1, site: str = "north"
    ) -> Opened:
        """What a site answers to an envelope of the lead in round 1."""
        federation = found.federation()
        current = federation._stage(federation.resume, 1)
        current.step = step
        ask = Ask(kind, sums.MASKED, lambda _: content)
        data = found.sites[site].handle(asked(federation, current, site, ask))
        return federation.mail.questions.opened(
            current, site, (sums.MASKED, sums.SIGNED, messages.REFUSAL), data
        )

    def reason(self, answer: Opened) -> str:
        assert answer.header.kind == messages.REFUSAL
        return messages.refusal_reason(answer.content)

    def stopped_at(self, folder: Path, kind: str, step: int) -> Consortium:
        """A job whose lead stopped for good before it sent the first envelope of a kind in a step."""
        found = consortium(folder)

        def dies(name: str, message: Message) -> None:
            if (kind_of(message), step_of(message)) == (kind, step):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            found.federation().run(found.grid(fault=dies))
        return found

    def test_before_the_survivor_set_was_signed(self, tmp_path: Path) -> None:
        found = self.stopped_at(tmp_path, sums.SURVIVE, 0)
        answer = self.asked(found, sums.SURPLUS, sums.survivors_to_bytes(FOUR))
        assert self.reason(answer) == "surplus_refused"

    def test_before_the_sum_was_opened(self, tmp_path: Path) -> None:
        found = self.stopped_at(tmp_path, sums.OPEN, 0)
        answer = self.asked(found, sums.SURPLUS, sums.survivors_to_bytes(FOUR))
        assert self.reason(answer) == "surplus_refused"

    @pytest.mark.parametrize("others", [FOUR[:3], ("north", "west", "coast"), ("north",), (), FOUR[::-1]])
    def test_for_another_set_or_a_part_of_it(self, tmp_path: Path, others: tuple[str, ...]) -> None:
        found = self.stopped_at(tmp_path, sums.SURPLUS, 1)
        answer = self.asked(found, sums.SURPLUS, sums.survivors_to_bytes(others))
        assert self.reason(answer) == "surplus_refused"
        honest = self.asked(found, sums.SURPLUS, sums.survivors_to_bytes(FOUR))
        assert honest.header.kind == sums.MASKED, "a refusal changes nothing"

    def test_the_sum_of_surplus_noise_is_signed_for_no_part_of_the_set(self, tmp_path: Path) -> None:
        found = self.stopped_at(tmp_path, sums.SURPLUS, 1)
        self.asked(found, sums.SURPLUS, sums.survivors_to_bytes(FOUR))
        answer = self.asked(found, sums.SURVIVE, sums.survivors_to_bytes(FOUR[:3]))
        assert self.reason(answer) == "survivor_set_fixed"
        assert self.asked(found, sums.SURVIVE, sums.survivors_to_bytes(FOUR)).header.kind == sums.SIGNED

    def test_twice_gives_the_same_bytes_also_after_a_restart(self, tmp_path: Path) -> None:
        found = self.stopped_at(tmp_path, sums.SURPLUS, 1)
        first = self.asked(found, sums.SURPLUS, sums.survivors_to_bytes(FOUR))
        found.sites["north"] = found.site("north")
        again = self.asked(found, sums.SURPLUS, sums.survivors_to_bytes(FOUR))
        assert (again.digest, again.content) == (first.digest, first.content)

    def test_a_reply_that_was_not_stored_is_made_again_of_the_same_noise(self, tmp_path: Path) -> None:
        found = self.stopped_at(tmp_path, sums.SURPLUS, 1)
        first = self.asked(found, sums.SURPLUS, sums.survivors_to_bytes(FOUR))
        for stored in (tmp_path / "north" / "replies" / "surplus").iterdir():
            stored.unlink()  # as after a crash between masking and storing
        found.sites["north"] = found.site("north")
        again = self.asked(found, sums.SURPLUS, sums.survivors_to_bytes(FOUR))
        words = [sums.masked_from_bytes(answer.content, 5).words for answer in (first, again)]
        np.testing.assert_array_equal(words[0], words[1])

    def test_after_the_next_round_began(self, tmp_path: Path) -> None:
        found = consortium(tmp_path)
        run(found, Weather(("west", sums.SURPLUS), back=messages.TASK))
        answer = self.asked(found, sums.SURPLUS, sums.survivors_to_bytes(FOUR), site="west")
        assert self.reason(answer) == "replay", "it gave some in later rounds"

    def test_a_step_does_not_come_again_after_its_surplus(self, tmp_path: Path) -> None:
        found = self.stopped_at(tmp_path, sums.SURPLUS, 1)
        self.asked(found, sums.SURPLUS, sums.survivors_to_bytes(FOUR))
        answer = self.asked(found, sums.SURVIVE, sums.survivors_to_bytes(FOUR), step=0)
        assert self.reason(answer) == "sum_unknown"

    @pytest.mark.parametrize(("kind", "step"), [(messages.TASK, 1), (sums.SURPLUS, 0), (sums.SURPLUS, 2)])
    def test_in_another_step_of_the_round(self, tmp_path: Path, kind: str, step: int) -> None:
        found = self.stopped_at(tmp_path, sums.SURPLUS, 1)
        with pytest.raises(ChannelError) as caught:
            self.asked(found, kind, sums.survivors_to_bytes(FOUR), step=step)
        assert caught.value.id == "wrong_context"

    def test_of_a_plan_that_leaves_all_noise_in(self, tmp_path: Path) -> None:
        found = consortium(tmp_path, aggregation=SECURE)
        with pytest.raises(ChannelError) as caught:
            self.asked(found, sums.SURPLUS, sums.survivors_to_bytes(FOUR))
        assert caught.value.id == "wrong_context"

    def test_less_noise_than_promised_is_never_left(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = self.stopped_at(tmp_path, sums.SURPLUS, 1)
        grid = type(found.plan.grid)
        honest = grid.left
        monkeypatch.setattr(grid, "left", lambda self, survivors: 0.999 * honest(self, survivors))
        answer = self.asked(found, sums.SURPLUS, sums.survivors_to_bytes(FOUR))
        assert self.reason(answer) == "update_unnoised"

    def test_a_ratchet_that_has_moved_on_makes_no_noise_again(self, tmp_path: Path) -> None:
        found = self.stopped_at(tmp_path, sums.SURPLUS, 1)
        found.sites["north"].entropy.advance(2)
        answer = self.asked(found, sums.SURPLUS, sums.survivors_to_bytes(FOUR))
        assert self.reason(answer) == "ratchet_behind"
        with pytest.raises(EntropyError):
            found.sites["north"].entropy.advance(1)


class Second(Weather):
    """A site that goes away at a kind of message of the first round's second sum, until the next task."""

    def __init__(self, name: str, kind: str) -> None:
        super().__init__()
        self.name, self.kind, self.left = name, kind, False

    def __call__(self, name: str, message: Message) -> None:
        kind = kind_of(message)
        if kind == messages.TASK:
            self.away.discard(name)
        if (name, kind, step_of(message)) == (self.name, self.kind, 1) and not self.left:
            self.left = True
            self.away.add(name)
        if name in self.away:
            raise ConnectionError


def step_of(message: Message) -> int:
    data = message.content["envelope"]["b"]
    assert isinstance(data, bytes)
    return peek(data, 1 << 20).step


def pending(found: Consortium) -> list[np.ndarray[Any, Any]]:
    """The sums as they were opened first."""
    return [state.pending.words for state in found.saved if state.pending is not None]


def taken(found: Consortium) -> list[np.ndarray[Any, Any]]:
    """The sums that steps were taken from."""
    done = {state.round: state.taken.words for state in found.saved if state.taken and not state.survivors}
    return [done[number] for number in sorted(done)]


def test_the_second_sum_is_step_1_of_the_round_and_leaves_modulo_2_32() -> None:
    place = At(3, 0, 1, canonical.digest(b"m"))
    assert surplus.place(place) == At(3, 1, 1, place.model)
    words: Vector = np.array([1, 0, 5], dtype=np.uint32)  # type: ignore[assignment]
    noise = np.array([2, 1, 5], dtype=np.uint32)
    np.testing.assert_array_equal(surplus.without(words, noise), [2**32 - 1, 2**32 - 1, 0])  # type: ignore[arg-type]
