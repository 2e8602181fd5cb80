"""`sedd train --processes 2`: one command, one voice, one clean end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.toys import ALL

from sedd_cli.checkpoints import checkpoint
from sedd_cli.cli import processes
from sedd_cli.cli.processes import without_option


def command(workplace: Path, run: Path, *more: object) -> list[str]:
    words = ["train", workplace / "tiny.yaml", "--run-dir", run, "--device", "cpu", "--no-report", "--processes", 2]
    return [sys.executable, "-m", "sedd_cli", *map(str, words), *map(str, more)]


def environment(workplace: Path) -> dict[str, str]:
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "SEDD_HOME": str(workplace / "home"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }


def finished(workplace: Path, run: Path, *more: object) -> subprocess.CompletedProcess[str]:
    words = command(workplace, run, *more)
    return subprocess.run(words, env=environment(workplace), capture_output=True, text=True, check=False, timeout=120)


def test_the_option_is_left_out_of_the_words_of_the_processes():
    assert without_option(["train", "a", "--processes", "2", "b=1"], "--processes") == ["train", "a", "b=1"]
    assert without_option(["train", "--processes=2", "a", "--quiet"], "--processes") == ["train", "a", "--quiet"]


@pytest.fixture
def started(monkeypatch) -> list[list[str]]:
    """The commands that `launch` starts; all end well at once."""
    commands: list[list[str]] = []

    class Ended:
        returncode = 0

        def __init__(self, command, **_):
            commands.append(command)

        def poll(self):
            return 0

    monkeypatch.setattr(processes.subprocess, "Popen", Ended)
    return commands


def test_each_process_shows_tracebacks_where_they_are_asked_for(started, workplace, monkeypatch):
    from sedd_cli import __main__

    monkeypatch.setattr(sys, "argv", ["sedd", "train", str(workplace / "tiny.yaml"), "--processes", "2", "--debug"])
    with pytest.raises(SystemExit):
        __main__.main()
    assert ["--debug" in words for words in started] == [True, True]
    assert processes.launch(["train", "a"], 2) == 0
    assert not any("--debug" in words for words in started[2:])


def test_signals_that_are_ignored_stay_so(started, monkeypatch):
    """As under nohup, whose command outlives its terminal."""
    from sedd_cli.system.signals import stop_requested

    seen = []
    monkeypatch.setattr(processes, "_wait", lambda _: seen.append(signal.getsignal(signal.SIGHUP)))
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGINT)}
    try:
        processes.launch(["train", "a"], 2)
        assert seen == [signal.SIG_IGN]
        with stop_requested(lambda text: None):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_processes_of_a_launcher_start_no_others(sedd, workplace, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    refused = sedd("train", workplace / "tiny.yaml", "--run-dir", tmp_path / "run", "--processes", 4)
    assert (refused.code, (tmp_path / "run").exists()) == (2, False)
    assert "--processes" in refused.err
    assert "WORLD_SIZE" in refused.err


def test_a_dry_run_is_of_one_process(sedd, workplace):
    refused = sedd("train", workplace / "tiny.yaml", "--dry-run", "--processes", 4)
    assert (refused.code, "--dry-run measures one process" in refused.err) == (2, True)


def test_the_end_of_the_first_process_by_a_signal_is_said(sedd, workplace, tmp_path, monkeypatch):
    codes = iter((-signal.SIGKILL, -signal.SIGTERM))

    class Ended:
        def __init__(self, *_, **__):
            self.returncode = next(codes)

        def poll(self):
            return self.returncode

        def send_signal(self, number):
            raise ProcessLookupError

    monkeypatch.setattr(processes.subprocess, "Popen", Ended)
    done = sedd("train", workplace / "tiny.yaml", "--run-dir", tmp_path / "run", "--processes", 2, "--json")
    assert done.code == 1
    assert json.loads(done.out)["error"] == "the first process was ended by SIGKILL"


@pytest.mark.slow
def test_two_processes_train_and_one_prints(workplace, tmp_path):
    done = finished(workplace, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert checkpoint.latest(tmp_path / "run").step == 12
    assert "2 processes" in done.stderr
    for word in ("warning", "Traceback", "OMP_NUM_THREADS"):
        assert word not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == len(set(lines))


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["train.batch=7", *(["data.corpus=nothing.txt"] if ALL else [])])
def test_a_wrong_request_is_one_line_and_exits_2(workplace, tmp_path, wrong):
    done = finished(workplace, tmp_path / "run", wrong)
    assert done.returncode == 2
    assert [line[:6] for line in done.stderr.splitlines() if "error" in line.lower()] == ["error:"]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_ctrl_c_saves_on_all_and_ends_without_a_traceback(workplace, tmp_path):
    run, errors = tmp_path / "run", tmp_path / "errors"
    words = command(workplace, run, "train.steps=1000000", "train.save_every=1000000")
    with errors.open("w") as file:
        job = subprocess.Popen(words, env=environment(workplace), stderr=file, stdout=file, start_new_session=True)
    deadline = time.monotonic() + 90
    while not (run / "metrics.jsonl").is_file():
        assert job.poll() is None, errors.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(job.pid, signal.SIGINT)  # as a terminal does: to the whole group of the command
    assert job.wait(timeout=60) == 130
    assert "Traceback" not in errors.read_text()
    assert "the same command resumes the run" in errors.read_text()
    assert checkpoint.latest(run).step > 0


@pytest.mark.slow
def test_when_one_process_dies_the_others_end_too(workplace, tmp_path):
    run, errors = tmp_path / "run", tmp_path / "errors"
    words = command(workplace, run, "train.steps=1000000", "train.save_every=1000000")
    with errors.open("w") as file:
        job = subprocess.Popen(words, env=environment(workplace), stderr=file, stdout=file)
    deadline = time.monotonic() + 90
    while not (run / "metrics.jsonl").is_file():
        assert job.poll() is None, errors.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    children = subprocess.run(["ps", "--ppid", str(job.pid), "-o", "pid="], capture_output=True, text=True, check=True)
    os.kill(int(children.stdout.split()[1]), signal.SIGKILL)
    assert job.wait(timeout=90) == 1
