"""Questions and answers of nine institutes, and a tiny model of random weights that learns to write them.

Ben Abacha and Demner-Fushman 2019, "A question-entailment approach to question answering" (MedQuAD). The
model has GPT-2's architecture, with letters (bytes) for tokens and weights drawn from a fixed seed: nothing
that it says means anything.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cloister.client.site import records
from cloister.client.site.records import Records, hold_out
from cloister.client.site.sources.place import Place
from cloister.privacy.errors import InputError
from cloister.privacy.model import BaseModel, describe
from cloister.simulations.scenarios.material import KEY, OWN_SHARE

ONE_IN = 24
"""Of an institute's rows so many give one."""
FEWEST, TEST = 16, 240
_WIDTH, _LAYERS, _HEADS, _TOKENS = 32, 2, 4, 128
_SEED, _SPREAD = 23, 0.2


@dataclass(frozen=True, eq=False)
class Corpus:
    """Sites that answer questions.

    Attributes:
        base: the base model, in a folder that goes when this value does.
        train: site name -> what it trains on.
        own: site name -> rows of its own, about other diseases, that nobody trains on.
        test: the common test rows, about diseases that no site trains on.
    """

    base: BaseModel
    train: dict[str, Records]
    own: dict[str, Records]
    test: Records


def corpus(data: Path, seed: int) -> Corpus:
    """The institutes, a part of their rows drawn by a seed; each keeps back a fifth of its diseases.

    Raises:
        InputError: ``file_missing``, ``file_format``, ``column_missing``, ``value_missing``, ``site_empty``;
            ``site_too_small``, an institute has too few diseases.
    """
    whole, test = (_read(data, side) for side in ("train", "test"))
    rng = np.random.default_rng(seed)
    train, own = {}, {}
    for name in sorted({*(whole.sites or ())}):
        rows = np.flatnonzero(np.array(whole.sites) == name)
        drawn = np.sort(rng.permutation(rows)[: max(FEWEST, len(rows) // ONE_IN)])
        rest, back = hold_out(whole.take(drawn), fraction=OWN_SHARE, key=KEY)
        train[name.lower()], own[name.lower()] = _bare(rest), _bare(back)
    common = _bare(test.take(np.sort(rng.permutation(len(test))[:TEST])))
    folder = Path(tempfile.mkdtemp(prefix="cloister-tiny-"))
    try:
        made = Corpus(describe(write(folder / "tiny-random")), train, own, common)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(made, shutil.rmtree, folder, ignore_errors=True)
    return made


def _read(data: Path, side: str) -> Records:
    """The rows of one file, the person of each being the disease that it is about."""
    path = data / "medquad" / f"{side}.jsonl.gz"
    if not path.is_file():
        raise InputError(
            "file_missing", f"There is no {path}.", "Name the folder that holds medquad with --data."
        )
    place = Place.of(path)
    found = records.raw(place, text="question", label="answer", person="focus", site="site", kind="causal-lm")
    names = {"text": "question", "label": "answer", "site": "site"}
    return records.usable(found, place.title, names, "refuse")


def _bare(found: Records) -> Records:
    """The same rows, each a record of its own."""
    return replace(found, persons=None, sites=None)


def write(folder: Path) -> Path:
    """Writes the tiny model into a folder: safetensors, config and tokenizer; the same each time."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    begin, end = "<s>", "</s>"
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: number for number, word in enumerate([begin, end, *letters])}
    config = AutoConfig.for_model(
        "gpt2",
        vocab_size=len(vocabulary),
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        n_embd=_WIDTH,
        n_layer=_LAYERS,
        n_head=_HEADS,
        n_positions=_TOKENS,
    )
    with torch.random.fork_rng():
        torch.manual_seed(_SEED)
        model: Any = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=_SPREAD)
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    whole: Any = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=begin, eos_token=end)
    whole.save_pretrained(folder)
    return folder
