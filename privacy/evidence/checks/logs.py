"""Each log by itself, and whether anybody was shown another one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise

from cloister.privacy import canonical
from cloister.privacy.errors import CloisterError, LogError
from cloister.privacy.evidence import merkle
from cloister.privacy.evidence.checks.case import Case, Log, Writer
from cloister.privacy.evidence.checks.findings import Finding, Findings, altered, incomplete, unfounded
from cloister.privacy.evidence.events import GENESIS
from cloister.privacy.evidence.heads import refuse_forks
from cloister.privacy.evidence.lineage import succession_place
from cloister.privacy.evidence.part import Shown
from cloister.privacy.evidence.selection import chosen
from cloister.privacy.wire.succession import Handover

DATED = frozenset({"consent.recorded", "approval.granted", "policy.loaded", "policy.changed"})
"""What permits: a date that is too early is told of as one of a consent."""
TOLERANCE_S = 5.0
"""By so much two times may contradict each other."""


def chains(case: Case) -> Findings:
    """Every event is its writer's, in order, chained to its neighbour, under the newest head."""
    for name, writer in case.writers.items():
        for log in writer.logs:
            yield from _chain(name, log)
            yield from _included(log)
        yield from _linked(case, name, writer)
        yield from _in_time(writer.shown)
        known = set(chosen(writer.events, case.plan))
        for place, one in enumerate(writer.shown):
            if place not in known:
                yield altered("chain", one.id, "it is no event of this job, nor one that the job rests on")


def _linked(case: Case, name: str, writer: Writer) -> Findings:
    """Every log but the last was closed, and the next one goes on from its last event; or it is a copy that
    its old keys gave up, and the next one says where it ends.
    """
    for before, after in pairwise(writer.logs):
        last, said = before.shown[-1], restored(case, before, after)
        if said is not None:
            yield from _begun_anew(before, after, said)
            if "held" not in said.event.body and name != case.plan.lead.name:
                yield altered("chain", said.id, f"it does not say how much of the log of {name} others held")
        elif (last.event.type, last.event.seq) == ("log.rotated", before.newest.size - 1):
            yield from _goes_on(before, after)
        else:
            yield incomplete(
                "chain", last.id, f"the log of {name} is not shown to the end that its old keys signed"
            )
    last = writer.logs[-1].shown[-1]
    if last.event.type == "log.rotated":
        yield incomplete("chain", last.id, f"the log that {name} kept under its later keys is not shown")


def _goes_on(before: Log, after: Log) -> Findings:
    last, first = before.shown[-1], after.shown[0]
    if last.event.body["identity"] != after.identity.digest():
        yield altered("chain", last.id, "it was closed for other keys than those that the next log is under")
    elif first.event.body.get("previous") != canonical.digest(last.line):
        yield altered("chain", first.id, "the log does not go on from the last event of the one before")


def _begun_anew(before: Log, after: Log, said: Shown) -> Findings:
    """The copy is shown to the end that the new log names. Its last event is often of another matter and not
    shown, so that the new log follows it is checked by root and size.
    """
    last, first, newest = before.shown[-1], after.shown[0], before.newest
    if (said.event.body["size"], said.event.body["root"]) != (newest.size, f"sha256:{newest.root.hex()}"):
        yield altered("chain", said.id, "the log before is not the copy that it names")
    follows = first.event.body.get("previous")
    if last.event.seq == newest.size - 1 and follows != canonical.digest(last.line):
        yield altered("chain", first.id, "the log does not go on from the last event of the one before")


def restored(case: Case, before: Log, after: Log) -> Shown | None:
    """Where a log says that it was begun anew because the one before is a copy from a backup.

    None where it does not, or where the old keys did not sign for the new ones for that reason.
    """
    place = succession_place(after.identity.name, after.identity.digest())
    if Handover.from_bytes(case.bundle.files[place]).said.reason != "restored":
        return None
    old = before.identity.digest()
    found = (one for one in after.shown if one.event.type == "log.restored")
    return next((one for one in found if one.event.body["previous"] == old), None)


def told(case: Case, name: str) -> Iterator[tuple[Log, int | None]]:
    """Each log of a party, and the most events that it is told to have had: as many as are proven of one that
    was closed, as many as others held of one that was restored; None where nobody says: for the newest, which
    grows, and for a restored one of the lead, which can ask nobody.
    """
    logs = case.writers[name].logs
    for before, after in pairwise(logs):
        said = restored(case, before, after)
        unknown = said is not None and "held" not in said.event.body and name == case.plan.lead.name
        held = _whole(said.event.body.get("held")) if said else 0
        yield before, None if unknown else max(before.newest.size, held)
    yield logs[-1], None


def limits(case: Case, name: str) -> Iterator[str]:
    """What a party's logs cannot show, because it was restored from a backup."""
    for before, after in pairwise(case.writers[name].logs):
        said = restored(case, before, after)
        if said is not None:
            size, held = before.newest.size, _held(before, said)
            yield (
                f"The log of {name} was begun anew on {said.event.ts[:10]} after a restore ({said.id}): of "
                f"the one before {size} events are there; {held}. What came after them is lost."
            )


def _held(before: Log, said: Shown) -> str:
    if "held" not in said.event.body:
        return "whether others held a later head it could not ask"
    held = _whole(said.event.body["held"])
    return f"by its word others held {f'a head of {held}' if held > before.newest.size else 'no later head'}"


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _chain(name: str, writer: Log) -> Findings:
    first = writer.shown[0].event
    if (first.seq, first.type, first.prev) != (0, "log.opened", GENESIS):
        yield incomplete(
            "chain", f"events/{name}{writer.label}.jsonl", "the first event of the log is not shown"
        )
    elif first.body["identity"] != writer.identity.digest():
        yield altered("chain", writer.shown[0].id, "the log was begun under other keys")
    for one in writer.shown:
        if one.event.writer != name:
            yield altered("chain", one.id, f"it stands among the events of {name}")
    for before, after in pairwise(writer.shown):
        if after.event.seq <= before.event.seq:
            yield altered("chain", after.id, "it is not in the order of the log")
        elif after.event.seq == before.event.seq + 1 and after.event.prev != canonical.digest(before.line):
            yield altered("chain", after.id, "it does not follow from the event before it")


def _included(writer: Log) -> Findings:
    head = writer.newest
    for one in writer.shown:
        try:
            leaf = merkle.leaf_hash(one.line)
            merkle.verify_inclusion(leaf, one.event.seq, head.size, one.proof, head.root)
        except LogError:
            yield altered(
                "chain", one.id, f"it is not in the log whose head of {head.size} events was signed"
            )


def _in_time(shown: Sequence[Shown]) -> Findings:
    """Nothing that permits is dated before what stands before it in the log."""
    for before, after in pairwise(shown):
        earlier = (_moment(before) - _moment(after)).total_seconds()
        if after.event.type in DATED and earlier > TOLERANCE_S:
            yield unfounded(
                "consent", after.id, f"it is dated {earlier:.0f} s before {before.id}, which it stands after"
            )


def _moment(one: Shown) -> datetime:
    return datetime.fromisoformat(one.event.ts)


def heads(case: Case) -> Findings:
    """All heads of a log are signed and beginnings of the newest one; so is every head that others saw."""
    for name, writer in case.writers.items():
        for log in writer.logs:
            yield from _signed(case, name, log)
            yield from _only_grew(name, log)
    for name in case.writers:
        yield from _witnessed(case, name)


def _signed(case: Case, name: str, writer: Log) -> Findings:
    for head in writer.heads:
        place = f"heads/{name}{writer.label}/{head.size:015d}.head"
        if place not in case.bundle.files:
            yield altered(
                "heads",
                f"heads/{name}{writer.label}",
                f"the head of size {head.size} stands under another name",
            )
        others = [key for key in case.identities if key.name != name]
        try:
            head.verify(writer.identity, others)
        except CloisterError as error:
            yield Finding.of("heads", place, error)
    try:
        refuse_forks(writer.heads)
    except LogError as error:
        yield Finding.of("heads", f"heads/{name}{writer.label}", error)


def _only_grew(name: str, writer: Log) -> Findings:
    place, newest = f"heads/{name}{writer.label}/growth.json", writer.newest
    for grown in writer.grown:
        try:
            merkle.verify_consistency(grown.size, newest.size, grown.root, newest.root, grown.proof)
        except LogError as error:
            yield Finding.of("heads", place, error)
    roots = {grown.size: grown.root for grown in writer.grown}
    for head in writer.heads[:-1]:
        if roots.get(head.size) != head.root:
            yield altered("heads", place, f"the log is not shown to begin with its head of size {head.size}")


def _witnessed(case: Case, name: str) -> Findings:
    """Heads of a log that anybody wrote down are heads of the log that is shown."""
    writer = case.writers[name]
    for one, size, root in _seen(case, name):
        shown = max(log.newest.size for log in writer.logs)
        if size > shown:
            reason = f"the log of {name} had {size} events then; the one that is shown ends at {shown}"
            # A lead made its part last, if it is not a copy; a site may have made its own before.
            whole = name == case.plan.lead.name and len(writer.logs) == 1
            yield (altered if whole else incomplete)("heads", one.id, reason)
            continue
        known = {root_at(log, size) for log in writer.logs if size <= log.newest.size}
        if any(size > end for end in _cut(case, writer)):
            known.add(None)  # it may be of what a copy lacks
        if root in known:
            continue
        if None in known:
            yield incomplete("heads", one.id, f"nothing shows that the log of {name} began with this head")
        else:
            yield altered("heads", one.id, f"the log of {name} was another one at size {size}")


def _cut(case: Case, writer: Writer) -> Iterator[int]:
    """Where the copies end that a party went on from after a restore."""
    for before, after in pairwise(writer.logs):
        if restored(case, before, after) is not None:
            yield before.newest.size


def _seen(case: Case, name: str) -> Iterator[tuple[Shown, int, bytes]]:
    """Events that name a head of a party's log: by its witnesses, and by itself."""
    for writer in case.writers.values():
        for one in writer.shown:
            body, own = one.event.body, writer.identity.name == name
            if (one.event.type == "log.witnessed" and body["party"] == name) or (
                one.event.type == "log.countersigned" and own
            ):
                yield one, _whole(body["size"]), canonical.raw(str(body["root"]))


def root_at(writer: Log, size: int) -> bytes | None:
    """The root of a log at a size; None where the bundle does not show it."""
    known = {writer.newest.size: writer.newest.root, **{g.size: g.root for g in writer.grown}}
    if size in known:
        return known[size]
    lines = [one.line for one in writer.shown[:size]]
    if [one.event.seq for one in writer.shown[:size]] != list(range(size)):
        return None
    return merkle.root([merkle.leaf_hash(line) for line in lines])


def witnesses(case: Case) -> dict[str, set[str]]:
    """Name of a party -> who countersigned one of its heads that the bundle holds."""
    found: dict[str, set[str]] = {}
    for name, writer in case.writers.items():
        others = [key for key in case.identities if key.name != name]
        for log, head in ((one, head) for one in writer.logs for head in one.heads):
            try:
                found.setdefault(name, set()).update(head.verify(log.identity, others))
            except CloisterError:
                continue  # that a head does not verify, the check of heads says
    return found
