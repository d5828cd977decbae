"""Check digits. All take strings of ASCII digits (and letters, for IBAN), without separators."""

from __future__ import annotations

import re
from datetime import date

_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
_IBAN = re.compile(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}")
_IBAN_LENGTHS = {
    18: "DK FI FO GL NL",
    15: "NO",
    16: "BE",
    19: "MK SI",
    20: "AT BA EE KZ LT LU XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU YE",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
IBAN_LENGTHS = {country: size for size, those in _IBAN_LENGTHS.items() for country in those.split()}
"""Country -> number of characters, after the SWIFT IBAN registry."""


def luhn(digits: str) -> bool:
    """Whether the last digit of a card number is right (ISO/IEC 7812-1, annex B)."""
    values = [int(digit) for digit in reversed(digits)]
    return (sum(values[::2]) + sum(_DOUBLED[value] for value in values[1::2])) % 10 == 0


def iban(text: str) -> bool:
    """Whether an IBAN has its country's length and its check digits are right (ISO 13616, mod 97-10)."""
    if _IBAN.fullmatch(text) is None or IBAN_LENGTHS.get(text[:2]) != len(text):
        return False
    return int("".join(str(int(character, 36)) for character in text[4:] + text[:4])) % 97 == 1


def nhs(digits: str) -> bool:
    """Whether the tenth digit of an NHS number is right (mod 11, NHS data dictionary)."""
    check = -sum(int(digit) * weight for digit, weight in zip(digits[:9], range(10, 1, -1), strict=True)) % 11
    return check == int(digits[9])


def resident(text: str) -> bool:
    """Whether a Chinese resident id has a date of birth and its check character is right.

    GB 11643-1999: six digits of region, eight of date, three of sequence, ISO 7064 MOD 11-2.
    """
    try:
        date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    total = sum(int(digit) * pow(2, 17 - place, 11) for place, digit in enumerate(text[:17]))
    return "10X98765432"[total % 11] == text[17].upper()


def ssn(area: str, group: str, serial: str) -> bool:
    """Whether a number can be a US social security or taxpayer number: no part is all zeros.

    Areas 666 and 900-999 are never given for social security; of the latter, the groups 50-65, 70-88,
    90-92 and 94-99 are taxpayer numbers (IRS, ITIN).
    """
    if area in {"000", "666"} or group == "00" or serial == "0000":
        return False
    number = int(group)
    return area < "900" or 50 <= number <= 65 or 70 <= number <= 88 or (number >= 90 and number != 93)
