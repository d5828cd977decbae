"""Which rows and columns of a source a dataset is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cloister.client.site import records
from cloister.client.site.identifiers.screening import Action
from cloister.client.site.persons import PersonColumn
from cloister.client.site.records import Missing, Records
from cloister.client.site.sources.place import Place
from cloister.privacy.errors import UsageError
from cloister.privacy.table import Table
from cloister.privacy.task import TaskKind


@dataclass(frozen=True)
class Selection:
    """Which rows and columns of a source are used.

    Attributes:
        place: where the source is.
        text, label: its columns; the label is a class, tags or spans, or an answer, by the kind of task.
        person: how rows say whom they are about; None at record level.
        missing: what becomes of rows without a text or label.
        kind: of the task that its rows are for.
        pair: the column of second texts; None where rows have one.
        table: the columns, in the place of ``text`` and ``label``, where rows are those of a table.
    """

    place: Place
    text: str
    label: str
    person: PersonColumn | None = None
    missing: Missing = "refuse"
    kind: TaskKind = "sequence-classification"
    pair: str | None = None
    table: Table | None = None

    @classmethod
    def of_table(
        cls, place: Place, table: Table, person: PersonColumn | None = None, missing: Missing = "refuse"
    ) -> Selection:
        """The columns of a table."""
        return cls(place, "", table.label, person, missing, "tabular-classification", None, table)

    @property
    def names(self) -> dict[str, str]:
        """What each used column is called in the source."""
        text = {f"column {n}": n for n in self.table.names} if self.table else {"text": self.text}
        found = {**text, "label": self.label}
        found |= {} if self.pair is None else {"pair": self.pair}
        return found if self.person is None else found | {"person": self.person.name}

    def raw(self) -> Records:
        """All rows as they are in the source, with the ids of its persons."""
        person = self.person.name if self.person else None
        if self.table:
            return records.rows_of(self.place, self.table, person=person)
        return records.raw(
            self.place, text=self.text, label=self.label, person=person, pair=self.pair, kind=self.kind
        )


def selected(place: Place, columns: tuple[str, str] | Table, wanted: Selection) -> Selection:
    """What is wanted, of these columns."""
    check_pair(wanted.kind, wanted.pair)
    if not isinstance(columns, Table):
        return replace(wanted, text=columns[0], label=columns[1])
    if wanted.pair is not None:
        raise UsageError("option_invalid", "Rows of a table have no texts.", "Leave out --pair.")
    return Selection.of_table(place, columns, wanted.person, wanted.missing)


def check_identifiers(selection: Selection, action: Action) -> None:
    """Refuses to mask or look for identifiers in a table, of which no text is read: ``option_invalid``."""
    if selection.table and action != "off":
        raise UsageError(
            "option_invalid",
            "Of a table nothing is read but numbers, cut to public ranges, and public values.",
            "Leave out --identifiers.",
        )


def check_pair(task: TaskKind, pair: str | None) -> None:
    """Refuses second texts where a task has none: ``option_invalid``."""
    if pair is not None and task != "sequence-classification":
        raise UsageError(
            "option_invalid",
            f"Rows for {task} have one text, and no pair.",
            "Leave out --pair, or --task.",
        )
