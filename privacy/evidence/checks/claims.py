"""What is said, against what follows: evidence from events, report and documents from the evidence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cloister.privacy import canonical
from cloister.privacy.errors import CloisterError, InputError
from cloister.privacy.evidence import byhand, derive
from cloister.privacy.evidence.bundle import EVIDENCE_FILE, REPORT_FILE
from cloister.privacy.evidence.checks.case import Case
from cloister.privacy.evidence.checks.findings import (
    Finding,
    Findings,
    Result,
    altered,
    incomplete,
    unfounded,
)
from cloister.privacy.evidence.evidence import Evidence
from cloister.privacy.evidence.papers import documents
from cloister.privacy.evidence.render import render

_PREFIX = "base_model.model."


def readable(case: Case) -> Findings:
    """The evidence is well formed and agrees with itself."""
    try:
        Evidence.from_json(case.evidence)
    except InputError as error:
        yield Finding("evidence", Result.NOT_REPRODUCIBLE, EVIDENCE_FILE, error.what.rstrip("."))


def evidence(case: Case) -> Findings:
    """Every field of the evidence that plan and events decide is what they decide."""
    logs = {name: writer.events for name, writer in case.writers.items()}
    heads = {name: writer.newest for name, writer in case.writers.items()}
    expected = derive.derived(case.plan, case.keys.values(), logs, heads)
    found = dict(case.evidence)
    for field in sorted(found.keys() - expected.keys() - {*derive.DECLARED}):
        yield unfounded("evidence", EVIDENCE_FILE, f"nothing decides its field {field}")
    progress = expected.pop("progress")
    yield from _progress(found.get("progress"), progress, len(expected["rounds"]))
    for field, value in expected.items():
        stated = _without_prv(found.get(field)) if field == "privacy" else found.get(field)
        for place in _differences(value, stated, field):
            yield unfounded("evidence", f"{EVIDENCE_FILE} {place}", "the events say otherwise")
    yield from _created(case)
    if found.get("audience") != case.manifest.predicate.get("audience"):
        yield unfounded("evidence", f"{EVIDENCE_FILE} audience", "the manifest names another one")


def _without_prv(privacy: Any) -> Any:
    """Another accountant's figure, which needs torch, is held to PLD elsewhere (``accounts``)."""
    return [
        {**entry, "accountants": {**entry["accountants"], "prv": None}} if entry["accountants"] else entry
        for entry in privacy
    ]


def _progress(stated: Any, expected: list[dict[str, Any]], rounds: int) -> Findings:
    """Each point's epsilon is the ledger's total; no charged round is left out, none made up.

    Accuracies are words, but of rounds that there were.
    """
    totals = {(point["site"], point["round"]): point["epsilon"] for point in expected}
    seen = set()
    for point in stated:
        key = (point["site"], point["round"])
        seen.add(key)
        if point["epsilon"] != totals.get(key):
            reason = f"epsilon of {key[0]} after round {key[1]} is not the total of its ledger"
            yield unfounded("evidence", f"{EVIDENCE_FILE} progress", reason)
        if key[1] > rounds:
            reason = f"{key[0]} is told of after round {key[1]}; {rounds} rounds ended"
            yield unfounded("evidence", f"{EVIDENCE_FILE} progress", reason)
    for name, number in sorted(totals.keys() - seen):
        if number:
            reason = f"round {number} of {name} is left out"
            yield unfounded("evidence", f"{EVIDENCE_FILE} progress", reason)


def _differences(expected: Any, found: Any, place: str) -> Iterator[str]:
    """Where two JSON values differ, innermost first named."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(expected.keys() | found.keys()):
            yield from _differences(expected.get(key), found.get(key), f"{place}.{key}")
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for number, pair in enumerate(zip(expected, found, strict=True)):
            yield from _differences(*pair, f"{place}[{number}]")
    elif canonical.encode(expected) != canonical.encode(found):
        yield place


def _created(case: Case) -> Findings:
    """Evidence is not older than the last event of its maker."""
    last = case.lead[-1] if case.lead else None
    if last and str(case.evidence.get("created")) < last.event.ts[:19]:
        yield unfounded("evidence", f"{EVIDENCE_FILE} created", f"it is dated before {last.id}")


def report(case: Case) -> Findings:
    """The report is what the evidence gives with the template of its version, byte for byte."""
    found = case.bundle.files.get(REPORT_FILE)
    if found is not None and render(case.evidence).encode() != found:
        yield unfounded("report", REPORT_FILE, "rendered from evidence.json it reads differently")


def papers(case: Case) -> Findings:
    """Every document is what the evidence gives, byte for byte."""
    expected = documents(case.evidence)
    expected["VERIFY.txt"] = byhand.text(case.plan.digest, case.parties)
    for name, data in expected.items():
        if name in case.bundle.files and case.bundle.files[name] != data:
            yield unfounded("papers", name, "written from evidence.json it reads differently")


def model(case: Case, file: Path) -> Findings:
    """A released model is the one that the job ended with.

    Args:
        case: the bundle.
        file: an exported folder, or a file with the bytes that the digest is of (little-endian float32).
    """
    stated = case.evidence.get("model")
    wanted = stated.get("digest") if isinstance(stated, Mapping) else None
    try:
        found = _digest_of(file)
    except (OSError, ValueError, CloisterError):
        yield incomplete("model", file.name, "it cannot be read as an exported model")
        return
    if found != wanted:
        yield altered("model", file.name, f"its digest is {found}, not {wanted}")


def _digest_of(file: Path) -> str:
    if file.is_file():
        return canonical.digest_of_file(file)
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for part in ("head.safetensors", "adapter_model.safetensors"):
        if (file / part).is_file():
            tensors |= _tensors((file / part).read_bytes())
    if not tensors:
        raise ValueError("no tensors")
    state = hashlib.sha256()
    for name in sorted(tensors):
        state.update(tensors[name].tobytes())
    return "sha256:" + state.hexdigest()


def _tensors(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """The float32 tensors of safetensors bytes, without the library: a header of JSON, then the values.

    Raises:
        ValueError: they are something else.
    """
    length = int.from_bytes(data[:8], "little")
    if not 0 < length <= len(data) - 8:
        raise ValueError("the header is cut")
    values = data[8 + length :]
    try:
        header = json.loads(data[8 : 8 + length])
        return {
            name.removeprefix(_PREFIX): _tensor(values, entry["dtype"], *entry["data_offsets"])
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (AttributeError, LookupError, TypeError, RecursionError) as error:
        raise ValueError("the header is not one of safetensors") from error


def _tensor(values: bytes, kind: Any, start: Any, stop: Any) -> np.ndarray[Any, Any]:
    if kind != "F32" or type(start) is not int or type(stop) is not int or not 0 <= start <= stop:
        raise ValueError("not float32 between two places")
    if stop > len(values):
        raise ValueError("beyond the end")
    return np.frombuffer(values[start:stop], dtype="<f4")
