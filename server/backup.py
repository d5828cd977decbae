"""Backups of the lead's folder, and what becomes of a copy.

The log of a copy lacks what happened since, and sites hold later heads of it. So a restored lead has new
keys, signed by the old ones, and a new log that goes on from the last event of the copy and says where that
is (``log.restored``): sites take both on at their next contact (``privacy.wire.succession``). The copy stays
with the heads that others saw of it, for the evidence of jobs from before. Jobs that were open name the old
keys, so they end: what sites had charged for them stays charged. Members that joined, or changed their keys,
after the backup are not known to it; one that was revoked after it is refused by every other site until it is
revoked again.
"""

from __future__ import annotations

from pathlib import Path

from cloister.privacy import archive, canonical, durable, folder, keyring, snapshot
from cloister.privacy.channel import certificates
from cloister.privacy.evidence import lineage
from cloister.privacy.evidence.log import EventLog, events_of
from cloister.privacy.identity import PrivateIdentity
from cloister.privacy.keysource import KeySource
from cloister.privacy.wire.succession import Handover, Succession
from cloister.server.folder import SECRETS, LeadFolder, Settings
from cloister.server.jobs import FAILED, FINISHED, REFUSED, Jobs

LEFT_OUT = (
    *("lock", "*.lock", "vault.json", "flower/*"),
    *("*-wal", "*-shm", "*-journal", "log/events.jsonl"),
)
OF_JOBS = ("jobs/*",)


def write(lead: LeadFolder, path: Path, source: KeySource) -> int:
    """Writes a backup of a lead's folder, which may run; the number of its files.

    Raises:
        UsageError: ``folder_in_use``.
        StateError: the folder cannot be read, or the backup not written.
    """
    files = {
        name: snapshot.content(lead.path, name, SECRETS, lead.vault)
        for name in snapshot.names(lead.path, LEFT_OUT, OF_JOBS)
    }
    files[snapshot.LOG] = snapshot.whole_lines(lead.path / snapshot.LOG)
    files |= snapshot.late_heads(lead.path, files)
    archive.write(path, "lead", lead.identity.public.name, files, source)
    return len(files)


def restore(path: Path, root: Path, source: KeySource | None) -> LeadFolder:
    """A new folder from a backup, locked under the key of the backup, with new keys and a new log.

    Args:
        path: the backup.
        root: a folder that does not exist or is empty.
        source: where the key is now, if not where it was.

    Raises:
        UsageError: ``folder_in_use``, or ``option_invalid``.
        StateError: ``backup_damaged``, ``state_sealed``, ``state_unwritable``, ``disk_full``.
    """
    label, files = archive.read(path, "lead", source)
    folder.claim(root)
    kind, _, value = label.source.partition(":")
    vault = keyring.create(root, source or KeySource(kind, value))
    config = files.pop("config.json", b"")  # written last: without it the folder is none
    snapshot.unpack(root, files, SECRETS, vault)
    old = PrivateIdentity.load(root / "identity", vault)
    new = PrivateIdentity.generate(old.public.name, "lead")
    away = lineage.place(root, old.public.digest())
    durable.private_folder(away)
    (root / "log").rename(away / "log")
    (root / "identity").rename(away / "identity")
    head = EventLog.open(away / "log", old).head()
    (away / "identity" / "identity.key").unlink()
    new.save(root / "identity", vault)
    *_, last = events_of(away / "log")
    EventLog.open(root / "log", new, previous=canonical.digest(last.encode()))
    lead = LeadFolder(root)
    said = Succession(
        consortium=Settings.model_validate_json(config).consortium,
        previous=old.public.digest(),
        identity=new.public.to_json(),
        csr=certificates.signing_request(certificates.new_tls_key(), new.public.name).decode(),
        reason="restored",
    )
    handover = Handover.make(said, old, new)
    durable.write(away / lineage.HANDOVER, handover.to_bytes())
    lead.enrolment.become(old.public, handover)
    root_of_copy = f"sha256:{head.root.hex()}"
    lead.log.append("log.restored", previous=old.public.digest(), size=head.size, root=root_of_copy)
    lead.log.append("incident.raised", reason="state_restored", severity="high", party=new.public.name)
    for job in Jobs(lead.jobs, vault):
        if job.state not in (FINISHED, REFUSED):
            job.move(FAILED, "The lead was restored from a backup; propose the plan anew.")
    durable.write(root / "config.json", config)
    return LeadFolder(root)
