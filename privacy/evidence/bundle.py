"""The bundle: everything that somebody needs who trusts neither the lead, nor the server, nor us.

==============================  =====================================================================
``MANIFEST.json``               digest and size of every file, signed by every party that answered
``VERIFY.txt``                  how to check the bundle without our code
``report.html``                 for people, rendered from ``evidence.json`` alone
``evidence.json``               what the report says, before it is put into words
``plan.json``, ``keys.json``    what was run, and the public keys of its parties
``approvals/<party>.json``      the plan under the lead's keys, each site's decision under its own
``events/``, ``heads/``         this job's events of every party with proofs, under signed heads (``part``)
``openings/``                   canaries that sites opened (``opening``)
``policies/``, ``rulings/``     policies that events name, and what each rule said, as the audience may see
``attestations/``               in-toto statements about parts, plan, final model and report
documents                       written from the evidence alone (``papers``)
``report.pdf``                  optional, with ``report.pdf.json``, with what it was made (``printing``)
==============================  =====================================================================

A bundle holds events of one job only, never a record, an update or a key that opens anything.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from cloister.privacy import canonical, durable
from cloister.privacy.canonical import Json
from cloister.privacy.errors import EvidenceError, UsageError
from cloister.privacy.evidence import byhand
from cloister.privacy.evidence.dsse import Envelope, Statement, encoding
from cloister.privacy.evidence.kinds import Audience
from cloister.privacy.evidence.papers import documents
from cloister.privacy.evidence.part import Part
from cloister.privacy.evidence.printing import Printed
from cloister.privacy.evidence.render import render
from cloister.privacy.evidence.rulings import Shows
from cloister.privacy.identity import PrivateIdentity, PublicIdentity, Signature
from cloister.privacy.plan import Plan
from cloister.privacy.wire.signed import Signed

MANIFEST, REPORT = (f"urn:cloister:evidence:{what}:1" for what in ("manifest", "report"))
MANIFEST_FILE, EVIDENCE_FILE, REPORT_FILE = "MANIFEST.json", "evidence.json", "report.html"
FILE_LIMIT, TOTAL_LIMIT = 512 << 20, 2 << 30
"""Largest file and largest bundle in bytes that are read."""

AUDIENCES: Mapping[str, Shows] = {"auditor": "whole", "partner": "rules", "public": "digest"}
"""How much of sites' policies each audience is shown, where the site hands over as much."""

_VERSION = 1
_SAFE = re.compile(r"[A-Za-z0-9@._-]{1,160}(/[A-Za-z0-9@._-]{1,160}){0,3}")


@dataclass(frozen=True)
class Bundle:
    """The files of a bundle; read is not verified (``checks.verify``).

    Attributes:
        files: name -> bytes, ``MANIFEST.json`` among them.
    """

    files: Mapping[str, bytes]

    @property
    def manifest(self) -> Envelope:
        """The signed list of all other files.

        Raises:
            EvidenceError: ``bundle_incomplete``, ``bundle_altered``.
        """
        if MANIFEST_FILE not in self.files:
            raise EvidenceError(
                "bundle_incomplete", "There is no MANIFEST.json.", "Ask for the whole folder."
            )
        return Envelope.from_bytes(self.files[MANIFEST_FILE])

    @property
    def digest(self) -> str:
        """The digest of what the manifest's signatures are over: the name of the bundle."""
        return canonical.digest(self.manifest.payload)

    def signed(self, party: PrivateIdentity) -> Bundle:
        """The same bundle with the signature of one more party under its manifest."""
        return Bundle({**self.files, MANIFEST_FILE: self.manifest.signed(party).to_bytes()})

    def signature(self, party: PrivateIdentity) -> Signature:
        """A party's signatures under the manifest alone, for ``marked``."""
        return party.sign_bare(encoding(self.manifest.payload))

    def marked(self, party: PublicIdentity, signature: Signature) -> Bundle:
        """The same bundle with signatures of one more party under its manifest.

        Raises:
            ChannelError: ``signature_invalid``.
        """
        return Bundle({**self.files, MANIFEST_FILE: self.manifest.marked(party, signature).to_bytes()})

    def for_party(self, name: str) -> Bundle:
        """What a party of the plan is shown for checking: without the policies of the other parties."""
        return Bundle({file: data for file, data in self.files.items() if not withheld_from(name, file)})

    def write(self, folder: Path) -> None:
        """Writes a new folder, whole or not at all.

        Raises:
            UsageError: ``folder_in_use``.
            StateError: ``disk_full``, ``state_unwritable``.
        """
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError("folder_in_use", f"{folder} holds something already.", "Name a new folder.")
        beside = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
        try:
            for name, data in self.files.items():
                (beside / name).parent.mkdir(parents=True, exist_ok=True)
                durable.write(beside / name, data, mode=0o644)
            beside.replace(folder)
            durable.sync_folder(folder.resolve().parent)
        except OSError as error:
            raise durable.unwritable(folder, error) from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    @classmethod
    def read(cls, folder: Path) -> Bundle:
        """The files of a folder.

        Raises:
            UsageError: ``option_invalid``, there is no such folder.
            EvidenceError: ``bundle_altered``, something in it is no plain file of a possible name or size.
        """
        if not folder.is_dir():
            raise UsageError("option_invalid", f"{folder} is no folder.", "Name the folder of a bundle.")
        files: dict[str, bytes] = {}
        total = 0
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_dir() and not path.is_symlink():
                continue
            size = path.lstat().st_size
            total += size
            if path.is_symlink() or not path.is_file() or not safe(name):
                raise EvidenceError("bundle_altered", f"{name!r} is no file of a bundle.")
            if size > FILE_LIMIT or total > TOTAL_LIMIT:
                raise EvidenceError("bundle_altered", f"{name} is larger than any file of a bundle.")
            files[name] = path.read_bytes()
        return cls(files)


def safe(name: str) -> bool:
    """Whether a name can be one of a file in a bundle: relative, plain, nothing above the folder."""
    return _SAFE.fullmatch(name) is not None and ".." not in PurePosixPath(name).parts


@dataclass(frozen=True)
class Contents:
    """What a bundle is made of.

    Attributes:
        plan: of the job.
        keys: the public keys of all its parties.
        parts: the part of every party that sent one.
        approvals: name of a party -> the plan under the lead's keys, a site's decision under its own.
        evidence: the value of ``evidence.json``.
        audience: who the bundle is for.
        printed: the report as PDF, where one was made of this evidence.
    """

    plan: Plan
    keys: tuple[PublicIdentity, ...]
    parts: tuple[Part, ...]
    approvals: Mapping[str, Signed]
    evidence: Mapping[str, Any]
    audience: Audience = "auditor"
    printed: Printed | None = None

    def bundle(self, lead: PrivateIdentity, *others: PrivateIdentity) -> Bundle:
        """The bundle, its report and manifest signed by the lead, and by whoever else is at hand."""
        files = self._files()
        subjects = {name: _hex(files[name]) for name in (EVIDENCE_FILE, REPORT_FILE)}
        about = {"job": self.plan.digest, "party": lead.public.name}
        place = f"attestations/{lead.public.name}.report.dsse.json"
        files[place] = Envelope.make(Statement(subjects, REPORT, about), lead).to_bytes()
        manifest = Envelope.make(listing(files, self.plan, self.audience), lead, *others)
        return Bundle({**files, MANIFEST_FILE: manifest.to_bytes()})

    def _files(self) -> dict[str, bytes]:
        names = [self.plan.lead.name, *(site.name for site in self.plan.sites)]
        files: dict[str, bytes] = {
            "plan.json": self.plan.to_bytes(),
            "keys.json": canonical.encode([member.to_json() for member in self.keys]),
            "VERIFY.txt": byhand.text(self.plan.digest, names),
            EVIDENCE_FILE: canonical.encode(dict(self.evidence)),
            REPORT_FILE: render(self.evidence).encode(),
            **documents(self.evidence),
            **(self.printed.files if self.printed else {}),
        }
        for name, signed in self.approvals.items():
            files[f"approvals/{name}.json"] = canonical.encode(signed.to_json())
        for part in self.parts:
            files |= {name: data for name, data in part.files.items() if shown_to(name, self.audience)}
        return files


def withheld_from(party: str, name: str) -> bool:
    """Whether a file of a bundle is not shown to a party of the plan: policies of others are not."""
    return name.startswith("policies/") and not name.startswith(f"policies/{party}@")


def shown_to(name: str, audience: str) -> bool:
    """Whether an audience sees a file of a party's part."""
    shows = AUDIENCES.get(audience, "whole")
    hidden = {"whole": (), "rules": ("policies/",), "digest": ("policies/", "rulings/")}[shows]
    return not name.startswith(hidden)


def listing(files: Mapping[str, bytes], plan: Plan, audience: Audience) -> Statement:
    """The statement that a manifest makes: every file, its digest, its size, and who should sign."""
    sizes: dict[str, Json] = {name: len(data) for name, data in files.items()}
    parties = [plan.lead.name, *(site.name for site in plan.sites)]
    predicate = {
        "version": _VERSION,
        "job": plan.digest,
        "audience": audience,
        "parties": sorted(parties),
        "sizes": sizes,
    }
    return Statement({name: _hex(data) for name, data in files.items()}, MANIFEST, predicate)


def relisted(bundle: Bundle, plan: Plan, audience: Audience, *signers: PrivateIdentity) -> Bundle:
    """A bundle whose files were changed on purpose, under a new manifest."""
    files = {name: data for name, data in bundle.files.items() if name != MANIFEST_FILE}
    manifest = Envelope.make(listing(files, plan, audience), *signers)
    return replace(bundle, files={**files, MANIFEST_FILE: manifest.to_bytes()})


def _hex(data: bytes) -> str:
    return canonical.digest(data).removeprefix("sha256:")


def keys_of(plan: Plan, members: Iterable[PublicIdentity]) -> tuple[PublicIdentity, ...]:
    """The members that a plan names, the lead first, in the plan's order.

    Raises:
        EvidenceError: ``bundle_incomplete``, a party's keys are not among them.
    """
    by_digest = {member.digest(): member for member in members}
    parties = (plan.lead, *plan.sites)
    missing = [party.name for party in parties if party.identity not in by_digest]
    if missing:
        raise EvidenceError("bundle_incomplete", f"The keys of {', '.join(missing)} are not here.")
    return tuple(by_digest[party.identity] for party in parties)
