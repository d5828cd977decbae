"""How Hypothesis draws in every check: the same few examples each time; ``make test-long`` explores."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("check", derandomize=True, database=None, deadline=None, max_examples=50)
