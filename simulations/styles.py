"""Four ways in which a site writes: the frames of a note, and rendering with exact spans.

A note is a *body* (what the patient has, in the words of the style) set into a *frame* (who it is,
with identifiers) and sometimes followed by a *tail* (an administrative line). Only frames and tails
name identifiers, and :func:`render` records where it puts them.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Span:
    """A gold identifier: ``text[start:end]`` is of this kind. Offsets count code points."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class Style:
    """How one kind of document is worded.

    Attributes:
        frames: the note around ``{body}``; every other field is a kind of identifier.
        complaint, also, denial, course: sentences of the body, one of each is drawn.
        tails: administrative lines.
        short: whether findings are abbreviated as in a telegram.
    """

    name: str
    frames: tuple[str, ...]
    complaint: tuple[str, ...]
    also: tuple[str, ...]
    denial: tuple[str, ...]
    course: tuple[str, ...]
    tails: tuple[str, ...]
    short: bool = False


FRONT_DESK: Final = Style(
    "front-desk",
    frames=(
        "{name}, born {birth_date}, came to the front desk. {body}",
        "Walk-in at reception: {name}. {body} Can be reached on {phone}.",
        "{name} (record {record_number}) was brought in by a relative. {body}",
        "A new patient registered today. {body} Name {name}, living at {address}.",
        "{body} Seen at the desk by {clinician}; file {record_number}.",
    ),
    complaint=(
        "The patient reports {complaint} for {time}.",
        "{They} came because of {complaint}, which began {time} ago.",
        "For about {time} there has been {complaint}.",
        "Main reason for the visit: {complaint}, now {time}.",
    ),
    also=("{They} also mentions {also}.", "There is {also} as well.", "On asking, {also} too."),
    denial=("{They} denies {denied}.", "No {denied}.", "{They} has not had {denied}."),
    course=("It is {course}.", "So far it is {course}.", "{They} describes it as {course}."),
    tails=(
        "Card on file {card}.",
        "Insurance asked for the social security number, {ssn}.",
        "Prefers mail to {email}.",
        "Deposit to be returned to {iban}.",
    ),
)

TELEGRAM: Final = Style(
    "telegram",
    frames=(
        "{body} MRN {record_number}",
        "{record_number} {body} {clinician}",
        "{name} DOB {birth_date}. {body}",
        "{body} Tel {phone}",
        "{body}",
    ),
    complaint=(
        "{age}{sex} C/O {complaint} x{brief}.",
        "{age}{sex} {complaint} {brief}.",
        "{sex} {age} PC {complaint}, {brief}.",
    ),
    also=("Also {also}.", "+ {also}.", "Assoc {also}."),
    denial=("Neg {denied}.", "No {denied}.", "Nil {denied}."),
    course=("{course}.", "Course {course}."),
    tails=("SSN {ssn}", "CC {card}", "NOK {email}"),
    short=True,
)

REFERRAL: Final = Style(
    "referral",
    frames=(
        "Dear colleague, thank you for seeing {name}, date of birth {birth_date}. {body} Yours, {clinician}",
        "Re: {name}, {address}. {body} I would value your opinion. {clinician}",
        "Dear {clinician}, I would be grateful for an appointment for {name} ({record_number}). {body}",
        "Referral of {name}. {body} The practice number is {phone}.",
        "To whom it may concern. {body} With kind regards, {clinician}",
    ),
    complaint=(
        "This {age}-year-old {person} presents with {complaint} over {time}.",
        "I reviewed this {person} of {age} years with a history of {complaint} of {time}.",
        "{They} has been troubled by {complaint} for {time}.",
        "The presenting problem is {complaint}, of {time} standing.",
    ),
    also=("Of note is {also}.", "Associated features include {also}.", "{They} further describes {also}."),
    denial=(
        "There is no {denied}.",
        "{They} specifically denies {denied}.",
        "Enquiry was negative for {denied}.",
    ),
    course=("Symptoms are {course}.", "The course has been {course}."),
    tails=(
        "The account for the fee is {iban}.",
        "Correspondence to {email}.",
        "National number {ssn}.",
    ),
)

PHONE_CALL: Final = Style(
    "phone-call",
    frames=(
        'Call from {phone}. "{body}" Caller: {name}.',
        '{name} rang: "{body}" Call back on {phone}.',
        '"{body}" Message taken by {clinician} for {name}, born {birth_date}.',
        'Voicemail, number {phone}: "{body}"',
        '"Hello, this is {name} of {address}. {body}"',
    ),
    complaint=(
        "I've had {complaint} for {time} now.",
        "It's {complaint}, it must be {time}.",
        "So for {time} it's been {complaint}.",
        "I'm ringing about {complaint}, started {time} ago.",
    ),
    also=("And I get {also}.", "Oh, and {also}.", "There's {also} too, I think."),
    denial=("No, no {denied}.", "I haven't got any {denied}.", "You asked about {denied}: no."),
    course=("It's {course}, really.", "It's been {course}.", "I'd say it's {course}."),
    tails=(
        "Caller gave a card for the fee: {card}.",
        "Wants the letter sent to {email}.",
        "Read out {ssn} as proof of identity.",
    ),
)

STYLES: Final[tuple[Style, ...]] = (FRONT_DESK, TELEGRAM, REFERRAL, PHONE_CALL)

_ABBREVIATIONS: Final = tuple(
    (re.compile(rf"\b{words}\b", re.IGNORECASE), short)
    for words, short in (
        ("chest pain", "CP"),
        ("shortness of breath|breathlessness", "SOB"),
        ("headache", "HA"),
        ("palpitations", "palps"),
        ("blood pressure", "BP"),
        ("blood sugar", "BM"),
        ("loss of consciousness", "LOC"),
        ("diarrhoea", "diarr"),
        ("vomiting", "vom"),
        ("weight loss", "wt loss"),
        ("weight", "wt"),
        ("history", "hx"),
        ("abdomen|belly", "abdo"),
        ("patient", "pt"),
        ("right", "R"),
        ("left", "L"),
        ("both", "bilat"),
        ("weakness", "weak"),
        ("numbness", "numb"),
        ("sputum|phlegm", "sput"),
        ("temperature|fever", "temp"),
        ("night", "noct"),
        ("without", "w/o"),
        ("with", "w"),
        ("after", "post"),
        ("before", "pre"),
    )
)
_SMALL_WORDS: Final = re.compile(
    r"\b(?:a|an|the|of|in|on|to|is|that|than|for|somebody|oneself) ", re.IGNORECASE
)


def shorten(phrase: str) -> str:
    """A finding as a telegram has it: known abbreviations in, small words out."""
    for words, short in _ABBREVIATIONS:
        phrase = words.sub(short, phrase)
    return _SMALL_WORDS.sub("", phrase).replace(" and ", " & ")


def body(style: Style, slots: Mapping[str, str], rng: random.Random) -> str:
    """The clinical part of a note; a sentence whose slot is missing is left out."""
    drawn = [rng.choice(style.complaint)]
    drawn += [rng.choice(getattr(style, part)) for part in ("also", "course") if part in slots]
    if "denied" in slots:
        drawn.insert(rng.randrange(1, len(drawn) + 1), rng.choice(style.denial))
    return " ".join(sentence.format_map(slots) for sentence in drawn)


def render(template: str, content: str, identifiers: Mapping[str, str]) -> tuple[str, tuple[Span, ...]]:
    """A template with its body and identifiers filled in, and where the identifiers are.

    Args:
        template: text with ``{body}`` and the kinds of identifiers as fields.
        content: the body.
        identifiers: value by kind.

    Returns:
        (text, spans in the order of the text), so that for every span ``text[start:end]`` is the
        value of its kind.
    """
    text, spans = "", []
    for literal, kind, _, _ in string.Formatter().parse(template):
        text += literal
        if kind == "body":
            text += content
        elif kind is not None:
            spans.append(Span(len(text), len(text) + len(identifiers[kind]), kind))
            text += identifiers[kind]
    return text, tuple(spans)
