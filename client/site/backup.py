"""What a site's backup holds, and what it never holds.

It holds the ledger (where folders share one, its owner's does), the log, keys, datasets' descriptions,
plans and decisions, and whatever else lies in the folder; it never holds what noise or masks of a job could
be made again from (``ratchet.key``, ``sums.json``, ``audit.json``, ``canaries.json``), nor replies: a
restored site leaves every job that was open. Of ``jobs/`` only files that are named here are taken: no
secret gets in because somebody forgot to leave it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cloister.client.site.folder import SECRETS, SiteFolder
from cloister.privacy import archive, folder, keyring, snapshot
from cloister.privacy.keysource import KeySource

OF_JOBS = tuple(
    f"jobs/*/{name}"
    for name in (
        *("plan.json", "plan.signed", "decision.json", "done", "left", "told", "progress.jsonl"),
        *("asked.json", "granted.json", "approvals/*", "decisions/*"),
    )
)
LEFT_OUT = (
    *("lock", "*.lock", "vault.json", "fleet/*", "next/*", "restored.json"),
    *("*-wal", "*-shm", "*-journal", "log/events.jsonl"),
)
_CONFIG = "config.json"
_OVER = ("done", "left", "decision.json")


def write(site: SiteFolder, path: Path, source: KeySource) -> int:
    """Writes a backup of a site's folder, whose agent may run; the number of its files.

    What says that a job is over is read first, then the ledger, and the log, in which every row of the ledger
    was written before, last; then heads of the log that were signed meanwhile, of no more events than it has.
    They show what others saw of the log: evidence of a job that is over rests on them.

    Raises:
        UsageError: ``folder_in_use``.
        StateError: the folder cannot be read, or the backup not written.
    """
    found = snapshot.names(site.path, LEFT_OUT, OF_JOBS)
    names = sorted(found, key=lambda name: (Path(name).name not in _OVER, name.endswith(".sqlite"), name))
    files = {name: snapshot.content(site.path, name, SECRETS, site.vault) for name in names}
    files[snapshot.LOG] = snapshot.whole_lines(site.path / snapshot.LOG)
    files |= snapshot.late_heads(site.path, files)
    archive.write(path, "site", site.name, files, source)
    return len(files)


def unpack(path: Path, root: Path, source: KeySource | None, mark: Mapping[str, bytes]) -> SiteFolder:
    """A new folder from a backup, locked under the key of the backup.

    Args:
        path: the backup.
        root: a folder that does not exist or is empty.
        source: where the key is now, if not where it was.
        mark: files that are written first: they say that the folder must not be used yet.

    Raises:
        UsageError: ``folder_in_use``, or ``option_invalid``.
        StateError: ``backup_damaged``, ``state_sealed``, ``state_unwritable``, ``disk_full``.
    """
    label, files = archive.read(path, "site", source)
    folder.claim(root)
    for name, data in mark.items():
        snapshot.unpack(root, {name: data}, (), keyring.open_vault(root))
    kind, _, value = label.source.partition(":")
    vault = keyring.create(root, source or KeySource(kind, value))
    last = {_CONFIG: files.pop(_CONFIG, b"")}  # without it the folder is none, so nobody uses half of it
    snapshot.unpack(root, files, SECRETS, vault)
    snapshot.unpack(root, last, (), vault)
    return SiteFolder.open(root)
