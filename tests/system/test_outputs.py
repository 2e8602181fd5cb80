"""What may be written, and how files are replaced: nothing that is read, nothing of others, nothing but plain files."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sedd_cli.errors import RequestError
from sedd_cli.system.files import is_stream, load_array, save_array, whole_file, write_whole
from sedd_cli.system.outputs import check_folder, check_outputs


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("what is read")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "part.txt").write_text("a part of it")
    return tmp_path


def test_a_new_file_and_an_old_one_of_no_concern_may_be_written(here):
    (here / "old.json").write_text("{}")
    check_outputs({"--out": here / "new.json", "--html": here / "old.json"}, {"--dataset": ["text.txt", "pydocs"]})


@pytest.mark.parametrize(
    "make",
    [
        lambda here: here / "text.txt",
        lambda here: here / "corpus" / ".." / "text.txt",
        lambda here: _made(here / "link", lambda path: path.symlink_to(here / "text.txt")),
        lambda here: _made(here / "hard", lambda path: path.hardlink_to(here / "text.txt")),
    ],
    ids=["itself", "another way there", "a link", "a hard link"],
)
@pytest.mark.parametrize(
    "named",
    ["text.txt", ["pydocs", "text.txt"], "./text.txt", "wikitext2=text.txt"],
    ids=["name", "list", "dot", "key"],
)
def test_what_is_read_is_not_written(here, make, named):
    with pytest.raises(RequestError, match="--dataset and --out are the same file"):
        check_outputs({"--out": make(here)}, {"--dataset": named})


def test_a_link_that_is_read_is_followed_too(here):
    (here / "link").symlink_to(here / "text.txt")
    with pytest.raises(RequestError, match="same file"):
        check_outputs({"--out": here / "text.txt"}, {"--samples": here / "link"})


def test_files_of_a_folder_that_is_read_are_not_replaced(here):
    check_outputs({"--out": here / "corpus" / "new.json"}, {"--from": "corpus"})
    with pytest.raises(
        RequestError, match=r"--out .*part\.txt would replace a file of corpus, which is read \(--from\)"
    ):
        check_outputs({"--out": here / "corpus" / "part.txt"}, {"--from": "corpus"})
    outside = _made(here / "outside.txt", lambda path: path.write_text("more"))
    (here / "corpus" / "linked.txt").symlink_to(outside)
    with pytest.raises(RequestError, match="would replace a file of corpus"):
        check_outputs({"--out": outside}, {"--from": "wikitext2=corpus"})


def test_of_a_run_its_own_files_are_not_replaced(here):
    run = here / "run"
    for name in ("checkpoints/step-2", "results"):
        (run / name).mkdir(parents=True)
    for name in ("recipe.yaml", "latest", "metrics.jsonl", "checkpoints/step-2/manifest.json", "results/mine.json"):
        (run / name).write_text("x")
    for name in ("recipe.yaml", "latest", "metrics.jsonl", "checkpoints/step-2/manifest.json"):
        with pytest.raises(RequestError, match="--model"):
            check_outputs({"--out": run / name}, {"--model": str(run)})
    check_outputs({"--out": run / "results" / "mine.json"}, {"--model": str(run)})


def test_prepared_data_are_not_replaced(here, monkeypatch):
    monkeypatch.setenv("SEDD_HOME", str(here))
    (here / "corpus").rename(here / "data")
    with pytest.raises(RequestError, match="SEDD_HOME"):
        check_outputs({"--out": here / "data" / "part.txt"}, {})


def test_two_outputs_are_two_files(here):
    with pytest.raises(RequestError, match="--out and --html are the same file"):
        check_outputs({"--out": here / "x", "--html": here / "corpus" / ".." / "x"}, {})


def test_where_nothing_can_be_written_is_said(here):
    for path, reason in {
        here / "nowhere" / "x": "does not exist", here / "corpus": "it is a folder",
        _made(here / "loop", lambda path: path.symlink_to(path)): "cannot write",
    }.items():  # fmt: skip
        with pytest.raises(RequestError, match=reason):
            check_outputs({"--out": path}, {})


def test_what_is_no_path_is_passed_over(here):
    reads = {
        "--model": "owner/name",
        "--prompts": "-",
        "--x": None,
        "--y": ["a" * 5000, "nul\0", "~nobody-here/x", "k="],
    }
    check_outputs({"--out": here / "x"}, reads)


def test_a_pipe_is_written_into_and_stays_one(here):
    pipe = here / "pipe"
    os.mkfifo(pipe)
    check_outputs({"--out": pipe}, {"--dataset": "text.txt"})
    found = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    write_whole(pipe, "through the pipe")
    reader.join(10)
    assert found == ["through the pipe"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_is_written_into_and_stays_one(here):
    device = here / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except OSError:
        pytest.skip("only root makes devices")
    check_outputs({"--out": device}, {})
    write_whole(device, "into nothing")
    assert stat.S_ISCHR(device.stat().st_mode)


def test_a_disk_is_not_written_to(here):
    try:
        os.mknod(here / "disk", stat.S_IFBLK | 0o600, os.makedev(1, 250))
    except OSError:
        pytest.skip("only root makes devices")
    with pytest.raises(RequestError, match="it is a disk"):
        check_outputs({"--out": here / "disk"}, {})


def test_standard_output_is_written_into_where_it_is_a_file():
    assert is_stream(Path("/dev/stdout"))


def test_a_link_keeps_leading_where_it_led(here):
    (here / "link").symlink_to("text.txt")
    (here / "dangling").symlink_to("not-yet.txt")
    for name, target in (("link", "text.txt"), ("dangling", "not-yet.txt")):
        write_whole(here / name, "new")
        assert (here / name).is_symlink()
        assert (here / target).read_text() == "new"


def test_nothing_of_the_user_stands_in_the_way_of_a_temporary_file(here):
    theirs = [_made(here / name, lambda path: path.write_text("mine")) for name in ("x.new", ".x.new", "x.partial")]
    write_whole(here / "x", "content")
    assert [path.read_text() for path in theirs] == ["mine"] * 3
    assert sorted(path.name for path in here.iterdir()) == [".x.new", "corpus", "text.txt", "x", "x.new", "x.partial"]


def test_temporary_names_that_are_taken_are_not_used(here, monkeypatch):
    names = iter(["taken", "taken", "free"])
    monkeypatch.setattr("sedd_cli.system.files.secrets.token_hex", lambda n: next(names))
    theirs = _made(here / ".x.taken.partial", lambda path: path.write_text("mine"))
    write_whole(here / "x", "content")
    assert (theirs.read_text(), (here / "x").read_text()) == ("mine", "content")


def test_an_error_leaves_the_old_file_and_nothing_else(here):
    def interrupted():
        with whole_file(here / "text.txt") as beside:
            beside.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (here / "text.txt").read_text() == "what is read"
    assert sorted(path.name for path in here.iterdir()) == ["corpus", "text.txt"]


def test_a_replaced_file_keeps_its_permissions(here):
    (here / "text.txt").chmod(0o640)
    write_whole(here / "text.txt", "new")
    assert stat.S_IMODE((here / "text.txt").stat().st_mode) == 0o640
    before = os.umask(0o027)
    try:
        write_whole(here / "fresh", "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((here / "fresh").stat().st_mode) == 0o640


def test_a_saved_array_is_read_back(here):
    import numpy as np

    save_array(here / "deep" / "x.npy", np.arange(5.0))
    assert np.load(here / "deep" / "x.npy").tolist() == [0, 1, 2, 3, 4]


def test_a_folder_is_filled_where_it_is_new_empty_or_own(here):
    (here / "empty").mkdir()
    for name in ("new", "empty"):
        check_folder("--run-dir", here / name, lambda folder: False, "a run")
    check_folder("--run-dir", here / "corpus", lambda folder: (folder / "part.txt").is_file(), "a run")
    with pytest.raises(RequestError, match=r"holds files and is not a run \(part\.txt\): name .* with --run-dir"):
        check_folder("--run-dir", here / "corpus", lambda folder: False, "a run")
    with pytest.raises(RequestError, match="not a folder"):
        check_folder("--run-dir", here / "text.txt", lambda folder: False, "a run")


def _made(path, make):
    make(path)
    return path


def test_dev_and_proc_are_no_exception_for_plain_files(here):
    text = Path("/dev/..") / str(here / "text.txt").lstrip("/")
    with pytest.raises(RequestError, match="same file"):
        check_outputs({"--out": text}, {"--dataset": here / "text.txt"})


def test_standard_output_that_a_shell_appends_to_a_file_keeps_what_is_there(here):
    (here / "log").write_text("earlier\n")
    code = "from pathlib import Path; from sedd_cli.system.files import write_whole, open_output; "
    code += (
        "write_whole(Path('/dev/stdout'), 'one\\n')\nwith open_output(Path('/dev/stdout'), 'w') as f: f.write('two\\n')"
    )
    with (here / "log").open("a") as log:
        subprocess.run([sys.executable, "-c", code], stdout=log, check=True)
    assert (here / "log").read_text() == "earlier\none\ntwo\n"


def test_a_long_name_of_long_characters_is_written(here):
    path = here / ("漢" * 80)
    write_whole(path, "x")
    assert path.read_text() == "x"


def test_a_file_that_cannot_be_replaced_is_written_in_place(here, monkeypatch):
    def busy(*_):
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr("sedd_cli.system.files.os.replace", busy)
    write_whole(here / "text.txt", "new")
    assert sorted(path.name for path in here.iterdir()) == ["corpus", "text.txt"]
    assert (here / "text.txt").read_text() == "new"


def test_two_outputs_are_not_one_pipe(here):
    os.mkfifo(here / "pipe")
    with pytest.raises(RequestError, match="--out and --html are the same file"):
        check_outputs({"--out": here / "pipe", "--html": here / "pipe"}, {})


def test_a_link_to_standard_output_is_written_into(here):
    (here / "out").symlink_to("/dev/stdout")
    (here / "again").symlink_to("out")
    code = "from pathlib import Path; from sedd_cli.system.files import write_whole; print('one', flush=True); "
    code += "write_whole(Path('again'), 'two\\n'); print('three')"
    with (here / "log").open("w") as log:
        subprocess.run([sys.executable, "-c", code], stdout=log, check=True)
    assert (here / "log").read_text() == "one\ntwo\nthree\n"
    assert not is_stream(Path("a\0b"))


def test_an_array_that_declares_more_than_its_file_holds_is_damaged(here):
    import numpy as np

    file = here / "x.npy"
    save_array(file, np.arange(5.0))
    assert load_array(file).tolist() == [0, 1, 2, 3, 4]
    raw = file.read_bytes()
    file.write_bytes(raw.replace(b"(5,), }            ", b"(9999999999999,), }", 1))
    assert file.read_bytes() != raw
    assert load_array(file) is None
    file.write_bytes(b"PK\3\4")
    assert load_array(file) is None
