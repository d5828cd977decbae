"""``report.pdf``: the report on paper, with the evidence attached. Optional: ``cloister[pdf]``.

The same evidence gives the same bytes by the same programs and fonts: dates are those of the evidence, the
file's identifier is that of its evidence. Which programs and fonts made it is written beside it
(``report.pdf.json``), since a page set with other fonts has other bytes and nobody cheated.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import Field, ValidationError

from cloister.privacy import canonical
from cloister.privacy.clauses import Digest
from cloister.privacy.errors import InputError
from cloister.privacy.evidence.evidence import Evidence
from cloister.privacy.evidence.render import written
from cloister.privacy.frozen import Part

PDF_FILE, MADE_FILE = "report.pdf", "report.pdf.json"
_ATTACHED = "evidence.json"


class Made(Part):
    """With what a PDF was made: versions, the digest of all fonts in it, and its language."""

    version: Literal[1]
    language: Literal["en", "zh"]
    weasyprint: str = Field(max_length=40)
    pango: str = Field(max_length=40)
    fonts: Digest

    @classmethod
    def from_bytes(cls, data: bytes) -> Made:
        """What ``report.pdf.json`` says.

        Raises:
            InputError: ``evidence_malformed``.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise InputError("evidence_malformed", f"{MADE_FILE} is not of the form that exists.") from error


@dataclass(frozen=True)
class Printed:
    """A PDF, and with what it was made."""

    pdf: bytes
    made: Made

    @property
    def files(self) -> dict[str, bytes]:
        """The two files of a bundle."""
        return {PDF_FILE: self.pdf, MADE_FILE: canonical.encode(self.made.model_dump(mode="json"))}


def printed(evidence: Mapping[str, Any], language: Literal["en", "zh"] = "en") -> Printed:
    """The report of a run as PDF (PDF/A-3u), its evidence attached as ``evidence.json``.

    Raises:
        InputError: ``evidence_malformed``; ``extra_missing``, WeasyPrint or a library of the system that it
            needs is not installed.
    """
    found = Evidence.from_json(evidence)
    weasyprint = _weasyprint()
    data = canonical.encode(dict(evidence))
    made = datetime.fromisoformat(found.created)
    attached = weasyprint.Attachment(
        string=data, name=_ATTACHED, created=made, modified=made, relationship="Source"
    )
    page = weasyprint.HTML(string=written(found, language), url_fetcher=_nothing, base_url=None)
    document = page.render()
    document.metadata.created = document.metadata.modified = found.created
    document.metadata.attachments = [attached]
    pdf: bytes = document.write_pdf(
        pdf_identifier=canonical.raw(canonical.digest(data))[:16],
        pdf_variant="pdf/a-3u",
    )
    fonts = sorted(canonical.digest(bytes(font.file_content)) for font in document.fonts.values())
    return Printed(
        pdf,
        Made(
            version=1,
            language=language,
            weasyprint=str(weasyprint.__version__),
            pango=_pango(),
            fonts=canonical.digest("".join(fonts).encode()),
        ),
    )


def _weasyprint() -> Any:
    try:
        return importlib.import_module("weasyprint")
    except (ImportError, OSError) as error:  # OSError: Pango is not on the machine
        raise InputError(
            "extra_missing",
            "WeasyPrint, or Pango that it needs, is not installed.",
            "Install it: pip install 'cloister[pdf]', and Debian's libpango-1.0-0 and libpangoft2-1.0-0.",
        ) from error


def _pango() -> str:
    ffi: Any = importlib.import_module("weasyprint.text.ffi")
    number = int(ffi.pango.pango_version())
    return f"{number // 10_000}.{number // 100 % 100}.{number % 100}"


def _nothing(url: str, *_: Any, **__: Any) -> Any:
    """A report refers to nothing outside; whatever asks for it gets nothing."""
    raise ValueError(f"{url[:40]!r} is not fetched")
