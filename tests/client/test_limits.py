"""What an agent may take of its machine, and what is refused."""

from __future__ import annotations

import os

import pytest

from cloister.client.limits import Share
from cloister.privacy.errors import StateError, UsageError


def test_nothing_is_asked_for_without_a_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "nice", lambda _: pytest.fail("nobody asked"))
    Share().apply("cpu")


def test_the_process_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(os, "nice", asked.append)
    Share(nice=7).apply("cpu")
    assert asked == [7]


def test_a_system_that_forbids_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "nice", refuse)
    with pytest.raises(StateError, match="Operation not permitted"):
        Share(nice=7).apply("cpu")


def test_torch_gets_as_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    Share(threads=3).apply("cpu")
    assert asked == [3]


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, 0.5])
def test_a_share_of_gpu_memory_needs_a_gpu_and_sense(share: float) -> None:
    with pytest.raises(UsageError):
        Share(gpu_memory=share).apply("cpu")
