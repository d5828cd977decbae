"""Presidio as a detector, and that it asks nothing of a network."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from cloister.client.site.identifiers import presidio
from cloister.client.site.identifiers.findings import KINDS
from cloister.privacy.errors import InputError

THERE = all(importlib.util.find_spec(name) for name in ("presidio_analyzer", "spacy", "tldextract"))
needed = pytest.mark.skipif(not THERE, reason="the extra presidio is not installed")

PROBE = """
import socket
def refused(*_, **__):
    raise SystemExit("something asked for the network")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refused
from cloister.client.site.identifiers import presidio
from cloister.client.site.identifiers.detection import Scanner
scanner = Scanner(others=(presidio.detector(),))
text = "Mail ada@example.org, card 4111 1111 1111 1111, from 0117 496 0123; wallet 1 of 2."
print(scanner.mask(text))
assert scanner.mask(scanner.mask(text)) == scanner.mask(text)
print(sorted({one.kind for one in presidio.detector()(text)}))
"""


def test_kinds_are_ours():
    assert set(presidio.KINDS.values()) <= set(KINDS)


@pytest.mark.skipif(THERE, reason="the extra presidio is installed")
def test_without_the_extra_it_is_refused():
    with pytest.raises(InputError) as refusal:
        presidio.detector()
    assert refusal.value.id == "extra_missing"


@needed
@pytest.mark.slow
def test_it_finds_without_any_network(tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path), "TLDEXTRACT_CACHE": str(tmp_path / "tld")}
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    masked, kinds = done.stdout.splitlines()
    assert "[EMAIL]" in masked
    assert "[CARD]" in masked
    assert "email" in kinds
    assert not (tmp_path / "tld").exists()


@needed
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_model_that_is_not_there_is_refused(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError) as refusal:
            presidio.detector(path)
        assert refusal.value.id == "file_missing"
