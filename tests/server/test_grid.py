"""Replies whose sender died between announcing them and sending their parts hold up nobody else's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.task_identity import TaskIdentity

from cloister.server import grid as grids
from cloister.server.grid import Headers, RuntimeGrid


class Server:
    """Flower's runtime API for replies: what is announced, and which parts of it are there."""

    def __init__(self) -> None:
        self.announced: list[tuple[Any, Any]] = []
        self.parts: dict[str, bytes | None] = {}
        self.confirmed: list[str] = []

    def answer(self, node: int, words: bytes, *, there: bool = True) -> tuple[str, dict[str, bytes]]:
        """Announces a node's reply: the id of the message that it answers, and the reply's parts."""
        asked = Message(RecordDict({"envelope": ConfigRecord({"b": b"?" + words})}), node, "train")
        asked.metadata.__dict__["_message_id"] = asked.object_id
        reply = Message(RecordDict({"envelope": ConfigRecord({"b": words})}), reply_to=asked)
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            parts = {name: part.deflate() for name, part in get_all_nested_objects(reply).items()}
            tree = get_object_tree(reply)
            self.announced.append((message_to_proto(remove_content_from_message(reply)), tree))
        self.parts |= parts if there else dict.fromkeys(parts)
        return reply.metadata.reply_to_message_id, parts

    # What the grid calls

    def PullMessages(self, request: Any) -> Any:
        told = [(p, t) for p, t in self.announced if p.metadata.reply_to_message_id in request.message_ids]
        self.announced = [each for each in self.announced if each not in told]
        protos, trees = zip(*told, strict=True) if told else ((), ())
        return SimpleNamespace(messages_list=protos, message_object_trees=trees)

    def PullObject(self, request: Any) -> Any:
        found = request.object_id in self.parts
        content = self.parts.get(request.object_id)
        return SimpleNamespace(
            object_found=found, object_available=content is not None, object_content=content
        )

    def ConfirmMessageReceived(self, request: Any) -> None:
        self.confirmed.append(request.message_object_id)


def words(replies: list[Message]) -> list[Any]:
    return [reply.content["envelope"]["b"] for reply in replies]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(grids, "_UNDER_WAY_S", 0.0)
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)  # messages ask who they are made by
    return Server()


def test_a_reply_without_its_parts_waits_and_the_next_one_does_not(server: Server) -> None:
    grid = RuntimeGrid(server, Headers("serverapp"), 1)  # type: ignore[arg-type]
    late, parts = server.answer(2, b"late", there=False)
    good, _ = server.answer(3, b"good")
    assert words(list(grid.pull_messages([late, good]))) == [b"good"]
    assert list(grid.pull_messages([late])) == []
    server.parts |= parts
    assert words(list(grid.pull_messages([late]))) == [b"late"]
    assert list(grid.pull_messages([late])) == []
    assert len(server.confirmed) == 2


def test_a_reply_that_nobody_waits_for_any_more_is_forgotten(server: Server) -> None:
    grid = RuntimeGrid(server, Headers("serverapp"), 1)  # type: ignore[arg-type]
    old, parts = server.answer(2, b"old", there=False)
    assert list(grid.pull_messages([old])) == []
    new, _ = server.answer(2, b"new")
    assert words(list(grid.pull_messages([new]))) == [b"new"]
    server.parts |= parts
    assert list(grid.pull_messages([new])) == []


def test_a_reply_that_lost_a_part_is_lost(server: Server) -> None:
    grid = RuntimeGrid(server, Headers("serverapp"), 1)  # type: ignore[arg-type]
    gone, parts = server.answer(2, b"gone", there=False)
    assert list(grid.pull_messages([gone])) == []
    for name in parts:
        del server.parts[name]
    assert list(grid.pull_messages([gone])) == []
    assert grid.lost == {gone}
