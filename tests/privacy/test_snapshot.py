"""What a backup has of a log that grows while it is made."""

from __future__ import annotations

from pathlib import Path

from cloister.privacy import snapshot


def test_heads_that_were_signed_meanwhile_come_along_as_far_as_the_copy_goes(tmp_path: Path) -> None:
    heads = tmp_path / "log" / "heads"
    heads.mkdir(parents=True)
    for size in (1, 2, 3, 4):
        (heads / f"{size:015d}.head").write_bytes(b"head %d" % size)
    (heads / "000000000000003.light").write_bytes(b"light 3")
    (heads / ".half-written").write_bytes(b"")
    found = {snapshot.LOG: b"a\nb\nc\n", "log/heads/000000000000001.head": b"head 1, as it was read"}
    assert snapshot.late_heads(tmp_path, found) == {
        "log/heads/000000000000002.head": b"head 2",
        "log/heads/000000000000003.head": b"head 3",
        "log/heads/000000000000003.light": b"light 3",
    }


def test_a_log_without_heads_has_none(tmp_path: Path) -> None:
    assert snapshot.late_heads(tmp_path, {snapshot.LOG: b""}) == {}
