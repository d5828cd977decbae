"""The model card of a released adapter: ``README.md`` in the form that model hubs read.

Like the report, a pure function of the evidence. The Python in it loads the exported folder with
public libraries only; a test runs it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cloister.privacy.clauses import Adapter, Dense
from cloister.privacy.evidence import reading
from cloister.privacy.evidence.evidence import Accuracy, Evidence
from cloister.privacy.evidence.reading import listing
from cloister.privacy.evidence.render import LEVELS, ceiling, decimal, grouped, percent
from cloister.privacy.plan import Plan
from cloister.privacy.table import Choice, Number
from cloister.privacy.task import PIPELINES, Task

_HUB = {"all-MiniLM-L6-v2": "sentence-transformers/all-MiniLM-L6-v2"}
"""Where a hub keeps a base model that has another name here."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~$])")

_CODE = """\
import json
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn.functional import linear, normalize
from transformers import AutoModel, AutoTokenizer
base, config, head = BASE, json.load(open("config.json")), load_file("head.safetensors")
encoder, tokenizer = ENCODER.eval(), AutoTokenizer.from_pretrained(base)
batch = tokenizer(["a text"], truncation=True, max_length=config["max_tokens"], padding=True, \
return_tensors="pt")
features = normalize((encoder(**batch)[0] * batch["attention_mask"][..., None]).sum(1)) * config["scale"]
print([config["labels"][n] for n in linear(features, head["head.weight"], head["head.bias"]).argmax(1)])
"""
_COSINES = """\
from pathlib import Path
from cloister.client.learn.export import load
from cloister.privacy.model import describe

print(load(Path(), describe(BASE)).predict(["a text"]))
"""
"""Random cosines are drawn anew from their seed, which takes this program."""
_TAGS = """\
import json
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn.functional import linear, normalize
from transformers import AutoModel, AutoTokenizer
base, config, head = BASE, json.load(open("config.json")), load_file("head.safetensors")
encoder, tokenizer = ENCODER.eval(), AutoTokenizer.from_pretrained(base)
batch = tokenizer([["a", "text"]], is_split_into_words=True, truncation=True, \\
max_length=config["max_tokens"], return_tensors="pt")
features = normalize(encoder(batch["input_ids"])[0], dim=-1) * config["scale"]
tags = linear(features, head["head.weight"], head["head.bias"]).argmax(2)[0]
words = batch.word_ids(0)  # the first token of a word has its tag
print({w: config["labels"][tags[words.index(w)]] for w in words if w is not None})
"""
_ANSWERS = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base = BASE
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), ".").eval()
tokenizer = AutoTokenizer.from_pretrained(base)
turns, question = [{"role": "user", "content": "a question"}], "Question: a question\\nAnswer:"
if tokenizer.chat_template:
    question = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
elif tokenizer.bos_token:
    question = tokenizer.bos_token + question
batch = tokenizer(question, add_special_tokens=False, return_tensors="pt")
written = model.generate(**batch, max_new_tokens=20, do_sample=False, pad_token_id=tokenizer.eos_token_id)
print(tokenizer.decode(written[0, batch["input_ids"].shape[1] :], skip_special_tokens=True))
"""
_ROWS = """\
from pathlib import Path
from cloister.client.learn.scoring import load

model = load(Path())
print({column.name: column for column in model.table.columns})
print(model.predict(ROWS))
"""
"""Columns become features by their public ranges, which this program knows how to do."""
_CODES = {
    "sequence-classification": _CODE,
    "token-classification": _TAGS,
    "causal-lm": _ANSWERS,
    "tabular-classification": _ROWS,
}
_PLAIN = "AutoModel.from_pretrained(base)"
_LORA = f'PeftModel.from_pretrained({_PLAIN}, ".")'


def card(evidence: Mapping[str, Any]) -> str:
    """The model card of a run as Markdown.

    Args:
        evidence: JSON of ``privacy.evidence.evidence.Evidence``.

    Raises:
        InputError: ``evidence_malformed``.
    """
    return written(Evidence.from_json(evidence))


def written(found: Evidence) -> str:
    """The same of evidence that has been read already."""
    parts = [_header(found), _introduction(found), _use(found), _privacy(found), _results(found)]
    limits = _LIMITS.replace("VISIBILITY", f"{found.plan.aggregation.visibility}.")
    return "\n".join([*parts, _training(found), limits])


def loading_code(evidence: Evidence) -> str:
    """Python that loads the exported folder, which must be the current folder, and uses it on a text."""
    task, analytic = evidence.plan.task, evidence.plan.training.analytic
    if task.table:
        row = {column.name: [_example(column)] for column in task.table.columns}
        return _ROWS.replace("ROWS", repr(row))
    code = _COSINES if analytic and analytic.cosines else _CODES[task.kind]
    if task.pair:
        code = code.replace('["a text"]', '["a text"], ["another"]')
    if evidence.plan.adapter.top_layers:
        code = code.replace("ENCODER", _LORA)
    else:
        code = code.replace("ENCODER", _PLAIN).replace("from peft import PeftModel\n", "")
    return code.replace("BASE", repr(_base(evidence)), 1)


def _example(column: Number | Choice) -> str:
    """A cell that a column may have, made of the plan alone."""
    return column.values[0] if isinstance(column, Choice) else f"{column.low / 2 + column.high / 2:g}"


_LIMITS = """\
## Limits

- Evidence, not legal advice, and no statement that any law or standard is met.
- The guarantee is as good as the records that sites made of their own noise; a site can lie.
- Accuracies, timing, participation and bands of record and person numbers lie outside epsilon.
- VISIBILITY
- The software has not been reviewed from outside.
"""


def _base(evidence: Evidence) -> str:
    return _HUB.get(evidence.model.base, evidence.model.base)


def _text(value: str) -> str:
    """Any text as one line of Markdown that shows it and does nothing else."""
    plain = " ".join(value.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", plain)


def _header(evidence: Evidence) -> str:
    fields: dict[str, Any] = {
        "library_name": _library(evidence.plan),
        "pipeline_tag": PIPELINES[evidence.plan.task.kind],
        "license": "unknown",
        "tags": ["cloister", "federated-learning", *(["differential-privacy"] if _private(evidence) else [])],
        "metrics": ["perplexity" if evidence.plan.task.kind == "causal-lm" else "accuracy"],
    }
    if _HUB_NAME.fullmatch(_base(evidence)):
        fields["base_model"] = _base(evidence)
    # A JSON value is a YAML value, whatever characters it holds.
    lines = [f"{name}: {json.dumps(value)}" for name, value in sorted(fields.items())]
    return "\n".join(["---", *lines, "---", ""])


def _library(plan: Plan) -> str:
    if plan.task.table:
        return "cloister"
    return "peft" if plan.adapter.top_layers else "transformers"


def _private(evidence: Evidence) -> bool:
    return evidence.plan.privacy.mode != "off"


def _introduction(evidence: Evidence) -> str:
    plan = evidence.plan
    made = {
        "demo": "a demo on one machine that held all records",
        "federation": "a federation",
        "simulation": "a simulation by one program that held all records",
    }[evidence.kind]
    return f"""\
# {_text(evidence.purpose)}

{_does(plan.task)}

Trained by {len(plan.sites)} sites of the consortium `{evidence.consortium}` in {made}; no record was part of
any message between them. What was trained is {grouped(evidence.model.parameters)} numbers {_below(evidence)}.

| | |
|---|---|
| job | `{evidence.job}` |
| model | `{evidence.model.digest}` |
| {_ground(plan)} | {_text(evidence.model.base)}, `{evidence.model.base_digest}` |
| made | {evidence.created} |
{_licence(plan)}| licence | not declared; ask the lead of the consortium |
"""


def _licence(plan: Plan) -> str:
    """What the lead declared of the model below; "" where it declared nothing."""
    licence = plan.base.licence
    return f"| licence of the base model | {_text(licence)}, as the lead declared it |\n" if licence else ""


def _below(evidence: Evidence) -> str:
    """What the trained numbers stand on."""
    adapter = evidence.plan.adapter
    if isinstance(adapter, Dense):
        return f"from a public start: {adapter.words}, without a base model"
    return f"on top of\n{_text(evidence.model.base)}"


def _ground(plan: Plan) -> str:
    return "no base model, but" if plan.task.table else "base model"


def _does(task: Task) -> str:
    """What the model does, in a sentence."""
    if task.kind == "causal-lm":
        return "Answers instructions. What it writes may be false, or have stood in its training texts."
    labels = ", ".join(_text(label) for label in (task.labels if task.classifies else task.entities))
    if task.kind == "token-classification":
        return f"Finds in texts what is: {labels}."
    if task.table:
        columns = ", ".join(_text(name) for name in task.table.names)
        return f"Sorts rows of a table into {len(task.labels)} classes: {labels}; by the columns {columns}."
    return f"Sorts {'pairs of texts' if task.pair else 'text'} into {len(task.labels)} classes: {labels}."


def _use(evidence: Evidence) -> str:
    packages = "`torch`, `transformers`, `peft` and `safetensors`"
    checked = (
        "This does not check that the base model has the digest above; "
        "`cloister.client.learn.export.load` does."
    )
    if evidence.plan.task.table:
        packages = "`cloister`; torch is not needed"
        checked = "Cells are text; a value that is missing, no number or in no list ends in an error."
    elif (analytic := evidence.plan.training.analytic) and analytic.cosines:
        packages = "`cloister`, whose random cosine features the head is on"
        checked = "This checks that the base model has the digest above."
    return f"""\
## Use

In the folder of this file, with {packages}:

```python
{loading_code(evidence)}```

{checked}
"""


def _privacy(evidence: Evidence) -> str:
    worst = reading.Worst.of(evidence)
    if not _private(evidence):
        return "## Privacy\n\nNone is guaranteed: records may be inferred from this model.\n"
    if worst is None:
        return "## Privacy\n\nNo site let anything out, so there is no guarantee to state.\n"
    rows = "\n".join(
        f"| {stated.site} | {stated.epsilon} | {decimal(stated.delta or '')} | {stated.budget} |"
        for stated in evidence.privacy
    )
    return f"""\
## Privacy: {LEVELS[evidence.plan.privacy.unit]}

{_promise(evidence, ceiling(worst.odds))} Epsilon is derived from what the sites recorded.

| site | epsilon per {evidence.plan.privacy.unit} | delta | budget |
|---|---|---|---|
{rows}
"""


def _promise(evidence: Evidence, odds: str) -> str:
    """The neighbour relation and the worst-case odds, in words."""
    noise = "noise that the sites share" if evidence.plan.joint else "the noise added at the site"
    if evidence.plan.privacy.unit == "person":
        return f"""\
Differential privacy for one person added to or removed from one site's data with all of that person's rows,
of which at most {evidence.plan.most_rows} are used, with {noise}. Someone who starts at
50:50 whether a given person's rows were used can be right at most {odds} of the time, even after
seeing everything that left the site. A person is whoever has one id at that site: somebody with two ids, or
with records at several sites, is protected less."""
    return f"""\
Differential privacy for one record added to or removed from one site's data, with {noise}.
Someone who starts at 50:50 whether a given record was used can be right at most {odds}
of the time, even after seeing everything that left the site. Somebody with several records, or with
records at several sites, is protected less."""


def _results(evidence: Evidence) -> str:
    lines = _figures(evidence.accuracy) if evidence.accuracy else ["Accuracy was not measured."]
    return "\n".join(["## Accuracy", "", *lines, ""])


def _figures(accuracy: Accuracy) -> Iterator[str]:
    yield f"On {grouped(accuracy.test_rows)} test records; these figures are not covered by epsilon."
    yield from ("", "| trained | accuracy |", "|---|---|")
    rows = {
        "federated (this model)": accuracy.federated,
        "all records in one place, same privacy": accuracy.pooled_private,
        "all records in one place, no privacy": accuracy.pooled,
        "word counts (TF-IDF), one place, no privacy": accuracy.tfidf,
    }
    yield from (f"| {label} | {percent(value)} |" for label, value in rows.items() if value is not None)
    behind = [
        c.site for c in reading.comparisons(accuracy) if (c.other, c.verdict) == ("alone", "not better")
    ]
    if behind:
        yield ""
        yield f"It does not beat a model trained without privacy at one site alone for {listing(behind)}."
    if accuracy.tfidf is not None and accuracy.federated <= accuracy.tfidf:
        yield ""
        yield "On these test records it does not beat word counts with a linear classifier (TF-IDF)."


def _training(evidence: Evidence) -> str:
    training, adapter = evidence.plan.training, evidence.plan.adapter
    lora = (
        f"LoRA of rank {adapter.rank} on the top {adapter.top_layers} layers and "
        if isinstance(adapter, Adapter) and adapter.top_layers
        else ""
    )
    rounding = evidence.plan.aggregation.rounding
    if training.analytic:
        return f"""\
## Training

A linear head: {training.analytic.words} over all records. Its scores rank the classes; they are no calibrated
probabilities.
"""
    head = "no head" if evidence.plan.task.kind == "causal-lm" else "a linear head"
    if isinstance(adapter, Dense):
        head = adapter.words
    return f"""\
## Training

{lora}{head}, {evidence.plan.method}, {len(evidence.rounds)} rounds of {training.steps} steps,
sampling rate {training.rate:.4g}, optimiser {training.optimizer}.{f" {rounding}." if rounding else ""}
"""
