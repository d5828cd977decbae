"""What a process says of its software: versions in a form that holds nothing else, and one digest of all."""

from __future__ import annotations

import importlib.metadata
import platform

import pytest

from cloister.privacy import canonical, code, software
from cloister.privacy.evidence.events import check
from cloister.privacy.evidence.vocabulary import LIBRARIES

JOB = canonical.digest(b"job")


def test_it_is_what_is_installed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(software.IMAGE, raising=False)
    found = software.running()
    assert found.python == platform.python_version()
    assert found.code == code.installed()
    assert [*found.versions] == [*LIBRARIES]
    assert found.versions["numpy"] == importlib.metadata.version("numpy")
    assert found.versions["dp-accounting"] == importlib.metadata.version("dp-accounting")
    assert found.image is None
    check("software.recorded", JOB, None, found.fields())


def test_the_digest_is_over_names_and_versions_of_everything() -> None:
    there = {
        one.name.lower().replace("_", "-").replace(".", "-"): one.version
        for one in reversed([*importlib.metadata.distributions()])
    }
    assert software.running().installed == canonical.digest_of(there)


def test_a_name_counts_as_an_index_compares_it_and_once() -> None:
    found = [("Ruamel.Yaml_clib", "1"), (None, "2"), ("b", None), ("ruamel-yaml-clib", "3")]
    assert software.distributions(found) == {"ruamel-yaml-clib": "1"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2.13.0+cpu", "2.13.0+cpu"),
        ("2.13.0+north.clinic.example", "2.13.0+other"),
        ("2.13.0a0+git1f2e3d", "2.13.0a0+other"),
        ("v2", ""),
        ("2 of Dr Grey", ""),
    ],
)
def test_a_version_says_nothing_but_a_version(text: str, said: str) -> None:
    assert software.version(text) == said


def test_an_image_is_a_digest_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, said in ((JOB, JOB), ("cloister:latest", None), ("", None), (JOB.upper(), None)):
        monkeypatch.setenv(software.IMAGE, text)
        assert software.running().image == said
        assert ("image" in software.running().fields()) is (said is not None)


def test_what_is_not_there_has_no_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "_there", lambda: {"numpy": "2.4.6", "torch": "nightly"})
    assert software.running().versions == {"numpy": "2.4.6"}
    check("software.recorded", JOB, None, software.running().fields())
