"""One process at a time, and digests that stored files rely on."""

from __future__ import annotations

import pytest

from sedd_cli.errors import RequestError
from sedd_cli.system.digests import digest, sha256_of
from sedd_cli.system.locks import file_lock, is_locked


def test_a_lock_is_held_while_its_block_runs_and_refused_to_a_second(tmp_path):
    lock = tmp_path / ".lock"
    assert not is_locked(lock)
    with file_lock(lock, "someone is at work"):
        assert is_locked(lock)
        with (
            pytest.raises(RequestError, match="someone is at work: wait for it to end"),
            file_lock(lock, "someone is at work"),
        ):
            pass
    assert not is_locked(lock)


def test_digests_are_those_that_stored_files_hold(tmp_path):
    assert digest({"b": [1, None], "a": "é"}) == "9b10bedce64e86a275540261fbe95bc6c195bfb10d5def7a5fc12eefcc7d0a87"
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_of(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
