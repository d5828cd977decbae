"""Shares of a secret of 32 bytes: any ``threshold`` of its holders open it, fewer learn nothing.

Shamir's scheme (Communications of the ACM 22(11), 1979) over GF(2^128), in PyCryptodome's
implementation, on each half of the secret. A share is 34 bytes:

    version (1 byte: 1) | place of its holder, counted from 1 (1 byte) | value of each half (16 + 16 bytes)

A site shares the seed of its own mask, so that the others can take the mask away if the site is lost
between its upload and the opening. Opening gives *some* secret for any shares of the right form: nothing
in them shows a lie. Callers therefore compare what was opened with a commitment to the secret that was
made when it was shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from Crypto.Protocol.SecretSharing import Shamir

from cloister.privacy.errors import AggregationError

SECRET_BYTES: Final = 32
SHARE_BYTES: Final = 2 + SECRET_BYTES
MOST_HOLDERS: Final = 255

_VERSION = 1
_HALF = 16


def split(secret: bytes, threshold: int, holders: int) -> tuple[bytes, ...]:
    """One share for each holder; share k belongs to holder k, counted from 0.

    Args:
        secret: 32 bytes.
        threshold: how many shares open it, from 2.
        holders: how many there are, from ``threshold`` to 255.

    Raises:
        ValueError: a number or the secret is out of these bounds; plans that ask for them were refused.

    Formal guarantees:
        Any ``threshold`` - 1 shares are independent of the secret, whatever their holders compute, given
        that the operating system's generator, from which the polynomials are drawn, is unpredictable.
        Each call draws anew. Shares of one secret from two calls are shares of two polynomials: they
        cannot be combined with each other, and still open the secret only together with their own kind.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret to share has {len(secret)} bytes instead of {SECRET_BYTES}")
    if not 2 <= threshold <= holders <= MOST_HOLDERS:
        raise ValueError(f"{threshold} of {holders} holders cannot open a secret")
    halves = secret[:_HALF], secret[_HALF:]
    left, right = (Shamir.split(threshold, holders, half, ssss=False) for half in halves)
    return tuple(
        bytes((_VERSION, place)) + first + second
        for (place, first), (_, second) in zip(left, right, strict=True)
    )


def check(share: bytes, holder: int) -> None:
    """Raises unless bytes have the form of a share of this holder, counted from 0.

    Raises:
        AggregationError: ``share_malformed``.
    """
    # The place 0 would be the secret itself.
    known = 0 <= holder < MOST_HOLDERS and len(share) == SHARE_BYTES
    if not known or share[:2] != bytes((_VERSION, holder + 1)):
        raise AggregationError("share_malformed", f"This is no share of holder {holder}.")


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret that ``threshold`` shares open.

    Args:
        shares: holder, counted from 0 -> share; of more than ``threshold`` the first holders' are taken.
        threshold: as it was in ``split``.

    Returns:
        32 bytes: the secret if all shares that were taken are honest and of one split, otherwise other
        bytes. Only a comparison with a commitment tells.

    Raises:
        AggregationError: ``share_malformed`` if any share is, or ``too_few_shares``.
        ValueError: no ``split`` takes such a threshold.
    """
    if threshold < 2:
        raise ValueError(f"no secret is shared so that {threshold} open it")
    for holder, share in shares.items():
        check(share, holder)
    if len(shares) < threshold:
        raise AggregationError("too_few_shares", f"{len(shares)} shares are left of {threshold} needed.")
    taken = [shares[holder] for holder in sorted(shares)[:threshold]]
    halves = slice(2, 2 + _HALF), slice(2 + _HALF, None)
    left, right = (Shamir.combine([(s[1], s[half]) for s in taken], ssss=False) for half in halves)
    return left + right
