"""Secure aggregation of one job: what a site does, what the server does, and in which order.

This docstring is the specification; ``docs/secure-aggregation.md`` argues why it holds. ``site`` and
``server`` are the two state machines that follow it, and here is what they must say alike. Neither does any
input or output: values come in, values go out, and the site's state is handed to its driver to be on disk
*before* an answer leaves.

*Keys.* Once a job, all pairs of sites share a chain of keys (``keys``).

*Mask.* For a sum ``At(round, step, attempt, model)`` site i has a vector x of words modulo 2^32 and a seed b
from its ratchet. It sends

- y = x + PRG(b) + sum over peers j of ± PRG(k_ij): plus where i comes first in the plan, else minus;
- a commitment, the digest of b with i and the sum's place;
- for every peer a share of b, T of which rebuild it, encrypted under a key of that pair and this sum, and the
  digest of that share, by which the server tells a share that is passed on from a forged one.

*Survive.* The server names the survivor set U: the sites whose y it holds. A site signs U if it is in U, U
is a subset of the plan's sites with at least n_min members, and it has signed no other set in this round.

*Open.* The server shows T signatures of members of U over the same U, sum and model. Only then a site opens
its own b, and its key k_id for every site d that is *not* in U. Of a site in U it never opens a pair key, of
one that is not in U never a share: the two kinds together would bare that site's update.

*Recover.* Members of U that went away before they opened b: the others each give their share of it, as the
server hands it to them. T shares rebuild b, which must fit the commitment.

If one site is missing and another goes away between signing and opening, the sum is lost: only those two know
the key of their mask. What the others opened by then are random masks.

*Sum.* The server takes all PRG(b) and, for every missing d, the ± PRG(k_id) out of the sum of all y. What is
left is the sum of x over U. The masks between members of U cancelled each other.

*Surplus.* Where the plan takes surplus noise back (``surplus``), step 1 of a round adds up noise alone. A
site masks it after it opened step 0, for the set that it signed there, and signs no other set: that sum is
over the same survivors, or is not opened.

There is one survivor set and one sum a round and step, and one attempt at it: a sum that failed after a site
had signed is given up, and the next one has fresh samples and noise. Until then the same bytes may be sent
again as often as needed, also by a site that comes late.

Formal guarantees:
    Argued in ``docs/secure-aggregation.md``, not proved, and not reviewed by outsiders: for terms that
    ``SumTerms`` takes, a server and t sites that do as they please learn of the other sites' vectors of one
    sum nothing but their sum over U, and there are at least n_min - t of these. They can make the sum fail
    or be wrong. With no noise in x, sums over different sets in different rounds can be subtracted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from numpy.typing import NDArray

from cloister.privacy import canonical
from cloister.privacy.identity import PublicIdentity
from cloister.privacy.secagg.masking import Mask
from cloister.privacy.secagg.terms import At, SumTerms

Words = NDArray[np.uint32]
Identities = Mapping[str, PublicIdentity]

SURVIVORS = "cloister/secagg-survivors/1"
SEED = 32


def survivors_bytes(terms: SumTerms, at: At, survivors: tuple[str, ...]) -> bytes:
    """What the members of a survivor set sign."""
    return at.bound(SURVIVORS, terms, survivors=list(survivors))


def commitment(terms: SumTerms, at: At, site: str, seed: bytes) -> str:
    """The digest that binds a site to its seed."""
    return canonical.digest(at.bound("cloister/secagg-seed/1", terms, site=site, seed=seed.hex()))


def share_digest(terms: SumTerms, at: At, giver: str, holder: str, share: bytes) -> str:
    """What a site says of the share that it gave a peer; the share's own randomness hides it."""
    return canonical.digest(
        at.bound("cloister/secagg-share/1", terms, giver=giver, holder=holder, share=share.hex())
    )


def self_mask(terms: SumTerms, at: At, site: str, seed: bytes, sign: int) -> Mask:
    """The mask that a seed stands for, to be added (1) or taken out (-1)."""
    info = at.bound("cloister/secagg-self/1", terms, site=site)
    return Mask(HKDFExpand(hashes.SHA256(), SEED, info).derive(seed), sign)


def is_vector(words: object, parameters: int) -> bool:
    """Words of 32 bits in a row, shape (d,)."""
    return (
        isinstance(words, np.ndarray)
        and words.shape == (parameters,)
        and words.dtype == np.uint32
        and words.flags.c_contiguous
    )


@dataclass(frozen=True, eq=False)
class Masked:
    """What a site uploads.

    Attributes:
        words: y, uint32, shape (d,).
        commitment: to the seed of its own mask.
        shares: of that seed, encrypted, by the name of the peer that each is for.
        digests: of these shares, by the same names.
    """

    words: Words
    commitment: str
    shares: Mapping[str, bytes]
    digests: Mapping[str, str]


@dataclass(frozen=True)
class Opening:
    """What a survivor opens.

    Attributes:
        seed: of its own mask.
        pairs: the key of its mask with each site that is not in the survivor set.
    """

    seed: bytes
    pairs: Mapping[str, bytes]
