import json
import math
from pathlib import Path

import pytest

from cloister.privacy import canonical
from cloister.privacy.dp.events import RELATION, GaussianSteps
from cloister.privacy.errors import BudgetError

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/dp/mechanisms.json").read_text())


@pytest.mark.parametrize("value", VECTORS["good"])
def test_a_mechanism_survives_its_canonical_form(value):
    block = GaussianSteps.from_json(value)
    data = canonical.encode(block.to_json())
    assert GaussianSteps.from_json(canonical.decode(data)) == block
    assert canonical.encode(GaussianSteps.from_json(canonical.decode(data)).to_json()) == data


@pytest.mark.parametrize("name", VECTORS["bad"])
def test_a_broken_mechanism_is_refused(name):
    with pytest.raises(BudgetError) as refusal:
        GaussianSteps.from_json(VECTORS["bad"][name])
    assert refusal.value.id == "mechanism_unaccountable"


@pytest.mark.parametrize(("sigma", "rate"), [(math.nan, 0.5), (math.inf, 0.5), (1.0, math.nan)])
def test_values_that_are_no_numbers_are_refused(sigma, rate):
    with pytest.raises(BudgetError):
        GaussianSteps(sigma, rate, 1)


def test_equal_noise_is_equal_however_it_is_written():
    assert GaussianSteps(2, 1, 3) == GaussianSteps(2.0, 1.0, 3)
    assert canonical.encode(GaussianSteps(2, 1, 3).to_json()) == canonical.encode(
        GaussianSteps(2.0, 1.0, 3).to_json()
    )


def test_the_neighbour_relation_is_the_one_that_plans_name():
    assert RELATION == "add-remove"
