"""``cloister site evidence`` and ``cloister site sign``: what a site says of a job, under its keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloister.client.deposition import Deposition
from cloister.client.jobs import Jobs
from cloister.client.site.folder import SiteFolder
from cloister.client.site.policies import Policies
from cloister.privacy import durable
from cloister.privacy.errors import EvidenceError, UsageError
from cloister.privacy.evidence.bundle import MANIFEST_FILE, Bundle
from cloister.privacy.evidence.checks.findings import Result
from cloister.privacy.evidence.checks.run import verify
from cloister.privacy.evidence.lineage import identities
from cloister.privacy.evidence.log import now
from cloister.privacy.plan import Plan

HERE = Path()
Directory = Annotated[Path, typer.Option("--dir", help="The site's folder.")]


def register(app: typer.Typer) -> None:
    """Adds the commands of this module to ``cloister site``."""
    for command in (evidence, sign):
        app.command()(command)


def evidence(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The first digits of the plan's digest.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    directory: Directory = HERE,
) -> None:
    """Write this site's part of the evidence of a job: its events with proofs, its heads, signed.

    It holds events of this job and of what it rests on, nothing of other jobs or datasets, and no record.

    Example: cloister site evidence 3f9a --dir north --out north.part
    """
    folder = SiteFolder.open(directory)
    if out.exists():
        raise UsageError("folder_in_use", f"{out} is there already.", "Name another file with --out.")
    part = Deposition(folder).part(Jobs(folder).find(job))
    durable.write(out, part.to_bytes(), mode=0o644)
    typer.echo(f"{out} holds {len(part.events)} events. Hand it to the lead, for `cloister report`.")


def sign(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The folder of a bundle.")],
    directory: Directory = HERE,
) -> None:
    """Check a bundle against the keys that count here, and sign its manifest.

    They were confirmed, or an authority that the policy names has signed for them.

    Example: cloister site sign bundle --dir north
    """
    folder = SiteFolder.open(directory)
    found = Bundle.read(bundle)
    authorities, today = Policies(folder).current().roster.authorities, now().date().isoformat()
    counting = (peer.identity for peer in folder.peers() if peer.doubts(authorities, today) is None)
    known = {member.name: member.digest() for member in counting}
    verdict = verify(found, known)
    if verdict.result is not Result.VERIFIED:
        first = verdict.findings[0]
        raise EvidenceError("bundle_altered", f"It is not signed: {first.line()}", "See `cloister verify`.")
    plan = Plan.from_bytes(found.files["plan.json"])
    own = folder.known.identity(plan.site(folder.name).identity)
    if identities(found.files, plan, own)[-1].digest() != folder.identity.public.digest():
        raise EvidenceError("key_untrusted", "The plan of this bundle names other keys for this site.")
    signed = found.signed(folder.identity)
    durable.write(bundle / MANIFEST_FILE, signed.files[MANIFEST_FILE], mode=0o644)
    typer.echo(f"{folder.name} signed {bundle}.")
