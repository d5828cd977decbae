"""Evidence is read strictly: what contradicts itself is refused, and the field is named."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from cloister.privacy.canonical import digest
from cloister.privacy.errors import InputError
from cloister.privacy.evidence.evidence import Evidence
from tests.reports import audit, evidence, jointly, per_person, replanned, without_privacy

LATER = frozenset({"datasets", "ledgers", "software", "sums"})
"""Fields that older evidence does not have."""
OTHER = digest(b"another")


def refused(value: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        Evidence.from_json(value)
    assert caught.value.id == "evidence_malformed"
    return caught.value.what


def changed(*path: str | int, to: Any) -> dict[str, Any]:
    """The vector with the value at ``path`` replaced."""
    value = copy.deepcopy(evidence())
    *parents, last = path
    place: Any = value
    for step in parents:
        place = place[step]
    place[last] = to
    return value


def test_what_is_read_is_written_again() -> None:
    assert Evidence.from_json(evidence()).to_json()["rounds"] == evidence()["rounds"]
    again = Evidence.from_json(evidence()).to_json()
    assert Evidence.from_json(again) == Evidence.from_json(evidence())


def test_a_joint_run_states_an_epsilon_against_outsiders_and_no_other_run_does() -> None:
    assert {stated.outside for stated in Evidence.from_json(jointly()).privacy} == {"5.120"}
    for value, outside in ((jointly(), None), (evidence(), "5.120")):
        value["privacy"][0]["outside"] = outside
        with pytest.raises(InputError, match="outsiders"):
            Evidence.from_json(value)


def test_a_run_without_privacy_is_evidence_too() -> None:
    assert {stated.epsilon for stated in Evidence.from_json(without_privacy()).privacy} == {None}


def test_the_unit_is_that_of_the_plan() -> None:
    assert {stated.unit for stated in Evidence.from_json(per_person()).privacy} == {"person"}
    for value, unit in ((per_person(), "record"), (evidence(), "person")):
        value["privacy"][1]["unit"] = unit
        assert "the unit of privacy is not that of the plan" in refused(value)


@pytest.mark.parametrize("field", sorted({*evidence()} - LATER))
def test_no_field_may_be_missing(field: str) -> None:
    value = evidence()
    del value[field]
    assert field in refused(value)


@pytest.mark.parametrize(
    ("path", "to", "names"),
    [
        (("version",), 2, "version"),
        (("more",), 1, "more"),
        (("kind",), "party", "kind"),
        (("created",), "yesterday", "created"),
        (("rounds", 0, "lost"), [{"site": "hill-clinic", "reason": "it rained"}], "rounds.0.lost.0.reason"),
        (("privacy", 0, "epsilon"), 7.99, "privacy.0.epsilon"),
        (("privacy", 0, "epsilon"), "about 8", "privacy.0.epsilon"),
        (("privacy", 0, "epsilon"), "Infinity", "privacy.0.epsilon"),
        (("traffic", 0, "bytes_up"), "-1", "traffic.0.bytes_up"),
        (("accuracy", "federated"), 1.5, "accuracy.federated"),
        (("accuracy", "test_rows"), "012", "accuracy.test_rows"),
        (("plan", "aggregation", "secure"), True, "plan.aggregation"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_name(path: tuple[str | int, ...], to: Any, names: str) -> None:
    assert names in refused(changed(*path, to=to))


@pytest.mark.parametrize(
    ("path", "to", "why"),
    [
        (("job",), OTHER, "not those of the plan"),
        (("purpose",), "another purpose", "not those of the plan"),
        (("plan", "training", "rounds"), 9, "not those of the plan"),
        (("model", "base_digest"), OTHER, "base model"),
        (("model", "parameters"), "1", "number of parameters"),
        (("parties",), evidence()["parties"][:-1], "parties"),
        (("parties",), [*evidence()["parties"], evidence()["parties"][1]], "parties"),
        (("parties", 1, "role"), "lead", "parties"),
        (("parties", 1, "identity"), OTHER, "words"),
        (("parties", 1, "words", 0), "zebra", "words"),
        (("privacy",), evidence()["privacy"][1:], "no privacy statement"),
        (("privacy", 1, "site"), "hill-clinic", "twice"),
        (("privacy", 0, "budget"), None, "every field has a value"),
        (("privacy", 0, "mode"), "off", "are null"),
        (("rounds", 0, "lost"), [{"site": "hill-clinic", "reason": "site_lost"}], "twice"),
        (("traffic", 0, "site"), "nobody", "not in the plan"),
        (("progress", 0, "site"), "nobody", "not in the plan"),
        (("progress", 4, "round"), 1, "twice"),
        (("accuracy", "worst_site", "name"), "nobody", "not in the plan"),
        (("logs", 0, "writer"), "nobody", "nobody"),
        (("rounds", 1, "round"), 1, "order"),
    ],
)
def test_a_contradiction_is_refused(path: tuple[str | int, ...], to: Any, why: str) -> None:
    assert why in refused(changed(*path, to=to))


def test_the_privacy_of_sites_is_that_of_the_plan() -> None:
    value = without_privacy() | {"privacy": evidence()["privacy"]}
    assert "mode of privacy" in refused(value)


AUDIT = audit(165)


@pytest.mark.parametrize(
    ("field", "to", "why"),
    [
        ("bound", "9.000", "does not follow"),
        ("correct", "166", "does not follow"),
        ("correct", "201", "cannot be"),
        ("guesses", "1001", "cannot be"),
        ("phantoms", "99999999999", "cannot be"),
    ],
)
def test_the_bound_of_an_audit_follows_from_its_guesses(field: str, to: str, why: str) -> None:
    assert Evidence.from_json(changed("privacy", 0, "audit", to=AUDIT)).privacy[0].audit is not None
    assert why in refused(changed("privacy", 0, "audit", to=AUDIT | {field: to}))


def test_where_nothing_is_promised_nothing_is_audited() -> None:
    value = without_privacy()
    value["privacy"][0]["audit"] = AUDIT
    assert "cannot be one of this job" in refused(value)


def test_what_is_not_json_is_refused() -> None:
    assert "not JSON" in refused(evidence(seconds=float("nan")))


def test_a_refusal_does_not_repeat_the_value() -> None:
    assert "secret" not in refused(evidence(kind="secret"))


def test_the_plan_may_change_with_its_digest() -> None:
    assert Evidence.from_json(replanned(purpose="letters")).purpose == "letters"
