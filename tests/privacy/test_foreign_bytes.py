"""Whatever another party sends is read or refused by an id: arbitrary bytes, damaged messages, other JSON.

``PARSERS`` lists every function that reads what another party sends, with one whole message of each. A parser
that is not in it fails the last test.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cloister.privacy.wire as wire_package
from cloister.privacy import authority, canonical, consent, identity, plan
from cloister.privacy.authority import Authority, PublicAuthority
from cloister.privacy.channel import certificates
from cloister.privacy.clauses import Rows
from cloister.privacy.consent import Decision, Offer, Withdrawal
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.errors import CloisterError
from cloister.privacy.evidence import heads, witnessing
from cloister.privacy.evidence.events import Event
from cloister.privacy.evidence.heads import SignedHead
from cloister.privacy.identity import PrivateIdentity, PublicIdentity, Roster
from cloister.privacy.plan import Plan
from cloister.privacy.secagg.rounds import Masked, Opening
from cloister.privacy.wire import bundle, envelope, joining, messages, portions, sums
from cloister.privacy.wire.endorsement import Endorsement
from cloister.privacy.wire.joining import Membership, Request
from cloister.privacy.wire.signed import Signed
from cloister.privacy.wire.succession import SUCCESSION_CONTEXT, Handover, Succession
from tests.known import party
from tests.plans import plan_json

LEAD, NORTH = party("lead"), party("north")
DIGEST = canonical.digest(b"something")
ROSTER = Roster("hospitals", (LEAD.public, NORTH.public))
STATEMENT = Signed.make(b'{"a":1}', NORTH, "cloister/test/1")
REQUEST = Request(
    consortium="hospitals",
    invite="0" * 32,
    identity=NORTH.public.to_json(),
    csr=certificates.signing_request(certificates.new_tls_key(), "north").decode(),
)
NEW = PrivateIdentity.generate("north", "site")
HANDOVER = Handover.make(
    Succession(
        consortium="hospitals",
        previous=NORTH.public.digest(),
        identity=NEW.public.to_json(),
        csr=REQUEST.csr,
    ),
    NORTH,
    NEW,
)
AUTHORITY = Authority.generate("ministry")
ENDORSED = Endorsement.make(AUTHORITY, "hospitals", NORTH.public, "2026-01-01", "2026-12-31")
ORIGIN = heads.origin_of(LEAD.public)
MEMBERSHIP = Membership(
    request=canonical.digest(REQUEST.signed(NORTH).content),
    certificate="-----BEGIN CERTIFICATE-----",
    roster=joining.sign_roster(ROSTER, LEAD).to_json(),
)
HEADER = envelope.Header(
    kind="task",
    consortium="hospitals",
    plan=DIGEST,
    round=1,
    step=0,
    attempt=1,
    sender="lead",
    recipient="north",
    model=DIGEST,
)
MASKED = Masked(
    np.arange(5, dtype=np.uint32), DIGEST, {"north": b"\x01", "south": b"\x02"}, {"north": DIGEST}
)

EVENT = Event(
    writer="lead",
    seq=3,
    ts="2026-01-01T00:00:00.000Z",
    type="round.closed",
    job=DIGEST,
    round=1,
    body={"model": DIGEST, "accepted": ["north"], "refused": [], "lost": []},
    prev=DIGEST,
)


@dataclass(frozen=True)
class Parser:
    """A function that reads foreign bytes, and one message that it takes."""

    read: Callable[[bytes], object]
    whole: bytes


def of_json(read: Callable[[Any], object], value: Any) -> Parser:
    """A parser of a value that came as canonical JSON."""
    return Parser(lambda data: read(canonical.decode(data)), canonical.encode(value))


def _signed_by_sender(content: bytes) -> Signed:
    """Statements of a member that is free in what it signs."""
    return Signed.make(content, LEAD, joining.MEMBERSHIP_CONTEXT)


PARSERS: dict[str, Parser] = {
    "canonical.decode": Parser(canonical.decode, b'{"a":[1,2.5,null,"x"]}'),
    "Plan.from_bytes": Parser(Plan.from_bytes, canonical.encode(plan_json())),
    "Offer.from_bytes": Parser(
        Offer.from_bytes,
        Offer(site="north", dataset="notes", code=DIGEST, rows=Rows(low=64, high=127)).to_bytes(),
    ),
    "Decision.from_bytes": Parser(
        Decision.from_bytes, Decision(site="north", plan=DIGEST, approve=True).to_bytes()
    ),
    "Withdrawal.from_bytes": Parser(Withdrawal.from_bytes, Withdrawal(site="north", plan=DIGEST).to_bytes()),
    "Said.from_bytes": Parser(
        witnessing.Said.from_bytes,
        witnessing.Said(head="a note", proofs={"7": ("0" * 64,)}, held={ORIGIN: 3}).to_bytes(),
    ),
    "Answered.from_bytes": Parser(
        witnessing.Answered.from_bytes,
        witnessing.Answered(held=(7,), own="a note", heads=(witnessing.Shown(note="a note"),)).to_bytes(),
    ),
    "_Said.from_bytes": Parser(portions.Wish.from_bytes, portions.Wish(job=DIGEST, asked=3).to_bytes()),
    "Word.from_bytes": Parser(
        portions.Word.from_bytes, portions.Word(job=DIGEST, bundle=DIGEST, refused="internal").to_bytes()
    ),
    "Handover.from_bytes": Parser(Handover.from_bytes, HANDOVER.to_bytes()),
    "Handover.from_json": of_json(Handover.from_json, HANDOVER.to_json()),
    "Handover.opened": Parser(
        lambda data: Handover(
            Signed.make(data, NORTH, SUCCESSION_CONTEXT), Signed.make(data, NEW, SUCCESSION_CONTEXT)
        ).opened(NORTH.public, "hospitals"),
        HANDOVER.old.content,
    ),
    "Endorsement.from_bytes": Parser(Endorsement.from_bytes, ENDORSED.to_bytes()),
    "PublicAuthority.from_json": of_json(PublicAuthority.from_json, AUTHORITY.public.to_json()),
    "PublicIdentity.from_json": of_json(PublicIdentity.from_json, NORTH.public.to_json()),
    "Roster.from_json": of_json(Roster.from_json, ROSTER.to_json()),
    "Signed.from_json": of_json(Signed.from_json, STATEMENT.to_json()),
    "open_roster": Parser(
        lambda data: joining.open_roster(
            Signed.make(data, LEAD, joining.ROSTER_CONTEXT), LEAD.public, "hospitals"
        ),
        canonical.encode(ROSTER.to_json()),
    ),
    "Invite.from_bytes": Parser(
        joining.Invite.from_bytes,
        joining.Invite(
            id="0" * 32,
            site="north",
            consortium="hospitals",
            lead=LEAD.public.to_json(),
            service="localhost:8441",
            fleet="localhost:8440",
            authority="-----BEGIN A",
            certificate="-----BEGIN B",
            key="-----BEGIN C",
            not_after="2026-12-31T00:00:00Z",
        ).to_bytes(),
    ),
    "Request.opened": Parser(
        lambda data: Request.opened(Signed.make(data, NORTH, joining.REQUEST_CONTEXT)),
        REQUEST.signed(NORTH).content,
    ),
    "Membership.opened": Parser(
        lambda data: Membership.opened(_signed_by_sender(data), LEAD.public, REQUEST.signed(NORTH)),
        MEMBERSHIP.signed(LEAD).content,
    ),
    "peek": Parser(
        lambda data: envelope.peek(data, 1 << 20), envelope.seal(HEADER, b"content", LEAD, NORTH.public)
    ),
    "open_envelope": Parser(
        lambda data: (
            envelope.open_envelope(
                data, expected=HEADER, recipient=NORTH, sender=LEAD.public, limit=1 << 20
            ).content
        ),
        envelope.seal(HEADER, b"content", LEAD, NORTH.public),
    ),
    "open_envelope of several": Parser(
        lambda data: (
            envelope.open_envelope(
                data, expected=HEADER, recipient=NORTH, sender=LEAD.public, limit=1 << 20
            ).content
        ),
        envelope.seal_together([envelope.Letter(HEADER, b"content", NORTH.public)] * 3, LEAD)[2],
    ),
    "Task.from_bytes": Parser(
        lambda data: messages.Task.from_bytes(data, 5, ["north", "south"], remembered=2),
        messages.Task(
            np.zeros(5, dtype=np.float32),
            DIGEST,
            messages.Taken(np.zeros(5, dtype=np.uint32), ("north", "south")),
            (np.ones(5, dtype=np.float32), np.ones(5, dtype=np.float32)),
        ).to_bytes(),
    ),
    "refusal_reason": Parser(messages.refusal_reason, messages.refusal("model_fell")),
    "signed_from_bytes": Parser(sums.signed_from_bytes, sums.signed_to_bytes(STATEMENT)),
    "signatures_from_bytes": Parser(
        sums.signatures_from_bytes, sums.signatures_to_bytes({"north": STATEMENT})
    ),
    "masked_from_bytes": Parser(
        lambda data: sums.masked_from_bytes(data, 5, 13), sums.masked_to_bytes(MASKED, 13)
    ),
    "confirmations_from_bytes": Parser(
        sums.confirmations_from_bytes, sums.confirmations_to_bytes({"north": DIGEST})
    ),
    "survivors_from_bytes": Parser(sums.survivors_from_bytes, sums.survivors_to_bytes(("north", "west"))),
    "open_from_bytes": Parser(sums.open_from_bytes, sums.open_to_bytes(("north",), {"north": STATEMENT})),
    "opening_from_bytes": Parser(
        sums.opening_from_bytes, sums.opening_to_bytes(Opening(b"\x01" * 32, {"west": b"\x02"}))
    ),
    "shares_from_bytes": Parser(sums.shares_from_bytes, sums.shares_to_bytes({"west": b"\x03"})),
    "Event.decode": Parser(Event.decode, EVENT.encode()),
    "SignedHead.parse": Parser(SignedHead.parse, SignedHead.make(7, b"\x05" * 32, NORTH).serialise()),
    "GaussianSteps.from_json": of_json(GaussianSteps.from_json, GaussianSteps(1.5, 0.25, 3).to_json()),
    "check": Parser(lambda data: bundle.check(data, canonical.digest(data)), bundle.build()),
}


def survives(read: Callable[[bytes], object], data: bytes) -> None:
    """Reads it, or refuses it by an id with a line for people; everything else fails the test."""
    with suppress(CloisterError):
        read(data)


@pytest.mark.parametrize("name", PARSERS)
def test_the_whole_message_is_read(name: str) -> None:
    PARSERS[name].read(PARSERS[name].whole)


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.binary(max_size=400))
def test_arbitrary_bytes(name: str, data: bytes) -> None:
    survives(PARSERS[name].read, data)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A message that was cut, altered, lengthened or glued together."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["flip", "cut", "insert", "drop"])):
            case "flip" if data:
                data[place] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[place:]
            case "insert":
                data[place:place] = draw(st.binary(min_size=1, max_size=8))
            case _:
                del data[place : place + draw(st.integers(1, 8))]
    return bytes(data)


@pytest.mark.parametrize("name", PARSERS)
@given(drawn=st.data())
def test_damaged_messages(name: str, drawn: st.DataObject) -> None:
    survives(PARSERS[name].read, drawn.draw(damaged(PARSERS[name].whole)))


ODD: list[Any] = [None, True, 0, -1, 2**53 - 1, 1.5, 1e308, "", "x" * 300, "sha256:", "é\0", [], {}, [[]]]
JSON = [name for name, parser in PARSERS.items() if parser.whole[:1] in (b"{", b"[")]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a JSON value, the whole one first."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [path, *(place for key, one in inner for place in places(one, (*path, key)))]


def put(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    """The value with another one at a path."""
    if not path:
        return other
    key, *rest = path
    if isinstance(value, dict):
        return {**value, key: put(value[key], tuple(rest), other)}
    return [put(one, tuple(rest), other) if place == key else one for place, one in enumerate(value)]


@pytest.mark.parametrize("name", JSON)
@given(drawn=st.data())
def test_json_of_another_shape(name: str, drawn: st.DataObject) -> None:
    """Canonical JSON in which something is of another type, out of range, missing, or one too many."""
    value = canonical.decode(PARSERS[name].whole)
    path = drawn.draw(st.sampled_from(places(value)))
    found = value
    for key in path:
        found = found[key]
    others: list[Any] = list(ODD)
    if isinstance(found, dict):
        others += [{**found, "more": 1}, *({k: v for k, v in found.items() if k != gone} for gone in found)]
    if isinstance(found, list):
        others += [[*found, *found], [*found, None], found[1:]]
    survives(PARSERS[name].read, canonical.encode(put(value, path, drawn.draw(st.sampled_from(others)))))


NAMES = ("from_bytes", "from_json", "opened", "decode", "parse")
FUNCTIONS = ("peek", "open_envelope", "open_roster", "decode", "check", "refusal_reason")


def readers() -> set[str]:
    """Every function of the contract whose name says that it reads bytes or JSON."""
    wire = [f"{wire_package.__name__}.{found.name}" for found in pkgutil.iter_modules(wire_package.__path__)]
    modules = [authority, canonical, consent, identity, plan, heads, witnessing, *map(import_module, wire)]
    found = {"Event.decode"}
    for module in modules:
        own = {k: v for k, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__}
        for name, member in own.items():
            if inspect.isclass(member):
                found |= {f"{name}.{method}" for method in NAMES if method in vars(member)}
            elif name in FUNCTIONS or name.endswith("_from_bytes"):
                found.add("canonical.decode" if name == "decode" else name)
    return found


def test_every_reader_of_foreign_bytes_is_here() -> None:
    """The line of a signature is read by ``SignedHead.parse`` alone."""
    assert readers() - {"NoteSignature.parse"} <= set(PARSERS)
