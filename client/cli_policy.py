"""``cloister site policy`` and ``cloister site people``: what the site allows, and who may approve."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from cloister.client.jobs import Jobs
from cloister.client.site.folder import SiteFolder
from cloister.client.site.people import People
from cloister.client.site.policies import Policies
from cloister.privacy.console import Json, say
from cloister.privacy.errors import PolicyError, UsageError
from cloister.privacy.evidence.vocabulary import PERSON
from cloister.privacy.policy.decision import shown
from cloister.privacy.policy.reading import LARGEST, read
from cloister.privacy.policy.request import Role
from cloister.privacy.policy.strictest import diff, overall
from cloister.privacy.policy.template import template
from cloister.privacy.policy.terms import Policy
from cloister.privacy.policy.words import changes, explain

policy_app = typer.Typer(no_args_is_help=True, help="What this site allows.")
people_app = typer.Typer(no_args_is_help=True, help="Who may approve at this site.")

Directory = Annotated[Path, typer.Option("--dir", help="The site's folder.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="A policy in YAML.")]
Shared = Annotated[bool, typer.Option("--consortium", help="One agreed in the consortium, for every plan.")]
HERE = Path()


def register(app: typer.Typer) -> None:
    """Adds the commands of this module to ``cloister site``."""
    app.add_typer(policy_app, name="policy")
    app.add_typer(people_app, name="people")


@policy_app.command()
def show(directory: Directory = HERE, json: Json = False) -> None:
    """Print the policy in force: the site's own or, with a consortium's, the strictest of both.

    Example: cloister site policy show --dir north
    """
    policy = Policies(SiteFolder.open(directory)).current()
    if json:
        say({"digest": policy.digest, "policy": policy.model_dump(mode="json")})
        return
    for block, value in policy.model_dump(mode="json").items():
        if isinstance(value, dict):
            typer.echo(f"{block}:")
            _block(value, "  ")
    typer.echo(f"digest: {policy.digest}")


def _block(value: dict[str, Any], indent: str) -> None:
    for key, one in value.items():
        if isinstance(one, dict):
            typer.echo(f"{indent}{key}:")
            _block(one, indent + "  ")
        else:
            typer.echo(f"{indent}{key}: {shown(one)}")


@policy_app.command()
def check(file: File, json: Json = False) -> None:
    """Read a policy and say whether it can be used, or the key and line that cannot. Nothing is changed.

    Example: cloister site policy check policy.yaml
    """
    policy = read(_bytes(file))
    if json:
        say({"digest": policy.digest})
        return
    typer.echo(f"{file} can be used. Its digest: {policy.digest}")


@policy_app.command("set")
def set_(file: File, shared: Shared = False, directory: Directory = HERE, json: Json = False) -> None:
    """Put a policy in force, also for jobs that run: it holds from their next round on.

    Example: cloister site policy set policy.yaml --dir north
    """
    policies = Policies(SiteFolder.open(directory))
    before = _in_force(policies)
    policy = policies.put(_bytes(file), shared=shared)
    found = diff(before, policy) if before else ()
    change = overall(found) if before else "new"
    if json:
        say({"digest": policy.digest, "change": change})
        return
    for line in changes(found):
        typer.echo(line)
    typer.echo(f"In force: {policy.digest} ({change})")


def _in_force(policies: Policies) -> Policy | None:
    """The policy in force; None where there is none that can be read."""
    try:
        return policies.current()
    except PolicyError:
        return None


@policy_app.command("explain")
def explain_(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A policy in YAML.")] = None,
    job: Annotated[str, typer.Option(metavar="JOB", help="What decides about this job, and how.")] = "",
    directory: Directory = HERE,
    json: Json = False,
) -> None:
    """Read a policy out in plain sentences; without a file, the one in force.

    With --job, it is the strictest of the site's policy and the consortium's that the plan names, and each
    rule that does not allow the plan is printed with whose it is.

    Example: cloister site policy explain --job 3f9a --dir north
    """
    if file and job:
        raise UsageError("option_invalid", "A file and --job do not go together.", "Leave one of them out.")
    if job:
        _explain_job(Jobs(SiteFolder.open(directory)), job, json)
        return
    policy = read(_bytes(file)) if file else Policies(SiteFolder.open(directory)).current()
    lines = list(explain(policy))
    if json:
        say({"digest": policy.digest, "lines": lines})
        return
    _sentences(lines)


def _explain_job(jobs: Jobs, name: str, json: bool) -> None:
    found = jobs.find(name)
    decision, lines = jobs.rulings.decide(found.plan), list(explain(jobs.rulings.in_force(found.plan)))
    if json:
        told = decision.to_json()
        deciding = [one.model_dump(mode="json") for one in decision.deciding]
        say({**{key: told[key] for key in ("policy", "shared", "outcome")}, "deciding": deciding})
        return
    both = f"The strictest of this site's policy and the consortium's {decision.shared}"
    who = both if decision.shared else "This site's policy"
    typer.echo(f"{who} says to {found.plan.digest[7:19]}: {decision.outcome}.")
    for one in decision.deciding:
        typer.echo(f"  {one.line()}")
    _sentences(lines)


def _sentences(lines: list[str]) -> None:
    for line in lines:
        typer.echo(line)
    typer.echo("Whatever one of these sentences does not allow is refused.")


@policy_app.command("diff")
def diff_(file: File, directory: Directory = HERE, json: Json = False) -> None:
    """Say, rule by rule, what a policy would loosen or tighten if it replaced the one in force.

    Example: cloister site policy diff new.yaml --dir north
    """
    found = diff(Policies(SiteFolder.open(directory)).current(), read(_bytes(file)))
    if json:
        rules = [
            {"rule": one.rule, "change": one.change, "old": shown(one.old), "new": shown(one.new)}
            for one in found
        ]
        say({"change": overall(found), "rules": rules})
        return
    for line in changes(found):
        typer.echo(line)
    typer.echo(f"In all: {overall(found)}")


@policy_app.command("template")
def template_() -> None:
    """Print the policy that a new site starts with, with comments.

    Example: cloister site policy template > policy.yaml
    """
    typer.echo(template(datetime.now(UTC).date()), nl=False)


@policy_app.command("replay")
def replay_(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The first digits of the plan's digest.")],
    directory: Directory = HERE,
    json: Json = False,
) -> None:
    """Make every decision on a job again, from its record and the policy that was in force.

    Example: cloister site policy replay 3f9a --dir north
    """
    jobs = Jobs(SiteFolder.open(directory))
    found = jobs.find(job)
    number = jobs.rulings.replay(found.folder)
    if json:
        outcomes = [record.decision.outcome for record in jobs.rulings.records(found.folder)]
        say({"job": found.plan.digest, "outcomes": outcomes})
        return
    for record in jobs.rulings.records(found.folder):
        rules = ", ".join(one.rule for one in record.decision.deciding)
        typer.echo(f"{record.request.known.at}  {record.decision.outcome:<6} {rules}".rstrip())
    typer.echo(f"{number} decisions come out as they are recorded, and stand in the event log.")


@people_app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="A name: a-z, 0-9 and hyphen.")],
    role: Annotated[list[str], typer.Option(help=f"A role, again for more: {PERSON.meaning}.")],
    key: Annotated[Path | None, typer.Option(help="PEM file of the person's Ed25519 public key.")] = None,
    directory: Directory = HERE,
) -> None:
    """Register a person. Once anybody is registered, nobody else can approve; one with a key must sign.

    Example: cloister site people add dana --role steward --key dana.pub --dir north
    """
    People(SiteFolder.open(directory)).add(name, tuple(role_of(one) for one in role), key)
    typer.echo(f"{name} is registered as {', '.join(sorted(role))}{' and signs' if key else ''}.")


@people_app.command("remove")
def remove(
    name: Annotated[str, typer.Argument(help="The person.")],
    directory: Directory = HERE,
) -> None:
    """Forget a person, whose approvals no longer count.

    Example: cloister site people remove dana --dir north
    """
    People(SiteFolder.open(directory)).remove(name)
    typer.echo(f"{name} is not registered any more.")


@people_app.command("list")
def list_(directory: Directory = HERE, json: Json = False) -> None:
    """List the people who are registered, their roles, and whether they sign.

    Example: cloister site people list --dir north
    """
    found = People(SiteFolder.open(directory)).all()
    if json:
        say({"people": {name: one.model_dump(mode="json") for name, one in found.items()}})
        return
    for name, one in sorted(found.items()):
        typer.echo(f"{name}: {', '.join(one.roles)}{'; signs' if one.key else ''}")
    if not found:
        typer.echo("Nobody is registered: roles are claimed by whoever runs the command.")


def role_of(text: str) -> Role:
    """The role that a person named; raises ``UsageError`` ``option_invalid``."""
    if not PERSON.holds(text):
        raise UsageError("option_invalid", f"There is no role {text}.", f"Use {PERSON.meaning}.")
    return text  # type: ignore[return-value]  # it was just held to the same words


def _bytes(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(LARGEST + 1)
    except OSError as error:
        raise PolicyError("policy_missing", f"{file} cannot be read: {error.strerror}.") from error
