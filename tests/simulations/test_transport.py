"""A whole federation in this process: the real ServerApp, ClientApps, envelopes, ledgers and logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from cloister.privacy.errors import RoundError
from cloister.privacy.evidence.log import verify_log
from cloister.privacy.update import Delta
from cloister.server.app import server_app
from tests.parties import Consortium
from tests.privacy.test_plan import PRIVACY_OFF

pytestmark = pytest.mark.job


def reasons(consortium: Consortium, type_: str) -> list[dict[str, Any]]:
    return [dict(event.body) for event in consortium.log.entries() if event.type == type_]


def test_sites_reach_their_common_mean(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path)
    end = consortium.federation().run(consortium.grid())
    assert end.round == 2
    assert end.model == pytest.approx([1.5] * 5, abs=1e-3)  # half way twice towards the mean 2
    for site in consortium.sites.values():
        assert site.learner.released[0].tobytes() == end.model.tobytes()
        assert [round_ for round_, _ in site.learner.kept] == [0, 1, 2]


def test_the_flower_serverapp_runs_the_same_federation(tmp_path: Path) -> None:
    consortium, ends = Consortium(tmp_path, privacy=PRIVACY_OFF), []
    app = server_app(consortium.federation(), ends.append)
    from flwr.app import Context

    app(consortium.grid(), Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={}))
    assert ends[0].model == pytest.approx([1.5] * 5)


def test_every_party_ends_with_a_log_that_verifies(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path)
    consortium.federation().run(consortium.grid())
    consortium.log.head()
    verify_log(tmp_path / "lead" / "log", consortium.lead.public)
    for name, key in consortium.keys.items():
        consortium.sites[name].log.head()
        verify_log(tmp_path / name / "log", key.public)


def test_the_ledger_is_charged_for_each_round_and_no_more(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path)
    consortium.federation().run(consortium.grid())
    for site in consortium.sites.values():
        rows = site.ledger.rows("notes")
        assert [row.kind for row in rows] == ["reserved", "spent", "released"] * 2


def test_a_site_over_budget_refuses_and_is_not_asked_again(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path, budget=100.0)
    poor = tmp_path / "poor"
    poor.mkdir()
    site = consortium.sites["south"]
    from cloister.client.site.ledger import Ledger

    site.ledger = Ledger(poor / "ledger.sqlite", site.log)
    site.ledger.open_budget("notes", "record", 0.5, 1e-5)
    end = consortium.federation().run(consortium.grid())
    assert end.excluded == {"south": "budget_exceeded"}
    assert site.learner.trained == 0
    assert end.model == pytest.approx([1.5] * 5, abs=1e-3)


def test_a_site_lost_in_a_round_is_named_and_the_round_ends_with_the_others(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path)
    gone: set[str] = set()

    def fault(site: str, message: Message) -> None:
        if site == "west":
            gone.add(site)
            raise ConnectionError

    federation = consortium.federation(present=lambda: set(consortium.keys) - gone)
    end = federation.run(consortium.grid(fault=fault))
    assert end.round == 2
    assert [body["lost"] for body in reasons(consortium, "round.closed")] == [["west"], ["west"]]
    assert [body["site"] for body in reasons(consortium, "site.lost")][:1] == ["west"]


def test_below_the_minimum_the_run_fails_and_saves_nothing(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path)
    gone: set[str] = set()

    def fault(site: str, message: Message) -> None:
        if site != "north":
            gone.add(site)
            raise ConnectionError

    federation = consortium.federation(present=lambda: set(consortium.keys) - gone)
    with pytest.raises(RoundError) as caught:
        federation.run(consortium.grid(fault=fault))
    assert caught.value.id == "below_minimum"
    assert "south: site_lost" in caught.value.what
    assert consortium.saved == []


def test_an_update_with_nan_never_leaves_the_site(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path, privacy=PRIVACY_OFF)
    consortium.sites["west"].learner.train = lambda model, header: Delta(np.full(5, np.nan, np.float32), ())
    end = consortium.federation().run(consortium.grid())
    assert end.excluded == {"west": "update_not_finite"}
    assert end.model == pytest.approx([(1 + 2) / 2 * 0.75] * 5)


def test_an_update_without_the_agreed_noise_never_leaves_the_site(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path)
    consortium.sites["west"].learner.train = lambda model, header: Delta(np.zeros(5, np.float32), ())
    end = consortium.federation().run(consortium.grid())
    assert list(end.excluded) == ["west"]


@pytest.mark.parametrize("garbage", [b"", b"CLOISTER\x01", b"\x00" * 6000])
def test_an_unreadable_answer_is_named_and_never_averaged(tmp_path: Path, garbage: bytes) -> None:
    consortium = Consortium(tmp_path)
    consortium.sites["west"].handle = lambda data: garbage
    end = consortium.federation().run(consortium.grid())
    assert end.excluded == {"west": "envelope_malformed"}


def test_a_reply_of_another_round_is_refused(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path)
    west, replies = consortium.sites["west"], []
    honest = west.handle

    def replaying(data: bytes) -> bytes:
        replies.append(honest(data))
        return replies[0]

    west.handle = replaying
    end = consortium.federation().run(consortium.grid())
    assert end.excluded == {"west": "wrong_context"}


def test_an_exception_with_a_record_in_it_sends_its_id_only(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path)
    record = "Mrs Agatha Winterbourne, born 1931-04-05"
    sent: list[bytes] = []

    def leaking(model: object, header: object) -> Delta:
        raise ValueError(record)

    consortium.sites["west"].learner.train = leaking
    grid = consortium.grid()
    deliver = grid.pull_messages

    def tapped(ids: Any) -> Any:
        for message in deliver(ids):
            content = b"" if message.has_error() else message.content["envelope"]["b"]
            sent.append(content + repr(message).encode())
            yield message

    grid.pull_messages = tapped
    end = consortium.federation().run(grid)
    assert end.excluded == {"west": "internal"}
    assert sent
    assert not any(b"Agatha" in data or b"1931-04" in data for data in sent)


def test_a_resumed_lead_gets_the_stored_replies_byte_for_byte(tmp_path: Path) -> None:
    """The lead dies after round 2 was answered and before it was saved; sites restart too."""
    consortium = Consortium(tmp_path)

    class Killed(Exception):
        pass

    saved = []

    def save(checkpoint: Any) -> None:
        if checkpoint.round == 2:
            raise Killed
        saved.append(checkpoint)

    with pytest.raises(Killed):
        consortium.federation(save=save).run(consortium.grid())
    stored = {
        name: (tmp_path / name / "replies" / "round-00002-00001.sealed").read_bytes()
        for name in consortium.keys
    }
    consortium.sites = {name: consortium.site(name) for name in consortium.keys}
    end = consortium.federation(resume=saved[0]).run(consortium.grid())
    assert end.round == 2
    for name, site in consortium.sites.items():
        assert site.learner.trained == 0
        assert (tmp_path / name / "replies" / "round-00002-00001.sealed").read_bytes() == stored[name]
        assert [row.kind for row in site.ledger.rows("notes")] == ["reserved", "spent", "released"] * 2


def test_a_message_without_an_envelope_is_refused(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path)
    grid = consortium.grid()
    message = grid.create_message(RecordDict({"envelope": ConfigRecord({"b": "text"})}), "train", 1, "1")
    (message_id,) = grid.push_messages([message])
    (answer,) = grid.pull_messages([message_id])
    assert answer.error.reason == "envelope_malformed"
