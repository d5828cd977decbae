"""One hospital in two consortia, over real processes: two leads, two agents, and one ledger."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloister.client.site import sharing
from cloister.client.site.datasets import Datasets
from cloister.client.site.folder import SiteFolder
from cloister.privacy.dp import accounting
from tests.by_hand import ByHand
from tests.hands import hands, until
from tests.shared import doubtful

pytestmark = pytest.mark.slow


@dataclass
class Consortium(ByHand):
    """The documented one with a larger budget and a shorter job; its north may share another's ledger."""

    shares: Path | None = None

    def _do(self, words: list[str]) -> str:
        if words[:2] == ["site", "data"]:
            words[words.index("--epsilon") + 1] = "20"
            if self.shares and words[words.index("--dir") + 1] == "north":
                self.hands.do("site", "share", str(self.shares), "--dir", "north")
        if words[:2] == ["lead", "propose"]:
            words[words.index("--rounds") + 1] = "2"
        return super()._do(words)

    @property
    def north(self) -> SiteFolder:
        """The hospital's folder."""
        return SiteFolder.open(self.hands.place / "north")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[tuple[Consortium, Consortium]]:
    """Two consortia whose jobs have ended, one after the other; all of their processes still run."""
    places = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    with hands(places[0]) as here, hands(places[1]) as there:
        first = Consortium(here, model, places[0] / "outside.txt")
        first.follow()
        first.ended(first.job)
        second = Consortium(there, model, places[1] / "outside.txt", shares=first.north.path)
        second.follow()
        second.ended(second.job)
        yield first, second


def test_what_both_jobs_cost_is_added_up(both: tuple[Consortium, Consortium]) -> None:
    spent = []
    for one, other in (both, both[::-1]):
        (budget,) = one.hands.json("site", "ledger", "--dir", "north")["budgets"]
        reserved = [row for row in budget["rows"] if row["kind"] == "reserved"]
        assert {(row["job"], row["here"]) for row in reserved} == {(one.job, True), (other.job, False)}
        assert len(reserved) == 4
        spent.append(budget["spent"])
    assert spent[0] == spent[1]
    rows = Datasets(both[0].north).ledger.rows("notes")
    mechanisms = [row.reservation.mechanism for row in rows if row.kind == "reserved"]
    assert spent[0] == pytest.approx(accounting.epsilon(mechanisms, 1e-5))
    assert spent[0] > 8.0, "more than one job may cost"
    south = both[0].hands.json("site", "ledger", "--dir", "south")["budgets"][0]["spent"]
    assert south <= 8.0 < spent[0]


def test_neither_log_nor_evidence_tells_of_the_other_s_job(both: tuple[Consortium, Consortium]) -> None:
    for one, other in (both, both[::-1]):
        said = one.hands.do("site", "log", "--dir", "north")
        assert "the chain, the tree and the signed head hold." in said
        assert other.job.encode() not in (one.north.path / "log" / "events.jsonl").read_bytes()
        assert "Every party has signed it." in one.hands.do(
            "report", one.job[7:19], "--dir", "lead", "--out", "signed"
        )
        keys = one.hands.do("site", "peers", "--offline", "--json", "--dir", "south")
        (one.hands.place / "keys.json").write_text(keys)
        assert (
            one.hands.do("verify", "signed", "--trust", "keys.json").splitlines()[-1].startswith("verified: ")
        )
        bundle = [path for path in (one.hands.place / "signed").rglob("*") if path.is_file()]
        assert json.loads((one.hands.place / "signed" / "evidence.json").read_bytes())
        assert not any(other.job[7:].encode() in path.read_bytes() for path in bundle)


def test_evidence_of_a_job_after_a_change_of_keys_is_whole(both: tuple[Consortium, Consortium]) -> None:
    first, second = both
    second.sites["north"].end()
    second.hands.do("site", "rotate", "--dir", "north")
    second.site_up("north")
    job = second.propose("--rounds", "2")
    second.approve(job)
    assert second.ended(job)["state"] == "finished"
    said = second.hands.do("report", job[7:19], "--dir", "lead", "--out", "later")
    assert "Every party has signed it." in said
    assert second.hands.do("verify", "later").splitlines()[-1].startswith("verified: ")
    (budget,) = first.hands.json("site", "ledger", "--dir", "north")["budgets"]
    assert [row["job"] for row in budget["rows"] if row["kind"] == "reserved"].count(job) == 2


def test_agents_that_run_look_again_and_others_once_they_start(both: tuple[Consortium, Consortium]) -> None:
    first, second = both
    second.sites["north"].end()
    sharing.doubt(second.north)
    place = str(second.north.path.resolve())
    until(lambda: doubtful(first.north) == ["north"], "the agent that runs")
    late = [one.path for one in sharing.sharers(first.north) if not one.settled]
    assert late == [place]
    doctor = first.hands.run("site", "doctor", "--dir", "north")
    assert (doctor.code, f"it may lack charges of {place}." in doctor.out) == (1, True)
    second.site_up("north")
    until(lambda: doubtful(first.north) == [], "the agent that was started")
    assert f"; {first.north.path.resolve()}, {place} share it." in first.hands.do(
        "site", "doctor", "--dir", "north"
    )
