"""The step as a site takes it: its own patterns from its folder, and the event ``deid.scan`` in its log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cloister.client.site.folder import SiteFolder
from cloister.client.site.identifiers import detection, site_patterns
from cloister.client.site.identifiers.detection import Scanner
from cloister.client.site.identifiers.findings import Counts
from cloister.client.site.identifiers.screening import Action, bands, refuse, screen
from cloister.client.site.records import Records


def scanner(site: SiteFolder) -> Scanner:
    """The detectors that ship and the patterns of the site's folder.

    Raises:
        InputError: ``patterns_malformed`` or ``file_missing``.
    """
    return Scanner(site_patterns.load(site.path / site_patterns.FILE))


def passed(
    site: SiteFolder, dataset: str, action: Action, parts: Sequence[Records], job: str | None = None
) -> tuple[tuple[Records, ...], Counts | None]:
    """The parts of a dataset after the step, and the counts of all of them; None with ``off``.

    Args:
        site: whose dataset it is.
        dataset: its name.
        action: what its policy says.
        parts: its training and held-out rows. Sides are chosen before, so that they depend on no detector.
        job: the digest of the plan that they are opened for.

    The log has the event, with bands, before anything else is done with the records.

    Raises:
        InputError: as ``screen``, or the site's patterns cannot be used.
        LogError: the event cannot be written.
    """
    if action == "off":
        return tuple(parts), None
    detectors = scanner(site)
    looked = [screen(part, detectors, "mask" if action == "mask" else "warn") for part in parts]
    counts = sum((one.counts for one in looked if one.counts is not None), start=Counts(0))
    body: dict[str, Any] = {"dataset": dataset, "action": action, "detector": detection.digest()}
    site.log.append("deid.scan", job=job, **(body | dict(bands(counts))))
    if action == "refuse":
        refuse(counts)
    return tuple(one.records for one in looked), counts
