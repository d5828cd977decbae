"""Sealing a key for a recipient: HPKE (RFC 9180) with ML-KEM-768 and X25519, HKDF-SHA256, AES-256-GCM.

HPKE wraps only the 32-byte key of a stream, so its cost does not grow with the content. The sender is
not authenticated by HPKE's base mode: signatures are made over everything that is sealed.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke

from cloister.privacy.errors import ChannelError
from cloister.privacy.identity import PrivateIdentity, PublicIdentity

KEY = 32
_SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
SUITE = "mlkem768-x25519/hkdf-sha256/aes-256-gcm"
WRAPPED = hpke.KEM.MLKEM768_X25519.enc_length() + KEY + 16
"""The size of a wrapped key: encapsulation, key, tag."""


def wrap(key: bytes, recipient: PublicIdentity, info: bytes) -> bytes:
    """A stream key sealed for ``recipient`` in the context ``info``."""
    return wrap_for(key, recipient.sealing_key, info)


def unwrap(wrapped: bytes, recipient: PrivateIdentity, info: bytes) -> bytes:
    """The stream key.

    Raises:
        ChannelError: ``seal_invalid``: another recipient, another context or altered bytes.
    """
    return unwrap_with(wrapped, recipient.hpke_private, info)


def wrap_for(key: bytes, recipient: hpke.MLKEM768X25519PublicKey, info: bytes) -> bytes:
    """A 32-byte key sealed for whoever holds the private half of a key, in the context ``info``."""
    return _SUITE.encrypt(key, recipient, info)


def unwrap_with(wrapped: bytes, private: hpke.MLKEM768X25519PrivateKey, info: bytes) -> bytes:
    """The key that was sealed for ``private``.

    Raises:
        ChannelError: ``seal_invalid``.
    """
    try:
        key = _SUITE.decrypt(wrapped, private, info)
    except (InvalidTag, ValueError) as error:
        raise ChannelError("seal_invalid", "A sealed key does not open here.") from error
    if len(key) != KEY:
        raise ChannelError("seal_invalid", "A sealed key has a wrong size.")
    return key
