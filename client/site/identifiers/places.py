"""Street addresses, postcodes and names: heuristics, with the low recall that ``measured`` gives.

Only the commonest forms of a few languages are sought. Names are found after a title (``Dr. Marsh``) or a
cue (``name: Ada Marsh``) and nowhere else.
"""

from __future__ import annotations

import re

from cloister.client.site.identifiers.patterns import DIGITS, Detector, found_by

_WORD = r"[^\W\d_](?:[^\W\d_]|['’.-](?=[^\W\d_])){0,39}"
_STREET = (
    r"(?:street|st|avenue|ave|road|rd|lane|ln|drive|dr|boulevard|blvd|court|ct|way|place|pl|square|sq|terrace"
    r"|close|crescent|parkway|pkwy|highway|hwy|trail|gardens|grove|hill|row|walk|mews)"
)
_UNIT = r"(?:,?[ \n]{1,5}(?i:apt|apartment|suite|ste|unit|flat|floor|box)\.? ?#?\d{1,5}[A-Za-z]?)"
_ENGLISH = (
    rf"(?<![\w.])\d{{1,5}}[A-Za-z]?(?: \d{{1,4}})? (?:{_WORD} ){{1,4}}(?i:{_STREET})(?!\w)\.?{_UNIT}{{0,2}}"
)
_GERMAN = ("strasse", "straße", "str", "weg", "gasse", "platz", "allee")
_ENDINGS = (*_GERMAN, "gade", "vej", "gata", "gatan", "vägen", "straat", "laan", "katu", "tie")
_ROMANCE = r"(?:rue|avenue|boulevard|place|via|viale|piazza|calle|avenida|rua|strada|ulica|ul\.)"
_NUMBER = r"\d{1,4}(?: ?[A-Za-z])?"
_GERMANIC = rf"(?<!\w)(?:\d{{1,5}} )?(?P<street>[^\W\d_]{{4,40}}+)\.? {_NUMBER}(?!\w){_UNIT}{{0,2}}"
_LATIN = (
    rf"(?<!\w)(?:\d{{1,5}},? )?(?i:{_ROMANCE})(?: (?:[Dd][aeiou]s?|[Dd]el|[Ll][aeo]s?))?(?: {_WORD}){{1,4}}"
    rf"(?: {_NUMBER})?(?!\w){_UNIT}{{0,2}}"
)
_ALONE = r"(?<!\w)(?i:(?:apt|suite)\.? #?\d{1,5}|p\.? ?o\.? box \d{1,6})(?!\w)"
_STATES = (
    r"(?:A[KLPRZAE]|C[AOT]|D[CE]|FL|G[AU]|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|P[AR]|RI|S[CD]|T[NX]"
    r"|UT|V[AIT]|W[AIVY])"
)
_ZIPS = (
    rf"(?<!\w){_STATES},? (?P<it>\d{{5}}(?:-\d{{4}})?)(?![\w-])",
    r"(?<!\w)(?P<it>(?:GIR ?0AA|[A-Z]{1,2}\d[A-Z\d]? \d[A-Z]{2}|[A-Z]\d[A-Z] \d[A-Z]\d))(?!\w)",
    (
        r"(?i)(?<![a-z])(?:zip(?: ?code)?|post(?:al )?code|plz|邮编)(?: is)?[ :：#]{1,3}"
        r"(?P<it>(?=[a-z -]{0,8}\d)[a-z0-9]{2,5}[ -]?[a-z0-9]{2,4})(?!\w)"
    ),
)
_TITLE = (
    r"(?:Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Professor|Doctor|Sir|Dame|Rev|Nurse|Sister|Judge|Herr|Frau|Hr|Fr|Mme|Mlle"
    r"|Madame|Monsieur|Sr|Sra|Señor|Señora)"
)
_NAMES = rf"(?P<it>{_WORD}\.?(?:[ ]{_WORD}\.?){{0,5}})"
_TITLED = rf"(?<![\w.])(?:(?:{_TITLE}|{_TITLE.upper()})(?:\.[ ]?|[ ])){{1,3}}+{_NAMES}"
_CUED = rf"(?i)(?<![\w])(?:(?:full |last |first |sur)?name(?: is|:| :)|i am called)[ ]{{1,2}}{_NAMES}"


_NO_NAMES = frozenset({"I", "I'm", "I've", "What", "We", "We're", "You", "Yes", "No", "The", "My", "How"})
"""Words with a capital that follow ``Doctor`` where somebody is spoken to."""


_PARTICLES = frozenset(
    {"van", "von", "der", "den", "de", "del", "di", "da", "du", "la", "le", "el", "al", "bin", "zu"}
)


def _romance(match: re.Match[str]) -> tuple[int, int] | None:
    """Only with a house number before or behind, and a capital letter in the name."""
    text = match[0]
    numbered = text[:1].isdigit() or re.search(r" \d", text) is not None
    return match.span() if numbered and any(word[:1].isupper() for word in text.split()[1:]) else None


def _germanic(match: re.Match[str]) -> tuple[int, int] | None:
    return match.span() if match["street"].casefold().endswith(_ENDINGS) else None


def _english(match: re.Match[str]) -> tuple[int, int] | None:
    words = re.findall(r"[^\W\d_]+", match[0])
    return match.span() if words[0][:1].isupper() else None


def _capitalised(match: re.Match[str]) -> tuple[int, int] | None:
    """The words up to the first without a capital letter; ``van der`` and the like go on."""
    start = end = match.start("it")
    for word in re.finditer(r"[^ ]+", match["it"]):
        if word[0] in _PARTICLES:
            continue
        if not word[0][:1].isupper() or word[0] in _NO_NAMES:
            break
        end = start + word.end()
        if word[0].endswith(".") and len(word[0]) > 2:  # an initial goes on, a sentence ends
            end -= 1
            break
    return (start, end) if end > start else None


HEURISTIC: tuple[Detector, ...] = (
    found_by("address", _ENGLISH, _english, DIGITS),
    *(found_by("zip", pattern, needs=DIGITS) for pattern in _ZIPS),
    found_by("address", _GERMANIC, _germanic, DIGITS),
    found_by("address", _LATIN, _romance, DIGITS),
    found_by("address", _ALONE, needs=DIGITS),
    found_by("name", _TITLED, _capitalised),
    found_by("name", _CUED, _capitalised),
)
