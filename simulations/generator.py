"""Synthetic triage notes: free text -> department, split over sites that differ as hospitals do.

Each site has its own mix of departments (a Dirichlet draw, evened so that no department is rare
everywhere), knows only some of the phrases of each department and mostly writes in one of four
styles; the common test set has every phrase and style
in equal parts. So one site alone learns little of what the test asks, and all together learn most
of it. Shared weak findings, denials ("denies fever") and wrong labels keep the ceiling below 100 %.

Standard library only; the same settings give the same corpus on every machine. No note stems from
a person: see ``identities``.
"""

from __future__ import annotations

import csv
import datetime
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeAlias

from cloister.client.site.records import Records
from cloister.privacy.errors import UsageError
from cloister.simulations import identities, styles
from cloister.simulations.identities import Person
from cloister.simulations.styles import STYLES, Span, Style
from cloister.simulations.triage import COURSE, DENIED, DEPARTMENTS, STRONG, WEAK

TEST: Final = "test"
COLUMNS: Final = ("text", "label", "site", "person", "date", "style")

_SITES: Final = (
    "riverside",
    "hillcrest",
    "lakeview",
    "saint-anne",
    "northgate",
    "harbour",
    "elmwood",
    "castle",
)
_UNITS: Final = (("day", "d", 6), ("week", "wk", 7), ("month", "mo", 11))
_FIRST_DAY: Final = datetime.date(2023, 1, 1)
_DAYS: Final = 730

_Findings: TypeAlias = dict[str, str]


@dataclass(frozen=True)
class Note:
    """One note.

    Attributes:
        label: the department that it was sent to; wrong in a small share of training notes.
        site: where it was written, ``test`` for the common test set.
        person: whom it is about; several notes may share a person, a person belongs to one site.
        style: the name of its style.
        spans: every identifier in ``text``, in order.
    """

    text: str
    label: str
    site: str
    person: str
    date: datetime.date
    style: str
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class GeneratorSettings:
    """The dials of a corpus.

    Attributes:
        notes: notes of each site.
        test: notes of the common test set; a multiple of 24 balances departments and styles exactly.
        alpha: Dirichlet parameter of each site's mix of departments; small is uneven.
        phrasings: strong phrases of each department that a site knows, of 32.
        own_style: share of a site's notes in its main style; the rest is even over the others.
        second: probability of a second strong finding.
        weak_only: probability that a note has weak findings only.
        label_noise: probability that a training note has a wrong label; test labels are right.
        tiny: notes of the last site, instead of ``notes``; None for no such site.
        canaries: unique secrets, each put into ``copies`` more notes of the first site.
    """

    seed: int = 0
    sites: int = 4
    notes: int = 600
    test: int = 600
    alpha: float = 0.5
    phrasings: int = 12
    own_style: float = 0.7
    second: float = 0.4
    weak_only: float = 0.08
    label_noise: float = 0.04
    tiny: int | None = None
    canaries: int = 0
    copies: int = 1

    def __post_init__(self) -> None:
        counts = (self.sites, self.notes, self.test, self.copies, 1 if self.tiny is None else self.tiny)
        shares = (self.own_style, self.second, self.weak_only, self.label_noise)
        known = min(len(phrases) for phrases in STRONG.values())
        for holds, setting in (
            (min(counts) >= 1 and self.canaries >= 0, "counts are at least 1"),
            (all(0 <= share <= 1 for share in shares), "shares lie between 0 and 1"),
            (self.alpha > 0, "alpha is above 0"),
            (1 <= self.phrasings <= known, f"phrasings lie between 1 and {known}"),
        ):
            if not holds:
                raise UsageError("option_invalid", "The corpus cannot be made.", f"Set it so that {setting}.")


@dataclass(frozen=True)
class Corpus:
    """Training notes by site, in the order of their dates, the common test set and the canaries."""

    train: Mapping[str, tuple[Note, ...]] = field(repr=False)
    test: tuple[Note, ...] = field(repr=False)
    canaries: tuple[str, ...]


@dataclass(frozen=True)
class _Site:
    """What makes one site differ: weights over departments and styles, and the phrases that it knows."""

    name: str
    notes: int
    departments: Sequence[float]
    phrases: Mapping[str, Sequence[str]]
    styles: Sequence[float]


def generate(settings: GeneratorSettings) -> Corpus:
    """The corpus of the settings: the same on every machine and in every run.

    No combination of style, findings, duration, course and denial of a training note occurs in the
    test set, so that no test note is a training note with other identifiers.
    """
    used: set[tuple[str, ...]] = set()
    train: dict[str, tuple[Note, ...]] = {}
    mixes = _mixes(_rng(settings, "mixes"), settings)
    for place in range(settings.sites):
        rng = _rng(settings, f"site {place}")
        site = _site(rng, settings, place, mixes[place])
        train[site.name] = tuple(sorted(_written(rng, settings, site, used), key=lambda note: note.date))
    canaries, planted = _planted(_rng(settings, "canaries"), settings, next(iter(train)))
    if planted:
        name = planted[0].site
        train[name] = tuple(sorted(train[name] + planted, key=lambda note: note.date))
    return Corpus(train, tuple(_tested(_rng(settings, TEST), settings, used)), canaries)


def records(notes: Sequence[Note]) -> Records:
    """Notes as the records that a site would load."""
    return Records(
        tuple(note.text for note in notes),
        tuple(note.label for note in notes),
        tuple(note.person for note in notes),
        tuple(note.site for note in notes),
    )


def write_csv(path: Path, notes: Sequence[Note]) -> None:
    """Notes as the file that a site would have, with the columns of ``COLUMNS``; spans are left out."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([getattr(note, column) for column in COLUMNS] for note in notes)


def _rng(settings: GeneratorSettings, part: str) -> random.Random:
    """A stream of its own for each part of the corpus."""
    return random.Random(f"cloister notes {settings.seed} {part}")  # noqa: S311  # invents text, protects nothing


def _mixes(rng: random.Random, settings: GeneratorSettings) -> list[list[float]]:
    """Each site's weights over departments: Dirichlet draws, fitted so that departments sum up evenly."""
    mixes = [[rng.gammavariate(settings.alpha, 1) + 1e-9 for _ in DEPARTMENTS] for _ in range(settings.sites)]
    for _ in range(100):  # iterative proportional fitting (Deming and Stephan, 1940)
        totals = [sum(column) for column in zip(*mixes, strict=True)]
        mixes = [[weight / total for weight, total in zip(mix, totals, strict=True)] for mix in mixes]
        mixes = [[weight / sum(mix) for weight in mix] for mix in mixes]
    return mixes


def _site(rng: random.Random, settings: GeneratorSettings, place: int, mix: Sequence[float]) -> _Site:
    tiny = settings.tiny is not None and place == settings.sites - 1
    others = (1 - settings.own_style) / (len(STYLES) - 1)
    return _Site(
        _SITES[place] if place < len(_SITES) else f"site-{place + 1}",
        settings.tiny if tiny and settings.tiny is not None else settings.notes,
        mix,
        {department: rng.sample(STRONG[department], settings.phrasings) for department in DEPARTMENTS},
        [settings.own_style if place % len(STYLES) == kind else others for kind in range(len(STYLES))],
    )


def _written(
    rng: random.Random, settings: GeneratorSettings, site: _Site, used: set[tuple[str, ...]]
) -> Iterator[Note]:
    """The training notes of a site, person by person; what they say is added to ``used``."""
    for patient, usual in _visits(rng, site):
        department = usual if rng.random() < 0.6 else rng.choices(DEPARTMENTS, site.departments)[0]
        style = rng.choices(STYLES, site.styles)[0]
        findings = _findings(rng, settings, department, rng.choice(site.phrases[department]), site.phrases)
        used.add(_key(style, findings))
        label = department
        if rng.random() < settings.label_noise:
            label = rng.choice([other for other in DEPARTMENTS if other != department])
        yield _note(rng, site.name, patient, style, findings, label)


def _visits(rng: random.Random, site: _Site) -> Iterator[tuple[Person, str]]:
    """Each visit's person and the department that the person mostly needs."""
    count = 0
    while count < site.notes:
        patient = identities.person(rng, f"{site.name}-{count:05}")
        usual = rng.choices(DEPARTMENTS, site.departments)[0]
        visits = min(rng.choices((1, 2, 3, 4), (55, 25, 12, 8))[0], site.notes - count)
        count += visits
        for _ in range(visits):
            yield patient, usual


def _tested(rng: random.Random, settings: GeneratorSettings, used: set[tuple[str, ...]]) -> Iterator[Note]:
    """The common test set: departments, styles and phrases in turn, findings that no site has used."""
    for number in range(settings.test):
        turn, place = divmod(number, len(DEPARTMENTS))
        department = DEPARTMENTS[place]
        cycle, phrase = divmod(turn, len(STRONG[department]))
        style = STYLES[(phrase + cycle) % len(STYLES)]
        while True:
            findings = _findings(rng, settings, department, STRONG[department][phrase], STRONG)
            if _key(style, findings) not in used:
                break
        patient = identities.person(rng, f"{TEST}-{number:05}")
        yield _note(rng, TEST, patient, style, findings, department)


def _findings(
    rng: random.Random,
    settings: GeneratorSettings,
    department: str,
    strong: str,
    phrases: Mapping[str, Sequence[str]],
) -> _Findings:
    """What a note says about the patient's condition: complaint, time and, by chance, more."""
    weak = rng.sample([finding for finding, shared in WEAK.items() if department in shared], 2)
    complaint = strong
    if rng.random() < settings.weak_only:
        complaint = weak[1]
    elif rng.random() < settings.second and (
        others := [other for other in phrases[department] if other != strong]
    ):
        complaint = f"{strong} and {rng.choice(others)}"
    count, unit = rng.randrange(2, 12), rng.choice(_UNITS)
    count = min(count, unit[2])
    findings = {"complaint": complaint, "time": f"{count} {unit[0]}s", "brief": f"{count}{unit[1]}"}
    if complaint == weak[1] or rng.random() < 0.5:
        findings["also"] = weak[0]
    if rng.random() < 0.5:
        denials = [denied for denied in DENIED if denied not in f"{complaint}, {weak[0]}"]
        findings["denied"] = " or ".join(rng.sample(denials, rng.choice((1, 1, 2))))
    if rng.random() < 0.5:
        findings["course"] = rng.choice(COURSE)
    return findings


def _key(style: Style, findings: _Findings) -> tuple[str, ...]:
    return (style.name, *(f"{slot}={value}" for slot, value in sorted(findings.items())))


def _note(
    rng: random.Random, site: str, patient: Person, style: Style, findings: _Findings, label: str
) -> Note:
    date = _FIRST_DAY + datetime.timedelta(days=rng.randrange(_DAYS))
    if style.short:
        findings = {slot: styles.shorten(value) for slot, value in findings.items()}
    template = rng.choice(style.frames)
    if rng.random() < 0.15:
        template = f"{template} {rng.choice(style.tails)}"
    text, spans = styles.render(
        template,
        styles.body(style, findings | _about(patient, date), rng),
        patient.identifiers | {"clinician": identities.clinician(rng)},
    )
    return Note(text, label, site, patient.id, date, style.name, spans)


def _about(patient: Person, date: datetime.date) -> _Findings:
    they, person, sex = ("She", "woman", "F") if patient.woman else ("He", "man", "M")
    return {"They": they, "person": person, "sex": sex, "age": str(patient.age(date))}


def _planted(
    rng: random.Random, settings: GeneratorSettings, site: str
) -> tuple[tuple[str, ...], tuple[Note, ...]]:
    """The canaries and the notes that hold them: for each, ``copies`` times the same note."""
    secrets = tuple(f"{code:08}" for code in rng.sample(range(10**8), settings.canaries))
    notes: list[Note] = []
    for number, secret in enumerate(secrets):
        department = rng.choice(DEPARTMENTS)
        findings = _findings(rng, settings, department, rng.choice(STRONG[department]), STRONG)
        patient = identities.person(rng, f"{site}-canary-{number}")
        note = _note(rng, site, patient, styles.FRONT_DESK, findings, rng.choice(DEPARTMENTS))
        text, spans = styles.render(" Locker code {canary}.", "", {"canary": secret})
        moved = tuple(
            Span(len(note.text) + span.start, len(note.text) + span.end, span.kind) for span in spans
        )
        notes += [replace(note, text=note.text + text, spans=note.spans + moved)] * settings.copies
    return secrets, tuple(notes)
