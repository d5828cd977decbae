from __future__ import annotations

import inspect
import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloister.privacy.clauses import Persons, Rows
from cloister.privacy.cli import main
from cloister.privacy.consent import Offer
from cloister.privacy.descent import learning_rates
from cloister.privacy.dp import accounting
from cloister.privacy.errors import ModelError, PlanError
from cloister.privacy.identity import PrivateIdentity, Roster
from cloister.privacy.layout import Placement, layout
from cloister.privacy.methods import Robust
from cloister.privacy.model import BaseModel, describe
from cloister.privacy.plan import Plan
from cloister.server import cli_propose
from cloister.server.analytic import Choice
from cloister.server.optimizers.stepping import USUAL
from cloister.server.options import PRIVACY, TRAINING, WIRE
from cloister.server.proposal import draft
from cloister.server.reach import reach
from cloister.server.terms import RATES, Terms
from tests import models

CODE = "sha256:" + "c" * 64
MEMBERS = (
    PrivateIdentity.generate("lead", "lead"),
    *(PrivateIdentity.generate(n, "site") for n in ("north", "south")),
)
ROSTER = Roster("hospitals", tuple(member.public for member in MEMBERS))
OFFERS = {
    name: Offer(site=name, dataset="notes", rows=Rows(low=low, high=2 * low - 1), code=CODE)
    for name, low in (("north", 128), ("south", 512))
}
PERSON_OFFERS = {
    name: offer.model_copy(update={"persons": Persons(low=low, high=2 * low - 1, most_rows=8)})
    for (name, offer), low in zip(OFFERS.items(), (64, 64), strict=True)
}
TERMS = Terms(purpose="notes to departments", labels=("a", "b", "c"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return describe(models.write(tmp_path_factory.mktemp("models") / "tiny"))


def test_a_draft_is_a_whole_plan_over_every_site(base: BaseModel) -> None:
    plan, start = draft(TERMS, ROSTER, OFFERS, base, CODE)
    assert Plan.from_bytes(plan.to_bytes()) == plan
    assert [site.name for site in plan.sites] == ["north", "south"]
    assert plan.roster == ROSTER.digest()
    assert plan.weight("south") == pytest.approx(0.8)
    assert start.shape == (plan.adapter.parameters,)


METHODS: list[tuple[dict[str, Any], str]] = [
    ({"server": USUAL["adam"]}, "fedavg, server Adam at rate 0.02"),
    ({"server": USUAL["nesterov"]}, "fedavg, server nesterov 0.9 at rate 0.7"),
    ({"precision": "bf16"}, "fedavg, training passes in bfloat16"),
    ({"proximal": 0.5, "factors": "alternate"}, "fedavg, FedProx of 0.5, LoRA's A and B in turn (RoLoRA)"),
]


@pytest.mark.parametrize(("changes", "said"), METHODS)
def test_a_method_that_is_asked_for_stands_in_the_plan(
    base: BaseModel, changes: dict[str, Any], said: str
) -> None:
    plan, _ = draft(replace(TERMS, **changes), ROSTER, OFFERS, base, CODE)
    assert plan.method == said
    assert Plan.from_bytes(plan.to_bytes()) == plan


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"server": USUAL["adam"], "mode": "joint", "secure": True}, "every site takes each step again"),
        ({"factors": "up", "mode": "joint", "secure": True}, "one step of all sites"),
        ({"robust": Robust(kind="median", liars=1), "secure": True}, "opens only their sum"),
        ({"robust": Robust(kind="median", liars=1)}, "needs 3 updates, and a round may have 1"),
        ({"proximal": 3.0}, "would swing about"),
        ({"precision": "bf16", "top_layers": 0}, "no pass is left for bfloat16"),
        ({"precision": "bf16", "analytic": Choice("means"), "secure": True}, "--precision changes steps"),
    ],
)
def test_a_method_that_does_not_go_with_the_rest_is_refused_with_the_reason(
    base: BaseModel, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(PlanError, match=says):
        draft(replace(TERMS, **changes), ROSTER, OFFERS, base, CODE)


def test_a_draft_names_the_consortiums_policy_only_where_there_is_one(base: BaseModel) -> None:
    plan, _ = draft(replace(TERMS, policy=CODE), ROSTER, OFFERS, base, CODE)
    assert Plan.from_bytes(plan.to_bytes()).policy == CODE
    without, _ = draft(TERMS, ROSTER, OFFERS, base, CODE)
    assert without.policy is None
    assert b'"policy"' not in without.to_bytes()


def test_a_licence_is_what_the_lead_says_or_the_card_or_nothing(base: BaseModel, tmp_path: Path) -> None:
    assert draft(TERMS, ROSTER, OFFERS, base, CODE)[0].base.licence is None
    copy = tmp_path / base.name
    shutil.copytree(base.path, copy)
    (copy / "README.md").write_text("---\nlicense: mit\n---\n")
    carded = describe(copy)
    assert carded.digest == base.digest
    assert draft(TERMS, ROSTER, OFFERS, carded, CODE)[0].base.licence == "mit"
    said = replace(TERMS, licence="our own terms 1.0")
    assert draft(said, ROSTER, OFFERS, carded, CODE)[0].base.licence == "our own terms 1.0"
    with pytest.raises(PlanError, match="licence"):
        draft(replace(TERMS, licence="<b>"), ROSTER, OFFERS, base, CODE)


def test_the_noise_keeps_the_target_over_the_whole_plan_by_the_ruling_number(base: BaseModel) -> None:
    plan, _ = draft(TERMS, ROSTER, OFFERS, base, CODE)
    mechanism = plan.round_mechanism
    assert mechanism is not None
    reached = accounting.epsilon([mechanism] * plan.training.rounds, TERMS.delta)
    assert 0.97 * TERMS.epsilon < reached <= TERMS.epsilon


def test_without_privacy_gradients_get_rates_of_their_own(base: BaseModel) -> None:
    private, _ = draft(TERMS, ROSTER, OFFERS, base, CODE)
    open_, _ = draft(Terms(TERMS.purpose, TERMS.labels, mode="off"), ROSTER, OFFERS, base, CODE)
    assert open_.round_mechanism is None
    assert (private.training.head_rate, open_.training.head_rate) == (RATES["local"].head, RATES["off"].head)


def test_two_drafts_of_the_same_terms_are_two_jobs_that_start_apart(base: BaseModel) -> None:
    (one, start), (two, other) = (draft(TERMS, ROSTER, OFFERS, base, CODE) for _ in range(2))
    assert one.digest != two.digest
    assert not np.array_equal(start, other)


def test_a_site_without_an_offer_is_named(base: BaseModel) -> None:
    with pytest.raises(PlanError, match="south") as caught:
        draft(TERMS, ROSTER, {"north": OFFERS["north"]}, base, CODE)
    assert caught.value.id == "plan_conflict"


@pytest.mark.parametrize("unit", [None, "person"])
@pytest.mark.parametrize("mode", ["local", "off"])
def test_the_unit_is_the_person_where_every_site_offers_persons(
    base: BaseModel, unit: Any, mode: Any
) -> None:
    plan, _ = draft(replace(TERMS, unit=unit, mode=mode), ROSTER, PERSON_OFFERS, base, CODE)
    assert plan.privacy.unit == "person"
    assert plan.weight("south") == 0.5
    assert Plan.from_bytes(plan.to_bytes()) == plan


@pytest.mark.parametrize(
    ("unit", "offers", "named"),
    [
        ("person", OFFERS, "north, south"),
        ("record", PERSON_OFFERS, "north, south"),
        ("person", PERSON_OFFERS | {"south": OFFERS["south"]}, "by: south"),
        ("record", PERSON_OFFERS | {"south": OFFERS["south"]}, "by: north"),
        (None, PERSON_OFFERS | {"south": OFFERS["south"]}, "by: south"),
        (None, OFFERS | {"south": PERSON_OFFERS["south"]}, "by: south"),
    ],
)
def test_an_offer_at_another_unit_is_refused_and_named(
    base: BaseModel, unit: Any, offers: dict[str, Offer], named: str
) -> None:
    with pytest.raises(PlanError, match=named) as caught:
        draft(replace(TERMS, unit=unit), ROSTER, offers, base, CODE)
    assert caught.value.id == "plan_conflict"


def test_a_target_that_no_layer_has_is_refused(base: BaseModel) -> None:
    terms = Terms(TERMS.purpose, TERMS.labels, targets=("no-such-module",))
    with pytest.raises(ModelError) as caught:
        draft(terms, ROSTER, OFFERS, base, CODE)
    assert caught.value.id == "adapter_invalid"


@cache
def consortium(sites: int) -> tuple[Roster, dict[str, Offer]]:
    """A lead and so many sites, each with an offer."""
    names = [f"site-{k}" for k in range(sites)]
    keys = [MEMBERS[0], *(PrivateIdentity.generate(name, "site") for name in names)]
    offer = OFFERS["north"]
    offers = {name: offer.model_copy(update={"site": name}) for name in names}
    return Roster("hospitals", tuple(key.public for key in keys)), offers


@pytest.mark.parametrize(
    ("sites", "colluding", "wanted", "threshold", "minimum"),
    [
        (3, 1, 0, 3, 3),  # nobody may drop
        (4, 1, 0, 3, 3),  # one may
        (4, 1, 2, 3, 3),  # never fewer than sign
        (6, 1, 0, 4, 5),
        (6, 1, 4, 4, 4),
        (6, 2, 0, 5, 5),
    ],
)
def test_secure_aggregation_gets_the_least_threshold_that_holds(
    base: BaseModel, sites: int, colluding: int, wanted: int, threshold: int, minimum: int
) -> None:
    terms = replace(TERMS, secure=True, colluding=colluding, minimum_sites=wanted)
    plan, _ = draft(terms, *consortium(sites), base, CODE)
    found = plan.sum_terms
    assert found is not None
    assert (found.threshold, found.minimum, found.colluding) == (threshold, minimum, colluding)
    assert (found.job, found.sites) == (plan.digest, tuple(f"site-{k}" for k in range(sites)))
    assert Plan.from_bytes(plan.to_bytes()) == plan


@pytest.mark.parametrize(("sites", "colluding"), [(1, 1), (2, 1), (3, 2), (4, 5)])
def test_where_it_would_hide_nothing_it_is_refused(base: BaseModel, sites: int, colluding: int) -> None:
    with pytest.raises(PlanError, match="--no-secure") as caught:
        draft(replace(TERMS, secure=True, colluding=colluding), *consortium(sites), base, CODE)
    assert caught.value.id == "plan_conflict"


def test_without_it_the_plan_says_nothing_of_it(base: BaseModel) -> None:
    plan, _ = draft(TERMS, ROSTER, OFFERS, base, CODE)
    assert plan.sum_terms is None
    assert b"threshold" not in plan.to_bytes()


@pytest.mark.parametrize("mode", ["local", "off"])
def test_few_bits_come_with_the_longest_update_that_the_terms_allow(base: BaseModel, mode: Any) -> None:
    terms = replace(TERMS, mode=mode, secure=True, bits=12)
    plan, _ = draft(terms, *consortium(4), base, CODE)
    assert Plan.from_bytes(plan.to_bytes()) == plan
    placed = layout(base.tensors, base.hidden, Placement(8, ("query", "value"), 1, 3))
    rates = learning_rates(placed, plan.training.head_rate, plan.training.adapter_rate)
    assert plan.aggregation.norm == reach(plan.training, plan.privacy, plan.sites, rates)
    assert plan.aggregation.rounding == "Updates are rounded to 12 bits a parameter"
    few = plan.quantisation
    assert few is not None
    assert few.bits == 12


def test_without_few_bits_the_plan_says_nothing_of_them(base: BaseModel) -> None:
    plan, _ = draft(replace(TERMS, secure=True), *consortium(4), base, CODE)
    assert (plan.aggregation.width, plan.aggregation.rounding, plan.quantisation) == (32, "", None)


@pytest.mark.parametrize(
    "more",
    [
        {"secure": False, "bits": 12},
        {"mode": "joint", "secure": True, "bits": 12},
        {"secure": True, "bits": 5},
        {"secure": True, "bits": 32},
        {"mode": "off", "secure": True, "bits": 12, "rates": RATES["local"]},
    ],
)
def test_few_bits_that_would_not_do_are_refused(base: BaseModel, more: Any) -> None:
    with pytest.raises(PlanError, match="--bits") as caught:
        draft(replace(TERMS, **more), *consortium(4), base, CODE)
    assert caught.value.id == "plan_conflict"


@pytest.fixture(scope="module")
def lead(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a lead, which any number of plans may be proposed in."""
    folder = tmp_path_factory.mktemp("proposing") / "lead"
    assert main(["lead", "init", "--name", "hospitals", "--dir", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("bits", [None, "12"])
def test_a_proposal_says_what_its_bits_are(
    base: BaseModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    bits: str | None,
) -> None:
    monkeypatch.setattr(cli_propose, "draft", lambda terms, *_: draft(terms, *consortium(4), base, CODE))
    lead = ("--dir", str(tmp_path / "lead"))
    assert main(["lead", "init", "--name", "hospitals", *lead]) == 0
    chosen = () if bits is None else ("--bits", bits)
    terms = ("--purpose", "notes", "--labels", "a,b,c", "--model", str(base.path), *chosen)
    capsys.readouterr()
    assert main(["lead", "propose", *lead, *terms]) == 0
    assert ("Updates are rounded to 12 bits a parameter." in capsys.readouterr().out) == (bits is not None)
    assert main(["lead", "propose", *lead, *terms, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bits"] == int(bits or 32)


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ("--server-optimizer adam --server-rate 0.5", 0, "The method is fedavg, server Adam at rate 0.5."),
        (
            "--factors alternate --proximal 0.25 --codec-down int8",
            0,
            "FedProx of 0.25, LoRA's A and B in turn",
        ),
        ("--codec-down int8", 0, "Changes of the model are coded as int8."),
        ("--no-secure --robust median", 0, "The method is fedavg, median against 1 that lie."),
        ("--no-secure --robust median", 0, "The server can see every single update."),
        ("--no-secure --codec ternary", 0, "Updates are coded as ternary with error feedback."),
        ("--centred 1.5", 0, "fedavg, each site cuts its own update to 1.5 around the last change, which no"),
        ("--centred 1.5 --factors up --bits 12", 0, "The method is fedavg, LoRA's A frozen (FFA-LoRA), each"),
        ("--privacy joint --centred 1.5", 1, "Leave out --proximal, --factors and --centred."),
        ("--method ridge --centred 1.5", 1, "Leave out --centred, or leave out --method"),
        ("--centred 1.5 --server-optimizer adam", 1, "which no site knows with a server optimizer"),
        ("--centred 1.5 --no-secure --codec int8", 1, "--robust bears sites that lie"),
        ("--robust median", 1, "secure aggregation opens only their sum"),
        ("--no-secure --robust multi-krum", 1, "needs 5 updates, and a round may have 3"),
        ("--codec ternary", 1, "which secure aggregation cannot add. Take --bits instead"),
        ("--privacy joint --codec-down int8", 1, "Every site takes each joint step again"),
        ("--privacy joint --server-optimizer adam", 1, "Every site takes each step again".lower()),
        ("--proximal 3", 1, "would swing about"),
        ("--server-rate 0.5", 2, "A server rate belongs to a server optimizer."),
        ("--optimizer adam", 2, "There are no usual learning rates of adam with --privacy local."),
        ("--optimizer adam", 2, "Add --head-rate and --adapter-rate."),
        ("--optimizer adam --head-rate 0.01", 2, "Add --adapter-rate."),
        ("--optimizer adam --head-rate 0.01 --adapter-rate 0.002", 0, "The method is fedavg."),
        ("--privacy joint --optimizer adam --momentum 0.8 --bound 4 --alpha 32", 0, "The method is fedavg."),
        ("--rank 4", 0, "The method is fedavg."),
        ("--top-layers 0 --optimizer adam --head-rate 0.01", 0, "The method is fedavg."),
        ("--top-layers 0 --adapter-rate 0.01", 2, "Leave out --adapter-rate."),
        ("--start ridge --adapter-rate 0.01", 2, "Leave out --adapter-rate."),
        ("--privacy off --bound 2", 1, "Without privacy nothing is clipped."),
        ("--method ridge --optimizer sgd", 1, "Leave out --optimizer or a learning rate"),
        ("--method ridge --momentum 0.5", 1, "Leave out --momentum, or leave out --method"),
        ("--privacy off --momentum 0.5", 1, "no momentum is left to choose"),
        ("--privacy off --optimizer sgd --head-rate 1 --adapter-rate 1 --momentum 0.5", 0, "is fedavg."),
        ("--top-layers 0 --rank 4", 2, "neither rank nor alpha"),
        ("--method ridge --rank 4", 2, "neither rank nor alpha"),
        ("--start ridge --alpha 4", 2, "neither rank nor alpha"),
        ("--top-layers 0 --alpha 4", 2, "Leave out --rank and --alpha"),
        ("--method ridge --privacy off", 0, "analytic, ridge regression on frozen features and 512 random"),
        ("--method ridge --privacy joint", 0, "660 values are added up once, over all records."),
        ("--method means", 0, "The method is analytic, class means of frozen features, one sum."),
        ("--method ridge --no-secure", 1, "the sums of a small site nearly are its rows"),
        ("--method ridge --rounds 3", 1, "there are no rounds, steps or samples to choose"),
        ("--method ridge --bits 8", 1, "Leave out --bits, or leave out --method"),
        ("--method ridge --canaries 20", 1, "Leave out --canaries, or leave out --method"),
        ("--method ridge --take-back --privacy joint", 1, "Leave out --take-back"),
        ("--method ridge --server-optimizer adam", 1, "Leave out --server-optimizer"),
        ("--method ridge --top-layers 1", 2, "no layer carries LoRA"),
        ("--method ridge --cosines 9000", 1, "Take fewer cosines, or class means."),
        ("--method means --cosines 40", 1, "Class means gain nothing from random cosines"),
        ("--method means --ridge 2", 2, "Class means have no ridge."),
        ("--cosines 40", 2, "Add --method ridge."),
        ("--start ridge", 0, "660 values are added up once, over all records."),
        ("--start means --privacy joint --take-back", 0, "started from class means of frozen features"),
        ("--start ridge --privacy off --steps 2 --rate 0.5", 0, "started from ridge regression on frozen"),
        ("--start ridge --no-secure", 1, "--no-secure asks for something else"),
        ("--start ridge --method means", 1, "Leave out --method, or --start."),
        ("--start ridge --rounds 1", 1, "Leave out --rounds, or --start."),
        ("--start ridge --rate 0.5", 1, "Leave out --rate, or --start."),
        ("--start ridge --steps 2", 1, "Leave out --steps, or --start."),
        ("--start ridge --bits 8", 1, "Leave out --bits, or --start."),
        ("--start ridge --canaries 20", 1, "Leave out --canaries, or --start."),
        ("--start ridge --centred 1", 1, "Leave out --centred, or --start."),
        ("--start ridge --top-layers 1", 2, "is a head on frozen features"),
        ("--start ridge --cosines 9", 2, "Add --method ridge."),
        ("--start means --ridge 2", 2, "Class means have no ridge."),
    ],
)
def test_methods_are_options_and_what_does_not_go_together_is_one_line(
    base: BaseModel,
    lead: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: str,
    code: int,
    says: str,
) -> None:
    monkeypatch.setattr(cli_propose, "draft", lambda terms, *_: draft(terms, *consortium(4), base, CODE))
    terms = ("--purpose", "notes", "--labels", "a,b,c", "--model", str(base.path), *options.split())
    assert main(["lead", "propose", "--dir", str(lead), *terms]) == code
    told = capsys.readouterr()
    assert says in told.out + told.err
    assert "Traceback" not in told.err


def test_every_option_of_a_plan_stands_in_the_panel_of_what_is_decided_with_it() -> None:
    parameters = inspect.signature(cli_propose.propose, eval_str=True).parameters
    panels = {name: one.annotation.__metadata__[0].rich_help_panel for name, one in parameters.items()}
    assert {name for name, panel in panels.items() if panel is None} == {"directory", "json"}
    assert (panels["epsilon"], panels["bits"], panels["rounds"]) == (PRIVACY, WIRE, TRAINING)


@pytest.mark.parametrize("offers", [OFFERS, PERSON_OFFERS])
def test_an_analytic_plan_is_calibrated_as_one_full_batch_and_has_room_for_its_sums(
    base: BaseModel, offers: Any
) -> None:
    roster, _ = consortium(4)
    four = {site.name: offers["north"].model_copy(update={"site": site.name}) for site in roster.sites}
    for mode in ("local", "joint"):
        terms = replace(TERMS, mode=mode, secure=True, epsilon=2.0, analytic=Choice())
        plan, start = draft(terms, roster, four, base, CODE)
        mechanism = plan.round_mechanism
        assert mechanism is not None
        assert (mechanism.rate, mechanism.steps) == (1.0, 1)
        assert 1.94 < accounting.epsilon([mechanism], terms.delta) <= 2.0
        assert plan.release is not None
        assert plan.aggregation.range == plan.release.ring.range
        assert not start.any()
        assert start.size == plan.adapter.parameters
        assert Plan.from_bytes(plan.to_bytes()) == plan


@pytest.mark.parametrize("mode", ["local", "joint"])
def test_a_plan_with_a_start_is_calibrated_over_all_its_rounds(base: BaseModel, mode: Any) -> None:
    terms = replace(TERMS, mode=mode, secure=True, epsilon=2.0, start=Choice())
    plan, zero = draft(terms, *consortium(4), base, CODE)
    assert (plan.training.rounds, plan.training.steps, plan.training.rate) == (11, 1, 1.0)
    mechanism = plan.round_mechanism
    assert mechanism is not None
    assert 1.94 < accounting.epsilon([mechanism] * 11, terms.delta) <= 2.0
    assert plan.release is not None
    assert plan.release.mechanism == mechanism
    assert (plan.adapter.top_layers, zero.any()) == (0, False)
    assert Plan.from_bytes(plan.to_bytes()) == plan


def test_a_joint_plan_has_steps_for_rounds_and_noise_for_the_fewest_shares(base: BaseModel) -> None:
    terms = replace(TERMS, mode="joint", secure=True, rounds=20, epsilon=4.0)
    plan, _ = draft(terms, *consortium(4), base, CODE)
    assert (plan.training.rounds, plan.training.steps, plan.training.optimizer) == (20, 1, "sgd")
    assert plan.grid.multiplier(2) == plan.privacy.noise_multiplier
    whole = [plan.round_mechanism] * 20
    assert 3.9 < accounting.epsilon([one for one in whole if one], terms.delta) <= 4.0
    assert Plan.from_bytes(plan.to_bytes()) == plan


@pytest.mark.parametrize("more", [{"secure": False}, {"secure": True, "steps": 3}])
def test_joint_terms_that_cannot_hold_are_refused(base: BaseModel, more: Any) -> None:
    with pytest.raises(PlanError, match="each of its rounds is one step") as caught:
        draft(replace(TERMS, mode="joint", **more), *consortium(4), base, CODE)
    assert caught.value.id == "plan_conflict"
