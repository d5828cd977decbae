"""Kinds of values in ``evidence.json``: numbers as text, moments, ids."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field

from cloister.privacy.errors import areas

REASONS: Mapping[str, str] = {reason: text for area in areas() for reason, text in area.REASONS.items()}
"""Every declared error id, with its meaning."""


def _declared(reason: str) -> str:
    if reason not in REASONS:
        raise ValueError("not a declared error id")
    return reason


def _finite(number: str) -> str:
    if not math.isfinite(float(number)):
        raise ValueError("not a number that can be worked with")
    return number


def _real(moment: str) -> str:
    datetime.fromisoformat(moment)
    return moment


Number = Annotated[str, Field(pattern=r"^\d{1,15}(\.\d{1,15})?(e[+-]?\d{1,3})?$"), AfterValidator(_finite)]
Whole = Annotated[str, Field(pattern=r"^(0|[1-9]\d{0,17})$")]
Share = Annotated[float, Field(ge=0, le=1)]
Moment = Annotated[
    str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z$"), AfterValidator(_real)
]
Day = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$"), AfterValidator(_real)]
Group = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,40}$")]
Audience: TypeAlias = Literal["auditor", "partner", "public"]
"""Who a bundle is for."""
Reason = Annotated[str, AfterValidator(_declared)]
EventId = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}(@[0-9a-f]{16})?/(0|[1-9]\d{0,15})$")]
"""``writer/seq``, as findings name an event."""


def rounded_up(number: float) -> str:
    """Three decimals, never less than the number itself."""
    return f"{math.ceil(number * 1000) / 1000:.3f}"
