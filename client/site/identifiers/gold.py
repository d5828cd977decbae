"""Short clinical and banking notes with known spans. They are synthetic, and ours.

Who wrote the detectors wrote these notes, so figures on them flatter; that is why some are hard on purpose,
and why a scan prints the figures on a set of others beside them. Numbers are drawn from ranges kept for
examples where such exist (555-01xx, example.org, 192.0.2.0/24, NHS numbers from 999, ITIN-like 987-65-43xx),
and their check digits are right: detectors pass over others. No note is about anybody.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from cloister.client.site.identifiers import checksums
from cloister.client.site.identifiers.findings import Found

SEED = 5


@dataclass(frozen=True)
class Note:
    """A text and where the identifiers are in it."""

    text: str = field(repr=False)
    spans: tuple[Found, ...]


def notes() -> tuple[Note, ...]:
    """All notes, the same at every call."""
    draw = random.Random(SEED)  # noqa: S311 - examples, no secrets
    return tuple(_written(line, draw) for line in _LINES.strip().splitlines())


def _written(line: str, draw: random.Random) -> Note:
    """A line with ``{kind}`` and ``{kind|as written}`` replaced; ``\\u`` escapes and ``\\n`` are read."""
    text, spans = "", []
    for part in re.split(r"(\{[^}]*\})", line.encode("ascii", "backslashreplace").decode("unicode_escape")):
        if part.startswith("{"):
            kind, _, given = part[1:-1].partition("|")
            value = given or _VALUES[kind](draw)
            spans.append(Found(kind, len(text), len(text) + len(value)))
            text += value
        else:
            text += part
    return Note(text, tuple(spans))


def _digits(draw: random.Random, number: int) -> str:
    return "".join(draw.choice("0123456789") for _ in range(number))


def _completed(stem: Callable[[], str], ends: str, holds: Callable[[str], bool]) -> str:
    """A stem with the one ending under which the check digits are right."""
    while True:
        start = stem()
        for end in ends:
            if holds(start + end):
                return start + end


def _card(draw: random.Random) -> str:
    number = _completed(lambda: "4" + _digits(draw, 14), "0123456789", checksums.luhn)
    return draw.choice((number, " ".join(re.findall("....", number)), "-".join(re.findall("....", number))))


def _iban(draw: random.Random) -> str:
    stem = "TEST" + _digits(draw, 14)
    value = next(f"GB{n:02d}{stem}" for n in range(2, 99) if checksums.iban(f"GB{n:02d}{stem}"))
    return draw.choice((value, " ".join(re.findall(".{1,4}", value))))


def _nhs(draw: random.Random) -> str:
    value = _completed(lambda: "999" + _digits(draw, 6), "0123456789", checksums.nhs)
    return f"{value[:3]} {value[3:6]} {value[6:]}"


def _resident(draw: random.Random) -> str:
    stem = f"99{_digits(draw, 4)}19{draw.randint(40, 99)}{draw.randint(1, 12):02d}{draw.randint(1, 28):02d}"
    return _completed(lambda: stem + _digits(draw, 3), "0123456789X", checksums.resident)


def _phone(draw: random.Random) -> str:
    return draw.choice(("(212) 555-01{}", "+1 646 555 01{}", "020 7946 09{}", "+44 7700 9001{}")).format(
        _digits(draw, 2)
    )


def _date(draw: random.Random) -> str:
    day, month, year = draw.randint(1, 28), draw.randint(1, 12), draw.randint(1935, 2024)
    name = draw.choice(("March", "April", "Nov", "December"))
    return draw.choice(
        (
            f"{day:02d}/{month:02d}/{year}",
            f"{year}-{month:02d}-{day:02d}",
            f"{day} {name} {year}",
            f"{name} {day}, {year}",
        )
    )


def _email(draw: random.Random) -> str:
    name, host = draw.choice(("ada", "j.marsh", "k_owens")), draw.choice(("example.org", "mail.example.com"))
    return f"{name}{_digits(draw, 2)}@{host}"


def _address(draw: random.Random) -> str:
    street = f"{draw.choice(('Mill', 'Old Church', 'Oak'))} {draw.choice(('Road', 'Lane', 'Street'))}"
    return f"{draw.randint(2, 900)} {street}"


def _name(draw: random.Random) -> str:
    return f"{draw.choice(('Ada', 'Jonas', 'Kezia'))} {draw.choice(('Marsh', 'Owens', 'Lindqvist'))}"


_VALUES: dict[str, Callable[[random.Random], str]] = {
    "card": _card,
    "iban": _iban,
    "nhs": _nhs,
    "resident": _resident,
    "ssn": lambda draw: f"987-65-43{draw.randint(20, 29)}",
    "mrn": lambda draw: _digits(draw, 7),
    "mac": lambda draw: f"00:00:5E:00:53:{draw.randint(16, 255):02X}",
    "ip": lambda draw: f"192.0.2.{draw.randint(1, 254)}",
    "email": _email,
    "url": lambda draw: f"https://www.example.org/case/{_digits(draw, 4)}",
    "phone": _phone,
    "date": _date,
    "address": _address,
    "zip": lambda draw: f"ZZ{draw.randint(1, 9)} {draw.randint(1, 9)}XX",
    "name": _name,
}

_LINES = r"""
Seen by Dr. {name} on {date}, chest pain for 3 days, BP 132/84, HR 96.
DOB {date}. MRN: {mrn}. Denies fever; SpO2 97 % on room air.
54F c/o CP x3d, NHS no. {nhs}, lives at {address}, {zip}.
Discharged on {date}; call {phone} if the wound opens. Paracetamol 500 mg 4x daily.
Referral from Dr {name}: HbA1c 7.9 %, metformin 1000 mg, review in 12 weeks.
Patient id: {mrn}. Daughter reachable at {phone} after 18:00.
Results to {email} please, ferritin 212, CRP 4.1, eGFR 88.
Home visit at {address}, ring twice. Next visit {date}.
Mr. {name} reports 2-3 episodes a week since last winter.
Telemetry unit {mac} was moved to bed 14, gateway {ip}.
Images are at {url} (study 4 of 6).
SSN {ssn} as on the insurance form; copay 25.00.
Mrs {name} cannot tolerate ramipril 2.5 mg; cough for 6 weeks.
Fax the letter to {phone}, attn. cardiology, 2 pages.
Admission {date}, discharge {date}, length of stay 5 days.
Hospital number: {mrn}; allergy to penicillin noted in 2009.
Letter sent to {address}, flat shared with sister.
Her NHS number {nhs} was misread as a phone number.
Name: {name}. Age 61. Smoker, 20 pack-years.
Vaccinated {date}, batch 4417-A, no reaction.
Wife of {name|Jonas Lindqvist} says he fell twice, no head injury.
{name|Kezia Owens} was brought in by ambulance with slurred speech.
Discussed with {name|Marsh} and the ward team; plan unchanged.
Pt {name|OWENS, KEZIA} seen in clinic, stable angina.
{name|ada marsh} called again about her results.
Reviewed by nurse {name|Lindqvist}; dressing changed.
Lives with his mother {name|Ingrid} above the bakery in {address|Fore Street}.
Born {date|on the third of May 1961}, third of four siblings.
DOB {date|3.5.61}, Hausarzt Dr. {name|Krämer}, Blutdruck 150/90.
Geboren am {date|3. Mai 1961}, wohnhaft {address|Lindenstraße 14}.
Née le {date|3 mai 1961}, adresse {address|12 rue des Lilas}.
Patiente vue par Mme {name|Élodie Garnier}, tél. {phone|01 99 00 12 34}.
\u60a3\u8005\u8eab\u4efd\u8bc1{resident}\uff0c\u624b\u673a{phone|19900001234}\u3002
\u51fa\u751f\u65e5\u671f{date|1961\u5e745\u67083\u65e5}\uff0c\u9752\u9709\u7d20\u8fc7\u654f\u3002
\u60a3\u8005{name|\u738b\u5c0f\u660e}\u4e3b\u8bc9\u80f8\u75db\u4e09\u5929\u3002
Old record {mrn|H-20417} could not be found on paper.
Seen {date|last Tuesday} and again {date|3/5}.
Contact {email|ada (at) example (dot) org} or through the portal.
Call me on {phone|five five five, oh one two three}.
Number given as {phone|2125550123} without more.
Phone {phone|\uff12\uff11\uff12-\uff15\uff15\uff15-\uff10\uff11\uff18\uff17}, typed on another keyboard.
Card {card|4111\u200b 1111\u200b 1111 1111} with spaces that have no width.
E-mail {email|jos\u00e9.n\u00fa\u00f1ez@example.org} bounced.
Customer called from {phone} about card {card}; the charge of 49.99 stands.
Please move 1,250.00 to IBAN {iban} before {date}.
My card {card} was declined twice, reference 2209-17.
Statement to {email}; the one of {date} never came.
Account holder {name|Jonas Owens} disputes three payments of 12.00.
IBAN {iban|gb82 west 1234 5698 7654 32} was typed in small letters.
IBAN {iban|DE89370400440532013000}, BIC left empty, 14 days.
Transfer from {iban|FR14 2004 1010 0505 0001 3M02 606} was returned.
Login from {ip} at 03:12, device {mac}, blocked.
Login from {ip|2001:db8::7:2a} was the customer's own.
Phishing page {url} was reported on {date}.
She wrote from {email} that the card {card} is not hers.
Tax id {ssn} was asked for by the caller; she hung up.
Mr {name} wants the loan papers at {address}, {zip}.
Payment to {name|Oak Lane Dental} of 80.00, not known to the customer.
New address is {address|Flat 3, The Old Mill, Lower Slaughter}.
Post goes to {address|PO Box 4417} from now on.
US address {address|77 Massachusetts Ave Apt 4}, Cambridge, MA {zip|02139}.
Card ending {card|1881} was cut in two.
Amex {card|3782 822463 10005}, expiry 09/29.
Card {card|4111.1111.1111.1111} written with dots.
The card {card|4111 1111\n1111 1111} breaks over a line.
Call back on {phone|+33 1 99 00 56 78} or {phone|+49 (0)30 23125 017}.
Mobile {phone|07700 900 456}, best after work.
Ext. {phone|4471} in the branch.
Site {url|example.org/login} copied our logo.
SSN {ssn|987 65 4321} read out over the phone.
SSN: {ssn|987654325} without hyphens.
Server at [{ip|2001:db8::1}]:8443 and {ip|198.51.100.23}:22.
Zip code: {zip|94107}, branch of Ms. {name|Marsh}'s mother.
Troponin 14, 19 and 22 ng/l; ECG 1, 2 and 3 unchanged.
Version 4.18.2.11 of the pump software; ticket 2210-4471.
Balance 12 000 000.00, limit 15 000 000.00, ratio 0.8.
The study ran from 2009 to 2014 with 120-80 pairs.
Order 4111 1111 1111 1112 is not a card number.
Part no. 123-45-000, 3 pieces, aisle 12-14.
Doctor: Yes, I see. Patient: No, Doctor I feel fine, since when? Since May.
Stage 9 may follow; 26 may be enough, see table 12.
Give 1/2 tablet, then 1/4; ratio 3:2:1 in the drip.
Street is closed; May was warm, March was cold.
Time 12:30:45, run 7, channel 5:3, gain 10.5.
Sum of 1,234,567,890 units; code AB12 CDEF is free.
"""
