"""``cloister site``: what a site keeps over time: one ledger, backups, new keys, and leaving."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloister.client import reconciliation, restoration
from cloister.client.consortium import Consortium
from cloister.client.jobs import APPROVED, DONE, LEFT, WAITING, Job, Jobs
from cloister.client.site import backup as archive
from cloister.client.site import rotation, sharing
from cloister.client.site.folder import SiteFolder, refuse_restored
from cloister.privacy import folder
from cloister.privacy.consent import Withdrawal
from cloister.privacy.console import Json, say
from cloister.privacy.errors import EnrolmentError, UsageError
from cloister.privacy.keysource import KeySource

Directory = Annotated[Path, typer.Option("--dir", help="The site's folder.")]
Source = Annotated[
    str,
    typer.Option("--key", metavar="SOURCE", help="passphrase-file:PATH, credential:NAME or command:CMD."),
]
HERE = Path()
_UNDONE = (
    "What this undoes: no later round uses this site's records.",
    "What it does not undo: models of earlier rounds, and what was made of them, still contain its part.",
    "Everything that was charged stays charged.",
)


def register(app: typer.Typer) -> None:
    """Adds the commands of this module to ``cloister site``."""
    for command in (share, backup, restore, rotate, withdraw):
        app.command()(command)


def share(
    ledger: Annotated[Path, typer.Argument(help="The site's other folder, whose ledger counts for both.")],
    directory: Directory = HERE,
    json: Json = False,
) -> None:
    """Charge the ledger of another folder of this site: one budget of the same records in both consortia.

    For a folder in which no data set was registered yet; its agent must not run. Register the data set in
    each folder, under the same name. Run it again if the other folder was moved.

    Example: cloister site share north --dir north-in-europe
    """
    site = SiteFolder.open(directory)
    with folder.hold(directory / "lock"):
        reconciliation.share(site, SiteFolder.open(ledger))
    owner = sharing.home(site).path
    paths = [sharer.path for sharer in sharing.sharers(site)]
    if json:
        say({"ledger": str(sharing.place(site)), "folders": paths})
        return
    typer.echo(f"{directory} charges the ledger in {owner}, as do: {', '.join(paths)}")
    typer.echo(f"Make a backup of {owner} now: one from before does not know who shares its ledger.")


def backup(
    key: Source,
    out: Annotated[Path, typer.Option(help="The file to write.")],
    directory: Directory = HERE,
    json: Json = False,
) -> None:
    """Write an encrypted backup of the folder; the agent may run. Keep its key elsewhere.

    It holds ledger, log, keys, plans and the descriptions of datasets, never the records, and never what a
    job's noise or masks are made from: a restored site leaves the jobs that were open.

    Example: cloister site backup --dir north --out north.backup --key passphrase-file:/media/key/north
    """
    site = SiteFolder.open(directory)
    refuse_restored(site)
    count = archive.write(site, out, KeySource.parse(key))
    if json:
        say({"file": str(out), "site": site.name, "files": count, "bytes": out.stat().st_size})
        return
    typer.echo(f"{out} holds {count} files of {site.name}. Its key is in {key}, and nowhere in it.")


def restore(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="The backup.")] = None,
    directory: Annotated[Path, typer.Option("--dir", help="A new folder; with --here, the copy.")] = HERE,
    here: Annotated[
        bool, typer.Option("--here", help="The folder itself is a copy, or a restore was interrupted.")
    ] = False,
    key: Source = "",
    json: Json = False,
) -> None:
    """Bring a backup, or an old copy of the folder, to where it may be used again. The lead must run.

    Every plan that may have been worked on since is charged in full, every open job is left, and the site
    gets new keys, which its old ones sign. Until this has worked, nothing else can be done in the folder.

    Example: cloister site restore north.backup --dir north-again
    """
    if here == (file is not None):
        raise UsageError("option_invalid", "Name a backup, or say --here for the folder of --dir.")
    if file is not None:
        site = restoration.from_backup(file, directory, KeySource.parse(key) if key else None)
    else:
        site = SiteFolder.open(directory)
        with folder.hold(directory / "lock"):
            restoration.mark(site)
    done = restoration.settle(directory)
    if json:
        say({"had": done.had, "held": done.held, "charged": done.charged, "left": list(done.left)})
        return
    missing = max(0, done.held - done.had)
    typer.echo(f"The log of the copy has {done.had} events; at least {missing} are missing from it.")
    for plan, epsilon in done.charged.items():
        typer.echo(f"{plan[7:19]}: charged in full; its dataset stands at epsilon {epsilon:.4f}.")
    for plan in done.left:
        typer.echo(f"{plan[7:19]}: left. The lead knows.")
    typer.echo(f"{site.name} has new keys, signed by the old ones. Go on: cloister site up --dir {directory}")


def rotate(directory: Directory = HERE, json: Json = False) -> None:
    """Make new keys: identity, certificate and Flower node. The agent must not run meanwhile.

    They are made here and signed by the old ones: members who confirmed those need not compare words again.
    Running jobs go on under the keys that their plans name; everything else has the new ones at once.

    Example: cloister site rotate --dir north
    """
    SiteFolder.open(directory)
    with folder.hold(directory / "lock"):
        site = rotation.settle(directory)
        refuse_restored(site)
        before = site.identity.public.digest()
        with Consortium(site) as member:
            site = rotation.answered(site, member.succeed(rotation.prepare(site, "rotated")))
        running = [job.plan for job in Jobs(site) if job.state == APPROVED]
        rotation.forget(site, {plan.site(site.name).identity for plan in running})
    public = site.identity.public
    if json:
        say({"identity": public.digest(), "previous": before, "words": public.words()})
        return
    typer.echo(f"{site.name} has new keys. Their words:")
    typer.echo(f"  {' '.join(public.words())}")
    if running:
        typer.echo(f"{len(running)} running jobs go on under the old ones, which are kept for them alone.")


def withdraw(
    job: Annotated[str, typer.Argument(metavar="[JOB]", help="The first digits of the plan's digest.")] = "",
    everything: Annotated[
        bool, typer.Option("--all", help="All jobs, and the consortium: the lead revokes this site's keys.")
    ] = False,
    directory: Directory = HERE,
    json: Json = False,
) -> None:
    """Leave a job, or the consortium. It takes effect here at once; repeat it if the lead was not reached.

    Example: cloister site withdraw 3f9a --dir north
    """
    if everything == bool(job):
        raise UsageError("option_invalid", "Name one job, or say --all.")
    site = SiteFolder.open(directory)
    refuse_restored(site)
    jobs = Jobs(site)
    chosen = [one for one in jobs if one.state in (WAITING, APPROVED)] if everything else [jobs.find(job)]
    for one in chosen:
        _leave(site, one)
    with Consortium(site) as member:
        for one in chosen:
            member.withdraw(Withdrawal(site=site.name, plan=one.plan.digest))
        if everything:
            member.withdraw(Withdrawal(site=site.name, plan=""))
    if everything:
        site.log.append("site.withdrew", site=site.name, reason="withdrawn")
        site.log.head()
    if json:
        say({"left": [one.plan.digest for one in chosen], "consortium": everything})
        return
    for one in chosen:
        typer.echo(f"{site.name} has left {one.plan.digest[7:19]}. The lead knows.")
    if everything:
        typer.echo(f"{site.name} has left the consortium; its keys are revoked there.")
    for line in _UNDONE:
        typer.echo(line)


def _leave(site: SiteFolder, job: Job) -> None:
    """Leaves a job here; again has no effect."""
    if job.state == DONE:
        raise EnrolmentError("withdrawn", "The job is over; there is nothing to leave.")
    if job.state != LEFT:
        site.log.append("site.withdrew", job=job.plan.digest, site=site.name, reason="withdrawn")
    job.leave("withdrawn")
