"""docs/operations.md, done: every command of the document, in its order, over real processes."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

import pytest
from safetensors.numpy import load_file

from tests.by_hand import ByHand, documented

pytestmark = pytest.mark.slow

SITES = ("north", "south")


def test_the_document_covers_the_whole_way() -> None:
    said = {" ".join(line.split()[1:3]) for line in documented()}
    assert {"lead init", "lead up", "lead invite", "lead propose"} <= said
    assert {"site init", "site join", "site data", "site up", "site peers", "site approve"} <= said


def test_the_job_is_finished(by_hand: ByHand) -> None:
    entry = by_hand.jobs()[by_hand.job]
    assert (entry["state"], entry["reason"]) == ("finished", "")
    assert entry["decisions"] == {"north": True, "south": True}
    assert entry["progress"]["round"] == entry["progress"]["rounds"] == 10
    assert entry["progress"]["standings"] == {"north": "accepted", "south": "accepted"}


def test_the_lead_is_shown_no_figure_of_training(by_hand: ByHand) -> None:
    entry = by_hand.jobs()[by_hand.job]
    assert set(entry) == {"job", "state", "reason", "purpose", "decisions", "left", "progress"}
    assert set(entry["progress"]) == {
        "round",
        "rounds",
        "standings",
        "bytes_up",
        "bytes_down",
        "traffic",
        "model",
    }
    shown = by_hand.hands.do("lead", "status", "--dir", "lead")
    assert not any(word in shown.lower() for word in ("accuracy", "loss", "%"))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks transformers
@pytest.mark.parametrize("site", SITES)
def test_every_site_has_the_same_model_and_can_load_it(by_hand: ByHand, site: str) -> None:
    (folder,) = by_hand.hands.place.glob(f"{site}/jobs/{by_hand.job[7:23]}/model")
    adapter = load_file(folder / "adapter_model.safetensors")
    (other,) = by_hand.hands.place.glob(f"north/jobs/{by_hand.job[7:23]}/model")
    assert {name: value.tobytes() for name, value in adapter.items()} == {
        name: value.tobytes() for name, value in load_file(other / "adapter_model.safetensors").items()
    }
    from peft import PeftModel

    from tests.models import encoder

    loaded = PeftModel.from_pretrained(encoder(), folder)
    assert any("lora_B" in name and value.abs().sum() > 0 for name, value in loaded.named_parameters())


@pytest.mark.parametrize("site", SITES)
def test_the_ledger_says_what_the_plan_costs(by_hand: ByHand, site: str) -> None:
    (budget,) = by_hand.hands.json("site", "ledger", "--dir", site)["budgets"]
    rows = [(row["round"], row["kind"]) for row in budget["rows"] if row["job"] == by_hand.job]
    assert rows == [(n, kind) for n in range(1, 11) for kind in ("reserved", "spent", "released")]
    assert 7.9 < budget["spent"] <= 8.0


@pytest.mark.parametrize("site", SITES)
def test_the_log_of_a_site_verifies(by_hand: ByHand, site: str) -> None:
    said = by_hand.hands.do("site", "log", "--dir", site, "--last", "3")
    assert "the chain, the tree and the signed head hold." in said.splitlines()[-1]
    assert len(said.splitlines()) == 4


def test_the_log_of_the_lead_verifies(by_hand: ByHand) -> None:
    from cloister.privacy.evidence.log import verify_log
    from cloister.server.folder import LeadFolder

    lead = LeadFolder.open(by_hand.hands.place / "lead")
    assert verify_log(lead.path / "log", lead.identity.public).size > 10


def test_a_site_sees_its_own_figures(by_hand: ByHand) -> None:
    (job, *_) = by_hand.hands.json("site", "jobs", "--dir", "north")["jobs"]
    assert job["state"] == "done"
    assert 0 <= job["accuracy"] <= 1


def test_the_evidence_comes_over_the_network_and_every_party_signs(by_hand: ByHand) -> None:
    """The agents hand over their parts, check the bundle of all, and sign it; the lead types one command."""
    hands, job = by_hand.hands, by_hand.job[7:19]
    said = hands.do("report", job, "--dir", "lead", "--out", "signed")
    assert "Every party has signed it." in said
    trust = hands.do("site", "peers", "--offline", "--json", "--dir", "north")
    (hands.place / "keys.json").write_text(trust)
    checked = hands.do("verify", "signed", "--trust", "keys.json")
    evidence = json.loads((by_hand.hands.place / "signed" / "evidence.json").read_text())
    for seen in evidence["channels"]:  # both ends, of both connections
        assert seen["seen_at_site"] is not None
        assert seen["flower"] == seen["flower_at_lead"] is not None
    assert len(evidence["clocks"]) == 1 + len(SITES)
    assert all(one["state"] for one in evidence["clocks"])
    assert len(evidence["software"]) == 1 + len(SITES)
    assert all(one["versions"]["torch"] == version("torch") for one in evidence["software"])
    assert [one["read"] for one in evidence["datasets"]] == ["2"] * len(SITES)
    assert checked.splitlines()[-1].startswith("verified: ")
    assert "is not signed by" not in checked


def test_the_evidence_goes_from_hand_to_hand_and_verifies(by_hand: ByHand) -> None:
    """Every site makes its part, the lead the bundle, a site signs it, and anybody checks it."""
    hands, job, place = by_hand.hands, by_hand.job[7:19], by_hand.hands.place
    for site in SITES:
        hands.do("site", "evidence", job, "--dir", site, "--out", f"{site}.part")
    parts = [word for site in SITES for word in ("--part", f"{site}.part")]
    hands.do("report", job, "--dir", "lead", *parts, "--wait", "0", "--out", "evidence")
    hands.do("site", "sign", "evidence", "--dir", "north")
    trust = hands.do("site", "peers", "--offline", "--json", "--dir", "south")
    (place / "trust.json").write_text(trust)
    model = f"south/jobs/{by_hand.job[7:23]}/model"
    said = hands.do("verify", "evidence", "--trust", "trust.json", "--model", model)
    assert said.splitlines()[-1].startswith("verified: ")
    assert "MANIFEST.json is not signed by south." in said
    page = place / "evidence" / "report.html"
    page.write_text(page.read_text().replace("8.0", "0.8"))
    edited = hands.run("verify", "evidence", "--trust", "trust.json")
    assert (edited.code, edited.out.splitlines()[0]) == (
        10,
        "altered: files: report.html: its bytes are not those that the manifest names.",
    )
    refused = hands.run("site", "sign", "evidence", "--dir", "south")
    assert (refused.code, "[bundle_altered]" in refused.err) == (1, True)


def test_nothing_but_this_machine_was_looked_for(by_hand: ByHand) -> None:
    assert not by_hand.outside.exists(), by_hand.outside.read_text()


def test_the_guard_sees_a_connection(by_hand: ByHand) -> None:
    probe = "import socket; s = socket.socket(); s.setblocking(False); s.connect_ex(('192.0.2.1', 9))"
    by_hand.hands.run("-c", probe, program=(sys.executable,))
    assert by_hand.outside.read_text() == "192.0.2.1\n"
    by_hand.outside.unlink()
