"""``cloister lead propose``: a plan, to every site that has offered a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal

import typer

from cloister.privacy import code
from cloister.privacy.clauses import Dense
from cloister.privacy.console import Json, say
from cloister.privacy.errors import UsageError
from cloister.privacy.methods import Codec as CodecName
from cloister.privacy.methods import Robust, ServerOptimizer
from cloister.privacy.model import DEFAULT, agreed_layout
from cloister.privacy.plan import Plan
from cloister.privacy.task import TaskKind, tags_agree
from cloister.server.allowance import Allowed, require
from cloister.server.desk import FolderDesk
from cloister.server.folder import LeadFolder
from cloister.server.jobs import Job
from cloister.server.optimizers.stepping import USUAL
from cloister.server.options import (
    ANALYTIC,
    HERE,
    PRIVACY,
    SUMS,
    TASK,
    TRAINING,
    WIRE,
    AdapterRate,
    Alpha,
    Bits,
    Bound,
    Canaries,
    Colluding,
    Columned,
    Delta,
    Directory,
    Epsilon,
    HeadRate,
    Hidden,
    Licensed,
    Minimum,
    Model,
    Momentum,
    MostBytes,
    Optimizer,
    Rank,
    TakeBack,
    analytic_choice,
    lora_of,
    rates_of,
    start_choice,
    with_table,
)
from cloister.server.outline import Ground
from cloister.server.proposal import draft
from cloister.server.terms import Terms


def register(app: typer.Typer) -> None:
    """Adds the command of this module to ``cloister lead``."""
    app.command()(propose)


def propose(
    purpose: Annotated[
        str, typer.Option(help="What the model is for; every site reads it.", rich_help_panel=TASK)
    ],
    labels: Annotated[
        str,
        typer.Option(
            help="The classes, or the tags of words, with commas between; none for answers.",
            rich_help_panel=TASK,
        ),
    ] = "",
    task: Annotated[
        TaskKind,
        typer.Option(
            help="What is learnt: classes of texts, tags of words (O, B-X, I-X), or answers.",
            rich_help_panel=TASK,
        ),
    ] = "sequence-classification",
    pair: Annotated[
        bool, typer.Option("--pair", help="Each row is a pair of texts.", rich_help_panel=TASK)
    ] = False,
    columns: Columned = None,
    hidden: Hidden = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=8, max=8192, help="Where rows are cut, if not at 64 tokens.", rich_help_panel=TASK),
    ] = None,
    directory: Directory = HERE,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, help="Rounds; with --privacy joint each is one step.", rich_help_panel=TRAINING),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Local steps a round.", rich_help_panel=TRAINING)
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Sampling rate of a step.", rich_help_panel=TRAINING)
    ] = None,
    privacy: Annotated[
        Literal["local", "joint", "off"],
        typer.Option(
            help="Where noise is added: at each site for itself, in shares for all, or nowhere.",
            rich_help_panel=PRIVACY,
        ),
    ] = "local",
    unit: Annotated[
        Literal["person", "record"] | None,
        typer.Option(
            help="Unit of privacy, if it must be this one; else the one that the sites offer.",
            rich_help_panel=PRIVACY,
        ),
    ] = None,
    epsilon: Epsilon = 8.0,
    delta: Delta = 1e-5,
    bound: Bound = None,
    top_layers: Annotated[
        int | None, typer.Option(min=0, help="Layers with LoRA, from the top.", rich_help_panel=TRAINING)
    ] = None,
    rank: Rank = None,
    alpha: Alpha = None,
    optimizer: Optimizer = None,
    head_rate: HeadRate = None,
    adapter_rate: AdapterRate = None,
    momentum: Momentum = None,
    minimum: Minimum = 0,
    secure: Annotated[
        bool,
        typer.Option(
            help="Open nothing but sums; without it the lead sees every single update.", rich_help_panel=SUMS
        ),
    ] = True,
    colluding: Colluding = 1,
    take_back: TakeBack = False,
    bits: Bits = None,
    canaries: Canaries = None,
    server_optimizer: Annotated[
        Literal["momentum", "nesterov", "adam"] | None,
        typer.Option(
            help="What the server makes of the mean change. Not with joint privacy.", rich_help_panel=TRAINING
        ),
    ] = None,
    server_rate: Annotated[
        float | None,
        typer.Option(min=0.0001, max=10, help="Its rate, if not the usual one.", rich_help_panel=TRAINING),
    ] = None,
    codec: Annotated[
        CodecName | None,
        typer.Option(
            help="How sites write updates, with error feedback. Needs --no-secure.", rich_help_panel=WIRE
        ),
    ] = None,
    codec_down: Annotated[
        CodecName | None,
        typer.Option(help="How the lead writes what changed. Not with joint privacy.", rich_help_panel=WIRE),
    ] = None,
    proximal: Annotated[
        float | None,
        typer.Option(
            min=0, help="Mu of FedProx, which holds sites near the common model.", rich_help_panel=TRAINING
        ),
    ] = None,
    factors: Annotated[
        Literal["up", "alternate"] | None,
        typer.Option(
            help="Train LoRA's B alone (FFA-LoRA), or B and A in turn (RoLoRA).", rich_help_panel=TRAINING
        ),
    ] = None,
    centred: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            help="Each site cuts its own update to so far from what the last round changed: holds faulty "
            "sites, not lying ones. Not with joint privacy.",
            rich_help_panel=SUMS,
        ),
    ] = None,
    precision: Annotated[
        Literal["bf16"] | None,
        typer.Option(
            help="Training passes in bfloat16 where LoRA is; all sums stay float32 or wider.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    robust: Annotated[
        Literal["trimmed-mean", "median", "multi-krum"] | None,
        typer.Option(help="What stands in the place of the mean. Needs --no-secure.", rich_help_panel=SUMS),
    ] = None,
    method: Annotated[
        Literal["ridge", "means"] | None,
        typer.Option(
            help="One analytic round in the place of training: ridge regression on frozen features, or class "
            "means. Needs secure aggregation.",
            rich_help_panel=ANALYTIC,
        ),
    ] = None,
    start: Annotated[
        Literal["ridge", "means"] | None,
        typer.Option(
            help="A head alone whose first round is an analytic one: the others start from its solution. "
            "Every round has the same noise. Needs secure aggregation.",
            rich_help_panel=ANALYTIC,
        ),
    ] = None,
    cosines: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=1 << 14,
            help="With --method ridge: random cosine features beside.",
            rich_help_panel=ANALYTIC,
        ),
    ] = None,
    ridge: Annotated[
        float | None,
        typer.Option(
            min=1e-6, help="With --method or --start ridge: what is added to X'X.", rich_help_panel=ANALYTIC
        ),
    ] = None,
    liars: Annotated[
        int, typer.Option(min=1, help="With --robust, how many sites may lie.", rich_help_panel=SUMS)
    ] = 1,
    most_bytes: MostBytes = None,
    model: Model = DEFAULT,
    licence: Licensed = None,
    json: Json = False,
) -> None:
    """Propose a plan to every site that has offered a dataset. It runs once all have approved.

    One that asks for more than the consortium's policy or --most-bytes allows is refused, with the nearest.

    Example: cloister lead propose --dir lead --purpose "notes to departments" --labels a,b,c --epsilon 8
    """
    folder = LeadFolder.open(directory)
    desk = FolderDesk(folder.path, folder.log, folder.vault)
    shared = desk.policies.current()
    terms = Terms(
        purpose=purpose,
        labels=tuple(label.strip() for label in labels.split(",") if label.strip()),
        task=task,
        pair=pair,
        mode=privacy,
        unit=unit,
        epsilon=epsilon,
        delta=delta,
        minimum_sites=minimum,
        secure=secure,
        colluding=colluding,
        surplus=take_back,
        licence=licence or None,
        bits=bits,
        canaries=canaries,
        server=_server(server_optimizer, server_rate),
        codec=codec,
        down=codec_down,
        proximal=proximal or None,
        factors=factors,
        centred=centred,
        precision=precision,
        robust=Robust(kind=robust, liars=liars) if robust else None,
        policy=shared.digest if shared else None,
        analytic=analytic_choice(method, cosines, None if start else ridge, top_layers),
        start=start_choice(start, ridge, top_layers),
    )
    chosen: dict[str, Any] = {"rounds": rounds, "steps": steps, "rate": rate, "top_layers": top_layers}
    chosen |= {"max_tokens": max_tokens, "bound": bound, "momentum": momentum}
    terms = replace(terms, **{name: value for name, value in chosen.items() if value is not None})
    terms, base = with_table(terms, columns, hidden, model)
    terms = lora_of(terms, rank, alpha)
    terms = replace(terms, rates=rates_of(terms, optimizer, head_rate, adapter_rate))
    _check_labels(terms)
    ground = Ground(folder.enrolment.roster, desk.offers(), base, code.installed())
    if shared or most_bytes:
        datasets = [offer.dataset for offer in ground.offers.values()]
        require(terms, ground, Allowed.of(shared, most_bytes, datasets))
    plan, zero = draft(terms, ground.roster, ground.offers, base, ground.code)
    job = desk.propose(plan, zero, folder.identity, agreed_layout(plan, base))
    if json:
        say(_proposed(job))
    else:
        typer.echo("\n".join(_told(plan)))


def _check_labels(terms: Terms) -> None:
    if terms.task == "causal-lm" and terms.labels:
        raise UsageError("option_invalid", "Answers have no labels.", "Leave out --labels.")
    if terms.task != "causal-lm" and len(terms.labels) < 2:
        raise UsageError("option_invalid", "At least two labels are needed.", "--labels a,b,c")
    if terms.task == "token-classification" and not tags_agree(terms.labels):
        raise UsageError(
            "option_invalid",
            "The labels are no tags: O, and B-X with or without I-X for each kind X of entity.",
            "--labels O,B-Disease,I-Disease",
        )
    if terms.pair and terms.task != "sequence-classification":
        raise UsageError("option_invalid", "Pairs of texts have classes.", "Leave out --pair or --task.")


def _server(kind: str | None, rate: float | None) -> ServerOptimizer | None:
    """The server's optimizer of a kind, at the rate that was asked for."""
    if kind is None:
        if rate is not None:
            raise UsageError("option_invalid", "A server rate belongs to a server optimizer.")
        return None
    usual = USUAL[kind]
    return usual if rate is None else usual.model_copy(update={"rate": rate})


def _proposed(job: Job) -> dict[str, Any]:
    """What was proposed, as JSON."""
    plan = job.plan
    return {
        "job": plan.digest,
        "state": job.state,
        "unit": plan.privacy.unit,
        "noise_multiplier": plan.privacy.noise_multiplier,
        "secure": plan.aggregation.secure,
        "bits": plan.aggregation.width,
        "method": plan.method,
        "rounding": plan.aggregation.rounding,
        "policy": plan.policy,
    }


def _told(plan: Plan) -> Iterator[str]:
    """What was proposed, in sentences."""
    how = plan.aggregation
    yield f"Proposed {plan.digest[7:19]} to {', '.join(site.name for site in plan.sites)}."
    yield f"{plan.adapter.parameters} parameters, noise multiplier {plan.privacy.noise_multiplier:g}."
    if isinstance(plan.adapter, Dense):
        yield f"It is {plan.adapter.words}: a {plan.task.described}. No base model."
    yield f"The method is {plan.method}."
    if plan.training.opening:
        yield f"{plan.summands(1)} values are added up once, over all records."
    yield f"The unit of privacy is the {plan.privacy.unit}."
    yield from (f"{said}." for said in (how.visibility, how.rounding, how.taking_back) if said)
    if plan.policy:
        yield f"It is under the consortium's policy {plan.policy[7:19]}, beside each site's own."
    yield "Each site decides with `cloister site approve`."
