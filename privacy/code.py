"""The digest of the installed code: what a party states and a plan names."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

from cloister.privacy import canonical

_PARTS = ("privacy", "client", "server", "simulations")
_KINDS = {".py", ".proto", ".html", ".pyi"}


@cache
def installed() -> str:
    """One digest over names and digests of every source file of this installation.

    Equal for a wheel and an editable install of the same sources. A party can lie about it: the digest
    is a statement under the party's signature, not an attestation.
    """
    entries: dict[str, str] = {}
    for part in _PARTS:
        spec = importlib.util.find_spec(f"cloister.{part}")
        if spec is None or spec.origin is None:
            continue  # an installation for verifying only holds fewer parts
        root = Path(spec.origin).parent
        files = [p for p in root.rglob("*") if p.suffix in _KINDS and "__pycache__" not in p.parts]
        entries |= {f"{part}/{name}": value for name, value in canonical.manifest(root, files).items()}
    return canonical.digest_of(entries)
