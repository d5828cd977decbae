"""Options that several commands of the lead and of simulations have, and what they come to.

Options of one command stand in panels of its help, by what somebody decides with them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from cloister.privacy import table as tables
from cloister.privacy.clauses import MOST_HIDDEN
from cloister.privacy.errors import UsageError
from cloister.privacy.model import DEFAULT, BaseModel, Columns, describe
from cloister.privacy.secagg.quantisation import MOST_BITS
from cloister.privacy.secagg.ring import FEWEST_BITS
from cloister.server.analytic import Choice
from cloister.server.terms import ADAM_JOINT, RATES, Rates, Terms

TASK: Final = "What is learnt"
PRIVACY: Final = "Privacy"
SUMS: Final = "Who takes part, and what the lead sees"
TRAINING: Final = "Training"
ANALYTIC: Final = "One analytic round"
WIRE: Final = "Bytes"
LIMITS: Final = "What is allowed"
AUDIT: Final = "Audit"

Directory = Annotated[Path, typer.Option("--dir", help="The lead's folder.")]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="The first digits of the plan's digest.")]
Model = Annotated[str, typer.Option(help="Base model: a folder or a hub name.", rich_help_panel=TASK)]
Epsilon = Annotated[
    float,
    typer.Option(help="Target of the whole plan, per person or per record.", rich_help_panel=PRIVACY),
]
Delta = Annotated[float, typer.Option(help="Its delta.", rich_help_panel=PRIVACY)]
Minimum = Annotated[
    int, typer.Option(min=0, help="Fewest sites of a round; 0 is all but one.", rich_help_panel=SUMS)
]
Colluding = Annotated[
    int, typer.Option(min=1, help="Sites that may collude, with the lead.", rich_help_panel=SUMS)
]
Bits = Annotated[
    int | None,
    typer.Option(
        min=FEWEST_BITS,
        max=MOST_BITS,
        help="Bits that a parameter travels as; 32 without it. Not with joint privacy.",
        rich_help_panel=WIRE,
    ),
]
Canaries = Annotated[
    int | None,
    typer.Option(
        help="False records that each site makes up, half of which it trains on: measures what the model "
        "keeps, and costs accuracy. None without it.",
        rich_help_panel=AUDIT,
    ),
]
TakeBack = Annotated[
    bool,
    typer.Option(
        "--take-back",
        help="With --privacy joint: take noise back that lost sites would have made needed; two vectors "
        "up a step instead of one.",
        rich_help_panel=PRIVACY,
    ),
]
MostBytes = Annotated[
    int | None,
    typer.Option(
        min=1, help="Bytes that a site may send in the whole job, before sealing.", rich_help_panel=LIMITS
    ),
]
Columned = Annotated[
    Path | None,
    typer.Option(
        "--columns",
        help="A TOML file of columns with public ranges: what is learnt is the class of rows of a table, "
        "without a base model.",
        rich_help_panel=TASK,
    ),
]
Hidden = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST_HIDDEN,
        help="With --columns: width of a hidden layer; a linear model without it.",
        rich_help_panel=TASK,
    ),
]
Licensed = Annotated[
    str | None,
    typer.Option(
        "--licence",
        help="The base model's licence, if not the one that its card declares.",
        rich_help_panel=TASK,
    ),
]
Optimizer = Annotated[
    Literal["sgd", "adam"] | None,
    typer.Option(help="What takes the steps; else what suits --privacy.", rich_help_panel=TRAINING),
]
HeadRate = Annotated[
    float | None,
    typer.Option(min=1e-9, help="Learning rate of the head, if not the usual one.", rich_help_panel=TRAINING),
]
AdapterRate = Annotated[
    float | None,
    typer.Option(
        min=1e-9,
        help="Learning rate of LoRA or of a hidden layer, if not the usual one.",
        rich_help_panel=TRAINING,
    ),
]
Momentum = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=0.999,
        help="How much of a step of sgd stays in the next, and how slowly Adam forgets gradients in a joint "
        "job; 0.9 without it.",
        rich_help_panel=TRAINING,
    ),
]
Rank = Annotated[
    int | None, typer.Option(min=1, help="Rank of LoRA; 8 without it.", rich_help_panel=TRAINING)
]
Alpha = Annotated[
    float | None,
    typer.Option(
        min=1e-3,
        help="LoRA's output is multiplied with alpha / rank; 16 without it.",
        rich_help_panel=TRAINING,
    ),
]
Bound = Annotated[
    float | None,
    typer.Option(
        min=1e-6, help="Clipping bound of one unit's gradient; 1 without it.", rich_help_panel=PRIVACY
    ),
]
HERE: Final = Path()


def rates_of(
    terms: Terms, optimizer: Literal["sgd", "adam"] | None, head: float | None, adapter: float | None
) -> Rates | None:
    """An optimizer with its learning rates, the usual ones where one is not given; None where nothing is.

    Args:
        terms: for which they are.
        optimizer: what was asked for.
        head: learning rate of the head that was asked for.
        adapter: that of what is trained below it.

    Raises:
        UsageError: ``option_invalid``, nothing has such a rate, or nobody measured usual ones for this
            optimizer in this mode.
    """
    if adapter is not None and not terms.adapts:
        raise UsageError("option_invalid", "Nothing but a head is trained.", "Leave out --adapter-rate.")
    if head is not None and terms.task == "causal-lm":
        raise UsageError("option_invalid", "Answers are learnt without a head.", "Leave out --head-rate.")
    if (optimizer, head, adapter) == (None, None, None):
        return None
    usual: Rates | None = RATES[terms.mode]
    if optimizer and optimizer != RATES[terms.mode].optimizer:
        usual = ADAM_JOINT if terms.mode == "joint" else None
    if usual:
        return Rates(usual.optimizer, head or usual.head, adapter or usual.adapter)
    missing = {"--head-rate": head is None and terms.task != "causal-lm"}
    missing["--adapter-rate"] = adapter is None and terms.adapts
    if optimizer is None or any(missing.values()):
        raise UsageError(
            "option_invalid",
            f"There are no usual learning rates of {optimizer} with --privacy {terms.mode}.",
            f"Add {' and '.join(option for option, lacks in missing.items() if lacks)}.",
        )
    given = head or adapter or 0.0  # a plan has both rates, also where only one trains anything
    return Rates(optimizer, head or given, adapter or given)


def lora_of(terms: Terms, rank: int | None, alpha: float | None) -> Terms:
    """Terms with the rank and the alpha of LoRA that were asked for.

    Raises:
        UsageError: ``option_invalid``, no layer carries LoRA.
    """
    if (rank is not None or alpha is not None) and (terms.table is not None or not terms.adapts):
        raise UsageError(
            "option_invalid",
            "No layer carries LoRA, so that it has neither rank nor alpha.",
            "Leave out --rank and --alpha, or train LoRA on --top-layers 1 or more.",
        )
    return replace(terms, rank=rank or terms.rank, alpha=alpha or terms.alpha)


def with_table(terms: Terms, file: Path | None, hidden: int | None, model: str) -> tuple[Terms, BaseModel]:
    """Terms with the columns of a table, where a file of them is named; and what is trained on.

    Raises:
        UsageError: ``option_invalid``, options for texts beside a table, or for a table without one.
        PlanError: ``table_malformed``.
        InputError: ``file_missing``.
        ModelError: as ``describe``.
    """
    if file is None:
        if hidden is not None or terms.task == "tabular-classification":
            raise UsageError("option_invalid", "Rows of a table need their columns.", "Add --columns FILE.")
        return terms, describe(model)
    others = {
        "--labels": terms.labels,
        "--pair": terms.pair,
        "--task": terms.task not in ("sequence-classification", "tabular-classification"),
        "--model": model != DEFAULT,
    }
    wrong = [option for option, given in others.items() if given]
    if wrong:
        raise UsageError(
            "option_invalid",
            "The file of a table says what is learnt, and needs no base model.",
            f"Leave out {' and '.join(wrong)}.",
        )
    found = tables.read(file)
    named = replace(terms, task="tabular-classification", labels=found.classes, table=found, hidden=hidden)
    return named, Columns.of(found)


def analytic_choice(
    method: Literal["ridge", "means"] | None, cosines: int | None, ridge: float | None, top_layers: int | None
) -> Choice | None:
    """The analytic round that was asked for."""
    if method is None:
        if cosines is not None or ridge is not None:
            raise UsageError(
                "option_invalid", "--cosines and --ridge belong to an analytic round.", "Add --method ridge."
            )
        return None
    if top_layers:
        raise UsageError(
            "option_invalid",
            "An analytic round gives a head on frozen features: no layer carries LoRA.",
            "Leave out --top-layers, or --method.",
        )
    return _choice(method, cosines, ridge)


def _choice(method: Literal["ridge", "means"], cosines: int | None, ridge: float | None) -> Choice:
    if method == "means" and ridge is not None:
        raise UsageError("option_invalid", "Class means have no ridge.", "Leave out --ridge.")
    return Choice(method, cosines, ridge)


def start_choice(
    method: Literal["ridge", "means"] | None, ridge: float | None, top_layers: int | None
) -> Choice | None:
    """The analytic round that a head is to start from."""
    if method is None:
        return None
    if top_layers:
        raise UsageError(
            "option_invalid",
            "What starts from an analytic round is a head on frozen features: no layer carries LoRA.",
            "Leave out --top-layers, or --start.",
        )
    return _choice(method, None, ridge)
