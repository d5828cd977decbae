"""What the envelopes of secure aggregation hold, beside those of ``messages``.

==================  ============  ==================================================================
kind                from -> to    content
==================  ============  ==================================================================
``introduce``       lead -> site  empty: asks for the site's key of the job
``introduction``    site -> lead  the signed key
``agree``           lead -> site  everybody's introductions
``agreements``      site -> lead  what the site agreed with each later site, sealed for that site
``adopt``           lead -> site  what each earlier site agreed with this one
``adopted``         site -> lead  a confirmation of each pair's key, which both ends must give alike
``masked``          site -> lead  commitment, shares and their digests, then the masked words, packed
``survive``         lead -> site  the survivor set
``signed``          site -> lead  the site's signature of it
``open``            lead -> site  the survivor set and the signatures of enough survivors
``opened``          site -> lead  the site's seed, and its keys with missing sites
``recover``         lead -> site  encrypted shares that lost survivors gave this site
``shares``          site -> lead  the same shares, opened
``surplus``         lead -> site  the survivor set of an opened step; step 1 of its round begins
==================  ============  ==================================================================

Step 1 of a round is the sum of surplus noise (``secagg.surplus``): a site answers ``surplus`` with a
``masked``, and ``survive`` to ``shares`` go on as ever.

All is canonical JSON but the masked words. Whatever is malformed is a ``ChannelError``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cloister.privacy import canonical
from cloister.privacy.errors import ChannelError, UpdateError
from cloister.privacy.secagg import ring
from cloister.privacy.secagg.rounds import Masked, Opening
from cloister.privacy.wire.signed import Signed

INTRODUCE, INTRODUCTION = "introduce", "introduction"
AGREE, AGREEMENTS = "agree", "agreements"
ADOPT, ADOPTED = "adopt", "adopted"
MASKED = "masked"
SURVIVE, SIGNED = "survive", "signed"
OPEN, OPENED = "open", "opened"
RECOVER, SHARES = "recover", "shares"
SURPLUS = "surplus"

ASKED = frozenset({INTRODUCE, AGREE, ADOPT, SURVIVE, OPEN, RECOVER, SURPLUS})
"""What a lead may ask of a site, beside a task and the end."""

STEPS = {SURVIVE: (0, 1), OPEN: (0, 1), RECOVER: (0, 1), SURPLUS: (1,)}
"""In which steps of a round these may be asked; anything else in step 0 alone."""


def step_of(kind: str, said: int, *, surplus: bool) -> int:
    """The step that an envelope of a kind may be about, given what it says.

    Args:
        kind: of the envelope, or of what it answers.
        said: the step in its header.
        surplus: whether the plan takes surplus noise back; without it a round has one step.
    """
    steps = STEPS.get(kind, (0,)) if surplus else (0,)
    return said if said in steps else steps[0]


_WORD = np.dtype("<u4")
_WHOLE = 32
_PREFIX = 4


def signed_to_bytes(signed: Signed) -> bytes:
    """One signed statement."""
    return canonical.encode(signed.to_json())


def signed_from_bytes(content: bytes | bytearray) -> Signed:
    """The statement; its signature is not checked yet."""
    return Signed.from_json(_json(content))


def signatures_to_bytes(signed: Mapping[str, Signed]) -> bytes:
    """Signed statements by a name."""
    return canonical.encode({name: one.to_json() for name, one in signed.items()})


def signatures_from_bytes(content: bytes | bytearray) -> dict[str, Signed]:
    """The statements by name; no signature is checked yet."""
    return {name: Signed.from_json(one) for name, one in _mapping(_json(content)).items()}


def masked_to_bytes(masked: Masked, bits: int = _WHOLE) -> bytes:
    """u32 size of the head, the head, then the lowest ``bits`` bits of each word (``secagg.ring``)."""
    head = canonical.encode(
        {
            "commitment": masked.commitment,
            "shares": _hex(masked.shares),
            "digests": dict(masked.digests),
        }
    )
    words = masked.words.astype(_WORD, copy=False)
    packed = words.tobytes() if bits == _WHOLE else ring.pack(words, bits)
    return b"".join([len(head).to_bytes(_PREFIX), head, packed])


def masked_from_bytes(content: bytes | bytearray, parameters: int, bits: int = _WHOLE) -> Masked:
    """The masked vector of a content of the plan's size; words of 32 bits lie in the content itself."""
    size = int.from_bytes(content[:_PREFIX])
    start = _PREFIX + size
    if len(content) != start + ring.packed_bytes(parameters, bits):
        raise _malformed("a masked update has another size than the plan's")
    head = _mapping(_json(content[_PREFIX:start]), "commitment", "shares", "digests")
    digests = _mapping(head["digests"])
    if not all(map(canonical.is_digest, (head["commitment"], *digests.values()))):
        raise _malformed("a commitment is no digest")
    words = _words(memoryview(content)[start:], parameters, bits)
    return Masked(words, head["commitment"], _unhex(head["shares"]), digests)


def _words(packed: memoryview, parameters: int, bits: int) -> ring.Words:
    if bits == _WHOLE:
        return np.frombuffer(packed, dtype=_WORD)
    try:
        return ring.unpack(packed, bits, parameters)
    except UpdateError as error:
        raise _malformed("a masked update has more bits than its values") from error


def confirmations_to_bytes(confirmed: Mapping[str, str]) -> bytes:
    """Confirmations by the peer's name."""
    return canonical.encode(dict(confirmed))


def confirmations_from_bytes(content: bytes | bytearray) -> dict[str, str]:
    """The confirmations by name."""
    value = _mapping(_json(content))
    if not all(isinstance(one, str) for one in value.values()):
        raise _malformed("a confirmation is no text")
    return value


def survivors_to_bytes(survivors: tuple[str, ...]) -> bytes:
    """A survivor set."""
    return canonical.encode({"survivors": list(survivors)})


def survivors_from_bytes(content: bytes | bytearray) -> tuple[str, ...]:
    """The names, in the order they came in."""
    return _names(_mapping(_json(content), "survivors")["survivors"])


def open_to_bytes(survivors: tuple[str, ...], signatures: Mapping[str, Signed]) -> bytes:
    """A survivor set with signatures of it."""
    return canonical.encode(
        {
            "survivors": list(survivors),
            "signatures": {name: one.to_json() for name, one in signatures.items()},
        }
    )


def open_from_bytes(content: bytes | bytearray) -> tuple[tuple[str, ...], dict[str, Signed]]:
    """The names and the signatures, none of them checked yet."""
    value = _mapping(_json(content), "survivors", "signatures")
    signatures = {name: Signed.from_json(one) for name, one in _mapping(value["signatures"]).items()}
    return _names(value["survivors"]), signatures


def opening_to_bytes(opening: Opening) -> bytes:
    """What a survivor opened."""
    return canonical.encode({"seed": opening.seed.hex(), "pairs": _hex(opening.pairs)})


def opening_from_bytes(content: bytes | bytearray) -> Opening:
    """The seed and the keys by the name of the missing site."""
    value = _mapping(_json(content), "seed", "pairs")
    return Opening(_bytes(value["seed"]), _unhex(value["pairs"]))


def shares_to_bytes(shares: Mapping[str, bytes]) -> bytes:
    """Shares, encrypted or opened, by the name of the site whose seed they are of."""
    return canonical.encode({"shares": _hex(shares)})


def shares_from_bytes(content: bytes | bytearray) -> dict[str, bytes]:
    """The shares by name."""
    return _unhex(_mapping(_json(content), "shares")["shares"])


def _json(content: bytes | bytearray) -> Any:
    return canonical.decode(bytes(content), otherwise=_malformed("it is not canonical JSON"))


def _mapping(value: Any, *fields: str) -> dict[str, Any]:
    """A JSON object, with exactly these fields where any are named."""
    if not isinstance(value, dict) or (fields and set(value) != set(fields)):
        raise _malformed("it has other fields than agreed")
    return value


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise _malformed("a survivor set is no list of names")
    return tuple(value)


def _hex(values: Mapping[str, bytes]) -> dict[str, canonical.Json]:
    return {name: value.hex() for name, value in values.items()}


def _unhex(value: Any) -> dict[str, bytes]:
    return {name: _bytes(one) for name, one in _mapping(value).items()}


def _bytes(value: Any) -> bytes:
    try:
        return bytes.fromhex(value)
    except (TypeError, ValueError) as error:
        raise _malformed("a secret is not hexadecimal") from error


def _malformed(what: str) -> ChannelError:
    return ChannelError("envelope_malformed", f"A message of secure aggregation is malformed: {what}.")
