"""Invented persons: identifiers that look real and can belong to nobody.

Every number comes from a range that is never given out or fails its own check: telephone 555-01xx,
mail at example.org (RFC 2606), social security area 000 or 666, postal code 000xx, IBAN and card
numbers with wrong check digits. A recogniser that verifies check digits will miss those two on
purpose; recall must be read with that in mind.
"""

from __future__ import annotations

import datetime
import random
from dataclasses import dataclass
from typing import Final


def _listed(block: str) -> tuple[str, ...]:
    return tuple(" ".join(name.split()) for name in block.split(","))


_WOMEN: Final = _listed("""
    Ada, Alma, Beatrix, Carmen, Chidinma, Clara, Edith, Elif, Esther, Farida, Greta, Hana, Ines, Ingrid,
    Jasmin, Joan, Kamala, Leila, Linnea, Mabel, Maren, Miriam, Nadia, Noor, Olga, Paula, Priya, Rosa,
    Ruth, Sadie, Saoirse, Selma, Thea, Uma, Vera, Wilma, Yara, Zofia
""")
_MEN: Final = _listed("""
    Aaron, Abel, Amir, Anton, Bashir, Bruno, Caleb, Cyrus, Dario, Desmond, Edgar, Emeka, Felix, Gideon,
    Hamza, Hugo, Idris, Ivan, Jakob, Jonas, Kenji, Leon, Luca, Magnus, Malik, Mateo, Nils, Omar, Oscar,
    Pavel, Quentin, Rafael, Rohan, Samuel, Stefan, Tobias, Viktor, Yusuf
""")
_FAMILIES: Final = _listed("""
    Abara, Ashdown, Bellweather, Birch, Castellan, Chowdhury, Dragomir, Ekwueme, Fairbairn, Farrow,
    Galloway, Grimaldi, Haddad, Hollins, Ibarra, Ivarsson, Jankowski, Jellicoe, Kaplan, Kirwan,
    Lindqvist, Lowther, Marchetti, Mbeki, Nakagawa, Norcross, Okafor, Oyelaran, Pemberton, Petrov,
    Quill, Rasmussen, Redfern, Sandoval, Sorensen, Tamura, Thackeray, Underhill, Vasquez, Verhoeven,
    Wainwright, Winslow, Yilmaz, Zielinski
""")
_STREETS: Final = _listed("""
    Alder Street, Beacon Road, Canal Row, Dovecote Lane, Elm Court, Foundry Way, Glebe Avenue, Harbour
    Street, Juniper Close, Kiln Lane, Larch Drive, Mill Road, Orchard Terrace, Priory Gardens, Quarry
    Hill, Station Parade
""")
_TOWNS: Final = _listed("""
    Ashcombe, Brackenford, Coldwater, Dunmere, East Larkfield, Fenwick Cross, Greyhaven, Hollowbrook,
    Millbeck, Northolme, Oakhurst, Stonebridge
""")
_DATES: Final = ("%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y")


@dataclass(frozen=True)
class Person:
    """One invented patient; the same in every note about them."""

    id: str
    woman: bool
    born: datetime.date
    identifiers: dict[str, str]

    def age(self, on: datetime.date) -> int:
        """Completed years of life on a date."""
        return on.year - self.born.year - ((on.month, on.day) < (self.born.month, self.born.day))


def person(rng: random.Random, name: str) -> Person:
    """A new person with a value for every kind of identifier; ``name`` becomes the person's id."""
    woman = rng.random() < 0.5
    first, family = rng.choice(_WOMEN if woman else _MEN), rng.choice(_FAMILIES)
    born = datetime.date(1935, 1, 1) + datetime.timedelta(days=rng.randrange(365 * 70))
    return Person(
        name,
        woman,
        born,
        {
            "name": f"{first} {family}",
            "birth_date": born.strftime(rng.choice(_DATES)),
            "record_number": f"{rng.choice('ABCDEFGH')}{rng.randrange(10**6):06}-{rng.randrange(100):02}",
            "phone": _phone(rng),
            "email": f"{first}.{family}{rng.randrange(100)}@example.org".lower(),
            "address": _address(rng),
            "ssn": f"{rng.choice(('000', '666'))}-{rng.randrange(1, 100):02}-{rng.randrange(1, 10**4):04}",
            "iban": _iban(rng),
            "card": _card(rng),
        },
    )


def clinician(rng: random.Random) -> str:
    """The name of an invented doctor or nurse."""
    return f"{rng.choice(('Dr', 'Dr', 'Nurse'))} {rng.choice(_FAMILIES)}"


def luhn_holds(digits: str) -> bool:
    """Whether a card number satisfies the check of ISO/IEC 7812-1; spaces do not count."""
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits.replace(" ", "")))]
    return sum(value // 10 + value % 10 for value in doubled) % 10 == 0


def iban_holds(iban: str) -> bool:
    """Whether an IBAN satisfies the check of ISO 13616 (remainder 1 modulo 97); spaces do not count."""
    plain = iban.replace(" ", "")
    return int("".join(str(int(sign, 36)) for sign in plain[4:] + plain[:4])) % 97 == 1


def _digits(rng: random.Random, count: int) -> str:
    return "".join(str(rng.randrange(10)) for _ in range(count))


def _fours(text: str) -> str:
    return " ".join(text[place : place + 4] for place in range(0, len(text), 4))


def _phone(rng: random.Random) -> str:
    area = f"{rng.randrange(2, 10)}{rng.randrange(100):02}"
    return rng.choice(("({}) 555-01{:02}", "{}-555-01{:02}", "{} 555 01{:02}")).format(
        area, rng.randrange(100)
    )


def _address(rng: random.Random) -> str:
    return f"{rng.randrange(1, 200)} {rng.choice(_STREETS)}, {rng.choice(_TOWNS)} 000{rng.randrange(100):02}"


def _card(rng: random.Random) -> str:
    body = rng.choice("45") + _digits(rng, 14)
    right = next(digit for digit in range(10) if luhn_holds(f"{body}{digit}"))
    return _fours(f"{body}{(right + rng.randrange(1, 10)) % 10}")


def _iban(rng: random.Random) -> str:
    country, length = rng.choice((("DE", 18), ("NL", 10), ("ES", 20)))
    bank = "".join(rng.choice("ABCDEFGHIJ") for _ in range(4)) if country == "NL" else ""
    body = bank + _digits(rng, length)
    check = rng.randrange(99)
    check += iban_holds(f"{country}{check:02}{body}")  # two neighbours never hold both
    return _fours(f"{country}{check:02}{body}")
