"""How Hypothesis draws: the same few examples in every check, others each time in ``make test-long``.

No test fails for being slow: the machine may be busy.
"""

from __future__ import annotations

import gc

from hypothesis import settings

settings.register_profile("check", derandomize=True, database=None, deadline=None, max_examples=25)
settings.register_profile("explore", deadline=None, max_examples=100)

# Thousands of tests and the libraries under them are made once and stay to the end: looking through them for
# garbage, again and again, takes a fifth of the time in which they are collected.
gc.disable()


def pytest_collection_finish() -> None:
    """What was collected is never looked through again; what tests leave behind is."""
    gc.freeze()
    gc.enable()
