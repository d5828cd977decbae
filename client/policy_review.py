"""What ``cloister site doctor`` says of the site's policy. Nothing is written, and nothing put in force."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from cloister.client.site.folder import SiteFolder
from cloister.client.site.policies import Policies
from cloister.privacy.checkup import SOON, Finding
from cloister.privacy.errors import CloisterError
from cloister.privacy.policy import review
from cloister.privacy.policy.terms import Policy

_CHECK = "policy"
_DIFF = "Change a copy, look at it with `cloister site policy diff`, then `cloister site policy set`."


def policies(site: SiteFolder) -> Iterator[Finding]:
    """Whether there is a policy that can be used, what in it refuses everything, and what it leaves open."""
    try:
        policy = Policies(site).glance()
    except CloisterError as error:
        yield Finding(_CHECK, "failed", f"{error.what} [{error.id}] Everything is refused.", error.do)
        return
    yield from found(policy, datetime.now(UTC).date().isoformat())


def found(policy: Policy, today: str) -> Iterator[Finding]:
    """The findings about a policy on a day (YYYY-MM-DD)."""
    closed, whole = dict(review.closed(policy, today)), review.everything(policy, today)
    for name, sentence in closed.items():
        if name in whole:
            yield Finding(_CHECK, "failed", f"{name} refuses every plan. {sentence}", _DIFF)
        else:
            yield Finding(_CHECK, "warning", f"{name} refuses every plan for it. {sentence}", _DIFF)
    if not whole:
        yield _ends(policy, today)
    for name, sentence in review.unset(policy):
        yield Finding(_CHECK, "ok", f"{name} sets no limit. {sentence}")


def _ends(policy: Policy, today: str) -> Finding:
    days = review.left(policy, today)
    what = f"policy.yaml is in force until {policy.valid.ends}; nobody else can write it."
    if days < SOON.days:
        return Finding(_CHECK, "warning", what, f"After that everything is refused: set valid.ends. {_DIFF}")
    return Finding(_CHECK, "ok", what)
