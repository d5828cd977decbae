"""New keys for a site, made at the site, and what becomes of the old ones.

The rule for running jobs: **a job goes on under the keys that its plan names until it ends.** Its envelopes
are opened and signed with the old keys, which are kept for that alone and removed when the last such job is
over (``forget``). Everything else has the new keys at once: certificate, Flower's node key, new plans, and
the event log, which is begun anew and linked to the last event of the old one; so the budget's rows go on
in one place. What stands is said again in the new log, for it alone is shown of jobs that come later: whose
keys were confirmed, the policy in force, the budgets.

A rotation is three steps, each durable before the next, and any of them may be repeated:

1. ``prepare``: new keys and the statement that old and new ones sign, in ``next/``;
2. the lead answers with a certificate and a roster, kept as ``next/answer.json``;
3. ``settle``: the old log is closed and moved to ``retired/`` with the old keys, and the new ones take
   their place. A crash in it is finished by whoever opens the folder next.

The agent does not run meanwhile: what it holds in memory are the old keys.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from cloister.client.site.folder import RESTORED, SiteFolder, Stored
from cloister.privacy import canonical, durable, folder
from cloister.privacy.channel import certificates
from cloister.privacy.evidence import lineage
from cloister.privacy.evidence.events import Event
from cloister.privacy.evidence.lineage import HANDOVER, RETIRED
from cloister.privacy.evidence.log import EventLog, events_of
from cloister.privacy.identity import PrivateIdentity, PublicIdentity
from cloister.privacy.wire.joining import Membership
from cloister.privacy.wire.signed import Signed
from cloister.privacy.wire.succession import Handover, Succession

NEXT = "next"
_COMMITTED = ("audit.committed", "audit.planted")
_KEYS, _POLICIES = ("key.confirmed", "key.rotated"), ("policy.loaded", "policy.changed")


def place(site: SiteFolder, digest: str) -> Path:
    """Where keys and log of an old identity are kept."""
    return lineage.place(site.path, digest)


def prepare(site: SiteFolder, reason: Literal["rotated", "restored"]) -> Handover:
    """New keys, and the statement about them; the same again until ``settle``.

    Raises:
        StateError: ``state_unwritable`` or ``disk_full``.
    """
    path = site.path / NEXT
    statement = path / HANDOVER
    if statement.exists():
        return Handover.from_bytes(folder.read(statement))
    shutil.rmtree(path, ignore_errors=True)
    durable.private_folder(path)
    new = PrivateIdentity.generate(site.name, "site")
    new.save(path / "identity", site.vault)
    key = certificates.new_tls_key()
    site.vault.write(path / "tls.key", certificates.key_pem(key))
    said = Succession(
        consortium=site.membership.consortium,
        previous=site.identity.public.digest(),
        identity=new.public.to_json(),
        csr=certificates.signing_request(key, site.name).decode(),
        reason=reason,
    )
    handover = Handover.make(said, site.identity, new)
    durable.write(statement, handover.to_bytes())
    return handover


def answered(site: SiteFolder, membership: Membership) -> SiteFolder:
    """Keeps the lead's answer and settles; the folder with its new keys."""
    value: dict[str, Any] = {"certificate": membership.certificate, "roster": membership.roster}
    durable.write(site.path / NEXT / "answer.json", canonical.encode(value))
    return settle(site.path)


def settle(path: Path) -> SiteFolder:
    """Finishes a rotation that the lead has answered; does nothing otherwise. The caller holds the folder.

    Raises:
        StateError, LogError, ChannelError: the folder cannot be written, or was altered.
    """
    site, near = SiteFolder(path), path / NEXT
    if not (near / "answer.json").exists():
        if near.exists() and not (near / HANDOVER).exists():
            shutil.rmtree(near)
        return SiteFolder(path)
    answer = folder.read_json(near / "answer.json")
    said = Handover.from_bytes(folder.read(near / HANDOVER)).said
    new, away = PrivateIdentity.load(near / "identity", site.vault), place(site, said.previous)
    if not (away / "log").exists():
        _retire(site, new, said, away)
    _install(site, new)
    site = SiteFolder(path)
    old = list(events_of(away / "log"))
    EventLog.open(path / "log", new, previous=canonical.digest(old[-1].encode()))
    _carry(site, old)
    site.become_member(
        Stored(**{**site.membership.model_dump(), "certificate": answer["certificate"]}),
        Signed.from_json(answer["roster"]),
    )
    shutil.rmtree(near)
    return site


def _retire(site: SiteFolder, new: PrivateIdentity, said: Succession, away: Path) -> None:
    """Closes the old log, unless it is not whole, and moves it away with its keys."""
    old = site.identity
    if said.reason == "rotated" and not (site.path / RESTORED).exists():
        if not any(event.type == "log.rotated" for event in site.log.entries()):
            with site.log.batch():
                fresh: dict[str, Any] = {"identity": new.public.digest()}
                site.log.append("key.rotated", party=site.name, previous=said.previous, **fresh)
                site.log.append("log.rotated", **fresh)
        site.log.head()
    durable.private_folder(away)
    if not (away / "identity" / "identity.key").exists():
        old.save(away / "identity", site.vault)
    durable.write(
        away / HANDOVER, folder.read(site.path / NEXT / HANDOVER)
    )  # evidence of a job shows both logs
    (site.path / "log").rename(away / "log")
    durable.sync_folder(away)
    durable.sync_folder(site.path)


def _install(site: SiteFolder, new: PrivateIdentity) -> None:
    """Puts the new keys in the place of the old ones."""
    path = site.path / "identity"
    public = path / "identity.json"
    now = PublicIdentity.from_json(canonical.decode(public.read_bytes())) if public.exists() else None
    if now != new.public or not (path / "identity.key").exists():
        shutil.rmtree(path, ignore_errors=True)
        new.save(path, site.vault)
    site.vault.write(site.path / "tls" / "site.key", site.vault.read(site.path / NEXT / "tls.key"))


def _carry(site: SiteFolder, old: list[Event]) -> None:
    """Binds the new log to the coins of audits that go on, and has it say what stands: the old one cannot be
    asked any longer.
    """
    done = {_said(event.type, event.job, event.body) for event in site.log.entries()}
    for type_, job, body in (*_committed(old), *_standing(site.name, old)):
        if _said(type_, job, body) not in done:
            site.log.append(type_, job=job, **body)


def _said(type_: str, job: str | None, body: Mapping[str, Any]) -> bytes:
    return canonical.encode([type_, job or "", dict(body)])


def _committed(old: Iterable[Event]) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    return ((event.type, event.job, dict(event.body)) for event in old if event.type in _COMMITTED)


def _standing(name: str, old: Iterable[Event]) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    """Type, job and body of what a log says that still holds at its end.

    Keys that an authority signed for are left out: whether that counts is asked again for every plan.
    """
    found: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {}
    for event in old:
        body: dict[str, Any] = dict(event.body)
        if event.type in _KEYS and body["party"] != name and body.get("method") != "authority":
            found["key", body["party"]] = event.type, body
        elif event.type == "key.revoked":
            kept = found.get(("key", body["party"]))
            if kept and kept[1]["identity"] == body["identity"]:
                del found["key", body["party"]]
        elif event.type in _POLICIES:
            found["policy", ""] = "policy.loaded", {"policy": body["policy"]}
        elif event.type == "budget.opened":
            found.setdefault(("budget", body["dataset"]), (event.type, body))
    return ((type_, None, body) for type_, body in found.values())


def forget(site: SiteFolder, needed: set[str]) -> None:
    """Removes old keys that no running job needs any longer; the old logs stay.

    Args:
        site: the folder.
        needed: digests of the identities that plans of running jobs name for this site.
    """
    keep = {place(site, digest) for digest in needed}
    for old in (site.path / RETIRED).glob("*"):
        if old not in keep and (old / "identity" / "identity.key").exists():
            (old / "identity" / "identity.key").unlink()
            durable.sync_folder(old / "identity")
