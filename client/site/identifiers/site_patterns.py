"""A site's own detectors: ``identifiers.json`` in its folder, name -> regular expression.

::

    {"hospital-number": "\\bH[0-9]{7}\\b", "study-id": "ABC-[0-9]{4}"}

The expressions are of RE2, which runs in time linear in the text whatever the expression is, and knows no
look-around and no back-reference. They read the folded text: digits are 0-9, dashes ``-``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import re2

from cloister.client.site.identifiers.findings import KINDS, Found
from cloister.client.site.identifiers.patterns import Detector
from cloister.privacy.errors import InputError

FILE = "identifiers.json"
MOST, LONGEST, MEMORY = 50, 500, 8 << 20
_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
_DO = 'Write it as {"hospital-number": "H[0-9]{7}"}; docs/identifiers.md says more.'


def load(path: Path) -> dict[str, str]:
    """The patterns of a file, checked; none where there is no file.

    Raises:
        InputError: ``file_missing``, it cannot be read; ``patterns_malformed``.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError("file_missing", f"{path} cannot be read.", "Check its permissions.") from error
    try:
        value = json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"{path} is not JSON, or names a pattern twice.") from error
    if not isinstance(value, dict) or len(value) > MOST:
        raise _malformed(f"{path} is not an object of at most {MOST} patterns.")
    for name, pattern in value.items():
        detector(name, pattern)
    return value


def detector(name: str, pattern: object) -> Detector:
    """A detector of a site's own.

    Args:
        name: a-z, 0-9 and hyphens, none of the kinds that ship: their measured figures would not hold.
        pattern: an expression of RE2 that does not match the empty text.

    Raises:
        InputError: ``patterns_malformed``.
    """
    if _NAME.fullmatch(name) is None or name in KINDS:
        raise _malformed(f"{name[:50]!r} cannot name a pattern: use a-z, 0-9 and -, and no shipped kind.")
    if not isinstance(pattern, str) or not 0 < len(pattern) <= LONGEST:
        raise _malformed(f"The pattern {name} is not a text of 1 to {LONGEST} characters.")
    options = re2.Options()
    options.log_errors, options.max_mem = False, MEMORY
    try:
        compiled = re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError) as error:
        raise _malformed(
            f"The pattern {name} is no regular expression of RE2, which has no look-around and no "
            "back-reference, or is too large."
        ) from error
    if compiled.search("") is not None:
        raise _malformed(f"The pattern {name} matches the empty text.")

    def detect(text: str) -> Iterator[Found]:
        for match in compiled.finditer(text):
            yield Found(name, *match.span())

    return detect


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)


def _malformed(what: str) -> InputError:
    return InputError("patterns_malformed", what, _DO)
