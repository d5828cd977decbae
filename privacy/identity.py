"""Who a party is: its keys, the public side that others know, and the words to compare by telephone.

A party has four keys, made on its own machine:

- Ed25519 and ML-DSA-65 sign together: both must verify, so a signature holds while either does;
- X25519 with ML-KEM-768 opens what is sealed for the party (``privacy.channel.sealing``);
- a P-256 key authenticates the site to Flower's fleet API. Nothing of ours trusts it.

TLS has keys of its own (``privacy.channel.certificates``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hpke, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, mlkem, x25519
from mnemonic import Mnemonic

from cloister.privacy import canonical, durable
from cloister.privacy.errors import ChannelError, IdentityError, StateError
from cloister.privacy.vault import CLEAR, Vault, read_json

Role = Literal["lead", "site"]

NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
_MLKEM_PUBLIC = 1184
_SIZES = {"ed25519": 32, "mldsa65": 1952, "hpke": _MLKEM_PUBLIC + 32}
_PRIVATE = "identity.key"
_PUBLIC = "identity.json"
_SEEDS = {"ed25519": 32, "mldsa65": 32, "mlkem768": 64, "x25519": 32}


@dataclass(frozen=True)
class Signature:
    """Two signatures over the same message; both must verify.

    Attributes:
        ed25519: 64 bytes.
        mldsa65: 3309 bytes.
    """

    ed25519: bytes
    mldsa65: bytes


class Signer(Protocol):
    """The public side of whoever signs twice."""

    @property
    def name(self) -> str:
        """Who it is."""
        ...

    @property
    def ed25519(self) -> bytes:
        """First raw public key."""
        ...

    @property
    def mldsa65(self) -> bytes:
        """Second raw public key."""
        ...


@dataclass(frozen=True)
class PublicIdentity:
    """What others know of a party.

    Attributes:
        name: 1 to 40 of a-z, 0-9 and hyphen, starting with a letter.
        role: ``lead`` or ``site``.
        ed25519, mldsa65: raw public keys for signatures.
        hpke: raw ML-KEM-768 public key, then raw X25519 public key.
        node: the Flower node key, DER SubjectPublicKeyInfo of a P-256 key.
    """

    name: str
    role: Role
    ed25519: bytes
    mldsa65: bytes
    hpke: bytes
    node: bytes

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name) or self.role not in ("lead", "site"):
            raise IdentityError(
                "identity_malformed",
                f"{self.name!r} is no name of a party.",
                "Use 1 to 40 of a-z, 0-9 and hyphen, starting with a letter.",
            )
        for key, size in _SIZES.items():
            if len(getattr(self, key)) != size:
                raise IdentityError("identity_malformed", f"The {key} key of {self.name} has a wrong size.")
        _check_node(self.node, self.name)

    def to_json(self) -> dict[str, str]:
        """Name, role and keys in hexadecimal."""
        return {
            "name": self.name,
            "role": self.role,
            **{key: getattr(self, key).hex() for key in ("ed25519", "mldsa65", "hpke", "node")},
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Raises ``IdentityError`` ``identity_malformed`` for anything else."""
        fields = {"name", "role", "ed25519", "mldsa65", "hpke", "node"}
        if (
            not isinstance(value, dict)
            or set(value) != fields
            or not all(isinstance(v, str) for v in value.values())
        ):
            raise IdentityError("identity_malformed", "A public identity has other fields than agreed.")
        try:
            keys = {key: bytes.fromhex(value[key]) for key in fields - {"name", "role"}}
        except ValueError as error:
            raise IdentityError("identity_malformed", "A key is not hexadecimal.") from error
        identity = cls(value["name"], value["role"], **keys)
        if identity.to_json() != value:
            raise IdentityError("identity_malformed", "A key is not in lower-case hexadecimal.")
        return identity

    def digest(self) -> str:
        """The digest of name, role and all keys: the fingerprint."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return canonical.digest_of(self.to_json())

    def words(self) -> tuple[str, ...]:
        """The fingerprint's first 128 bits as 12 words of BIP-39, which hold a checksum of 4 bits.

        Two people who compare them need not compare hexadecimal. To make another identity with the
        same words takes about 2^128 tries.
        """
        return words_of(self.digest())

    def verify(self, message: bytes, signature: Signature, context: str) -> None:
        """Checks both signatures.

        Raises:
            ChannelError: ``signature_invalid`` unless both hold.
        """
        verify_both(self, message, signature, context)

    def verify_classic(self, message: bytes, signature: bytes, context: str) -> None:
        """Checks the signature of ``PrivateIdentity.sign_classic``.

        Raises:
            ChannelError: ``signature_invalid``.
        """
        try:
            key = ed25519.Ed25519PublicKey.from_public_bytes(self.ed25519)
            key.verify(signature, _framed(message, context))
        except (InvalidSignature, ValueError) as error:
            raise ChannelError("signature_invalid", f"A signature of {self.name} does not verify.") from error

    def verify_bare(self, message: bytes, signature: Signature) -> None:
        """Checks both signatures of ``PrivateIdentity.sign_bare``.

        Raises:
            ChannelError: ``signature_invalid`` unless both hold.
        """
        try:
            ed25519.Ed25519PublicKey.from_public_bytes(self.ed25519).verify(signature.ed25519, message)
            mldsa.MLDSA65PublicKey.from_public_bytes(self.mldsa65).verify(signature.mldsa65, message)
        except (InvalidSignature, ValueError) as error:
            raise ChannelError("signature_invalid", f"A signature of {self.name} does not verify.") from error

    @cached_property
    def sealing_key(self) -> Any:  # the class behind the alias has no name that types can use
        """The key that others seal for.

        Raises:
            IdentityError: ``identity_malformed``, the bytes are no keys, or of small order.
        """
        try:
            kem = mlkem.MLKEM768PublicKey.from_public_bytes(self.hpke[:_MLKEM_PUBLIC])
            exchange = x25519.X25519PublicKey.from_public_bytes(self.hpke[_MLKEM_PUBLIC:])
            # Only an exchange tells a point of small order; found here, it cannot fail a round later.
            x25519.X25519PrivateKey.generate().exchange(exchange)
            return hpke.MLKEM768X25519PublicKey(kem, exchange)
        except ValueError as error:
            raise IdentityError(
                "identity_malformed", f"The sealing key of {self.name} is malformed."
            ) from error


def _check_node(der: bytes, name: str) -> None:
    """Exactly one text for each key: a compressed point would be the same key in other bytes."""
    try:
        node = serialization.load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IdentityError("identity_malformed", f"The node key of {name} is malformed.") from error
    if (
        not isinstance(node, ec.EllipticCurvePublicKey)
        or node.curve.name != "secp256r1"
        or _spki(node) != der
    ):
        raise IdentityError("identity_malformed", f"The node key of {name} is not on P-256, uncompressed.")


def _spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _framed(message: bytes, context: str) -> bytes:
    """Ed25519 has no context argument: the context's length, the context, the message."""
    name = context.encode()
    return len(name).to_bytes(1) + name + message


def sign_both(
    first: ed25519.Ed25519PrivateKey, second: mldsa.MLDSA65PrivateKey, message: bytes, context: str
) -> Signature:
    """Both signatures over a message, for one context."""
    return Signature(first.sign(_framed(message, context)), second.sign(message, context.encode()))


def verify_both(signer: Signer, message: bytes, signature: Signature, context: str) -> None:
    """Checks both signatures of ``sign_both``.

    Raises:
        ChannelError: ``signature_invalid`` unless both hold.
    """
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(signer.ed25519).verify(
            signature.ed25519, _framed(message, context)
        )
        mldsa.MLDSA65PublicKey.from_public_bytes(signer.mldsa65).verify(
            signature.mldsa65, message, context.encode()
        )
    except (InvalidSignature, ValueError) as error:
        raise ChannelError("signature_invalid", f"A signature of {signer.name} does not verify.") from error


def words_of(digest: str) -> tuple[str, ...]:
    """The first 128 bits of a fingerprint as 12 words."""
    words: str = Mnemonic("english").to_mnemonic(canonical.raw(digest)[:16])
    return tuple(words.split())


class PrivateIdentity:
    """A party's secret keys, and what is done with them."""

    def __init__(
        self, name: str, role: Role, seeds: dict[str, bytes], node: ec.EllipticCurvePrivateKey
    ) -> None:
        self._seeds = seeds
        self._ed25519 = ed25519.Ed25519PrivateKey.from_private_bytes(seeds["ed25519"])
        self._mldsa65 = mldsa.MLDSA65PrivateKey.from_seed_bytes(seeds["mldsa65"])
        kem = mlkem.MLKEM768PrivateKey.from_seed_bytes(seeds["mlkem768"])
        exchange = x25519.X25519PrivateKey.from_private_bytes(seeds["x25519"])
        self.hpke_private = hpke.MLKEM768X25519PrivateKey(kem, exchange)
        self.node_private = node
        self.public = PublicIdentity(
            name,
            role,
            self._ed25519.public_key().public_bytes_raw(),
            self._mldsa65.public_key().public_bytes_raw(),
            kem.public_key().public_bytes_raw() + exchange.public_key().public_bytes_raw(),
            _spki(node.public_key()),
        )

    @classmethod
    def generate(cls, name: str, role: Role) -> Self:
        """New keys from the operating system's randomness."""
        seeds = {
            "ed25519": ed25519.Ed25519PrivateKey.generate().private_bytes_raw(),
            "mldsa65": mldsa.MLDSA65PrivateKey.generate().private_bytes_raw(),
            "mlkem768": mlkem.MLKEM768PrivateKey.generate().private_bytes_raw(),
            "x25519": x25519.X25519PrivateKey.generate().private_bytes_raw(),
        }
        return cls(name, role, seeds, ec.generate_private_key(ec.SECP256R1()))

    def sign(self, message: bytes, context: str) -> Signature:
        """Signs a message for one context, such as ``cloister/plan/1``; contexts do not mix."""
        return sign_both(self._ed25519, self._mldsa65, message, context)

    def sign_classic(self, message: bytes, context: str) -> bytes:
        """Signs with Ed25519 alone, 64 bytes, what both keys sign soon afterwards (light heads of logs).

        No quantum computer may exist meanwhile. The context must be one that both keys never sign for, or
        half of a whole signature could stand for this one.
        """
        return self._ed25519.sign(_framed(message, context))

    def sign_bare(self, message: bytes) -> Signature:
        """Signs a message of a public format that brings its own context, so that others can check it.

        What it signs begins with ``DSSEv1`` (``privacy.evidence.dsse``), where a framed message begins with
        the length of a context, and ML-DSA's own context is empty: neither signature can stand for the other.
        """
        if not message.startswith(b"DSSEv1 "):
            raise ValueError("only what brings its own context is signed without one")
        return Signature(self._ed25519.sign(message), self._mldsa65.sign(message))

    def save(self, folder: Path, vault: Vault = CLEAR) -> None:
        """Writes the keys, as ``vault`` keeps secrets, and the public identity; none is ever replaced.

        Raises:
            StateError: ``state_unwritable``, there is one already, or the disk refuses.
        """
        if (folder / _PRIVATE).exists():
            raise StateError(
                "state_unwritable", f"{folder} holds an identity already.", "Use another folder."
            )
        durable.private_folder(folder)
        node = self.node_private.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        value = {
            "name": self.public.name,
            "role": self.public.role,
            "node": node.hex(),
            **{key: seed.hex() for key, seed in self._seeds.items()},
        }
        durable.write(folder / _PUBLIC, canonical.encode(self.public.to_json()), mode=0o644)
        vault.write(folder / _PRIVATE, canonical.encode(value))

    @classmethod
    def load(cls, folder: Path, vault: Vault = CLEAR) -> Self:
        """The identity of a folder.

        Raises:
            IdentityError: ``identity_missing``.
            StateError: ``permissions``, others may read the keys; ``state_damaged``, ``state_sealed``.
        """
        path = folder / _PRIVATE
        if not path.exists():
            raise IdentityError("identity_missing", f"{folder} holds no identity.", "Make one with `init`.")
        value = read_json(vault, path)
        damaged = StateError("state_damaged", f"{path} is damaged.", "Restore it from a backup.")
        try:
            seeds = {key: bytes.fromhex(value[key]) for key in _SEEDS}
            node = serialization.load_der_private_key(bytes.fromhex(value["node"]), password=None)
            if not isinstance(node, ec.EllipticCurvePrivateKey):
                raise damaged
            return cls(value["name"], value["role"], seeds, node)
        except (KeyError, TypeError, ValueError, UnsupportedAlgorithm, IdentityError) as error:
            raise damaged from error


def _distinct(member: PublicIdentity) -> tuple[str | bytes, ...]:
    """What no two members may share; the two halves of the sealing key count each."""
    kem, exchange = member.hpke[:_MLKEM_PUBLIC], member.hpke[_MLKEM_PUBLIC:]
    return member.name, member.ed25519, member.mldsa65, kem, exchange, member.node


@dataclass(frozen=True)
class Roster:
    """Everybody in a consortium.

    Attributes:
        consortium: its name.
        members: one lead and any number of sites; names and keys are all different.
    """

    consortium: str
    members: tuple[PublicIdentity, ...]

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.consortium):
            raise IdentityError("identity_malformed", f"{self.consortium!r} is no name of a consortium.")
        if sum(member.role == "lead" for member in self.members) != 1:
            raise IdentityError("roster_mismatch", "A roster has exactly one lead.")
        for values in zip(*map(_distinct, self.members), strict=True):
            if len(set(values)) != len(values):
                raise IdentityError("key_duplicate", "Two members of a roster share a name or a key.")

    @property
    def lead(self) -> PublicIdentity:
        """The lead."""
        return next(member for member in self.members if member.role == "lead")

    @property
    def sites(self) -> tuple[PublicIdentity, ...]:
        """The sites, in the order of joining."""
        return tuple(member for member in self.members if member.role == "site")

    def member(self, name: str) -> PublicIdentity:
        """The member of a name.

        Raises:
            IdentityError: ``party_unknown``.
        """
        for member in self.members:
            if member.name == name:
                return member
        raise IdentityError("party_unknown", f"{name} is not a member of {self.consortium}.")

    def digest(self) -> str:
        """The digest of the consortium's name and all members."""
        return canonical.digest_of(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Name and members."""
        return {"consortium": self.consortium, "members": [member.to_json() for member in self.members]}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Raises ``IdentityError`` for anything that is not a whole roster."""
        if (
            not isinstance(value, dict)
            or set(value) != {"consortium", "members"}
            or not isinstance(value["consortium"], str)
            or not isinstance(value["members"], list)
        ):
            raise IdentityError("identity_malformed", "A roster has other fields than agreed.")
        return cls(value["consortium"], tuple(map(PublicIdentity.from_json, value["members"])))
