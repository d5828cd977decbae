"""The advice: what the figures say and no more."""

from __future__ import annotations

import pytest

from cloister.simulations.scenarios.advice import advice, apart
from cloister.simulations.scenarios.figures import METHODS, Comparison, Figures


def figures(accuracy: float, factor: float = 0.0) -> Figures:
    sites = {"north": accuracy, "south": accuracy}
    return Figures(accuracy, (0.0, 1.0), (accuracy,), sites, sites, "a way", 1.0, factor, 4000, 2)


def comparison(
    lone: float, local: float, joint: float, pooled: float = 0.9, simple: float = 0.5
) -> Comparison:
    values = {
        "local_only": lone,
        "local_only_private": lone,
        "pooled": pooled,
        "pooled_private": pooled,
        "federated_ridge": pooled,
        "federated_local": local,
        "federated_joint": joint,
    }
    factors = {"federated_local": 2.0, "federated_joint": 2**0.5}
    methods = {name: figures(value, factors.get(name, 0.0)) for name, value in values.items()}
    assert set(methods) == set(METHODS)
    return Comparison(methods, (simple, "a simple model"), 0.2, {})


@pytest.mark.parametrize(
    ("found", "rows", "place", "starts"),
    [
        (comparison(0.6, 0.7, 0.8), 1000, 0, "Yes: at epsilon 3 "),
        (comparison(0.8, 0.6, 0.7), 1000, 0, "No: at epsilon 3 "),
        (comparison(0.79, 0.7, 0.8), 1000, 0, "Hardly: at epsilon 3 "),
        (
            comparison(0.6, 0.7, 0.8),
            40,
            1,
            "Joint noise buys nothing that 40 test rows can show (+10.0 points)",
        ),
        (comparison(0.6, 0.7, 0.8), 1000, 1, "Joint noise is worth +10.0 points"),
        (comparison(0.6, 0.8, 0.7), 1000, 1, "Joint noise is -10.0 points here"),
        (comparison(0.6, 0.7, 0.8), 1000, 2, "Without privacy, one analytic round equals all rows"),
        (comparison(0.6, 0.7, 0.8), 1000, 3, "A simple model on all rows pooled"),
        (comparison(0.6, 0.7, 0.8, simple=0.95), 1000, 3, "Beware: a simple model"),
        (comparison(0.6, 0.7, 0.8), 1000, 4, "How: a way; 2 secure sums, 4 kB up"),
    ],
)
def test_sentences_follow_from_the_figures(found, rows, place, starts):
    assert advice(found, rows, 3.0)[place].startswith(starts)


def test_the_reason_for_joint_noise_is_its_size():
    assert "1.41 times smaller" in advice(comparison(0.6, 0.7, 0.8), 1000, 3.0)[1]


def test_what_few_rows_cannot_tell_apart_many_can():
    assert not apart(0.8, 0.84, 100)
    assert apart(0.8, 0.84, 10_000)
    assert not apart(0.8, 0.8, 10**9)
