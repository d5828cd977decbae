"""``cloister authority``: keys off line that say which keys belong to which member of a consortium."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Annotated

import typer

from cloister.privacy import canonical, durable
from cloister.privacy.authority import Authority, PublicAuthority
from cloister.privacy.console import Json, say
from cloister.privacy.errors import IdentityError, UsageError
from cloister.privacy.evidence.log import now
from cloister.privacy.identity import PublicIdentity
from cloister.privacy.keysource import KeySource
from cloister.privacy.wire.endorsement import LARGEST, Endorsement

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="For somebody who vouches for the keys of members.",
)

Directory = Annotated[Path, typer.Option("--dir", help="The authority's folder.")]
Day = Annotated[str, typer.Option(metavar="DATE", help="First day, YYYY-MM-DD in UTC; today without it.")]
HERE = Path()


@app.command()
def init(
    name: Annotated[str, typer.Option(help="What it is called: a-z, 0-9 and hyphen.")],
    directory: Annotated[Path, typer.Option("--dir", help="A folder that does not exist or is empty.")],
    key: Annotated[
        str,
        typer.Option("--key", metavar="SOURCE", help="passphrase-file:PATH, credential:NAME or command:CMD."),
    ] = "",
    json: Json = False,
) -> None:
    """Make an authority's keys. Keep the folder off the network; with --key, its secret is encrypted there.

    Example: cloister authority init --name ministry --dir ministry
    """
    made = Authority.create(directory, name, KeySource.parse(key) if key else None)
    _tell(made.public, json)


@app.command()
def show(directory: Directory = HERE, json: Json = False) -> None:
    """Print the digest that policies name, and its twelve words.

    Example: cloister authority show --dir ministry
    """
    _tell(Authority.open(directory).public, json)


def _tell(authority: PublicAuthority, json: bool) -> None:
    if json:
        say({"name": authority.name, "digest": authority.digest(), "words": authority.words()})
        return
    typer.echo(f"The authority {authority.name}: {authority.digest()}")
    typer.echo(f"  {' '.join(authority.words())}")
    typer.echo("A site that trusts it names the digest in its policy, under roster.authorities.")


@app.command()
def sign(
    file: Annotated[Path, typer.Argument(metavar="IDENTITY", help="A member's identity/identity.json.")],
    consortium: Annotated[str, typer.Option(help="The consortium that it is a member of.")],
    words: Annotated[str, typer.Option(help="The twelve words that the member read to you.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    directory: Directory = HERE,
    begins: Day = "",
    days: Annotated[int, typer.Option(min=1, max=3650, help="Days that it holds.")] = 365,
    json: Json = False,
) -> None:
    """Sign that exactly these keys are a member's, once its words were compared. It cannot be taken back.

    Example: cloister authority sign identity.json --consortium hospitals --words "…" --out north.endorsement
    """
    if out.exists():
        raise UsageError("folder_in_use", f"{out} is there already.", "Name another file with --out.")
    authority, member = Authority.open(directory), _member(file)
    if tuple(words.replace(",", " ").lower().split()) != member.words():
        raise IdentityError(
            "fingerprint_mismatch",
            f"These are not the words of {member.name}'s keys in {file}.",
            "Sign nothing: ask the member for its words and its file again.",
        )
    first, last = _span(begins, days)
    made = Endorsement.make(authority, consortium, member, first, last)
    durable.write(out, made.to_bytes(), mode=0o644)
    if json:
        say({"file": str(out), **made.said.model_dump(mode="json")})
        return
    typer.echo(f"{authority.public.name} says: {_said(made)}")
    typer.echo(f"{out} is for {member.name}, who hands it in: `cloister {member.role} endorse {out.name}`.")


@app.command()
def read(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="From `cloister authority sign`.")],
    json: Json = False,
) -> None:
    """Say what a statement holds. Its signatures are verified; whether to trust the authority is for you.

    Example: cloister authority read north.endorsement
    """
    found = Endorsement.from_bytes(_bytes(file))
    if json:
        say(found.said.model_dump(mode="json"))
        return
    typer.echo(f"The authority {found.authority.name}, {found.said.authority}, says: {_said(found)}")


def _said(found: Endorsement) -> str:
    said = found.said
    return (
        f"the keys {said.identity[:19]} are those of {said.name} ({said.role}) in {said.consortium}, "
        f"from {said.begins} to {said.ends}."
    )


def _span(begins: str, days: int) -> tuple[str, str]:
    """The first and the last of so many days; raises ``UsageError`` ``option_invalid``."""
    try:
        first = date.fromisoformat(begins) if begins else now().date()
        return first.isoformat(), (first + timedelta(days=days - 1)).isoformat()
    except (ValueError, OverflowError) as error:
        raise UsageError("option_invalid", f"{begins} is no day.", "Write it YYYY-MM-DD.") from error


def _member(file: Path) -> PublicIdentity:
    refusal = IdentityError(
        "identity_malformed",
        f"{file} is not a member's public identity.",
        "It is identity/identity.json in the member's folder.",
    )
    return PublicIdentity.from_json(canonical.decode(_bytes(file), otherwise=refusal))


def _bytes(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(LARGEST + 1)
    except OSError as error:
        raise UsageError("option_invalid", f"{file} cannot be read: {error.strerror}.", "") from error
