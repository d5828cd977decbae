"""One function for notebooks and for the command: a scenario in, figures and advice out.

from cloister.simulations.scenarios.simulation import simulate

found = simulate("hospital-triage", epsilon=3.0)
found.comparison.methods["federated_joint"].accuracy
print("\\n".join(found.advice))
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cloister.client.site.records import rows_band
from cloister.privacy import durable, folder
from cloister.privacy.clauses import Persons, Rows
from cloister.privacy.errors import PlanError, UsageError
from cloister.simulations.cluster import running
from cloister.simulations.planner import Question, propose
from cloister.simulations.played import trust_file
from cloister.simulations.scenarios import evidence, page
from cloister.simulations.scenarios.advice import advice, machinery
from cloister.simulations.scenarios.answers import Rehearsal
from cloister.simulations.scenarios.catalogue import DATA, Scenario, find
from cloister.simulations.scenarios.choices import SEEDS
from cloister.simulations.scenarios.comparison import Contest, Engine
from cloister.simulations.scenarios.figures import NEXT, RIGHT, Comparison, Measure
from cloister.simulations.scenarios.file import from_file
from cloister.simulations.scenarios.groups import Groups
from cloister.simulations.scenarios.institutes import Corpus
from cloister.simulations.scenarios.material import Material

NO_BUNDLE = (
    "No bundle: one is of a whole job, whose figures are accuracies of classes; this scenario has tags or "
    "answers. simulation.html, result.json and the sites' ledgers are all that it leaves."
)
NOT_COVERED = (
    "the choice of each way on rows held back",
    "the temperatures, fitted on rows held back",
    "every figure of accuracy, calibration and groups, which is of test rows",
)
"""What epsilon says nothing of."""


@dataclass(frozen=True)
class SiteSize:
    """How large a site is, as it would tell others.

    Attributes:
        rows, persons: bands; persons None where they are not known.
    """

    rows: Rows
    persons: Persons | None


@dataclass(frozen=True, eq=False)
class Simulation:
    """What a simulation found.

    Attributes:
        scenario: what was simulated.
        epsilon, delta: the target of the private methods.
        unit: ``person`` or ``record``: whom it is for.
        seed: of splits, held-back rows and noise.
        seeds: noise seeds of a private method.
        sites: site name -> its size.
        classes, inputs: how many classes there are, and the width of the features.
        test_rows: records of the common test.
        comparison: all figures.
        groups: of the common test rows, where a column is named.
        engine: what ran the first noise seed of each federated method (``comparison.Engine``).
        reported: whether a bundle was made.
        measure: what figures of accuracy are.
    """

    scenario: Scenario
    epsilon: float
    delta: float
    unit: str
    seed: int
    seeds: int
    sites: Mapping[str, SiteSize]
    classes: int
    inputs: int
    test_rows: int
    comparison: Comparison
    groups: Groups | None = None
    engine: Engine = "own"
    reported: bool = False
    measure: Measure = RIGHT

    @property
    def advice(self) -> tuple[str, ...]:
        """Whether to federate, and how, in sentences; of answers, what the machinery did."""
        if self.measure == NEXT:
            return machinery(self.comparison, self.epsilon)
        return advice(self.comparison, self.test_rows, self.epsilon, self.measure)

    @property
    def searched(self) -> bool:
        """Whether ways were chosen on rows held back."""
        return self.measure != NEXT

    @property
    def foreseen(self) -> tuple[str, ...]:
        """What the planner says beforehand, from public terms and expectations; it knows classes only."""
        if self.measure != RIGHT:
            return ()
        units = [size.persons or size.rows for size in self.sites.values()]
        try:
            question = Question(
                tuple((band.low, band.high) for band in units),
                self.classes,
                self.inputs,
                self.epsilon,
                self.delta,
                expected=self.scenario.expected,
            )
            return propose(question).why
        except PlanError as error:
            return (error.what,)

    @property
    def heads(self) -> tuple[str, ...]:
        """The columns of the table."""
        return page.heads(self.measure, losses=self.comparison.loss is not None)

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The table: one row a method."""
        return [page.table_row(name, figures) for name, figures in self.comparison.methods.items()]

    def to_json(self) -> dict[str, Any]:
        """The value of ``result.json``."""
        found = self.comparison
        return {
            "simulation": True,
            "scenario": self.scenario.name,
            "story": self.scenario.story,
            "seed": self.seed,
            "noise_seeds": self.seeds,
            "engine": self.engine,
            "target": {"epsilon": self.epsilon, "delta": self.delta, "unit": self.unit},
            "sites": {
                name: {
                    "rows": size.rows.model_dump(),
                    "persons": None if size.persons is None else size.persons.model_dump(),
                }
                for name, size in self.sites.items()
            },
            "measure": self.measure.name,
            "test_rows": self.test_rows,
            "methods": {
                name: asdict(figures) | {"worst_site": figures.worst_site}
                for name, figures in found.methods.items()
            },
            "curves": {name: [list(point) for point in points] for name, points in found.curves.items()},
            "groups": None
            if self.groups is None
            else {"column": self.groups.column, "rows": self.groups.shown, "hidden": self.groups.hidden},
            "not_covered_by_epsilon": list(NOT_COVERED),
            "simple": {"accuracy": found.simple[0], "model": found.simple[1]},
            "majority": found.majority,
            "loss": found.loss,
            "meaning": self.scenario.meaning,
            "advice": list(self.advice),
            "planner": list(self.foreseen),
            "seconds": dict(found.seconds),
            "bundle": "bundle" if self.reported else None,
        }


def simulate(
    what: str | Path | Scenario,
    *,
    out: Path | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    data: Path = DATA,
    seed: int = 0,
    seeds: int = SEEDS,
    bundle: bool = True,
    say: Callable[[str], None] = lambda _: None,
    engine: Engine = "own",
) -> Simulation:
    """Plays a consortium in this process and compares every way to get a model.

    Args:
        what: the name of a scenario, a ``.toml`` file (``scenarios.file``), or a scenario.
        out: a folder that does not exist or is empty: gets ``result.json``, ``simulation.html``, the
            sites' ledgers and a bundle. None to write nothing.
        epsilon, delta: another target than the scenario's.
        data: the folder with the data sets that some scenarios need.
        seed: of splits, held-back rows and noise; the same seed gives the same figures.
        seeds: how many noise seeds a private method gets, at least 1.
        bundle: whether the recommended private way is run as a whole job, whose bundle goes to ``out``.
        say: told what is going on, line by line.
        engine: what runs the first noise seed of each federated method: ``own``, this process, or ``flower``,
            Flower's engine over Ray (``simulations.cluster``).

    Raises:
        UsageError: ``option_invalid``, ``folder_in_use``.
        InputError: the data cannot be used; ``extra_missing``, Ray is not here.
        RoundError: an actor or a site failed under Flower.
        PlanError, BudgetError: the target cannot be kept.
        EvidenceError: ``bundle_altered``, the bundle does not verify: a bug, which must not be hidden.
    """
    scenario = what if isinstance(what, Scenario) else named(what)
    epsilon = scenario.epsilon if epsilon is None else epsilon
    delta = scenario.delta if delta is None else delta
    if not (0 < epsilon < float("inf") and 0 < delta < 1 and seeds >= 1):
        raise UsageError(
            "option_invalid",
            "Epsilon must be above 0, delta between 0 and 1, and there must be a noise seed.",
            "Try --epsilon 8 --delta 1e-5.",
        )
    if engine == "flower":
        running.require()
    if out is not None:
        folder.claim(out)
    say("Preparing the sites: the shared base model reads every text once …")
    material = scenario.material(data, seed)
    if engine != "own" and (isinstance(material, Corpus) or material.tagged):
        raise UsageError(
            "option_invalid",
            f"Flower's engine runs scenarios of one class a record, and {scenario.name} is another.",
            "Leave out --engine, or take another scenario.",
        )
    with tempfile.TemporaryDirectory() as scratch:
        ledgers = Path(scratch) if out is None else out / "ledgers"
        contest: Contest | None = None
        if isinstance(material, Corpus):
            rehearsal = Rehearsal(material, epsilon, delta, seed, ledgers, say)
            found = _rehearsed(scenario, rehearsal)
        else:
            contest = Contest(material, epsilon, delta, seed, ledgers, say, seeds, engine)
            found = _simulation(scenario, material, contest)
    if out is not None:
        durable.write(out / "simulation.html", page.render(found).encode(), mode=0o644)
        _keep(out, found)
    # A bundle speaks of accuracies, which tags and answers have none of.
    if out is None or not bundle:
        return found
    if contest is None or contest.material.tagged:
        say(NO_BUNDLE)
    else:
        say("A job of the recommended private way, for its evidence …")
        made = evidence.report(scenario.title, contest, found.comparison)
        made.bundle.write(out / "bundle")
        durable.write(out / "trust.json", trust_file(made.keys), mode=0o644)
        found = replace(found, reported=True)
        _keep(out, found)
    return found


def _rehearsed(scenario: Scenario, rehearsal: Rehearsal) -> Simulation:
    material = rehearsal.material
    bands = {name: rows_band(len(rows)) for name, rows in material.train.items()}
    return Simulation(
        scenario=scenario,
        epsilon=rehearsal.epsilon,
        delta=rehearsal.delta,
        unit="record",
        seed=rehearsal.seed,
        seeds=rehearsal.seeds,
        sites={name: SiteSize(Rows(low=low, high=high), None) for name, (low, high) in bands.items()},
        classes=0,
        inputs=material.base.hidden,
        test_rows=len(material.test),
        comparison=rehearsal.run(),
        measure=NEXT,
    )


def _keep(out: Path, found: Simulation) -> None:
    durable.write(out / "result.json", (json.dumps(found.to_json(), indent=1) + "\n").encode(), mode=0o644)


def named(what: str | Path) -> Scenario:
    """A scenario by its name or its ``.toml`` file.

    Raises:
        UsageError: ``option_invalid``.
        InputError: ``file_missing``, ``file_format``.
    """
    path = Path(what)
    return from_file(path) if path.suffix == ".toml" else find(str(what))


def _simulation(scenario: Scenario, material: Material, contest: Contest) -> Simulation:
    sites = {
        name: SiteSize(held.rows_band, held.persons_band(held.most_rows))
        for name, held in material.train.items()
    }
    return Simulation(
        scenario=scenario,
        epsilon=contest.epsilon,
        delta=contest.delta,
        unit="person" if material.by_person else "record",
        seed=contest.seed,
        seeds=contest.seeds,
        sites=sites,
        classes=len(material.labels),
        inputs=material.test.features.shape[1],
        test_rows=material.test.records,
        comparison=contest.run(),
        groups=material.groups,
        engine=contest.engine,
        measure=material.measure,
    )
