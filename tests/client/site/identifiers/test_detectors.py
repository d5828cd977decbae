"""Known answers: what each detector finds, and what looks like it and is not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cloister.client.site.identifiers import checksums
from cloister.client.site.identifiers.detection import Scanner
from cloister.client.site.identifiers.findings import KINDS, Found, merged

SCANNER = Scanner()


def found(text: str) -> list[tuple[str, str]]:
    return [(one.kind, text[one.start : one.end]) for one in SCANNER.find(text)]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("email", "ada.marsh+x@mail.example.org"),
        ("email", "josé.núñez@example.org"),
        ("email", "ａｄａ＠ｅｘａｍｐｌｅ．ｏｒｇ"),
        ("phone", "+1 212-555-0187"),
        ("phone", "+44 (0)20 7946 0912"),
        ("phone", "0049 30 23125 017"),
        ("phone", "(212) 555-0187"),
        ("phone", "212.555.0187 x12"),
        ("phone", "01.99.00.12.34"),
        ("phone", "020 7946 0912"),
        ("phone", "19900001234"),
        ("phone", "+86 199 0000 1234"),
        ("phone", "٢١٢-٥٥٥-٠١٨٧"),
        ("card", "4111111111111111"),
        ("card", "4111 1111 1111 1111"),
        ("card", "4111-1111-1111-1111"),
        ("card", "4111.1111.1111.1111"),
        ("card", "3782 822463 10005"),
        ("card", "4111\u200b1111\u200b1111\u200b1111"),
        ("card", "4111\u00a01111\u20111111\u20131111"),
        ("iban", "GB82 WEST 1234 5698 7654 32"),
        ("iban", "de89370400440532013000"),
        ("iban", "NO9386011117947"),
        ("ssn", "078-05-1120"),
        ("ssn", "987 65 4321"),
        ("nhs", "943 476 5919"),
        ("resident", "11010519491231002X"),
        ("resident", "440524188001010014"),
        ("ip", "192.0.2.17"),
        ("ip", "2001:db8::7:2a"),
        ("ip", "fe80:0:0:0:0:0:0:1"),
        ("ip", "::ffff:192.0.2.1"),
        ("mac", "00:00:5E:00:53:AF"),
        ("mac", "00-00-5e-00-53-af"),
        ("mac", "0000.5e00.53af"),
        ("url", "https://www.example.org/a?b=c#d"),
        ("url", "www.example.org"),
        ("date", "1961-05-03"),
        ("date", "2005-07-21 18:19:22"),
        ("date", "3.5.1961"),
        ("date", "05/03/61"),
        ("date", "3rd of May 1961"),
        ("date", "May 3, 1961"),
        ("date", "3. März 1961"),
        ("date", "1961年5月3日"),
        ("address", "77 Massachusetts Ave Apt 4"),
        ("address", "Lindenstraße 14"),
        ("address", "12 rue des Lilas"),
        ("address", "PO Box 4417"),
        ("zip", "SW1A 1AA"),
        ("zip", "K1A 0B1"),
    ],
)
def test_found_alone_and_in_a_sentence(kind, text):
    assert found(text) == [(kind, text)]
    assert found(f"Written: {text}, and more.") == [(kind, text)]
    assert found(f"（{text}）。") == [(kind, text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MRN: 4417201", [("mrn", "4417201")]),
        ("Patient id AB-44172.", [("mrn", "AB-44172")]),
        ("NHS number 9434765919", [("nhs", "9434765919")]),
        ("943 476 5918", [("phone", "943 476 5918")]),  # not mod 11
        ("SSN 078051120", [("ssn", "078051120")]),
        ("Zip code: 94107", [("zip", "94107")]),
        ("Cambridge, MA 02139-4301", [("zip", "02139-4301")]),
        ("call me on 2125550187 now", [("phone", "2125550187")]),
        ("手机19900001234。", [("phone", "19900001234")]),
        ("Seen by Dr. Ada Marsh today", [("name", "Ada Marsh")]),
        ("MRS MARSH called", [("name", "MARSH")]),
        ("Mme Élodie Garnier-Roux arrive", [("name", "Élodie Garnier-Roux")]),
        ("Prof. Dr. van der Marsh, who", [("name", "van der Marsh")]),
        ("MRN4417201", [("mrn", "4417201")]),
        ("My name is Ada Marsh and I", [("name", "Ada Marsh")]),
        ("Dr. Jose\u0301 Ru\u0308hl came", [("name", "Jose\u0301 Ru\u0308hl")]),
        ("GB82 WEST 1234 5698 7654 32 is mine", [("iban", "GB82 WEST 1234 5698 7654 32")]),
        ("id 12 4111 1111 1111 1111 09/29", [("card", "4111 1111 1111 1111")]),
        ("https://ada@example.org/x", [("url", "https://ada@example.org/x")]),
        ("a@example.org,b@example.org", [("email", "a@example.org"), ("email", "b@example.org")]),
    ],
)
def test_found_by_what_stands_before_or_around(text, expected):
    assert found(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # Luhn
        "9111111111111111",  # no issuer
        "0.4111111111111111",
        "x4111111111111111",
        "GB82 WEST 1234 5698 7654 33",  # mod 97
        "GB82 WEST 1234 5698 7654",  # too short for its country
        "XX82 WEST 1234 5698 7654 32",
        "000-12-3456",
        "666-12-3456",
        "123-00-4567",
        "123-45-0000",
        "900-12-3456",
        "123-45 6789",
        "110105194912310021",  # ISO 7064
        "11010519491331002X",  # month 13
        "256.1.1.1",
        "1.2.3.4.5",
        "12:30:45",
        "std::vector",
        "00:00:5E:00:53",
        "1961-13-45",
        "45.45.1961",
        "1.2.3",
        "BP 132/84, HR 96, SpO2 97 %",
        "12 000 000.00",
        "from 2009 to 2014",
        "it may be; the march was long",
        "24 hours in one place",
        "name: unknown",
        "Dr. who",
        "user@localhost",
        "1,234,567,890",
        "Patient: No, I am well.",
        "stage 9 may follow",
        "patients 44172 and 44173",
        "Dr. de la",
        "A. Marsh, M.D., and Ph.D.",
    ],
)
def test_not_found(text):
    assert found(text) == []
    assert found(f"Written: {text} and more") == []


@pytest.mark.parametrize(
    ("holds", "good"),
    [
        (checksums.luhn, "79927398713"),
        (checksums.luhn, "378282246310005"),
        (checksums.nhs, "9434765919"),
        (checksums.resident, "11010519491231002X"),
        (checksums.iban, "GB82WEST12345698765432"),
        (checksums.iban, "MT84MALT011000012345MTLCAST001S"),
    ],
)
def test_one_wrong_digit_never_holds(holds, good):
    assert holds(good)
    for place in range(len(good)):
        if good[place].isdigit():
            others = set("0123456789") - {good[place]}
            assert not any(holds(good[:place] + other + good[place + 1 :]) for other in others)


def test_overlaps_become_one_span_of_the_longest_kind():
    ip, url, zip_ = Found("ip", 4, 9), Found("url", 2, 20), Found("zip", 18, 25)
    assert merged([zip_, ip, url]) == (Found("url", 2, 25),)
    assert merged([Found("phone", 0, 5), Found("card", 0, 5)]) == (Found("card", 0, 5),)
    assert merged([Found("card", 0, 5), Found("hospital-number", 0, 5)]) == (Found("hospital-number", 0, 5),)
    assert merged([Found("ip", 0, 5), Found("ip", 5, 9)]) == (Found("ip", 0, 5), Found("ip", 5, 9))


RUNS = [
    "a",
    "1",
    "a@",
    "a.",
    "1.",
    "1 ",
    "1-",
    "+1",
    "+1 ",
    "00 ",
    "00 1",
    "(1",
    "a:",
    ":",
    "1:",
    "0-",
    "www.",
    "http://",
    "Dr. ",
    "Dr A",
    "A ",
    "Aa ",
    "1 Aa ",
    "1 A",
    "rue ",
    "rue A",
    "name: ",
    "A'",
    "A-",
    "phone ",
    "mrn ",
    "12 00",
    "DE12",
    "DE12 a",
    "May 1",
    "1 May",
    "1/",
    "1/1/",
    "2001-01-",
    "4111 ",
    "\u200b",
    "1\u200b",
    "é",
    "́",
    "年",
    "1年",
    "[EMAIL]",
    "[",
    "a@b",
    "a@b.",
    "x@y.z",
    "!",
    "%",
    "é",
    "é@",
    "0 0",
    "043 ",
    "943 476 ",
    "zip: 1",
    "MA 1",
    "ZZ1 ",
    "(0",
    "\n",
    "1\n",
]
ENDS = ["", "x", "@", " ", "!", "0", "\u3002"]

PROBE = """
import resource, sys
from cloister.client.site.identifiers.detection import Scanner
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[2]), int(sys.argv[2])))
scanner = Scanner({"own": "(a*)*b|(1+)+x"})
for run, end in eval(sys.argv[1]):
    scanner.find(run * (int(sys.argv[3]) // len(run)) + end)
"""


def probe(ends: list[str], seconds: int, length: int) -> None:
    """Scans long runs in a process that is killed after so many seconds of processor time."""
    texts = repr([(run, end) for run in RUNS for end in ends])
    arguments = [sys.executable, "-c", PROBE, texts, str(seconds), str(length)]
    done = subprocess.run(arguments, timeout=10 * seconds, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_text_takes_exponential_or_cubic_time():
    probe(ENDS[:2], seconds=60, length=3_000)  # about 2 s are needed; one cubic pattern would need minutes


@pytest.mark.slow
def test_no_text_takes_quadratic_time():
    probe(["x"], seconds=100, length=200_000)  # about 35 s are needed; one quadratic pattern, 165 s and more


def test_every_shipped_kind_has_an_answer_above():
    known = {
        mark.args[1][row][0]
        for mark in test_found_alone_and_in_a_sentence.pytestmark
        for row in range(len(mark.args[1]))
    }
    known |= {
        kind
        for mark in test_found_by_what_stands_before_or_around.pytestmark
        for _, expected in mark.args[1]
        for kind, _ in expected
    }
    assert known == set(KINDS) - {"unsettled"}
