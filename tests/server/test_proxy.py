"""Flower's real server, and a site that reaches it through a proxy that takes CONNECT."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from flwr.app import Message

from cloister.privacy.wire import bundle
from tests.fleet import Fleet, asks, envelope
from tests.proxy import ConnectProxy

pytestmark = [pytest.mark.slow, pytest.mark.flower, pytest.mark.timeout(300)]


def test_a_round_goes_through_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    answers: dict[bytes, dict[int, Message]] = {}
    with closing(Fleet(tmp_path, ("north",))) as fleet, ConnectProxy() as proxy:
        fleet.start()
        with closing(fleet.runtime()) as runtime:
            fleet.register(runtime)
            with monkeypatch.context() as site:
                site.setenv("https_proxy", proxy.url)
                fleet.site("north")
            runtime.start_run(bundle.build(), "sha256:" + "5" * 64)
            with runtime.acquire() as session:
                session.run(asks(["north"], [b"one"], answers))
        assert [envelope(reply) for reply in answers[b"one"].values()] == [b"one from north"]
        assert set(proxy.asked) == {fleet.fleet}


def test_the_lead_s_own_calls_use_no_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with closing(Fleet(tmp_path, ("north",))) as fleet, ConnectProxy() as proxy:
        fleet.start()
        for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        with closing(fleet.runtime()) as runtime:
            fleet.register(runtime)
            runtime.start_run(bundle.build(), "sha256:" + "5" * 64)
            with runtime.acquire() as session:
                session.finish("completed")
        assert proxy.asked == []
