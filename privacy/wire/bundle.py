"""The thin bundle that a Flower run is bound to: settings and a licence, no code.

Flower ties every run to an archive of an app (a FAB). Ours holds nothing to execute: the apps are those
installed at each party, whose digests the plan names. The archive has the form that
``flwr.cli.build.build_fab_from_files`` writes, uncompressed, so that its bytes are the same everywhere.
"""

from __future__ import annotations

import hashlib
import io
import zipfile

from cloister.privacy import canonical
from cloister.privacy.errors import TransportError

_PROJECT = """\
[project]
name = "cloister"
version = "1"
description = "Names the run. Holds no code."

[tool.flwr.app]
publisher = "cloister"

[tool.flwr.app.components]
serverapp = "cloister.server.app:app"
clientapp = "cloister.client.app:app"

[tool.flwr.app.config]
plan = ""
"""
_LICENSE = "SPDX-License-Identifier: Apache-2.0\n"
_FILES = {"pyproject.toml": _PROJECT.encode(), "LICENSE": _LICENSE.encode()}
_CONTENT = ".info/CONTENT"
_NAMES = (_CONTENT, "LICENSE", "pyproject.toml")
_DATE = (2024, 10, 1, 0, 0, 0)  # Flower's own fixed date
_LARGEST = 64 << 10
_UNIX, _MODE = 3, 0o600 << 16


def build() -> bytes:
    """The archive; its bytes depend on this release only."""
    listing = "\n".join(
        f"{name},{hashlib.sha256(data).hexdigest()},{len(data) * 8}" for name, data in _FILES.items()
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in (*_FILES.items(), (_CONTENT, listing.encode())):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system, entry.external_attr = _UNIX, _MODE
            archive.writestr(entry, data)
    return buffer.getvalue()


def digest() -> str:
    """The digest of the archive of this release."""
    return canonical.digest(build())


def check(data: bytes, expected: str) -> None:
    """Refuses an archive that is not the one agreed, or that holds more than the agreed files.

    Nothing of the archive is executed, unpacked to disk or decompressed.

    Args:
        data: the archive.
        expected: its digest.

    Raises:
        TransportError: ``bundle_invalid``.
    """
    if len(data) > _LARGEST or canonical.digest(data) != expected:
        raise _invalid("is not the one that was agreed")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = sorted(archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise _invalid("is not an archive") from error
    if names != sorted(_NAMES):
        raise _invalid("holds other files than it should")


def _invalid(why: str) -> TransportError:
    return TransportError(
        "bundle_invalid", f"The Flower bundle {why}; nothing of it was executed.", "Tell the lead."
    )
