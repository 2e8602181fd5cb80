"""Ctrl-C at any moment: exit code 130, no traceback, one line about what is kept and how to go on."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.forked import Forked

from sedd_cli.errors import shell_command

#: The entry of the console script, with a Ctrl-C that Python handles, as in a terminal; {before} runs first.
SCRIPT = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "{before}\n"
    "from sedd_cli.__main__ import main; main()"
)
#: Announces the first import of a module, and lasts long enough to be interrupted.
SLOW_IMPORT = """
import builtins, time
from sedd_cli.errors import shell_command
real = builtins.__import__
def slow(name, *rest, **named):
    if name == {module!r} and name not in sys.modules:
        print('here', file=sys.stderr, flush=True)
        try: time.sleep(60)
        except KeyboardInterrupt: raise ImportError('a library failed')
    return real(name, *rest, **named)
builtins.__import__ = slow
"""


@pytest.fixture
def begin(tmp_path) -> Callable[..., subprocess.Popen]:
    """Starts the command line in a process whose Ctrl-C works."""

    def start(*words: object, before: str = "") -> subprocess.Popen:
        command = [sys.executable, "-c", SCRIPT.format(before=before), *map(str, words)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=tmp_path, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)

    return start


def interrupt(job: subprocess.Popen, word: str) -> str:
    """Send Ctrl-C once the word appears on standard error, and return what is printed there afterwards."""
    assert job.stderr is not None
    while word not in (line := job.stderr.readline()):
        assert line, f"it ended with {job.wait()}"
    job.send_signal(signal.SIGINT)
    return job.communicate(timeout=60)[1]


@pytest.fixture
def long_training(workplace, tmp_path) -> list:
    changes = ["train.steps=1000000", "train.save_every=1000000", "train.log_every=1", "train.warmup=2"]
    return ["train", workplace / "tiny.yaml", *changes, "--run-dir", tmp_path / "run", "--device", "cpu"]


def wait_for(path: Path) -> None:
    while not path.is_file():
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_training_that_was_stopped_has_saved_and_says_so(number, code, long_training, tmp_path):
    job = Forked(*long_training, "--json", cwd=tmp_path, text=True)
    wait_for(tmp_path / "run" / "metrics.jsonl")
    job.send_signal(number)
    out, err = job.communicate(timeout=60)
    assert job.returncode == code, err
    assert (tmp_path / "run" / "latest").is_file()
    assert "saved" in err
    assert "the same command resumes the run" in err
    assert "Traceback" not in err
    document = json.loads(out)
    assert (document["finished"], "resume" in document) == (False, True)


def test_a_stopped_fresh_run_is_resumed_by_the_command_that_is_shown(sedd, workplace, tmp_path, monkeypatch):
    import sedd_cli.training.train as module

    run, training = tmp_path / "a run", module.training
    run.mkdir()
    monkeypatch.setattr(module, "training", lambda state, *more: iter(()))
    options = ["--device", "cpu", "--fresh", "--run-dir", run, "--no-report", "--json"]
    done = sedd("train", *options, "--", workplace / "tiny.yaml", "train.steps=4")
    again = shlex.split(json.loads(done.out)["resume"])
    assert again.count("--run-dir") == 1
    assert f"the same command without --fresh and with '{run}-2' as its --run-dir resumes the run" in done.err
    monkeypatch.setattr(module, "training", training)
    ended = sedd(*again[1:])
    assert (ended.code, again[0], json.loads(ended.out)["run"]) == (0, "sedd", f"{run}-2")


def test_the_table_ends_as_its_training_does(workplace, monkeypatch):
    from sedd_cli.system.events import result_of
    from sedd_cli.tables import run as tables
    from sedd_cli.training.train import TrainResult

    def stopped(*_):
        return TrainResult(Path("run"), 3, finished=False, interrupted=True)
        yield

    monkeypatch.setattr(tables, "train", stopped)
    monkeypatch.setattr(tables, "run_state", lambda run: ("missing", ""))
    row = type("Row", (), {"recipe": 1, "trained": type("Place", (), {"folder": Path("run")})})()
    with pytest.raises(KeyboardInterrupt):
        result_of(tables._train(row, tables.RunOptions()))


@pytest.mark.parametrize("module", ["sedd_cli.system", "typer", "rich.table"])
def test_ctrl_c_while_the_command_line_is_imported_is_quiet(module, begin):
    job = begin("--version", before=SLOW_IMPORT.format(module=module))
    assert interrupt(job, "here") == ""
    assert job.returncode == 130


@pytest.mark.parametrize(
    "words",
    [
        ["sample"], ["infill", "-t", "the [MASK:2]"], ["eval", "--max-nfe", 4], ["cloze", "-n", 2], ["inspect"],
        ["judge", "x.txt", "--judge", "gpt2"], ["bench", "train"], ["doctor"],
    ],
)  # fmt: skip
def test_ctrl_c_while_a_command_loads_is_said_in_one_line(words, tiny_run, begin, tmp_path):
    (tmp_path / "x.txt").write_text("a text\n")
    named = [tiny_run] if words == ["inspect"] else ["--model", tiny_run] if words[0] in ("sample", "eval") else []
    job = begin(*words, *named, before=SLOW_IMPORT.format(module="torch"))
    assert interrupt(job, "here") == "interrupted before the work began: nothing was written\n"
    assert job.returncode == 130


def test_before_the_first_sample_former_ones_are_not_spoken_of(tmp_path):
    from sedd_cli.cli.view.denoising.showing import _kept
    from sedd_cli.cli.view.view import View

    out = tmp_path / "s.jsonl"
    for before in ("", "earlier"):
        out.write_text(before)
        os.utime(out, (1, 1))
        said = _kept(View(), out)
        assert said() == f"interrupted before the first sample was finished: nothing was written to {out}"
        out.write_text("a sample")
        assert said() == f"interrupted: finished samples are in {out}"


def test_ctrl_c_during_the_work_says_what_is_kept(tiny_run, tmp_path):
    words = ["sample", "--model", tiny_run, "-n", 50000, "--batch", 1, "--out", "s.jsonl"]
    job = Forked(*words, cwd=tmp_path, text=True)
    wait_for(tmp_path / "s.jsonl")
    job.send_signal(signal.SIGINT)
    err = job.communicate(timeout=60)[1]
    assert job.returncode == 130
    assert err.splitlines()[-1] == "interrupted: finished samples are in s.jsonl"


def test_ctrl_c_during_a_batch_says_how_many_are_kept_and_how_to_go_on(tiny_run, tmp_path):
    (tmp_path / "my jobs.jsonl").write_text('{"template": "the [MASK:8]", "n": 50000}\n')
    words = ["infill", "--model", tiny_run, "--input", "my jobs.jsonl", "--batch", 1, "--out", "f.jsonl"]
    job = Forked(*words, "--fresh", cwd=tmp_path, text=True)
    wait_for(tmp_path / "f.jsonl")
    job.send_signal(signal.SIGINT)
    said, command = job.communicate(timeout=60)[1].splitlines()[-2:]
    kept = len((tmp_path / "f.jsonl").read_text().splitlines())
    assert said == f"interrupted: {kept:,} fillings are kept in f.jsonl, the same command continues:"
    assert command == f"  sedd {shell_command(map(str, words))}"  # without --fresh


def test_ctrl_c_before_the_first_step_of_a_training(long_training, begin):
    job = begin(*long_training, before=SLOW_IMPORT.format(module="sedd_cli.training.train"))
    assert interrupt(job, "here").count("\n") == 1
    assert job.returncode == 130
