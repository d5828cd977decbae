"""One ledger for several folders of a site, so that the same records have one budget in all its consortia.

A site has a folder for each consortium, with keys and a log of its own. The ledger stays in the folder that
had it first, its owner's; ``config.json`` of every other one names that folder, and none of them has a
ledger of its own. Data sets are registered in each folder, for an offer tells a lead something, but under
the keys of the owner: the same rows are held out, and the same rows of a person count, in every consortium.
A line of the ledger is a data set's name.

Each folder's log has the events of its own charges and no others. So each log vouches for its own part of
the ledger, and only all of them for the whole: a ledger that is an older copy may lack rows of any of them.
Who finds that (``client.reconciliation``, a restore) *doubts* it, which is a row of it, and nobody charges
anything new until every folder that shares it has compared its log with it and written that it did.

Formal guarantees:
    A folder opens no other ledger than one that knows it, and never a new one in its place. After a row
    ``doubted``, nothing new is charged before each sharer that the ledger knows has added what its log says
    and the ledger lacked. Two things are found only when the agent of the folder concerned starts: that an
    old copy of the ledger lacks charges, if no folder whose agent starts has lost any in it, and that a
    folder came to share it after the copy was made.
"""

from __future__ import annotations

import secrets
from functools import partial
from pathlib import Path

from cloister.client.site.database import reading, writing
from cloister.client.site.entries import Entries, Sharer
from cloister.client.site.folder import Shared, SiteFolder, refuse_restored
from cloister.client.site.ledger import Ledger, missing
from cloister.privacy import durable
from cloister.privacy.errors import StateError, UsageError
from cloister.privacy.evidence.chain import events_of
from cloister.privacy.evidence.events import Event

LEDGER = "ledger.sqlite"
OWNER = "owner"
_BESIDE = ("", "-wal", "-shm")


def home(site: SiteFolder) -> SiteFolder:
    """The folder whose ledger, and whose keys of data sets, a folder uses: often itself."""
    shared = site.ledger
    return SiteFolder(Path(shared.folder)) if shared and shared.folder else site


def place(site: SiteFolder) -> Path:
    """Where the ledger is that a folder charges."""
    return home(site).path / LEDGER


def opened(site: SiteFolder) -> Ledger:
    """The ledger that a folder charges; one that it has to itself is made if it does not exist.

    Raises:
        StateError: ``ledger_missing``, ``ledger_foreign``; or as ``Ledger``.
    """
    shared = site.ledger
    if shared is None:
        return Ledger(site.path / LEDGER, site.log)
    owner = home(site)
    ledger = Ledger(owner.path / LEDGER, site.log, make=False, permit=partial(refuse_restored, owner))
    if shared.folder and (site.path / LEDGER).exists():
        raise StateError(
            "ledger_foreign",
            f"{site.path} has a ledger of its own, and shares that of {owner.path}.",
            "Find out what was charged to its own one before either is used.",
        )
    if shared.id not in {sharer.id for sharer in sharers(site)}:
        raise StateError(
            "ledger_foreign",
            f"The ledger in {owner.path} does not know {site.path}: it is another, or a copy from before.",
            f"If it is the right one: cloister site share {owner.path} --dir {site.path}",
        )
    return ledger


def sharers(site: SiteFolder) -> tuple[Sharer, ...]:
    """Who shares the ledger that a folder charges; nobody where it has one to itself.

    Raises:
        StateError: ``ledger_missing``; or as ``Ledger``.
    """
    if site.ledger is None:
        return ()
    if not place(site).is_file():
        raise missing(place(site))
    with reading(place(site)) as database:
        return Entries(database).sharers()


def behind(site: SiteFolder) -> bool:
    """Whether this folder still has to compare its log with a ledger that was doubted."""
    shared = site.ledger
    return shared is not None and any(one.id == shared.id and not one.settled for one in sharers(site))


def doubt(site: SiteFolder) -> None:
    """Says that a shared ledger may lack rows of anybody; nothing is charged until everybody has looked.

    Where this folder itself still has to look, an earlier doubt stands: whoever has looked since has left a
    row in this very file, and so its charges are in it.
    """
    if not behind(site):
        _write(site, "doubted")


def settle(site: SiteFolder) -> None:
    """Says that the log of a folder was compared with the shared ledger, and what was missing is in it."""
    _write(site, "settled")


def _write(site: SiteFolder, kind: str) -> None:
    if shared := site.ledger:
        with writing(place(site)) as database:
            Entries(database).add_sharing(kind, shared.id, str(site.path.resolve()))


def logged(site: SiteFolder) -> tuple[Event, ...]:
    """What the folder's logs say of its ledger, those under earlier keys first."""
    logs = [*sorted(site.path.glob("retired/*/log")), site.path / "log"]
    return tuple(event for log in logs for event in events_of(log) if event.type.startswith("budget."))


def require_place(site: SiteFolder) -> None:
    """Refuses to restore the owner of a shared ledger anywhere but where the others look for it.

    Raises:
        StateError: ``ledger_foreign``.
    """
    shared, here = site.ledger, str(site.path.resolve())
    if shared is None or shared.folder:
        return
    for sharer in sharers(site):
        if sharer.id == OWNER and sharer.path != here:
            raise StateError(
                "ledger_foreign",
                f"The folders that share this ledger look for it in {sharer.path}, not in {here}.",
                f"Remove this copy, and restore the backup with --dir {sharer.path}.",
            )


def share(site: SiteFolder, other: SiteFolder) -> SiteFolder:
    """Has a folder charge the ledger of another from now on; again it mends what was cut off.

    Args:
        site: a folder without charges of its own; the caller holds it.
        other: the folder whose ledger it is, or one that shares it already.

    Returns:
        The owner's folder.

    Raises:
        UsageError: ``option_invalid``, both are one folder.
        StateError: ``ledger_missing``; ``ledger_foreign``, the folder has charges, or sharers, of its own;
            ``state_restored``, of the owner.
    """
    owner, shared = home(other), site.ledger
    if owner.path.resolve() == site.path.resolve():
        raise UsageError("option_invalid", "A folder shares the ledger of another one.", "Name that one.")
    refuse_restored(owner)
    before = bool(logged(site))
    if (shared is None and before) or (shared is not None and not shared.folder) or _charged(site):
        raise StateError(
            "ledger_foreign",
            f"{site.path} has charges or budgets of its own, or its ledger is shared by others.",
            "Only a folder in which no data set was registered yet can share another's ledger.",
        )
    if not (owner.path / LEDGER).exists() and owner.ledger is None and not logged(owner):
        raise StateError(
            "ledger_missing",
            f"{owner.path} has no ledger yet.",
            f"Register a data set there first: cloister site data add … --dir {owner.path}",
        )
    Ledger(owner.path / LEDGER, make=False)
    _refuse_copy(owner)
    known_as = shared.id if shared else secrets.token_hex(16)
    site.charge_to(Shared(folder=str(owner.path.resolve()), id=known_as))
    for suffix in _BESIDE:  # one that holds nothing
        (site.path / f"{LEDGER}{suffix}").unlink(missing_ok=True)
    durable.sync_folder(site.path)
    _enter(owner, {OWNER: owner, known_as: site}, known_as if before else "")
    owner.charge_to(Shared(folder="", id=OWNER))
    return owner


def _charged(site: SiteFolder) -> bool:
    """Whether a folder has a ledger beside it that holds anything."""
    return (site.path / LEDGER).exists() and bool(Ledger(site.path / LEDGER).budgets())


def _refuse_copy(owner: SiteFolder) -> None:
    """Refuses the copy of a shared ledger that still is where its sharers look for it."""
    with reading(owner.path / LEDGER) as database:
        found = [Path(one.path) for one in Entries(database).sharers() if one.id == OWNER]
    for path in found:
        if path != owner.path.resolve() and (path / LEDGER).exists():
            raise StateError("ledger_foreign", f"{owner.path} is a copy of {path}.", f"Name {path}.")


def _enter(owner: SiteFolder, folders: dict[str, SiteFolder], returning: str) -> None:
    """Has the ledger know folders, and where they are. One that comes back to a ledger which does not know it
    any longer doubts it: that is a copy from before, and others may be missing as well.
    """
    with writing(owner.path / LEDGER) as database:
        entries = Entries(database)
        known = {sharer.id: sharer for sharer in entries.sharers()}
        for id_, folder in folders.items():
            there, path = known.get(id_), str(folder.path.resolve())
            if there is None or (there.settled and there.path != path):
                entries.add_sharing("shared", id_, path)
        if returning and returning not in known:
            entries.add_sharing("doubted", returning, str(folders[returning].path.resolve()))
