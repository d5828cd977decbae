"""Instructions and answers as tokens: where the answer begins, so that the loss is on its tokens alone.

A tokenizer with a chat template lays both out as one turn of a user and one of an assistant. Any other gets a
fixed form, so that all sites mean the same::

    Question: <instruction>
    Answer: <answer><end of text>

A row that is too long loses the beginning of its instruction first, but for its first token, until half of
the room is the answer's, and then the end of its answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloister.client.learn.model import tokenizer_of
from cloister.privacy.errors import ModelError
from cloister.privacy.model import BaseModel

_TRIAL = ("What helps?", "Rest.")


@dataclass(frozen=True, eq=False)
class Turns:
    """Rows of instruction and answer.

    Attributes:
        ids: token ids, one array of shape (tokens,) a row.
        starts: where the answer of each begins, int64, shape (rows,); every row has one token of it or more.
    """

    ids: tuple[NDArray[np.int64], ...]
    starts: NDArray[np.int64]


@dataclass(frozen=True)
class Form:
    """How a base model's tokenizer lays out a question and its answer.

    Raises:
        ModelError: ``model_unsafe``; ``tokenizer_unfit``, it has no token that ends a text, or its chat
            template puts something else before an answer than before the place of one.
    """

    tokenizer: Any
    name: str

    @classmethod
    def of(cls, base: BaseModel) -> Form:
        """The form of a base model, tried out on words of ours."""
        found = cls(tokenizer_of(base), base.name)
        if found.tokenizer.eos_token_id is None:
            raise ModelError(
                "tokenizer_unfit",
                f"The tokenizer of {base.name} has no token that ends a text.",
                "Take a base model that was made to write.",
            )
        found.turns([_TRIAL[0]], [_TRIAL[1]], 1 << 20)
        return found

    @property
    def templated(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(self.tokenizer.chat_template)

    def prompt(self, question: str) -> list[int]:
        """The tokens that stand before an answer."""
        if self.templated:
            return self._plain(self._rendered(question))
        first = self.tokenizer.bos_token_id
        return ([] if first is None else [first]) + self._plain(f"Question: {question}\nAnswer:")

    def turns(self, questions: Sequence[str], answers: Sequence[str], most: int) -> Turns:
        """Rows of at most ``most`` tokens each."""
        rows = [
            _cut(self.prompt(question), self._answer(question, answer), most)
            for question, answer in zip(questions, answers, strict=True)
        ]
        ids = tuple(np.array(before + answer, dtype=np.int64) for before, answer in rows)
        return Turns(ids, np.array([len(before) for before, _ in rows], dtype=np.int64))

    def _answer(self, question: str, answer: str) -> list[int]:
        if not self.templated:
            return [*self._plain(f" {answer}"), self.tokenizer.eos_token_id]
        whole, before = self._rendered(question, answer), self._rendered(question)
        if not whole.startswith(before) or whole == before:
            raise ModelError(
                "tokenizer_unfit",
                f"By the chat template of {self.name}, an answer does not begin where one is asked for.",
                "Take a base model with another template.",
            )
        return self._plain(whole[len(before) :])

    def _rendered(self, question: str, answer: str | None = None) -> str:
        from jinja2.exceptions import TemplateError

        turns = [{"role": "user", "content": question}]
        turns += [] if answer is None else [{"role": "assistant", "content": answer}]
        try:
            found = self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=answer is None
            )
        except (TemplateError, ValueError, TypeError) as error:
            raise ModelError(
                "tokenizer_unfit",
                f"The chat template of {self.name} cannot lay out a question and an answer.",
                "Take a base model with another template.",
            ) from error
        return str(found)

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids


def _cut(before: list[int], answer: list[int], most: int) -> tuple[list[int], list[int]]:
    """Both parts in a room of ``most`` tokens."""
    room = most - min(len(answer), most // 2)
    if len(before) > room:
        before = before[:1] + before[len(before) - room + 1 :]
    return before, answer[: most - len(before)]
