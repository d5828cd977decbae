"""The documents that a bundle carries for other people's tools: each a pure function of the evidence.

No clock, no file but the package's own data, no random number: the same evidence gives the same bytes, so
the verifier writes each document again and compares.

======================  ================================================================================
``bom.cdx.json``        CycloneDX 1.6 bill of materials with the model card (``bom``)
``dp-registry.yaml``    entry for the OpenDP and NIST registry of deployments, tier 3 (``registry``)
``annex-iv.json``       the items of Annex IV of the EU AI Act, by number (``annex``)
``crosswalk.json``      which part of the bundle is evidence relevant to which rule (``crosswalk``)
``inventory.json``      an entry for a model inventory, after SR 26-2 (``inventory``)
``ropa/<site>.json``    a prefilled record of processing for each site (``processing``)
``first-page.*.html``    the first page by itself, in English and Chinese (``firstpage``)
``report.zh.html``       the whole report in Chinese (``evidence.render``)
``model-card.md``       the model card in the form of model hubs (``evidence.card``)
======================  ================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from cloister.privacy.evidence import card, render
from cloister.privacy.evidence.evidence import Evidence
from cloister.privacy.evidence.papers import (
    annex,
    bom,
    crosswalk,
    firstpage,
    inventory,
    processing,
    registry,
)

Paper: TypeAlias = Callable[[Evidence], bytes]
SitePaper: TypeAlias = Callable[[Evidence, str], bytes]

PAPERS: tuple[tuple[str, Paper], ...] = (
    ("annex-iv.json", annex.annex),
    ("bom.cdx.json", bom.bom),
    ("crosswalk.json", crosswalk.crosswalk),
    ("dp-registry.yaml", registry.entry),
    ("first-page.en.html", lambda evidence: firstpage.page(evidence, "en")),
    ("first-page.zh.html", lambda evidence: firstpage.page(evidence, "zh")),
    ("inventory.json", inventory.inventory),
    ("model-card.md", lambda evidence: card.written(evidence).encode()),
    ("report.zh.html", lambda evidence: render.written(evidence, "zh").encode()),
)
"""Name in the bundle -> how the document is written."""

SITE_PAPERS: tuple[tuple[str, SitePaper], ...] = (("ropa/{site}.json", processing.record),)
"""The same for documents that each site has of its own; ``{site}`` stands for its name."""


def documents(evidence: Mapping[str, Any]) -> dict[str, bytes]:
    """Every document of a bundle, by name.

    Args:
        evidence: JSON of ``privacy.evidence.evidence.Evidence``.

    Raises:
        InputError: ``evidence_malformed``.
    """
    found = Evidence.from_json(evidence)
    sites = [site.name for site in found.plan.sites]
    written = {name: paper(found) for name, paper in PAPERS}
    written |= {
        pattern.format(site=site): paper(found, site) for pattern, paper in SITE_PAPERS for site in sites
    }
    return {name: written[name] for name in names(sites)}


def names(sites: list[str]) -> list[str]:
    """The names of all documents of a job with these sites."""
    own = [pattern.format(site=site) for pattern, _ in SITE_PAPERS for site in sites]
    return [*(name for name, _ in PAPERS), *own]
