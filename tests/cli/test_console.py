"""What is only shown ends no work, and names are text: no markup, no control codes."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest
from rich.table import Table
from rich.text import Text
from support.forked import Forked
from support.toys import ALL

from sedd_cli.cli.view.console import PlainConsole
from sedd_cli.cli.view.view import View
from sedd_cli.system.events import Note, Progress, Warn


def test_names_are_neither_markup_nor_control_codes(capsys):
    console = PlainConsole()
    table = Table("name", title="[old] \x1b]0;x\x07 title")
    table.add_row("[best] :smile: run\x1b[2J")
    console.print(table)
    console.print(Text("text \x9b31m"))
    out = capsys.readouterr().out
    assert "[old]" in out
    assert "[best] :smile: run" in out
    assert not {"\x1b", "\x07", "\x9b"} & set(out)


class Terminal(io.StringIO):
    """A terminal of 80 columns."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """What stands on the screen."""
        rows, row = [""], 0
        for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", self.getvalue()):
            if part == "\n":
                row += 1
                rows += [""] * (row == len(rows))
            elif part == "\x1b[1A":
                row -= 1
            elif part == "\x1b[2K":
                rows[row] = ""
            elif part != "\r" and not part.startswith("\x1b"):
                rows[row] += part
        return [line for line in rows if line]


def test_a_line_that_is_printed_while_the_bars_are_redrawn_erases_no_other_line(monkeypatch):
    monkeypatch.setattr(sys, "stdout", screen := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    view = View()

    class Slow:
        """A result whose drawing takes longer than the time between two redraws."""

        def __rich_console__(self, console, options):
            redraw = Thread(target=view._bars.refresh)
            redraw.start()
            redraw.join(0.2)
            yield Text("second")

    def job():
        yield Progress("fillings", 0, 1, "fillings", {"step": "1 of 2"})
        yield Note("first")
        view._bars.remove_task(view._tasks.pop("fillings"))
        view.result(Slow())

    view.run(job())
    assert screen.lines() == ["first", "second"]


def test_a_warning_stays_one_line_whatever_names_are_in_it(capsys):
    View(quiet=False).show(Warn("a\n# b\x1b[2J.txt is too small"))
    assert capsys.readouterr().err == "warning: a # b\\x1b[2J.txt is too small\n"


def test_a_console_that_cannot_print_a_sign_ends_nothing(tiny_run, workplace):
    words = ("eval", "--model", tiny_run, "--dataset", workplace / "corpus.txt", "--max-nfe", "4", "--no-baselines")
    command = [sys.executable, "-m", "sedd_cli", *map(str, words)]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    out, err = done.stdout, done.stderr
    assert done.returncode == 0, err
    assert b"rigorous" in out
    assert b"SEDD \\u2264" in out, "a sign that the encoding lacks is spelled"


@pytest.fixture
def training(workplace, tmp_path) -> list:
    changes = ["train.save_every=12", "report.every=4", "report.blocks=1"]
    return ["train", workplace / "tiny.yaml", *changes, "--no-report", "--run-dir", tmp_path / "run", "--device", "cpu"]


def test_a_batch_goes_on_though_its_results_cannot_be_printed(tiny_run, tmp_path):
    (tmp_path / "jobs.jsonl").write_text('{"template": "the [MASK:2]"}\n' * 3)
    words = ("infill", "--model", tiny_run, "--input", tmp_path / "jobs.jsonl", "--out", tmp_path / "f.jsonl")
    with open("/dev/full", "wb") as full:
        job = Forked(*words, stdout=full)
        err = job.communicate(timeout=120)[1].decode()
    assert job.returncode == 0, err
    assert err.count("standard output cannot be written") == 1
    assert len((tmp_path / "f.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("where", ["/dev/full", "a pipe without reader"])
def test_training_outlives_its_standard_output(where, training, tmp_path):
    if where == "/dev/full":
        with open("/dev/full", "wb") as full:
            job = Forked(*training, stdout=full)
    else:
        reader, writer = os.pipe()
        os.close(reader)
        job = Forked(*training, stdout=writer)
        os.close(writer)
    err = job.communicate()[1].decode()
    assert job.returncode == 0, err
    assert err.count("standard output cannot be written") == 1
    assert (tmp_path / "run" / "latest").read_text().strip() == "step-12"


def test_a_process_ends_its_streams_without_a_word_about_exceptions(tiny_run):
    """At Python's own shutdown, which forks leave out."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    line = f"{shlex.quote(sys.executable)} -m sedd_cli status {shlex.quote(str(tiny_run))} > /dev/full"
    done = subprocess.run(["sh", "-c", line], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "standard output cannot be written" in done.stderr.splitlines()[-1]
    assert "Exception" not in done.stderr


def test_a_result_that_is_lost_with_standard_output_fails(tiny_run, tmp_path):
    for more, code in (([], 1), (["--out", tmp_path / "s.jsonl"], 0)):
        with open("/dev/full", "wb") as full:
            job = Forked("sample", "--model", tiny_run, "-n", 2, "-q", *more, stdout=full)
            err = job.communicate()[1].decode()
        assert job.returncode == code, err
        assert "Traceback" not in err
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == 2


def closed_output() -> None:
    """As Python starts where standard output is closed."""
    os.close(1)
    sys.stdout = None


COMMANDS = ["sample --json", "status", "eval", "-h", *(["sample", "sample -q", "table", "guide"] if ALL else [])]


@pytest.mark.parametrize(
    ("command", "where"),
    [(command, "/dev/full") for command in COMMANDS]
    + [(command, "closed") for command in (COMMANDS if ALL else COMMANDS[:2])],
)
def test_every_result_that_is_lost_with_standard_output_fails(where, command, tiny_run, workplace, tmp_path):
    """eval of a folder without `latest`: the run would keep a copy of its result."""
    model = tmp_path / "model"
    shutil.copytree(tiny_run, model, ignore=shutil.ignore_patterns("latest"))
    more = {
        "sample": ["--model", tiny_run],
        "status": [tiny_run],
        "eval": ["--model", model / "checkpoints/step-12", "--dataset", workplace / "corpus.txt", "--max-nfe", 4,
                 "--no-baselines"],
    }  # fmt: skip
    lost = None if where == "closed" else os.open("/dev/full", os.O_WRONLY)
    close = closed_output if where == "closed" else (lambda: None)
    job = Forked(*command.split(), *more.get(command.split()[0], []), stdout=lost, begin=close)
    err = job.communicate()[1].decode()
    if lost is not None:
        os.close(lost)
    assert job.returncode == 1, err
    reason = "No space left" if (command, where) == ("-h", "/dev/full") else "standard output cannot be written"
    assert reason in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["status", "guide models", "sample", *(["runs", "recipes", "-h"] if ALL else [])])
def test_a_reader_that_goes_away_early_is_nothing_to_speak_of(command, tiny_run):
    """Unless a result of work is lost with it."""
    more = {"status": [tiny_run], "runs": [tiny_run.parent], "sample": ["--model", tiny_run, "-q"]}
    reader, writer = os.pipe()
    os.close(reader)
    job = Forked(*command.split(), *more.get(command, []), stdout=writer)
    os.close(writer)
    err = job.communicate()[1].decode()
    if command == "sample":
        assert (job.returncode, err.count("\n")) == (1, 1), err
        assert "the result was lost" in err
    else:
        assert job.returncode == (1 if command == "-h" else 0)  # click ends its help so
        assert err.replace("Try next:", "").split("sedd recipes")[0].strip() == ""


def test_without_standard_streams_files_stay_whole(tiny_run, tmp_path):
    script = "import os, sys\nfor fd in (0, 1, 2): os.close(fd)\nos.execv(sys.executable, ['python', *sys.argv[1:]])"
    words = ["-c", "from sedd_cli.__main__ import main; main()", "sample", "--model", tiny_run, "--out", "s.jsonl"]
    done = subprocess.run([sys.executable, "-c", script, *map(str, words)], cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert [json.loads(line)["index"] for line in (tmp_path / "s.jsonl").read_text().splitlines()] == [0]


def test_redirected_samples_are_the_texts_themselves(tiny_run, sedd, monkeypatch):
    from sedd_cli.cli.view import view
    from sedd_cli.cli.view.denoising import sample
    from sedd_cli.system.events import Sampled

    monkeypatch.setattr(sample, "title_of", lambda event: ["title"])
    shown = view.View()
    shown.show(Sampled(0, "if\tx\f\r\a", [1], 1, 0.0))
    assert sedd("--version").out.startswith("--- title ---\nif\tx\f\r\a\n")


def test_no_home_is_said_in_one_line(monkeypatch, sedd):
    monkeypatch.delenv("SEDD_HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    outcome = sedd("prepare", "--list")
    assert outcome.code == 2
    assert "set SEDD_HOME" in outcome.err
    assert not Path("~").exists()


def test_a_warning_about_numbers_sends_no_control_codes(tiny_run, tmp_path, sedd):
    (tmp_path / "jobs").write_text('{"template": "a [MASK:2]", "\\u001b]0;title\\u0007": NaN}\n')
    ended = sedd("infill", "--model", tiny_run, "--input", tmp_path / "jobs", "--steps", "1", "--json")
    assert ended.code == 0
    assert "not finite, null in the JSON: samples.0.job.extra.\\x1b]0;title\\x07" in ended.err
    assert "\x1b" not in ended.err
