"""After any restore, the recorded spend is at least the true one; and nothing of an open job goes on."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloister.client import reconciliation, restoration
from cloister.client.consortium import Consortium, Proposal
from cloister.client.jobs import APPROVED, DONE, LEFT, Job, Jobs
from cloister.client.restoration import leave, listed
from cloister.client.site import backup, rotation, sharing
from cloister.client.site.datasets import Datasets
from cloister.client.site.folder import RESTORED, SECRETS, SiteFolder
from cloister.client.witnessing import Heads
from cloister.privacy import archive, canonical, keyring, snapshot
from cloister.privacy.consent import Decision, approval
from cloister.privacy.dp import accounting
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.errors import BudgetError, CloisterError
from cloister.privacy.evidence import files
from cloister.privacy.evidence.log import verify_log
from cloister.privacy.keysource import KeySource
from cloister.privacy.plan import Plan
from cloister.privacy.vault import CLEAR
from tests.plans import plan_json
from tests.service import Service
from tests.shared import charged, doubtful, ledger, reserve

pytestmark = pytest.mark.job

DELTA = 1e-5
SITES = ("north", "south", "west")


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of a backup costs a guesser less than in the product."""
    monkeypatch.setattr(keyring, "_COST", 1 << 14)


@pytest.fixture
def source(tmp_path: Path) -> KeySource:
    (tmp_path / "pass").write_text("a passphrase of some length\n")
    (tmp_path / "pass").chmod(0o600)
    return KeySource.parse(f"passphrase-file:{tmp_path / 'pass'}")


def plan_of(number: int, rounds: int = 4, dataset: str = "notes", **changes: Any) -> Plan:
    value = plan_json(SITES, **changes)
    value["nonce"] = f"{number:032x}"
    value["training"] |= {"rounds": rounds}
    for site in value["sites"]:
        site["dataset"] = dataset
    return Plan.from_bytes(canonical.encode(value))


class History:
    """A site that approves, trains, finishes and is restored, and the truth about what it has spent."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.site = SiteFolder.create(place / "site-0", "north")
        self.copies = 0
        self.plans: dict[str, Plan] = {}
        self.truth: dict[str, set[tuple[str, int]]] = {}
        self.backups: list[dict[str, bytes]] = []
        self.open("notes")

    def open(self, dataset: str) -> None:
        self.ledger.open_budget(dataset, "record", 50.0, DELTA)

    @property
    def ledger(self) -> Any:
        return Datasets(self.site).ledger

    def propose(self, plan: Plan, approve: bool = True) -> Job:
        self.plans[plan.digest] = plan
        job = self.keep(plan)
        if job.decision is None:
            reason = "" if approve else "site_refused"
            decision = Decision(site="north", plan=plan.digest, approve=approve, reason=reason)
            Jobs(self.site)._decide(job, decision)
        return job

    def keep(self, plan: Plan) -> Job:
        return Jobs(self.site).keep(plan, _Unsigned())  # type: ignore[arg-type]

    def train(self, plan: Plan, number: int) -> None:
        """One round, as a participant does it: charged first; what is refused is not done."""
        job = self.keep(plan)
        if job.state != APPROVED or plan.round_mechanism is None:
            return
        dataset = plan.site("north").dataset
        try:
            self.ledger.reserve(dataset, plan.digest, number, 1, plan.round_mechanism)
        except BudgetError:
            return
        (job.folder / "ratchet.key").write_bytes(b"secret")
        self.truth.setdefault(dataset, set()).add((plan.digest, number))

    def approve(self, number: int) -> None:
        self.propose(PLANS[number])

    def refuse(self, number: int) -> None:
        self.propose(PLANS[number], approve=False)

    def trains(self, number: int, round_: int) -> None:
        if PLANS[number].digest in self.plans:
            self.train(PLANS[number], round_)

    def finish(self, number: int) -> None:
        if PLANS[number].digest in self.plans and (job := self.keep(PLANS[number])).state == APPROVED:
            job.close()

    def register(self, name: str) -> None:
        if name not in {budget.dataset for budget in self.ledger.budgets()}:
            self.open(name)

    def back_up(self) -> None:
        names = list(snapshot.names(self.site.path, backup.LEFT_OUT, backup.OF_JOBS))
        found = {name: snapshot.content(self.site.path, name, SECRETS, CLEAR) for name in names}
        found[snapshot.LOG] = snapshot.whole_lines(self.site.path / snapshot.LOG)
        self.backups.append(found)

    def restore(self, number: int) -> None:
        self.copies += 1
        root = self.place / f"site-{self.copies}"
        snapshot.unpack(root, self.backups[number % len(self.backups)], SECRETS, CLEAR)
        self.site = SiteFolder.open(root)
        proposals = [Proposal(plan, _Unsigned()) for plan in self.plans.values()]  # type: ignore[arg-type]
        found = listed(Jobs(self.site), proposals)
        restoration.charge(self.site, found)
        leave(Jobs(self.site), found)

    def check(self) -> None:
        for dataset, rounds in self.truth.items():
            spent = [self.plans[plan].round_mechanism for plan, _ in rounds]
            true = accounting.epsilon([one for one in spent if one], DELTA)
            assert self.ledger.epsilon(dataset) >= true - 1e-12


class _Unsigned:
    def to_json(self) -> dict[str, str]:
        return {}


@contextmanager
def history() -> Iterator[History]:
    place = Path(tempfile.mkdtemp(prefix="history"))
    try:
        yield History(place)
    finally:
        shutil.rmtree(place)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("approve"), st.integers(0, 3)),
        st.tuples(st.just("refuse"), st.integers(4, 5)),
        st.tuples(st.just("trains"), st.integers(0, 3), st.integers(1, 4)),
        st.tuples(st.just("finish"), st.integers(0, 3)),
        st.tuples(st.just("register"), st.just("late")),
        st.tuples(st.just("back_up")),
        st.tuples(st.just("restore"), st.integers(0, 5)),
    ),
    max_size=25,
)
PLANS = [
    plan_of(number, dataset="late" if number == 3 else "notes") for number in range(6)
]  # the fourth is on a dataset that is registered later, if at all


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS)
def test_after_any_restore_the_ledger_holds_at_least_what_was_spent(steps: list[tuple[Any, ...]]) -> None:
    with history() as site:
        site.back_up()
        for name, *of in steps:
            getattr(site, name)(*of)
            site.check()


def test_without_the_charge_the_ledger_would_say_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law above can fail: the very history that it is about, without the charge."""
    with history() as site:
        site.propose(PLANS[0])
        site.back_up()
        site.train(PLANS[0], 1)
        monkeypatch.setattr(restoration, "charge", lambda *_: {})
        site.restore(0)
        with pytest.raises(AssertionError):
            site.check()


def test_a_dataset_that_the_copy_does_not_know_is_exhausted() -> None:
    with history() as site:
        site.back_up()
        site.open("late")
        plan = PLANS[3]
        site.propose(plan)
        site.train(plan, 1)
        site.restore(0)
        site.check()
        (budget,) = (budget for budget in site.ledger.budgets() if budget.dataset == "late")
        assert plan.round_mechanism is not None
        with pytest.raises(CloisterError) as caught:
            site.ledger.reserve("late", "sha256:" + "0" * 64, 1, 1, plan.round_mechanism)
        assert caught.value.id == "budget_exceeded"
        with pytest.raises(CloisterError) as again:
            site.open("late")
        assert again.value.id == "budget_conflict"
        assert budget.unit == plan.privacy.unit


def test_a_charge_may_pass_the_budget_and_then_nothing_more_is_allowed(tmp_path: Path) -> None:
    site = SiteFolder.create(tmp_path / "north", "north")
    ledger = Datasets(site).ledger
    ledger.open_budget("notes", "record", 1.0, DELTA)
    mechanism = GaussianSteps(1.0, 0.5, 10)
    reached = ledger.charge("notes", "record", "sha256:" + "1" * 64, 3, mechanism)
    assert reached > 1.0
    assert reached == ledger.charge("notes", "record", "sha256:" + "1" * 64, 3, mechanism)
    with pytest.raises(CloisterError) as caught:
        ledger.reserve("notes", "sha256:" + "2" * 64, 1, 1, GaussianSteps(100.0, 0.01, 1))
    assert caught.value.id == "budget_exceeded"


# The whole of it, over a real service


class Place:
    """A service, a site that has worked on a job, and its backup from before."""

    def __init__(self, service: Service, tmp_path: Path, source: KeySource) -> None:
        self.service, self.tmp_path, self.source = service, tmp_path, source
        self.north, self.south = service.member("north"), service.member("south")
        lead = {"name": "lead", "identity": service.lead.identity.public.digest()}
        self.plan = plan_of(7, rounds=3)
        value = self.plan.model_dump(mode="json", exclude_none=True)
        value["lead"] |= lead
        for party in value["sites"][:1]:
            party["identity"] = self.north.identity.public.digest()
        self.plan = Plan.from_bytes(canonical.encode(value))
        service.propose(self.plan)
        Datasets(self.north).ledger.open_budget("notes", "record", 100.0, DELTA)
        self.backup = tmp_path / "north.backup"
        backup.write(self.north, self.backup, source)
        self.work()

    def work(self) -> None:
        with Consortium(self.north) as member:
            member.roster()
            (found,) = member.proposals()
            job = Jobs(self.north).keep(found.plan, found.signed)
            Jobs(self.north)._decide(job, approval(self.plan, "north"))
            assert self.plan.round_mechanism is not None
            ledger = Datasets(self.north).ledger
            ledger.reserve("notes", self.plan.digest, 1, 1, self.plan.round_mechanism)
            (job.folder / "ratchet.key").write_bytes(b"never in a backup")
            (job.folder / "replies").mkdir()
            (job.folder / "replies" / "round-00001-00001.sealed").write_bytes(b"reply")
            Heads(self.north, member).exchange()

    def true(self) -> float:
        return float(Datasets(self.north).ledger.epsilon("notes"))


@pytest.fixture
def place(tmp_path: Path, source: KeySource) -> Iterator[Place]:
    with Service(tmp_path) as service:
        yield Place(service, tmp_path, source)


def test_a_backup_is_restored_charged_and_goes_on_with_new_keys(place: Place) -> None:
    root = place.tmp_path / "again"
    site = restoration.from_backup(place.backup, root, None)
    old = place.north.identity.public
    assert site.identity.public == old
    with pytest.raises(CloisterError) as caught:
        Jobs(site).check(place.plan)
    assert caught.value.id == "state_restored"
    done = restoration.settle(root)
    assert done.held > done.had
    assert set(done.charged) == {place.plan.digest} == set(done.left)
    site = SiteFolder.open(root)
    assert Datasets(site).ledger.epsilon("notes") >= place.true()
    rows = [row for row in Datasets(site).ledger.rows("notes") if row.kind == "reserved"]
    assert [row.reservation.round for row in rows] == [1, 2, 3]
    (job,) = Jobs(site)
    assert job.state == LEFT
    with pytest.raises(CloisterError) as again:
        Jobs(site).approve(job)
    assert again.value.id == "withdrawn"
    (said,) = place.service.desk.withdrawals
    assert (said.site, said.plan, said.reason) == ("north", place.plan.digest, "state_restored")
    incidents = [event.body for event in site.log.entries() if event.type == "incident.raised"]
    assert [body["reason"] for body in incidents] == ["log_rolled_back"]
    assert site.identity.public != old
    assert not (root / RESTORED).exists()
    verify_log(site.path / "log", site.identity.public, [site.log.head()])
    with Consortium(site) as member:  # and it goes on
        heads = Heads(site, member)
        heads.check()
        heads.exchange()
        heads.exchange()
    with Consortium(place.south) as south:
        assert south.roster().member("north") == site.identity.public


def test_no_key_of_a_job_is_in_a_backup(place: Place) -> None:
    path = place.tmp_path / "later.backup"
    backup.write(place.north, path, place.source)
    _, found = archive.read(path, "site")
    names = {Path(name).name for name in found}
    assert {"plan.json", "decision.json", "identity.key", "ledger.sqlite", "events.jsonl"} <= names
    assert not names & {"ratchet.key", "sums.json", "audit.json", "vault.json"}
    assert not any(name.endswith(".sealed") for name in found)
    assert path.stat().st_mode & 0o777 == 0o600
    seeds = canonical.decode((place.north.path / "identity" / "identity.key").read_bytes())
    assert not any(bytes.fromhex(seeds[key]) in path.read_bytes() for key in ("ed25519", "mldsa65"))


def test_an_old_copy_in_its_place_is_brought_on_with_here(place: Place) -> None:
    copy = place.tmp_path / "copy"
    shutil.copytree(place.north.path, copy)
    place.north.log.append("log.heartbeat")
    with Consortium(place.north) as member:
        heads = Heads(place.north, member)
        heads.check()
        heads.exchange()
    old = SiteFolder.open(copy)
    with Consortium(old) as member, pytest.raises(CloisterError) as caught:
        Heads(old, member).check()
    assert caught.value.id == "log_rolled_back"
    restoration.mark(old)
    restoration.settle(copy)
    site = SiteFolder.open(copy)
    (job,) = Jobs(site)
    assert not (job.folder / "ratchet.key").exists()
    assert not list((job.folder / "replies").iterdir())
    assert Datasets(site).ledger.epsilon("notes") >= place.true()
    first = next(iter(site.log.entries()))
    assert first.body["previous"] == place_last(site)


def place_last(site: SiteFolder) -> str:
    (retired,) = (site.path / "retired").iterdir()
    *_, last = files.lines(retired / "log", 0, files.written(retired / "log"))
    return canonical.digest(last[:-1])


def test_a_folder_that_shares_a_ledger_charges_the_one_that_is_there(place: Place, tmp_path: Path) -> None:
    owner, west = SiteFolder.create(tmp_path / "owner", "west"), place.service.member("west")
    ledger(owner).open_budget("notes", "record", 100.0, DELTA)
    reconciliation.share(west, owner)
    backup.write(west, tmp_path / "west.backup", place.source)
    _, found = archive.read(tmp_path / "west.backup", "site")
    assert not any(name.endswith(".sqlite") for name in found)
    charge = place.plan.round_mechanism
    assert charge is not None
    ledger(west).reserve("notes", place.plan.digest, 1, 1, charge)
    restoration.from_backup(tmp_path / "west.backup", tmp_path / "again", None)
    owner.path.rename(tmp_path / "away")
    with pytest.raises(CloisterError) as caught:
        restoration.settle(tmp_path / "again")
    assert caught.value.id == "ledger_missing"
    (tmp_path / "away").rename(owner.path)
    done = restoration.settle(tmp_path / "again")
    assert set(done.charged) == {place.plan.digest}
    assert charged(owner) == [(place.plan.digest, number) for number in (1, 2, 3)]
    assert doubtful(owner) == ["owner"]
    reconciliation.reconcile(owner)
    assert [Path(one.path).name for one in sharing.sharers(owner) if one.settled] == ["owner", "again"]


def test_the_owner_of_a_shared_ledger_is_restored_only_where_it_was(place: Place, tmp_path: Path) -> None:
    other = SiteFolder.create(tmp_path / "other", "north")
    reconciliation.share(other, place.north)
    path, root = tmp_path / "shared.backup", place.north.path
    backup.write(place.north, path, place.source)
    reserve(other, plan_of(3), 1)
    with pytest.raises(CloisterError) as caught:
        restoration.from_backup(path, root, None)
    assert caught.value.id == "folder_in_use", "no newer ledger is replaced"
    restoration.from_backup(path, tmp_path / "again", None)
    with pytest.raises(CloisterError) as elsewhere:
        restoration.settle(tmp_path / "again")
    assert elsewhere.value.id == "ledger_foreign"
    assert str(root.resolve()) in elsewhere.value.do
    shutil.rmtree(root)
    restoration.from_backup(path, root, None)
    with pytest.raises(CloisterError) as early:
        reserve(other, plan_of(3), 2)
    assert early.value.id == "state_restored"
    restoration.settle(root)
    north = SiteFolder.open(root)
    assert doubtful(north) == ["other"]
    assert (plan_of(3).digest, 1) not in charged(north)
    with pytest.raises(CloisterError) as behind:
        reserve(other, plan_of(3), 2)
    assert behind.value.id == "ledger_behind"
    reconciliation.reconcile(other)
    assert (plan_of(3).digest, 1) in charged(north)
    reserve(other, plan_of(3), 2)


@pytest.mark.parametrize("step", ["roster", "proposals", "withdraw"])
def test_a_restore_that_was_interrupted_is_finished_by_the_next(
    place: Place, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloister.privacy.errors import TransportError

    root = place.tmp_path / "again"
    restoration.from_backup(place.backup, root, place.source)

    def gone(*_: Any) -> None:
        raise TransportError("unreachable", "the cable")

    real = getattr(Consortium, step)
    monkeypatch.setattr(Consortium, step, gone)
    with pytest.raises(TransportError):
        restoration.settle(root)
    with pytest.raises(CloisterError) as caught:
        Jobs(SiteFolder.open(root)).check(place.plan)
    assert caught.value.id == "state_restored"
    monkeypatch.setattr(Consortium, step, real)
    restoration.settle(root)
    site = SiteFolder.open(root)
    assert Datasets(site).ledger.epsilon("notes") >= place.true()
    rows = [row for row in Datasets(site).ledger.rows("notes") if row.kind == "reserved"]
    assert len(rows) == 3
    assert len(place.service.desk.withdrawals) == 1


def test_a_job_that_was_over_is_not_charged_again(place: Place) -> None:
    (job,) = Jobs(place.north)
    job.close()
    path = place.tmp_path / "later.backup"
    backup.write(place.north, path, place.source)
    restoration.from_backup(path, place.tmp_path / "again", None)
    done = restoration.settle(place.tmp_path / "again")
    site = SiteFolder.open(place.tmp_path / "again")
    assert done.charged == {}
    assert Datasets(site).ledger.epsilon("notes") == place.true()
    assert [one.state for one in Jobs(site)] == [DONE]


# The archive


def change(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.05, 0.2, 0.5, 0.99])
def test_a_backup_that_was_altered_or_cut_is_refused(
    tmp_path: Path, source: KeySource, fraction: float
) -> None:
    good = tmp_path / "good"
    archive.write(good, "site", "north", {"config.json": b"{}", "log/events.jsonl": b"x" * 500}, source)
    data = good.read_bytes()
    at = int(fraction * (len(data) - 1))
    for number, bad in enumerate((change(data, at), data[:at])):
        path = tmp_path / f"bad-{number}"
        path.write_bytes(bad)
        with pytest.raises(CloisterError) as caught:
            archive.read(path, "site")
        assert caught.value.id in ("backup_damaged", "state_sealed", "option_invalid")


def test_another_key_opens_nothing_and_a_leads_backup_is_no_sites(tmp_path: Path, source: KeySource) -> None:
    path = tmp_path / "one"
    archive.write(path, "lead", "lead", {"a": b"b"}, source)
    assert archive.read(path, "lead")[1] == {"a": b"b"}
    with pytest.raises(CloisterError) as kind:
        archive.read(path, "site")
    assert kind.value.id == "option_invalid"
    (tmp_path / "other").write_text("another passphrase, as long\n")
    (tmp_path / "other").chmod(0o600)
    with pytest.raises(CloisterError) as key:
        archive.read(path, "lead", KeySource.parse(f"passphrase-file:{tmp_path / 'other'}"))
    assert key.value.id == "state_sealed"
    with pytest.raises(CloisterError) as there:
        archive.write(path, "lead", "lead", {}, source)
    assert there.value.id == "folder_in_use"


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "a\\b"])
def test_a_backup_writes_nothing_outside_its_folder(tmp_path: Path, source: KeySource, name: str) -> None:
    path = tmp_path / "bad"
    archive.write(path, "site", "north", {name: b"x"}, source)
    with pytest.raises(CloisterError) as caught:
        archive.read(path, "site")
    assert caught.value.id == "backup_damaged"


def test_a_line_that_is_being_written_is_not_in_a_backup(tmp_path: Path) -> None:
    site = SiteFolder.create(tmp_path / "north", "north")
    path = site.log.folder / files.EVENTS
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(b'{"half":')
    assert snapshot.whole_lines(path) == whole


def test_the_ledger_is_copied_whole_while_somebody_writes(tmp_path: Path) -> None:
    import sqlite3

    site = SiteFolder.create(tmp_path / "north", "north")
    ledger = Datasets(site).ledger
    ledger.open_budget("notes", "record", 100.0, DELTA)
    open_ = sqlite3.connect(site.path / "ledger.sqlite", isolation_level=None)
    open_.execute("BEGIN IMMEDIATE")
    open_.execute("INSERT INTO budgets VALUES ('half', 'record', 'x', 1, 0.1, NULL)")
    data = snapshot.content(site.path, "ledger.sqlite", SECRETS, CLEAR)
    open_.execute("ROLLBACK")
    open_.close()
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "ledger.sqlite").write_bytes(data)
    from cloister.client.site.ledger import Ledger

    assert [budget.dataset for budget in Ledger(copy / "ledger.sqlite").budgets()] == ["notes"]


def test_old_keys_of_a_restored_site_are_gone(place: Place) -> None:
    root = place.tmp_path / "again"
    restoration.from_backup(place.backup, root, None)
    restoration.settle(root)
    site = SiteFolder.open(root)
    with pytest.raises(CloisterError):
        site.identity_of(place.north.identity.public.digest())
    assert rotation.place(site, place.north.identity.public.digest()).exists()
