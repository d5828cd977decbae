"""An authority: a key pair that stays off line and says which keys belong to which member.

Its two signatures are those of every party (``privacy.identity``): Ed25519 and ML-DSA-65, both must verify.
It has no other keys, takes no part in anything, and no protocol step asks it: what it signs are files
(``privacy.wire.endorsement``). Who trusts it says so by its fingerprint, in the policy of a site.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa

from cloister.privacy import canonical, durable, folder, keyring
from cloister.privacy.errors import IdentityError, StateError
from cloister.privacy.identity import NAME, Signature, sign_both, words_of
from cloister.privacy.keysource import KeySource
from cloister.privacy.vault import read_json

SECRETS = ("authority.key",)
"""All secret files of an authority."""
PUBLIC_FILE = "authority.json"
_SIZES = {"ed25519": 32, "mldsa65": 1952}
_FIELDS = {"name", *_SIZES}


@dataclass(frozen=True)
class PublicAuthority:
    """What others know of an authority.

    Attributes:
        name: 1 to 40 of a-z, 0-9 and hyphen, starting with a letter; what the authority calls itself.
        ed25519, mldsa65: raw public keys.
    """

    name: str
    ed25519: bytes
    mldsa65: bytes

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise IdentityError(
                "identity_malformed",
                f"{self.name[:60]!r} is no name of an authority.",
                "Use 1 to 40 of a-z, 0-9 and hyphen, starting with a letter.",
            )
        for key, size in _SIZES.items():
            if len(getattr(self, key)) != size:
                raise IdentityError("identity_malformed", f"The {key} key of {self.name} has a wrong size.")

    def to_json(self) -> dict[str, str]:
        """Name and keys in hexadecimal."""
        return {"name": self.name, **{key: getattr(self, key).hex() for key in _SIZES}}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Raises ``IdentityError`` ``identity_malformed`` for anything but what ``to_json`` gives."""
        refusal = IdentityError("identity_malformed", "An authority has other fields than agreed.")
        if not isinstance(value, dict) or set(value) != _FIELDS:
            raise refusal
        if not all(isinstance(one, str) for one in value.values()):
            raise refusal
        try:
            found = cls(value["name"], *(bytes.fromhex(value[key]) for key in _SIZES))
        except ValueError as error:
            raise refusal from error
        if found.to_json() != value:
            raise refusal
        return found

    def digest(self) -> str:
        """The digest of name and keys: the fingerprint that policies name."""
        return canonical.digest_of(self.to_json())

    def words(self) -> tuple[str, ...]:
        """The fingerprint's first 128 bits as 12 words, to be compared by telephone."""
        return words_of(self.digest())


class Authority:
    """The secret keys of an authority.

    Args:
        name: what it calls itself.
        seeds: ``ed25519`` and ``mldsa65``, 32 bytes each.
    """

    def __init__(self, name: str, seeds: dict[str, bytes]) -> None:
        self._seeds = seeds
        self._ed25519 = ed25519.Ed25519PrivateKey.from_private_bytes(seeds["ed25519"])
        self._mldsa65 = mldsa.MLDSA65PrivateKey.from_seed_bytes(seeds["mldsa65"])
        self.public = PublicAuthority(
            name, self._ed25519.public_key().public_bytes_raw(), self._mldsa65.public_key().public_bytes_raw()
        )

    @classmethod
    def generate(cls, name: str) -> Self:
        """New keys from the operating system's randomness."""
        return cls(
            name,
            {
                "ed25519": ed25519.Ed25519PrivateKey.generate().private_bytes_raw(),
                "mldsa65": mldsa.MLDSA65PrivateKey.generate().private_bytes_raw(),
            },
        )

    def sign(self, message: bytes, context: str) -> Signature:
        """Signs a message for one context; contexts do not mix."""
        return sign_both(self._ed25519, self._mldsa65, message, context)

    @classmethod
    def create(cls, path: Path, name: str, source: KeySource | None = None) -> Self:
        """Makes a private folder with new keys; with a ``source`` they are encrypted there.

        Raises:
            UsageError: ``folder_in_use``.
            IdentityError: ``identity_malformed``, the name is none.
            StateError: ``state_unwritable``, ``disk_full``, ``state_sealed`` or ``permissions``.
        """
        made = cls.generate(name)
        folder.claim(path)
        vault = keyring.create(path, source)
        kept = {"name": name, **{key: seed.hex() for key, seed in made._seeds.items()}}
        vault.write(path / SECRETS[0], canonical.encode(kept))
        durable.write(path / PUBLIC_FILE, canonical.encode(made.public.to_json()), mode=0o644)
        return made

    @classmethod
    def open(cls, path: Path) -> Self:
        """The authority of a folder.

        Raises:
            StateError: ``state_missing``, ``permissions``, ``state_damaged`` or ``state_sealed``.
        """
        file = path / SECRETS[0]
        if not file.is_file():
            raise StateError(
                "state_missing",
                f"{path} is not an authority's folder.",
                "Run `cloister authority init` first, or name the folder with --dir.",
            )
        value = read_json(keyring.open_vault(path), file)
        try:
            return cls(value["name"], {key: bytes.fromhex(value[key]) for key in _SIZES})
        except (KeyError, TypeError, ValueError, IdentityError) as error:
            raise StateError("state_damaged", f"{file} is damaged.", "Restore it from a backup.") from error
