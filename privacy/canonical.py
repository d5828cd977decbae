"""Canonical encoding and digests: the same value has the same bytes everywhere.

JSON in the form of RFC 8785 (JSON Canonicalization Scheme), written by the ``rfc8785`` package.
Whatever is signed, hashed or compared between parties is first encoded here. Reading is strict:
bytes that are not already in canonical form are refused, so that a digest has exactly one text.

Digests are SHA-256, written ``sha256:`` and 64 lower-case hexadecimal digits.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias, cast

import rfc8785

from cloister.privacy.errors import CloisterError, PlanError

Json: TypeAlias = "bool | int | float | str | list[Json] | tuple[Json, ...] | Mapping[str, Json] | None"

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LONG = re.compile(r"\d{16}")
_FLOAT, _ESCAPED_NUL = "\0", b"\\u0000"
_MARKED = re.compile(r'"\\u0000([^"]*)"')
_CHUNK = 1 << 20
_LARGEST = 2**53 - 1
_PLAIN = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def encode(value: Json) -> bytes:
    """The RFC 8785 bytes of ``value``.

    Raises:
        ValueError: the value holds something that JSON has no form for: NaN, infinity, an integer
            beyond 2^53, a key that is no string.
    """
    if _has_plain_form(value):  # up to five times as fast, and most of what there is
        return _PLAIN(value).encode()
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as error:
        raise ValueError(f"no canonical form: {error}") from error


def _has_plain_form(value: object) -> bool:
    """Whether the standard library writes a value as RFC 8785 asks: ASCII, exact integers, plain decimals."""
    kind = type(value)
    if kind is str:
        return cast(str, value).isascii()
    if kind is int:
        return -_LARGEST <= cast(int, value) <= _LARGEST
    if kind is dict:
        items = cast("dict[object, object]", value).items()
        return all(type(key) is str and key.isascii() and _has_plain_form(one) for key, one in items)
    if kind is list or kind is tuple:
        return all(map(_has_plain_form, cast("list[object]", value)))
    if kind is float:  # both write the fewest digits; the RFC no fraction of an integer, and other exponents
        text = repr(value)
        return not text.endswith(".0") and text.strip("-0123456789") == "."
    return value is None or kind is bool


def decode(data: bytes, *, otherwise: CloisterError | None = None) -> Any:
    """The value of canonical bytes.

    Args:
        data: RFC 8785 bytes.
        otherwise: the error to raise for bytes that are not canonical JSON
            (default ``plan_malformed``).
    """
    refusal = otherwise or PlanError("plan_malformed", "The bytes are not canonical JSON (RFC 8785).")
    floats: list[str] = []

    def noted(text: str) -> float:
        floats.append(text)
        return float(text)

    try:
        value = json.loads(data, parse_constant=_refuse_constant, parse_float=noted)
        if not (_is_plain(data, value, floats) or encode(value) == data):
            raise refusal
    except (ValueError, RecursionError) as error:
        raise refusal from error
    return value


def _is_plain(data: bytes, value: Any, floats: Collection[str]) -> bool:
    """A quick yes for ASCII without long integers, where the standard library writes what RFC 8785 asks.

    The two differ in floats, in large integers and in the order of keys beyond ASCII. Each float's text is
    compared by itself, and stands for itself in the text that is compared. False says nothing.
    """
    if not data.isascii() or (floats and not _floats_are_plain(data, floats)):
        return False
    shown = json.loads(data, parse_float=_FLOAT.__add__) if floats else value
    plain = _PLAIN(shown)
    if _LONG.search(_MARKED.sub("", plain) if floats else plain):
        return False
    return (_MARKED.sub(r"\1", plain) if floats else plain).encode() == data


def _floats_are_plain(data: bytes, floats: Collection[str]) -> bool:
    """Whether every float has its canonical text, and no string could be taken for one."""
    return _ESCAPED_NUL not in data and all(map(_is_canonical_float, floats))


@lru_cache(maxsize=4096)
def _is_canonical_float(text: str) -> bool:
    return encode(float(text)) == text.encode()


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def digest(data: bytes) -> str:
    """``sha256:…`` of bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_of(value: Json) -> str:
    """``sha256:…`` of the canonical encoding of a value."""
    return digest(encode(value))


def is_digest(text: object) -> bool:
    """Whether ``text`` is a digest in the form written here."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def raw(text: str) -> bytes:
    """The 32 bytes of a digest.

    Raises:
        ValueError: ``text`` is no digest.
    """
    if not is_digest(text):
        raise ValueError("not a digest of the form sha256:<64 hexadecimal digits>")
    return bytes.fromhex(text.removeprefix("sha256:"))


def digest_of_file(path: Path) -> str:
    """``sha256:…`` of a file's bytes, read in pieces of 1 MiB."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            state.update(piece)
    return "sha256:" + state.hexdigest()


def manifest(root: Path, files: Iterable[Path]) -> dict[str, str]:
    """Relative name -> digest for each of ``files`` below ``root``, sorted by name."""
    return {path.relative_to(root).as_posix(): digest_of_file(path) for path in sorted(files)}
