"""Sentences of the NCBI disease corpus as four clinics that write about other diseases.

Dogan, Leaman and Lu 2014, "NCBI disease corpus". The file keeps the order of the abstracts but not where each
begins. So runs of eight consecutive sentences, about an abstract, stay together: at one site, and on one side
of what a site keeps back. A run goes to the clinic of whose subject it names the most words.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from cloister.client.site import records
from cloister.client.site.records import Records
from cloister.client.site.sources.place import Place
from cloister.privacy.errors import InputError
from cloister.simulations.engine.holding import Indices

RUN = 8
"""Sentences of a run."""
SUBJECTS = {
    "cancer": "cancer cancers tumor tumors tumour tumours carcinoma carcinomas brca1 brca2 apc leukemia "
    "polyposis retinoblastoma neoplasia melanoma lymphoma breast ovarian colorectal hnpcc wilms",
    "nerves": "dystrophy ataxia huntington alzheimer parkinson myotonic dmd muscular brain telangiectasia "
    "neurodegenerative seizures dementia epilepsy neuropathy autism paralysis retardation",
    "metabolism": "deficiency enzyme pku phenylketonuria phenylalanine hemochromatosis copper wilson menkes "
    "liver lipid cholesterol complement iron adrenoleukodystrophy fatty g6pd lysosomal diabetes anemia",
    "genetics": "",
}
"""Site -> words of its subject; what names fewer than two of any goes to the last."""
RUNS = {"cancer": 48, "nerves": 36, "metabolism": 24, "genetics": 12}
"""The most runs of each site."""
TEST_RUNS = 45
_TOKENS, _TAGS = "tokens", "tags"


def read(data: Path, side: str) -> Records:
    """The sentences of one file, the person of each being its run.

    Raises:
        InputError: ``file_missing``, ``file_format``, ``column_missing``, ``site_empty``, ``tags_invalid``.
    """
    path = data / "ncbi_disease" / f"{side}.jsonl.gz"
    if not path.is_file():
        raise InputError(
            "file_missing", f"There is no {path}.", "Name the folder that holds ncbi_disease with --data."
        )
    place = Place.of(path)
    found = records.raw(place, text=_TOKENS, label=_TAGS, kind="token-classification")
    found = records.usable(found, place.title, {"text": _TOKENS, "label": _TAGS}, "refuse")
    return replace(found, persons=tuple(f"run-{row // RUN}" for row in range(len(found))))


def by_subject(whole: Records, seed: int) -> dict[str, Records]:
    """The sentences of each clinic, as many runs of them as it may have, drawn by a seed.

    Raises:
        InputError: ``site_too_small``, a clinic has fewer than two runs.
    """
    words = [row.words for row in whole.tagged()]
    runs: dict[str, list[int]] = {name: [] for name in SUBJECTS}
    for run in range(-(-len(whole) // RUN)):
        runs[_subject([word for row in words[RUN * run : RUN * (run + 1)] for word in row])].append(run)
    rng = np.random.default_rng(seed)
    return {name: _taken(whole, rng.permutation(own)[: RUNS[name]], name) for name, own in runs.items()}


def some(whole: Records, seed: int) -> Records:
    """As many runs as the common test has, drawn by a seed."""
    runs = np.random.default_rng(seed).permutation(-(-len(whole) // RUN))
    return _taken(whole, runs[:TEST_RUNS], "the common test")


def _subject(words: list[str]) -> str:
    known = {word: name for name, said in SUBJECTS.items() for word in said.split()}
    named = Counter(known[word.lower()] for word in words if word.lower() in known)
    best = max(SUBJECTS, key=lambda name: named[name])  # the first of equals
    return best if named[best] > 1 else next(reversed(SUBJECTS))


def _taken(whole: Records, runs: Indices, name: str) -> Records:
    if len(runs) < 2:
        raise InputError(
            "site_too_small", f"Too few sentences are about the subject of {name}.", "Name the whole corpus."
        )
    rows = np.arange(len(whole))
    return whole.take(rows[np.isin(rows // RUN, runs)])
