"""What a cheating lead can do to a bundle, with its own keys and with those of a colluding site, and which
check finds it. Every row signs everything anew that it can sign; a row that ends ``verified`` is a defect.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from cloister.privacy import canonical
from cloister.privacy.consent import DECISION_CONTEXT, approval
from cloister.privacy.dp import tails
from cloister.privacy.evidence.bundle import MANIFEST_FILE, Bundle, relisted
from cloister.privacy.evidence.checks import signatures
from cloister.privacy.evidence.checks.case import Opening
from cloister.privacy.evidence.checks.findings import Result
from cloister.privacy.evidence.checks.run import Verdict, verify
from cloister.privacy.evidence.dsse import Envelope
from cloister.privacy.evidence.events import Event, timestamp
from cloister.privacy.evidence.heads import Growth, SignedHead
from cloister.privacy.evidence.part import POLICIES, Part, Shown, statement_place
from cloister.privacy.evidence.render import render
from cloister.privacy.wire.signed import Signed
from cloister.simulations.bench.staged import made_up
from tests.cheating import Forger, Lines, changed, where

pytestmark = pytest.mark.job

FAKE = made_up("forged")
ALL = [f"site-0{number}" for number in range(1, 5)]


Alteration = Callable[[Any], Bundle]
TABLE: list[tuple[str, Alteration, str, Result]] = []


def found_by(check: str, result: Result = Result.ALTERED) -> Callable[[Alteration], Alteration]:
    """Puts an alteration into the table, with the check that must find it and what it makes of the bundle."""

    def add(alteration: Alteration) -> Alteration:
        TABLE.append((alteration.__name__, alteration, check, result))
        return alteration

    return add


def without(lines: Lines, *types: str, **body: Any) -> Lines:
    return [e for e in lines if e.type not in types or {**e.body, **body} != dict(e.body)]


def edited(lines: Lines, type: str, change: Callable[[Event], Event], round: int | None = None) -> Lines:
    return [change(e) if e.type == type and round in (None, e.round) else e for e in lines]


# The lead rewrites its own log


@found_by("rounds")
def drop_the_last_round(stage: Any) -> Bundle:
    def edit(lines: Lines) -> Iterator[Event]:
        last = made_up("model", 2)
        for event in lines:
            if event.round == 3:
                continue
            if event.type in ("model.released", "job.finished"):
                event = changed(event, model=last, **({"rounds": 2} if event.type == "job.finished" else {}))
            yield event

    return stage.plain.bundle(stage.plain.rewritten("lead", edit))


@found_by("updates")
def drop_a_round_and_number_the_others_anew(stage: Any) -> Bundle:
    def edit(lines: Lines) -> Iterator[Event]:
        for event in lines:
            if event.round == 1:
                continue
            event = replace(event, round=event.round - 1) if event.round else event
            yield (
                changed(event, model=made_up("model", 0))
                if (event.type, event.round)
                == (
                    "round.opened",
                    1,
                )
                else event
            )

    return stage.plain.bundle(stage.plain.rewritten("lead", edit))


@found_by("updates")
def merge_two_rounds(stage: Any) -> Bundle:
    def edit(lines: Lines) -> Iterator[Event]:
        for event in lines:
            if event.round == 2 and event.type in ("round.opened", "sum.closed", "update.refused"):
                continue
            if event.round == 1 and event.type in ("round.closed", "sum.closed"):
                continue
            event = replace(event, round=1) if event.round == 2 else event
            yield replace(event, round=event.round - 1) if event.round == 3 else event

    return stage.plain.bundle(stage.plain.rewritten("lead", edit))


@found_by("survivors")
def change_the_survivors_of_a_sum(stage: Any) -> Bundle:
    def edit(lines: Lines) -> Lines:
        fewer = ["site-01", "site-02", "site-03"]
        lines = edited(
            lines, "sum.closed", lambda e: changed(e, survivors=fewer, signed=fewer, opened=fewer), 3
        )
        lines = edited(lines, "round.closed", lambda e: changed(e, accepted=fewer, lost=["site-04"]), 3)
        place = where(lines, "update.received", 3, site="site-04")
        lost = replace(lines[place], type="site.lost", body={"site": "site-04", "reason": "site_lost"})
        return [*lines[:place], lost, *lines[place + 1 :]]

    return stage.plain.bundle(stage.plain.rewritten("lead", edit))


@found_by("updates")
def count_a_site_that_had_refused(stage: Any) -> Bundle:
    def edit(lines: Lines) -> Lines:
        everybody = ["site-01", "site-02", "site-03", "site-04"]
        place = where(lines, "update.refused", 2)
        body = {"site": "site-04", "sealed": FAKE}
        lines = [
            *lines[:place],
            replace(lines[place], type="update.received", body=body),
            *lines[place + 1 :],
        ]
        lines = edited(lines, "sum.closed", lambda e: changed(e, survivors=everybody), 2)
        return edited(lines, "round.closed", lambda e: changed(e, accepted=everybody, refused=[]), 2)

    return stage.plain.bundle(stage.plain.rewritten("lead", edit))


@found_by("rounds")
def delete_a_refusal(stage: Any) -> Bundle:
    return stage.plain.bundle(stage.plain.rewritten("lead", lambda lines: without(lines, "update.refused")))


@found_by("refusals")
def delete_a_refusal_and_the_invitation(stage: Any) -> Bundle:
    def edit(lines: Lines) -> Lines:
        lines = without(lines, "update.refused")
        lines = edited(lines, "round.opened", lambda e: changed(e, invited=list(e.body["invited"])[:3]), 2)
        return edited(lines, "round.closed", lambda e: changed(e, refused=[]), 2)

    return stage.plain.bundle(stage.plain.rewritten("lead", edit))


@found_by("updates")
def make_up_an_update(stage: Any) -> Bundle:
    return stage.plain.bundle(
        stage.plain.rewritten(
            "lead",
            lambda lines: edited(
                lines,
                "update.received",
                lambda e: changed(e, sealed=FAKE) if e.body["site"] == "site-02" else e,
                3,
            ),
        )
    )


@found_by("updates")
def leave_out_an_update_that_came(stage: Any) -> Bundle:
    def edit(lines: Lines) -> Lines:
        fewer = ["site-01", "site-02", "site-03"]
        lines = without(lines, "update.received", site="site-04", sealed=made_up("update", "site-04", 1))
        lines = edited(lines, "round.opened", lambda e: changed(e, invited=fewer), 1)
        lines = edited(
            lines, "sum.closed", lambda e: changed(e, survivors=fewer, signed=fewer, opened=fewer), 1
        )
        return edited(lines, "round.closed", lambda e: changed(e, accepted=fewer), 1)

    return stage.plain.bundle(stage.plain.rewritten("lead", edit))


@found_by("rounds")
def swap_the_model_between_two_rounds(stage: Any) -> Bundle:
    def edit(lines: Lines) -> Lines:
        lines = edited(lines, "round.closed", lambda e: changed(e, model=FAKE), 1)
        return edited(lines, "round.opened", lambda e: changed(e, model=FAKE), 2)

    return stage.plain.bundle(stage.plain.rewritten("lead", edit))


@found_by("model")
def swap_the_adapter(stage: Any) -> Bundle:
    def edit(lines: Lines) -> Lines:
        for kind in ("model.released", "job.finished"):
            lines = edited(lines, kind, lambda e: changed(e, model=FAKE))
        return edited(lines, "round.closed", lambda e: changed(e, model=FAKE), 3)

    return stage.plain.bundle(stage.plain.rewritten("lead", edit))


@found_by("rounds", Result.NOT_REPRODUCIBLE)
def start_before_everybody_approved(stage: Any) -> Bundle:
    def edit(lines: Lines) -> Lines:
        late = lines.pop(where(lines, "job.accepted", site="site-03"))
        place = where(lines, "round.closed", 1)
        return [*lines[:place], late, *lines[place:]]

    return stage.plain.bundle(stage.plain.rewritten("lead", edit))


@found_by("consent", Result.NOT_REPRODUCIBLE)
def go_on_after_a_site_withdrew(stage: Any) -> Bundle:
    def edit(lines: Lines) -> Lines:
        place = where(lines, "round.opened", 2)
        gone = replace(lines[place], type="site.withdrew", job=None, round=None, body={"site": "site-02"})
        return [*lines[:place], gone, *lines[place:]]

    return stage.plain.bundle(stage.plain.rewritten("lead", edit))


@found_by("channels")
def claim_a_better_channel_than_the_site_saw(stage: Any) -> Bundle:
    return stage.plain.bundle(
        stage.plain.rewritten(
            "lead",
            lambda lines: edited(lines, "channel.opened", lambda e: changed(e, group="SecP384r1MLKEM1024")),
        )
    )


@found_by("channels")
def swap_a_certificate(stage: Any) -> Bundle:
    return stage.plain.bundle(
        stage.plain.rewritten(
            "lead", lambda lines: edited(lines, "channel.opened", lambda e: changed(e, remote=FAKE))
        )
    )


def _flower(stage: Any, **other: Any) -> Bundle:
    """What an honest site writes down of its connection to Flower, if that is not as it should be."""

    def at_flower(event: Event) -> Event:
        return changed(event, **other) if event.body["route"] == "flower" else event

    part = stage.plain.rewritten("site-01", lambda lines: edited(lines, "channel.opened", at_flower))
    return stage.plain.bundle(part)


@found_by("channels")
def claim_another_cipher_of_flowers_connection_than_the_site_saw(stage: Any) -> Bundle:
    def at_flower(event: Event) -> Event:
        seen = event.body["route"] == "flower"
        return changed(event, cipher="TLS_AES_128_GCM_SHA256") if seen else event

    part = stage.plain.rewritten("lead", lambda lines: edited(lines, "channel.opened", at_flower))
    return stage.plain.bundle(part)


@found_by("channels")
def stand_between_a_site_and_flower(stage: Any) -> Bundle:
    return _flower(stage, remote=FAKE)


@found_by("channels")
def let_a_site_into_flower_under_another_certificate(stage: Any) -> Bundle:
    return _flower(stage, local=FAKE)


@found_by("channels", Result.NOT_REPRODUCIBLE)
def let_a_site_into_flower_below_tls_13(stage: Any) -> Bundle:
    """Both ends say so: an honest record of what must not be."""

    def older(event: Event) -> Event:
        ours = "site-01" in (event.writer, event.body["party"]) and event.body["route"] == "flower"
        return changed(event, tls="1.2") if ours else event

    both = [
        stage.plain.rewritten(party, lambda lines: edited(lines, "channel.opened", older))
        for party in ("site-01", "lead")
    ]
    return stage.plain.bundle(*both)


@found_by("traffic")
def understate_what_a_site_sent(stage: Any) -> Bundle:
    return stage.plain.bundle(
        stage.plain.rewritten(
            "lead", lambda lines: edited(lines, "traffic.counted", lambda e: changed(e, bytes_up=1000))
        )
    )


@found_by("traffic")
def leave_uncounted_what_a_site_sent(stage: Any) -> Bundle:
    """Its line is missing in the table of bytes; those of somebody who is not in the plan are there."""
    return stage.plain.bundle(
        stage.plain.rewritten(
            "lead",
            lambda lines: edited(
                lines,
                "traffic.counted",
                lambda e: changed(e, site="site-99") if e.body["site"] == "site-04" else e,
            ),
        )
    )


@found_by("rounds", Result.NOT_REPRODUCIBLE)
def end_the_log_before_the_job(stage: Any) -> Bundle:
    part = stage.plain.rewritten("lead", lambda lines: lines[: where(lines, "job.finished")])
    return stage.plain.bundle(part, evidence=lambda e: e.update(model=_model(stage)))


def _model(stage: Any) -> Any:
    return stage.plain.job.contents(stage.plain.parts()).evidence["model"]


@found_by("rounds", Result.NOT_REPRODUCIBLE)
def run_other_code(stage: Any) -> Bundle:
    return stage.plain.bundle(
        stage.plain.rewritten(
            "lead", lambda lines: edited(lines, "job.started", lambda e: changed(e, code=FAKE))
        )
    )


# Times and silence: the lead of this job was away for two hours before the last round


def _away(stage: Any, edit: Callable[[Lines], Any], party: str = "lead") -> Bundle:
    return stage.away.bundle(stage.away.rewritten(party, edit))


@found_by("clock", Result.NOT_REPRODUCIBLE)
def take_out_a_gap(stage: Any) -> Bundle:
    return _away(stage, lambda lines: without(lines, "log.gap"))


@found_by("clock", Result.NOT_REPRODUCIBLE)
def take_out_that_another_process_went_on(stage: Any) -> Bundle:
    def edit(lines: Lines) -> Lines:
        lines = without(lines, "log.gap", "log.stopped", "job.resumed")
        place = where(lines, "clock.status", occasion="start")
        return lines[:place] + lines[place + 2 :]

    return _away(stage, edit)


@found_by("clock", Result.NOT_REPRODUCIBLE)
def go_on_without_a_reason(stage: Any) -> Bundle:
    def edit(lines: Lines) -> Lines:
        place = where(lines, "log.gap")
        return [*lines[:place], replace(lines[place], type="log.heartbeat", body={}), *lines[place + 2 :]]

    return _away(stage, edit)


@found_by("clock", Result.NOT_REPRODUCIBLE)
def shorten_a_gap(stage: Any) -> Bundle:
    return _away(stage, lambda lines: edited(lines, "log.gap", lambda e: changed(e, lasted="minutes")))


@found_by("clock", Result.NOT_REPRODUCIBLE)
def date_all_that_follows_a_gap_back(stage: Any) -> Bundle:
    """No time goes back in the log of the lead, and the gap is as short as is told; but sites have clocks."""

    def edit(lines: Lines) -> Lines:
        place = where(lines, "log.gap")
        lines = edited(lines, "log.gap", lambda e: changed(e, lasted="seconds"))
        return lines[:place] + [_dated(e, -2) for e in lines[place:]]

    return _away(stage, edit)


@found_by("clock", Result.NOT_REPRODUCIBLE)
def date_one_round_back(stage: Any) -> Bundle:
    return _away(stage, lambda lines: edited(lines, "round.closed", lambda e: _dated(e, -1), 2))


@found_by("clock", Result.NOT_REPRODUCIBLE)
def date_the_updates_of_a_site_ahead(stage: Any) -> Bundle:
    """A site that colludes, whose clock was said to be set by nobody."""

    def edit(lines: Lines) -> Lines:
        place = where(lines, "update.sent", 1)
        return lines[:place] + [_dated(e, 1) for e in lines[place:]]

    return _away(stage, edit, "site-01")


@found_by("clock", Result.INCOMPLETE)
def say_nothing_of_a_clock(stage: Any) -> Bundle:
    return _away(stage, lambda lines: without(lines, "clock.status", occasion="job"), "site-02")


def _dated(event: Event, hours: int) -> Event:
    moment = datetime.fromisoformat(event.ts) + timedelta(hours=hours)
    return replace(event, ts=timestamp(moment))


# Heads, once sites have countersigned them


@found_by("heads")
def fork_the_log_after_it_was_witnessed(stage: Any) -> Bundle:
    """Another event for a round that sites had seen the head of, with nothing else against it."""
    lead = stage.witnessed
    part = lead.rewritten(
        "lead",
        lambda lines: edited(
            without(lines, "log.countersigned"), "traffic.counted", lambda e: changed(e, bytes_down=1)
        ),
    )
    return lead.bundle(part)


@found_by("heads")
def remove_an_incident_that_sites_had_seen_under_a_head(stage: Any) -> Bundle:
    lead = stage.witnessed

    def edit(lines: Lines) -> Lines:
        lines.pop(where(lines, "channel.opened", party="site-03"))
        return without(lines, "log.countersigned")

    return lead.bundle(lead.rewritten("lead", edit))


@found_by("heads")
def show_an_older_head_than_others_hold(stage: Any) -> Bundle:
    lead = stage.witnessed

    def edit(lines: Lines) -> Lines:
        lines = without(lines, "log.countersigned")
        return lines[: where(lines, "job.finished") + 1]

    return lead.bundle(lead.rewritten("lead", edit))


@found_by("heads")
def two_heads_of_one_size(stage: Any) -> Bundle:
    """The honest part, and beside it the countersigned head of another history."""
    lead = stage.witnessed
    other = lead.rewritten(
        "lead", lambda lines: edited(lines, "traffic.counted", lambda e: changed(e, bytes_down=2))
    )
    mine = next(part for part in lead.parts() if part.writer == "lead")
    heads = {name: data for name, data in other.files.items() if name.endswith(".head")}
    size = next(name for name in mine.files if name.endswith(".head"))
    return lead.bundle(_signed_part(lead, "lead", {**mine.files, size: next(iter(heads.values()))}))


@found_by("heads", Result.INCOMPLETE)
def hide_the_heads_that_were_countersigned(stage: Any) -> Bundle:
    lead = stage.witnessed
    mine = next(part for part in lead.parts() if part.writer == "lead")
    newest = max(name for name in mine.files if name.endswith(".head"))
    files = {n: d for n, d in mine.files.items() if not n.endswith(".head") or n == newest}
    growth = canonical.decode(files["heads/lead/growth.json"])
    files["heads/lead/growth.json"] = canonical.encode({**growth, "earlier": []})
    lines = files["events/lead.jsonl"].splitlines(keepends=True)
    dropped = next(i for i, line in enumerate(lines) if b'"key.enrolled"' in line)
    files["events/lead.jsonl"] = b"".join(lines[:dropped] + lines[dropped + 1 :])
    return lead.bundle(_signed_part(lead, "lead", files))


@found_by("heads")
def show_a_head_under_light_signatures(stage: Any) -> Bundle:
    """The lead's newest head, signed lightly by the lead and by all sites."""
    lead = stage.witnessed
    mine = next(part for part in lead.parts() if part.writer == "lead")
    place = max(name for name in mine.files if name.endswith(".head"))
    whole, keys = SignedHead.parse(mine.files[place]), lead.job.identity("lead")
    light = SignedHead.make(whole.size, whole.root, keys, light=True)
    for site in lead.job.sites.values():
        light = Growth(light).countersign(keys.public, site)
    return lead.bundle(_signed_part(lead, "lead", {**mine.files, place: light.serialise()}))


def _signed_part(forger: Forger, name: str, files: dict[str, bytes]) -> Part:
    """A part with other files, under the party's own keys."""
    place = f"attestations/{name}.part.dsse.json"
    said = Envelope.from_bytes(files[place]).statement()
    subjects = {
        file: canonical.digest(data).removeprefix("sha256:")
        for file, data in files.items()
        if not file.startswith("attestations/")
    }
    envelope = Envelope.make(replace(said, subjects=subjects), forger.job.identity(name))
    return Part(name, {**files, place: envelope.to_bytes()})


# What is claimed


def claim(**fields: Any) -> Callable[[dict[str, Any]], None]:
    """An edit of the first site's guarantee."""

    def edit(evidence: dict[str, Any]) -> None:
        first, *rest = evidence["privacy"]
        evidence["privacy"] = [{**first, **fields}, *rest]

    return edit


def accountant(name: str, value: str) -> Callable[[dict[str, Any]], None]:
    def edit(evidence: dict[str, Any]) -> None:
        first, *rest = evidence["privacy"]
        evidence["privacy"] = [{**first, "accountants": {**first["accountants"], name: value}}, *rest]

    return edit


def _claims(
    name: str, edit: Callable[[dict[str, Any]], None], check: str, *, consistent: bool = True
) -> None:
    """An edit of the evidence, with report and documents made anew from it where they can be."""

    def alteration(stage: Any) -> Bundle:
        if consistent:
            return stage.plain.bundle(evidence=edit)
        return stage.plain.bundle(files=lambda files: _evidence(stage, files, edit))

    alteration.__name__ = name.replace(" ", "_")
    TABLE.append((alteration.__name__, alteration, check, Result.NOT_REPRODUCIBLE))


def _evidence(stage: Any, files: dict[str, bytes], edit: Callable[[dict[str, Any]], None]) -> None:
    """Evidence that contradicts itself cannot be rendered, so the honest report stays beside it."""
    value = canonical.decode(files["evidence.json"])
    edit(value)
    files["evidence.json"] = canonical.encode(value)
    place = "attestations/lead.report.dsse.json"
    said = Envelope.from_bytes(files[place]).statement()
    hexed = canonical.digest(files["evidence.json"]).removeprefix("sha256:")
    said = replace(said, subjects={**said.subjects, "evidence.json": hexed})
    files[place] = Envelope.make(said, stage.plain.job.lead).to_bytes()


_claims("change epsilon in the evidence", claim(epsilon="0.300"), "epsilon")
_claims("change the ruling accountant's value", accountant("rdp", "0.300"), "epsilon")
_claims("change the second accountant's value", accountant("pld", "0.300"), "epsilon")
_claims("claim another PRV account", accountant("prv", "0.300"), "epsilon")
_claims("claim more noise", claim(noise_multiplier="4"), "evidence")
_claims("claim another delta", claim(delta="1e-09"), "evidence", consistent=False)
_claims("claim fewer steps", claim(steps="1"), "evidence")
_claims("claim a larger budget", claim(budget="100"), "evidence")
_claims("claim a smaller rate", claim(rate="0.001"), "evidence")
_claims("leave out the audit of a pipeline", claim(audit=None), "evidence")


def _drop_site(evidence: dict[str, Any]) -> None:
    evidence["privacy"] = evidence["privacy"][1:]
    for done in evidence["rounds"]:
        done["accepted"] = done["accepted"][1:]


_claims("leave a site out of the guarantees", _drop_site, "evidence")
_claims(
    "count one site more in a round",
    lambda e: e["rounds"][1].update(accepted=[*e["rounds"][1]["accepted"], "site-04"], refused=[]),
    "evidence",
)
_claims("leave a round out of the evidence", lambda e: e.update(rounds=e["rounds"][:-1]), "evidence")
_claims("move fewer bytes", lambda e: e["traffic"][0].update(bytes_up="1"), "evidence")
_claims("claim another root", lambda e: e["logs"][0].update(root=FAKE), "evidence")
_claims("rename a site", lambda e: e["traffic"][0].update(site="site-99"), "evidence", consistent=False)
_claims("name another purpose", lambda e: e.update(purpose="nicer"), "evidence", consistent=False)
_claims(
    "lower sigma in the plan that is shown",
    lambda e: e.update(plan=_noisier(e["plan"])),
    "evidence",
    consistent=False,
)
_claims("name another final model", lambda e: e.update(model={**e["model"], "digest": FAKE}), "evidence")
_claims("date the evidence before the job", lambda e: e.update(created="2026-01-01T00:00:00Z"), "evidence")
_claims("smooth the budget over rounds", lambda e: e["progress"][2].update(epsilon=0.1), "evidence")
_claims("leave out the budget over rounds", lambda e: e.update(progress=[]), "evidence")
_claims(
    "tell of a round that there was not",
    lambda e: e["progress"].append({"round": 99, "site": "site-01", "accuracy": 1.0, "epsilon": None}),
    "evidence",
)
_claims(
    "date the evidence on a day that there is not",
    lambda e: e.update(created="2026-02-30T12:00:00Z"),
    "evidence",
    consistent=False,
)
_claims("tell of endless time", lambda e: e.update(seconds="1e999"), "evidence", consistent=False)
_claims("claim a stronger channel", lambda e: e["channels"][0].update(group="X25519"), "evidence")
_claims(
    "claim that a site's end saw more than it did",
    lambda e: e["channels"][0]["flower"].update(group="X25519MLKEM768"),
    "evidence",
)
_claims("leave out a site's end", lambda e: e["channels"][0].update(seen_at_site=None), "evidence")
_claims("claim another cipher", lambda e: e["channels"][0]["flower"].update(cipher="other"), "evidence")
_claims("prolong a certificate", lambda e: e["channels"][0].update(until="2099-12-31"), "evidence")
_claims("claim that units were drawn otherwise", claim(sampler="full-batch"), "evidence")
_claims("claim another source of noise", claim(entropy=None), "evidence")


def data(**fields: Any) -> Callable[[dict[str, Any]], None]:
    """An edit of what the evidence says of the first site's data."""
    return lambda e: e["datasets"][0].update(fields)


def scan(**fields: Any) -> Callable[[dict[str, Any]], None]:
    """An edit of what it says of the search for identifiers there."""
    return lambda e: e["datasets"][0]["scans"][0].update(fields)


def _found_nothing(evidence: dict[str, Any]) -> None:
    (first,) = evidence["datasets"][0]["scans"]
    first["found"] = dict.fromkeys(first["found"], "0-15")


_claims("claim another band of records", data(rows="2048-4095"), "evidence")
_claims("claim a cap that there is not", data(persons="512-1023", cap="1"), "evidence")
_claims("claim that data are per person", data(unit="person"), "evidence")
_claims("name other columns", data(columns=FAKE), "evidence")
_claims("claim that fewer columns were read", data(read="1"), "evidence")
_claims("leave out how many columns were read", data(read=None), "evidence")
_claims("show another fingerprint", data(commitment=FAKE), "evidence")
_claims("hide that data were opened", data(times="0"), "evidence")
_claims("claim that data changed", data(others="1"), "evidence")
_claims("leave the data of a site out", lambda e: e.update(datasets=e["datasets"][1:]), "evidence")
_claims("leave a search for identifiers out", data(scans=[]), "evidence")
_claims("claim that a search found nothing", _found_nothing, "evidence")
_claims("claim that findings were refused", scan(action="refuse"), "evidence")
_claims("name other detectors", scan(detector=FAKE), "evidence")
_claims(
    "leave a kind of identifier out",
    lambda e: e["datasets"][0]["scans"][0]["found"].pop("name"),
    "evidence",
    consistent=False,
)


def summed(place: int, **fields: Any) -> Callable[[dict[str, Any]], None]:
    """An edit of the first secure sums in the evidence, or of those from which a site was missing."""
    return lambda e: e["sums"][place].update(fields)


THREE = ["site-01", "site-02", "site-03"]
_claims("claim that a site was not asked for a sum", summed(1, invited=THREE), "evidence")
_claims("claim that nobody was missing in a sum", summed(1, survivors=[*THREE, "site-04"]), "evidence")
_claims("claim that a survivor did not sign", summed(0, signed=THREE), "evidence")
_claims("claim that a survivor did not open its mask", summed(0, opened=THREE), "evidence")
_claims("claim that a log does not hold an opening", summed(0, untold=["site-01"]), "evidence")
_claims("hide whose shared masks were opened", summed(1, missing=[]), "evidence")
_claims("claim that a mask was rebuilt from shares", summed(0, recovered=["site-04"]), "evidence")
_claims("claim that a sum was not opened", summed(1, reason="sum_lost"), "evidence")
_claims("claim sums of surplus noise", summed(0, step=1), "evidence")
_claims("number secure sums otherwise", summed(1, rounds=[4]), "evidence")
_claims("leave out a sum that a site was missing from", lambda e: _without(e, "sums", 1), "evidence")
_claims("name a sum twice", summed(1, rounds=[1, 2]), "evidence", consistent=False)


_claims("name another key of who approved", lambda e: e["consents"][1].update(key=FAKE), "evidence")
_claims("show another sealing key", lambda e: e["parties"][1].update(sealing=FAKE), "evidence")


def kept(**fields: Any) -> Callable[[dict[str, Any]], None]:
    """An edit of what the evidence says of the first site's ledger."""
    return lambda e: e["ledgers"][0].update(fields)


_claims("claim that other jobs had charged more", kept(before="0.500"), "evidence")
_claims("claim a smaller total afterwards", kept(after="0.100"), "evidence")
_claims("claim another limit of a ledger", kept(limit="2"), "evidence")
_claims("claim another unit of a ledger", kept(unit="person"), "evidence")
_claims("name another dataset of a ledger", kept(dataset="other-records"), "evidence")
_claims("claim fewer charges", kept(reserved="2"), "evidence")
_claims("claim fewer spent charges", kept(spent="2"), "evidence")
_claims("claim fewer releases", kept(released="2"), "evidence")
_claims("claim that a charge was without use", kept(unused=[2]), "evidence")
_claims("leave out what a ledger held before", kept(before=None), "evidence")
_claims("leave the ledger of a site out", lambda e: _without(e, "ledgers", 0), "evidence")
_claims("let a ledger fall", kept(before="9.000"), "evidence")


def _without(evidence: dict[str, Any], part: str, place: int) -> None:
    """Leaves an entry out of a list, and the events that nothing else names."""
    evidence[part].pop(place)
    named = {one for row in evidence["sources"] for one in row["events"]}
    named |= {one["event"] for one in evidence["consents"]}
    for other in ("decisions", "incidents", "clocks", "sums", "ledgers"):
        named |= {one for row in evidence[other] for one in row["events"]}
    evidence["cited"] = [one for one in evidence["cited"] if one["event"] in named]


def ran(**fields: Any) -> Callable[[dict[str, Any]], None]:
    """An edit of what the evidence says that the lead ran on."""
    return lambda e: e["software"][0].update(fields)


def _another_torch(evidence: dict[str, Any]) -> None:
    evidence["software"][0]["versions"]["torch"] = "99.0"


_claims("claim another version of a library", _another_torch, "evidence")
_claims("claim another Python", ran(python="99.0"), "evidence")
_claims("claim other packages", ran(installed=FAKE), "evidence")
_claims("claim other code than ran", ran(code=FAKE), "evidence")
_claims("claim a container", ran(image=FAKE), "evidence")
_claims("claim that a party changed its software", ran(times="2", others="1"), "evidence")
_claims("leave out what a party ran on", lambda e: e.update(software=e["software"][1:]), "evidence")
_claims(
    "write a host's name where a version stands",
    ran(python="north.example"),
    "evidence",
    consistent=False,
)


def _prolong(evidence: dict[str, Any]) -> None:
    for one in evidence["consents"]:
        if one["until"]:
            one["until"] = "2099-12-31"


_claims("prolong what the report counts until", _prolong, "evidence")
_claims(
    "claim a licence of the base model",
    lambda e: e.update(plan={**e["plan"], "base": {**e["plan"]["base"], "licence": "mit"}}),
    "evidence",
    consistent=False,
)
_claims("leave out who refused", lambda e: e["rounds"][1].update(refused=[]), "evidence")


def _noisier(plan: dict[str, Any]) -> dict[str, Any]:
    return {**plan, "privacy": {**plan["privacy"], "noise_multiplier": 9.0}}


@found_by("sampler", Result.NOT_REPRODUCIBLE)
def claim_poisson_for_shuffled(stage: Any) -> Bundle:
    return stage.shuffled.bundle()


@found_by("sampler", Result.NOT_REPRODUCIBLE)
def draw_the_noise_of_a_federation_from_a_known_seed(stage: Any) -> Bundle:
    return stage.seeded.bundle()


# Files


def _replaced(name: str, old: bytes, new: bytes) -> Callable[[dict[str, bytes]], None]:
    def edit(files: dict[str, bytes]) -> None:
        assert old in files[name]
        files[name] = files[name].replace(old, new)

    return edit


def _report_signed(stage: Any, edit: Callable[[bytes], bytes], name: str = "report.html") -> Bundle:
    def change(files: dict[str, bytes]) -> None:
        files[name] = edit(files[name])
        place = "attestations/lead.report.dsse.json"
        said = Envelope.from_bytes(files[place]).statement()
        hexed = canonical.digest(files[name]).removeprefix("sha256:")
        said = replace(said, subjects={**said.subjects, name: hexed})
        files[place] = Envelope.make(said, stage.plain.job.lead).to_bytes()

    return stage.plain.bundle(files=change)


@found_by("report", Result.NOT_REPRODUCIBLE)
def edit_the_page(stage: Any) -> Bundle:
    return _report_signed(stage, lambda page: page.replace(b"</title>", b" (approved)</title>"))


@found_by("report", Result.NOT_REPRODUCIBLE)
def put_another_report_in_its_place(stage: Any) -> Bundle:
    value = dict(stage.plain.job.contents(stage.plain.parts()).evidence)
    return _report_signed(stage, lambda _: render({**value, "seconds": "1.0"}).encode())


@found_by("report", Result.NOT_REPRODUCIBLE)
def count_fewer_lines_that_nobody_confirmed(stage: Any) -> Bundle:
    def fewer(page: bytes) -> bytes:
        before, after = page.split(b"Declared: ", 1)
        return before + b"Declared: 0" + after.lstrip(b"0123456789")

    return _report_signed(stage, fewer)


@found_by("report", Result.NOT_REPRODUCIBLE)
def cut_the_last_day_out_of_the_page(stage: Any) -> Bundle:
    def cut(page: bytes) -> bytes:
        assert b"<dd><div>2026-12-31, " in page
        return page.replace(b"<dd><div>2026-12-31, ", b"<dd><div>2099-12-31, ")

    return _report_signed(stage, cut)


@found_by("report", Result.NOT_REPRODUCIBLE)
def print_a_better_recall(stage: Any) -> Bundle:
    def better(page: bytes) -> bytes:
        assert b"0.15 of 247" in page
        return page.replace(b"0.15 of 247", b"0.95 of 247")

    return _report_signed(stage, better)


@found_by("report", Result.NOT_REPRODUCIBLE)
def print_a_better_epsilon_for_more_noise(stage: Any) -> Bundle:
    def better(page: bytes) -> bytes:
        before, after = page.split("× 2 <small".encode(), 1)
        return before + "× 2 <small".encode() + after.replace(b"<strong>", b"<strong>0.001 or ", 1)

    return _report_signed(stage, better)


@found_by("papers", Result.NOT_REPRODUCIBLE)
def fill_in_that_the_model_was_validated(stage: Any) -> Bundle:
    def filled(files: dict[str, bytes]) -> None:
        before, after = files["inventory.json"].split(b'"validation": [', 1)
        after = after.replace(b"the organisation must supply", b"done", 1)
        files["inventory.json"] = before + b'"validation": [' + after

    return stage.plain.bundle(files=filled)


@found_by("files", Result.INCOMPLETE)
def leave_the_inventory_entry_out(stage: Any) -> Bundle:
    return stage.plain.bundle(files=lambda files: files.pop("inventory.json"))


@found_by("report", Result.NOT_REPRODUCIBLE)
def claim_that_the_text_of_rules_was_read(stage: Any) -> Bundle:
    def claimed(page: bytes) -> bytes:
        assert b"; text not read again" in page
        return page.replace(b"; text not read again", b"")

    return _report_signed(stage, claimed)


@found_by("report", Result.NOT_REPRODUCIBLE)
def cut_the_mark_of_a_simulation_out_of_the_page(stage: Any) -> Bundle:
    def cut(page: bytes) -> bytes:
        assert b'content: "SIMULATION"' in page
        return page.replace(b'content: "SIMULATION"', b'content: ""')

    return _report_signed(stage, cut)


@found_by("evidence", Result.NOT_REPRODUCIBLE)
def call_a_simulation_a_federation(stage: Any) -> Bundle:
    old, new = b'"kind":"simulation"', b'"kind":"federation"'
    return _report_signed(stage, lambda evidence: evidence.replace(old, new), "evidence.json")


@found_by("consent")
def take_the_mark_of_a_simulation_out_of_the_plan(stage: Any) -> Bundle:
    def edit(files: dict[str, bytes]) -> None:
        old, new = b'"rehearsal":"simulation",', b""
        for name in ("plan.json", "evidence.json"):
            assert old in files[name]
            files[name] = files[name].replace(old, new)

    return stage.plain.bundle(files=edit)


@found_by("papers", Result.NOT_REPRODUCIBLE)
def edit_the_model_card(stage: Any) -> Bundle:
    return stage.plain.bundle(files=_replaced("model-card.md", b"## Limits", b"## No limits"))


@found_by("papers", Result.NOT_REPRODUCIBLE)
def edit_how_to_verify(stage: Any) -> Bundle:
    return stage.plain.bundle(files=_replaced("VERIFY.txt", b"openssl pkeyutl -verify", b"true #"))


@found_by("files")
def add_a_file(stage: Any) -> Bundle:
    return stage.plain.bundle(files=lambda files: files.update({"approved-by-regulator.txt": b"yes\n"}))


@found_by("files")
def write_true_for_one_in_the_manifest(stage: Any) -> Bundle:
    bundle = stage.plain.bundle()
    said = bundle.manifest.statement()
    other = Envelope.make(replace(said, predicate={**said.predicate, "version": True}), stage.plain.job.lead)
    return replace(bundle, files={**bundle.files, MANIFEST_FILE: other.to_bytes()})


@found_by("signatures")
def name_a_file_with_a_number(stage: Any) -> Bundle:
    def edit(files: dict[str, bytes]) -> None:
        place = "attestations/site-01.part.dsse.json"
        value = canonical.decode(Envelope.from_bytes(files[place]).payload)
        value["subject"][0]["name"] = 0.5
        files[place] = (
            Envelope(canonical.encode(value)).signed(stage.plain.job.identity("site-01")).to_bytes()
        )

    return stage.plain.bundle(files=edit)


@found_by("files", Result.INCOMPLETE)
def leave_out_the_statement_about_a_part(stage: Any) -> Bundle:
    return stage.plain.bundle(files=lambda files: files.pop("attestations/site-01.part.dsse.json"))


@found_by("files", Result.INCOMPLETE)
def leave_out_a_site(stage: Any) -> Bundle:
    def edit(files: dict[str, bytes]) -> None:
        for name in [name for name in files if "site-03" in name]:
            del files[name]

    return stage.plain.bundle(files=edit)


@found_by("signatures")
def drop_a_row_of_a_sites_ledger(stage: Any) -> Bundle:
    return stage.plain.bundle(files=lambda files: _cut(files, "site-02", b'"budget.spent"'))


@found_by("signatures")
def delete_an_incident_of_a_site(stage: Any) -> Bundle:
    return stage.plain.bundle(files=lambda files: _cut(files, "site-04", b'"incident.raised"'))


def _cut(files: dict[str, bytes], site: str, mark: bytes) -> None:
    lines = files[f"events/{site}.jsonl"].splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if mark in line)
    files[f"events/{site}.jsonl"] = b"".join(lines[:place] + lines[place + 1 :])


@found_by("chain")
def write_an_event_in_a_sites_name(stage: Any) -> Bundle:
    def edit(files: dict[str, bytes]) -> None:
        name = "events/site-01.jsonl"
        lines = files[name][:-1].split(b"\n")
        place = next(i for i, line in enumerate(lines) if b'"approval.granted"' in line)
        shown = Shown.decode(lines[place])
        event = replace(shown.event, ts="2026-01-31T11:00:00.000Z")
        lines[place] = replace(shown, event=event, line=event.encode()).encode()
        files[name] = b"\n".join(lines) + b"\n"

    return stage.plain.bundle(files=edit)


@found_by("chain")
def put_events_in_another_order(stage: Any) -> Bundle:
    lead = stage.plain
    part = next(p for p in lead.parts() if p.writer == "lead")
    lines = part.files["events/lead.jsonl"].splitlines(keepends=True)
    lines[20], lines[21] = lines[21], lines[20]
    return lead.bundle(_signed_part(lead, "lead", {**part.files, "events/lead.jsonl": b"".join(lines)}))


@found_by("keys")
def replace_a_key(stage: Any) -> Bundle:
    def edit(files: dict[str, bytes]) -> None:
        keys = canonical.decode(files["keys.json"])
        other = stage.witnessed.job.sites["site-02"].public.to_json()
        files["keys.json"] = canonical.encode([other if k["name"] == "site-02" else k for k in keys])

    return stage.plain.bundle(files=edit)


@found_by("keys", Result.UNTRUSTED)
def invent_the_sites(stage: Any) -> Bundle:
    """A whole job that the lead played alone: nothing contradicts itself, but nobody knows the keys."""
    return stage.witnessed.bundle()


@found_by("signatures", Result.UNTRUSTED)
def sign_a_part_in_a_sites_place(stage: Any) -> Bundle:
    def edit(files: dict[str, bytes]) -> None:
        place = "attestations/site-01.part.dsse.json"
        said = Envelope.from_bytes(files[place]).statement()
        files[place] = Envelope.make(said, stage.plain.job.lead).to_bytes()

    return stage.plain.bundle(files=edit)


@found_by("signatures")
def approve_in_a_sites_place(stage: Any) -> Bundle:
    def edit(files: dict[str, bytes]) -> None:
        said = approval(stage.plain.job.plan, "site-01").to_bytes()
        forged = Signed.make(said, stage.plain.job.lead, DECISION_CONTEXT)
        files["approvals/site-01.json"] = canonical.encode(forged.to_json())

    return stage.plain.bundle(files=edit)


@found_by("policy")
def swap_a_policy(stage: Any) -> Bundle:
    def edit(files: dict[str, bytes]) -> None:
        name = next(name for name in files if name.startswith("policies/site-01"))
        files[name] = b'{"allows":"everything"}'

    return stage.plain.bundle(files=edit)


@found_by("policy")
def swap_a_policy_and_its_name(stage: Any) -> Bundle:
    def edit(files: dict[str, bytes]) -> None:
        del files[next(name for name in files if name.startswith("policies/site-01"))]
        data = b'{"allows":"everything"}'
        files[f"policies/site-01@{canonical.digest(data).removeprefix('sha256:')}.json"] = data

    return stage.plain.bundle(files=edit)


@found_by("signatures")
def hide_a_policy_from_an_auditor(stage: Any) -> Bundle:
    def edit(files: dict[str, bytes]) -> None:
        del files[next(name for name in files if name.startswith("policies/site-01"))]

    return stage.plain.bundle(files=edit)


def _for_a_partner(stage: Any, edit: Callable[[dict[str, bytes]], None]) -> Bundle:
    job = stage.plain.job
    bundle = job.contents(stage.plain.parts(), "partner").bundle(job.lead)
    files = {name: data for name, data in bundle.files.items() if name != MANIFEST_FILE}
    edit(files)
    return relisted(Bundle(files), job.plan, "partner", job.lead)


@found_by("signatures")
def hide_from_a_partner_what_each_rule_said(stage: Any) -> Bundle:
    return _for_a_partner(stage, lambda files: files.pop("rulings/site-01.json"))


@found_by("signatures")
def tell_a_partner_that_a_rule_allowed(stage: Any) -> Bundle:
    def edit(files: dict[str, bytes]) -> None:
        place = "rulings/site-01.json"
        files[place] = files[place].replace(b'"approval.people":"ask"', b'"approval.people":"allow"')

    return _for_a_partner(stage, edit)


@found_by("evidence", Result.NOT_REPRODUCIBLE)
def call_a_partners_bundle_one_for_an_auditor_on_its_page(stage: Any) -> Bundle:
    job = stage.plain.job
    made = job.contents(stage.plain.parts(), "partner")
    return replace(made, evidence={**made.evidence, "audience": "auditor"}).bundle(job.lead)


@found_by("signatures")
def call_a_partners_bundle_one_for_an_auditor(stage: Any) -> Bundle:
    job = stage.plain.job
    made = job.contents(stage.plain.parts(), "partner")
    bundle = replace(made, evidence={**made.evidence, "audience": "auditor"}).bundle(job.lead)
    return relisted(bundle, job.plan, "auditor", job.lead)


@found_by("updates")
def show_an_older_part_of_a_site(stage: Any) -> Bundle:
    """What the site had said, and signed, in the middle of the job."""
    lead = stage.plain
    half = lead.rewritten("site-01", lambda lines: lines[: where(lines, "budget.reserved", 3)])
    return lead.bundle(half)


# One site colludes: it signs what the lead wants


def _signed_anew(part: Part, stage: Any, edit: Callable[[dict[str, bytes]], Any], said: str = "") -> Part:
    """A part with other files, under a statement of its party."""
    files = dict(part.files)
    edit(files)
    place = statement_place(part.writer)
    before = Envelope.from_bytes(part.files[place]).statement()
    subjects = {
        name: canonical.digest(data).removeprefix("sha256:")
        for name, data in files.items()
        if not name.startswith("attestations/")
    }
    told = replace(
        before, subjects=subjects, predicate={**before.predicate, **({POLICIES: said} if said else {})}
    )
    files[place] = Envelope.make(told, stage.plain.job.identity(part.writer)).to_bytes()
    return replace(part, files=files)


@found_by("policy", Result.NOT_REPRODUCIBLE)
def rule_otherwise_than_the_policy_says(stage: Any) -> Bundle:
    def edit(files: dict[str, bytes]) -> None:
        place = "rulings/site-01.json"
        value = canonical.decode(files[place])
        del value[0]["rules"]["privacy.epsilon"]
        files[place] = canonical.encode(value)

    return stage.plain.bundle(_signed_anew(stage.plain.job.part("site-01"), stage, edit))


@found_by("policy")
def rule_otherwise_than_the_log_says(stage: Any) -> Bundle:
    def edit(files: dict[str, bytes]) -> None:
        place = "rulings/site-01.json"
        files[place] = files[place].replace(b'"approval.people":"ask"', b'"approval.people":"allow"')

    return stage.plain.bundle(_signed_anew(stage.plain.job.part("site-01"), stage, edit))


@found_by("policy")
def rule_on_what_was_never_decided(stage: Any) -> Bundle:
    def edit(files: dict[str, bytes]) -> None:
        place = "rulings/site-01.json"
        value = canonical.decode(files[place])
        files[place] = canonical.encode([*value, {**value[0], "event": "site-01/0"}])

    return stage.plain.bundle(_signed_anew(stage.plain.job.part("site-01"), stage, edit))


@found_by("policy", Result.INCOMPLETE)
def leave_a_policy_out_and_sign_that(stage: Any) -> Bundle:
    def edit(files: dict[str, bytes]) -> None:
        for name in [name for name in files if name.startswith("policies/")]:
            del files[name]

    return stage.plain.bundle(_signed_anew(stage.plain.job.part("site-01"), stage, edit))


@found_by("policy", Result.INCOMPLETE)
def leave_a_ruling_out_and_sign_that(stage: Any) -> Bundle:
    def edit(files: dict[str, bytes]) -> None:
        place = "rulings/site-01.json"
        files[place] = canonical.encode(canonical.decode(files[place])[:1])

    return stage.plain.bundle(_signed_anew(stage.plain.job.part("site-01"), stage, edit))


@found_by("signatures")
def say_that_a_policy_is_not_handed_over_and_hand_it_over(stage: Any) -> Bundle:
    part = _signed_anew(stage.plain.job.part("site-01"), stage, lambda _: None, "secret")
    return stage.plain.bundle(part)


@found_by("consent", Result.NOT_REPRODUCIBLE)
def date_a_consent_back(stage: Any) -> Bundle:
    def edit(lines: Lines) -> Lines:
        granted = lines.pop(where(lines, "approval.granted"))
        place = where(lines, "sum.signed", 1)
        return [*lines[:place], replace(granted, ts="2026-01-31T11:00:00.000Z"), *lines[place:]]

    return stage.plain.bundle(stage.plain.rewritten("site-01", edit))


@found_by("consent", Result.NOT_REPRODUCIBLE)
def use_a_dataset_without_the_paper_that_the_policy_asks_for(stage: Any) -> Bundle:
    part = stage.plain.rewritten("site-01", lambda lines: without(lines, "consent.recorded"))
    return stage.plain.bundle(part)


@found_by("consent", Result.NOT_REPRODUCIBLE)
def record_a_paper_after_the_first_use(stage: Any) -> Bundle:
    def edit(lines: Lines) -> Lines:
        late = lines.pop(where(lines, "consent.recorded"))
        place = where(lines, "update.sent", 1)
        return [*lines[:place], late, *lines[place:]]

    return stage.plain.bundle(stage.plain.rewritten("site-01", edit))


@found_by("consent", Result.NOT_REPRODUCIBLE)
def use_a_dataset_after_the_last_day_of_a_paper(stage: Any) -> Bundle:
    def edit(lines: Lines) -> Lines:
        return edited(lines, "consent.recorded", lambda e: changed(e, not_after="2026-01-30"))

    return stage.plain.bundle(stage.plain.rewritten("site-01", edit))


@found_by("consent", Result.NOT_REPRODUCIBLE)
def approve_before_the_keys_were_compared(stage: Any) -> Bundle:
    part = stage.plain.rewritten("site-01", lambda lines: without(lines, "key.confirmed"))
    return stage.plain.bundle(part)


@found_by("ledger", Result.NOT_REPRODUCIBLE)
def leave_a_charge_out_of_the_ledger(stage: Any) -> Bundle:
    def edit(lines: Lines) -> Lines:
        return [e for e in lines if not (e.type.startswith("budget.") and e.round == 2)]

    return stage.plain.bundle(stage.plain.rewritten("site-01", edit))


@found_by("ledger", Result.NOT_REPRODUCIBLE)
def charge_less_noise_than_the_plan(stage: Any) -> Bundle:
    part = stage.plain.rewritten(
        "site-01",
        lambda lines: edited(lines, "budget.reserved", lambda e: changed(e, reservation=FAKE), 1),
    )
    return stage.plain.bundle(part)


@found_by("epsilon", Result.NOT_REPRODUCIBLE)
def charge_less_than_a_round_costs(stage: Any) -> Bundle:
    part = stage.plain.rewritten(
        "site-01", lambda lines: edited(lines, "budget.reserved", lambda e: changed(e, epsilon=0.1), 1)
    )
    return stage.plain.bundle(part)


@found_by("epsilon", Result.NOT_REPRODUCIBLE)
def pass_the_budget(stage: Any) -> Bundle:
    part = stage.plain.rewritten(
        "site-01",
        lambda lines: edited(
            lines, "budget.opened", lambda e: changed(e, epsilon=0.5) if e.body["dataset"] == "records" else e
        ),
    )
    return stage.plain.bundle(part)


def _before(stage: Any, number: int, before: float) -> Bundle:
    def edit(lines: Lines) -> Lines:
        return edited(lines, "budget.reserved", lambda e: changed(e, before=before), number)

    return stage.plain.bundle(stage.plain.rewritten("site-01", edit))


@found_by("ledger", Result.NOT_REPRODUCIBLE)
def say_that_the_ledger_held_less_before_a_charge_than_after_the_last(stage: Any) -> Bundle:
    return _before(stage, 2, 0.0)


@found_by("ledger", Result.NOT_REPRODUCIBLE)
def say_that_the_ledger_held_more_before_a_charge_than_after_it(stage: Any) -> Bundle:
    return _before(stage, 1, 0.99)


@found_by("ledger", Result.NOT_REPRODUCIBLE)
def say_that_the_ledger_held_more_than_it_ever_came_to(stage: Any) -> Bundle:
    """No site can keep the bundle from being made: it is made, and says so."""
    return _before(stage, 1, 1e9)


@found_by("ledger", Result.NOT_REPRODUCIBLE)
def charge_for_no_round(stage: Any) -> Bundle:
    def edit(lines: Lines) -> Lines:
        place = where(lines, "budget.reserved", 3)
        return [*lines[:place], replace(lines[place], round=None), *lines[place:]]

    return stage.plain.bundle(stage.plain.rewritten("site-01", edit))


@found_by("ledger", Result.NOT_REPRODUCIBLE)
def hide_what_other_jobs_had_charged(stage: Any) -> Bundle:
    """The totals hold more than this job charged, and the ledger is said to have been empty."""

    def edit(lines: Lines) -> Lines:
        def more(event: Event) -> Event:
            if event.round is None or not event.type.startswith("budget."):
                return event
            return changed(event, total=1.0, **({"before": 1.0} if event.body.get("before") else {}))

        return [more(event) for event in lines]

    return stage.plain.bundle(stage.plain.rewritten("site-01", edit))


@found_by("ledger", Result.NOT_REPRODUCIBLE)
def charge_after_the_update_left(stage: Any) -> Bundle:
    def edit(lines: Lines) -> Lines:
        late = lines.pop(where(lines, "budget.reserved", 3))
        place = where(lines, "update.sent", 3)
        return [*lines[: place + 1], late, *lines[place + 1 :]]

    return stage.plain.bundle(stage.plain.rewritten("site-01", edit))


def _opened(stage: Any, **other: Any) -> Bundle:
    """A site that opened, or says that it opened, other data than the plan names."""

    def edit(lines: Lines) -> Lines:
        return edited(lines, "dataset.opened", lambda e: changed(e, **other))

    return stage.plain.bundle(stage.plain.rewritten("site-01", edit))


@found_by("sums", Result.NOT_REPRODUCIBLE)
def open_the_shared_masks_of_a_survivor(stage: Any) -> Bundle:
    """With its own mask, which it opens itself, the update of site-02 can be seen."""

    def edit(lines: Lines) -> Lines:
        return edited(lines, "sum.opened", lambda e: changed(e, missing=["site-02"]), 1)

    return stage.plain.bundle(stage.plain.rewritten("site-01", edit))


@found_by("sums", Result.NOT_REPRODUCIBLE)
def open_the_masks_of_a_stranger(stage: Any) -> Bundle:
    """The bundle is made nevertheless: its lists hold sites of the plan."""

    def edit(lines: Lines) -> Lines:
        return edited(lines, "sum.opened", lambda e: changed(e, missing=["stranger"]), 1)

    return stage.plain.bundle(stage.plain.rewritten("site-01", edit))


@found_by("sums", Result.NOT_REPRODUCIBLE)
def give_a_share_of_a_site_that_is_not_in_the_sum(stage: Any) -> Bundle:
    def edit(lines: Lines) -> Lines:
        place = where(lines, "sum.opened", 2) + 1
        given = replace(lines[place - 1], type="sum.recovered", body={"lost": ["site-04"], "step": 0})
        return [*lines[:place], given, *lines[place:]]

    return stage.plain.bundle(stage.plain.rewritten("site-01", edit))


@found_by("sums", Result.NOT_REPRODUCIBLE)
def open_a_sum_without_having_signed_who_is_in_it(stage: Any) -> Bundle:
    """The lead leaves the site out of those that signed, of whom there are enough without it."""

    def edit(lines: Lines) -> Lines:
        lines = without(lines, "sum.signed", survivors=ALL)
        return edited(lines, "sum.opened", lambda e: changed(e, missing=["site-02"]), 1)

    def less(event: Event) -> Event:
        return changed(event, signed=ALL[1:]) if event.body["survivors"] == ALL else event

    lead = stage.plain.rewritten("lead", lambda lines: edited(lines, "sum.closed", less))
    return stage.plain.bundle(stage.plain.rewritten("site-01", edit), lead)


@found_by("sums", Result.NOT_REPRODUCIBLE)
def sign_two_survivor_sets_of_a_sum(stage: Any) -> Bundle:
    """The lead tells of the later one, and masks are opened for both."""

    def edit(lines: Lines) -> Lines:
        place = where(lines, "sum.signed", 1)
        signed, opened = lines[place : place + 2]
        first = changed(signed, survivors=ALL[:3]), changed(opened, missing=ALL[3:])
        return [*lines[:place], *first, *lines[place:]]

    return stage.plain.bundle(stage.plain.rewritten("site-01", edit))


@found_by("data", Result.NOT_REPRODUCIBLE)
def train_on_another_dataset_than_the_plan_names(stage: Any) -> Bundle:
    return _opened(stage, dataset="other-records")


@found_by("data", Result.NOT_REPRODUCIBLE)
def train_on_data_of_another_size(stage: Any) -> Bundle:
    return _opened(stage, rows="16-31")


@found_by("data", Result.NOT_REPRODUCIBLE)
def keep_another_cap_than_the_plan_names(stage: Any) -> Bundle:
    return _opened(stage, persons="512-1023", cap=50)


@found_by("data", Result.NOT_REPRODUCIBLE)
def count_records_where_the_plan_counts_records_of_persons(stage: Any) -> Bundle:
    return _opened(stage, unit="person")


@found_by("data", Result.NOT_REPRODUCIBLE)
def read_more_columns_than_the_task_needs(stage: Any) -> Bundle:
    return _opened(stage, read=3)


@found_by("data", Result.NOT_REPRODUCIBLE)
def search_another_dataset_for_identifiers(stage: Any) -> Bundle:
    def edit(lines: Lines) -> Lines:
        return edited(lines, "deid.scan", lambda e: changed(e, dataset="other-records"))

    return stage.plain.bundle(stage.plain.rewritten("site-01", edit))


@found_by("software", Result.INCOMPLETE)
def say_nothing_of_the_software_of_a_site(stage: Any) -> Bundle:
    part = stage.plain.rewritten("site-01", lambda lines: without(lines, "software.recorded"))
    return stage.plain.bundle(part)


@found_by("software", Result.INCOMPLETE)
def say_nothing_of_the_software_that_the_lead_went_on_with(stage: Any) -> Bundle:
    def edit(lines: Lines) -> Lines:
        (_, later) = [place for place, e in enumerate(lines) if e.type == "software.recorded"]
        return lines[:later] + lines[later + 1 :]

    return stage.away.bundle(stage.away.rewritten("lead", edit))


@found_by("software", Result.INCOMPLETE)
def leave_out_that_another_process_began_with_what_the_lead_went_on_with(stage: Any) -> Bundle:
    """Its clock, which marks the beginning, goes with its software."""

    def edit(lines: Lines) -> Lines:
        (_, later) = [place for place, e in enumerate(lines) if e.type == "software.recorded"]
        return lines[: later - 1] + lines[later + 1 :]

    return stage.away.bundle(stage.away.rewritten("lead", edit))


@found_by("software", Result.NOT_REPRODUCIBLE)
def run_other_code_at_a_site(stage: Any) -> Bundle:
    def edit(lines: Lines) -> Lines:
        return edited(lines, "software.recorded", lambda e: changed(e, code=FAKE))

    return stage.plain.bundle(stage.plain.rewritten("site-01", edit))


@found_by("policy", Result.NOT_REPRODUCIBLE)
def decide_under_a_policy_that_was_never_loaded(stage: Any) -> Bundle:
    def edit(lines: Lines) -> Lines:
        place = where(lines, "approval.granted")
        body = {"policy": FAKE, "request": FAKE, "rules": [], "outcome": "allow"}
        return [*lines[:place], replace(lines[place], type="policy.decision", body=body), *lines[place:]]

    return stage.plain.bundle(stage.plain.rewritten("site-01", edit))


def told(stage: Any, **body: Any) -> Part:
    """The part of a site that tells of an attack on the finished model."""
    plan = stage.plain.job.plan
    bound = tails.epsilon_lower_bound(20, 32, 64, plan.privacy.delta)
    found = {"attack": "membership", "model": made_up("model", 3), "trials": 64, "guesses": 32, "correct": 20}
    found |= {"delta": plan.privacy.delta, "bound": bound, "covered": False, **body}

    def edit(lines: Lines) -> Lines:
        place = where(lines, "model.received") + 1
        return [*lines[:place], replace(lines[place - 1], type="audit.model", body=found), *lines[place:]]

    return stage.plain.rewritten("site-01", edit)


@found_by("audits", Result.NOT_REPRODUCIBLE)
def claim_a_smaller_bound_than_an_attack_gave(stage: Any) -> Bundle:
    return stage.plain.bundle(told(stage, bound=0.0, correct=32))


@found_by("audits", Result.NOT_REPRODUCIBLE)
def attack_another_model(stage: Any) -> Bundle:
    return stage.plain.bundle(told(stage, model=FAKE))


@found_by("evidence", Result.NOT_REPRODUCIBLE)
def leave_out_an_attack(stage: Any) -> Bundle:
    return stage.plain.bundle(told(stage), evidence=lambda value: value.update(attacks=[]))


def _pipeline(stage: Any, edit: Callable[[Lines], Any]) -> Bundle:
    return stage.plain.bundle(stage.plain.rewritten("site-01", edit))


@found_by("audits", Result.NOT_REPRODUCIBLE)
def bind_the_audit_of_a_pipeline_after_the_first_round(stage: Any) -> Bundle:
    def edit(lines: Lines) -> Lines:
        late = lines.pop(where(lines, "audit.committed"))
        place = where(lines, "update.sent", 1)
        return [*lines[:place], replace(late, ts=lines[place].ts), *lines[place:]]

    return _pipeline(stage, edit)


@found_by("audits", Result.NOT_REPRODUCIBLE)
def score_phantom_units_before_the_last_round(stage: Any) -> Bundle:
    def edit(lines: Lines) -> Lines:
        early = lines.pop(where(lines, "audit.result"))
        place = where(lines, "budget.reserved", 3)
        return [*lines[:place], replace(early, ts=lines[place].ts), *lines[place:]]

    return _pipeline(stage, edit)


@found_by("audits", Result.NOT_REPRODUCIBLE)
def score_other_phantom_units_than_were_bound(stage: Any) -> Bundle:
    return _pipeline(
        stage, lambda lines: edited(lines, "audit.result", lambda e: changed(e, commitment=FAKE))
    )


@found_by("audits", Result.NOT_REPRODUCIBLE)
def hold_the_audit_of_a_pipeline_to_more_than_was_charged(stage: Any) -> Bundle:
    """So that a bound which refutes the guarantee is not shown in red."""
    return _pipeline(stage, lambda lines: edited(lines, "audit.result", lambda e: changed(e, claimed=8.0)))


@found_by("audits", Result.NOT_REPRODUCIBLE)
def tell_a_smaller_bound_of_a_pipeline(stage: Any) -> Bundle:
    return _pipeline(stage, lambda lines: edited(lines, "audit.result", lambda e: changed(e, bound=0.0)))


@found_by("audits", Result.NOT_REPRODUCIBLE)
def tell_of_more_phantom_units_than_memory_holds(stage: Any) -> Bundle:
    """A bound of so many would take all memory of whoever checks."""
    many = {"phantoms": 2**53 - 1, "guesses": 2**53 - 1}
    return _pipeline(stage, lambda lines: edited(lines, "audit.committed", lambda e: changed(e, **many)))


@found_by("chain")
def show_an_event_of_another_job(stage: Any) -> Bundle:
    lead = stage.plain
    log, keys = lead.job.logs["site-01"], lead.job.identity("site-01")
    honest = next(part for part in lead.parts() if part.writer == "site-01")
    lines = honest.files["events/site-01.jsonl"].splitlines()
    hidden = next(e for e in log.entries() if e.job not in (None, lead.job.plan.digest))
    proof = log.inclusion(hidden.seq, honest.newest.size)
    lines.append(Shown(hidden, hidden.encode(), proof).encode())
    lines.sort(key=lambda line: Shown.decode(line).event.seq)
    files = {**honest.files, "events/site-01.jsonl": b"".join(line + b"\n" for line in lines)}
    assert keys.public.name == "site-01"
    return lead.bundle(_signed_part(lead, "site-01", files))


def test_what_nobody_altered_is_verified(stage: Any) -> None:
    for forger in (stage.plain, stage.witnessed, stage.away):
        verdict = verify(forger.bundle(), forger.job.trust)
        assert [finding.line() for finding in verdict.findings] == []
        assert verdict.result is Result.VERIFIED


def test_an_attack_that_was_told_truly_is_verified(stage: Any) -> None:
    verdict = verify(stage.plain.bundle(told(stage)), stage.plain.job.trust)
    assert [finding.line() for finding in verdict.findings] == []


def test_there_are_enough_of_them() -> None:
    names = [name for name, *_ in TABLE]
    assert len(names) == len(set(names)) >= 60


def _rows() -> Iterator[Any]:
    """The table; the first row of each check is tried in every run, the others in longer ones."""
    seen: set[str] = set()
    for name, alteration, check, result in TABLE:
        marks = [pytest.mark.slow] if check in seen else []
        seen.add(check)
        yield pytest.param(alteration, check, result, id=name, marks=marks)


@pytest.mark.parametrize(("alteration", "check", "result"), list(_rows()))
def test_an_alteration_is_found_by_its_check(
    stage: Any, alteration: Alteration, check: str, result: Result
) -> None:
    verdict = verify(alteration(stage), _trust(stage, alteration))
    assert check in {finding.check for finding in verdict.findings}, lines(verdict)
    assert verdict.result is result, lines(verdict)
    assert all(finding.place and finding.reason for finding in verdict.findings)


def _trust(stage: Any, alteration: Alteration) -> dict[str, str]:
    """What an auditor knows who asked the parties of the job that the bundle says it is of."""
    name = alteration.__name__
    if name == "claim_poisson_for_shuffled":
        return stage.shuffled.job.trust
    if name == "draw_the_noise_of_a_federation_from_a_known_seed":
        return stage.seeded.job.trust
    if alteration in [row[1] for row in TABLE if row[2] == "clock"] or name.endswith("the_lead_went_on_with"):
        return stage.away.job.trust
    heads = [row for row in TABLE if row[2] == "heads"]
    return stage.witnessed.job.trust if alteration in [row[1] for row in heads] else stage.plain.job.trust


def lines(verdict: Verdict) -> list[str]:
    return [finding.line() for finding in verdict.findings]


def test_a_job_that_the_lead_invented_is_found_by_trust_alone(stage: Any) -> None:
    invented = stage.witnessed.bundle()
    assert verify(invented).result is Result.VERIFIED
    assert "The keys were not checked" in verify(invented).notes[0]
    assert verify(invented, stage.plain.job.trust).result is Result.UNTRUSTED


def test_no_bit_flip_is_missed(stage: Any) -> None:
    honest = stage.plain.bundle()
    case = Opening(honest).case()
    assert case is not None
    draw = random.Random(20261128)
    for name, data in honest.files.items():
        for _ in range(5):
            place = draw.randrange(8 * len(data))
            flipped = bytearray(data)
            flipped[place // 8] ^= 1 << place % 8
            bundle = Bundle({**honest.files, name: bytes(flipped)})
            if name == "MANIFEST.json":
                assert verify(bundle).result is not Result.VERIFIED, place
            else:
                found = signatures.files(replace(case, bundle=bundle))
                assert name in {finding.place for finding in found}, (name, place)


@pytest.mark.slow
def test_no_bit_flip_ends_in_anything_but_a_finding(stage: Any) -> None:
    honest = stage.plain.bundle()
    draw = random.Random(7)
    names = sorted(honest.files)
    for _ in range(400):
        name = draw.choice(names)
        flipped = bytearray(honest.files[name])
        place = draw.randrange(8 * len(flipped))
        flipped[place // 8] ^= 1 << place % 8
        verdict = verify(Bundle({**honest.files, name: bytes(flipped)}), stage.plain.job.trust)
        assert verdict.result in (Result.ALTERED, Result.UNTRUSTED), (name, place)
