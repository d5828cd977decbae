from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloister.privacy import code
from cloister.privacy.errors import PlanError
from cloister.server.folder import LeadFolder, Settings
from cloister.server.jobs import FAILED, PROPOSED, RUNNING, Jobs
from cloister.server.lead import Lead
from tests.plans import plan

PLAN = plan()


class Idle:
    """Flower's server and the consortium service, as far as a turn without a round asks for them."""

    def register(self) -> None:
        """Flower hears of no new site."""

    def announce(self, what: str) -> None:
        """No site is told anything."""

    @property
    def presence(self) -> Idle:
        """Itself."""
        return self


def test_a_plan_is_not_run_with_other_code_than_it_names(tmp_path: Path) -> None:
    assert PLAN.lead.code != code.installed()
    folder = LeadFolder.create(tmp_path / "lead", Settings(consortium="hospitals", host="localhost"))
    job = Jobs(folder.jobs).propose(PLAN, np.zeros(5, dtype=np.float32), folder.identity)
    assert job.state == PROPOSED
    job.move(RUNNING)
    said: list[str] = []
    idle: Any = Idle()
    ended = Lead(folder, said.append)._turn(idle, idle, threading.Event())
    assert ended is not None
    assert ended.state == FAILED
    (line,) = said
    assert "[code_mismatch]" in line
    assert f"cloister lead resume {PLAN.digest[7:19]}" in line
    assert [event.type for event in folder.log.entries() if event.job == PLAN.digest] == ["job.aborted"]
    ended.resume()
    with pytest.raises(PlanError, match="names other code"):
        Lead(folder, said.append)._perform(ended, idle, idle, threading.Event())
