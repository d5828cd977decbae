"""``cloister site audit``, ``evidence`` and ``sign``: what a site says of a job, under its keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cloister.client.deposition import Deposition
from cloister.client.jobs import Jobs
from cloister.client.site.folder import SiteFolder
from cloister.client.site.policies import Policies
from cloister.privacy import canonical, durable
from cloister.privacy.console import Json
from cloister.privacy.errors import EvidenceError, UsageError
from cloister.privacy.evidence.bundle import MANIFEST_FILE, Bundle
from cloister.privacy.evidence.checks.findings import Result
from cloister.privacy.evidence.checks.run import verify
from cloister.privacy.evidence.lineage import identities
from cloister.privacy.evidence.log import now
from cloister.privacy.evidence.rulings import Shows
from cloister.privacy.plan import Plan

HERE = Path()
Directory = Annotated[Path, typer.Option("--dir", help="The site's folder.")]


PoliciesShown = Annotated[
    Shows,
    typer.Option(
        "--policies",
        help="The most that others are shown of this site's policy: all, what each rule said, its digest.",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the commands of this module to ``cloister site``."""
    for command in (audit, evidence, sign):
        app.command()(command)


def audit(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The first digits of the plan's digest.")],
    release: Annotated[
        bool, typer.Option("--release", help="Put the figures into the event log, and so into the report.")
    ] = False,
    opened: Annotated[
        bool,
        typer.Option(
            "--open", help="With --release, also open the canaries: false records that tell of nobody."
        ),
    ] = False,
    model: Annotated[str, typer.Option(help="Where the base model is, if not where its name leads.")] = "",
    device: Annotated[str, typer.Option(help="Where the model runs, as torch names it.")] = "cpu",
    directory: Directory = HERE,
    json: Json = False,
) -> None:
    """Attack the finished model of a job with what this site knows: lower bounds on epsilon.

    Without --release nothing but the opening of the dataset is written down, and nothing leaves. Figures of
    membership are about real units and not covered by epsilon; do this before `cloister site evidence`.

    With --open, whoever checks the bundle counts the right guesses of canaries itself.

    Example: cloister site audit 3f9a --release --open --dir north
    """
    if opened and not release:
        raise UsageError("option_invalid", "Canaries are opened with what is released.", "Add --release.")
    from cloister.client.attacks import ModelAudit
    from cloister.privacy.model import foundation

    folder = SiteFolder.open(directory)
    found = Jobs(folder).find(job)
    audited = ModelAudit(folder, found, foundation(found.plan, model or ""), device)
    attacks, missing = audited.run()
    released = [audited.release(one) for one in attacks] if release else []
    told = any(audited.open(one) for one in attacks) if opened else False
    if json:
        value: dict[str, Any] = {"attacks": [one.body for one in attacks], "not_run": missing}
        typer.echo(canonical.encode(value | {"released": release, "opened": told}).decode())
        return
    for one in attacks:
        typer.echo(one.line(found.plan.privacy.mode != "off"))
    for reason in missing:
        typer.echo(f"Not run: {reason}")
    typer.echo("A low bound proves nothing.")
    if attacks and not release:
        typer.echo("Nothing of it leaves this site; with --release it stands in the event log.")
    elif attacks:
        typer.echo("Released." if any(released) else "Released before.")
    if opened and not told:
        typer.echo("There were no canaries to open.")
    elif told:
        typer.echo("The canaries are opened: this site's part of the evidence shows what they were.")


def evidence(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The first digits of the plan's digest.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    policies: PoliciesShown = "whole",
    directory: Directory = HERE,
) -> None:
    """Write this site's part of the evidence of a job: its events with proofs, its heads, signed.

    It holds events of this job and of what it rests on, nothing of other jobs or datasets, and no record.

    Example: cloister site evidence 3f9a --dir north --out north.part
    """
    folder = SiteFolder.open(directory)
    if out.exists():
        raise UsageError("folder_in_use", f"{out} is there already.", "Name another file with --out.")
    part = Deposition(folder, policies).part(Jobs(folder).find(job))
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
