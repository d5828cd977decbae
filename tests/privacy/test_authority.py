"""Authorities and what they sign: known answers, broken files, and everything that must agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cloister.privacy import canonical
from cloister.privacy.authority import Authority, PublicAuthority
from cloister.privacy.cli import main
from cloister.privacy.endorsements import MOST, Endorsements
from cloister.privacy.errors import CloisterError
from cloister.privacy.identity import PrivateIdentity, PublicIdentity, Roster
from cloister.privacy.wire.endorsement import LARGEST, Endorsement
from tests.known import party

VECTORS = Path(__file__).parents[1] / "vectors" / "endorsement"
KNOWN = json.loads((VECTORS / "endorsement.json").read_text())
BROKEN = json.loads((VECTORS / "endorsement_broken.json").read_text())
LEAD, NORTH = party("lead").public, party("north").public
ROSTER = Roster("hospitals", (LEAD, NORTH))
MINISTRY = Authority("ministry", {key: bytes.fromhex(seed) for key, seed in KNOWN["seeds"].items()})


def reason(act: Any) -> str:
    with pytest.raises(CloisterError) as caught:
        act()
    assert "\n" not in caught.value.line()
    return caught.value.id


def made(
    member: PublicIdentity = NORTH, consortium: str = "hospitals", ends: str = "2026-12-31"
) -> Endorsement:
    return Endorsement.make(MINISTRY, consortium, member, "2026-01-01", ends)


def test_known_keys_digest_and_words() -> None:
    assert MINISTRY.public.digest() == KNOWN["digest"]
    assert list(MINISTRY.public.words()) == KNOWN["words"]
    assert PublicAuthority.from_json(MINISTRY.public.to_json()) == MINISTRY.public


def test_the_known_statement() -> None:
    found = Endorsement.from_bytes(canonical.encode(KNOWN["file"]))
    assert found.said.to_bytes().decode() == KNOWN["statement"] == made().said.to_bytes().decode()
    assert found.digest == KNOWN["statement_digest"]
    assert made().signed.signature.ed25519 == found.signed.signature.ed25519  # it is deterministic
    seen = found.check("hospitals", NORTH)
    assert (seen.authority, seen.begins, seen.ends) == (KNOWN["digest"], "2026-01-01", "2026-12-31")
    found.standing((KNOWN["digest"],), "2026-06-30")


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: str(case["why"]))
def test_broken_statements_are_refused(case: dict[str, Any]) -> None:
    assert reason(lambda: Endorsement.from_bytes(canonical.encode(case["file"]))) == case["error"]


def test_a_file_that_is_no_statement_or_too_long() -> None:
    whole = canonical.encode(KNOWN["file"])
    for data in (b"", b"{}", b"\xff", whole + b" ", whole[:-1], b" " * (LARGEST + 1), b"[" * 50_000):
        assert reason(lambda data=data: Endorsement.from_bytes(data)) == "endorsement_malformed"


def with_other(field: str) -> PublicIdentity:
    """The same member with one other key."""
    other = PrivateIdentity.generate("north", "site").public
    return PublicIdentity.from_json(NORTH.to_json() | {field: other.to_json()[field]})


@pytest.mark.parametrize("field", ["ed25519", "mldsa65", "hpke", "node"])
def test_a_statement_is_about_every_key_of_a_member(field: str) -> None:
    assert reason(lambda: made().check("hospitals", with_other(field))) == "endorsement_other"


# consortium, member, authorities of the policy, day, the reason; "" where it counts
STANDINGS: list[tuple[str, PublicIdentity, tuple[str, ...], str, str]] = [
    ("hospitals", NORTH, (KNOWN["digest"],), "2026-01-01", ""),
    ("hospitals", NORTH, (KNOWN["digest"],), "2026-12-31", ""),
    ("hospitals", NORTH, (KNOWN["digest"],), "2025-12-31", "endorsement_expired"),
    ("hospitals", NORTH, (KNOWN["digest"],), "2027-01-01", "endorsement_expired"),
    ("hospitals", NORTH, (), "2026-06-30", "authority_unknown"),
    ("hospitals", NORTH, (canonical.digest(b"another"),), "2026-06-30", "authority_unknown"),
    ("banks", NORTH, (KNOWN["digest"],), "2026-06-30", "endorsement_other"),
    ("hospitals", LEAD, (KNOWN["digest"],), "2026-06-30", "endorsement_other"),
    (
        "hospitals",
        PrivateIdentity.generate("north", "site").public,
        (KNOWN["digest"],),
        "2026-06-30",
        "endorsement_other",
    ),
]


@pytest.mark.parametrize(("consortium", "member", "named", "day", "expected"), STANDINGS)
def test_when_a_statement_counts(
    consortium: str, member: PublicIdentity, named: tuple[str, ...], day: str, expected: str
) -> None:
    def judge() -> None:
        found = made()
        found.check(consortium, member)
        found.standing(named, day)

    if expected:
        assert reason(judge) == expected
    else:
        judge()


def test_what_cannot_be_signed() -> None:
    for consortium, begins, ends in (
        ("Hospitals", "2026-01-01", "2026-12-31"),
        ("hospitals", "2026-13-01", "2026-12-31"),
        ("hospitals", "2026-01-01", "soon"),
        ("hospitals", "2026-01-02", "2026-01-01"),
    ):
        act = lambda c=consortium, b=begins, e=ends: Endorsement.make(MINISTRY, c, NORTH, b, e)  # noqa: E731
        assert reason(act) == "endorsement_malformed"


# What a folder holds


def test_a_later_statement_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    kept = Endorsements(tmp_path / "endorsements")
    assert kept.of(NORTH) == ()
    for ends in ("2026-06-30", "2027-06-30", "2026-12-31"):
        assert kept.keep(made(ends=ends), ROSTER) == NORTH
    assert [one.said.ends for one in kept.of(NORTH)] == ["2027-06-30"]
    assert list(kept.about(ROSTER)) == list(kept.of(NORTH))
    (path,) = (tmp_path / "endorsements").glob("*.json")
    assert path.stat().st_mode & 0o777 == 0o600
    kept.forget((LEAD,))
    assert kept.of(NORTH) == ()


def test_what_is_about_nobody_or_about_other_keys_is_not_kept(tmp_path: Path) -> None:
    kept = Endorsements(tmp_path / "endorsements")
    stranger, double = (PrivateIdentity.generate(name, "site").public for name in ("west", "north"))
    assert reason(lambda: kept.keep(made(stranger), ROSTER)) == "party_unknown"
    assert reason(lambda: kept.keep(made(double), ROSTER)) == "endorsement_other"
    assert reason(lambda: kept.keep(made(consortium="banks"), ROSTER)) == "endorsement_other"
    for _ in range(MOST):
        kept.keep(
            Endorsement.make(Authority.generate("many"), "hospitals", NORTH, "2026-01-01", "2026-12-31"),
            ROSTER,
        )
    assert reason(lambda: kept.keep(made(), ROSTER)) == "endorsement_malformed"


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    kept = Endorsements(tmp_path)
    kept.keep(made(), ROSTER)
    (path,) = tmp_path.glob("*.json")
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    assert reason(lambda: kept.of(NORTH)) == "state_damaged"
    other = made(LEAD).to_bytes()  # a statement that holds, under the name of another
    path.write_bytes(other)
    assert reason(lambda: kept.of(NORTH)) == "state_damaged"


# Sessions


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.chdir(tmp_path)

    def command(line: str, *more: str, code: int = 0) -> str:
        assert main([*line.split(), *more]) == code, capsys.readouterr().err
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    return command


def test_a_session_of_an_authority(run: Any, tmp_path: Path) -> None:
    (tmp_path / "north.json").write_bytes(canonical.encode(NORTH.to_json()))
    shown = json.loads(run("authority init --name ministry --dir ministry --json"))
    assert run("authority show --dir ministry").startswith(f"The authority ministry: {shown['digest']}\n")
    words, line = " ".join(NORTH.words()), "authority sign north.json --consortium hospitals --dir ministry"
    wrong = run(f"{line} --out north.endorsement --words", " ".join(LEAD.words()), code=1)
    assert wrong.endswith("[fingerprint_mismatch]\n")
    assert not (tmp_path / "north.endorsement").exists()
    span = "--begins 2026-03-01 --days 31 --out north.endorsement"
    said = run(f"{line} {span} --words", words.upper())
    assert "are those of north (site) in hospitals, from 2026-03-01 to 2026-03-31.\n" in said
    assert "`cloister site endorse north.endorsement`" in said
    read = json.loads(run("authority read north.endorsement --json"))
    assert (read["authority"], read["identity"]) == (shown["digest"], NORTH.digest())
    assert shown["digest"] in run("authority read north.endorsement")
    assert run(f"{line} {span} --words", words, code=2).endswith("[folder_in_use]\n")
    for more, error, code in (
        ("--begins 2026-02-30 --out x", "option_invalid", 2),
        ("--begins 9999-12-30 --days 9 --out x", "option_invalid", 2),
    ):
        assert run(f"{line} {more} --words", words, code=code).endswith(f"[{error}]\n")
    assert run("authority show --dir nowhere", code=1).endswith("[state_missing]\n")
    assert run("authority read north.json", code=1).endswith("[endorsement_malformed]\n")
    assert run("authority read none", code=2).endswith("[option_invalid]\n")
    assert run("authority init --name Ministry --dir other", code=1).endswith("[identity_malformed]\n")
    assert not (tmp_path / "other").exists()
    assert run("authority init --name ministry --dir ministry", code=2).endswith("[folder_in_use]\n")


def test_secret_keys_are_private_and_encrypted_with_a_key(run: Any, tmp_path: Path) -> None:
    (tmp_path / "phrase").write_text("the passphrase of an authority")
    (tmp_path / "phrase").chmod(0o600)
    run("authority init --name ministry --dir clear")
    secret = tmp_path / "clear" / "authority.key"
    assert secret.stat().st_mode & 0o777 == 0o600
    shown = json.loads(run("authority init --name ministry --dir locked --key passphrase-file:phrase --json"))
    assert (tmp_path / "locked" / "authority.key").read_bytes().startswith(b"cloister-vault/1\n")
    assert Authority.open(tmp_path / "locked").public.digest() == shown["digest"]
    (tmp_path / "phrase").unlink()
    assert run("authority show --dir locked", code=1).endswith("[state_sealed]\n")
    secret.chmod(0o644)
    assert run("authority show --dir clear", code=1).endswith("[permissions]\n")
    secret.chmod(0o600)
    secret.write_bytes(b'{"name":"ministry"}')
    assert run("authority show --dir clear", code=1).endswith("[state_damaged]\n")


@pytest.mark.parametrize("command", ["init", "show", "sign", "read"])
def test_every_command_explains_itself(run: Any, command: str) -> None:
    assert f"Example: cloister authority {command}" in " ".join(run(f"authority {command} --help").split())
