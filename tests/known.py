"""The parties of ``vectors/identity``, whose keys are known to everybody."""

from __future__ import annotations

import json
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloister.privacy.identity import PrivateIdentity

_VECTORS = Path(__file__).parent / "vectors" / "identity"
IDENTITIES = json.loads((_VECTORS / "identity.json").read_text())
BROKEN_IDENTITIES = json.loads((_VECTORS / "identity_broken.json").read_text())


def party(name: str) -> PrivateIdentity:
    value = IDENTITIES["parties"][name]["private"]
    node = serialization.load_der_private_key(bytes.fromhex(value["node"]), password=None)
    assert isinstance(node, ec.EllipticCurvePrivateKey)
    seeds = {key: bytes.fromhex(value[key]) for key in value.keys() - {"name", "role", "node"}}
    return PrivateIdentity(value["name"], value["role"], seeds, node)
