"""The ways that a comparison tries, a handful each: more and larger steps where less noise is added."""

from __future__ import annotations

from cloister.simulations.engine.plans import Course, Promise
from cloister.simulations.engine.ways import HeadSteps, OneRound, Way

SEEDS = 3
"""Noise seeds of a private method."""

_MANY_ROWS = 4000
"""Above so many, the round of banking77 (docs/benchmarks.md) is taken as it is: each try costs seconds."""


def courses(promise: Promise) -> list[Way]:
    """Steps of a head."""
    if promise.mode == "off":
        tried = [(100, 0.3), (100, 1.0), (100, 3.0)]
    elif promise.mode == "local":
        tried = [(10, 3.0), (30, 1.0), (30, 3.0), (30, 8.0)]
    else:
        tried = [(10, 1.0), (10, 3.0), (30, 0.3), (30, 1.0), (30, 2.0)]
    return [HeadSteps(Course(rounds, 1, rate)) for rounds, rate in tried]


def rounds(promise: Promise, *, table: bool, rows: int) -> list[Way]:
    """Analytic rounds: with random cosines where nothing is noised, else with few coordinates.

    Args:
        promise: what is promised.
        table: whether the features are those of a table.
        rows: how many all sites have together, about.
    """
    private = promise.mode != "off"
    if table:
        return _private_table() if private else [_table(ridge) for ridge in (1.0, 3.0, 10.0)]
    if private:
        return [
            OneRound(kind="means", noise_share=0.0),
            OneRound(constant=0.3, ridge=1.0, weight=0.5, noise_share=0.5),
            OneRound(constant=0.3, ridge=1.0, weight=0.5, noise_share=0.15),
        ]
    few = [(0, 0.3), (512, 0.3), (512, 1.0), (512, 3.0)]
    tried = few if rows <= _MANY_ROWS else [(2048, 0.3)]
    return [OneRound(cosines=many, ridge=ridge) for many, ridge in tried]


def tagging(promise: Promise) -> list[Way]:
    """Steps of a head over words. Analytic rounds are not among them: most words are of no entity, and ridge
    finds few of the others.
    """
    if promise.mode == "off":
        tried = [(60, 1.0), (60, 3.0)]
    elif promise.mode == "local":
        tried = [(10, 1.0), (10, 3.0)]
    else:
        tried = [(10, 1.0), (10, 3.0), (30, 1.0)]
    return [HeadSteps(Course(rounds, 1, rate)) for rounds, rate in tried]


def averaging() -> list[Way]:
    """Federated averaging over words, without privacy."""
    return [HeadSteps(Course(20, 3, rate)) for rate in (1.0, 3.0)]


def tagging_round() -> list[Way]:
    """The one analytic round over words, without privacy."""
    return [OneRound(ridge=0.1)]


def _table(ridge: float) -> Way:
    return OneRound(scale=0.3, constant=0.3, ridge=ridge, cut=True)


def _private_table() -> list[Way]:
    return [
        OneRound(kind="means", scale=0.5, constant=0.1, noise_share=0.0),
        OneRound(scale=0.5, constant=0.3, ridge=10.0, weight=0.3),
        OneRound(scale=0.3, constant=0.3, ridge=3.0, noise_share=0.3),
    ]
