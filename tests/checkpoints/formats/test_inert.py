"""The reader of pickles that name foreign classes: whatever they try, nothing is run and nothing is changed."""

from __future__ import annotations

import io
import os
import pickle
import tracemalloc
import warnings
import zipfile
from contextlib import suppress

import pytest
import torch
from torch import _utils

from sedd_cli.checkpoints import tensors
from sedd_cli.checkpoints.formats.inert import _PICKLE, read_inert
from sedd_cli.checkpoints.tensors import read_pickle
from sedd_cli.errors import DamageError, RequestError


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def archive(payload: bytes) -> bytes:
    """What `torch.save` writes, around a pickle."""
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as out:
        for name, content in (("data.pkl", payload), ("version", b"3\n"), ("byteorder", b"little")):
            out.writestr(f"a/{name}", content)
    return found.getvalue()


def with_two_directories(first: list[str], second: list[str]) -> bytes:
    """An archive whose end names the directory of `first` by its offset; that of `second` stands before the end."""
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as out:
        for name in (*first, *second):
            with warnings.catch_warnings():  # of names that stand there twice
                warnings.simplefilter("ignore")
                out.writestr(f"a/{name}", pickle.dumps({}) if name == "data.pkl" else b"3\n")
    data, entries, at = found.getvalue(), [], 0
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    at = start
    while at < end:
        sizes = [int.from_bytes(data[at + place : at + place + 2], "little") for place in (28, 30, 32)]
        entries.append(data[at : at + 46 + sum(sizes)])
        at += 46 + sum(sizes)
    one, two = b"".join(entries[: len(first)]), b"".join(entries[len(first) :])
    assert len(one) == len(two)
    tail = b"PK\x05\x06" + bytes(4) + 2 * len(first).to_bytes(2, "little") + len(one).to_bytes(4, "little")
    return data[:start] + one + two + tail + start.to_bytes(4, "little") + bytes(2)


@pytest.mark.parametrize("read", [read_inert, read_pickle])
def test_a_directory_that_torch_alone_sees_is_refused(tmp_path, read):
    """An archive ends with a record that names the offset of its directory.

    torch reads the directory at that offset, and `zipfile` the one directly before that record.
    """
    path = tmp_path / "a.ckpt"
    path.write_bytes(
        with_two_directories(*(["data.pkl", "version", name] for name in ("constants.pkl", "harmlesss.pkl")))
    )
    with zipfile.ZipFile(path) as seen:
        assert "a/constants.pkl" not in seen.namelist()
    with pytest.raises(RequestError, match="TorchScript"):
        read(path)


@pytest.mark.parametrize("read", [read_inert, read_pickle])
def test_compressed_and_very_large_pickles_are_refused(tmp_path, read, monkeypatch):
    path = tmp_path / "a.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a/data.pkl", b"\x80\x02" + b"\x8f" * 100_000)
        out.writestr("a/version", b"3\n")
    with pytest.raises(RequestError, match="its records are compressed"):
        read(path)
    monkeypatch.setattr(tensors, "PICKLE_BYTES", 1000)
    path.write_bytes(archive(b"\x80\x02" + b"\x8f" * 2000))
    with pytest.raises(RequestError, match=r"it holds 2,0.. bytes, at most 1,000 are read \(the limit PICKLE_BYTES\)$"):
        read(path)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_call_of_anything_else_is_refused(tmp_path, protocol):
    (tmp_path / "a.ckpt").write_bytes(archive(pickle.dumps(Runs(tmp_path / "made"), protocol)))
    with pytest.raises(RequestError, match=r"this pickle needs posix.mkdir, which could run code"):
        read_inert(tmp_path / "a.ckpt")
    assert not (tmp_path / "made").exists()


def test_a_pickle_before_an_archive_is_not_run(tmp_path):
    # Python takes the file for an archive, torch for one of its oldest layout
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps(Runs(tmp_path / "made")) + archive(b"N."))
    with pytest.raises(DamageError):
        read_inert(tmp_path / "a.ckpt")
    with pytest.raises(Exception, match=r"posix\.mkdir"):
        _PICKLE.load((tmp_path / "a.ckpt").open("rb"))
    assert not (tmp_path / "made").exists()


def test_a_program_of_torchscript_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Identity()), tmp_path / "a.ckpt")
    with pytest.raises(RequestError, match="TorchScript"):
        read_inert(tmp_path / "a.ckpt")


INDEX = b"N" + pickle.LONG_BINPUT + (1 << 28).to_bytes(4, "little") + b"."
SIZE = pickle.BYTEARRAY8 + (1 << 32).to_bytes(8, "little")


@pytest.mark.parametrize("payload", [INDEX, SIZE], ids=["an index", "a size"])
def test_memory_is_not_taken_for_what_a_pickle_declares(tmp_path, payload):
    (tmp_path / "a.ckpt").write_bytes(archive(b"\x80\x05" + payload))
    tracemalloc.start()
    try:
        with suppress(DamageError):
            assert read_inert(tmp_path / "a.ckpt") is None
        assert tracemalloc.get_traced_memory()[1] < 1 << 30
    finally:
        tracemalloc.stop()


def test_a_function_cannot_be_changed(tmp_path):
    before = _utils._rebuild_tensor_v2.__defaults__
    sets = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__K\x07\x85s\x86b."
    (tmp_path / "a.ckpt").write_bytes(archive(sets))
    with pytest.raises(DamageError, match="sets __defaults__ of a function"):
        read_inert(tmp_path / "a.ckpt")
    assert _utils._rebuild_tensor_v2.__defaults__ == before
