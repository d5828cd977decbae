"""The report as PDF: the same bytes from the same evidence, which is in it; checked where it can be."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.privacy import canonical
from cloister.privacy.errors import InputError
from cloister.privacy.evidence import printing
from cloister.privacy.evidence.bundle import Bundle, relisted
from cloister.privacy.evidence.checks.findings import Result
from cloister.privacy.evidence.checks.run import verify
from cloister.privacy.evidence.printing import MADE_FILE, PDF_FILE, Made, Printed
from tests.privacy.evidence.conftest import Stage
from tests.reports import evidence

ROOT = Path(__file__).parents[3]
HERE = importlib.util.find_spec("weasyprint") is not None
pytestmark = pytest.mark.job
weasyprint = pytest.mark.skipif(not HERE, reason="WeasyPrint, of the extra pdf, is not installed")
MADE = Made(version=1, language="en", weasyprint="0.0", pango="1.0.0", fonts=canonical.digest(b"fonts"))


def without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "weasyprint", None)


def made_elsewhere(stage: Stage) -> Bundle:
    """A bundle with a PDF that names programs that are not here."""
    honest = stage.plain.job.contents()
    return replace(honest, printed=Printed(b"%PDF-1.7\n", MADE)).bundle(stage.plain.job.lead)


def test_where_it_is_not_installed_the_error_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    without_it(monkeypatch)
    with pytest.raises(InputError) as caught:
        printing.printed(evidence())
    assert caught.value.id == "extra_missing"
    assert "pip install 'cloister[pdf]'" in str(caught.value)


def test_without_weasyprint_the_check_says_that_it_did_not_print_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = made_elsewhere(stage)
    without_it(monkeypatch)
    verdict = verify(bundle, stage.plain.job.trust)
    assert verdict.result is Result.VERIFIED
    assert [note for note in verdict.notes if "report.pdf was not rendered again" in note]
    altered = Bundle({**bundle.files, PDF_FILE: b"%PDF-1.7 another\n"})
    found = verify(altered, stage.plain.job.trust)
    assert found.result is Result.ALTERED
    assert {finding.place for finding in found.findings} >= {PDF_FILE}


@pytest.mark.parametrize("missing", [PDF_FILE, MADE_FILE])
def test_one_without_the_other_is_incomplete(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    without_it(monkeypatch)
    bundle, job = made_elsewhere(stage), stage.plain.job
    files = {name: data for name, data in bundle.files.items() if name != missing}
    found = verify(relisted(Bundle(files), job.plan, "auditor", job.lead), job.trust)
    assert (found.result, found.findings[0].place) == (Result.INCOMPLETE, missing)


def test_what_it_was_made_with_is_read_strictly(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    without_it(monkeypatch)
    bundle, job = made_elsewhere(stage), stage.plain.job
    files = {**bundle.files, MADE_FILE: b'{"version":2}'}
    found = verify(relisted(Bundle(files), job.plan, "auditor", job.lead), job.trust)
    assert (found.result, found.findings[0].place) == (Result.ALTERED, MADE_FILE)


@pytest.mark.parametrize(
    ("pdf", "made", "result", "noted"),
    [
        (b"%PDF-1.7\n", MADE, Result.VERIFIED, False),
        (b"%PDF-1.7 another\n", MADE, Result.NOT_REPRODUCIBLE, False),
        (b"%PDF-1.7 another\n", MADE.model_copy(update={"pango": "2.0.0"}), Result.VERIFIED, True),
        (b"%PDF-1.7\n", MADE.model_copy(update={"language": "zh"}), Result.NOT_REPRODUCIBLE, False),
    ],
    ids=["the same", "other bytes", "other programs", "another language"],
)
def test_other_bytes_count_where_programs_and_fonts_are_the_same(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, pdf: bytes, made: Made, result: Result, noted: bool
) -> None:
    def again(_: Any, language: str) -> Printed:
        return Printed(
            f"%PDF-1.7{'' if language == 'en' else ' zh'}\n".encode(),
            MADE.model_copy(update={"language": language}),
        )

    monkeypatch.setattr("cloister.privacy.evidence.checks.paper.printed", again)
    job = stage.plain.job
    verdict = verify(replace(job.contents(), printed=Printed(pdf, made)).bundle(job.lead), job.trust)
    assert verdict.result is result
    assert bool([note for note in verdict.notes if PDF_FILE in note]) is noted


def attached(pdf: bytes) -> list[bytes]:
    """What the compressed streams of a PDF hold."""
    found = []
    for part in pdf.split(b"stream\n")[1:]:
        try:
            found.append(zlib.decompressobj().decompress(part))
        except zlib.error:
            continue
    return found


@pytest.mark.slow
@weasyprint
def test_the_same_evidence_gives_the_same_bytes_in_every_process() -> None:
    first = printing.printed(evidence())
    assert canonical.encode(evidence()) in attached(first.pdf)
    script = (
        "import sys; from cloister.privacy.evidence.printing import printed;"
        "from tests.reports import evidence;"
        "sys.stdout.buffer.write(printed(evidence()).pdf)"
    )
    again = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=True,
        cwd=ROOT,
        env={
            "PYTHONPATH": f"{ROOT / '.links'}:{ROOT}",
            "PYTHONHASHSEED": "7",
            "PATH": "/usr/bin",
            "TZ": "Asia/Tokyo",
        },
    ).stdout
    assert again == first.pdf


@pytest.mark.slow
@weasyprint
def test_a_pdf_of_other_evidence_is_found_although_the_lead_signs_it(stage: Stage) -> None:
    job = stage.plain.job
    honest = job.contents()
    good = printing.printed(honest.evidence)
    verdict = verify(replace(honest, printed=good).bundle(job.lead), job.trust)
    assert verdict.result is Result.VERIFIED
    assert not [note for note in verdict.notes if PDF_FILE in note]
    forged: dict[str, Any] = {**honest.evidence, "seconds": "1.0"}
    bad = replace(printing.printed(forged), made=good.made)
    found = verify(replace(honest, printed=bad).bundle(job.lead), job.trust)
    assert [(one.result, one.place) for one in found.findings] == [(Result.NOT_REPRODUCIBLE, PDF_FILE)]
