"""The detectors that ship, for what has a form of its own: numbers, addresses of machines, dates.

A detector reads a folded text and gives spans of it. Every pattern runs in linear time: a run of characters
is entered at its beginning only (by a look-behind of its own class) and taken whole (possessively), or its
length is bounded.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator

from cloister.client.site.identifiers import checksums
from cloister.client.site.identifiers.findings import Found

Detector = Callable[[str], Iterator[Found]]
Keep = Callable[[re.Match[str]], tuple[int, int] | None]
"""The span to keep of a match, or None."""


def found_by(kind: str, pattern: str, keep: Keep | None = None, needs: str = "") -> Detector:
    """A detector: the group ``it`` of every match of a pattern, or the match, that is to be kept.

    Args:
        kind: of what is found.
        pattern: a regular expression.
        keep: says which part of a match counts.
        needs: texts that hold none of these characters are passed over.
    """
    compiled = re.compile(pattern)
    group: int | str = "it" if "it" in compiled.groupindex else 0

    def detect(text: str) -> Iterator[Found]:
        if needs and not any(character in text for character in needs):
            return
        for match in compiled.finditer(text):
            span = match.span(group) if keep is None else keep(match)
            if span is not None:
                yield Found(kind, *span)

    return detect


# E-mail, URL, addresses of machines

_LOCAL = r"[\w.!#$%&'*+/=?^`{|}~-]"
_EMAIL = rf"(?<!{_LOCAL}){_LOCAL}++@[\w-]++(?:\.[\w-]++)++"
_URL = r"(?i)(?<![a-z0-9])(?:(?:https?|ftps?|sftp)://|www\.)[^\s<>\"'`{}|\\^\ue000\u3001\u3002]++"
_IP4 = r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d]|\.\d)"
_IP6 = r"(?<![\w:.%])[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]*+(?![\w:.])"
_MAC = (
    r"(?<![\w:.-])(?:[0-9A-Fa-f]{2}:(?:[0-9A-Fa-f]{2}:){4}[0-9A-Fa-f]{2}"
    r"|[0-9A-Fa-f]{2}-(?:[0-9A-Fa-f]{2}-){4}[0-9A-Fa-f]{2}|[0-9A-Fa-f]{4}(?:\.[0-9A-Fa-f]{4}){2}(?!\.\w))(?![\w:-])"
)


def _url(match: re.Match[str]) -> tuple[int, int] | None:
    start = match.start()
    kept = match[0].rstrip(".,;:!?)]*_")
    return (start, start + len(kept)) if re.search(r"[./]\w", kept) else None


def _ip4(match: re.Match[str]) -> tuple[int, int] | None:
    return match.span() if all(int(part) < 256 for part in match[0].split(".")) else None


def _ip6(match: re.Match[str]) -> tuple[int, int] | None:
    text = match[0].rstrip(".")
    text = text[:-1] if text.endswith(":") and not text.endswith("::") else text
    if text.count(":") < 2 or not re.search(r"\d", text) or len(text) > 45:
        return None
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return None
    return match.start(), match.start() + len(text)


# Numbers with check digits

_RUN = re.compile(r"\d++(?:[ .\n-]\d++)*+")
_GROUP = re.compile(r"\d++")
_BESIDE = re.compile(r".?[0-9A-Za-z+]|\d\.", re.DOTALL)
_CARD_GROUPS = frozenset({(4, 4, 4, 4), (4, 4, 4, 4, 3), (4, 6, 5), (4, 6, 4), (6, 13)})
_CARD_ISSUER = re.compile(r"4|5|6|3[04-9]|2[2-7]|2131|1800|81")
_IBAN = r"(?<![0-9A-Za-z])[A-Za-z]{2}\d{2}(?:[ -]?[0-9A-Za-z]){11,40}"
_RESIDENT = r"(?<![0-9A-Za-z])[1-9]\d{16}[0-9Xx](?![0-9A-Za-z])"
_SSN = r"(?<![\w-])(?P<a>\d{3})(?P<s>[- ])(?P<g>\d{2})(?P=s)(?P<n>\d{4})(?![\w]|-\d)"
_SSN_CUED = (
    r"(?i)(?<![a-z])(?:ssn|itin|social security(?: number| no\.?)?)(?: is)?[ :#=-]{1,4}"
    r"(?P<a>\d{3})(?P<g>\d{2})(?P<n>\d{4})(?!\d)"
)
_NHS = r"(?<![\w.+-])\d{3} \d{3} \d{4}(?!\w|[ -]\d)"
_NHS_CUED = (
    r"(?i)(?<![a-z])nhs(?: number| no\.?| num)?(?: is)?[ :#=-]{0,4}(?P<it>\d{3}[ -]?\d{3}[ -]?\d{4})(?!\d)"
)


def _cards(text: str) -> Iterator[Found]:
    """Runs of 12 to 19 digits, alone or in the groups that cards print."""
    for run in _RUN.finditer(text):
        groups = [match.span() for match in _GROUP.finditer(text, *run.span())]
        for first in range(len(groups)):
            for size in (1, 2, 3, 4, 5):
                window = groups[first : first + size]
                if len(window) == size and _is_card(text, window):
                    yield Found("card", window[0][0], window[-1][1])


def _is_card(text: str, groups: list[tuple[int, int]]) -> bool:
    if len(groups) == 1 and not 12 <= groups[0][1] - groups[0][0] <= 19:
        return False
    sizes = tuple(end - start for start, end in groups)
    if len(groups) > 1 and sizes not in _CARD_GROUPS:
        return False
    start, end = groups[0][0], groups[-1][1]
    before, after = text[max(0, start - 2) : start], text[end : end + 1]
    if _BESIDE.fullmatch(before) or (after.isascii() and after.isalnum()):
        return False
    digits = "".join(text[first:last] for first, last in groups)
    return _CARD_ISSUER.match(digits) is not None and checksums.luhn(digits)


def _iban(match: re.Match[str]) -> tuple[int, int] | None:
    """The match up to its country's length; what follows must not go on with a letter or digit."""
    wanted = checksums.IBAN_LENGTHS.get(match[0][:2].upper(), 0)
    places = [place for place, character in enumerate(match[0]) if character.isalnum()][:wanted]
    if not places or not checksums.iban("".join(match[0][place] for place in places).upper()):
        return None
    end = match.start() + places[-1] + 1
    following = match.string[end : end + 1]
    return None if following.isascii() and following.isalnum() else (match.start(), end)


def _resident(match: re.Match[str]) -> tuple[int, int] | None:
    return match.span() if checksums.resident(match[0]) else None


def _ssn(match: re.Match[str]) -> tuple[int, int] | None:
    holds = checksums.ssn(match["a"], match["g"], match["n"])
    return (match.start("a"), match.end("n")) if holds else None


def _nhs(match: re.Match[str]) -> tuple[int, int] | None:
    group: int | str = "it" if "it" in match.re.groupindex else 0
    digits = match[group].replace(" ", "").replace("-", "")
    return match.span(group) if checksums.nhs(digits) else None


# Phones

_EXTENSION = r"(?: ?(?:x|ext\.?) ?\d{1,6})?"
_ABROAD = rf"(?<![\w.+])(?:\+|00(?=[1-9 ]))(?:[ ./-]?(?:\(\d{{1,5}}\)|\d{{1,14}}+)){{1,8}}+{_EXTENSION}(?!\w)"
_AMERICAN = (
    r"(?<![\w.+-])(?:1[ .-])?(?:\([2-9]\d\d\)[ .-]?|[2-9]\d\d[ .-])\d{3}[ .-]\d{4}"
    rf"{_EXTENSION}(?!\w|[.-]\d)"
)
_NATIONAL = (
    r"(?<![\w.,+-])(?<!\d )(?:0(?!00)\d{1,4}(?:[ .-]\d{2,4}){2,4}|0\d{2,4}[ /-]\d{5,8}|0[1-9]\d{8,9}"
    r"|\(0\d{1,4}\) ?\d[\d ]{5,9}|\d{2}-\d{2}-\d{2}-\d{2}|\d{3} \d{2} \d{3}|\d{3}-\d{4})(?!\w|[.,:-]\d| \d)"
)
_MOBILE = r"(?<![\dA-Za-z.])(?:86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?![\dA-Za-z]|[ .-]\d)"
_PHONE_CUED = (
    r"(?i)(?:(?<![^\W_])(?:(?:tele)?phone|tel|mobile|mob|cell|fax|pager|desk"
    r"|(?:call|ring|text)(?: (?:me|him|her|us|them))?(?: (?:on|at))?)(?: (?:number|no|nr|is|on|at))?"
    r"|电话|手机|传真)[ .:：#]{0,4}"
    rf"(?P<it>\+?\(?\d(?:[ ./()-]{{0,2}}\d){{5,14}}{_EXTENSION})(?!\w)"
)


def _abroad(match: re.Match[str]) -> tuple[int, int] | None:
    number = re.sub(r"(?:x|ext\.?) ?\d+$", "", match[0])
    digits = sum(character.isdigit() for character in number)
    return match.span() if 8 <= digits <= 17 else None


# Dates

_MONTHS = (
    r"(?:jan(?:uary|uar|vier)?|feb(?:ruary|ruar)?|f[ée]vrier|mar(?:ch|s)?|m[äa]rz|apr(?:il)?|avril|ma[iy]|june?|juni|juin"
    r"|july?|juli|juillet|aug(?:ust)?|août|sep(?:t(?:ember|embre)?)?|o[ck]t(?:ober|obre)?|nov(?:ember|embre)?"
    r"|de[cz](?:ember)?|d[ée]cembre)"
)
_TIME = r"(?:(?:[T ]|, )\d{1,2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?)?"
_ISO = (
    rf"(?<![\w./-])(?:1[89]|2[01])\d\d(?P<s>[-/.])(?P<m>\d{{1,2}})(?P=s)(?P<d>\d{{1,2}}){_TIME}Z?"
    r"(?![\w]|[./-]\d)"
)
_NUMERIC = (
    r"(?<![\w./-])(?P<d>\d{1,2})(?P<s>[./-])(?P<m>\d{1,2})(?P=s)(?:(?:1[89]|2[01])\d\d|\d\d)"
    rf"{_TIME}(?![\w]|[./-]\d)"
)
_WORDED = (
    rf"(?i)(?<![\w.])(?:\d{{1,2}}(?:st|nd|rd|th|er|\.)?(?: of)?[ -]{_MONTHS}\.?(?:,? ?-?(?:1[89]|2[01])\d\d)?"
    rf"|{_MONTHS}\.? \d{{1,2}}(?:st|nd|rd|th)?(?:,? (?:1[89]|2[01])\d\d)?){_TIME}(?!\w)"
)
_CHINESE = r"(?<!\d)(?:1[89]|2[01])\d\d ?年 ?(?P<m>\d{1,2}) ?月 ?(?P<d>\d{1,2}) ?[日号]"


def _date(match: re.Match[str]) -> tuple[int, int] | None:
    """Day and month within their ranges; in which order they stand is left open."""
    low, high = sorted((int(match["d"]), int(match["m"])))
    return match.span() if 1 <= low <= 12 and high <= 31 else None


def _worded(match: re.Match[str]) -> tuple[int, int] | None:
    """Without a year, a month needs its capital letter: ``9 may`` is no date."""
    month = re.search(r"[^\W\d_]{3,}", match[0].replace("of ", ""))
    return match.span() if re.search(r"\d{4}", match[0]) or (month and month[0][0].isupper()) else None


# Record numbers

_MRN = (
    r"(?i)(?<![a-z])(?:mrn|(?:medical|hospital|patient|chart|case|admission) ?(?:record )?"
    r"(?:number|no\.?|nr\.?|id)|patient|chart|record number|病历号|住院号)(?:(?: is)?[ .:：#=]{1,4}|(?<=mrn))"
    r"(?P<it>[a-z]{0,3}[ -]?\d{5,12})(?!\w|[-.]\d)"
)

DIGITS = "0123456789"

SHIPPED: tuple[Detector, ...] = (
    found_by("email", _EMAIL, needs="@"),
    found_by("url", _URL, _url, needs="/."),
    found_by("ip", _IP4, _ip4, needs="."),
    found_by("ip", _IP6, _ip6, needs=":"),
    found_by("mac", _MAC, needs=":-."),
    _cards,
    found_by("iban", _IBAN, _iban, DIGITS),
    found_by("resident", _RESIDENT, _resident, DIGITS),
    found_by("ssn", _SSN, _ssn, DIGITS),
    found_by("ssn", _SSN_CUED, _ssn, DIGITS),
    found_by("nhs", _NHS, _nhs, DIGITS),
    found_by("nhs", _NHS_CUED, _nhs, DIGITS),
    found_by("phone", _ABROAD, _abroad, "+0"),
    found_by("phone", _AMERICAN, needs=DIGITS),
    found_by("phone", _NATIONAL, needs=DIGITS),
    found_by("phone", _MOBILE, needs="1"),
    found_by("phone", _PHONE_CUED, needs=DIGITS),
    found_by("date", _ISO, _date, DIGITS),
    found_by("date", _NUMERIC, _date, DIGITS),
    found_by("date", _WORDED, _worded, DIGITS),
    found_by("date", _CHINESE, _date, "年"),
    found_by("mrn", _MRN, needs=DIGITS),
)
