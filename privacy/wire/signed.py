"""Bytes and the signatures of the party that says them: what the service carries and files keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self

from cloister.privacy.errors import ChannelError
from cloister.privacy.identity import Signature, Signer, verify_both

_FIELDS = {"content", "ed25519", "mldsa65"}


class Message(Protocol):
    """The three fields of a ``Signed`` message of ``consortium.proto``."""

    @property
    def content(self) -> bytes:
        """What was signed."""
        ...

    @property
    def ed25519(self) -> bytes:
        """First signature."""
        ...

    @property
    def mldsa65(self) -> bytes:
        """Second signature."""
        ...


class Writer(Protocol):
    """Whoever signs: a party, or an authority."""

    def sign(self, message: bytes, context: str) -> Signature:
        """Both signatures over a message, for one context."""
        ...


@dataclass(frozen=True)
class Signed:
    """Content and signatures; not verified before ``open``."""

    content: bytes
    signature: Signature

    @classmethod
    def make(cls, content: bytes, party: Writer, context: str) -> Self:
        """Signs a content."""
        return cls(content, party.sign(content, context))

    def open(self, party: Signer, context: str) -> bytes:
        """The content, once both signatures of ``party`` are verified.

        Raises:
            ChannelError: ``signature_invalid``.
        """
        verify_both(party, self.content, self.signature, context)
        return self.content

    @classmethod
    def of(cls, message: Message) -> Self:
        """What a message of the wire holds."""
        return cls(message.content, Signature(message.ed25519, message.mldsa65))

    def fields(self) -> dict[str, bytes]:
        """The fields of a message of the wire."""
        return {
            "content": self.content,
            "ed25519": self.signature.ed25519,
            "mldsa65": self.signature.mldsa65,
        }

    def to_json(self) -> dict[str, str]:
        """For files and for nesting in other canonical JSON; the content is canonical JSON itself."""
        return {
            "content": self.content.decode(),
            "ed25519": self.signature.ed25519.hex(),
            "mldsa65": self.signature.mldsa65.hex(),
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Raises ``ChannelError`` ``signature_invalid`` for anything else than ``to_json`` gives."""
        refusal = ChannelError("signature_invalid", "Something signed has other fields than agreed.")
        if not isinstance(value, dict) or set(value) != _FIELDS:
            raise refusal
        try:
            signature = Signature(bytes.fromhex(value["ed25519"]), bytes.fromhex(value["mldsa65"]))
            return cls(value["content"].encode(), signature)
        except (AttributeError, TypeError, ValueError) as error:
            raise refusal from error
