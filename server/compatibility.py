"""What goes with what among an operator's terms; the rest is refused, with the reason and what to do."""

from __future__ import annotations

from collections.abc import Mapping

from cloister.privacy.clauses import Site
from cloister.privacy.errors import PlanError
from cloister.privacy.plan import FEWEST_CANARIES, MOST_CANARIES
from cloister.privacy.secagg.quantisation import MOST_BITS
from cloister.privacy.secagg.ring import fewest_bits
from cloister.server.terms import RATES, Terms


def check(terms: Terms) -> None:
    """Refuses a choice that the rest of the terms leaves no room for.

    Raises:
        PlanError: ``plan_conflict``.
    """
    if terms.mode == "joint" and (not terms.secure or terms.steps not in (None, 1)):
        raise PlanError(
            "plan_conflict",
            "Joint privacy needs secure aggregation, and each of its rounds is one step.",
            "Leave out --no-secure and --steps; --rounds says how many steps there are.",
        )
    _check_analytic(terms)
    _check_methods(terms)
    _check_surplus(terms)


def check_bits(terms: Terms, sites: int) -> None:
    """Refuses few bits where they would not do: rounding comes after all noise, and levels must be left.

    Raises:
        PlanError: ``plan_conflict``.
    """
    if terms.bits is None:
        return
    if terms.mode == "joint" or not terms.secure:
        raise PlanError(
            "plan_conflict",
            "Few bits a parameter need secure aggregation; joint privacy has a grid of its own.",
            "Leave out --bits.",
        )
    if not fewest_bits(sites) <= terms.bits <= MOST_BITS:
        raise PlanError(
            "plan_conflict",
            f"{terms.bits} bits a parameter are not what {sites} sites can be added up in.",
            f"Take {fewest_bits(sites)} to {MOST_BITS}, or leave out --bits for 32.",
        )


def check_canaries(terms: Terms, sites: tuple[Site, ...]) -> None:
    """Refuses more canaries than some site has units: ``plan_conflict``."""
    least = min(site.units.low for site in sites)
    if terms.canaries is not None and not FEWEST_CANARIES <= terms.canaries <= min(MOST_CANARIES, least):
        raise PlanError(
            "plan_conflict",
            f"{terms.canaries} canaries do not suit sites of which one may have {least} units.",
            f"Take {FEWEST_CANARIES} to {min(MOST_CANARIES, least)}, or leave out --canaries."
            if least >= FEWEST_CANARIES
            else "Leave out --canaries.",
        )


def _check_methods(terms: Terms) -> None:
    _check_task(terms)
    if terms.precision and (terms.table is not None or not terms.top_layers):
        raise PlanError(
            "plan_conflict",
            "What a head alone learns from is worked out once, in float32: no pass is left for bfloat16.",
            "Leave out --precision, or train LoRA on --top-layers 1 or more.",
        )
    if terms.mode == "joint":
        _check_joint(terms)
    _check_steps(terms)
    if terms.centred and (terms.server or terms.factors == "alternate"):
        raise PlanError(
            "plan_conflict",
            "Centred clipping is around the last mean, which no site knows with a server optimizer or with "
            "factors in turn.",
            "Leave out --centred, or --server-optimizer and --factors alternate.",
        )
    if terms.centred and terms.codec:
        raise PlanError(
            "plan_conflict",
            "A codec adds what it left out before to an update that was cut, so nothing bounds their sum.",
            "Leave out --centred or --codec; without secure aggregation --robust bears sites that lie.",
        )
    if terms.codec and terms.secure:
        raise PlanError(
            "plan_conflict",
            "A codec gives each block a scale of its own, which secure aggregation cannot add.",
            "Take --bits instead, or add --no-secure: the lead then sees every single update.",
        )
    if terms.robust and terms.secure:
        raise PlanError(
            "plan_conflict",
            f"{terms.robust.kind} compares single updates, and secure aggregation opens only their sum.",
            "Leave out --robust, or add --no-secure: the lead then sees every single update.",
        )


_PLANTABLE = ("sequence-classification", "causal-lm")
"""Tasks of which false records can be made of random words."""


def _check_task(terms: Terms) -> None:
    if terms.analytic and terms.task not in ("sequence-classification", "tabular-classification"):
        raise PlanError(
            "plan_conflict",
            "An analytic round gives one class a row, and this task is another.",
            "Leave out --method ridge or means, or --task.",
        )
    if terms.canaries is not None and (terms.task not in _PLANTABLE or terms.pair):
        raise PlanError(
            "plan_conflict",
            "Canaries are single texts with a class or an answer, and the rows of this task are others.",
            "Leave out --canaries.",
        )
    _check_table(terms)
    if terms.task == "causal-lm" and not terms.top_layers:
        raise PlanError(
            "plan_conflict",
            "Answers are learnt by LoRA alone, and no layer would carry it.",
            "Take --top-layers 1 or more.",
        )


def _check_table(terms: Terms) -> None:
    if terms.hidden is not None and (terms.table is None or terms.analytic):
        raise PlanError(
            "plan_conflict",
            "A hidden layer is trained by steps on the columns of a table, and on nothing else.",
            "Leave out --hidden, or --method.",
        )
    if terms.table is not None and terms.factors:
        raise PlanError(
            "plan_conflict",
            "A table needs no base model, so there is no LoRA to train factors of.",
            "Leave out --factors.",
        )


def _check_steps(terms: Terms) -> None:
    """What would change nothing is refused, not left out."""
    optimizer = (terms.rates or RATES[terms.mode]).optimizer
    if optimizer == "adam" and terms.mode != "joint" and terms.momentum != Terms.momentum:
        raise PlanError(
            "plan_conflict",
            "In local steps Adam forgets as its authors have it: no momentum is left to choose.",
            "Leave out --momentum, or take --optimizer sgd with learning rates of your own.",
        )
    if terms.mode == "off" and terms.bound != Terms.bound:
        raise PlanError(
            "plan_conflict",
            "Without privacy nothing is clipped.",
            "Leave out --bound, or train with --privacy local or joint.",
        )


def _check_joint(terms: Terms) -> None:
    if terms.server:
        raise PlanError(
            "plan_conflict",
            "Joint privacy and a server optimizer do not go together: every site takes each step again.",
            "Leave out --server-optimizer; --momentum or --optimizer adam does the same.",
        )
    if terms.down:
        raise PlanError(
            "plan_conflict",
            "Every site takes each joint step again from its exact sum: no change can be coded.",
            "Leave out --codec-down.",
        )
    if terms.proximal or terms.factors or terms.centred:
        raise PlanError(
            "plan_conflict",
            "In joint mode a round is one step of all sites on all that is trained.",
            "Leave out --proximal, --factors and --centred.",
        )


def _check_start(terms: Terms) -> None:
    private = terms.mode != "off"
    wrong = {
        "--no-secure": not terms.secure,
        "--method": terms.analytic,
        "--task": terms.task not in ("sequence-classification", "tabular-classification"),
        "--hidden": terms.hidden,
        "--factors": terms.factors,
        "--centred": terms.centred,
        "--bits": terms.bits,
        "--codec-down": terms.down,
        "--canaries": terms.canaries,
        "--steps": private and terms.steps not in (None, 1),
        "--rate": private and terms.rate not in (None, 1.0),
        "--rounds": terms.rounds == 1,
    }
    for option, given in wrong.items():
        if given:
            raise PlanError(
                "plan_conflict",
                "A head that starts from an analytic round has one secure sum of it, and then steps, private "
                f"ones on full batches: {option} asks for something else.",
                f"Leave out {option}, or --start.",
            )


def _check_analytic(terms: Terms) -> None:
    if terms.start:
        _check_start(terms)
    if terms.analytic is None:
        return
    if not terms.secure:
        raise PlanError(
            "plan_conflict",
            "An analytic round needs secure aggregation: the sums of a small site nearly are its rows.",
            "Leave out --no-secure.",
        )
    if (terms.rounds, terms.steps, terms.rate) != (None, None, None):
        raise PlanError(
            "plan_conflict",
            "An analytic round is one sum over all records: there are no rounds, steps or samples to choose.",
            "Leave out --rounds, --steps and --rate.",
        )
    if terms.analytic.kind == "means" and terms.analytic.cosines:
        raise PlanError(
            "plan_conflict",
            "Class means gain nothing from random cosines, which only add coordinates.",
            "Leave out --cosines, or take --method ridge.",
        )
    for option, given in _strangers(terms).items():
        if given:
            raise PlanError(
                "plan_conflict",
                f"{option} changes steps, updates or records of many rounds, and an analytic round has none.",
                f"Leave out {option}, or leave out --method to train by steps.",
            )


def _strangers(terms: Terms) -> Mapping[str, object]:
    return {
        "--server-optimizer": terms.server,
        "--proximal": terms.proximal,
        "--factors": terms.factors,
        "--optimizer or a learning rate": terms.rates,
        "--momentum": terms.momentum != Terms.momentum,
        "--centred": terms.centred,
        "--precision": terms.precision,
        "--robust": terms.robust,
        "--codec": terms.codec,
        "--codec-down": terms.down,
        "--bits": terms.bits,
        "--canaries": terms.canaries,
        "--take-back": terms.surplus,
    }


def _check_surplus(terms: Terms) -> None:
    if terms.surplus and terms.mode != "joint":
        raise PlanError(
            "plan_conflict",
            "Surplus noise can be taken back only where noise is added in shares.",
            "Add --privacy joint, or leave out --take-back.",
        )
