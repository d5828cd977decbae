"""The house: imports run one way, the server never loads torch, the wheel holds every package."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("privacy", "client", "server", "simulations")
MAY_IMPORT = {
    "privacy": {"privacy"},
    "client": {"client", "privacy"},
    "server": {"server", "privacy"},
    "simulations": {"simulations", "client", "server", "privacy"},
}
TORCH_SIDE = {"torch", "transformers", "opacus", "peft"}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(tree: ast.AST, module: str) -> Iterator[str]:
    """Absolute dotted names of everything a module imports, relative imports resolved."""
    package = module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            yield prefix
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def arrows(source: str, module: str) -> set[str]:
    """Which of our four folders a module imports; bare names count as a breach named ``bare:…``."""
    found = set()
    for name in imported(ast.parse(source), module):
        parts = name.split(".")
        if parts[0] == "cloister" and len(parts) > 1 and parts[1] in FOLDERS:
            found.add(parts[1])
        elif parts[0] in FOLDERS:
            found.add(f"bare:{parts[0]}")
    return found


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("cloister", *(parts[:-1] if parts[-1] == "__init__" else parts)))


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_run_one_way(folder: str) -> None:
    for path in sources(folder):
        breach = arrows(path.read_text(), module_name(path)) - MAY_IMPORT[folder]
        assert not breach, f"{path.relative_to(ROOT)} imports {breach}"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from cloister import server", {"server"}),
        ("import cloister.server.app", {"server"}),
        ("from ..server import app", {"server"}),
        ("from .. import simulations", {"simulations"}),
        ("import privacy.plan", {"bare:privacy"}),
        ("import os", set()),
    ],
)
def test_the_arrow_reader_sees_every_form(source: str, found: set[str]) -> None:
    assert arrows(source, "cloister.client.app") == found


def test_only_the_private_step_of_the_contract_imports_torch() -> None:
    for path in sources("privacy"):
        if path.parent.name != "step":
            names = {name.split(".")[0] for name in imported(ast.parse(path.read_text()), module_name(path))}
            assert not names & TORCH_SIDE, path.relative_to(ROOT)


def test_the_server_never_loads_torch() -> None:
    modules = [module_name(path) for path in sources("server")]
    script = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"print(sorted({TORCH_SIDE!r} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT / ".links"
    )
    assert done.stdout.strip() == "[]"


def packages() -> set[str]:
    return {
        ".".join(("cloister", *path.parent.relative_to(ROOT).parts))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("__init__.py")
    }


def test_every_package_is_listed_for_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(settings["tool"]["setuptools"]["packages"]) == packages()


@pytest.mark.slow
def test_the_built_wheel_holds_and_imports_everything(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(
        ROOT, source, symlinks=True, ignore=shutil.ignore_patterns(".*", "tests", "build", "__pycache__")
    )
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(source),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    modules = [module_name(path) for folder in FOLDERS for path in sources(folder)]
    names = {path.relative_to(site).as_posix() for path in site.rglob("*")}
    assert not [
        m for m in modules if f"{m.replace('.', '/')}.py" not in names and m.replace(".", "/") not in names
    ]
    assert {
        "cloister/privacy/evidence/templates/report-1.html",
        "cloister/privacy/evidence/templates/report-1/01-plain-words.html",
        "cloister/privacy/wire/consortium.proto",
    } <= names
    imports = f"import importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
    script = f"{imports}import cloister.privacy as p\nprint(p.__file__)"
    environment = {"PYTHONPATH": str(site), "PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=site,
        env=environment,
    )
    assert done.stdout.strip().startswith(str(site))


@pytest.mark.slow
def test_what_a_head_or_a_table_is_learnt_with_loads_neither_peft_nor_the_modules_of_llama() -> None:
    """Each takes 4 s of a processor and 130 MB to load."""
    learning = "client.agent", "client.learn.learner", "client.learn.tabular", "privacy.step.fused"
    modules = ", ".join(f"cloister.{name}" for name in learning)
    script = f"import sys, {modules}; print([m for m in sys.argv[1:] if m in sys.modules])"
    asked = ("torch", "peft", "transformers.models.llama.modeling_llama")
    done = subprocess.run([sys.executable, "-c", script, *asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['torch']"
