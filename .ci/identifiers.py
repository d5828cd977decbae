"""Measures the detectors of identifiers again and writes the figures that ship, beside those of older ones.

Needs the folder of presidio_pii: ``python .ci/identifiers.py ../shared/data/presidio_pii``.
"""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from cloister.client.site.identifiers import detection, gold, measured
from cloister.privacy.evidence import recall
from cloister.simulations.bench.identifiers import spans

scanner = detection.Scanner()
sets = {
    measured.OTHERS: measured.measure(scanner, spans(Path(sys.argv[1]) / "test.jsonl")),
    measured.OURS: measured.measure(scanner, [(note.text, note.spans) for note in gold.notes()]),
}
found = measured.Figures(detection.digest(), datetime.now(UTC).date().isoformat(), sets)
kept = [one for one in recall.everything() if one["detector"] != found.detector]
recall.FILE.write_text(json.dumps([*kept, found.to_json()], indent=1) + "\n")
