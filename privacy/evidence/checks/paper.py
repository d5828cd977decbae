"""The PDF of a bundle, where there is one: printed again, if the programs and fonts that made it are here."""

from __future__ import annotations

from cloister.privacy.errors import CloisterError, InputError
from cloister.privacy.evidence.bundle import REPORT_FILE
from cloister.privacy.evidence.checks.case import Case
from cloister.privacy.evidence.checks.findings import Finding, altered, unfounded
from cloister.privacy.evidence.printing import MADE_FILE, PDF_FILE, Made, printed


def reprinted(case: Case) -> tuple[Finding | None, str | None]:
    """What does not hold about the PDF, or why it could only be held to the manifest; mostly neither.

    The same evidence has other bytes in other fonts, so that a difference says something only where the
    programs and fonts are those that ``report.pdf.json`` names.
    """
    if not {PDF_FILE, MADE_FILE} <= case.bundle.files.keys():
        return None, None
    try:
        stated = Made.from_bytes(case.bundle.files[MADE_FILE])
    except CloisterError:
        return altered("report", MADE_FILE, "it is not of the form that exists"), None
    try:
        again = printed(case.evidence, stated.language)
    except InputError as error:
        if error.id != "extra_missing":
            raise
        return None, _not_again("WeasyPrint is not installed here")
    if again.made != stated:
        made = f"WeasyPrint {stated.weasyprint}, Pango {stated.pango}"
        return None, _not_again(f"it names {made} and fonts that are not all here")
    if again.pdf != case.bundle.files[PDF_FILE]:
        return unfounded("report", PDF_FILE, "printed again from evidence.json it reads differently"), None
    return None, None


def _not_again(why: str) -> str:
    return f"{PDF_FILE} was not rendered again: {why}. Read {REPORT_FILE} instead."
