"""One process at a time, and digests that stored files rely on."""

from __future__ import annotations

import errno
import fcntl
import json
import os

import pytest

from sedd_cli.errors import RequestError
from sedd_cli.system.digests import digest, sha256_of
from sedd_cli.system.json_lines import json_text
from sedd_cli.system.locks import beside, file_lock, is_locked


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


@pytest.mark.parametrize("kind", ["folder", "link", "dead link", "pipe", "text"])
def test_what_lies_at_the_path_of_a_lock_and_is_none_is_refused_and_left_alone(tmp_path, kind):
    lock, target = beside(tmp_path / "out.jsonl"), tmp_path / "mine"
    if kind in ("link", "dead link"):
        if kind == "link":
            target.write_text("mine")
        lock.symlink_to(target)
    elif kind == "text":
        lock.write_text("mine")
    else:
        (lock.mkdir if kind == "folder" else lambda: os.mkfifo(lock))()
    before = lock.lstat().st_mode, lock.lstat().st_size
    assert not is_locked(lock)
    with pytest.raises(RequestError, match=r"\.out\.jsonl\.lock is in the way"), file_lock(lock, "", remove=True):
        pass
    assert (lock.lstat().st_mode, lock.lstat().st_size) == before
    assert target.exists() == (kind == "link")


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_told_and_refuses_nothing(tmp_path, monkeypatch, code):
    """As Lustre answers where it is mounted without `flock`, and NFS without its lock service."""

    def refused(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refused)
    lock, held = tmp_path / ".lock", file_lock(tmp_path / ".lock", "someone is at work")
    with pytest.warns(UserWarning, match="without locks: run one command at a time"):
        held.__enter__()
    with pytest.warns(UserWarning, match="without locks"), file_lock(lock, "someone is at work"):
        pass
    assert not is_locked(lock)
    assert list(tmp_path.iterdir()) == []


def test_digests_are_those_that_stored_files_hold(tmp_path):
    assert digest({"b": [1, None], "a": "é"}) == "9b10bedce64e86a275540261fbe95bc6c195bfb10d5def7a5fc12eefcc7d0a87"
    value = {"of": [float("nan"), {"error": float("inf")}], "text": "é"}
    assert digest(value) == digest(json.loads(json_text(value)))  # of what a file holds
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_of(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
