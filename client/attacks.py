"""The audit of a finished model at a site: attacks on it with what only the site knows, on the site's word.

Two are run: on the canaries that the plan asked for, and on the site's own units (``site.trial``). Where the
model writes, the answers of canaries are drawn out of it as well. What they find stays in the job's folder
until somebody releases it; then it stands in the event log, once and for all, and so in the site's part of a
bundle. An attack gives the same figures however often it is run.

Formal guarantees:
    The figures of canaries follow from the released model and from what no record went into; they are
    covered by the job's epsilon. Those of units are about real data and not covered: releasing them is a
    release. They hold a number of right guesses of a power of two, and shares in steps of 0.01.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cloister.client.jobs import DONE, Job
from cloister.client.learn import attack, export, scoring, tabular
from cloister.client.learn.adapters import Classifier, get_flat, place_writer, set_flat
from cloister.client.learn.attack import Recited
from cloister.client.learn.model import load_writer
from cloister.client.site import canaries
from cloister.client.site.canaries import Canaries
from cloister.client.site.datasets import Datasets
from cloister.client.site.folder import SiteFolder
from cloister.client.site.trial import FEWEST
from cloister.privacy import canonical, durable
from cloister.privacy.dp import membership, tails
from cloister.privacy.dp.membership import FEWEST as FEWEST_TOLD
from cloister.privacy.dp.membership import Coins, Floats
from cloister.privacy.errors import EvidenceError, ModelError
from cloister.privacy.evidence.opening import Opening
from cloister.privacy.model import BaseModel, agreed_layout
from cloister.privacy.plan import Plan
from cloister.privacy.wire.messages import model_digest

CANARIES, MEMBERSHIP, EXTRACTION = "canaries", "membership", "extraction"
_EVENT, _EXTRACTED = "audit.model", "audit.extracted"
NO_CANARIES = "canaries: the plan has none."
NOT_BOUND = "canaries: they are not here, or not those that the log is bound to."
TOO_FEW = f"membership: fewer than {FEWEST} units that a coin decided each; too few to tell of."
NOTHING_GENERATED = "extraction of texts: does not apply; the model names classes and generates nothing."
NOTHING_TO_DRAW = "extraction of texts: there are no canaries to be drawn out."
FEW_TO_DRAW = f"extraction of texts: fewer than {FEWEST_TOLD} canaries were trained on, or were not."
NOT_FOR_TASK = "canaries, membership, extraction of texts: not built for this task; nothing was tried."
NOT_BUILT = "inversion, reconstruction, shadow models, updates of single rounds: not in this release."


@dataclass(frozen=True)
class Attacked:
    """What one attack found.

    Attributes:
        body: of the event that would tell it.
        opening: of the canaries that it was made on, and what it guessed of them.
    """

    body: dict[str, Any]
    opening: Opening | None = None

    @property
    def event(self) -> str:
        """The type of the event that would tell it."""
        return _EVENT if "attack" in self.body else _EXTRACTED

    @property
    def attack(self) -> str:
        """Its name."""
        return str(self.body.get("attack", EXTRACTION))

    def line(self, private: bool) -> str:
        """What it found, in words, for the person at this machine."""
        body = self.body
        if self.event == _EXTRACTED:
            return self._drawn(private)
        unit = CANARIES if self.attack == CANARIES else "units"
        most = tails.epsilon_lower_bound(body["guesses"], body["guesses"], body["trials"], body["delta"])
        told = [
            f"{self.attack}: {body['correct']} of {body['guesses']} on {body['trials']} {unit} are right",
            f"epsilon is at least {body['bound']:.3f} at 95 % confidence ({most:.3f} if all were right)",
        ]
        if "auc" in body:
            told.append(f"AUC {body['auc']:.2f}, {body['found']:.2f} found at {body['accused']:.2f} accused")
        if "exposure" in body:
            told.append(f"exposure {body['exposure']:.2f} bits")
        return "; ".join([*told, self._covered(private)]) + "."

    def _drawn(self, private: bool) -> str:
        body = self.body
        low = tails.share_at_least(body["extracted"], body["trained"])
        high = tails.share_at_most(body["extracted"], body["trained"])
        share = f"a share of {low:.3f} to {high:.3f}, each end at 95 % confidence"
        told = [
            f"extraction: of {body['trained']} canaries that were trained on, {body['extracted']} come out",
            f"word for word {share}",
            f"of {body['others']} that were not, {body['guessed']}",
            f"of the former its base model gives {body['before']}",
        ]
        return "; ".join([*told, self._covered(private)]) + "."

    def _covered(self, private: bool) -> str:
        return "covered by epsilon" if self.body["covered"] and private else "NOT covered by epsilon"


@dataclass(frozen=True)
class ModelAudit:
    """Attacks on the finished model of one job.

    Attributes:
        site: the site's folder.
        job: a job that is done.
        base: the base model on this machine.
        device: where the model runs, as torch names it.
    """

    site: SiteFolder
    job: Job
    base: BaseModel
    device: str = "cpu"

    def run(self) -> tuple[list[Attacked], list[str]]:
        """Runs all attacks that this job and its data allow; the log says that the data were opened.

        Returns:
            What they found, and why others were not run.

        Raises:
            EvidenceError: ``job_unfinished``.
            ModelError: the base model is not the plan's, or the model here not the job's last.
            StateError: the file of the canaries cannot be used.
            InputError: the dataset cannot be read, or its data are not those that were trained on.
        """
        plan, folder = self.job.plan, self.job.folder
        ended = self._ended()
        if plan.task.generates:
            return self._written(ended)
        if not plan.task.classifies:
            return [], [NOT_FOR_TASK, NOT_BUILT]
        classifier = self._classifier(plan, folder / "model")
        model = get_flat(classifier)
        if model_digest(model) != ended:
            raise ModelError("model_mismatch", "The model here is not the one that the job ended with.")
        given = (plan, self.base, classifier, model)
        found: list[Attacked] = []
        missing = [NOTHING_GENERATED, NOT_BUILT]
        if planted := self._planted():
            own = planted.records(persons=False)
            told = {"commitment": planted.commitment, "covered": plan.privacy.mode != "off"}
            scores, coins = attack.on_canaries(*given, own), planted.coins.included
            one = self._told(CANARIES, ended, (scores, coins), planted.guesses, told)
            found.append(replace(one, opening=planted.opening(scores)))
        else:
            missing.insert(0, NOT_BOUND if plan.canaries else NO_CANARIES)
        trial = Datasets(self.site).trial(plan.site(self.site.name).dataset, plan.digest)
        if trial is not None:
            scores, guesses = attack.on_units(*given, trial), membership.guesses_of(len(trial))
            found.append(self._told(MEMBERSHIP, ended, (scores, trial.members), guesses, {"covered": False}))
        else:
            missing.insert(0, TOO_FEW)
        return found, missing

    def _written(self, ended: str) -> tuple[list[Attacked], list[str]]:
        """As ``run``, of a model that writes."""
        plan, base = self.job.plan, self.base
        order = agreed_layout(plan, base)
        writer = place_writer(*load_writer(base, self.device), order, plan.lora.alpha)
        model = export.vector_of(self.job.folder / "model", order, base.stem)
        if model_digest(model) != ended:
            raise ModelError("model_mismatch", "The model here is not the one that the job ended with.")
        found: list[Attacked] = []
        missing = [NOT_BUILT]
        if planted := self._planted():
            drawn = attack.drawn_out(plan, base, writer, model, planted.records(persons=False))
            coins, covered = planted.coins.included, plan.privacy.mode != "off"
            told = {"commitment": planted.commitment, "covered": covered}
            one = self._told(CANARIES, ended, (drawn.scores, coins), planted.guesses, told)
            found.append(replace(one, opening=planted.opening(drawn.scores, drawn.after)))
            if min(coins.sum(), (~coins).sum()) >= FEWEST_TOLD:
                found.append(Attacked({"model": ended, **told, **_counts(drawn, coins)}))
            else:
                missing.insert(0, FEW_TO_DRAW)
        else:
            missing = [NOT_BOUND if plan.canaries else NO_CANARIES, NOTHING_TO_DRAW, *missing]
        trial = Datasets(self.site).trial(plan.site(self.site.name).dataset, plan.digest)
        if trial is not None:
            scores, guesses = (
                attack.on_written(plan, base, writer, model, trial),
                membership.guesses_of(len(trial)),
            )
            found.append(self._told(MEMBERSHIP, ended, (scores, trial.members), guesses, {"covered": False}))
        else:
            missing.insert(0, TOO_FEW)
        return found, missing

    def _classifier(self, plan: Plan, folder: Path) -> Classifier:
        """The finished model; raises ``ModelError`` as ``export.load`` and ``scoring.load`` do."""
        if plan.task.table:
            order = agreed_layout(plan, self.base)
            model, tensors = tabular.placed(plan, order, self.device), scoring.load(folder).tensors
            set_flat(model, np.concatenate([tensors[name].ravel() for name, _ in order.tensors]))
            return model
        return export.load(folder, self.base, self.device).classifier

    def release(self, found: Attacked) -> bool:
        """Puts what an attack found into the event log; whether it was not there before.

        Raises:
            EvidenceError: ``claim_not_reproducible``, other figures of this attack were released before.
        """
        told = [e.body for e in self._events(found.event)]
        known = [body for body in told if body.get("attack", EXTRACTION) == found.attack]
        if known and dict(known[0]) != found.body:
            raise EvidenceError(
                "claim_not_reproducible",
                f"Other figures of the attack on {found.attack} were released before.",
                "Data, software or model have changed since; what was released stands.",
            )
        if not known:
            self.site.log.append(found.event, job=self.job.plan.digest, **found.body)
        return not known

    def open(self, found: Attacked) -> bool:
        """Puts the opening of the canaries into the site's part; whether there was one to open.

        The figures of the attack must have been released.

        Raises:
            EvidenceError: ``claim_not_reproducible``, other guesses were opened before.
        """
        if found.opening is None:
            return False
        data = found.opening.to_bytes()
        commitment = found.opening.commitment
        body: dict[str, Any] = {"commitment": commitment, "opening": canonical.digest(data)}
        known = [dict(event.body) for event in self._events("audit.opened")]
        if known and known[0] != body:
            raise EvidenceError(
                "claim_not_reproducible",
                "Other guesses of these canaries were opened before.",
                "Data, software or model have changed since; what was opened stands.",
            )
        durable.write(self.job.folder / canaries.OPENING, data)  # before the event that names it
        if not known:
            self.site.log.append("audit.opened", job=self.job.plan.digest, **body)
        return True

    def _ended(self) -> str:
        """The digest of the model that the job ended with, by the log."""
        received = [str(event.body["model"]) for event in self._events("model.received")]
        if self.job.state != DONE or not received:
            raise EvidenceError("job_unfinished", "The log here does not say that this job was finished.")
        return received[-1]

    def _planted(self) -> Canaries | None:
        """The canaries of the job, if it had some and the log is bound to them."""
        if not (self.job.folder / canaries.FILE).exists():
            return None
        found = canaries.canaries_of(self.job.plan, self.job.folder, self.site.vault)
        bound = [event.body["commitment"] for event in self._events("audit.planted")]
        return found if found and bound == [found.commitment] else None

    def _events(self, kind: str) -> Iterator[Any]:
        job = self.job.plan.digest
        return (e for e in self.site.log.entries() if (e.type, e.job) == (kind, job))

    def _told(
        self, name: str, model: str, seen: tuple[Floats, Coins], guesses: int, more: dict[str, Any]
    ) -> Attacked:
        scores, coins = seen
        correct, delta = membership.guessed(scores, coins, guesses), self.job.plan.privacy.delta
        body = {"attack": name, "model": model, "trials": len(coins), "guesses": guesses, **more}
        body |= {"correct": correct, "delta": delta}
        body["bound"] = tails.epsilon_lower_bound(correct, guesses, len(coins), delta)
        figures = membership.separation(scores, coins)
        if figures is not None:
            exposure = {"exposure": figures.exposure} if name == CANARIES else {}
            shares = {"auc": figures.auc, "accused": figures.accused, "found": figures.found, **exposure}
            body |= {key: round(value, 2) for key, value in shares.items()}
        return Attacked(body)


def _counts(drawn: Recited, coins: Coins) -> dict[str, int]:
    """How many answers came out word for word."""
    return {
        "trained": int(coins.sum()),
        "extracted": int(drawn.after[coins].sum()),
        "others": int((~coins).sum()),
        "guessed": int(drawn.after[~coins].sum()),
        "before": int(drawn.before[coins].sum()),
    }
