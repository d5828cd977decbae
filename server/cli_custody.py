"""``cloister lead``: what a lead keeps over time: backups, and whose keys count."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloister.privacy.console import Json, say
from cloister.privacy.errors import UsageError
from cloister.privacy.keysource import KeySource
from cloister.privacy.wire.messages import known
from cloister.server import backup as archive
from cloister.server.folder import LeadFolder
from cloister.server.options import HERE, Directory

Source = Annotated[
    str,
    typer.Option("--key", metavar="SOURCE", help="passphrase-file:PATH, credential:NAME or command:CMD."),
]


def register(app: typer.Typer) -> None:
    """Adds the commands of this module to ``cloister lead``."""
    for command in (backup, restore, revoke):
        app.command()(command)


def backup(
    key: Source,
    out: Annotated[Path, typer.Option(help="The file to write.")],
    directory: Directory = HERE,
    json: Json = False,
) -> None:
    """Write an encrypted backup of the folder; the lead may run. Keep its key elsewhere.

    Make one after every change of members: a restored lead knows those of the backup.

    Example: cloister lead backup --dir lead --out lead.backup --key passphrase-file:/media/key/lead
    """
    lead = LeadFolder.open(directory)
    count = archive.write(lead, out, KeySource.parse(key))
    if json:
        say({"file": str(out), "files": count, "bytes": out.stat().st_size})
        return
    typer.echo(f"{out} holds {count} files. Its key is in {key}, and nowhere in it.")


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")],
    directory: Annotated[Path, typer.Option("--dir", help="A folder that does not exist or is empty.")],
    key: Source = "",
    json: Json = False,
) -> None:
    """Make a lead's folder from a backup. It gets new keys, signed by the old ones; sites take them on.

    Jobs that were open are over: their plans name the old keys.

    Example: cloister lead restore lead.backup --dir lead-again
    """
    lead = archive.restore(file, directory, KeySource.parse(key) if key else None)
    members = [site.name for site in lead.enrolment.roster.sites]
    public = lead.identity.public
    if json:
        say({"members": members, "identity": public.digest(), "words": public.words()})
        return
    typer.echo(
        f"The lead of {lead.settings.consortium} is in {directory}, with {', '.join(members) or 'nobody'}."
    )
    typer.echo("It has new keys, signed by the old ones. Their words:")
    typer.echo(f"  {' '.join(public.words())}")


def revoke(
    site: Annotated[str, typer.Argument(help="Name of the site.")],
    reason: Annotated[str, typer.Option(help="Id of a reason; docs/errors.md lists them.")] = "",
    directory: Directory = HERE,
    json: Json = False,
) -> None:
    """Take a site out of the consortium: its certificates are refused from now on, also while a job runs.

    A running job goes on without it if enough sites are left. Every other site refuses its keys from its next
    contact on, and they never come back; the site may join again with new keys and a new invite.

    Example: cloister lead revoke north --dir lead
    """
    if reason and not known(reason):
        raise UsageError("option_invalid", f"There is no error id {reason}.", "docs/errors.md lists them.")
    lead = LeadFolder.open(directory)
    gone = lead.enrolment.revoke(site, reason)
    if json:
        say({"site": site, "identity": gone.digest(), "roster": lead.enrolment.roster.digest()})
        return
    typer.echo(f"The keys of {site} are revoked. Plans for the roster before it can be approved no longer.")
