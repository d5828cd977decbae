"""Looks for the secrets of a folder in its own files, as somebody with the disk would."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloister.client.site import folder as site_folder
from cloister.client.site.folder import SiteFolder
from cloister.server import folder as lead_folder
from cloister.server.folder import LeadFolder


@dataclass(frozen=True)
class Secret:
    name: str
    value: bytes


def patterns(house: SiteFolder | LeadFolder) -> tuple[str, ...]:
    return site_folder.SECRETS if isinstance(house, SiteFolder) else lead_folder.SECRETS


def secret_files(house: SiteFolder | LeadFolder) -> list[Path]:
    return [path for pattern in patterns(house) for path in sorted(house.path.glob(pattern))]


def names_of(house: SiteFolder | LeadFolder, paths: list[Path]) -> set[str]:
    return {pattern for pattern in patterns(house) for path in paths if path.match(pattern)}


def values(name: str, data: bytes) -> Iterator[bytes]:
    """The secret values in the content of a secret file."""
    if name == "checkpoint" or name.isdigit():  # of the lead, and one of a job's versions
        yield data.partition(b"\n")[2]
    elif data.startswith(b"-----BEGIN"):
        key = serialization.load_pem_private_key(data, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        yield key.private_numbers().private_value.to_bytes(32)
        yield from data.splitlines()[1:-1]
    elif name in ("identity.key", "ratchet.key") or name.endswith(".json"):
        yield from texts(name, json.loads(data))
    else:  # bytes drawn at random, which may well begin like JSON
        yield data


def texts(name: str, value: Any) -> Iterator[bytes]:
    if name == "identity.key":
        yield from (bytes.fromhex(value[key]) for key in value if key not in ("name", "role"))
    elif name == "ratchet.key":
        yield bytes.fromhex(value["key"])
    elif name == "canaries.json":
        yield bytes.fromhex(value["key"])
        yield value["coins"]["included"].encode()
    elif name == "audit.json":
        yield bytes.fromhex(value["coins"]["nonce"])
        yield value["coins"]["included"].encode()
    else:
        sums = value["sums"] or {"keys": {"chains": {}}, "seed": ""}
        hidden = [value["key"] or {}, value["roots"], sums["keys"]["chains"], {"seed": sums["seed"]}]
        yield from (bytes.fromhex(text) for part in hidden for text in part.values() if text)


def secrets_of(house: SiteFolder | LeadFolder) -> list[Secret]:
    found = [
        Secret(str(path.relative_to(house.path)), value)
        for path in secret_files(house)
        for value in values(path.name, house.vault.read(path))
    ]
    assert all(len(secret.value) >= 16 for secret in found)
    return found


def leaks(house: SiteFolder | LeadFolder) -> set[str]:
    """Secrets that are somewhere in the files of a folder, in any of three spellings."""
    files = [path.read_bytes() for path in house.path.rglob("*") if path.is_file()]
    return {
        secret.name
        for secret in secrets_of(house)
        for spelt in (secret.value, secret.value.hex().encode(), base64.b64encode(secret.value).rstrip(b"="))
        if any(spelt in data for data in files)
    }
