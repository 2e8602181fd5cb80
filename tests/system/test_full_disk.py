"""A full disk: the message names the file, the exit code is that of failed work, and the old file is intact."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from pathlib import Path
from typing import ClassVar

import pytest

from sedd_cli.checkpoints.run_directory import RunDir
from sedd_cli.data.corpora import hub
from sedd_cli.data.corpora.download import download
from sedd_cli.data.prepare import prepare
from sedd_cli.data.prepared import PrepareOptions
from sedd_cli.data.tokenizers import load_tokenizer
from sedd_cli.errors import RequestError, WorkError
from sedd_cli.evaluation import sweep
from sedd_cli.system import files
from sedd_cli.system.files import whole_file, write_whole
from sedd_cli.system.outputs import check_outputs


def failing(number: int):
    def fail(*words, **named):
        raise OSError(number, os.strerror(number))

    return fail


def check_an_output(folder: Path) -> None:
    check_outputs({"--out": folder / "out.json"}, {})


def begin_a_run(folder: Path) -> None:
    RunDir(folder / "run").create()


def begin_a_sweep(folder: Path) -> None:
    sweep._claim(sweep.SweepOptions(folder, (2,)), {})


def begin_to_prepare(folder: Path) -> None:
    (folder / "my.txt").write_text("a text\n")
    list(prepare(PrepareOptions(str(folder / "my.txt"), tokenizer="byte")))


BEGINNINGS = (check_an_output, begin_a_run, begin_a_sweep, begin_to_prepare)


@pytest.mark.parametrize("begin", BEGINNINGS)
@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, WorkError), (errno.EDQUOT, WorkError), (errno.EACCES, RequestError)]
)
def test_work_fails_on_a_full_disk_and_a_place_that_may_not_be_written_is_a_wrong_request(
    begin, number, kind, tmp_path, monkeypatch
):
    monkeypatch.setenv("SEDD_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "TemporaryFile", failing(number))
    monkeypatch.setattr(Path, "mkdir", failing(number))
    with pytest.raises(kind, match=str(tmp_path)) as found:
        begin(tmp_path)
    assert type(found.value) is kind


def test_an_error_names_the_file_and_not_the_one_in_the_making(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("old")
    opened = os.open

    def no_new_file(place, flags, *mode):
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), place)
        return opened(place, flags, *mode)

    for name, full in (("open", no_new_file), ("fsync", failing(errno.ENOSPC))):
        with monkeypatch.context() as during:
            during.setattr(files.os, name, full)
            with pytest.raises(OSError, match="No space left") as found:
                write_whole(path, "new")
        assert found.value.filename == str(path)
    with pytest.raises(OSError, match="No space left") as found, whole_file(path) as beside:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(beside))
    assert found.value.filename == str(path)
    assert os.listdir(tmp_path) == ["a.json"]
    assert path.read_text() == "old"


class Filling(io.BytesIO):
    """An answer of a server; the disk is full once it is read."""

    headers: ClassVar = {}

    def read(self, size=-1):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_not_taken_for_a_server_out_of_reach(tmp_path, monkeypatch):
    import datasets
    import huggingface_hub
    import tiktoken

    from sedd_cli.data.tokenizers import huggingface

    def wrapped(*_, **__):
        try:
            failing(errno.ENOSPC)()
        except OSError as error:
            raise RuntimeError("the library's own kind") from error

    monkeypatch.setenv("SEDD_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: Filling())
    with pytest.raises(WorkError, match=rf"cannot write {tmp_path}/downloads/a\.txt: No space left"):
        download("https://example.org/a.txt")
    assert os.listdir(tmp_path / "downloads") == []
    monkeypatch.setattr(tiktoken, "get_encoding", wrapped)
    with pytest.raises(WorkError, match="no space left for the tokenizer gpt2: set TIKTOKEN_CACHE_DIR"):
        load_tokenizer("gpt2")
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: None)
    monkeypatch.setattr(huggingface, "pretrained_tokenizer", failing(errno.ENOSPC))
    with pytest.raises(WorkError, match="no space left for the tokenizer some/one: set HF_HOME"):
        load_tokenizer("some/one")
    for full in (wrapped, failing(errno.ENOSPC), _too_small):
        monkeypatch.setattr(datasets, "load_dataset", full)
        with pytest.raises(WorkError, match=r"no space left for some/text in .*set HF_HOME"):
            hub._load("some/text", None, None)


def _too_small(*_, **__):
    raise OSError("Not enough disk space. Needed: 3 GiB (download: 1 GiB)")
