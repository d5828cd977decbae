"""``cloister`` at a site whose training fails with the text of a record in the exception."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from cloister.client.learn.learner import SiteLearner
from cloister.privacy.cli import main


def train(*_: object) -> NoReturn:
    raise ValueError(f"cannot train on: {os.environ['RECORD']}")


SiteLearner.train = train  # type: ignore[method-assign]
sys.exit(main())
