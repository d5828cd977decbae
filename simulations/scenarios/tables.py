"""The public ranges of the tabular scenarios: from textbooks and code lists, never from the records.

South German Credit: Grömping 2019, "South German Credit Data: Correcting a Widely Used Data Set", whose code
list names all values. Sex and marital status, and whether somebody is a foreign worker, are left out.
"""

from __future__ import annotations

from cloister.privacy.analytic.tabular import Choice, Columns, Number

HEART = Columns(
    (
        Number("age", 55, 10),
        Number("trestbps", 130, 20),
        Number("chol", 220, 80, missing=0.0),
        Number("thalach", 140, 25),
        Number("oldpeak", 1, 1),
        Choice("sex", ("0", "1")),
        Choice("fbs", ("0", "1")),
        Choice("exang", ("0", "1")),
        Choice("cp", ("1", "2", "3", "4")),
        Choice("restecg", ("0", "1", "2")),
    )
)
"""The columns that FLamby's Fed-Heart-Disease keeps (du Terrail et al. 2022); chol 0 is "not measured"."""


def _codes(first: int, last: int) -> tuple[str, ...]:
    return tuple(str(code) for code in range(first, last + 1))


CREDIT = Columns(
    (
        Number("duration", 20, 12),
        Number("amount", 3000, 2500),
        Number("age", 35, 12),
        Choice("status", _codes(1, 4)),
        Choice("credit_history", _codes(0, 4)),
        Choice("purpose", _codes(0, 10)),
        Choice("savings", _codes(1, 5)),
        Choice("employment_duration", _codes(1, 5)),
        Choice("installment_rate", _codes(1, 4)),
        Choice("other_debtors", _codes(1, 3)),
        Choice("present_residence", _codes(1, 4)),
        Choice("property", _codes(1, 4)),
        Choice("other_installment_plans", _codes(1, 3)),
        Choice("housing", _codes(1, 3)),
        Choice("number_credits", _codes(1, 4)),
        Choice("job", _codes(1, 4)),
        Choice("people_liable", _codes(1, 2)),
        Choice("telephone", _codes(1, 2)),
    )
)
