"""What a party shows: its events of one job, with proofs, and nothing of other matters."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from cloister.privacy import canonical
from cloister.privacy.errors import EvidenceError
from cloister.privacy.evidence import merkle
from cloister.privacy.evidence.heads import SignedHead
from cloister.privacy.evidence.part import Part, Shown, owned
from cloister.privacy.evidence.selection import selected
from cloister.simulations.bench.staged import DATASET, staged

pytestmark = pytest.mark.job


def part_of(stage: Any, name: str) -> Part:
    return next(part for part in stage.witnessed.parts() if part.writer == name)


def test_every_event_is_proven_under_the_newest_head(stage: Any) -> None:
    part = part_of(stage, "site-01")
    for line in part.files["events/site-01.jsonl"].splitlines():
        shown = Shown.decode(line)
        leaf = merkle.leaf_hash(shown.line)
        head = part.newest
        merkle.verify_inclusion(leaf, shown.event.seq, head.size, shown.proof, head.root)


def test_a_size_that_was_signed_lightly_is_shown_to_be_a_beginning_and_no_light_signature_is_shown(
    tmp_path: Path,
) -> None:
    """What a witness wrote down of a light head can be checked."""
    job = staged(tmp_path, witnessed=False)
    keys, log = job.identity("site-01"), job.logs["site-01"]
    light = log.head(light=True)
    log.append("log.heartbeat")
    part = next(part for part in job.parts() if part.writer == "site-01")
    (grown,) = canonical.decode(part.files["heads/site-01/growth.json"])["earlier"]
    assert (grown["size"], bytes.fromhex(grown["root"])) == (light.size, light.root)
    raw = base64.b64decode(grown["proof"])
    proof = [raw[n : n + 32] for n in range(0, len(raw), 32)]
    newest = part.newest
    merkle.verify_consistency(light.size, newest.size, light.root, newest.root, proof)
    assert not any(name.endswith(".light") for name in part.files)
    for name, data in part.files.items():
        if name.endswith(".head"):
            SignedHead.parse(data).verify(keys.public)


def test_a_part_survives_being_handed_over(stage: Any) -> None:
    part = part_of(stage, "site-02")
    assert Part.from_bytes(part.to_bytes()) == part


@pytest.mark.parametrize("data", [b"", b"{}", b'{"files":{},"version":2,"writer":"a"}', b"[1]"])
def test_anything_else_is_no_part(data: bytes) -> None:
    with pytest.raises(EvidenceError) as error:
        Part.from_bytes(data)
    assert error.value.id == "bundle_altered"


def test_a_part_writes_into_no_other_place(stage: Any) -> None:
    part = part_of(stage, "site-01")
    for name in (
        "../escape",
        "events/site-02.jsonl",
        "report.html",
        "heads/site-01/../x.head",
        "MANIFEST.json",
    ):
        assert not owned(name, "site-01")
        with pytest.raises(EvidenceError):
            Part.from_bytes(Part("site-01", {**part.files, name: b"x"}).to_bytes())


def test_nothing_of_another_job_is_shown(stage: Any) -> None:
    job = stage.witnessed.job
    everything = list(job.logs["site-01"].entries())
    shown = part_of(stage, "site-01").events
    assert {event.job for event in everything} > {event.job for event in shown} == {None, job.plan.digest}
    assert len(everything) > len(shown)


def test_nothing_of_another_dataset_or_stranger_is_shown(stage: Any) -> None:
    forger = stage.plain
    plan = forger.job.plan
    log = forger.job.logs["site-01"]
    first = next(event for event in log.entries() if event.type == "budget.opened")

    def shown(**body: Any) -> bool:
        from dataclasses import replace

        other = replace(first, **body)
        events = [other if event.seq == first.seq else event for event in log.entries()]
        return first.seq in {event.seq for event in selected(events, plan)}

    assert shown()
    assert shown(body={**first.body, "dataset": DATASET})
    assert not shown(body={**first.body, "dataset": "another"})
    stranger = {"party": "stranger", "identity": plan.lead.identity, "method": "words"}
    assert not shown(type="key.confirmed", body=stranger)
    assert not shown(
        type="invite.issued", body={"party": "site-02", "invite": plan.roster, "not_after": "2027-01-01"}
    )


def test_selecting_twice_changes_nothing(stage: Any) -> None:
    for part in stage.witnessed.parts():
        assert tuple(selected(part.events, stage.witnessed.job.plan)) == part.events


def test_of_many_connections_before_a_job_the_last_is_shown(stage: Any) -> None:
    from dataclasses import replace

    plan = stage.plain.job.plan
    events = list(stage.plain.job.logs["site-01"].entries())
    routes = ("consortium", "flower")
    opened, _ = connections = [event for event in events if event.type == "channel.opened"]
    assert tuple(event.body["route"] for event in connections) == routes
    events[1:1] = [opened, opened]
    renumbered = [replace(event, seq=number) for number, event in enumerate(events)]
    found = [event.seq for event in selected(renumbered, plan) if event.type == "channel.opened"]
    places = [event.seq for event in renumbered if event.type == "channel.opened"]
    assert found == places[-2:]  # of each way the last


def test_a_job_that_a_log_does_not_know_has_no_part(stage: Any) -> None:
    other = stage.witnessed.job.plan
    with pytest.raises(EvidenceError) as error:
        Part.make(stage.plain.job.logs["lead"], stage.plain.job.lead, other)
    assert error.value.id == "job_unfinished"
