"""``cloister lead``: the commands of a consortium's lead."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from cloister.privacy import durable
from cloister.privacy.console import Json, say
from cloister.privacy.errors import UsageError
from cloister.privacy.keysource import KeySource
from cloister.server import cli_custody, cli_plan, cli_policy, cli_propose, cli_versions, cli_work
from cloister.server.folder import LeadFolder, Settings
from cloister.server.options import HERE, Directory

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="For the lead of a consortium.",
)

key_app = typer.Typer(no_args_is_help=True, help="The key that all secrets of the folder are under.")
app.add_typer(key_app, name="key")
cli_plan.register(app)
cli_propose.register(app)
cli_work.register(app)
cli_custody.register(app)
cli_versions.register(app)
cli_policy.register(app)

Source = Annotated[
    str,
    typer.Option("--key", metavar="SOURCE", help="passphrase-file:PATH, credential:NAME or command:CMD."),
]


@app.command()
def init(
    name: Annotated[str, typer.Option(help="Name of the consortium: a-z, 0-9 and hyphen.")],
    directory: Annotated[Path, typer.Option("--dir", help="A folder that does not exist or is empty.")],
    host: Annotated[str, typer.Option(help="Name or address under which sites reach it.")] = "localhost",
    port_fleet: Annotated[int, typer.Option(help="Port of Flower's fleet API.")] = 8440,
    port_consortium: Annotated[int, typer.Option(help="Port of the consortium service.")] = 8441,
    key: Source = "",
    json: Json = False,
) -> None:
    """Make a consortium: keys, certificates, and a roster with nobody but the lead.

    With --key, all secrets are encrypted in the folder.

    Example: cloister lead init --dir lead --name hospitals --host lead.example.org
    """
    try:
        settings = Settings(
            consortium=name, host=host, port_fleet=port_fleet, port_consortium=port_consortium
        )
    except ValidationError as error:
        option = str(error.errors(include_url=False, include_input=False)[0]["loc"][0])
        raise UsageError(
            "option_invalid", f"The {option.replace('_', ' ')} cannot be used.", "See --help."
        ) from error
    source = KeySource.parse(key) if key else None
    lead = LeadFolder.create(directory, settings, source=source).identity.public
    if json:
        say({"consortium": name, "lead": lead.name, "identity": lead.digest(), "words": lead.words()})
        return
    typer.echo(f"The consortium {name} is in {directory}. The lead's words, for sites to compare:")
    typer.echo(f"  {' '.join(lead.words())}")
    typer.echo(f"Next: cloister lead invite SITE --dir {directory} --out SITE.invite")


@app.command()
def invite(
    site: Annotated[str, typer.Argument(help="Name that the site will have: a-z, 0-9 and hyphen.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    directory: Directory = HERE,
    days: Annotated[int, typer.Option(min=1, max=90, help="Days until the invite ends.")] = 7,
    json: Json = False,
) -> None:
    """Write an invite for one site: a file to hand over on a channel that both sides trust.

    It works once and for this site only. Whoever has it can join in the site's place until it is used.

    Example: cloister lead invite north --dir lead --out north.invite
    """
    folder = LeadFolder.open(directory)
    if out.exists():
        raise UsageError("folder_in_use", f"{out} is there already.", "Name another file with --out.")
    made = folder.enrolment.invite(site, folder.settings.addresses, days)
    durable.write(out, made.to_bytes())
    if json:
        say({"file": str(out), "site": site, "not_after": made.not_after})
        return
    typer.echo(f"{out} lets {site} join {made.consortium} once, until {made.not_after}.")
    typer.echo(f"There: cloister site init --dir {site} --name {site}, then cloister site join {out.name}")


@app.command()
def peers(directory: Directory = HERE, json: Json = False) -> None:
    """List all members with the twelve words of their keys.

    Example: cloister lead peers --dir lead
    """
    roster = LeadFolder.open(directory).enrolment.roster
    if json:
        members = [
            {"name": m.name, "role": m.role, "identity": m.digest(), "words": m.words()}
            for m in roster.members
        ]
        say({"consortium": roster.consortium, "roster": roster.digest(), "members": members})
        return
    for member in roster.members:
        typer.echo(f"{member.name} ({member.role})")
        typer.echo(f"  {' '.join(member.words())}")


@key_app.command()
def change(source: Source, directory: Directory = HERE) -> None:
    """Encrypt all secrets of the folder under a new key, whether they were in clear or under another one.

    The lead must not run. Copies that were made before, backups among them, stay as they are.

    Example: cloister lead key change --dir lead --key passphrase-file:/media/key/lead
    """
    LeadFolder.open(directory).change_key(KeySource.parse(source))
    typer.echo(f"All secrets in {directory} are encrypted under the key from {source}.")
