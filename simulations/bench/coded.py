"""Whole jobs in one process whose updates travel coded or not: what arrives, and how good the model gets.

Four sites with sentences of SST-2, Dirichlet 0.5 by label, fine-tune MiniLM with LoRA of rank 8 on query
and value of all six layers. Site and lead are the product's own over a grid without sockets: keys, seals,
ledgers, masks. All ways of one seed start from the same model on the same sentences, with the same first
sample; later samples and noise are bound to the model, and so differ as soon as it does.
"""

from __future__ import annotations

import csv
import gzip
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from cloister.client.app import client_app
from cloister.client.learn.adapters import Classifier
from cloister.client.learn.evaluation import predict, score
from cloister.client.learn.features import prepare
from cloister.client.learn.learner import SiteLearner
from cloister.client.learn.model import tokenize
from cloister.client.participation import Participant
from cloister.client.replies import Replies
from cloister.client.site.ledger import Ledger
from cloister.client.site.records import Records, rows_band
from cloister.client.sums import SecureSums
from cloister.privacy import canonical, code
from cloister.privacy.clauses import Rows
from cloister.privacy.consent import Offer
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.errors import InputError
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.identity import PrivateIdentity, Roster
from cloister.privacy.layout import initial
from cloister.privacy.model import DEFAULT, agreed_layout, describe
from cloister.privacy.plan import Plan
from cloister.privacy.wire import messages, sums
from cloister.privacy.wire.envelope import Opened
from cloister.server.app import Federation
from cloister.server.checkpoint import Checkpoint
from cloister.server.exchange import Answer
from cloister.server.proposal import draft
from cloister.server.rounds import Round
from cloister.server.terms import Terms
from cloister.simulations import partition
from cloister.simulations.bench.result import Limit
from cloister.simulations.transport import LocalGrid

SITES: Final = ("north", "south", "west", "coast")
ROWS, TOKENS, LAYERS = 400, 32, 6
"""Sentences of a site on average, tokens of a sentence at most, layers that carry LoRA."""
LABELS: Final = ("0", "1")
_LEAST = 80
_DATASET = "sentences"

_PLAIN = Terms(
    "sentiment",
    LABELS,
    mode="off",
    rounds=4,
    steps=3,
    rate=0.2,
    top_layers=LAYERS,
    max_tokens=TOKENS,
)
_LOCAL = replace(_PLAIN, mode="local")
WAYS: Final[Mapping[str, Terms]] = {
    "off_full": _PLAIN,
    "off_coded": replace(_PLAIN, codec="ternary", down="ternary"),
    "local_full": _LOCAL,
    "local_coded": replace(_LOCAL, codec="ternary", down="ternary"),
    "local_secure": replace(_LOCAL, secure=True, bits=6, down="int8"),
}
"""Without privacy, and in local mode at epsilon 8: 32 bits; three levels with error feedback both ways; few
bits under secure aggregation, and int8 down."""


@dataclass(frozen=True)
class Moved:
    """What one job came to.

    Attributes:
        accuracy: on the common test.
        content: bytes of one update before seal and signature, the largest of all.
        up, down: bytes of envelopes, a site and round; keys, sums and the end included.
    """

    accuracy: float
    content: int
    up: float
    down: float


@dataclass(frozen=True, eq=False)
class Sentences:
    """SST-2 over four sites.

    Attributes:
        train: site -> its sentences.
        test: the common test.
    """

    train: Mapping[str, Records]
    test: Records

    @classmethod
    def load(cls, folder: Path, seed: int) -> Sentences:
        """Sentences of one seed.

        Raises:
            InputError: ``file_missing``, the data set is not there.
        """
        whole = read(folder / "train.csv.gz")
        picked = np.random.default_rng(seed).permutation(len(whole))[: ROWS * len(SITES)]
        chosen = whole.take(picked)
        parts = partition.split(chosen, len(SITES), partition.parse("dirichlet:0.5"), seed, minimum=_LEAST)
        train = {name: chosen.take(rows) for name, rows in zip(SITES, parts, strict=True)}
        return cls(train, read(folder / "test.csv"))


def read(path: Path) -> Records:
    """The sentences of a file with the columns ``text`` and ``label``.

    Raises:
        InputError: ``file_missing``.
    """
    if not path.is_file():
        raise InputError("file_missing", f"{path} is not there.", "Name the folder of data sets with --data.")
    opening: Any = gzip.open if path.suffix == ".gz" else open
    with opening(path, "rt", encoding="utf-8", newline="") as file:
        rows = [(row["text"], row["label"]) for row in csv.DictReader(file) if row["text"].strip()]
    texts, labels = zip(*rows, strict=True)
    return Records(texts, labels)


@dataclass(frozen=True, eq=False)
class Stand:
    """One job of one seed.

    Attributes:
        sentences: what is learnt.
        terms: of the plan.
        seed: of all randomness.
        folder: for ledgers, logs and replies.
    """

    sentences: Sentences
    terms: Terms
    seed: int
    folder: Path
    contents: list[int] = field(default_factory=list)

    def run(self) -> Moved:
        """Runs the job.

        Raises:
            CloisterError: it does not come to its end.
        """
        lead = PrivateIdentity.generate("lead", "lead")
        keys = {name: PrivateIdentity.generate(name, "site") for name in SITES}
        roster = Roster("sentences", (lead.public, *(key.public for key in keys.values())))
        base, installed = describe(DEFAULT), code.installed()
        offers = {name: self._offer(name, installed) for name in SITES}
        plan, _ = draft(self.terms, roster, offers, base, installed)
        start = initial(agreed_layout(plan, base), canonical.digest(f"coded {self.seed}".encode()))
        sites = {name: self._site(plan, keys, roster, name) for name in SITES}
        federation = Federation(
            plan=plan,
            identity=lead,
            roster=roster,
            log=EventLog.open(self.folder / "lead", lead),
            resume=Checkpoint(plan.digest, 0, start, {}, {}),
            save=lambda _: None,
            present=lambda: SITES,
        )
        self._watch(federation)
        grid = LocalGrid({name: client_app({plan.digest: site}) for name, site in sites.items()})
        end = federation.run(grid)
        shares = len(SITES) * plan.training.rounds
        moved = (sum(way.values()) / shares for way in (federation.up, federation.down))
        return Moved(self._accuracy(sites["north"], plan, end), max(self.contents), *moved)

    def _offer(self, name: str, installed: str) -> Offer:
        low, high = rows_band(len(self.sentences.train[name]))
        return Offer(site=name, dataset=_DATASET, rows=Rows(low=low, high=high), code=installed)

    def _site(
        self, plan: Plan, keys: Mapping[str, PrivateIdentity], roster: Roster, name: str
    ) -> Participant:
        folder = self.folder / name
        folder.mkdir(mode=0o700)
        log = EventLog.open(folder / "log", keys[name])
        ledger = Ledger(folder / "ledger.sqlite", log)
        ledger.open_budget(_DATASET, "record", 100.0, self.terms.delta)
        entropy = FixedEntropy(f"coded {self.seed} {name}".encode())
        train = self.sentences.train[name]
        learner = SiteLearner(plan, name, describe(DEFAULT), (train, train.take([])), entropy, folder)
        peers = {peer: key.public for peer, key in keys.items()}
        terms, place = plan.sum_terms, folder / "sums.json"
        secure = SecureSums(terms, keys[name], peers, place) if terms else None
        return Participant(
            plan=plan,
            identity=keys[name],
            lead=roster.lead,
            learner=learner,
            ledger=ledger,
            entropy=entropy,
            log=log,
            replies=Replies(folder / "replies"),
            secure=secure,
        )

    def _watch(self, federation: Federation) -> None:
        """Notes the size of every update that the lead opens."""
        through = federation.mail.opened

        def opened(current: Round, answer: Answer, kinds: tuple[str, ...]) -> Opened:
            found = through(current, answer, kinds)
            if found.header.kind in (messages.UPDATE, sums.MASKED):
                self.contents.append(sum(len(piece) for piece in found.pieces))
            return found

        federation.mail.opened = opened  # type: ignore[method-assign]

    def _accuracy(self, site: Participant, plan: Plan, end: Checkpoint) -> float:
        learner = site.learner
        if not isinstance(learner, SiteLearner) or not isinstance(learner.model, Classifier):
            raise TypeError("the sites of this benchmark learn classes")
        test = self.sentences.test
        model = learner.model
        features = prepare(model, tokenize(describe(DEFAULT), test.texts, TOKENS))
        found = predict(model, features, end.model)
        return score(found, test.targets(plan.task.labels)).accuracy


def moved(sentences: Sentences, way: str, seed: int) -> Moved:
    """One job of one way and seed."""
    with tempfile.TemporaryDirectory() as place:
        return Stand(sentences, WAYS[way], seed, Path(place)).run()


SEEDS: Final = (0, 1, 2, 3, 4)
_COMPARED: Final = {
    "plain": ("off_coded", "off_full"),
    "local": ("local_coded", "local_full"),
    "secure": ("local_secure", "local_full"),
}
"""What is coded, and what it is compared with."""


def figures(found: Mapping[str, Sequence[Moved]]) -> tuple[dict[str, float], dict[str, Limit]]:
    """Figures and targets of all ways over the same seeds.

    Args:
        found: way -> what its jobs came to, by seed.
    """
    told: dict[str, float] = {
        f"accuracy_{way}": statistics.fmean(one.accuracy for one in jobs) for way, jobs in found.items()
    }
    limits = {"plain_bytes": Limit(16_000), "secure_bytes": Limit(60_000)}
    for name, (coded, full) in _COMPARED.items():
        accuracies = [one.accuracy for one in found[full]]
        told[f"{name}_bytes"] = max(one.content for one in found[coded])
        told[f"{name}_wire_up"] = statistics.fmean(one.up for one in found[coded])
        told[f"{name}_wire_down"] = statistics.fmean(one.down for one in found[coded])
        told[f"{name}_loss"] = 100 * (told[f"accuracy_{full}"] - told[f"accuracy_{coded}"])
        told[f"{name}_spread"] = 100 * (max(accuracies) - min(accuracies))
        limits[f"{name}_loss"] = Limit(told[f"{name}_spread"])
    return told, limits


def run(folder: Path) -> tuple[dict[str, float], dict[str, Limit]]:
    """Runs every way with every seed.

    Raises:
        InputError: ``file_missing``, the data set is not there.
    """
    found: dict[str, list[Moved]] = {way: [] for way in WAYS}
    for seed in SEEDS:
        sentences = Sentences.load(folder, seed)
        for way, jobs in found.items():
            jobs.append(moved(sentences, way, seed))
    return figures(found)
