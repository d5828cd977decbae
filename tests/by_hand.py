"""A federation as docs/operations.md tells it, made by its own commands."""

from __future__ import annotations

import json
import os
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.hands import Hands, Running, until, write_records
from tests.ports import free_port

ROOT = Path(__file__).parents[1]
GUARD = ROOT / "tests" / "end_to_end" / "guard"
MARKER = "Winterbourne1931"
"""Stands in every record of the site south, and nowhere else."""


def guarded(outside: Path) -> dict[str, str]:
    """The environment in which Python notes what it tries to reach."""
    path = [str(GUARD), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(path), "OUTSIDE": str(outside)}


@dataclass
class ByHand:
    """A consortium that was made with the documented commands.

    Attributes:
        hands: to run more commands.
        model: the folder of the base model.
        names: of the sites; with three or more they leave out what the document says two need.
        lead, sites: what runs.
        said: what each documented command printed.
        job: digest of the documented job.
    """

    hands: Hands
    model: Path
    outside: Path
    names: tuple[str, ...] = ("north", "south")
    lead: Running | None = None
    sites: dict[str, Running] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    job: str = ""

    def follow(self, until: str = "") -> None:
        """Does what the document says, line by line, every site what it says of north or south.

        Args:
            until: the first words of the line before which to stop.
        """
        for line in documented():
            if until and line.startswith(until):
                return
            if len(self.names) > 2 and "policy" in line:
                continue
            for spoken in self._spoken(line):
                self.said[spoken] = self._do(shlex.split(spoken)[1:])

    def _spoken(self, line: str) -> list[str]:
        """A line of the document as each site types it, or of each site as the lead does."""
        if "--dir north" not in line:
            subjects = self.names[1:] if "south" in line else self.names[:1]
            return [line.replace("south", name) for name in subjects]
        if "south" not in line:
            return [line.replace("north", name) for name in self.names]
        pairs = [(one, other) for one in self.names for other in self.names if one != other]
        return [re.sub("north|south", lambda m, p=pair: p[m[0] == "south"], line) for pair in pairs]

    def _do(self, words: list[str]) -> str:
        match words[:2]:
            case ["lead", "init"]:
                ports = ("--port-fleet", str(free_port()), "--port-consortium", str(free_port()))
                return self.hands.do(*words, *ports)
            case ["lead", "up"]:
                self.lead = self.hands.start("lead", *words)
                self.lead.hear("is up")
                return self.lead.said
            case ["lead", "propose"]:
                self._offered()
                self.hands.do(*words, "--model", str(self.model))
                (self.job,) = self.jobs()
                return self.job
            case ["site", "up"]:
                return self.site_up(words[-1]).said
            case ["site", "data"]:
                words[3] = str(write_records(self.hands.place / f"{words[5]}.csv", *RECORDS[words[5]]))
                return self.hands.do(*words)
            case ["site", "policy", *_] if "two-sites.yaml" in words:
                words[words.index("two-sites.yaml")] = str(self._two_sites())
                return self.hands.do(*words)
            case ["site", "peers"] if "…" in words:
                words[words.index("…")] = self.words(words[3])
                return self.hands.do(*words)
            case ["lead", "status"]:
                self.ended(self.job)
                return self.hands.do(*words)
            case ["site", "jobs"]:
                self.arrived(self.job, words[-1])
                return self.hands.do(*words)
            case _:
                return self.hands.do(*[self.job[7:19] if word == "JOB" else word for word in words])

    def _two_sites(self) -> Path:
        """The policy of the document, which also allows the plans without privacy that tests propose."""
        text = self.hands.do("site", "policy", "template")
        for old, new in (
            ("secure: true", "secure: false"),
            ("sites: 2", "sites: 1"),
            ("[joint,", "[joint, off,"),
        ):
            assert text.count(old) == 1
            text = text.replace(old, new)
        path = self.hands.place / "two-sites.yaml"
        path.write_text(text)
        return path

    def site_up(self, name: str, *options: str) -> Running:
        """Starts a site's agent."""
        arguments = options or ("--model", str(self.model))
        self.sites[name] = self.hands.start(name, "site", "up", "--dir", name, *arguments)
        return self.sites[name]

    def words(self, name: str) -> str:
        """The words of a member, as it reads them out from its own folder."""
        if name == "lead":
            return " ".join(self.hands.json("lead", "peers", "--dir", "lead")["members"][0]["words"])
        peers = self.hands.json("site", "peers", "--dir", name, "--offline")["members"]
        return " ".join(next(peer["words"] for peer in peers if peer["own"]))

    def _offered(self) -> None:
        offers = self.hands.place / "lead" / "offers"
        until(lambda: len([*offers.glob("*.signed")]) >= len(self.names), "offers")

    def jobs(self) -> dict[str, Any]:
        """What `lead status` says of each job."""
        return {entry["job"]: entry for entry in self.hands.json("lead", "status", "--dir", "lead")["jobs"]}

    def propose(self, *options: str) -> str:
        """Proposes another job; its digest, once every site has it."""
        self._offered()
        command = ("lead", "propose", "--dir", "lead", "--purpose", "more", "--labels")
        terms = ("cardiology,neurology,gastro", "--model", str(self.model), "--steps", "2")
        plain = ("--no-secure",) if len(self.names) == 2 else ()
        job: str = self.hands.json(*command, *terms, *plain, *options)["job"]
        for site in self.sites:
            self.arrived(job, site)
        return job

    def arrived(self, job: str, site: str) -> None:
        """Waits until a plan has arrived at a site."""
        plan = self.hands.place / site / "jobs" / job[7:23] / "plan.json"
        until(plan.exists, f"the plan at {site}")

    def approve(self, job: str) -> None:
        """Lets every site approve a job."""
        for site in self.sites:
            self.hands.do("site", "approve", job[7:19], "--dir", site)

    def ports(self, taken: str) -> tuple[str, ...]:
        """Options of `lead init` that name one port of the running lead and one that is free."""
        config = json.loads((self.hands.place / "lead" / "config.json").read_bytes())
        ports = {"fleet": free_port(), "consortium": free_port(), taken: config[f"port_{taken}"]}
        return tuple(text for name, port in ports.items() for text in (f"--port-{name}", str(port)))

    def ended(self, job: str) -> Any:
        """What `lead status` says of a job that has come to its end."""
        state = self.hands.place / "lead" / "jobs" / job[7:23] / "state.json"
        over = ("finished", "failed", "refused", "stopped")
        until(lambda: json.loads(state.read_bytes())["state"] in over, "the end of a job")
        return self.jobs()[job]


RECORDS = {"north": (1, 70, ""), "south": (2, 90, MARKER), "west": (3, 70, ""), "coast": (4, 80, "")}


def documented() -> list[str]:
    """The commands of the document, in its order."""
    text = (ROOT / "docs" / "operations.md").read_text().replace("\\\n", " ")
    return re.findall(r"^\$ (cloister .*)$", text, re.MULTILINE)
