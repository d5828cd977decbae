"""What each role may do at a site: who proposes does not approve, and who looks does neither."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from cloister.client.approvals import Voice
from cloister.client.site.people import People
from cloister.privacy.policy.request import Role
from cloister.privacy.policy.terms import APPROVERS
from tests.client.test_policies import Site
from tests.policies import allow


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


# role, whether its approval counts, whether it makes somebody a proposer
ROLES: list[tuple[Role, bool, bool]] = [
    ("lead", False, True),
    ("administrator", True, False),
    ("steward", True, False),
    ("researcher", False, True),
    ("auditor", False, False),
    ("validator", True, False),
]


def test_the_table_has_every_role() -> None:
    assert {role for role, _, _ in ROLES} == set(get_args(Role))
    assert {role for role, approves, _ in ROLES if approves} == set(APPROVERS)


@pytest.mark.parametrize("registered", [True, False])
@pytest.mark.parametrize(("role", "approves", "proposes"), ROLES)
def test_what_a_role_may(site: Site, role: Role, approves: bool, proposes: bool, registered: bool) -> None:
    allow(site.folder)
    if registered:
        assert People(site.folder).add("dana", (role,), None).proposes == proposes
    job = site.propose()
    if approves:
        assert site.jobs.approve(job, Voice(role, "dana")) is not None
        return
    said = site.refusal(lambda: site.jobs.approve(job, Voice(role, "dana")))
    assert said.id == "approval_invalid"
    assert "administrator, steward, validator" in said.what
    assert not (job.folder / "approvals").exists()  # nothing is kept that could never count


@pytest.mark.parametrize(("role", "approves", "proposes"), ROLES)
def test_nobody_is_on_both_sides(site: Site, role: Role, approves: bool, proposes: bool) -> None:
    """A steward who is also ``role``: with separation of duties, a proposer's approval does not count."""
    allow(site.folder, approval__separate=True)
    People(site.folder).add("dana", ("steward", role), None)
    decided = site.jobs.approve(site.propose(), Voice("steward", "dana"))
    assert (decided is None) == proposes


@pytest.mark.parametrize("role", APPROVERS)
def test_a_policy_narrows_who_approves(site: Site, role: Role) -> None:
    allow(site.folder, approval__roles=[role])
    for other in APPROVERS:
        decided = site.jobs.approve(site.propose(APPROVERS.index(other)), Voice(other, "dana"))
        assert (decided is not None) == (other == role)
