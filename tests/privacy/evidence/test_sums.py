"""What a report says of secure sums follows from the logs: who fell away when, what was opened for whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from cloister.privacy.errors import InputError
from cloister.privacy.evidence.events import GENESIS, Event
from cloister.privacy.evidence.evidence import Evidence
from cloister.privacy.evidence.sums import Summed, sums
from tests.privacy.evidence.test_render import lines, page, section
from tests.reports import SECURE, evidence, replanned, with_sums

PLAN = Evidence.from_json(replanned(aggregation=SECURE)).plan
LEAD, A, B, C, D = PLAN.lead.name, *(site.name for site in PLAN.sites)
ALL = sorted((A, B, C, D))


def event(writer: str, type_: str, round: int = 1, **body: Any) -> Event:
    return Event(writer, 1, "2026-11-24T14:11:40.000Z", type_, PLAN.digest, round, body, GENESIS)


def said(*events: Event) -> list[Summed]:
    """The entries of what was written down, by one event of each kind with a place of its own in its log."""
    logs: dict[str, list[Event]] = {}
    for one in events:
        log = logs.setdefault(one.writer, [])
        log.append(Event(**{**vars(one), "seq": len(log)}))
    found = sums(PLAN, logs)
    return [Summed(**{k: tuple(v) if isinstance(v, list) else v for k, v in one.items()}) for one in found]


def closed(number: int = 1, step: int = 0, **body: Any) -> list[Event]:
    """A sum that all sites were in, signed and opened, unless ``body`` says otherwise."""
    how = {"survivors": ALL, "signed": ALL, "opened": ALL} | body
    missing = sorted({*ALL} - {*how["survivors"]})
    sites = [e for name in how["signed"] for e in (signed(name, how["survivors"], number, step),)]
    sites += [event(name, "sum.opened", number, missing=missing, step=step) for name in how["opened"]]
    asked = [event(LEAD, "round.opened", number, invited=ALL)] if not step else []
    return [*asked, *sites, event(LEAD, "sum.closed", number, step=step, **how)]


def signed(name: str, survivors: Sequence[str], number: int = 1, step: int = 0) -> Event:
    return event(name, "sum.signed", number, survivors=[*survivors], step=step)


def test_sums_that_went_alike_are_one_entry() -> None:
    alike = [e for number in range(1, 301) for e in closed(number)]
    one, other = said(*alike, *closed(301, survivors=ALL[:3], signed=ALL[:3], opened=ALL[:3]))
    assert (one.rounds, other.rounds) == (tuple(range(1, 301)), (301,))
    assert (one.fell, one.seen, one.missing, one.untold) == ((), [], (), ())
    assert (other.fell, other.missing) == ((("masking", [ALL[3]]),), (ALL[3],))
    assert len(one.events) == 2


def test_every_phase_has_its_sites() -> None:
    (one,) = said(*closed(survivors=ALL[:3], signed=ALL[:2], opened=ALL[:1]))
    assert one.fell == (("masking", [ALL[3]]), ("signing", [ALL[2]]), ("opening", [ALL[1]]))


def test_a_mask_that_others_rebuilt_stands_with_its_site() -> None:
    shares = [event(name, "sum.recovered", lost=[ALL[3]], step=0) for name in ALL[:3]]
    (one,) = said(*closed(opened=ALL[:3]), *shares)
    assert (one.recovered, one.missing, one.seen) == ((ALL[3],), (), [])
    assert one.fell == (("opening", [ALL[3]]),)
    assert len(one.events) == 4


def test_both_kinds_of_masks_of_one_site_show_its_update() -> None:
    """A survivor opens its own mask, so nobody may open what it shares; nor shares of one that is missing."""
    (one,) = said(*closed(), event(ALL[0], "sum.opened", missing=[ALL[1]], step=0))
    assert one.seen == [ALL[1]]
    late = closed(survivors=ALL[:3], signed=ALL[:3], opened=ALL[:3])
    (one,) = said(*late, event(ALL[0], "sum.recovered", lost=[ALL[3]], step=0))
    assert one.seen == [ALL[3]]


def test_an_opening_that_its_own_log_does_not_hold_is_not_known() -> None:
    (one,) = said(*(e for e in closed() if (e.writer, e.type) != (ALL[2], "sum.opened")))
    assert one.untold == (ALL[2],)


def test_a_round_that_was_given_up_stands_as_far_as_it_came() -> None:
    asked = event(LEAD, "round.opened", invited=ALL)
    ended = event(LEAD, "round.aborted", reason="sum_lost", accepted=ALL[:3], refused=[], lost=[ALL[3]])
    (one,) = said(asked, *(signed(name, ALL[:3]) for name in ALL[:2]), ended)
    assert (one.reason, one.survivors, one.signed, one.opened) == (
        *("sum_lost", tuple(ALL[:3])),
        *(tuple(ALL[:2]), ()),
    )
    assert one.fell == (("masking", [ALL[3]]), ("signing", [ALL[2]]))  # nobody was asked to open
    stopped = event(LEAD, "round.aborted", reason="stopped")
    assert said(asked, signed(A, ALL[:3]), stopped)[0].survivors == tuple(ALL[:3])
    opened = closed()
    (one,) = said(*opened, event(LEAD, "round.aborted", reason="update_range", accepted=ALL))
    assert (one.reason, one.opened) == (None, tuple(ALL))  # what was opened stays so


def test_a_round_begun_again_asked_whom_it_had_asked() -> None:
    again = event(LEAD, "round.opened", invited=ALL[:3])
    first, *rest = closed(survivors=ALL[:3], signed=ALL[:3], opened=ALL[:3])
    (one,) = said(first, again, *rest)
    assert one.invited == tuple(ALL)


def test_surplus_noise_is_a_sum_of_its_own() -> None:
    over = ALL[:3]
    step = closed(survivors=over, signed=over, opened=over)
    plain, noise = said(*step, *closed(step=1, survivors=over, signed=over, opened=over))
    assert (plain.step, noise.step, noise.invited, noise.fell) == (0, 1, tuple(over), ())
    kept = event(LEAD, "surplus.kept", reason="surplus_refused", survivors=over)
    given = [event(name, "surplus.given", survivors=over) for name in over[:2]]
    _, noise = said(*step, *given, kept)
    assert (noise.reason, noise.fell) == ("surplus_refused", (("masking", [over[2]]),))


def test_what_never_ended_or_is_of_another_job_is_no_entry() -> None:
    finish = event(LEAD, "site.lost", 9, site=A, reason="site_lost")
    assert said(event(LEAD, "round.opened", invited=ALL), finish) == []
    other = [Event(**{**vars(e), "job": "sha256:" + "0" * 64}) for e in closed()]
    assert said(*other) == []
    assert sums(Evidence.from_json(evidence()).plan, {LEAD: closed()}) == []  # no secure sums in the plan


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda value: value["sums"][0].update(survivors=["nobody"]), "not in the plan"),
        (lambda value: value["sums"][0].update(rounds=[2, 1]), "order"),
        (lambda value: value["sums"][0].update(rounds=[]), "rounds"),
        (lambda value: value["sums"].append(value["sums"][0]), "twice"),
        (lambda value: value["sums"][0].update(events=["hill-clinic/99999"]), "not those that"),
        (lambda value: value.update(evidence(sums=value["sums"])), "no secure sums"),
    ],
)
def test_what_no_log_could_say_is_not_read(spoil: Any, why: str) -> None:
    value = with_sums()
    Evidence.from_json(value)
    spoil(value)
    with pytest.raises(InputError, match=why):
        Evidence.from_json(value)


def test_the_page_says_who_fell_away_when_and_what_was_opened() -> None:
    tenth = section(page(with_sums()), 10)
    alike, other = tenth.tags("tbody")[1].tags("tr")
    assert "rounds 1–2 and 4–8" in alike.text()
    assert "In the sum all 4 Fell away nobody Opened for others – Single update shown no" in alike.text()
    for told in (
        *("round 3", "before its update came: river-practice", "masks shared with river-practice"),
        "after it signed, before it opened its mask: town-hospital",
        "own mask, from shares: town-hospital",
    ):
        assert told in other.text()
    (answer,) = [line for line in lines(tenth) if "Could the lead’s server see" in line.text()]
    assert "in none of 8 sums" in answer.text()
    assert answer.grades() == ["Derived"]
    (rests,) = [line for line in lines(tenth) if "is an argument, not a proof" in line.text()]
    assert rests.grades() == ["Declared"]


def test_the_page_says_so_where_an_update_could_be_seen_or_a_log_is_silent() -> None:
    value = with_sums()
    value["sums"][0]["missing"] = ["hill-clinic"]
    tenth = section(page(value), 10)
    assert "By these logs" not in tenth.text().replace("By these logs, yes", "")
    assert "yes: both kinds of masks were opened of hill-clinic" in tenth.text().replace("  ", " ")
    silent = with_sums()
    silent["sums"][0]["untold"] = ["hill-clinic"]
    tenth = section(page(silent), 10)
    assert tenth.tags("tbody")[1].tags("tr")[0].grades() == ["Not known"]
    assert "the logs of hill-clinic do not hold every opening" in tenth.text()


def test_where_no_sum_is_recorded_it_is_not_known() -> None:
    tenth = section(page(replanned(aggregation=SECURE)), 10)
    (line,) = [line for line in lines(tenth) if "not recorded" in line.text()]
    assert line.grades() == ["Not known"]
    plain = section(page(evidence()), 10).text()
    assert "it can see every single one" in plain
    assert "Secure sums" not in plain
