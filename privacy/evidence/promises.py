"""The statement after NIST SP 800-226 (``dp.statement``) in each language, every line with its grade.

In English these are the lines of ``Statement.lines``; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from markupsafe import Markup

from cloister.privacy.dp.odds import Odds, percent
from cloister.privacy.dp.statement import HAZARDS, Statement, Terms, up
from cloister.privacy.evidence.grades import Grade
from cloister.privacy.evidence.language import Language

Line: TypeAlias = tuple[Markup, Grade]

_EVEN = 0.5


def lines(statement: Statement, words: Language) -> Iterator[Line]:
    """What a plan promises, sentence by sentence."""
    epsilon, terms = statement.epsilon, statement.terms
    if epsilon is None:
        yield words.say("st_none"), Grade.DERIVED
        return
    unit = words.words[terms.unit]
    yield words.say("st_epsilon", epsilon=up(epsilon), delta=f"{terms.delta:g}", unit=unit), Grade.DERIVED
    for sentence in _means(terms, words, unit):
        yield sentence, Grade.DERIVED
    yield words.say(f"st_trust_{terms.mode}", colluders=terms.colluders), Grade.DECLARED
    for sentence in _odds(Odds(epsilon, terms.delta), words, unit):
        yield sentence, Grade.DERIVED
    for name in statement.checked:
        yield words.say("st_checked", what=words.hazards[name]), Grade.DECLARED
    for name in HAZARDS:
        if name not in statement.checked:
            yield words.say("st_not_checked", what=words.hazards[name]), Grade.DECLARED
    for name in statement.not_covered:
        yield words.say("st_not_covered", what=words.uncovered[name]), Grade.DECLARED


def _means(terms: Terms, words: Language, unit: str) -> Iterator[Markup]:
    bound, noise, rate = f"{terms.bound:g}", f"{terms.noise_multiplier:g}", f"{terms.rate:g}"
    yield words.say(f"st_contribution_{terms.unit}", bound=bound, rows=terms.rows_per_person)
    yield words.say(f"st_mechanism_{terms.mode}", noise=noise, steps=terms.steps)
    yield words.say("st_full" if terms.rate == 1 else "st_poisson", unit=unit, rate=rate)
    yield words.say("st_composition")


def _odds(odds: Odds, words: Language, unit: str) -> Iterator[Markup]:
    def said(share: float) -> str:
        text = percent(share)
        return words.words["almost"] if text.startswith("almost") else text

    delta, belief = f"{odds.delta:g}", said(odds.belief(_EVEN))
    yield words.say("st_belief", prior=said(_EVEN), belief=belief, unit=unit, delta=delta)
    yield words.say("st_correct", correct=said(odds.correct(_EVEN)))
    yield words.say("st_hundredth", found=said(odds.true_positive_rate(0.01)), unit=unit)
    yield words.say("st_thousandth", found=said(odds.true_positive_rate(0.001)))
