from __future__ import annotations

import io
import tomllib
import zipfile
from collections.abc import Callable
from contextlib import suppress

import pytest
from flwr.cli.build import build_fab_from_files
from flwr.common.config import get_fab_config
from hypothesis import given
from hypothesis import strategies as st

from cloister.privacy import canonical
from cloister.privacy.errors import TransportError
from cloister.privacy.wire import bundle

KNOWN = "sha256:a549a0f7a40a29816c18c165ea37d6b807c1df46c02b6299e5a629f43eca55db"


def files(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_its_bytes_are_the_same_everywhere() -> None:
    assert bundle.digest() == KNOWN


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
def test_it_has_the_form_that_flower_writes_and_reads() -> None:
    own = files(bundle.build())
    sources = {name: data for name, data in own.items() if name != ".info/CONTENT"}
    assert files(build_fab_from_files(sources)[0]) == own
    assert get_fab_config(bundle.build()) == tomllib.loads(own["pyproject.toml"].decode())


def test_the_agreed_bundle_passes() -> None:
    bundle.check(bundle.build(), bundle.digest())


def added(data: bytes, name: str) -> bytes:
    buffer = io.BytesIO(data)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(name, "print('never')")
    return buffer.getvalue()


def renamed(data: bytes) -> bytes:
    return data.replace(b"LICENSE", b"license")


@pytest.mark.parametrize(
    "change",
    [
        lambda data: added(data, "torch.py"),
        lambda data: added(data, "client/__init__.py"),
        lambda data: added(data, "../escape.py"),
        pytest.param(
            lambda data: added(data, "LICENSE"), marks=pytest.mark.filterwarnings("ignore:Duplicate name")
        ),
        renamed,
        lambda data: data[:-30],
        lambda data: b"",
        lambda data: b"no archive",
        lambda data: data + bytes(64 << 10),
    ],
)
def test_an_archive_of_other_files_is_refused_even_under_its_own_digest(
    change: Callable[[bytes], bytes],
) -> None:
    data = change(bundle.build())
    for expected in (bundle.digest(), canonical.digest(data)):
        with pytest.raises(TransportError) as caught:
            bundle.check(data, expected)
        assert caught.value.id == "bundle_invalid"


@given(st.data())
def test_no_bytes_make_the_check_fail_in_another_way(data: st.DataObject) -> None:
    archive = bytearray(bundle.build())
    for place in data.draw(st.lists(st.integers(0, len(archive) - 1), max_size=4)):
        archive[place] = data.draw(st.integers(0, 255))
    cut = bytes(archive[: data.draw(st.integers(0, len(archive)))])
    with suppress(TransportError):
        bundle.check(cut, canonical.digest(cut))
