"""What the envelopes of a round hold: exact bytes, exact sizes, and nothing that is not agreed."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.privacy import canonical
from cloister.privacy.channel import stream
from cloister.privacy.errors import ChannelError, CloisterError, UpdateError, areas
from cloister.privacy.identity import PrivateIdentity
from cloister.privacy.wire import messages
from cloister.privacy.wire.envelope import Header, seal
from cloister.privacy.wire.messages import Task

DIGEST = canonical.digest(b"an envelope")
MODEL = np.array([1.0, -2.5, 0.0], dtype=np.float32)
FLOATS = struct.pack("<3f", 1.0, -2.5, 0.0)


@pytest.mark.parametrize(("acknowledged", "field"), [("", b" " * 71), (DIGEST, DIGEST.encode())])
def test_the_bytes_of_a_task(acknowledged: str, field: bytes) -> None:
    made = Task(MODEL, acknowledged)
    assert made.to_bytes() == field + FLOATS
    read = Task.from_bytes(made.to_bytes(), 3)
    assert read.acknowledged == acknowledged
    assert read.model.dtype == np.float32
    assert read.model.tobytes() == MODEL.tobytes()


SITES = ("north", "south", "west")


def test_the_bytes_of_a_joint_task() -> None:
    taken = messages.Taken(np.array([1, 2**32 - 1, 7], dtype=np.uint32), ("north", "west"))
    content = Task(MODEL, DIGEST, taken).to_bytes()
    assert content == DIGEST.encode() + FLOATS + struct.pack("<3I", 1, 2**32 - 1, 7) + b'["north","west"]'
    read = Task.from_bytes(content, 3, SITES)
    assert read.taken is not None
    assert (read.taken.words.tolist(), read.taken.survivors) == ([1, 2**32 - 1, 7], ("north", "west"))
    assert Task.from_bytes(Task(MODEL).to_bytes(), 3, SITES).taken is None


@pytest.mark.parametrize(
    ("tail", "id"),
    [
        (b'["west","north"]', "envelope_malformed"),
        (b'["north","north"]', "envelope_malformed"),
        (b'["nobody"]', "envelope_malformed"),
        (b"[]", "envelope_malformed"),
        (b'{"north":1}', "envelope_malformed"),
        (b'["north", "west"]', "envelope_malformed"),
        (b"", "update_shape"),
    ],
)
def test_a_step_over_other_sites_than_the_plan_s_is_refused(tail: bytes, id: str) -> None:
    content = b" " * 71 + FLOATS + bytes(12) + tail
    with pytest.raises(CloisterError) as caught:
        Task.from_bytes(content, 3, SITES)
    assert caught.value.id == id
    with pytest.raises(UpdateError):  # where no steps are taken together, a task holds none
        Task.from_bytes(content, 3)


MEMORY = (np.array([0.5, 0.0, -1.0], dtype=np.float32), np.array([4.0, 0.25, 1.0], dtype=np.float32))
REMEMBERED = struct.pack("<6f", 0.5, 0.0, -1.0, 4.0, 0.25, 1.0)


def test_what_an_optimizer_remembers_stands_behind_the_model() -> None:
    taken = messages.Taken(np.array([1, 2, 7], dtype=np.uint32), SITES)
    content = Task(MODEL, DIGEST, taken, MEMORY).to_bytes()
    words = struct.pack("<3I", 1, 2, 7)
    assert content == DIGEST.encode() + FLOATS + REMEMBERED + words + b'["north","south","west"]'
    read = Task.from_bytes(content, 3, SITES, remembered=2)
    assert read.model.tobytes() == MODEL.tobytes()
    assert np.array_equal(read.memory, MEMORY)
    assert read.taken is not None
    assert read.taken.words.tolist() == [1, 2, 7]
    after_a_lost_round = Task.from_bytes(Task(MODEL, "", None, MEMORY).to_bytes(), 3, SITES, remembered=2)
    assert after_a_lost_round.taken is None
    assert np.array_equal(after_a_lost_round.memory, MEMORY)
    before_the_first_step = Task.from_bytes(Task(MODEL).to_bytes(), 3, SITES, remembered=2)
    assert (before_the_first_step.memory, before_the_first_step.taken) == ((), None)


@pytest.mark.parametrize("size", [1, 4, 12, 20, 23, 25, 24 + 11, 24 + 12])
def test_a_memory_of_another_size_is_refused(size: int) -> None:
    content = b" " * 71 + FLOATS + (REMEMBERED + bytes(12))[:size]
    with pytest.raises(UpdateError) as caught:
        Task.from_bytes(content, 3, SITES, remembered=2)
    assert caught.value.id == "update_shape"


@pytest.mark.parametrize("place", range(6))
def test_a_memory_that_is_not_finite_is_refused(place: int) -> None:
    memory = np.concatenate(MEMORY)
    memory[place] = np.inf
    with pytest.raises(UpdateError) as caught:
        Task.from_bytes(Task(MODEL, "", None, (memory,)).to_bytes(), 3, SITES, remembered=2)
    assert caught.value.id == "update_not_finite"


def test_a_task_is_the_callers_own() -> None:
    content = bytearray(Task(MODEL).to_bytes())
    read = Task.from_bytes(content, 3)
    content[:] = bytes(len(content))
    read.model[0] += 1  # neither read-only nor a view of what arrived
    assert read.model.tolist() == [2.0, -2.5, 0.0]


def test_the_digest_of_a_model_is_of_its_little_endian_bytes() -> None:
    assert messages.model_digest(MODEL) == "sha256:" + hashlib.sha256(FLOATS).hexdigest()
    assert messages.model_digest(MODEL.astype(">f4")) == messages.model_digest(MODEL)
    assert messages.model_digest(-MODEL) != messages.model_digest(MODEL)


@pytest.mark.parametrize("parameters", [0, 2, 4, 2**31])
def test_a_model_of_another_size_is_refused(parameters: int) -> None:
    with pytest.raises(UpdateError) as caught:
        Task.from_bytes(Task(MODEL).to_bytes(), parameters)
    assert caught.value.id == "update_shape"


@pytest.mark.parametrize("change", [-1, 1, 4, -4])
def test_a_cut_or_longer_task_is_refused(change: int) -> None:
    content = (Task(MODEL).to_bytes() + bytes(8))[: 71 + 12 + change]
    with pytest.raises(UpdateError) as caught:
        Task.from_bytes(content, 3)
    assert caught.value.id == "update_shape"


@pytest.mark.parametrize("bits", [0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFFFFFFF], ids=hex)
def test_a_model_that_is_not_finite_is_refused(bits: int) -> None:
    with pytest.raises(UpdateError) as caught:
        Task.from_bytes(b" " * 71 + FLOATS[:8] + struct.pack("<I", bits), 3)
    assert caught.value.id == "update_not_finite"


@pytest.mark.parametrize(
    "field",
    [
        b"\0" * 71,
        b"\n" * 71,
        b" " * 70 + b"\t",
        DIGEST.upper().encode(),
        DIGEST[:-1].encode() + b" ",
        b" " + DIGEST[:-1].encode(),
        b"\xff" * 71,
        b"sha512:" + b"0" * 64,
    ],
    ids=lambda field: repr(field)[:16],
)
def test_an_acknowledgement_is_a_digest_or_71_spaces(field: bytes) -> None:
    with pytest.raises(ChannelError) as caught:
        Task.from_bytes(field + FLOATS, 3)
    assert caught.value.id == "envelope_malformed"


@given(st.binary(max_size=100), st.integers(0, 4))
def test_arbitrary_bytes_are_a_task_or_a_typed_error(content: bytes, parameters: int) -> None:
    try:
        task = Task.from_bytes(content, parameters)
    except CloisterError:
        return
    assert task.to_bytes() == content


# Refusals


def test_a_refusal_is_an_id_and_nothing_else() -> None:
    assert messages.refusal("budget_exceeded") == b'{"reason":"budget_exceeded"}'
    assert messages.refusal_reason(bytearray(b'{"reason":"budget_exceeded"}')) == "budget_exceeded"


@pytest.mark.parametrize(
    "content",
    [
        b'{"reason":"the patient in row 7"}',
        b'{"reason":""}',
        b'{"reason":7}',
        b'{"reason":null}',
        b'{"reason":["budget_exceeded"]}',
        b'{"text":"budget_exceeded"}',
        b"{}",
        b"[]",
        b"null",
        b'"budget_exceeded"',
    ],
)
def test_what_a_site_says_beyond_known_ids_does_not_get_through(content: bytes) -> None:
    assert messages.refusal_reason(content) == "internal"


@pytest.mark.parametrize("content", [b"", b"{", b'{"reason": "deadline"}', b"\xff", b"[" * 5000])
def test_a_refusal_that_is_not_canonical_is_refused(content: bytes) -> None:
    with pytest.raises(ChannelError) as caught:
        messages.refusal_reason(content)
    assert caught.value.id == "envelope_malformed"


@given(st.binary(max_size=60))
def test_arbitrary_refusals_give_a_known_id_or_a_typed_error(content: bytes) -> None:
    try:
        reason = messages.refusal_reason(content)
    except ChannelError:
        return
    assert messages.known(reason)


@pytest.mark.parametrize("reason", [reason for area in areas() for reason in area.REASONS])
def test_every_declared_id_is_known_and_travels(reason: str) -> None:
    assert messages.known(reason)
    assert messages.refusal_reason(messages.refusal(reason)) == reason


@pytest.mark.parametrize("reason", ["", "Deadline", "deadline ", "no_such_reason", "RoundError", "__init__"])
def test_anything_else_is_not_known(reason: str) -> None:
    assert not messages.known(reason)


# Sizes

LARGEST = Header(
    kind="refusal",
    consortium="c" * 40,
    plan=DIGEST,
    round=10_000,
    step=100_000,
    attempt=2**31,
    sender="s" * 40,
    recipient="r" * 40,
    model=DIGEST,
)


@pytest.mark.parametrize("parameters", [1, 1000, stream.CHUNK // 4, stream.CHUNK // 4 + 1])
def test_no_envelope_of_a_plan_is_larger_than_its_limit(parameters: int) -> None:
    sender, recipient = (PrivateIdentity.generate(name * 40, "site") for name in "sr")
    content = Task(np.zeros(parameters, dtype=np.float32)).to_bytes()
    size = len(seal(LARGEST, content, sender, recipient.public))
    assert size < messages.largest(parameters) < size + (64 << 10)


def test_the_limit_grows_with_the_tags_of_a_large_content() -> None:
    parameters = 2**31
    assert messages.largest(parameters) > stream.sealed_size(4 * parameters) + 8000
