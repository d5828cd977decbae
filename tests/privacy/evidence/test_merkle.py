"""Known answers of the published RFC 6962 test tree, broken proofs, and the laws of the tree."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.privacy.errors import LogError
from cloister.privacy.evidence import merkle

VECTORS = Path(__file__).parents[2] / "vectors" / "evidence"
KNOWN = json.loads((VECTORS / "merkle.json").read_text())
BROKEN = json.loads((VECTORS / "merkle_broken.json").read_text())

ENTRIES = [bytes.fromhex(entry) for entry in KNOWN["entries"]]
LEAVES = [merkle.leaf_hash(entry) for entry in ENTRIES]
ROOTS = [bytes.fromhex(root) for root in KNOWN["roots"]]

leaves = st.lists(st.binary(max_size=4), min_size=1, max_size=70).map(
    lambda entries: [merkle.leaf_hash(entry) for entry in entries]
)


def proof_of(case):
    return [bytes.fromhex(node) for node in case["proof"]]


@pytest.mark.parametrize("size", range(9))
def test_known_roots(size):
    assert merkle.root(LEAVES[:size]) == ROOTS[size]


@pytest.mark.parametrize("case", KNOWN["inclusion"])
def test_known_inclusion_proofs(case):
    proof = proof_of(case)
    index, size = case["index"], case["size"]
    assert list(merkle.inclusion_proof(LEAVES[:size], index)) == proof
    merkle.verify_inclusion(LEAVES[index], index, size, proof, ROOTS[size])


@pytest.mark.parametrize("case", KNOWN["consistency"])
def test_known_consistency_proofs(case):
    proof = proof_of(case)
    old, new = case["old"], case["new"]
    assert list(merkle.consistency_proof(LEAVES[:new], old)) == proof
    merkle.verify_consistency(old, new, ROOTS[old], ROOTS[new], proof)


@pytest.mark.parametrize("case", BROKEN["inclusion"], ids=lambda case: case["why"])
def test_broken_inclusion_proofs_are_refused(case):
    leaf, root = bytes.fromhex(case["leaf"]), bytes.fromhex(case["root"])
    with pytest.raises(LogError) as refusal:
        merkle.verify_inclusion(leaf, case["index"], case["size"], proof_of(case), root)
    assert refusal.value.id == "proof_invalid"


@pytest.mark.parametrize("case", BROKEN["consistency"], ids=lambda case: case["why"])
def test_broken_consistency_proofs_are_refused(case):
    old_root, new_root = bytes.fromhex(case["old_root"]), bytes.fromhex(case["new_root"])
    with pytest.raises(LogError) as refusal:
        merkle.verify_consistency(case["old"], case["new"], old_root, new_root, proof_of(case))
    assert refusal.value.id == "proof_invalid"


def definition(tree):
    """MTH of RFC 6962, section 2.1, written as the paper has it."""
    if not tree:
        return merkle.EMPTY
    if len(tree) == 1:
        return tree[0]
    k = 1
    while 2 * k < len(tree):
        k *= 2
    return merkle.node_hash(definition(tree[:k]), definition(tree[k:]))


@given(leaves)
def test_the_root_is_that_of_the_definition(tree):
    assert merkle.root(tree) == definition(tree)


@given(leaves)
def test_the_frontier_keeps_one_node_for_each_bit_of_the_size(tree):
    frontier = merkle.Frontier()
    for leaf in tree:
        frontier = frontier.append(leaf)
        assert len(frontier.nodes) == frontier.size.bit_count()
    assert frontier.size == len(tree)


@given(leaves, st.data())
def test_every_leaf_has_a_proof_that_holds_for_it_alone(tree, data):
    index = data.draw(st.integers(0, len(tree) - 1))
    proof, root = merkle.inclusion_proof(tree, index), merkle.root(tree)
    assert len(proof) <= (len(tree) - 1).bit_length()
    merkle.verify_inclusion(tree[index], index, len(tree), proof, root)
    with pytest.raises(LogError):
        merkle.verify_inclusion(merkle.leaf_hash(b"no entry"), index, len(tree), proof, root)


@given(leaves, st.data())
def test_every_beginning_is_consistent_and_no_other_root_is(tree, data):
    old = data.draw(st.integers(1, len(tree)))
    proof, old_root, root = merkle.consistency_proof(tree, old), merkle.root(tree[:old]), merkle.root(tree)
    merkle.verify_consistency(old, len(tree), old_root, root, proof)
    other = merkle.root([*tree[: old - 1], merkle.leaf_hash(b"no entry")])
    with pytest.raises(LogError):
        merkle.verify_consistency(old, len(tree), other, root, proof)


@given(leaves, st.data())
def test_a_flipped_bit_anywhere_in_a_proof_is_found(tree, data):
    index = data.draw(st.integers(0, len(tree) - 1))
    proof = list(merkle.inclusion_proof(tree, index))
    if not proof:
        return
    place, bit = data.draw(st.integers(0, len(proof) - 1)), data.draw(st.integers(0, 255))
    node = int.from_bytes(proof[place]) ^ (1 << bit)
    proof[place] = node.to_bytes(32)
    with pytest.raises(LogError):
        merkle.verify_inclusion(tree[index], index, len(tree), proof, merkle.root(tree))


@pytest.mark.parametrize("index", [-1, 3])
def test_no_inclusion_proof_for_a_leaf_that_is_not_there(index):
    with pytest.raises(ValueError, match="no such leaf"):
        merkle.inclusion_proof(LEAVES[:3], index)


@pytest.mark.parametrize("old", [0, 4])
def test_no_consistency_proof_for_a_tree_that_is_not_a_beginning(old):
    with pytest.raises(ValueError, match="earlier tree"):
        merkle.consistency_proof(LEAVES[:3], old)


@given(leaves, st.data())
def test_a_whole_tree_gives_the_proofs_of_every_beginning(entries, data):
    tree = merkle.Tree(entries)
    size = data.draw(st.integers(1, len(entries)))
    old, index = data.draw(st.integers(1, size)), data.draw(st.integers(0, size - 1))
    assert tree.root(size) == merkle.root(entries[:size])
    assert tree.inclusion(index, size) == merkle.inclusion_proof(entries[:size], index)
    assert tree.consistency(old, size) == merkle.consistency_proof(entries[:size], old)


def test_a_whole_tree_refuses_what_is_not_in_it():
    tree = merkle.Tree(LEAVES)
    assert tree.root(0) == merkle.EMPTY
    for wrong in (
        lambda: tree.inclusion(3, 3),
        lambda: tree.inclusion(0, 99),
        lambda: tree.consistency(0, 3),
    ):
        with pytest.raises(ValueError):
            wrong()


@given(leaves, st.data())
def test_an_outline_gives_the_same_proofs_with_the_leaves_of_old_blocks_read_again(entries, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merkle, "BLOCK", 4)
        tree = merkle.Outline(lambda block: entries[4 * block : 4 * block + 4])
        for leaf in entries:
            tree.append(leaf)
        size = data.draw(st.integers(1, len(entries)))
        old, index = data.draw(st.integers(1, size)), data.draw(st.integers(0, size - 1))
        assert tree.size == len(entries)
        assert tree.inclusion(index, size) == merkle.inclusion_proof(entries[:size], index)
        assert tree.consistency(old, size) == merkle.consistency_proof(entries[:size], old)


def test_an_outline_refuses_what_is_not_in_it_and_leaves_that_have_changed():
    read = [merkle.leaf_hash(bytes([number % 256])) for number in range(merkle.BLOCK)]
    tree = merkle.Outline(lambda _: read)
    for leaf in (*read, *LEAVES):
        tree.append(leaf)
    for wrong in (
        lambda: tree.inclusion(tree.size, tree.size),
        lambda: tree.inclusion(0, tree.size + 1),
        lambda: tree.consistency(0, 3),
    ):
        with pytest.raises(ValueError):
            wrong()
    assert tree.inclusion(7, tree.size) == merkle.inclusion_proof([*read, *LEAVES], 7)
    read[200] = merkle.leaf_hash(b"another")
    with pytest.raises(LogError) as refusal:
        tree.inclusion(7, tree.size)
    assert refusal.value.id == "event_altered"
