"""A lead that cheats: it rewrites its own log, edits what it writes, and signs everything anew."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from cloister.privacy.evidence.bundle import MANIFEST_FILE, Bundle, relisted
from cloister.privacy.evidence.events import Event
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.evidence.part import Part
from cloister.simulations.bench.staged import Staged

Lines = list[Event]
Edit = Callable[[Lines], Iterable[Event]]

_NUMBER = itertools.count()


class Unnoticing(EventLog):
    """A log whose software was changed: it says nothing of a clock that goes back."""

    def _notice(self, file: int, moment: datetime) -> None:
        pass


@dataclass(frozen=True)
class Forger:
    """The keys of the lead, and, where a test says so, those of a site that colludes."""

    job: Staged
    folder: Path
    honest: list[Part] = field(default_factory=list)

    def events(self, name: str) -> Lines:
        return list(self.job.logs[name].entries())

    def rewritten(self, name: str, edit: Edit) -> Part:
        """A party's part from a log that was written anew, with another past."""
        new = list(edit(self.events(name)[1:]))
        times = iter([new[0].ts, *(event.ts for event in new)])
        folder = self.folder / f"{name}-{next(_NUMBER)}"
        log = Unnoticing.open(
            folder, self.job.identity(name), clock=lambda: datetime.fromisoformat(next(times))
        )
        with log.batch():
            for event in new:
                log.append(event.type, job=event.job, round=event.round, **event.body)
        return replace(self.job, logs={**self.job.logs, name: log}).part(name)

    def bundle(
        self,
        *parts: Part,
        evidence: Callable[[dict[str, Any]], Any] = lambda _: None,
        files: Callable[[dict[str, bytes]], Any] = lambda _: None,
        leave_out: str = "",
    ) -> Bundle:
        """The bundle with some parts exchanged; evidence follows from them, then is edited."""
        new = {part.writer: part for part in parts}
        everybody = [new.get(part.writer, part) for part in self.parts() if part.writer != leave_out]
        made = self.job.contents(everybody)
        value = dict(made.evidence)
        evidence(value)
        made = replace(made, evidence=value)
        bundle = made.bundle(self.job.lead)
        found = {name: data for name, data in bundle.files.items() if name != MANIFEST_FILE}
        files(found)
        return relisted(Bundle(found), self.job.plan, "auditor", self.job.lead)

    def parts(self) -> tuple[Part, ...]:
        """Everybody's honest part, made once."""
        if not self.honest:
            self.honest.extend(self.job.parts())
        return tuple(self.honest)


def changed(event: Event, **body: Any) -> Event:
    """An event with other fields."""
    return replace(event, body={**event.body, **body})


def where(lines: Lines, type: str, round: int | None = None, **body: Any) -> int:
    """The place of the first such event."""
    for place, event in enumerate(lines):
        wanted: Mapping[str, Any] = {**event.body, **body}
        if (event.type, event.round) == (type, round) and wanted == dict(event.body):
            return place
    raise AssertionError(f"there is no {type}")
