"""Statements and model card as the libraries of their own formats read them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from huggingface_hub import ModelCard

from tests.reports import evidence

pytestmark = pytest.mark.job

KINDS = ("part", "approval", "model")


def test_every_statement_of_a_bundle_is_one_of_in_toto_in_a_dsse_envelope(stage: Any) -> None:
    """In-toto's and securesystemslib's own code, with the Ed25519 half of the signatures that it knows."""
    pb2 = pytest.importorskip(
        "in_toto_attestation.v1.statement_pb2", reason="in-toto-attestation is not here"
    )
    statement = pytest.importorskip("in_toto_attestation.v1.statement")
    dsse = pytest.importorskip("securesystemslib.dsse")
    signer = pytest.importorskip("securesystemslib.signer")
    errors = pytest.importorskip("securesystemslib.exceptions")
    formats = pytest.importorskip("google.protobuf.json_format")
    bundle = stage.plain.bundle()
    names = [name for name in bundle.files if name.endswith(".dsse.json")] + ["MANIFEST.json"]
    parties = {member.name: member for member in stage.plain.job.keys}
    assert len(names) == len(parties) * len(KINDS) + 2  # the lead's report, and the manifest
    for name in names:
        value = json.loads(bundle.files[name])
        writers = {name.removeprefix("attestations/").partition(".")[0]} & parties.keys()
        (writer,) = writers or {"lead"}
        keyids = [mark["keyid"] for mark in value["signatures"] if mark["keyid"].endswith("#ed25519")]
        public = parties[writer].ed25519
        found = dsse.Envelope.from_dict(value)
        keys = [
            signer.SSlibKey(keyid, "ed25519", "ed25519", {"public": public.hex()}) for keyid in keyids[:1]
        ]
        assert len(found.verify(keys, 1)) == 1, name
        read = formats.Parse(found.payload, pb2.Statement())
        statement.Statement.copy_from_pb(read).validate()
        flipped = dsse.Envelope(found.payload + b" ", found.payload_type, found.signatures)
        with pytest.raises(errors.VerificationError):
            flipped.verify(keys, 1)


def test_the_model_card_is_one_of_the_hub() -> None:
    from cloister.privacy.evidence.card import card

    read = ModelCard(card(evidence()))
    assert read.data.to_dict()["base_model"]
    assert read.text.strip().startswith("#")
