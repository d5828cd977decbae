"""The operating system's random bytes, replaced by known ones for a test of what is learnt.

Coins, words and starts that are drawn anew each time give another figure each time, and every so often one
beyond any limit that still says something. Keys that libraries draw by themselves stay random.
"""

from __future__ import annotations

import secrets

import pytest

from cloister.privacy.entropy import KeyStream


@pytest.fixture
def known_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes in the same order in every run."""
    monkeypatch.setattr(secrets, "token_bytes", KeyStream(bytes(32)).bytes)
