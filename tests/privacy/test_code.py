"""The digest of the installed code, against a count by hand and against every kind of change."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from cloister.privacy import canonical, code

ROOT = Path(__file__).parents[2]
SOURCES = {
    "privacy/__init__.py": "",
    "privacy/deep/plan.py": "x = 1",
    "privacy/wire.proto": "message A {}",
    "client/__init__.py": "",
    "client/page.html": "<p>",
    "client/wire_pb2.pyi": "class A: ...",
}


def write(root: Path, sources: dict[str, str]) -> Path:
    for name, text in sources.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def digest(monkeypatch: pytest.MonkeyPatch, root: Path) -> str:
    """The digest as it would be if the package were installed in ``root``."""

    def find_spec(name: str) -> ModuleSpec | None:
        place = root / name.removeprefix("cloister.") / "__init__.py"
        return ModuleSpec(name, None, origin=str(place)) if place.exists() else None

    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", find_spec)
        return code.installed.__wrapped__()


def test_this_installation_has_the_digest_of_its_sources() -> None:
    entries = {}
    for part in ("privacy", "client", "server", "simulations"):
        for path in (ROOT / part).rglob("*.*"):
            if path.suffix in (".py", ".pyi", ".proto", ".html") and "__pycache__" not in path.parts:
                sha = hashlib.sha256(path.read_bytes()).hexdigest()
                entries[path.relative_to(ROOT).as_posix()] = f"sha256:{sha}"
    text = json.dumps(entries, sort_keys=True, separators=(",", ":"))
    assert code.installed.__wrapped__() == "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def test_a_known_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, SOURCES)
    known = canonical.digest_of({name: canonical.digest(text.encode()) for name, text in SOURCES.items()})
    assert digest(monkeypatch, tmp_path) == known


def test_the_place_and_what_python_leaves_there_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest(monkeypatch, write(tmp_path / "a", SOURCES))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    write(
        tmp_path / "b", {"privacy/__pycache__/plan.py": "x", "privacy/plan.pyc": "x", "privacy/py.typed": ""}
    )
    write(tmp_path / "b", {"server/not_a_part.py": "x"})  # a folder without __init__ is no part
    assert digest(monkeypatch, tmp_path / "b") == before


@pytest.mark.parametrize(
    "change",
    [
        {"privacy/deep/plan.py": "x = 2"},
        {"privacy/deep/plan.py": "x = 1\n"},
        {"privacy/wire.proto": "message B {}"},
        {"client/page.html": "<b>"},
        {"client/wire_pb2.pyi": ""},
        {"client/more.py": ""},
        {"server/__init__.py": ""},
    ],
    ids=str,
)
def test_every_change_of_a_source_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str]
) -> None:
    before = digest(monkeypatch, write(tmp_path, SOURCES))
    assert digest(monkeypatch, write(tmp_path, change)) != before


def test_a_name_counts_as_its_text_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(monkeypatch, write(tmp_path, SOURCES))
    (tmp_path / "privacy" / "deep").rename(tmp_path / "privacy" / "other")
    assert digest(monkeypatch, tmp_path) != before


def test_it_is_counted_once() -> None:
    assert code.installed() is code.installed()
