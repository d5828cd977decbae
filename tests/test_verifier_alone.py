"""The verifier as a distribution of its own: same tree, no torch, no Flower, only the pinned packages."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cloister.simulations.bench.staged import staged

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements-verify.lock"


def described(path: str) -> dict[str, object]:
    return dict(tomllib.loads((ROOT / path / "pyproject.toml").read_text()))


def test_it_holds_the_contract_without_its_torch_side() -> None:
    """Whatever of ``privacy`` the verifier leaves out is left out by name here."""
    whole, alone = (described(path)["tool"]["setuptools"]["packages"] for path in (".", "packaging/verify"))  # type: ignore[index]
    contract = {name for name in whole if name.startswith("cloister.privacy")}
    assert contract - set(alone) == {"cloister.privacy.step"}
    assert set(alone) < contract


def test_it_is_of_the_same_release_and_needs_nothing_that_is_not_pinned() -> None:
    whole, alone = (described(path)["project"] for path in (".", "packaging/verify"))
    assert whole["version"] == alone["version"]  # type: ignore[index]
    pinned = set(re.findall(r"^([a-z0-9_.-]+)==", LOCK.read_text(), re.MULTILINE))
    needed = {re.split("[<>=]", line)[0] for line in alone["dependencies"]}  # type: ignore[index]
    assert needed <= pinned
    assert set(alone["dependencies"]) <= set(whole["dependencies"]) | {"pycryptodome>=3.24"}  # type: ignore[index]


def python(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [place / "bin" / "python", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=place,
        env={"HOME": str(place)},
    )


@pytest.mark.slow
def test_a_fresh_environment_verifies_a_bundle_with_it(tmp_path: Path) -> None:
    """Needs a package index, for the pinned packages."""
    source = tmp_path / "source"
    for folder in ("packaging", "privacy"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path]
    subprocess.run([*build, source / "packaging" / "verify"], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("cloister_verify-*.whl")
    place = tmp_path / "fresh"
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    got = python(place, "-m", "pip", "install", "-q", "--require-hashes", "--no-deps", "-r", str(LOCK))
    if got.returncode and "No matching distribution" in got.stderr:
        pytest.skip("no package index is reachable")
    assert got.returncode == 0, got.stderr
    assert python(place, "-m", "pip", "install", "-q", "--no-deps", str(wheel)).returncode == 0
    assert python(place, "-m", "pip", "check").returncode == 0
    job = staged(tmp_path / "job")
    job.contents().bundle(job.lead, *job.sites.values()).write(tmp_path / "bundle")
    absent = (
        "import importlib.util as u; assert not any(map(u.find_spec, ('torch', 'flwr', 'grpc', 'opacus')))"
    )
    assert python(place, "-c", absent).returncode == 0
    said = python(place, "-m", "cloister.privacy.cli", "verify", str(tmp_path / "bundle"))
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines()[-1].startswith("verified: ")
    assert python(place, "-m", "cloister.privacy.cli", "--version").stdout.startswith("cloister 0.")
