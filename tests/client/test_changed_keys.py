"""A site changes its keys during a job: the bundle shows both of its logs, or is not accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from cloister.client.consortium import Consortium
from cloister.client.deposition import Deposition, retired
from cloister.client.site import rotation
from cloister.client.site.folder import SiteFolder
from cloister.client.site.ledger import Ledger
from cloister.privacy.errors import CloisterError
from cloister.privacy.evidence import lineage
from cloister.privacy.evidence.bundle import Bundle
from cloister.privacy.evidence.checks.findings import Result
from cloister.privacy.evidence.checks.run import verify
from cloister.privacy.evidence.dsse import Envelope, Statement
from cloister.privacy.evidence.part import PART, Part, statement_place
from cloister.privacy.identity import PrivateIdentity
from cloister.privacy.wire.portions import Word
from cloister.privacy.wire.succession import Handover
from cloister.server.dossier import contents
from cloister.server.gathering import Gathering, signed_by
from cloister.simulations.bench.staged import made_up
from tests.dossiers import Dossiers
from tests.service import Service

pytestmark = pytest.mark.job


class Changed(Dossiers):
    """North has new keys since the first round; the old ones are gone with the job's end."""

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self.old: PrivateIdentity = self.sites["north"].identity
        first = self.play.round(1, made_up("model", 0))
        self.rotate()
        second = self.play.round(2, first)
        self.end(self.play.round(3, second))
        rotation.forget(self.sites["north"], set())
        self.parts = {n: Deposition(s).part(self.site_job(n)) for n, s in self.sites.items()}

    def rotate(self) -> None:
        site = self.sites["north"]
        with Consortium(site) as member:
            new = rotation.answered(site, member.succeed(rotation.prepare(site, "rotated")))
        with Consortium(new) as member:
            member.open()
        self.sites["north"] = new
        staged = self.play.staged
        staged.logs["north"], staged.sites["north"] = new.log, new.identity
        self.play.ledgers["north"] = Ledger(self.service.path / "north.sqlite", new.log)

    @property
    def north(self) -> SiteFolder:
        return self.sites["north"]

    def bundle(self, north: Part | None = None) -> Bundle:
        parts = self.parts | ({"north": north} if north else {})
        return contents(self.lead, self.job, parts.values()).bundle(self.lead.identity)

    def resigned(self, files: Mapping[str, bytes], signer: PrivateIdentity | None = None) -> Part:
        """Files as a part that north signs, whatever they hold."""
        place = statement_place("north")
        said = Envelope.from_bytes(self.parts["north"].files[place]).statement()
        kept = {name: said.subjects.get(name, "") for name in files if not name.startswith("attestations/")}
        from cloister.privacy import canonical

        kept = {name: canonical.digest(files[name]).removeprefix("sha256:") for name in kept}
        statement = Statement(kept, PART, said.predicate)
        signed = Envelope.make(statement, signer or self.north.identity).to_bytes()
        return Part("north", {**files, place: signed})


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Changed]:
    with Service(tmp_path_factory.mktemp("consortium")) as service:
        yield Changed(service)


def test_both_logs_are_shown_and_the_bundle_verifies(changed: Changed) -> None:
    bundle = changed.bundle()
    verdict = changed.check(bundle)
    assert [finding.line() for finding in verdict.findings] == []
    later = f"@{changed.north.identity.public.digest()[7:23]}"
    for place in (f"events/north{later}.jsonl", "events/north.jsonl", f"successions/north{later}.json"):
        assert place in bundle.files
    reserved = [e.round for e in changed.parts["north"].events if e.type == "budget.reserved"]
    assert reserved == [1, 2, 3]
    trust = {party.name: party.identity for party in (changed.plan.lead, *changed.plan.sites)}
    newer = trust | {"north": changed.north.identity.public.digest()}
    assert verify(bundle, newer).result is Result.VERIFIED
    stranger = trust | {"north": made_up("another key")}
    assert verify(bundle, stranger).result is Result.UNTRUSTED


def test_the_new_keys_hand_over_and_sign(changed: Changed, tmp_path: Path) -> None:
    gathering = Gathering.of(changed.job)
    with Consortium(changed.north) as member:
        (wish,) = member.wanted()
        member.hand_over(wish, changed.parts["north"].files)
        bundle = changed.bundle()
        gathering.offer(bundle)
        made = Deposition(changed.north).signature(changed.site_job("north"), bundle.for_party("north"))
        about = {"job": changed.plan.digest, "bundle": bundle.digest}
        member.say(Word(**about, ed25519=made.ed25519.hex(), mldsa65=made.mldsa65.hex()))
    keys = changed.lead.enrolment.roster_of(changed.plan).members
    signed = signed_by(bundle, gathering.words(bundle.digest), keys, changed.plan)
    verdict = changed.check(signed)
    assert verdict.result is Result.VERIFIED
    (note,) = (note for note in verdict.notes if "is not signed by" in note)
    assert "north" not in note


def _later(changed: Changed) -> str:
    return f"@{changed.north.identity.public.digest()[7:23]}"


def _without_the_old_log(changed: Changed) -> Part:
    files = changed.parts["north"].files
    return changed.resigned(
        {n: d for n, d in files.items() if n != "events/north.jsonl" and "heads/north/" not in n}
    )


def _without_the_new_log(changed: Changed) -> Part:
    """The old keys, which the site kept against the rules, sign the old log alone."""
    (closed,) = retired(changed.north, changed.plan)
    from cloister.privacy.evidence.log import EventLog

    return Part.make(EventLog.open(closed.folder, changed.old), changed.old, changed.plan)


def _without_the_statement(changed: Changed) -> Part:
    files = changed.parts["north"].files
    return changed.resigned({n: d for n, d in files.items() if not n.startswith("successions/")})


def _a_statement_of_other_keys(changed: Changed) -> Part:
    other = PrivateIdentity.generate("north", "site")
    files = dict(changed.parts["north"].files)
    place = f"successions/north{_later(changed)}.json"
    said = Handover.from_bytes(files[place]).said
    files[place] = Handover.make(said, other, changed.north.identity).to_bytes()
    return changed.resigned(files)


def _the_old_log_cut(changed: Changed) -> Part:
    """Without its last event, which says that another log goes on from it."""
    files = dict(changed.parts["north"].files)
    lines = files["events/north.jsonl"].splitlines(keepends=True)
    files["events/north.jsonl"] = b"".join(lines[:-1])
    return changed.resigned(files)


def _an_event_of_the_new_log_left_out(changed: Changed) -> Part:
    files = dict(changed.parts["north"].files)
    place = f"events/north{_later(changed)}.jsonl"
    lines = files[place].splitlines(keepends=True)
    files[place] = b"".join(line for line in lines if b'"type":"budget.reserved"' not in line)
    return changed.resigned(files)


@pytest.mark.parametrize(
    ("cheat", "result", "reason"),
    [
        (_without_the_old_log, Result.INCOMPLETE, "files: events/north.jsonl: it is missing"),
        (
            _without_the_new_log,
            Result.INCOMPLETE,
            "the log that north kept under its later keys is not shown",
        ),
        (_without_the_statement, Result.ALTERED, "a bundle has no such file"),
        (_a_statement_of_other_keys, Result.ALTERED, "keys: successions/north"),
        (
            _the_old_log_cut,
            Result.INCOMPLETE,
            "the log of north is not shown to the end that its old keys signed",
        ),
        (
            _an_event_of_the_new_log_left_out,
            Result.NOT_REPRODUCIBLE,
            "there is no budget.reserved of its round",
        ),
    ],
)
def test_a_part_that_hides_one_of_the_logs_is_found(
    changed: Changed, cheat: Callable[[Changed], Part], result: Result, reason: str
) -> None:
    bundle = changed.bundle()
    part = cheat(changed)
    files = {n: d for n, d in bundle.files.items() if not _of_north(n)} | dict(part.files)
    from cloister.privacy.evidence.bundle import relisted

    verdict = changed.check(relisted(Bundle(files), changed.plan, "auditor", changed.lead.identity))
    lines = [finding.line() for finding in verdict.findings]
    assert any(line.startswith(f"{result.word}: ") and reason in line for line in lines), lines


def _of_north(name: str) -> bool:
    return any(
        name.startswith(f"{kind}/north") for kind in ("events", "heads", "policies", "successions")
    ) or (name == statement_place("north"))


def test_the_lead_takes_no_part_under_keys_that_follow_from_nothing(changed: Changed) -> None:
    public = changed.old.public
    changed.parts["north"].check(public, changed.plan)
    for cheat, reason in (
        (_without_the_statement, "key_untrusted"),
        (_a_statement_of_other_keys, "bundle_altered"),
    ):
        with pytest.raises(CloisterError) as caught:
            cheat(changed).check(public, changed.plan)
        assert caught.value.id == reason


def test_without_the_kept_statement_there_is_no_part(changed: Changed) -> None:
    place = rotation.place(changed.north, changed.plan.site("north").identity) / lineage.HANDOVER
    place.rename(place.with_suffix(".away"))
    try:
        with pytest.raises(CloisterError) as caught:
            Deposition(changed.north).part(changed.site_job("north"))
        assert caught.value.id == "bundle_incomplete"
    finally:
        place.with_suffix(".away").rename(place)
