"""``cloister lead policy`` and ``lead endorse``: what all sites apply, and whose keys are vouched for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloister.privacy.console import Json, say
from cloister.privacy.endorsements import handed_in
from cloister.privacy.errors import PolicyError
from cloister.privacy.policy.reading import LARGEST
from cloister.privacy.policy.words import explain
from cloister.server.folder import LeadFolder
from cloister.server.options import HERE, Directory
from cloister.server.policies import Policies

policy_app = typer.Typer(no_args_is_help=True, help="What every site applies beside its own policy.")


def register(app: typer.Typer) -> None:
    """Adds the commands of this module to ``cloister lead``."""
    app.add_typer(policy_app, name="policy")
    app.command()(endorse)


@policy_app.command("set")
def set_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A policy in YAML, with the keys of a site's.")
    ],
    directory: Directory = HERE,
    json: Json = False,
) -> None:
    """Put the consortium's policy in force for plans that are proposed from now on.

    Each plan names it by digest. It forbids at every site what it does not allow, and allows nothing that a
    site's own policy forbids.

    Example: cloister lead policy set consortium.yaml --dir lead
    """
    lead = LeadFolder.open(directory)
    policy = Policies(lead.path, lead.log).put(_policy(file))
    if json:
        say({"digest": policy.digest})
        return
    typer.echo(f"Plans that are proposed from now on name {policy.digest}.")


@policy_app.command()
def show(directory: Directory = HERE, json: Json = False) -> None:
    """Read the consortium's policy out in plain sentences.

    Example: cloister lead policy show --dir lead
    """
    lead = LeadFolder.open(directory)
    policy = Policies(lead.path, lead.log).current()
    if json:
        value = policy.model_dump(mode="json") if policy else None
        say({"digest": policy.digest if policy else None, "policy": value})
        return
    if policy is None:
        typer.echo("There is none: each site's own policy decides alone.")
        return
    for line in explain(policy):
        typer.echo(line)
    typer.echo(f"digest: {policy.digest}")


@policy_app.command()
def remove(directory: Directory = HERE) -> None:
    """Propose plans without a policy of the consortium again. Plans from before keep theirs.

    Example: cloister lead policy remove --dir lead
    """
    lead = LeadFolder.open(directory)
    Policies(lead.path, lead.log).remove()
    typer.echo("Plans that are proposed from now on are under no policy but the sites' own.")


def endorse(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="From `cloister authority sign`.")],
    directory: Directory = HERE,
) -> None:
    """Take what authorities signed for members' keys, the lead's own among them, to hand it to every site.

    Example: cloister lead endorse lead.endorsement --dir lead
    """
    lead = LeadFolder.open(directory)
    for file in files:
        found = handed_in(file)
        member = lead.endorsements.keep(found, lead.enrolment.roster)
        typer.echo(f"{found.authority.name} has signed for {member.name}, until {found.said.ends}.")


def _policy(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(LARGEST + 1)
    except OSError as error:
        raise PolicyError("policy_missing", f"{file} cannot be read: {error.strerror}.") from error
