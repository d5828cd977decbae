"""``cloister lead plan``: what it proposes, that its command line proposes just that, and what it refuses."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.privacy.clauses import Rows
from cloister.privacy.cli import main
from cloister.privacy.consent import Offer
from cloister.privacy.dp import accounting
from cloister.privacy.errors import PlanError
from cloister.privacy.identity import PrivateIdentity, Roster
from cloister.privacy.layout import dense
from cloister.privacy.model import BaseModel, Columns, describe
from cloister.privacy.plan import Plan
from cloister.server import cli_plan, cli_propose
from cloister.server.analytic import Choice
from cloister.server.outline import Ground, outline
from cloister.server.planning import Limits, Wish, plan_for
from cloister.server.proposal import draft
from cloister.server.terms import Terms
from tests import models, tables
from tests.policies import policy_json

CODE = "sha256:" + "c" * 64
NAMES = tuple(f"site-{k}" for k in range(4))
ROSTER = Roster(
    "hospitals",
    (
        PrivateIdentity.generate("lead", "lead").public,
        *(PrivateIdentity.generate(name, "site").public for name in NAMES),
    ),
)
WISH = Wish(Terms("notes to departments", ("a", "b", "c"), epsilon=8.0))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return describe(models.write(tmp_path_factory.mktemp("models") / "tiny"))


def ground(base: BaseModel, low: int = 128) -> Ground:
    rows = Rows(low=low, high=2 * low - 1)
    offers = {name: Offer(site=name, dataset="notes", rows=rows, code=CODE) for name in NAMES}
    return Ground(ROSTER, offers, base, CODE)


class TestChoice:
    def test_many_units_take_lora_on_all_layers_and_few_the_head_alone(self, base: BaseModel) -> None:
        many, few = (plan_for(WISH, ground(base, low)) for low in (8192, 1024))
        assert many.chosen.plan.adapter.top_layers == ground(base).layers()
        assert few.chosen.plan.adapter.top_layers == 0
        assert "LoRA did no better" in few.why[1]

    def test_joint_noise_is_taken_where_each_sites_own_would_show(self, base: BaseModel) -> None:
        strict = replace(WISH, terms=replace(WISH.terms, epsilon=0.3))
        small, large = (plan_for(strict, ground(base, low)) for low in (32, 4096))
        assert small.chosen.plan.joint
        assert small.why[0].startswith("Joint noise pays")
        assert large.chosen.plan.privacy.mode == "local"
        assert large.why[0].startswith("Joint noise buys nothing that would show")

    def test_what_is_asked_for_is_kept_and_contradicted_in_words(self, base: BaseModel) -> None:
        asked = replace(WISH, mode="joint", top_layers=1, rounds=7, rate=0.5)
        found = plan_for(asked, ground(base, 4096))
        plan = found.chosen.plan
        assert (plan.joint, plan.adapter.top_layers, plan.training.rounds, plan.training.rate) == (
            True,
            1,
            7,
            0.5,
        )
        assert found.why[1] == "The mode joint was asked for all the same."

    def test_lora_over_many_units_with_joint_noise_takes_the_course_that_was_measured(
        self, base: BaseModel
    ) -> None:
        found = plan_for(replace(WISH, mode="joint"), ground(base, 8192))
        plan = found.chosen.plan
        training = plan.training
        assert (training.optimizer, training.rounds, training.rate, training.momentum) == (
            "adam",
            34,
            0.1,
            0.8,
        )
        assert (training.head_rate, training.adapter_rate) == (0.01, 0.003)
        assert (plan.privacy.bound, plan.lora.alpha) == (4.0, 32.0)
        assert "--optimizer adam --head-rate 0.01 --adapter-rate 0.003 --momentum 0.8" in found.command
        assert "--bound 4.0 --alpha 32.0" in found.command
        for other in (replace(WISH, mode="local"), replace(WISH, mode="joint", top_layers=0)):
            assert plan_for(other, ground(base, 8192)).chosen.plan.training.optimizer == "sgd"

    def test_more_layers_than_there_are_mean_all_of_them(self, base: BaseModel) -> None:
        found = plan_for(replace(WISH, top_layers=99), ground(base))
        assert found.chosen.plan.adapter.top_layers == ground(base).layers()

    def test_without_privacy_nothing_is_promised(self, base: BaseModel) -> None:
        found = plan_for(replace(WISH, mode="off"), ground(base))
        assert (found.chosen.epsilon, found.chosen.noise_factor) == (0.0, 0.0)
        assert "no epsilon covers" in found.why[0]
        assert "--epsilon" not in found.command


class TestOutline:
    @pytest.mark.parametrize("top_layers", [0, 1])
    def test_the_target_is_kept_and_nearly_used_up(self, base: BaseModel, top_layers: int) -> None:
        terms = replace(WISH.terms, mode="local", secure=True, top_layers=top_layers)
        found = outline(terms, ground(base))
        mechanism = found.plan.round_mechanism
        assert mechanism is not None
        assert found.epsilon == accounting.epsilon([mechanism] * found.plan.training.rounds, terms.delta)
        assert 7.8 < found.epsilon <= 8.0
        assert found.noise_factor == 2.0

    def test_taking_back_costs_a_second_vector_and_lowers_the_noise(self, base: BaseModel) -> None:
        terms = replace(WISH.terms, mode="joint", secure=True)
        plain, back = (outline(replace(terms, surplus=way), ground(base)) for way in (False, True))
        assert (back.sums, back.bytes_up) == (2 * plain.sums, 2 * plain.bytes_up)
        assert (plain.noise_factor, back.noise_factor) == pytest.approx((2**0.5, (4 / 3) ** 0.5))

    def test_a_start_is_one_sum_of_another_length(self, base: BaseModel) -> None:
        terms = replace(WISH.terms, mode="joint", secure=True, start=Choice(), rounds=5)
        plain, back = (outline(replace(terms, surplus=way), ground(base)) for way in (False, True))
        width, classes = base.hidden + 1, 3
        first = width * (width + 1) // 2 + width * classes
        assert plain.bytes_up == 4 * (first + 4 * width * classes)
        assert (back.sums, back.bytes_up) == (9, 4 * (first + 8 * width * classes))

    def test_few_bits_are_counted_as_they_are_packed(self, base: BaseModel) -> None:
        terms = replace(WISH.terms, mode="local", secure=True)
        wide, narrow = (outline(replace(terms, bits=bits), ground(base)) for bits in (None, 16))
        assert 0.5 <= narrow.bytes_up / wide.bytes_up < 0.51

    def test_time_is_told_only_where_a_speed_is_and_grows_with_the_layers(self, base: BaseModel) -> None:
        terms = replace(WISH.terms, mode="local", secure=True)
        assert outline(terms, ground(base)).seconds is None
        head, some = (outline(replace(terms, top_layers=top), ground(base), 10.0).seconds for top in (0, 1))
        assert head == pytest.approx(255 / 10 + 4 * 1.5)
        assert some is not None
        assert some > head


class TestLimits:
    def test_rounds_are_left_out_until_the_bytes_fit(self, base: BaseModel) -> None:
        free = plan_for(WISH, ground(base)).chosen
        each = free.bytes_up // free.plan.training.rounds
        found = plan_for(WISH, ground(base), Limits(sent=11 * each + 5))
        assert found.chosen.plan.training.rounds == 11
        assert found.chosen.bytes_up == 11 * each
        assert "are allowed" in found.passed[0]
        assert "--rounds 11" in found.command

    def test_so_they_are_until_the_time_does(self, base: BaseModel) -> None:
        found = plan_for(WISH, ground(base), Limits(seconds=45.0, speed=10.0))
        assert found.chosen.plan.training.rounds == (45 - 25.5) // 1.5
        assert found.chosen.seconds is not None
        assert found.chosen.seconds <= 45

    def test_lora_that_does_not_fit_gives_way_to_the_head(self, base: BaseModel) -> None:
        wide = plan_for(WISH, ground(base, 8192)).chosen
        one = wide.bytes_up // wide.plan.training.rounds
        found = plan_for(WISH, ground(base, 8192), Limits(sent=one))
        assert found.chosen.plan.adapter.top_layers == 0
        assert len(found.passed) >= 2

    @pytest.mark.parametrize(
        ("change", "limits", "says"),
        [
            ({}, Limits(epsilon=2.0), ("Epsilon 8 is asked, and 2 is allowed.", "--epsilon 2.0")),
            ({"rounds": 30, "top_layers": 0}, Limits(sent=5000), ("5,000 are allowed", "--rounds")),
            ({"top_layers": 1}, Limits(sent=2000), ("LoRA of rank 8", "--top-layers 0")),
        ],
    )
    def test_what_does_not_fit_is_refused_with_the_nearest_that_does(
        self, base: BaseModel, change: dict[str, Any], limits: Limits, says: tuple[str, str]
    ) -> None:
        with pytest.raises(PlanError) as caught:
            plan_for(replace(WISH, **change), ground(base), limits)
        assert caught.value.id == "plan_conflict"
        assert says[0] in caught.value.what
        assert says[1] in caught.value.do
        assert "cloister lead propose" in caught.value.do

    def test_where_nothing_fits_nothing_is_suggested(self, base: BaseModel) -> None:
        with pytest.raises(PlanError, match="No plan fits"):
            plan_for(WISH, ground(base), Limits(sent=10))

    def test_a_target_that_no_noise_keeps_is_refused(self, base: BaseModel) -> None:
        with pytest.raises(PlanError, match="No noise keeps"):
            plan_for(replace(WISH, terms=replace(WISH.terms, epsilon=1e-9, delta=1e-15)), ground(base))


def listening(
    lead: tuple[str, ...], base: BaseModel, monkeypatch: pytest.MonkeyPatch, low: int = 128
) -> list[Plan]:
    """A lead's folder whose sites have offered, and the plans that are then proposed from it."""
    known, proposed = ground(base, low), []

    def drafted(terms: Terms, *_: object) -> tuple[Plan, Any]:
        plan, start = draft(terms, known.roster, known.offers, base, CODE)
        proposed.append(plan)
        return plan, start

    assert main(["lead", "init", "--name", "hospitals", *lead]) == 0
    monkeypatch.setattr(cli_plan, "_offered", lambda *_: (known, None))
    monkeypatch.setattr(cli_propose, "draft", drafted)
    return proposed


class TestTables:
    COMMON = ("lead", "plan", "--purpose", "hearts")

    @pytest.fixture
    def columns(self, tmp_path: Path) -> str:
        (tmp_path / "columns.toml").write_bytes(tables.COLUMNS)
        return str(tmp_path / "columns.toml")

    @pytest.mark.parametrize(
        ("options", "trained"), [("", "a linear model"), ("--hidden 5", "one hidden layer of 5")]
    )
    def test_the_line_that_it_ends_with_proposes_just_that(
        self,
        columns: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        options: str,
        trained: str,
    ) -> None:
        lead = ("--dir", str(tmp_path / "lead"))
        proposed = listening(lead, Columns.of(tables.TABLE), monkeypatch)
        capsys.readouterr()
        assert main([*self.COMMON, *lead, "--columns", columns, *options.split()]) == 0
        told = capsys.readouterr().out
        assert f"For 4 sites: {trained}" in told
        assert "no LoRA" not in told
        assert "need no base model" in told
        assert main(shlex.split(told.splitlines()[-1])[1:]) == 0
        (plan,) = proposed
        hidden = 5 if options else None
        assert plan.adapter.parameters == dense(tables.TABLE.width, hidden, 2).size
        assert f"{plan.adapter.parameters:,} parameters." in told
        assert (plan.training.rounds, plan.training.rate) == (30, 1.0)
        assert f"Noise multiplier {plan.privacy.noise_multiplier:g}," in told

    def test_more_parameters_are_more_noise(self) -> None:
        table = Terms("hearts", ("no", "yes"), task="tabular-classification", table=tables.TABLE)
        known = ground(Columns.of(tables.TABLE), 64)
        wide, plain = (
            plan_for(Wish(replace(table, hidden=hidden, epsilon=1.0)), known) for hidden in (64, None)
        )
        assert (wide.chosen.plan.joint, plain.chosen.plan.joint) == (True, False)

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ("--hidden 5", "Rows of a table need their columns."),
            ("--labels a,b --columns {}", "Leave out --labels."),
            ("--top-layers 1 --columns {}", "A table has no layers for LoRA."),
            ("--columns none.toml", "none.toml"),
        ],
    )
    def test_what_does_not_go_together_is_refused(
        self, columns: str, capsys: pytest.CaptureFixture[str], options: str, says: str
    ) -> None:
        assert main([*self.COMMON, "--sites", "99,99,99", *options.format(columns).split()]) in (1, 2)
        told = capsys.readouterr()
        assert says in told.err
        assert told.out == ""


class TestSession:
    COMMON = ("lead", "plan", "--purpose", "it's notes", "--labels", "a,b,c")

    def ask(self, base: BaseModel, *options: str) -> int:
        return main([*self.COMMON, "--model", str(base.path), *options])

    @pytest.mark.parametrize(
        ("options", "low"),
        [
            ("--epsilon 2.5", 128),
            ("--privacy joint --take-back", 128),
            ("--privacy joint --take-back", 8192),
            ("--privacy local --top-layers 1 --rounds 6 --rate 0.35", 128),
            ("--privacy off", 128),
            ("--colluding 1 --minimum 4 --most-bytes 4000", 128),
        ],
    )
    def test_the_line_that_it_ends_with_proposes_just_that(
        self,
        base: BaseModel,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        options: str,
        low: int,
    ) -> None:
        lead = ("--dir", str(tmp_path / "lead"))
        proposed = listening(lead, base, monkeypatch, low)
        capsys.readouterr()
        assert self.ask(base, *lead, *options.split(), "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert self.ask(base, *lead, *options.split()) == 0
        line = capsys.readouterr().out.splitlines()[-1]
        assert line == told["command"]
        words = shlex.split(line)
        assert words[:3] == ["cloister", "lead", "propose"]
        assert main(words[1:]) == 0
        (plan,) = proposed
        assert plan.privacy.mode == told["mode"]
        assert plan.privacy.noise_multiplier == told["noise_multiplier"]
        assert plan.adapter.parameters == told["adapter"]["parameters"]
        course = (plan.training.rounds, plan.training.steps, plan.training.rate)
        assert course == (told["rounds"], told["steps"], told["rate"])
        training, rates = plan.training, told["learning_rates"]
        assert (training.optimizer, plan.privacy.bound) == (told["optimizer"], told["bound"])
        assert (training.head_rate, training.adapter_rate) == (rates["head"], rates["adapter"])
        assert plan.purpose == "it's notes"
        assert bool(plan.aggregation.surplus) == ("--take-back" in options)

    def test_it_answers_before_there_is_a_site(
        self, base: BaseModel, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.ask(base, "--sites", "128-255,300,64-127", "--unit", "person") == 0
        told = capsys.readouterr().out
        assert "For 3 sites: the head alone; " in told
        assert "for one person" in told
        assert "Time is not predicted" in told
        assert "--dir" not in told

    def test_the_policy_of_the_consortium_is_kept(
        self, base: BaseModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lead = ("--dir", str(tmp_path / "lead"))
        assert main(["lead", "init", "--name", "hospitals", *lead]) == 0
        (tmp_path / "policy.json").write_text(json.dumps(policy_json(privacy__epsilon=3)))
        (tmp_path / "lead" / "policy.yaml").write_text(json.dumps(policy_json(privacy__epsilon=3)))
        (tmp_path / "lead" / "policy.yaml").chmod(0o600)
        capsys.readouterr()
        assert self.ask(base, *lead, "--epsilon", "4") == 1
        assert "Epsilon 4 is asked, and 3 is allowed." in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("options", "code", "says"),
        [
            ("--sites 128,x,64", 2, "'x' is no band of units"),
            ("--sites 255-128,64,64", 2, "'255-128' is no band"),
            ("--sites 128,128", 1, "hides no update"),
            ("--sites 128,128,128 --labels a", 2, "At least two labels"),
            ("--sites 128,128,128 --epsilon nan", 2, "Epsilon must be above 0"),
            ("--sites 128,128,128 --most-seconds 60", 2, "nobody here has measured"),
            ("--sites 128,128,128 --rows-per-second 0", 2, "above 0"),
            ("--sites 128,128,128 --rate 2", 1, "rate"),
            ("--sites 128,128,128 --rate nan", 2, "--rate must be a number above 0"),
            ("--sites 128,128,128 --most-epsilon nan", 2, "--most-epsilon must be"),
            ("--sites 128,128,128 --most-seconds nan --rows-per-second 9", 2, "--most-seconds must be"),
            ("--sites 128,128,128 --most-bytes 10", 1, "No plan fits"),
        ],
    )
    def test_what_cannot_be_answered_ends_in_one_line(
        self, base: BaseModel, capsys: pytest.CaptureFixture[str], options: str, code: int, says: str
    ) -> None:
        assert self.ask(base, *options.split()) == code
        told = capsys.readouterr()
        assert says in told.err
        assert told.err.count("\n") == 1
        assert told.out == ""
