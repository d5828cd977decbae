"""Secure sums over real envelopes, ledgers, logs and state files: exact with every site, or without some."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from flwr.app import Message

from cloister.privacy import canonical
from cloister.privacy.errors import AggregationError, CloisterError, RoundError
from cloister.privacy.secagg.encoding import encode
from cloister.privacy.update import Delta, Vector
from cloister.privacy.wire import messages, sums
from cloister.privacy.wire.envelope import open_envelope, peek
from cloister.server.checkpoint import Checkpoint
from cloister.server.exchange import Answer
from cloister.server.sums import Ask
from tests.parties import Consortium, asked, tasked
from tests.plans import plan_json

pytestmark = pytest.mark.job

Words: TypeAlias = np.ndarray[Any, np.dtype[np.int32]]

FOUR = ("north", "south", "west", "coast")
SECURE = {"secure": True, "minimum_sites": 3, "range": 4.0, "threshold": 3, "colluding": 1}
OFF = plan_json()["privacy"] | {"mode": "off", "noise_multiplier": 0.0, "epsilon": 0.0, "delta": 0.0}


def consortium(folder: Path, *, secure: bool = True, **changes: Any) -> Consortium:
    folder.mkdir(exist_ok=True)
    how = SECURE if secure else {"secure": False, "minimum_sites": 3, "range": 4.0}
    return Consortium(folder, FOUR, aggregation=how, **changes)


def kind_of(message: Message) -> str:
    data = message.content["envelope"]["b"]
    assert isinstance(data, bytes)
    return peek(data, 1 << 20).kind


class Weather:
    """Which site goes away at which kind of message, and when it comes back."""

    def __init__(self, *leaves: tuple[str, str], back: str = "") -> None:
        self.leaves, self.back, self.away = set(leaves), back, set[str]()

    def __call__(self, name: str, message: Message) -> None:
        kind = kind_of(message)
        if kind == self.back:
            self.away.discard(name)
        if (name, kind) in self.leaves:
            self.leaves.discard((name, kind))
            self.away.add(name)
        if name in self.away:
            raise ConnectionError

    def present(self) -> tuple[str, ...]:
        return tuple(name for name in FOUR if name not in self.away)


def run(found: Consortium, weather: Weather) -> Checkpoint:
    return found.federation(present=weather.present).run(found.grid(fault=weather))


def plain(folder: Path, *, without: tuple[str, ...] = ()) -> Vector:
    """The model that the same sites make without secrecy."""
    found = consortium(folder, secure=False, privacy=OFF)
    weather = Weather(*((name, messages.TASK) for name in without))
    return run(found, weather).model


def test_the_model_is_that_without_secrecy_bit_for_bit(tmp_path: Path) -> None:
    found = consortium(tmp_path / "a", privacy=OFF)
    end = run(found, Weather())
    np.testing.assert_array_equal(end.model, plain(tmp_path / "b"))
    assert np.abs(end.model).max() > 0.1
    closed = [event.body for event in found.log.entries() if event.type == "sum.closed"]
    everybody = sorted(FOUR)
    assert (
        closed
        == [{"survivors": everybody, "signed": everybody, "opened": everybody, "step": 0}]
        * found.plan.training.rounds
    )


def test_with_noise_every_site_is_charged_as_ever(tmp_path: Path) -> None:
    found = consortium(tmp_path)
    run(found, Weather())
    for site in found.sites.values():
        kinds = [row.kind for row in site.ledger.rows("notes")]
        assert kinds == ["reserved", "spent", "released"] * found.plan.training.rounds
        types = [event.type for event in site.log.entries()]
        assert types.count("sum.signed") == types.count("sum.opened") == found.plan.training.rounds


@pytest.mark.parametrize("name", ["north", "coast"])
def test_a_site_that_stays_away_is_left_out_of_the_exact_sum(tmp_path: Path, name: str) -> None:
    found = consortium(tmp_path / "a", privacy=OFF)
    end = run(found, Weather((name, messages.TASK)))
    np.testing.assert_array_equal(end.model, plain(tmp_path / "b", without=(name,)))
    opened = [e.body["missing"] for e in found.sites["south"].log.entries() if e.type == "sum.opened"]
    assert opened == [[name]] * found.plan.training.rounds


@pytest.mark.parametrize("kind", [sums.SURVIVE, sums.OPEN])
def test_a_site_lost_after_its_upload_is_in_the_exact_sum(tmp_path: Path, kind: str) -> None:
    found = consortium(tmp_path / "a", privacy=OFF)
    end = run(found, Weather(("west", kind), back=messages.TASK))
    np.testing.assert_array_equal(end.model, plain(tmp_path / "b"))
    recovered = [e.body for e in found.sites["north"].log.entries() if e.type == "sum.recovered"]
    assert recovered == [{"lost": ["west"], "step": 0}]


def test_the_double_fault_ends_the_run_cleanly_and_the_next_round_goes_on(tmp_path: Path) -> None:
    found = consortium(tmp_path, privacy=OFF)
    weather = Weather(("coast", messages.TASK), ("west", sums.OPEN))
    with pytest.raises(AggregationError, check=lambda error: error.id == "sum_lost"):
        run(found, weather)
    state = found.saved[-1]
    assert (state.round, state.survivors) == (1, ())
    np.testing.assert_array_equal(state.model, 0)
    assert [e.body["reason"] for e in found.log.entries() if e.type == "round.aborted"] == ["sum_lost"]
    end = found.federation(resume=state).run(found.grid())
    assert end.round == found.plan.training.rounds
    assert np.abs(end.model).max() > 0.1


@pytest.mark.parametrize("kind", [messages.TASK, sums.SURVIVE, sums.OPEN, sums.RECOVER])
def test_a_lead_that_dies_at_any_moment_ends_in_the_same_model(tmp_path: Path, kind: str) -> None:
    found = consortium(tmp_path / "a", privacy=OFF)
    weather = Weather(("west", sums.OPEN), back=messages.TASK)

    def dies(name: str, message: Message) -> None:
        if kind_of(message) == kind and name == "south":
            raise KeyboardInterrupt
        weather(name, message)

    with pytest.raises(KeyboardInterrupt):
        found.federation(present=weather.present).run(found.grid(fault=dies))
    found.sites = {name: found.site(name) for name in FOUR}  # all restart, too
    resume = found.saved[-1] if found.saved else found.federation().resume
    weather.away.clear()
    end = found.federation(resume=resume).run(found.grid())
    np.testing.assert_array_equal(end.model, plain(tmp_path / "b"))
    for site in found.sites.values():
        rounds = [event.round for event in site.log.entries() if event.type == "update.sent"]
        assert rounds == sorted(set(rounds))


def test_a_lead_that_dies_in_round_1_while_a_site_is_missing(tmp_path: Path) -> None:
    found = consortium(tmp_path / "a", privacy=OFF)
    weather = Weather(("coast", messages.TASK))

    def dies(name: str, message: Message) -> None:
        if kind_of(message) == sums.SURVIVE and name == "south":
            raise KeyboardInterrupt
        weather(name, message)

    with pytest.raises(KeyboardInterrupt):
        found.federation(present=weather.present).run(found.grid(fault=dies))
    assert found.saved[-1].survivors == ("north", "south", "west")
    end = found.federation(resume=found.saved[-1], present=weather.present).run(found.grid(fault=weather))
    np.testing.assert_array_equal(end.model, plain(tmp_path / "b", without=("coast",)))


def test_a_survivor_that_is_away_at_the_resume_keeps_the_sum_open(tmp_path: Path) -> None:
    found = consortium(tmp_path / "a", privacy=OFF)

    def dies(name: str, message: Message) -> None:
        if kind_of(message) == sums.OPEN:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        found.federation().run(found.grid(fault=dies))
    state, weather = found.saved[-1], Weather(("west", messages.TASK))
    with pytest.raises(RoundError, match="had begun with north, south, west, coast") as caught:
        found.federation(resume=state, present=weather.present).run(found.grid(fault=weather))
    assert caught.value.id == "below_minimum"
    assert found.saved[-1] is state
    end = found.federation(resume=state).run(found.grid())
    np.testing.assert_array_equal(end.model, plain(tmp_path / "b"))


def test_an_attempt_after_a_signature_is_refused_before_it_costs_anything(tmp_path: Path) -> None:
    found = consortium(tmp_path)
    run(found, Weather())
    site = found.site("north")  # it has signed round 1 long ago
    federation = found.federation()
    stage = federation._stage(federation.resume, 1)
    again = replace(stage, attempt=2)
    before = len(list(site.ledger.rows("notes")))
    answer = site.handle(tasked(federation, again, "north"))
    assert peek(answer, 1 << 20).kind == messages.REFUSAL
    assert len(list(site.ledger.rows("notes"))) == before


@pytest.mark.parametrize("kind", [sums.INTRODUCE, sums.AGREE, sums.ADOPT])
def test_whoever_disturbs_the_agreement_is_named(tmp_path: Path, kind: str) -> None:
    found = consortium(tmp_path)
    coast = found.sites["coast"].secure
    assert coast is not None
    rubbish = {
        sums.INTRODUCE: lambda: canonical.encode({"content": "{}", "ed25519": "00", "mldsa65": "00"}),
        sums.AGREE: lambda _: sums.signatures_to_bytes(
            {"north": found.sites["north"].secure._agreeing.introduction}
        ),  # type: ignore[union-attr]
        sums.ADOPT: lambda _: canonical.encode(dict.fromkeys(FOUR[:3], "another")),
    }
    name = {sums.INTRODUCE: "introduce", sums.AGREE: "agree", sums.ADOPT: "adopt"}[kind]
    setattr(coast, name, rubbish[kind])
    with pytest.raises(AggregationError) as caught:
        run(found, Weather())
    assert caught.value.id == "keys_missing"
    assert "coast: " in caught.value.what
    assert "north: " not in caught.value.what


def test_after_the_end_no_key_is_left_and_nothing_is_trained(tmp_path: Path) -> None:
    found = consortium(tmp_path)
    run(found, Weather())
    federation = found.federation()
    for name, site in found.sites.items():
        state = canonical.decode((tmp_path / name / "sums.json").read_bytes())
        assert state["sums"] is None
        ratchet = canonical.decode((tmp_path / name / "ratchet").read_bytes())
        assert ratchet["round"] == found.plan.training.rounds + 1
        task = tasked(federation, federation._stage(federation.resume, found.plan.training.rounds), name)
        assert peek(site.handle(task), 1 << 20).kind == messages.REFUSAL


def test_without_every_sites_keys_nothing_begins(tmp_path: Path) -> None:
    found = consortium(tmp_path)
    with pytest.raises(AggregationError, match="west: site_lost") as caught:
        run(found, Weather(("west", sums.AGREE)))
    assert caught.value.id == "keys_missing"
    assert not any(event.type == "round.opened" for event in found.log.entries())
    run(found, Weather())  # agreed anew, from the same keys


def test_too_few_uploads_leave_the_sum_open(tmp_path: Path) -> None:
    found = consortium(tmp_path / "a", privacy=OFF)
    weather = Weather(("west", messages.TASK), ("coast", messages.TASK))
    with pytest.raises(RoundError) as caught:
        run(found, weather)
    assert caught.value.id == "below_minimum"
    resumed = found.federation(resume=found.saved[-1])
    end = resumed.run(found.grid())  # the same sum, with the stored answers of the others
    np.testing.assert_array_equal(end.model, plain(tmp_path / "b"))


def test_nothing_that_the_lead_holds_correlates_with_an_update(tmp_path: Path) -> None:
    """With the clear updates at hand: what arrives at the lead tells none of them, and the sum is theirs."""
    wide = plan_json()["adapter"] | {"parameters": 5000}
    found = consortium(tmp_path, privacy=OFF, adapter=wide, training=plan_json()["training"] | {"rounds": 1})
    clear: dict[str, Words] = {}
    arrived: dict[str, Words] = {}
    for place, (name, site) in enumerate(found.sites.items()):
        delta = Delta(np.random.default_rng(place).normal(0, 0.1, 5000).astype(np.float32), ())
        site.learner.train = lambda *_, delta=delta: delta
        clear[name] = np.frombuffer(encode(delta, found.plan.weight(name), found.plan.ring).content, "<i4")
    federation = found.federation()
    opened = federation.mail.opened

    def watched(current: Any, sent: Answer, kinds: tuple[str, ...]) -> Any:
        answer = opened(current, sent, kinds)
        if answer.header.kind == sums.MASKED:
            arrived[sent.site] = sums.masked_from_bytes(answer.content, 5000).words.view(np.int32)
        return answer

    federation.mail.opened = watched  # type: ignore[method-assign]
    end = federation.run(found.grid())
    assert set(arrived) == set(FOUR)
    six_errors = 6 / np.sqrt(5000)
    for name in FOUR:
        for other in FOUR:
            assert abs(np.corrcoef(arrived[name], clear[other])[0, 1]) < six_errors
    whole = np.sum(list(clear.values()), axis=0, dtype=np.int32)
    assert abs(np.corrcoef(np.sum(list(arrived.values()), 0, np.int32), whole)[0, 1]) < six_errors
    assert np.corrcoef(end.model, whole)[0, 1] > 0.999
    everything = b"".join(path.read_bytes() for path in (tmp_path / "lead").rglob("*") if path.is_file())
    assert not any(vector.tobytes()[:400] in everything for vector in clear.values())


@pytest.mark.parametrize("kind", sorted(sums.ASKED - {sums.SURPLUS}))
@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"survivors":5}', b"\xff", b'{"a":{}}', b"null"])
def test_malformed_requests_are_refused_by_id(tmp_path: Path, kind: str, content: bytes) -> None:
    found = consortium(tmp_path)
    federation = found.federation()
    stage = federation._stage(federation.resume, 1)
    data = asked(federation, stage, "north", _ask(kind, content))
    answer = found.sites["north"].handle(data)
    header = peek(answer, 1 << 20)
    if kind == sums.INTRODUCE:
        assert header.kind == sums.INTRODUCTION
        return
    assert header.kind == messages.REFUSAL
    expected = federation.mail.questions.header(stage, "north", messages.REFUSAL, up=True)
    opened = open_envelope(
        answer,
        expected=expected,
        recipient=found.lead,
        sender=found.keys["north"].public,
        limit=1 << 20,
    )
    assert messages.refusal_reason(opened.content) not in {"internal", ""}


def _ask(kind: str, content: bytes) -> Ask:
    return Ask(kind, "", lambda _: content)


def test_a_plan_without_secure_aggregation_takes_no_step_of_it(tmp_path: Path) -> None:
    found = consortium(tmp_path, secure=False)
    federation = found.federation()
    data = asked(federation, federation._stage(federation.resume, 1), "north", _ask(sums.INTRODUCE, b""))
    with pytest.raises(CloisterError, check=lambda error: error.id == "wrong_context"):
        found.sites["north"].handle(data)


def test_a_plan_that_takes_nothing_back_is_asked_for_no_surplus(tmp_path: Path) -> None:
    found = consortium(tmp_path)
    federation = found.federation()
    data = asked(federation, federation._stage(federation.resume, 1), "north", _ask(sums.SURPLUS, b"{}"))
    with pytest.raises(CloisterError, check=lambda error: error.id == "wrong_context"):
        found.sites["north"].handle(data)


def test_a_participant_masks_exactly_where_the_plan_says_so(tmp_path: Path) -> None:
    found = consortium(tmp_path)
    site = found.sites["north"]
    with pytest.raises(ValueError, match="masked exactly where"):
        replace(site, secure=None, bytes_up=0, bytes_down=0)


def test_the_state_on_disk_is_private_and_holds_no_update(tmp_path: Path) -> None:
    found = consortium(tmp_path, privacy=OFF)
    run(found, Weather())
    for name in FOUR:
        path = tmp_path / name / "sums.json"
        assert path.stat().st_mode & 0o077 == 0
        state = canonical.decode(path.read_bytes())
        assert state["key"] is None
        assert state["roots"] == {}
