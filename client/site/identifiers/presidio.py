"""Microsoft Presidio as one more detector, with the extra ``presidio``.

It runs on the spaCy model in a folder that the site names, or else on an empty English one: then its
patterns and check digits work, and it finds no names. It asks nothing of any network: no model is fetched,
and the suffixes of domains are those that ``tldextract`` brings. Its run time is its own: only the
detectors that ship here are known to be linear.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cloister.client.site.identifiers.findings import Found
from cloister.client.site.identifiers.patterns import Detector
from cloister.privacy.errors import InputError

KINDS = {
    "PERSON": "name",
    "LOCATION": "address",
    "EMAIL_ADDRESS": "email",
    "PHONE_NUMBER": "phone",
    "CREDIT_CARD": "card",
    "IBAN_CODE": "iban",
    "IP_ADDRESS": "ip",
    "MAC_ADDRESS": "mac",
    "URL": "url",
    "DATE_TIME": "date",
    "US_SSN": "ssn",
    "US_ITIN": "ssn",
    "UK_NHS": "nhs",
}
"""Presidio's entity -> our kind; it is asked for no other."""
LEAST_SCORE = 0.4
"""Presidio's score from which a finding counts; its patterns without a check or context score less."""


def detector(model: Path | None = None) -> Detector:
    """Presidio's analyzer as a detector.

    Args:
        model: the folder of a spaCy model of English.

    Raises:
        InputError: ``extra_missing``, or ``file_missing``: there is no such model.
    """
    try:
        import spacy
        from presidio_analyzer import AnalyzerEngine
    except ImportError as error:
        raise InputError(
            "extra_missing", "Presidio is not installed.", "Install it: pip install 'cloister[presidio]'."
        ) from error
    try:
        language = spacy.blank("en") if model is None else spacy.load(model.resolve(strict=True))
    except (OSError, ValueError) as error:
        raise InputError(
            "file_missing", f"{model} is not the folder of a spaCy model.", "Name one that `spacy` can load."
        ) from error
    registry = _registry()
    engine = AnalyzerEngine(registry=registry, nlp_engine=_engine(language), supported_languages=["en"])
    kinds = sorted(set(KINDS) & set(engine.get_supported_entities("en")))

    def detect(text: str) -> Iterator[Found]:
        for one in engine.analyze(text, "en", entities=kinds, score_threshold=LEAST_SCORE):
            yield Found(KINDS[one.entity_type], one.start, one.end)

    return detect


def _engine(language: Any) -> Any:
    """Presidio's wrapper around a model that is loaded already: its own way to load one may fetch it."""
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    engine = SpacyNlpEngine()
    engine.nlp = {"en": language}
    return engine


def _registry() -> Any:
    """Presidio's recognizers, but that of e-mail: it would fetch the list of public suffixes."""
    from presidio_analyzer import RecognizerRegistry
    from presidio_analyzer.predefined_recognizers import EmailRecognizer
    from tldextract import TLDExtract

    bundled = TLDExtract(cache_dir=None, suffix_list_urls=(), fallback_to_snapshot=True)

    class Offline(EmailRecognizer):  # type: ignore[misc]
        def validate_result(self, pattern_text: str) -> bool:
            return bool(bundled(pattern_text).fqdn)

    registry = RecognizerRegistry()
    registry.load_predefined_recognizers(languages=["en"])
    registry.remove_recognizer("EmailRecognizer")
    registry.add_recognizer(Offline())
    return registry
