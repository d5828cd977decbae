"""``cloister lead up``: the aggregator process. It holds the lead's keys, the consortium service and the
ServerApp, and keeps Flower's SuperLink as a child process that ends with it.

Flower's database is in memory: what lasts is the job's checkpoint. Whatever dies, the next start begins the
interrupted round again with the same number and model, and sites send their stored replies.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from cloister.privacy import canonical, code, durable, heap
from cloister.privacy.channel import certificates
from cloister.privacy.channel.facts import ListenerSide
from cloister.privacy.errors import (
    UNWRITABLE,
    CloisterError,
    LogError,
    ModelError,
    PlanError,
    RoundError,
    StateError,
    TransportError,
    areas,
)
from cloister.privacy.evidence.keeping import Keeping
from cloister.privacy.plan import Plan
from cloister.privacy.wire import bundle, messages
from cloister.server.app import Federation, server_app
from cloister.server.checkpoint import Checkpoint
from cloister.server.consortium import ConsortiumServer
from cloister.server.correspondence import Progress
from cloister.server.desk import FolderDesk
from cloister.server.folder import LOOPBACK, OPERATOR, SERVER, SITES, LeadFolder
from cloister.server.jobs import APPROVED, FAILED, FINISHED, PROPOSED, RUNNING, STOPPED, Job
from cloister.server.milestones import Milestones
from cloister.server.post import Pace
from cloister.server.runtime import Runtime, RuntimeSettings
from cloister.server.showing import Showing
from cloister.server.versions import FACTOR, Versions

_LOOK_S = 0.3
_START_S = 60.0
_LAST_LOOK_S = 10.0


class Flower:
    """The SuperLink process and the operator's connection to it.

    Args:
        folder: the lead's folder; configuration, secret and Flower's own log are in ``flower/``.

    TLS takes keys from files only. Those in ``flower/`` are under a password that lives in these two
    processes and goes from one to the other through a pipe: what a crash leaves opens nothing.
    """

    def __init__(self, folder: LeadFolder) -> None:
        self._folder, self._place = folder, folder.path / "flower"
        durable.private_folder(self._place)
        durable.write(self._place / "secret", secrets.token_hex(32).encode())
        durable.write(self._place / "config.json", canonical.encode(self._config()))
        self._password = secrets.token_hex(32)
        self._certificate = certificates.fingerprint(folder.tls(SERVER).certificate)
        for name in (SERVER, LOOPBACK, OPERATOR):
            key = certificates.under_password(folder.tls(name).key, self._password)
            durable.write(self._place / f"{name}.key", key)
        self._known: dict[bytes, int] = {}  # node key -> its node
        self._mutex = threading.Lock()
        self._process, control = self._start()
        tls, authorities = folder.path / "tls", folder.path / "authorities"
        self.runtime = Runtime(
            RuntimeSettings(
                address=control,
                authority=authorities / "operator.pem",
                certificate=tls / "operator.pem",
                key=self._place / f"{OPERATOR}.key",
                secret=self._place / "secret",
                password=self._password,
            )
        )

    def _config(self) -> dict[str, Any]:
        tls, authorities = self._folder.path / "tls", self._folder.path / "authorities"

        def door(port: int, authority: str, name: str) -> dict[str, Any]:
            return {
                "port": port,
                "authority": str(authorities / f"{authority}.pem"),
                "certificate": str(tls / f"{name}.pem"),
                "key": str(self._place / f"{name}.key"),
            }

        settings = self._folder.settings
        return {
            "host": settings.bind,
            "fleet": door(settings.port_fleet, SITES, SERVER),
            "control": door(0, OPERATOR, LOOPBACK),
            "secret": str(self._place / "secret"),
            "password": True,
            "channels": True,
            "members": str(self._folder.path / "roster.json"),
            "parent": os.getpid(),
        }

    def _start(self) -> tuple[subprocess.Popen[str], str]:
        """Starts the process and waits for its ready line.

        Raises:
            InputError: ``port_in_use``.
            CloisterError: another reason for which it ended at once, as it gives it.
        """
        command = [sys.executable, "-m", "cloister.server.superlink", str(self._place / "config.json")]
        log = self._place / "superlink.log"
        with log.open("a") as errors:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "FLWR_HOME": str(self._place)},
                start_new_session=True,  # Ctrl-C in a terminal is for the lead, which then ends it
            )
        _tell(process, self._password)
        for line in process.stdout or ():
            said = _heard(line)
            if "control" in said:
                threading.Thread(target=self._listen, args=(process,), name="flower", daemon=True).start()
                return process, str(said["control"])
            self._note(said)
        process.wait(_START_S)
        raise _told(log.read_text())

    def _listen(self, process: subprocess.Popen[str]) -> None:
        """Takes what the process says until it ends."""
        for line in process.stdout or ():
            self._note(_heard(line))

    def _note(self, said: Mapping[str, Any]) -> None:
        """Writes down this end of Flower's connection with a member, if that is what is said."""
        if "channel" not in said:
            return
        seen = ListenerSide(**said["channel"])
        if seen.name not in {site.name for site in self._folder.enrolment.roster.sites}:
            return
        # A log that cannot be written tells of it later (``log.gap``), and stops the lead at its next event.
        with suppress(LogError):
            self._folder.log.append("channel.opened", party=seen.name, **seen.fields(self._certificate))

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def register(self) -> None:
        """Lets the node key of every member in, and no other; a name has one node at a time."""
        with self._mutex:
            wanted = {site.node: site.name for site in self._folder.enrolment.roster.sites}
            for node in self._known.keys() - wanted.keys():
                self.runtime.unregister_node(self._known.pop(node))
            for node, name in wanted.items():
                if node not in self._known:
                    self._known[node] = self.runtime.register_node(node, name)

    def close(self) -> None:
        """Ends the process."""
        self.runtime.close()
        if self.alive:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class Lead:
    """The running lead of a consortium.

    Args:
        folder: the lead's folder.
        say: gets one line for the operator whenever something happens.
        pace: waiting times.

    Attributes:
        present: the names of the sites that are connected now.
    """

    def __init__(self, folder: LeadFolder, say: Callable[[str], None], pace: Pace | None = None) -> None:
        self._folder, self._say, self._pace = folder, say, pace or Pace()
        self._desk = FolderDesk(folder.path, folder.log, folder.vault)
        self._proposed: set[str] = set()
        self.present: Callable[[], Iterable[str]] = frozenset
        self._busy = False

    def run(self, stop: threading.Event, *, once: bool = False) -> Job | None:
        """Works until ``stop`` is set, or until the first job has ended if ``once``.

        Returns:
            With ``once``, the job that ended.

        Raises:
            StateError: ``state_locked``, another lead works in the folder.
            InputError: ``port_in_use``.
        """
        with self._folder.running():
            keeping = self._keeping = Keeping(self._folder.log, lambda: self._busy)
            settings = self._folder.settings
            service = ConsortiumServer(
                self._folder, self._desk, f"{settings.bind}:{settings.port_consortium}"
            )
            flower = self._flower = Flower(self._folder)
            self.present = service.present
            keeping.come()
            keeping.start()
            service.start()
            addresses = settings.addresses
            self._say(f"{settings.consortium} is up at {addresses.service} and {addresses.fleet}")
            keeper = threading.Thread(target=self._keep, args=(service, stop), name="desk", daemon=True)
            keeper.start()
            ended: Job | None = None
            try:
                while not (stop.is_set() or (once and ended)):
                    if keeping.failure:
                        raise keeping.failure
                    if not flower.alive:
                        self._say("Flower's server ended; starting it again.")
                        flower.close()
                        flower = self._flower = Flower(self._folder)
                    ended = self._turn(service, flower, stop)
            finally:
                stop.set()
                keeper.join()
                flower.close()
                service.stop()
                keeping.stop(_LAST_LOOK_S)
            keeping.leave()
            self._folder.log.head()
        return ended if once else None

    def _keep(self, service: ConsortiumServer, stop: threading.Event) -> None:
        """Tells sites of new plans, and lets members in and out, also while a job runs."""
        told = service.collector.news()
        while not stop.wait(_LOOK_S):
            members = {site.name for site in self._folder.enrolment.roster.sites}
            service.cut(service.present() - members)
            with suppress(TransportError):  # Flower ended; the next one is told everything
                self._flower.register()
            new = {job.plan.digest for job in self._desk.jobs if job.state == PROPOSED} - self._proposed
            if new:
                self._proposed |= new
                service.presence.announce("proposal")
            if (wanted := service.collector.news()) != told:
                told = wanted
                service.presence.announce("evidence")

    def _turn(self, service: ConsortiumServer, flower: Flower, stop: threading.Event) -> Job | None:
        """Lets new members in and runs the next approved job; the job if it ended."""
        flower.register()
        job = next((job for job in self._desk.jobs if job.state in (RUNNING, APPROVED)), None)
        if job is None:
            stop.wait(_LOOK_S)
            return None
        try:
            self._busy = True
            self._perform(job, service, flower, stop)
        except TransportError as error:
            self._folder.log.append("incident.raised", job=job.plan.digest, reason=error.id, severity="low")
            self._say(f"{error.line()} The job goes on from its checkpoint.")
            stop.wait(_LOOK_S)
            return None
        except CloisterError as error:
            if error.id in UNWRITABLE:
                raise  # this machine's fault, not the job's: it goes on from its checkpoint
            if error.id == "stopped" and not job.stopping():  # the process is to end, not the job
                self._say("The job goes on from its checkpoint at the next `cloister lead up`.")
                return None
            self._end(job, error)
        finally:
            self._busy = False
        service.presence.announce("heads")  # those of the job's last events
        return job

    def _perform(self, job: Job, service: ConsortiumServer, flower: Flower, stop: threading.Event) -> None:
        plan = job.plan
        _require_code(plan)
        place, vault = job.folder / "checkpoint", self._folder.vault
        state = Checkpoint.load(place, plan.digest, vault)
        resumed = job.state == RUNNING or state.round > 0
        job.move(RUNNING)
        self._keeping.begin(plan.digest)
        self._folder.log.append(
            "job.resumed" if resumed else "job.started",
            job=plan.digest,
            model=messages.model_digest(state.model),
            code=plan.lead.code,
        )
        self._say(f"Running {plan.digest[7:19]} from round {state.round + 1}")
        milestones = Milestones(self._say, plan.digest[7:19])
        showing = Showing(job.note)
        heap.freeze()

        def report(progress: Progress) -> None:
            showing.put(_shown(progress))
            milestones.pass_by(progress)

        def done(end: Checkpoint) -> None:
            showing.close()
            self._finish(job, federation, end)

        federation = Federation(
            plan=plan,
            identity=self._folder.identity,
            roster=self._folder.enrolment.roster_of(plan),
            log=self._folder.log,
            resume=state,
            left=lambda: self._left(job, service),
            save=self._saving(job, state),
            present=service.present,
            stopping=lambda: stop.is_set() or job.stopping(),
            report=report,
            exchange=service.exchange,
            descent=job.descent,
            give_up=job.take_give_up(),
            pace=self._pace,
        )
        flower.runtime.start_run(bundle.build(), plan.digest)
        with flower.runtime.acquire() as session:
            try:
                session.run(server_app(federation, done))
            finally:
                showing.close()

    def _left(self, job: Job, service: ConsortiumServer) -> dict[str, str]:
        """Sites of a job that are not asked any more, each with the id of the reason."""
        revoked, forked = self._folder.enrolment.revoked, service.conflicts()
        origins = {f"cloister/{site.name}/{site.identity[7:23]}": site.name for site in job.plan.sites}
        return {
            **{name: "log_forked" for origin, name in origins.items() if origin in forked},
            **{site.name: "key_revoked" for site in job.plan.sites if site.identity in revoked},
            **job.left(),
        }

    def _saving(self, job: Job, state: Checkpoint) -> Callable[[Checkpoint], None]:
        """Saves checkpoints of a run that goes on from ``state``, and keeps what there is to go back to."""
        vault, before = self._folder.vault, state
        versions = Versions(job.folder, job.plan, vault)

        def save(after: Checkpoint) -> None:
            nonlocal before
            after.save(job.folder / "checkpoint", vault)
            made = versions.keep(before.model, after)
            before = after
            heap.trim()
            if made is not None and made.jumped:
                error = ModelError(
                    "norm_jumped",
                    f"Round {made.round} changed the model more than {FACTOR:g} times as far as is usual.",
                    "Ask the sites how it does on their rows; `cloister lead rollback` goes back.",
                )
                self._folder.log.append(
                    "incident.raised", job=job.plan.digest, round=made.round, reason=error.id
                )
                self._say(error.line())

        return save

    def _finish(self, job: Job, federation: Federation, end: Checkpoint) -> None:
        model = messages.model_digest(end.model)
        self._count(job, federation)
        self._folder.log.append("job.finished", job=job.plan.digest, model=model, rounds=end.round)
        self._folder.log.head()
        job.note({**job.progress, **_moved(federation.up, federation.down), "model": model})
        job.move(FINISHED)
        self._say(f"Finished {job.plan.digest[7:19]}: {model}")

    def _count(self, job: Job, federation: Federation) -> None:
        """Writes down what moved in this process, by site."""
        for site, size in sorted(federation.down.items()):
            up = federation.up[site]
            self._folder.log.append(
                "traffic.counted", job=job.plan.digest, site=site, bytes_up=up, bytes_down=size
            )

    def _end(self, job: Job, error: CloisterError) -> None:
        """Notes that a run ended before its time, and why."""
        stopped = isinstance(error, RoundError) and error.id == "stopped"
        rounds = int(job.progress.get("round", 0))
        self._folder.log.append("job.aborted", job=job.plan.digest, reason=error.id, rounds=rounds)
        job.move(STOPPED if stopped else FAILED, error.line())
        self._say(error.line())


def _require_code(plan: Plan) -> None:
    """Refuses to run a plan with other code than it names: its sites would, and its evidence would not hold.

    Raises:
        PlanError: ``code_mismatch``.
    """
    if plan.lead.code != code.installed():
        raise PlanError(
            "code_mismatch",
            f"The plan {plan.digest[7:19]} names other code than is installed here.",
            f"Install the release of the proposal and run `cloister lead resume {plan.digest[7:19]}`, or "
            "propose it again.",
        )


def _heard(line: str) -> Mapping[str, Any]:
    """What a line of Flower's process says; nothing where some library of its prints a line of its own."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _tell(process: subprocess.Popen[str], line: str) -> None:
    """Writes the one line that a process waits for; one that has ended says why in its log."""
    if process.stdin is not None:
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(f"{line}\n")


def _told(words: str) -> CloisterError:
    """The error whose line another process of ours ended with."""
    last = words.strip().rpartition("\n")[2]
    if found := re.fullmatch(r"(.*) \[([a-z_]+)\]", last):
        for area in areas():
            if found[2] in area.REASONS:
                return area(found[2], found[1])
    return StateError("state_missing", f"Flower's server ended at once: {last or 'it said nothing'}")


def _shown(progress: Progress) -> dict[str, Any]:
    """What an operator may see, as JSON."""
    return {
        "round": progress.round,
        "rounds": progress.rounds,
        "standings": {
            name: standing.reason or standing.state for name, standing in progress.standings.items()
        },
        **_moved(progress.up, progress.down),
    }


def _moved(up: Mapping[str, int], down: Mapping[str, int]) -> dict[str, Any]:
    """Bytes of envelopes, in all and by site."""
    return {
        "bytes_up": sum(up.values()),
        "bytes_down": sum(down.values()),
        "traffic": {name: {"up": up.get(name, 0), "down": size} for name, size in down.items()},
    }
