"""``cloister lead`` at work: the aggregator and its jobs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cloister.privacy import canonical, code
from cloister.privacy import table as tables
from cloister.privacy.clauses import MOST_HIDDEN, Dense
from cloister.privacy.errors import UsageError
from cloister.privacy.journal import Journal
from cloister.privacy.methods import Codec as CodecName
from cloister.privacy.methods import Robust, ServerOptimizer
from cloister.privacy.model import DEFAULT, BaseModel, Columns, agreed_layout, describe
from cloister.privacy.plan import Plan
from cloister.privacy.secagg.quantisation import MOST_BITS
from cloister.privacy.secagg.ring import FEWEST_BITS
from cloister.privacy.task import TaskKind, tags_agree
from cloister.privacy.watching import JsonLines, Metrics, MLflowTo, TensorBoardTo
from cloister.server.allowance import Allowed, require
from cloister.server.analytic import Choice
from cloister.server.desk import FolderDesk
from cloister.server.folder import LeadFolder
from cloister.server.jobs import FINISHED, Job, Jobs
from cloister.server.optimizers.stepping import USUAL
from cloister.server.outline import Ground
from cloister.server.proposal import draft
from cloister.server.terms import Terms

Directory = Annotated[Path, typer.Option("--dir", help="The lead's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="The first digits of the plan's digest.")]
Bits = Annotated[
    int | None,
    typer.Option(
        min=FEWEST_BITS,
        max=MOST_BITS,
        help="Bits that a parameter travels as; 32 without it. Not with joint privacy.",
    ),
]
Canaries = Annotated[
    int | None,
    typer.Option(
        help="False records that each site makes up, half of which it trains on: measures what the model "
        "keeps, and costs accuracy. None without it."
    ),
]
TakeBack = Annotated[
    bool,
    typer.Option(
        "--take-back",
        help="With --privacy joint: take noise back that lost sites would have made needed; two vectors "
        "up a step instead of one.",
    ),
]
MostBytes = Annotated[
    int | None, typer.Option(min=1, help="Bytes that a site may send in the whole job, before sealing.")
]
Columned = Annotated[
    Path | None,
    typer.Option(
        "--columns",
        help="A TOML file of columns with public ranges: what is learnt is the class of rows of a table, "
        "without a base model.",
    ),
]
Hidden = Annotated[
    int | None,
    typer.Option(
        min=1, max=MOST_HIDDEN, help="With --columns: width of a hidden layer; a linear model without it."
    ),
]
Licensed = Annotated[
    str | None,
    typer.Option("--licence", help="The base model's licence, if not the one that its card declares."),
]
HERE = Path()


def register(app: typer.Typer) -> None:
    """Adds the commands of this module to ``cloister lead``."""
    for command in (up, propose, status, stop, resume):
        app.command()(command)


def up(
    directory: Directory = HERE,
    once: Annotated[
        bool, typer.Option("--once", help="End with the first job; exit 1 if it failed.")
    ] = False,
    metrics: Metrics = "",
    tensorboard: TensorBoardTo = "",
    mlflow: MLflowTo = "",
    as_json: JsonLines = False,
) -> None:
    """Run the aggregator, the consortium service and Flower's server until stopped.

    A job that was interrupted goes on from its checkpoint.

    Example: cloister lead up --dir lead --metrics 9464
    """
    from cloister.privacy.metrics import endpoint
    from cloister.privacy.tracking import tracking
    from cloister.server.figures import LeadFigures
    from cloister.server.lead import Lead

    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    folder = LeadFolder.open(directory)
    with Journal(typer.echo, folder.log, machine=as_json) as journal:
        lead = Lead(folder, journal.say)
        name = folder.identity.public.name
        trackers = tracking(folder.log, name, journal.say, tensorboard=tensorboard, mlflow=mlflow)
        with endpoint(metrics, folder.log, LeadFigures(folder, lambda: lead.present())), trackers:
            ended = lead.run(stopping, once=once)
    if ended and ended.state != FINISHED:
        raise typer.Exit(1)


def propose(
    purpose: Annotated[str, typer.Option(help="What the model is for; every site reads it.")],
    labels: Annotated[
        str, typer.Option(help="The classes, or the tags of words, with commas between; none for answers.")
    ] = "",
    task: Annotated[
        TaskKind,
        typer.Option(help="What is learnt: classes of texts, tags of words (O, B-X, I-X), or answers."),
    ] = "sequence-classification",
    pair: Annotated[bool, typer.Option("--pair", help="Each row is a pair of texts.")] = False,
    columns: Columned = None,
    hidden: Hidden = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=8, max=8192, help="Where rows are cut, if not at 64 tokens.")
    ] = None,
    directory: Directory = HERE,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds; with --privacy joint each is one step.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Local steps a round.")] = None,
    rate: Annotated[float | None, typer.Option(help="Sampling rate of a step.")] = None,
    privacy: Annotated[
        Literal["local", "joint", "off"],
        typer.Option(help="Where noise is added: at each site for itself, in shares for all, or nowhere."),
    ] = "local",
    unit: Annotated[
        Literal["person", "record"] | None,
        typer.Option(help="Unit of privacy, if it must be this one; else the one that the sites offer."),
    ] = None,
    epsilon: Annotated[float, typer.Option(help="Target of the whole plan, per person or per record.")] = 8.0,
    delta: Annotated[float, typer.Option(help="Its delta.")] = 1e-5,
    top_layers: Annotated[int | None, typer.Option(min=0, help="Layers with LoRA, from the top.")] = None,
    minimum: Annotated[int, typer.Option(min=0, help="Fewest sites of a round; 0 is all but one.")] = 0,
    secure: Annotated[
        bool, typer.Option(help="Open nothing but sums; without it the lead sees every single update.")
    ] = True,
    colluding: Annotated[int, typer.Option(min=1, help="Sites that may collude, with the lead.")] = 1,
    take_back: TakeBack = False,
    bits: Bits = None,
    canaries: Canaries = None,
    server_optimizer: Annotated[
        Literal["momentum", "nesterov", "adam"] | None,
        typer.Option(help="What the server makes of the mean change. Not with joint privacy."),
    ] = None,
    server_rate: Annotated[
        float | None, typer.Option(min=0.0001, max=10, help="Its rate, if not the usual one.")
    ] = None,
    codec: Annotated[
        CodecName | None,
        typer.Option(help="How sites write updates, with error feedback. Needs --no-secure."),
    ] = None,
    codec_down: Annotated[
        CodecName | None, typer.Option(help="How the lead writes what changed. Not with joint privacy.")
    ] = None,
    proximal: Annotated[
        float | None, typer.Option(min=0, help="Mu of FedProx, which holds sites near the common model.")
    ] = None,
    factors: Annotated[
        Literal["up", "alternate"] | None,
        typer.Option(help="Train LoRA's B alone (FFA-LoRA), or B and A in turn (RoLoRA)."),
    ] = None,
    centred: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            help="Each site cuts its own update to so far from what the last round changed: holds faulty "
            "sites, not lying ones. Not with joint privacy.",
        ),
    ] = None,
    precision: Annotated[
        Literal["bf16"] | None,
        typer.Option(help="Training passes in bfloat16 where LoRA is; all sums stay float32 or wider."),
    ] = None,
    robust: Annotated[
        Literal["trimmed-mean", "median", "multi-krum"] | None,
        typer.Option(help="What stands in the place of the mean. Needs --no-secure."),
    ] = None,
    method: Annotated[
        Literal["ridge", "means"] | None,
        typer.Option(
            help="One analytic round in the place of training: ridge regression on frozen features, or class "
            "means. Needs secure aggregation."
        ),
    ] = None,
    start: Annotated[
        Literal["ridge", "means"] | None,
        typer.Option(
            help="A head alone whose first round is an analytic one: the others start from its solution. "
            "Every round has the same noise. Needs secure aggregation."
        ),
    ] = None,
    cosines: Annotated[
        int | None,
        typer.Option(min=0, max=1 << 14, help="With --method ridge: random cosine features beside."),
    ] = None,
    ridge: Annotated[
        float | None, typer.Option(min=1e-6, help="With --method or --start ridge: what is added to X'X.")
    ] = None,
    liars: Annotated[int, typer.Option(min=1, help="With --robust, how many sites may lie.")] = 1,
    most_bytes: MostBytes = None,
    model: Annotated[str, typer.Option(help="Base model: a folder or a hub name.")] = DEFAULT,
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
    chosen["max_tokens"] = max_tokens
    terms = replace(terms, **{name: value for name, value in chosen.items() if value is not None})
    terms, base = with_table(terms, columns, hidden, model)
    _check_labels(terms)
    ground = Ground(folder.enrolment.roster, desk.offers(), base, code.installed())
    if shared or most_bytes:
        datasets = [offer.dataset for offer in ground.offers.values()]
        require(terms, ground, Allowed.of(shared, most_bytes, datasets))
    plan, zero = draft(terms, ground.roster, ground.offers, base, ground.code)
    job = desk.propose(plan, zero, folder.identity, agreed_layout(plan, base))
    if json:
        _print(_proposed(job))
    else:
        typer.echo("\n".join(_told(plan)))


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


def _server(kind: str | None, rate: float | None) -> ServerOptimizer | None:
    """The server's optimizer of a kind, at the rate that was asked for."""
    if kind is None:
        if rate is not None:
            raise UsageError("option_invalid", "A server rate belongs to a server optimizer.")
        return None
    usual = USUAL[kind]
    return usual if rate is None else usual.model_copy(update={"rate": rate})


def status(directory: Directory = HERE, json: Json = False) -> None:
    """Show every job: its state, round, who answered, bytes moved. Never how well a site's data is learnt.

    Example: cloister lead status --dir lead
    """
    folder = LeadFolder.open(directory)
    found = [_entry(job) for job in Jobs(folder.jobs)]
    if json:
        _print({"jobs": found})
        return
    for entry in found:
        typer.echo(f"{entry['job'][7:19]}  {entry['state']:<9} {entry['purpose']}")
        if entry["reason"]:
            typer.echo(f"  {entry['reason']}")
        for name, reason in entry["left"].items():
            typer.echo(f"  {name} has left: {reason}")
        if entry["progress"]:
            progress = entry["progress"]
            standings = ", ".join(f"{name} {standing}" for name, standing in progress["standings"].items())
            typer.echo(f"  round {progress['round']} of {progress['rounds']}: {standings}")
            typer.echo(f"  {progress['bytes_up']} bytes up, {progress['bytes_down']} bytes down")


def stop(job: JobName, directory: Directory = HERE, json: Json = False) -> None:
    """Ask a running job to stop; its checkpoint stays.

    Example: cloister lead stop 3f9a --dir lead
    """
    found = Jobs(LeadFolder.open(directory).jobs).find(job)
    found.stop()
    if json:
        _print(_entry(found) | {"stopping": found.stopping()})
        return
    typer.echo("It stops before the next answer is used. `cloister lead resume` goes on.")


def resume(
    job: JobName,
    directory: Directory = HERE,
    give_up: Annotated[
        bool,
        typer.Option("--give-up", help="Without the round whose sum was begun; its cost stays charged."),
    ] = False,
    json: Json = False,
) -> None:
    """Let a stopped or failed job go on from its checkpoint.

    Example: cloister lead resume 3f9a --dir lead
    """
    found = Jobs(LeadFolder.open(directory).jobs).find(job)
    found.resume(give_up=give_up)
    if json:
        _print(_entry(found) | {"stopping": found.stopping()})
        return
    typer.echo("It goes on where it stopped, if `cloister lead up` runs.")


def _entry(job: Job) -> dict[str, Any]:
    return {
        "job": job.plan.digest,
        "state": job.state,
        "reason": job.reason,
        "purpose": job.plan.purpose,
        "decisions": {name: decision.approve for name, decision in job.decisions().items()},
        "left": job.left(),
        "progress": job.progress,
    }


def _print(value: dict[str, Any]) -> None:
    typer.echo(canonical.encode(value).decode())
