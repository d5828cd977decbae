"""What a plan may add to federated averaging: each method is a field that the bytes of other plans lack.

What a method does stands with whoever does it: the server's steps in ``server.optimizers``, what it may put
in the place of the mean in ``server.aggregation``, the site's part in ``client.learn.training``, codecs in
``privacy.codecs``. Here is what the parties agree on, and what cannot go together, with the reason.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cloister.privacy.frozen import Part, Positive

Decay = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=10)]


class ServerMomentum(Part):
    """The server's step remembers those before (``server.optimizers.momentum``).

    Attributes:
        rate: of the step.
        momentum: how much of the last velocity stays.
    """

    kind: Literal["momentum", "nesterov"]
    rate: Rate
    momentum: Decay

    @property
    def words(self) -> str:
        """The method as a report names it."""
        return f"server {self.kind} {self.momentum:g} at rate {self.rate:g}"


class ServerAdam(Part):
    """The server's step is scaled coordinate by coordinate (``server.optimizers.adam``).

    Attributes:
        rate: of the step.
        first, second: how much of the means of changes and of their squares stays.
        floor: added to the root of the second mean.
    """

    kind: Literal["adam"]
    rate: Rate
    first: Decay
    second: Decay
    floor: Positive

    @property
    def words(self) -> str:
        """The method as a report names it."""
        return f"server Adam at rate {self.rate:g}"


ServerOptimizer = Annotated[ServerMomentum | ServerAdam, Field(discriminator="kind")]


class Robust(Part):
    """A rule in the place of the mean that bears some sites lying (``server.aggregation``).

    Attributes:
        liars: f: so many sites may send anything at all.
    """

    kind: Literal["trimmed-mean", "median", "multi-krum"]
    liars: Annotated[int, Field(ge=1, le=1000)]

    @property
    def fewest(self) -> int:
        """The fewest updates that the rule bears so many liars among."""
        return 2 * self.liars + (3 if self.kind == "multi-krum" else 1)

    @property
    def words(self) -> str:
        """The rule as a report names it."""
        return f"{self.kind.replace('-', ' ')} against {self.liars} that lie"


Factors = Literal["up", "alternate"]
"""Which factors of LoRA are trained: ``up`` is B alone, ``alternate`` B in odd rounds and A in even ones. The
head is trained in any case."""

FACTORS: dict[Factors, str] = {
    "up": "LoRA's A frozen (FFA-LoRA)",
    "alternate": "LoRA's A and B in turn (RoLoRA)",
}
"""Each as a report names it."""


def frozen_in(factors: Factors | None, round: int) -> str | None:
    """The ending of the names of tensors that a round leaves as they are; None where it trains all.

    Args:
        factors: of the plan.
        round: counted from 1.
    """
    if factors is None:
        return None
    return ".lora_B.weight" if factors == "alternate" and round % 2 == 0 else ".lora_A.weight"


Precision = Literal["bf16"]
"""What sites take the products of a training pass in, where it is not float32. What is trained, norms, sums
and noise are wider in any case."""

PRECISIONS: dict[Precision, str] = {"bf16": "training passes in bfloat16"}
"""Each as a report names it."""


Codec = Literal["bf16", "int8", "int4", "ternary"]
"""How a change is written where no secure sum is taken (``privacy.codecs``)."""
