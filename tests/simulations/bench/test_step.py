"""Operations and exactness of a private step, on a tiny model."""

import numpy as np

from cloister.client.learn.features import Tokens, Units
from cloister.simulations.bench.step import Work, flops, max_abs_error
from tests import models

PERSONS = 5


def tiny() -> Work:
    owner = np.repeat(np.arange(PERSONS), 2)
    return Work(models.classifier(), Tokens(models.documents(10)), models.labels(10), Units.of(owner))


def test_privacy_costs_the_clipped_sum_and_nothing_else() -> None:
    work = tiny()
    plain, private = flops(work, np.arange(PERSONS))
    bias = 2 * 10 * 4  # 10 rows of 4 classes, summed by a counted product where autograd sums uncounted
    assert private - plain == 2 * PERSONS * work.classifier.layout.size + bias


def test_the_clipped_sum_is_that_of_one_person_at_a_time() -> None:
    assert max_abs_error(tiny(), np.arange(PERSONS)) <= 1e-6
