"""What coded updates left out stays secret where the folder is locked, and is whole or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cloister.client.rests import Rests
from cloister.privacy.errors import StateError
from cloister.privacy.vault import Locked

REST = np.arange(5, dtype=np.float32)


def test_a_rest_is_encrypted_where_secrets_are(tmp_path: Path) -> None:
    rests = Rests(tmp_path / "rests", Locked(tmp_path, b"i" * 16, b"k" * 32))
    rests.keep(1, REST)
    (path,) = (tmp_path / "rests").iterdir()
    assert REST.tobytes() not in path.read_bytes()
    found = rests.before(2, 5)
    assert found is not None
    assert found.tobytes() == REST.tobytes()


def test_a_rest_of_another_size_is_refused(tmp_path: Path) -> None:
    rests = Rests(tmp_path / "rests")
    rests.keep(1, REST)
    with pytest.raises(StateError, check=lambda error: error.id == "state_damaged"):
        rests.before(2, 6)
    rests.forget()
    assert rests.before(2, 5) is None
