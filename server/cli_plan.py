"""``cloister lead plan``: what to propose, and what it would cost, before anybody is asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cloister.privacy import canonical, code
from cloister.privacy.clauses import Persons, Rows
from cloister.privacy.consent import Offer
from cloister.privacy.console import Json
from cloister.privacy.errors import UsageError
from cloister.privacy.identity import PrivateIdentity, Roster
from cloister.privacy.model import DEFAULT, BaseModel
from cloister.server.desk import FolderDesk
from cloister.server.folder import LeadFolder
from cloister.server.options import (
    HERE,
    LIMITS,
    PRIVACY,
    SUMS,
    TASK,
    TRAINING,
    Colluding,
    Columned,
    Delta,
    Directory,
    Epsilon,
    Hidden,
    Minimum,
    Model,
    MostBytes,
    with_table,
)
from cloister.server.outline import ROUND_SECONDS, Ground
from cloister.server.planning import Limits, Proposal, Wish, plan_for
from cloister.server.terms import Terms

_BAND = re.compile(r"([1-9][0-9]{0,8})(?:-([1-9][0-9]{0,8}))?")
_ROWS = 8  # of one person, where sites are described and nothing else is said


def register(app: typer.Typer) -> None:
    """Adds the command of this module to ``cloister lead``."""
    app.command("plan")(plan)


def plan(
    purpose: Annotated[str, typer.Option(help="What the model is for.", rich_help_panel=TASK)],
    labels: Annotated[
        str, typer.Option(help="The classes, with commas between; of a table its file.", rich_help_panel=TASK)
    ] = "",
    columns: Columned = None,
    hidden: Hidden = None,
    directory: Directory = HERE,
    sites: Annotated[
        str,
        typer.Option(
            help="Bands of units of sites, such as 128-255,512-1023, before there are any; without it the "
            "offers in the lead's folder count.",
            rich_help_panel=SUMS,
        ),
    ] = "",
    unit: Annotated[
        Literal["person", "record"] | None, typer.Option(help="Unit of privacy.", rich_help_panel=PRIVACY)
    ] = None,
    epsilon: Epsilon = 8.0,
    delta: Delta = 1e-5,
    most_epsilon: Annotated[
        float | None,
        typer.Option(
            help="Epsilon that is allowed; else that of the consortium's policy.", rich_help_panel=LIMITS
        ),
    ] = None,
    most_bytes: MostBytes = None,
    most_seconds: Annotated[
        float | None,
        typer.Option(
            min=1, help="Seconds that the job may take; needs --rows-per-second.", rich_help_panel=LIMITS
        ),
    ] = None,
    rows_per_second: Annotated[
        float | None,
        typer.Option(
            help="Rows that the slowest site was measured to train in a second.", rich_help_panel=LIMITS
        ),
    ] = None,
    privacy: Annotated[
        Literal["local", "joint", "off"] | None, typer.Option(help="Only this mode.", rich_help_panel=PRIVACY)
    ] = None,
    top_layers: Annotated[
        int | None, typer.Option(min=0, help="Only LoRA on so many layers.", rich_help_panel=TRAINING)
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Only so many rounds.", rich_help_panel=TRAINING)
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Only this sampling rate of a step.", rich_help_panel=TRAINING)
    ] = None,
    minimum: Minimum = 0,
    colluding: Colluding = 1,
    take_back: Annotated[
        bool,
        typer.Option("--take-back", help="Take surplus noise back, where joint.", rich_help_panel=PRIVACY),
    ] = False,
    model: Model = DEFAULT,
    json: Json = False,
) -> None:
    """Work out what to propose: mode, noise, steps, bytes. Reads public terms alone and proposes nothing.

    Example: cloister lead plan --purpose "notes to departments" --labels a,b,c --sites 128-255,128-255,64-127
    """
    classes = tuple(label.strip() for label in labels.split(",") if label.strip())
    terms = Terms(
        purpose,
        classes,
        unit=unit,
        epsilon=epsilon,
        delta=delta,
        minimum_sites=minimum,
        colluding=colluding,
        surplus=take_back,
    )
    terms, base = with_table(terms, columns, hidden, model)
    _check(terms, most_seconds, rows_per_second)
    for name, value in (("--most-epsilon", most_epsilon), ("--most-seconds", most_seconds), ("--rate", rate)):
        if value is not None and not 0 < value < float("inf"):
            raise UsageError("option_invalid", f"{name} must be a number above 0.", "See --help.")
    if columns and top_layers:
        raise UsageError("option_invalid", "A table has no layers for LoRA.", "Leave out --top-layers.")
    if sites:
        ground, allowed = _imagined(sites, unit, base), most_epsilon
    else:
        ground, allowed = _offered(directory, base, most_epsilon)
    more = () if sites or directory == HERE else ("--dir", str(directory))
    named = () if model == DEFAULT else ("--model", model)
    tabled = ("--columns", str(columns)) if columns else ()
    wish = Wish(terms, privacy, top_layers, rounds, rate, (*tabled, *more, *named))
    limits = Limits(allowed, most_bytes, most_seconds, rows_per_second)
    found = plan_for(wish, ground, limits)
    if json:
        typer.echo(canonical.encode(_value(found)).decode())
        return
    typer.echo("\n".join(_told(found)))


def _check(terms: Terms, seconds: float | None, speed: float | None) -> None:
    epsilon, delta = terms.epsilon, terms.delta
    if len(terms.labels) < 2:
        raise UsageError("option_invalid", "At least two labels are needed.", "--labels a,b,c")
    if not (0 < epsilon < float("inf") and 0 < delta < 1):
        raise UsageError(
            "option_invalid",
            "Epsilon must be above 0 and delta between 0 and 1.",
            "Try --epsilon 8 --delta 1e-5.",
        )
    if speed is not None and not 0 < speed < float("inf"):
        raise UsageError(
            "option_invalid", "Rows a second must be above 0.", "Measure them at the slowest site."
        )
    if seconds is not None and speed is None:
        raise UsageError(
            "option_invalid",
            "How long a job takes hangs on the slowest site's machine, which nobody here has measured.",
            "Add --rows-per-second, or leave out --most-seconds.",
        )


def _offered(directory: Path, base: BaseModel, most: float | None) -> tuple[Ground, float | None]:
    """What the sites have offered, and what the consortium's policy allows."""
    folder = LeadFolder.open(directory)
    desk = FolderDesk(folder.path, folder.log, folder.vault)
    shared = desk.policies.current()
    if shared is not None and most is None:
        most = _amount(shared.privacy.epsilon)
    return Ground(folder.enrolment.roster, desk.offers(), base, code.installed()), most


def _amount(value: object) -> float | None:
    """A policy's amount, None where it says ``any``."""
    return float(value) if isinstance(value, int | float) else None


def _imagined(text: str, unit: str | None, base: BaseModel) -> Ground:
    """Sites of which nothing is known but a band: their keys are made up and thrown away."""
    installed, offers, members = code.installed(), {}, [PrivateIdentity.generate("lead", "lead").public]
    for number, (low, high) in enumerate(_bands(text), start=1):
        name = f"site-{number}"
        rows = Rows(low=low, high=high)
        persons = Persons(low=low, high=high, most_rows=_ROWS) if unit == "person" else None
        offers[name] = Offer(site=name, dataset="records", rows=rows, persons=persons, code=installed)
        members.append(PrivateIdentity.generate(name, "site").public)
    return Ground(Roster("planned", tuple(members)), offers, base, installed)


def _bands(text: str) -> Iterator[tuple[int, int]]:
    for part in text.split(","):
        match = _BAND.fullmatch(part.strip())
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if low > high:
            raise UsageError(
                "option_invalid", f"{part.strip()!r} is no band of units.", "Write --sites 128-255,512-1023."
            )
        yield low, high


def _value(found: Proposal) -> dict[str, Any]:
    """The answer as JSON."""
    chosen, plan = found.chosen, found.chosen.plan
    training, privacy = plan.training, plan.privacy
    return {
        "mode": privacy.mode,
        "method": plan.method,
        "adapter": {"parameters": plan.adapter.parameters, "top_layers": plan.adapter.top_layers},
        "rounds": training.rounds,
        "steps": training.steps,
        "rate": training.rate,
        "noise_multiplier": privacy.noise_multiplier,
        "bound": privacy.bound,
        "optimizer": training.optimizer,
        "learning_rates": {"head": training.head_rate, "adapter": training.adapter_rate},
        "epsilon": chosen.epsilon,
        "delta": privacy.delta,
        "unit": privacy.unit,
        "noise_over_pooled": chosen.noise_factor,
        "bytes_up": chosen.bytes_up,
        "sums": chosen.sums,
        "seconds": chosen.seconds,
        "why": list(found.why),
        "passed": list(found.passed),
        "command": found.command,
    }


def _told(found: Proposal) -> Iterator[str]:
    """The answer in sentences."""
    chosen, plan = found.chosen, found.chosen.plan
    training, privacy = plan.training, plan.privacy
    private = privacy.mode != "off"
    yield f"For {len(plan.sites)} sites: {chosen.adapter}; {plan.adapter.parameters:,} parameters."
    yield (
        f"Mode {privacy.mode}, {plan.method}. Rounds: {training.rounds}, local steps in each: "
        f"{training.steps}, sampling rate {training.rate:g}."
    )
    rates = f"{training.head_rate:g} (head)"
    rates += f" and {training.adapter_rate:g} (adapter)" if plan.adapter.top_layers else ""
    yield f"Optimizer {training.optimizer}, learning rate {rates}."
    if private:
        yield (
            f"Noise multiplier {privacy.noise_multiplier:g}, clipping bound {privacy.bound:g}: epsilon "
            f"{chosen.epsilon:.4g} at delta {privacy.delta:g} for one {privacy.unit}; noise "
            f"{chosen.noise_factor:.3g} times that of pooling."
        )
    yield (
        f"Each site sends {chosen.bytes_up:,} bytes in {chosen.sums} secure sums, before sealing and signing."
    )
    yield _time(chosen.seconds)
    yield from found.why
    yield from (f"Does not fit: {line}" for line in found.passed)
    yield "Accuracy is not predicted."
    yield found.command


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "Time is not predicted: say --rows-per-second, as the slowest site measures it."
    return (
        f"About {seconds:,.0f} seconds, if the slowest site trains as fast as said and a round costs "
        f"{ROUND_SECONDS:g} seconds more, as measured on one machine; networks are not in it."
    )
