"""Offers and decisions: their exact bytes, what is refused, and that one can never pass for another."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.privacy import canonical, consent
from cloister.privacy.clauses import Persons, Rows
from cloister.privacy.consent import Decision, Offer
from cloister.privacy.errors import ChannelError, PlanError
from cloister.privacy.identity import PrivateIdentity
from tests.plans import DIGEST, plan

OFFER = Offer(site="north", dataset="notes", rows=Rows(low=128, high=255), code=DIGEST)
DECISION = Decision(site="north", plan=DIGEST, approve=False, reason="budget_exceeded")
OFFER_BYTES = (
    b'{"code":"%s","dataset":"notes","rows":{"high":255,"low":128},"site":"north"}' % DIGEST.encode()
)
DECISION_BYTES = b'{"approve":false,"plan":"%s","reason":"budget_exceeded","site":"north"}' % DIGEST.encode()
KINDS = {"offer": Offer, "decision": Decision}


def changed(data: bytes, **fields: Any) -> bytes:
    return canonical.encode(canonical.decode(data) | fields)


def without(data: bytes, field: str) -> bytes:
    value = canonical.decode(data)
    del value[field]
    return canonical.encode(value)


def test_the_bytes_that_are_signed() -> None:
    assert OFFER.to_bytes() == OFFER_BYTES
    assert DECISION.to_bytes() == DECISION_BYTES
    assert Offer.from_bytes(OFFER_BYTES) == OFFER
    assert Decision.from_bytes(DECISION_BYTES) == DECISION


def test_the_bytes_of_an_offer_at_person_level() -> None:
    offer = OFFER.model_copy(update={"persons": Persons(low=64, high=127, most_rows=8)})
    persons = b'"persons":{"high":127,"low":64,"most_rows":8},"rows"'
    assert offer.to_bytes() == OFFER_BYTES.replace(b'"rows"', persons)
    assert Offer.from_bytes(offer.to_bytes()) == offer
    assert (offer.unit, OFFER.unit) == ("person", "record")


def test_an_approval_names_its_plan_by_digest() -> None:
    agreed, other = plan(), plan(nonce="1" * 32)
    made = consent.approval(agreed, "north")
    assert made == Decision(site="north", plan=agreed.digest, approve=True)
    assert made.reason == ""
    assert Decision.from_bytes(made.to_bytes()) == made
    assert made.plan != other.digest


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("offer", changed(OFFER_BYTES, site="North")),
        ("offer", changed(OFFER_BYTES, site="north\n")),
        ("offer", changed(OFFER_BYTES, site="n" * 41)),
        ("offer", changed(OFFER_BYTES, dataset="../notes")),
        ("offer", changed(OFFER_BYTES, rows=200)),
        ("offer", changed(OFFER_BYTES, rows={"low": 0, "high": 1})),
        ("offer", changed(OFFER_BYTES, rows={"low": 128})),
        ("offer", changed(OFFER_BYTES, rows={"low": 128, "high": 255, "exact": 200})),
        ("offer", changed(OFFER_BYTES, rows={"low": "128", "high": 255})),
        ("offer", changed(OFFER_BYTES, rows={"low": True, "high": 255})),
        ("offer", changed(OFFER_BYTES, code="sha256:00")),
        ("offer", changed(OFFER_BYTES, code=None)),
        ("offer", changed(OFFER_BYTES, count=200)),
        ("offer", changed(OFFER_BYTES, persons=None)),
        ("offer", changed(OFFER_BYTES, persons={"low": 64, "high": 127})),
        ("offer", changed(OFFER_BYTES, persons={"low": 64, "high": 127, "most_rows": 0})),
        ("offer", without(OFFER_BYTES, "code")),
        ("offer", DECISION_BYTES),
        ("decision", OFFER_BYTES),
        ("decision", changed(DECISION_BYTES, approve="yes")),
        ("decision", changed(DECISION_BYTES, approve=1)),
        ("decision", changed(DECISION_BYTES, approve=None)),
        ("decision", changed(DECISION_BYTES, plan=DIGEST.upper())),
        ("decision", changed(DECISION_BYTES, plan=DIGEST + "\n")),
        ("decision", changed(DECISION_BYTES, reason="a record of a patient")),
        ("decision", changed(DECISION_BYTES, reason="x" * 41)),
        ("decision", changed(DECISION_BYTES, reason="budget_exceeded\n")),
        ("decision", changed(DECISION_BYTES, note="")),
        ("decision", without(DECISION_BYTES, "approve")),
        ("decision", without(DECISION_BYTES, "site")),
        ("decision", DECISION_BYTES.replace(b":", b": ")),
        ("decision", DECISION_BYTES + b"\n"),
        ("decision", b"[]"),
        ("decision", b"null"),
        ("decision", b""),
        ("offer", b"\xff"),
    ],
)
def test_anything_else_is_refused(kind: str, data: bytes) -> None:
    with pytest.raises(PlanError) as caught:
        KINDS[kind].from_bytes(data)
    assert caught.value.id == "plan_malformed"


@settings(max_examples=100)
@given(st.sampled_from([OFFER_BYTES, DECISION_BYTES]), st.data())
def test_a_changed_byte_is_refused_or_another_value(data: bytes, draw: st.DataObject) -> None:
    at, byte = draw.draw(st.integers(0, len(data) - 1)), draw.draw(st.integers(0, 255))
    altered = data[:at] + bytes([byte]) + data[at + 1 :]
    for kind in KINDS.values():
        try:
            value = kind.from_bytes(altered)
        except PlanError:
            continue
        assert value.to_bytes() == altered


def test_a_signature_for_one_purpose_says_nothing_for_another() -> None:
    party = PrivateIdentity.generate("north", "site")
    contexts = [consent.PLAN_CONTEXT, consent.OFFER_CONTEXT, consent.DECISION_CONTEXT]
    for context in contexts:
        signature = party.sign(OFFER_BYTES, context)
        for other in contexts:
            if other == context:
                party.public.verify(OFFER_BYTES, signature, other)
                continue
            with pytest.raises(ChannelError) as caught:
                party.public.verify(OFFER_BYTES, signature, other)
            assert caught.value.id == "signature_invalid"
