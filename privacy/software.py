"""What a process runs on: versions of what trains and accounts, and one digest over all that is installed.

All of it is what Python's own records of its packages say, so a party can lie about it, or be wrong where
somebody changed an installed file: it is a statement under the party's signature, not an attestation.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

from cloister.privacy import canonical, code
from cloister.privacy.evidence.vocabulary import LIBRARIES, VERSION

IMAGE = "CLOISTER_IMAGE"
"""Environment variable: the digest of the container image that a process runs in, by whoever started it."""

_LABEL = re.compile(r"\+.*")


@dataclass(frozen=True)
class Software:
    """What a process runs on.

    Attributes:
        python: its version.
        code: digest of the package's sources (``code.installed``).
        installed: digest of the names and versions of all installed distributions.
        versions: library -> its version; without those that are not there or number themselves otherwise.
        image: digest of the container image, where whoever started the process names one.
    """

    python: str
    code: str
    installed: str
    versions: Mapping[str, str]
    image: str | None = None

    def fields(self) -> dict[str, Any]:
        """The fields of an event."""
        named = {"image": self.image} if self.image else {}
        return {
            "python": self.python,
            "code": self.code,
            "installed": self.installed,
            **self.versions,
            **named,
        }


def running() -> Software:
    """What this process runs on; installed packages are looked at once."""
    there, image = _there(), os.environ.get(IMAGE, "")
    told = {name: version(there[name]) for name in LIBRARIES if name in there}
    return Software(
        python=".".join(map(str, sys.version_info[:3])),
        code=code.installed(),
        installed=canonical.digest_of(dict(there)),
        versions={name: found for name, found in told.items() if found},
        image=image if canonical.is_digest(image) else None,
    )


def version(text: str) -> str:
    """A version as an event may hold it; "" if it is of another form.

    What stands behind a plus sign may name a machine or a person: where it is no known kind of build, it is
    called ``other``.
    """
    return next((said for said in (text, _LABEL.sub("+other", text)) if VERSION.holds(said)), "")


@cache
def _there() -> Mapping[str, str]:
    return distributions((found.name, found.version) for found in metadata.distributions())


def distributions(found: Iterable[tuple[str | None, str | None]]) -> dict[str, str]:
    """Name -> version, with names as package indexes compare them (PEP 503).

    Args:
        found: names and versions in the order in which Python looks for packages; of one that is there twice
            the first counts. What lost its own description is left out.
    """
    known: dict[str, str] = {}
    for name, number in found:
        if name and number:
            known.setdefault(re.sub(r"[-_.]+", "-", name).lower(), number)
    return known
