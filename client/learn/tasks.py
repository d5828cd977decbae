"""From a plan's task to the model that is trained and the rows that it is trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cloister.client.learn import analytic, tabular
from cloister.client.learn.adapters import Adapted, Classifier, Tagger, Writer, place_tagger, place_writer
from cloister.client.learn.documents import NOTHING, Answered, Documents, Labelled, Tagged
from cloister.client.learn.features import prepare, prepare_states
from cloister.client.learn.instruction import Form
from cloister.client.learn.model import load_encoder, load_writer, tokenize, tokenizer_of
from cloister.client.site.records import Records
from cloister.privacy.errors import ModelError
from cloister.privacy.layout import Layout
from cloister.privacy.model import BaseModel, agreed_layout
from cloister.privacy.plan import Plan


def require_base(plan: Plan, base: BaseModel) -> Layout:
    """Refuses a base model or a tokenizer that a plan's task cannot be learnt with; no record is read for it.

    Returns:
        The order of the trained parameters.

    Raises:
        PlanError: ``task_unsupported``.
        ModelError: ``model_mismatch``, ``adapter_invalid``, ``model_unsafe`` or ``tokenizer_unfit``.
    """
    order = agreed_layout(plan, base)
    if plan.task.kind == "causal-lm":
        Form.of(base)
    elif plan.task.kind == "token-classification" and not tokenizer_of(base).is_fast:
        raise ModelError(
            "tokenizer_unfit",
            f"The tokenizer of {base.name} does not say which word a token is of.",
            "Take a base model with a tokenizer.json.",
        )
    elif plan.task.pair:
        _require_separator(base)
    return order


def _require_separator(base: BaseModel) -> None:
    one, other = tokenize(base, ["a", "a b"], 64), tokenize(base, ["a"], 64, ["b"])
    if len(other[0]) <= len(one[1]):
        raise ModelError(
            "tokenizer_unfit",
            f"The tokenizer of {base.name} puts nothing between the texts of a pair.",
            "Take a base model with a separator, or put both texts into one column.",
        )


def placed(plan: Plan, base: BaseModel, layout: Layout, device: str = "cpu") -> Adapted:
    """The model that a plan trains: its base model with what is trained on it.

    Raises:
        ModelError: it cannot be loaded, or the layout does not fit.
    """
    if plan.task.table:
        return tabular.placed(plan, layout, device)
    alpha = plan.lora.alpha
    if plan.task.kind == "causal-lm":
        return place_writer(*load_writer(base, device), layout, alpha)
    encoder = load_encoder(base, device)
    if plan.task.kind == "token-classification":
        return place_tagger(encoder, layout, alpha)
    return analytic.placed(encoder, layout, alpha, analytic.cosines_of(plan))


def documents(plan: Plan, base: BaseModel, model: Adapted, records: Records) -> Documents:
    """Records as a model, made by ``placed``, is trained on them; what is frozen of it sees them once.

    Raises:
        InputError: ``class_unknown`` or ``tags_invalid``; of a table as ``Records.check``.
        ModelError: the tokenizer cannot be read, or is not fit for some row.
    """
    task = plan.task
    if task.table and isinstance(model, Classifier):
        return tabular.rows(model, task.table, records)
    most = plan.max_tokens
    if isinstance(model, Writer):
        return Answered(model, Form.of(base).turns(records.texts, records.labels, most))
    if isinstance(model, Tagger):
        rows = records.tags(task.labels)
        ids, targets = tokens_of_words(base, rows, most)
        return Tagged(model, prepare_states(model, ids), targets, task.labels)
    if not isinstance(model, Classifier):
        raise TypeError("a model that no task makes")
    ids = tokenize(base, records.texts, most, records.seconds)
    return Labelled(model, prepare(model, ids), records.targets(task.labels))


def tokens_of_words(
    base: BaseModel, rows: Sequence[tuple[tuple[str, ...], NDArray[np.int64]]], most: int
) -> tuple[tuple[NDArray[np.int64], ...], tuple[NDArray[np.int64], ...]]:
    """Token ids of rows of words, and for the first token of each word its tag, ``NOTHING`` for all others.

    Args:
        base: whose tokenizer reads them.
        rows: words, and the tag of each.
        most: tokens of a row; words beyond are left out.
    """
    if not rows:
        return (), ()
    tokenizer = tokenizer_of(base)
    found = tokenizer(
        [list(words) for words, _ in rows],
        is_split_into_words=True,
        truncation=True,
        max_length=most,
        return_attention_mask=False,
    )
    targets = []
    for row, (_, tags) in enumerate(rows):
        words = [-1 if word is None else word for word in found.word_ids(row)]
        first = [word >= 0 and (not place or words[place - 1] != word) for place, word in enumerate(words)]
        chosen = [int(tags[word]) if begins else NOTHING for word, begins in zip(words, first, strict=True)]
        targets.append(np.array(chosen, dtype=np.int64))
    ids = tuple(np.asarray(part, dtype=np.int64) for part in found["input_ids"])
    return ids, tuple(targets)
