"""What is learnt: the task of a plan.

- ``sequence-classification``: one class of each text, or of each pair of texts.
- ``token-classification``: one tag of each word, in the IOB2 scheme (Ratnaparkhi 1998; Tjong Kim Sang and
  Veenstra 1999): ``B-X`` begins an entity of kind X, ``I-X`` goes on with it, ``O`` is outside of any.
- ``tabular-classification``: one class of each row of a table, from its columns (``privacy.table``).
- ``causal-lm``: the answer to each instruction, word by word. No head is trained.

In all of them one row is one sample: the loss of a row is a mean over its own words, so that a long row pulls
no more than a short one before it is clipped.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from cloister.privacy.frozen import Part
from cloister.privacy.table import Table

Text = Annotated[str, Field(min_length=1, max_length=200)]
TaskKind: TypeAlias = Literal[
    "sequence-classification", "token-classification", "causal-lm", "tabular-classification"
]
OUTSIDE = "O"
PIPELINES = {
    "sequence-classification": "text-classification",
    "token-classification": "token-classification",
    "causal-lm": "text-generation",
    "tabular-classification": "tabular-classification",
}
"""What model hubs call the kinds of tasks."""


class Task(Part):
    """What is learnt: classes are agreed beforehand, never collected from records.

    Attributes:
        kind: see the module.
        labels: the classes, or the tags; none where answers are learnt.
        pair: that each row has two texts; absent from the bytes of plans with one, never false.
        table: the columns of each row, where rows are those of a table; absent from the bytes of other plans.
    """

    kind: TaskKind = "sequence-classification"
    labels: Annotated[tuple[Text, ...], Field(max_length=10_000)] = ()
    pair: Literal[True] | None = None
    table: Table | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.kind == "causal-lm" and self.labels:
            raise ValueError("answers are learnt, and they have no labels")
        if self.kind != "causal-lm" and len(self.labels) < 2:
            raise ValueError("at least two labels are needed")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("a label stands twice")
        if (self.table is None) != (self.kind != "tabular-classification"):
            raise ValueError("columns belong to rows of a table, and to them alone")
        if self.table and self.table.classes != self.labels:
            raise ValueError("the labels are not the classes of the table")
        if self.pair and self.kind != "sequence-classification":
            raise ValueError("pairs of texts belong to classes of whole rows")
        if self.kind == "token-classification" and not tags_agree(self.labels):
            raise ValueError("tags are O, and B-X with or without I-X for each kind X of entity")
        return self

    @property
    def classifies(self) -> bool:
        """Whether a row has one class."""
        return self.kind in ("sequence-classification", "tabular-classification")

    @property
    def generates(self) -> bool:
        """Whether what is learnt goes on with a text."""
        return self.kind == "causal-lm"

    @property
    def of_texts(self) -> bool:
        """Whether a row is one text with one class."""
        return self.kind == "sequence-classification" and not self.pair

    @property
    def entities(self) -> tuple[str, ...]:
        """The kinds of entities that are tagged, in the order of their labels."""
        return tuple(label[2:] for label in self.labels if label.startswith("B-"))

    @property
    def described(self) -> str:
        """What kind of model learns it, in words."""
        if self.kind == "causal-lm":
            return "model that answers instructions"
        if self.kind == "token-classification":
            return f"tagger of words with {len(self.labels)} tags"
        if self.table:
            return f"classifier of rows of {len(self.table.columns)} columns with {len(self.labels)} classes"
        kind = "classifier of pairs of texts" if self.pair else "text classifier"
        return f"{kind} with {len(self.labels)} classes"


def tags_agree(tags: tuple[str, ...]) -> bool:
    """Whether tags are those of the IOB2 scheme: ``O``, and ``B-X`` wherever there is ``I-X``."""
    begun = {tag[2:] for tag in tags if tag.startswith("B-") and len(tag) > 2}
    known = {OUTSIDE} | {f"{letter}-{kind}" for kind in begun for letter in "BI"}
    return OUTSIDE in tags and set(tags) <= known and bool(begun)
