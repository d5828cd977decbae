"""``VERIFY.txt``: how to check a bundle without a line of our code, with Python's own library and OpenSSL.

The commands are run by a test. They check less than ``cloister verify``: digests, Ed25519 signatures, and
that every event is in the log whose head its party signed.
"""

from __future__ import annotations

from collections.abc import Iterable

_TEXT = """\
How to check this bundle by hand
================================

Job      {job}
Parties  {parties}

`cloister verify FOLDER --trust KEYS` checks all of what follows and more: it recomputes epsilon, matches both
ends of every message, replays the order of the rounds and renders report.html again. The lines below need
nothing from us: a shell, Python 3.9 or newer, OpenSSL 3.0 or newer. Run them in the folder of this file.

What nobody can check: whether a site told the truth about its data, its noise or its code; a log that all
parties forged together; what happened and was never written down.

1. Every file has the digest and the size that MANIFEST.json states, and there is no other file.

```sh
export W=$(mktemp -d)
python3 - <<'END'
import base64, hashlib, json, pathlib
manifest = json.loads(base64.b64decode(json.load(open("MANIFEST.json"))["payload"]))
stated = {{s["name"]: s["digest"]["sha256"] for s in manifest["subject"]}}
found = {{p.as_posix() for p in pathlib.Path().rglob("*") if p.is_file()}} - {{"MANIFEST.json"}}
assert found == set(stated), found ^ set(stated)
for name, digest in stated.items():
    data = pathlib.Path(name).read_bytes()
    assert hashlib.sha256(data).hexdigest() == digest, name
    assert len(data) == manifest["predicate"]["sizes"][name], name
print(len(stated), "files are as MANIFEST.json states them")
END
```

2. The keys in keys.json are those of the plan, and the plan is the job. Compare the fingerprints that this
prints with those that each party tells you on a way that the lead does not control.

```sh
python3 - <<'END'
import hashlib, json
plan = json.load(open("plan.json"))
print("job sha256:" + hashlib.sha256(open("plan.json", "rb").read()).hexdigest())
named = {{p["name"]: p["identity"] for p in [plan["lead"], *plan["sites"]]}}
for key in json.load(open("keys.json")):
    text = json.dumps(key, sort_keys=True, separators=(",", ":"))
    digest = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    assert digest == named.pop(key["name"]), key["name"]
    print(key["name"], digest)
assert not named, named
END
```

3. The signatures under MANIFEST.json and under every file in attestations/ (DSSE, in-toto Statement v1).
Each is made twice, with Ed25519 and with ML-DSA-65; this checks Ed25519. With OpenSSL 3.5 or newer the same
command checks the other one, over the same bytes with the public key `mldsa65` of keys.json.

```sh
python3 - <<'END'
import base64, hashlib, json, os, pathlib
work = pathlib.Path(os.environ["W"])
der = bytes.fromhex("302a300506032b6570032100")
known = set()
for key in json.load(open("keys.json")):
    text = json.dumps(key, sort_keys=True, separators=(",", ":")).encode()
    known.add("cloister/%s/%s" % (key["name"], hashlib.sha256(text).hexdigest()[:16]))
    body = base64.b64encode(der + bytes.fromhex(key["ed25519"])).decode()
    pem = "-----BEGIN PUBLIC KEY-----\\n" + body + "\\n-----END PUBLIC KEY-----\\n"
    (work / (key["name"] + ".pem")).write_text(pem)
for path in [pathlib.Path("MANIFEST.json"), *sorted(pathlib.Path("attestations").iterdir())]:
    envelope = json.loads(path.read_bytes())
    kind, body = envelope["payloadType"].encode(), base64.b64decode(envelope["payload"])
    pae = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(body), body)
    for mark in envelope["signatures"]:
        if mark["keyid"].split("#")[0] not in known:  # keys that a party took on during the job: successions/
            print(path.name, "is signed with later keys:", mark["keyid"])
        elif mark["keyid"].endswith("#ed25519"):
            place = path.name + "+" + mark["keyid"].split("/")[1]
            (work / (place + ".pae")).write_bytes(pae)
            (work / (place + ".sig")).write_bytes(base64.b64decode(mark["sig"]))
END
for pae in "$W"/*.pae; do
  party=${{pae##*+}}; party=${{party%.pae}}
  openssl pkeyutl -verify -pubin -inkey "$W/$party.pem" -rawin -in "$pae" -sigfile "${{pae%.pae}}.sig"
done
```

4. Every event is in the log whose newest head its party's statement names (RFC 6962), and events that stand
next to each other are chained.

```sh
python3 - <<'END'
import base64, hashlib, json, pathlib
sha = lambda data: hashlib.sha256(data).digest()
for path in sorted(pathlib.Path("events").iterdir()):
    name, _, later = path.stem.partition("@")
    statement = json.load(open("attestations/" + name + ".part.dsse.json"))["payload"]
    said, before = json.loads(base64.b64decode(statement))["predicate"], (-1, b"")
    head = {{h["origin"][-16:]: h for h in said.get("later", [])}}[later] if later else said["head"]
    for line in path.read_bytes().splitlines():
        text, proof = line[len(b'{{"event":'):].rsplit(b',"proof":"', 1)
        event, proof = json.loads(text), base64.b64decode(proof[:-2])
        place, last, node = event["seq"], head["size"] - 1, sha(b"\\0" + text)
        if before[0] == place - 1 and place:
            assert event["prev"] == "sha256:" + hashlib.sha256(before[1]).hexdigest(), place
        before = (place, text)
        for other in (proof[n:n + 32] for n in range(0, len(proof), 32)):
            if place % 2 or place == last:
                node = sha(b"\\1" + other + node)
                while place and not place % 2:
                    place, last = place // 2, last // 2
            else:
                node = sha(b"\\1" + node + other)
            place, last = place // 2, last // 2
        assert last == 0 and node.hex() == head["root"], (path.stem, event["seq"])
    print("all events of", path.stem, "are under its head of", head["size"], "events")
END
```
"""


def text(job: str, parties: Iterable[str]) -> bytes:
    """The text for a job and the names of its parties, the lead first."""
    return _TEXT.format(job=job, parties=", ".join(parties)).encode()
