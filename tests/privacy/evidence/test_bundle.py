"""A bundle on disk: whole or not at all, checked by hand with openssl, and by a command without torch."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from cloister.privacy import canonical
from cloister.privacy.errors import CloisterError, EvidenceError, StateError, UsageError
from cloister.privacy.evidence.bundle import Bundle, keys_of, safe
from cloister.privacy.evidence.checks import claims
from cloister.privacy.evidence.checks.findings import Result
from cloister.privacy.evidence.checks.run import trusted, verify
from cloister.privacy.evidence.cli import verify as command

pytestmark = pytest.mark.job

ROOT = Path(__file__).parents[3]
A_KEY = b"sha256:" + b"a" * 64
LOCK = ROOT / "requirements-verify.lock"


@pytest.fixture(scope="module")
def bundle(stage: Any) -> Bundle:
    job = stage.witnessed.job
    made = job.contents(stage.witnessed.parts())
    return made.bundle(job.lead, *job.sites.values())


@pytest.fixture(scope="module")
def folder(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bundle") / "bundle"
    bundle.write(place)
    return place


@pytest.fixture(scope="module")
def trust(stage: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("trust") / "keys.json"
    members = [{"name": m.name, "identity": m.digest()} for m in stage.witnessed.job.keys]
    file.write_bytes(canonical.encode({"members": members}) + b"\n")
    return file


def test_what_was_written_is_read(bundle: Bundle, folder: Path) -> None:
    assert Bundle.read(folder) == bundle


def test_a_folder_in_use_is_left_alone(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UsageError):
        bundle.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("audience", "shown", "word"),
    [
        ("auditor", ("policies/", "rulings/"), None),
        ("partner", ("rulings/",), " What each rule said is the word of site-01."),
        ("public", (), ""),
    ],
)
def test_an_audience_sees_its_share_of_policies(
    stage: Any, audience: Any, shown: tuple[str, ...], word: str | None
) -> None:
    job = stage.witnessed.job
    found = job.contents(stage.witnessed.parts(), audience).bundle(job.lead)
    folders = {name.partition("/")[0] + "/" for name in found.files}
    assert folders & {"policies/", "rulings/"} == set(shown)
    assert found.manifest.statement().predicate["audience"] == audience
    assert json.loads(found.files["evidence.json"])["audience"] == audience
    verdict = verify(found, job.trust)
    assert (verdict.result, verdict.findings) == (Result.VERIFIED, ())
    told = [note for note in verdict.notes if "policies of site-01" in note or "decisions of site-01" in note]
    again = f"2 policy decisions of site-01 were not made again: policy or request is not shown.{word}"
    assert told == ([] if word is None else ["1 policies of site-01 are named by digest only.", again])


def test_the_first_page_says_for_whom_it_was_made(stage: Any) -> None:
    job = stage.witnessed.job
    for audience, en, zh in (("partner", "a partner", "合作方"), ("public", "the public", "公众")):
        files = job.contents(stage.witnessed.parts(), audience).bundle(job.lead).files
        for page in ("report.html", "first-page.en.html"):
            assert en in files[page].decode()
        for page in ("report.zh.html", "first-page.zh.html"):
            assert zh in files[page].decode()


@pytest.mark.parametrize(("shows", "said"), [("rules", " but what each rule said"), ("digest", "")])
def test_a_site_that_hands_over_less_of_its_policy_says_so(stage: Any, shows: Any, said: str) -> None:
    job = stage.witnessed.job
    parts = [part for part in stage.witnessed.parts() if part.writer != "site-02"]
    found = job.contents([*parts, job.part("site-02", shows)]).bundle(job.lead)
    assert not [name for name in found.files if name.startswith("policies/site-02")]
    assert ("rulings/site-02.json" in found.files) == (shows == "rules")
    verdict = verify(found, job.trust)
    assert verdict.findings == ()
    assert f"By its own statement, site-02 hands over no policy{said}." in verdict.notes


def test_who_did_not_sign_and_witness_is_named(stage: Any, bundle: Bundle) -> None:
    job = stage.plain.job
    notes = verify(job.contents(stage.plain.parts()).bundle(job.lead), job.trust).notes
    assert "MANIFEST.json is not signed by site-01, site-02, site-03, site-04." in notes
    assert "No head of the log of lead is countersigned by another party." in notes
    assert not [n for n in verify(bundle, stage.witnessed.job.trust).notes if "lead" in n or "MANIFEST" in n]


def test_a_party_can_sign_later(stage: Any) -> None:
    job = stage.witnessed.job
    found = job.contents(stage.witnessed.parts()).bundle(job.lead).signed(job.sites["site-02"])
    assert found.manifest.verify(job.keys) == ("lead", "site-02")
    assert verify(found, job.trust).result is Result.VERIFIED


@pytest.mark.parametrize("name", ["../a", "/a", "a/../b", "a\nb", "", "a//b", "a b", "."])
def test_a_name_that_could_lead_elsewhere_is_refused(name: str) -> None:
    assert not safe(name) or name == "."


def test_links_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "link").symlink_to("plan.json")
    with pytest.raises(EvidenceError):
        Bundle.read(copy)


def test_keys_that_are_not_there_are_named(stage: Any) -> None:
    job = stage.plain.job
    with pytest.raises(EvidenceError, match="site-04"):
        keys_of(job.plan, job.keys[:-1])


# By hand


def test_the_lines_of_verify_txt_work(folder: Path) -> None:
    """Python's own library and openssl: no module of ours, none of others."""
    text = (folder / "VERIFY.txt").read_text()
    script = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("python3 -", "python3 -I -")
    done = _by_hand(script, folder)
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.count("Signature Verified Successfully") == 21
    assert done.stdout.count("are under its head of") == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("events/site-01.jsonl", b'"bytes":60000', b'"bytes":60001'),
        ("report.html", b"</title>", b"!</title>"),
        ("attestations/lead.part.dsse.json", b'"sig":"', b'"sig":"AAAA'),
    ],
)
def test_by_hand_an_edit_is_found(folder: Path, tmp_path: Path, file: str, old: bytes, new: bytes) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / file).write_bytes((copy / file).read_bytes().replace(old, new, 1))
    text = (copy / "VERIFY.txt").read_text()
    assert _by_hand("\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)), copy).returncode != 0


def _by_hand(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", "-e", "-c", script], cwd=folder, capture_output=True, text=True, check=False
    )


# The command

_ALONE = """
import importlib.metadata, re, sys, sysconfig
allowed = set(re.findall(r"^([a-z0-9._-]+)==", open(sys.argv[1]).read(), re.MULTILINE))
norm = lambda name: re.sub(r"[-_.]+", "-", name).lower()
found = importlib.metadata.packages_distributions()
ours = {top for top, dists in found.items() if {norm(d) for d in dists} & allowed} | {"cloister"}
class Guard:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in found and top not in ours:
            raise ModuleNotFoundError(f"{top} is not among the verifier's packages", name=top)
        return None
sys.meta_path.insert(0, Guard())
from cloister.privacy.cli import main
code = main(sys.argv[2:])
heavy = {"torch", "flwr", "transformers", "opacus", "grpc", "sklearn", "datasets"} & set(sys.modules)
assert not heavy, heavy
sys.exit(code)
"""


@pytest.mark.slow
def test_it_runs_with_the_packages_of_its_own_list_alone(folder: Path, trust: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ALONE, str(LOCK), "verify", str(folder), "--trust", str(trust)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / ".links")},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("verified: ")


def test_its_list_pins_what_the_lock_pins() -> None:
    def blocks(file: Path) -> dict[str, list[str]]:
        parts = re.split(r"\n(?=[a-z0-9])", file.read_text())
        return {
            re.split("==", part)[0]: re.findall(r"^\S+==\S+|--hash=\S+", part, re.MULTILINE)
            for part in parts
            if re.match(r"[a-z0-9._-]+==", part)
        }

    pinned = blocks(ROOT / "requirements.lock")
    assert blocks(LOCK).items() <= pinned.items()


def session(*arguments: str) -> tuple[int, list[str]]:
    done = CliRunner().invoke(command, list(arguments))
    assert done.exception is None or isinstance(done.exception, SystemExit | CloisterError), done.exception
    if isinstance(done.exception, CloisterError):
        raise done.exception
    return done.exit_code, done.output.splitlines()


def test_exit_codes_and_one_line_a_finding(stage: Any, folder: Path, trust: Path, tmp_path: Path) -> None:
    code, lines = session(str(folder), "--trust", str(trust))
    assert (code, lines[-1][:9]) == (0, "verified:")
    strangers = tmp_path / "strangers.json"
    members = [{"name": n, "identity": i} for n, i in stage.plain.job.trust.items()]
    strangers.write_bytes(canonical.encode({"members": members}))
    code, lines = session(str(folder), "--trust", str(strangers))
    assert code == 13
    assert lines[0] == "untrusted-key: keys: plan.json: lead has another key in the trust file."
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "report.html").write_bytes(b"all is well")
    code, lines = session(str(copy), "--trust", str(trust))
    assert code == 10
    assert lines[0] == "altered: files: report.html: its bytes are not those that the manifest names."
    (copy / "report.html").unlink()
    assert session(str(copy))[0] == 10  # the lead's statement names it, too
    empty = tmp_path / "empty"
    empty.mkdir()
    code, lines = session(str(empty))
    assert code == 11
    assert lines[-1] == "incomplete: Do not rely on it."
    stage.shuffled.bundle().write(tmp_path / "shuffled")
    code, lines = session(str(tmp_path / "shuffled"))
    assert code == 12
    assert lines[0].startswith("not-reproducible: sampler: site-01/")


def test_json_for_programs(folder: Path) -> None:
    code, lines = session(str(folder), "--json")
    value = json.loads(lines[0])
    assert (code, value["result"], value["findings"], len(lines)) == (0, "verified", [], 1)
    assert value["bundle"] == Bundle.read(folder).digest
    assert value["notes"][0].startswith("The keys were not checked")


def test_a_model_is_held_to_the_digest(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "model.bin"
    other.write_bytes(b"weights")
    code, lines = session(str(folder), "--model", str(other))
    assert code == 10
    assert lines[0].startswith("altered: model: model.bin: its digest is sha256:")
    code, lines = session(str(folder), "--model", str(tmp_path / "nothing"))
    assert code == 11


@pytest.mark.parametrize(
    "header",
    [
        b"[1,2]",
        b"NaN",
        b"[" * 100_000,
        b'{"a":"x"}',
        b'{"a":{}}',
        b'{"a":{"data_offsets":[0,4],"dtype":"F16"}}',
        b'{"a":{"data_offsets":["0","4"],"dtype":"F32"}}',
        b'{"a":{"data_offsets":[0.0,4.0],"dtype":"F32"}}',
        b'{"a":{"data_offsets":[0,1,4],"dtype":"F32"}}',
        b'{"a":{"data_offsets":[0,3],"dtype":"F32"}}',
        b'{"a":{"data_offsets":[4,0],"dtype":"F32"}}',
        b'{"a":{"data_offsets":[0,8],"dtype":"F32"}}',
    ],
    ids=range(12),
)
def test_what_is_no_model_is_a_finding(header: bytes, tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
    case: Any = SimpleNamespace(evidence={})
    (found,) = claims.model(case, tmp_path)
    assert (found.result, found.check) == (Result.INCOMPLETE, "model")


def test_wrong_use_is_one_clear_error(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="is no folder"):
        session(str(tmp_path / "nothing"))
    with pytest.raises(CloisterError, match="cannot be read"):
        session(str(folder), "--trust", str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"members":[]}',
        b'{"members":[{"name":"a"}]}',
        b'{"members":[{"identity":"x","name":"a"}]}',
        b'{"members":[1]}',
        b'{"members":"north"}',
        b"[" * 100_000,
        b'{"members":[{"name":1,"identity":"%s"}]}' % A_KEY,
        b'{"members":[{"name":"a","identity":"%s","confirmed":"no"}]}' % A_KEY,
        b'{"members":[{"name":"a","identity":"%s","name":"b"}]}' % A_KEY,
        b'{"members":[{"name":"a","identity":"%s"},{"name":"a","identity":"%s"}]}'
        % (A_KEY, A_KEY.replace(b"a" * 64, b"b" * 64)),
    ],
    ids=range(13),
)
def test_a_trust_file_is_a_list_of_members(data: bytes) -> None:
    with pytest.raises(CloisterError) as error:
        trusted(data)
    assert error.value.id == "file_format"


def test_a_trust_file_may_be_written_by_hand() -> None:
    """With the spaces and the order of fields that the documentation shows."""
    text = b'{"members": [\n  {"name": "north", "identity": "%s"}\n]}\n' % A_KEY
    assert trusted(text) == {"north": A_KEY.decode()}


def test_members_that_were_never_confirmed_are_not_trusted() -> None:
    a, b, c = ("sha256:" + letter * 64 for letter in "abc")
    members = [
        {"name": "north", "identity": a, "confirmed": True, "own": False},
        {"name": "south", "identity": b, "confirmed": False, "own": True},
        {"name": "west", "identity": c, "confirmed": False, "own": False},
    ]
    assert trusted(canonical.encode({"members": members})) == {"north": a, "south": b}


def test_a_full_disk_leaves_no_half_of_a_bundle(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def full(path: Path, data: bytes, **_: Any) -> None:
        if len(written) == 7:
            raise StateError("disk_full", "The disk is full.")
        written.append(path)
        path.write_bytes(data)

    monkeypatch.setattr("cloister.privacy.durable.write", full)
    with pytest.raises(StateError):
        bundle.write(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []
