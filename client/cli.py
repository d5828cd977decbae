"""``cloister site``: the commands of a site that takes part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cloister.client import cli_custody, cli_data, cli_doctor, cli_evidence, cli_policy, cli_work
from cloister.client.consortium import Consortium, join
from cloister.client.site.folder import Peer, SiteFolder
from cloister.client.site.policies import Policies
from cloister.privacy.console import Json, say
from cloister.privacy.endorsements import handed_in
from cloister.privacy.errors import EnrolmentError, PolicyError, TransportError
from cloister.privacy.evidence.log import now
from cloister.privacy.keysource import KeySource
from cloister.privacy.wire.endorsement import Endorsement
from cloister.privacy.wire.joining import INVITE_LIMIT, Invite

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="For a site that takes part.",
)
peers_app = typer.Typer(invoke_without_command=True)
app.add_typer(peers_app, name="peers")
key_app = typer.Typer(no_args_is_help=True, help="The key that all secrets of the folder are under.")
app.add_typer(key_app, name="key")
app.add_typer(cli_data.app, name="data")
cli_work.register(app)
cli_doctor.register(app)
cli_evidence.register(app)
cli_policy.register(app)
cli_custody.register(app)

Directory = Annotated[Path, typer.Option("--dir", help="The site's folder.")]
Source = Annotated[
    str,
    typer.Option("--key", metavar="SOURCE", help="passphrase-file:PATH, credential:NAME or command:CMD."),
]
HERE = Path()


@app.command()
def init(
    name: Annotated[str, typer.Option(help="Name of the site, as the lead's invite will have it.")],
    directory: Annotated[Path, typer.Option("--dir", help="A folder that does not exist or is empty.")],
    key: Source = "",
    json: Json = False,
) -> None:
    """Make the site's folder and all its keys; they stay in it. With --key, secrets are encrypted there.

    Example: cloister site init --dir north --name north
    """
    source = KeySource.parse(key) if key else None
    site = SiteFolder.create(directory, name, source).identity.public
    if json:
        say({"name": name, "identity": site.digest(), "words": site.words()})
        return
    typer.echo(f"The site {name} is in {directory}. Its words, for the others to compare:")
    typer.echo(f"  {' '.join(site.words())}")
    typer.echo(f"Next: cloister site join INVITE --dir {directory}")


@app.command("join")
def join_(
    file: Annotated[Path, typer.Argument(metavar="INVITE", help="The invite file from the lead.")],
    directory: Directory = HERE,
    endorsement: Annotated[
        Path | None,
        typer.Option(help="What an authority signed for this site's keys: handed to the lead for all."),
    ] = None,
    json: Json = False,
) -> None:
    """Become a member with an invite. Safe to repeat if the connection was lost.

    Example: cloister site join north.invite --dir north
    """
    folder, invite = SiteFolder.open(directory), _invite(file)
    found = handed_in(endorsement) if endorsement else None
    if found is not None:  # one that does not fit is told before the invite is used up
        found.check(invite.consortium, folder.identity.public)
    roster = join(folder, invite)
    if found is not None:
        with Consortium(folder) as member:
            member.endorse(found)
    lead = roster.lead
    if json:
        say({"consortium": roster.consortium, "members": [member.name for member in roster.members]})
        return
    typer.echo(f"{folder.name} is a member of {roster.consortium}, led by {lead.name}. The lead's words:")
    typer.echo(f"  {' '.join(lead.words())}")
    typer.echo(f'Compare them with the lead, then: cloister site peers confirm {lead.name} --words "…"')


def _invite(file: Path) -> Invite:
    try:
        with file.open("rb") as opened:
            return Invite.from_bytes(opened.read(INVITE_LIMIT + 1))
    except OSError as error:
        raise EnrolmentError("invite_malformed", f"{file} cannot be read: {error.strerror}.") from error


@app.command("endorse")
def endorse_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="From `cloister authority sign`.")],
    directory: Directory = HERE,
) -> None:
    """Take what an authority signed for a member's keys; about this site's own, the lead gets it for all.

    It counts at a site whose policy names the authority, in place of words that were compared.

    Example: cloister site endorse north.endorsement --dir north
    """
    folder, found = SiteFolder.open(directory), handed_in(file)
    said = found.said
    if said.name == folder.name:
        found.check(folder.membership.consortium, folder.identity.public)
        with Consortium(folder) as member:
            member.endorse(found)
        typer.echo(f"The lead has it, and gives it to every site: valid until {said.ends}.")
        return
    folder.endorsements.keep(found, folder.roster)
    typer.echo(f"{found.authority.name} has signed for {said.name}, until {said.ends}.")
    typer.echo(f"It counts while the policy names {said.authority} under roster.authorities.")


@peers_app.callback()
def peers(
    context: typer.Context,
    directory: Directory = HERE,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the lead for news.")] = False,
    json: Json = False,
) -> None:
    """List all members with the twelve words of their keys, and whether they were confirmed here.

    Compare the words with each member on a channel that the lead does not control, such as the telephone.

    Example: cloister site peers --dir north
    """
    if context.invoked_subcommand is not None:
        return
    folder = SiteFolder.open(directory)
    if not offline:
        _refresh(folder)
    known, authorities, today = folder.peers(), _authorities(folder), now().date().isoformat()
    doubts = [peer.doubts(authorities, today) for peer in known]
    if json:
        members = [_entry(peer, why is None) for peer, why in zip(known, doubts, strict=True)]
        say({"consortium": folder.membership.consortium, "members": members})
        return
    for peer, why in zip(known, doubts, strict=True):
        vouched = peer.vouched(authorities, today)
        typer.echo(f"{peer.identity.name} ({peer.identity.role}): {_standing(peer, why, vouched)}")
        typer.echo(f"  {' '.join(peer.identity.words())}")


@peers_app.command()
def confirm(
    name: Annotated[str, typer.Argument(help="The member whose words you compared.")],
    words: Annotated[str, typer.Option(help="The twelve words that the member read to you.")],
    directory: Directory = HERE,
) -> None:
    """Keep that a member's words were compared and agree. If its keys change, it must be done again.

    Example: cloister site peers confirm south --dir north --words "abandon ability … zoo"
    """
    SiteFolder.open(directory).confirm(name, words)
    typer.echo(f"{name} is confirmed.")


def _refresh(folder: SiteFolder) -> None:
    """Fetches the roster; without the lead, the one that was kept will do."""
    try:
        with Consortium(folder, timeout=5.0) as member:
            member.roster()
    except TransportError as error:
        typer.echo(f"{error.line()} Showing the roster that was kept.", err=True)


def _standing(peer: Peer, doubts: tuple[str, ...] | None, vouched: tuple[Endorsement, ...]) -> str:
    if peer.own:
        return "this site"
    if peer.followed:
        return "confirmed: its new keys are signed by those that were confirmed here"
    if peer.confirmed:
        return "confirmed"
    if doubts is None:
        by = ", ".join(f"{one.authority.name} until {one.said.ends}" for one in vouched)
        return f"not confirmed here, but signed for by {by}"
    return " ".join(["not confirmed" + ("." if doubts else ""), *doubts])


def _authorities(folder: SiteFolder) -> tuple[str, ...]:
    """Whom the policy in force names; nobody where there is none that can be read."""
    try:
        return Policies(folder).current().roster.authorities
    except PolicyError:
        return ()


def _entry(peer: Peer, counts: bool) -> dict[str, Any]:
    member = peer.identity
    return {
        "name": member.name,
        "role": member.role,
        "identity": member.digest(),
        "words": member.words(),
        "confirmed": peer.confirmed,
        "followed": peer.followed,
        "counts": counts,
        "endorsed": [one.said.model_dump(mode="json") for one in peer.endorsements],
        "own": peer.own,
    }


@key_app.command()
def change(source: Source, directory: Directory = HERE) -> None:
    """Encrypt all secrets of the folder under a new key, whether they were in clear or under another one.

    The agent must not run. Copies that were made before, backups among them, stay as they are.

    Example: cloister site key change --dir north --key passphrase-file:/media/key/north
    """
    SiteFolder.open(directory).change_key(KeySource.parse(source))
    typer.echo(f"All secrets in {directory} are encrypted under the key from {source}.")
