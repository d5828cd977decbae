"""The Merkle tree over a log: RFC 6962, with the proofs as RFC 9162 states them.

A tree is given by its *leaf hashes* in order; a root, a node and a leaf hash are 32 bytes. Whoever
holds only a root can be shown, with about ``log2(size)`` hashes, that one entry is in the tree
(inclusion) or that a larger tree holds the smaller one unchanged as its beginning (consistency).

The ``verify_`` functions return nothing or raise ``LogError`` with the id ``proof_invalid``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NoReturn, TypeAlias

from cloister.privacy.errors import LogError

EMPTY = hashlib.sha256(b"").digest()
"""Root of the tree without leaves (RFC 6962, section 2.1)."""

BLOCK = 256
"""Leaves of a block of ``Outline``."""

_HASH = len(EMPTY)
_Part: TypeAlias = Callable[[int, int], bytes]
"""Root of the tree over the leaves from a place (inclusive) to another."""


def leaf_hash(entry: bytes) -> bytes:
    """Hash of one entry. The prefix keeps leaves and nodes apart (RFC 6962, section 2.1)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node with its two children (RFC 6962, section 2.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True)
class Frontier:
    """All that is needed to append to a tree and to know its root: at most 64 hashes.

    Args:
        size: number of leaves.
        nodes: roots of the perfect subtrees that the leaves fall into, from the largest (left) to
            the smallest (right); one for each bit that is set in ``size``.
    """

    size: int = 0
    nodes: tuple[bytes, ...] = ()

    def append(self, leaf: bytes) -> Frontier:
        """The frontier with one more leaf hash at the right."""
        node, nodes, carry = leaf, self.nodes, self.size
        while carry & 1:
            node, nodes, carry = node_hash(nodes[-1], node), nodes[:-1], carry >> 1
        return Frontier(self.size + 1, (*nodes, node))

    def root(self) -> bytes:
        """Root of the tree."""
        if not self.nodes:
            return EMPTY
        return reduce(lambda right, left: node_hash(left, right), reversed(self.nodes))


def root(leaves: Iterable[bytes]) -> bytes:
    """Root of the tree over ``leaves``."""
    return reduce(Frontier.append, leaves, Frontier()).root()


def inclusion_proof(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Hashes that lead from leaf ``index`` to the root, lowest first (RFC 9162, section 2.1.3.1)."""
    if not 0 <= index < len(leaves):
        raise ValueError("the tree has no such leaf")
    return _inclusion(lambda start, stop: root(leaves[start:stop]), index, len(leaves))


def consistency_proof(leaves: Sequence[bytes], old: int) -> tuple[bytes, ...]:
    """Hashes that tie the tree of the first ``old`` leaves to the whole (RFC 9162, section 2.1.4.1)."""
    if not 0 < old <= len(leaves):
        raise ValueError("the earlier tree must have a leaf, and no more than the later one")
    return _consistency(lambda start, stop: root(leaves[start:stop]), old, len(leaves))


def _inclusion(part: _Part, index: int, size: int) -> tuple[bytes, ...]:
    proof: list[bytes] = []
    start, stop = 0, size
    while stop - start > 1:
        middle = _middle(start, stop)
        if index < middle:
            proof.append(part(middle, stop))
            stop = middle
        else:
            proof.append(part(start, middle))
            start = middle
    return tuple(reversed(proof))


def _consistency(part: _Part, old: int, size: int) -> tuple[bytes, ...]:
    proof: list[bytes] = []
    start, stop = 0, size
    while old < stop:
        middle = _middle(start, stop)
        if old <= middle:
            proof.append(part(middle, stop))
            stop = middle
        else:
            proof.append(part(start, middle))
            start = middle
    if start:  # where the old tree is itself a left subtree, the verifier already holds its root
        proof.append(part(start, stop))
    return tuple(reversed(proof))


class Tree:
    """A tree that grows, with all its perfect subtrees at hand: a proof costs about ``log2(size)`` hashes.

    It takes 64 bytes a leaf. Leaves are only ever added, so proofs may be made while others add some.

    Args:
        leaves: the first leaf hashes, in order.
    """

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._levels = [bytearray()]  # roots of perfect subtrees of 1, 2, 4 … leaves, end to end
        for leaf in leaves:
            self.append(leaf)

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._levels[0]) // _HASH

    def append(self, leaf: bytes) -> None:
        """Adds a leaf hash at the right."""
        self._levels[0] += leaf
        below, count = 0, self.size
        while not count & 1:
            if below + 1 == len(self._levels):
                self._levels.append(bytearray())
            self._levels[below + 1] += node_hash(self._node(below, count - 2), self._node(below, count - 1))
            below, count = below + 1, count >> 1

    def root(self, size: int) -> bytes:
        """Root of the tree over the first ``size`` leaves."""
        return self.part(0, size) if size else EMPTY

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """``inclusion_proof`` of the first ``size`` leaves."""
        if not 0 <= index < size <= self.size:
            raise ValueError("the tree has no such leaf")
        return _inclusion(self.part, index, size)

    def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """``consistency_proof`` of the first ``new`` leaves."""
        if not 0 < old <= new <= self.size:
            raise ValueError("the earlier tree must have a leaf, and no more than the later one")
        return _consistency(self.part, old, new)

    def part(self, start: int, stop: int) -> bytes:
        """Root of the tree over the leaves from a place (inclusive) to another."""
        size = stop - start
        if not size & (size - 1) and not start % size:
            return self._node(size.bit_length() - 1, start // size)
        middle = _middle(start, stop)
        return node_hash(self.part(start, middle), self.part(middle, stop))

    def _node(self, level: int, place: int) -> bytes:
        return bytes(self._levels[level][place * _HASH : (place + 1) * _HASH])


class Outline:
    """A tree that grows, of which the roots of whole blocks are at hand and the newest leaves.

    It takes less than a byte a leaf, for logs that are kept open for months. A proof that leads into an older
    block asks for the leaf hashes of that block again.

    Args:
        leaves: gives the ``BLOCK`` leaf hashes of a whole block, by its number.
    """

    def __init__(self, leaves: Callable[[int], Sequence[bytes]]) -> None:
        self._leaves = leaves
        self._blocks, self._newest = Tree(), list[bytes]()

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._blocks.size * BLOCK + len(self._newest)

    def append(self, leaf: bytes) -> None:
        """Adds a leaf hash at the right."""
        self._newest.append(leaf)
        if len(self._newest) == BLOCK:
            self._blocks.append(root(self._newest))
            self._newest = []

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """``inclusion_proof`` of the first ``size`` leaves; raises as ``consistency``."""
        if not 0 <= index < size <= self.size:
            raise ValueError("the tree has no such leaf")
        return _inclusion(self._root, index, size)

    def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """``consistency_proof`` of the first ``new`` leaves.

        Raises:
            ValueError: there is no such leaf.
            LogError: ``event_altered``, the leaves of a block are others now.
        """
        if not 0 < old <= new <= self.size:
            raise ValueError("the earlier tree must have a leaf, and no more than the later one")
        return _consistency(self._root, old, new)

    def _root(self, start: int, stop: int) -> bytes:
        if stop - start >= BLOCK and not stop % BLOCK:
            return self._blocks.part(start // BLOCK, stop // BLOCK)
        if stop - start < BLOCK:
            block = start // BLOCK
            return root(self._block(block)[start - block * BLOCK : stop - block * BLOCK])
        middle = _middle(start, stop)
        return node_hash(self._root(start, middle), self._root(middle, stop))

    def _block(self, number: int) -> Sequence[bytes]:
        """The leaf hashes of a block."""
        if number == self._blocks.size:
            return self._newest
        found = self._leaves(number)
        if root(found) != self._blocks.part(number, number + 1):
            raise LogError(
                "event_altered",
                "The log was changed while it was in use.",
                "Do not rely on this copy; compare it with another one.",
            )
        return found


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that ``leaf`` stands at ``index`` in the tree of ``size`` leaves with this root.

    Raises:
        LogError: ``proof_invalid``.
    """
    if root_by(leaf, index, size, proof) != root:
        _refuse("An inclusion proof does not lead to the root.")


def root_by(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """The root of the tree of ``size`` leaves that a proof leads to from ``leaf`` at ``index``.

    The steps are those of RFC 9162, section 2.1.3.2. Whether there is such a tree, something else must say: a
    signature of the root, for one.

    Raises:
        LogError: ``proof_invalid``, the proof is not one of such a tree.
    """
    if not 0 <= index < size or not _are_hashes((leaf, *proof)):
        _refuse("An inclusion proof is malformed.")
    node, place, last = leaf, index, size - 1
    for other in proof:
        if last == 0:
            _refuse("An inclusion proof is too long.")
        if place & 1 or place == last:
            node = node_hash(other, node)
            place, last = _climb(place, last)
        else:
            node = node_hash(node, other)
        place, last = place >> 1, last >> 1
    if last != 0:
        _refuse("An inclusion proof does not lead to the root.")
    return node


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree of ``new`` leaves begins with the tree of ``old`` leaves, 0 < old <= new.

    The steps are those of RFC 9162, section 2.1.4.2.

    Raises:
        LogError: ``proof_invalid``.
    """
    if not 0 < old <= new or not _are_hashes(proof) or (old == new) is bool(proof):
        _refuse("A consistency proof is malformed.")
    if old == new and old_root != new_root:
        _refuse("Two trees of the same size have different roots.")
    if old == new:
        return
    path = proof if old & (old - 1) else (old_root, *proof)
    place, last = old - 1, new - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    was = now = path[0]
    for other in path[1:]:
        if last == 0:
            _refuse("A consistency proof is too long.")
        if place & 1 or place == last:
            was, now = node_hash(other, was), node_hash(other, now)
            place, last = _climb(place, last)
        else:
            now = node_hash(now, other)
        place, last = place >> 1, last >> 1
    if last != 0 or was != old_root or now != new_root:
        _refuse("A consistency proof does not lead to both roots.")


def _middle(start: int, stop: int) -> int:
    """Where a tree splits: the left part is the largest power of two below its size."""
    return start + (1 << ((stop - start - 1).bit_length() - 1))


def _climb(place: int, last: int) -> tuple[int, int]:
    """Go up the right border to the level where the node is a right child, or to the root."""
    while place and not place & 1:
        place, last = place >> 1, last >> 1
    return place, last


def _are_hashes(values: Sequence[bytes]) -> bool:
    return all(len(value) == len(EMPTY) for value in values)


def _refuse(what: str) -> NoReturn:
    raise LogError("proof_invalid", what, "Ask the party that keeps the log for a new proof.")
