import json
from pathlib import Path

import pytest

from cloister.privacy.dp import accounting
from cloister.privacy.dp.events import GaussianSteps

PLANS = json.loads((Path(__file__).parents[2] / "vectors/dp/accountants.json").read_text())["plans"]


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
def test_the_two_tight_accounts_agree(plan):
    from cloister.privacy.step.prv import prv_epsilon

    block = GaussianSteps(plan["noise_multiplier"], plan["rate"], plan["steps"])
    prv = prv_epsilon([block], plan["delta"])
    others = accounting.accountants([block], plan["delta"])
    assert prv == pytest.approx(plan["prv"], abs=1e-3)
    assert abs(prv - others["pld"]) <= accounting.AGREEMENT
    assert prv < others["rdp"]


@pytest.mark.slow
def test_a_mixed_ledger_gets_the_same_account_from_both():
    from cloister.privacy.step.prv import prv_epsilon

    ledger = [GaussianSteps(1.0, 0.01, 200), GaussianSteps(2.0, 0.1, 30), GaussianSteps(1.0, 0.01, 100)]
    assert abs(prv_epsilon(ledger, 1e-5) - accounting.accountants(ledger, 1e-5)["pld"]) <= 0.02
    assert prv_epsilon([], 1e-5) == 0
