"""With --json, a command that fails prints one document too."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import save_file
from support.published_models import save_published

from sedd_cli.errors import DamageError, RequestError, WorkError, shell_command

#: A command line for each command, refused or not.
COMMANDS = {
    "prepare": [], "train": [], "status": ["nowhere"], "sample": ["--steps", "0"], "infill": [], "export": ["nowhere"],
    "inspect": ["nowhere"], "eval": ["--model", "nowhere"], "judge": ["nowhere.txt", "--judge", "nowhere"],
    "sweep": ["--steps", "x", "--judge", "y"], "cloze": ["-n", "0"], "mauve": ["--references", "nowhere", "-n", "0"],
    "table": ["99"], "bench train": ["nokey=1"], "bench loss": ["nokey=1"], "bench sample": ["nokey=1"],
    "bench prepare": ["nowhere.txt"], "bench loader": ["--batch", "0"],
}  # fmt: skip


def failed(done) -> dict:
    """The one document of a command that failed."""
    document = json.loads(done.out)
    assert document.keys() == {"error", "exit"}
    assert document["exit"] == done.code != 0
    assert document["error"]
    assert "\n" not in document["error"]
    return document


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_request_is_a_json_document_and_exit_code_2(command, sedd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = sedd(*command.split(), *COMMANDS[command], "--json")
    document = failed(done)
    assert document["exit"] == 2
    assert done.err.splitlines()[-1] == f"error: {document['error']}"


@pytest.mark.parametrize("command", [*COMMANDS, "doctor"])
def test_a_wrong_command_line_is_a_json_document_and_exit_code_2(command, sedd):
    done = sedd(*command.split(), "--json", "--frobnicate")
    assert failed(done)["exit"] == 2
    assert "frobnicate" in json.loads(done.out)["error"]
    assert "frobnicate" in done.err


def test_an_unknown_command_and_a_missing_argument(sedd):
    assert "frobnicate" in failed(sedd("frobnicate", "--json"))["error"]
    assert "--judge" in failed(sedd("judge", "file", "--json"))["error"]
    assert failed(sedd("eval", "--samples", "a", "--cloze", "2", "--json"))["exit"] == 2


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (RequestError("so not"), 2, "so not"),
        (WorkError("two\nlines"), 1, "two lines"),
        (DamageError("broken"), 1, "broken"),
        (KeyError("k"), 1, "KeyError: 'k' (--debug shows the traceback)"),
        (FileNotFoundError(2, "No such file", "f.txt"), 1, "f.txt: No such file"),
        (PermissionError(13, "Permission denied", "f.txt"), 2, "f.txt: Permission denied"),
        (MemoryError(), 1, "not enough memory: use a smaller batch"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_every_kind_of_error(error, code, line, sedd, monkeypatch):
    def examine():
        raise error

    monkeypatch.setattr("sedd_cli.evaluation.environment.examine", examine)
    done = sedd("doctor", "--json")
    assert failed(done) == {"error": line, "exit": code}
    said = "interrupted before the work began: nothing was written" if code == 130 else f"error: {line}"
    assert done.err == f"{said}\n"
    assert sedd("doctor").out == ""


def test_quiet_prints_the_result(sedd, tiny_run, workplace, monkeypatch, tmp_path):
    monkeypatch.setattr("sedd_cli.evaluation.environment.examine", lambda: [])
    shutil.copytree(tiny_run, tmp_path / "other")
    expected = {
        "doctor": ["check"],
        "inspect": ["weights", "normaliser"],
        "status": ["training loss"],
        "compare": ["B - A"],
        "prepare": ["documents", "validation"],
        "prepare --list": ["pydocs", "prepared in"],
    }
    more = {
        "inspect": [tiny_run],
        "status": [tiny_run],
        "compare": [tiny_run, tmp_path / "other"],
        "prepare": [workplace / "corpus.txt", "--tokenizer", "char"],
    }
    for command, found in expected.items():
        words = [*command.split(), *more.get(command, []), "--quiet"]
        done = sedd(*words)
        assert (done.code, done.err) == (0, ""), command
        assert all(one in done.out for one in found), done.out
        json.loads(sedd(*words, "--json").out)
    monkeypatch.setenv("RANK", "1")
    assert sedd("doctor").out == sedd("status", tiny_run, "-q").out == ""  # the first process speaks


def test_ctrl_c_during_a_job(sedd, tiny_run, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sedd_cli.inference.generate.denoise", interrupted, raising=False)
    monkeypatch.setattr("sedd_cli.cli.view.view.View.show", interrupted)
    done = sedd("sample", "--model", tiny_run, "--json")
    assert failed(done) == {"error": "interrupted", "exit": 130}


def test_ctrl_c_during_a_speedrun_names_the_run_that_it_leaves(sedd, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sedd_cli.cli.view.view.View.show", interrupted)
    (tmp_path / "r").mkdir()
    done = sedd("bench", "speedrun", "--run-dir", tmp_path / "r")
    assert done.code == 130
    assert shell_command(["sedd", "train", str(tmp_path / "r-2")]) in " ".join(done.err.split())


def test_debug_adds_the_traceback_and_changes_nothing_else(sedd, tiny_run):
    done = sedd("sample", "--model", tiny_run, "--steps", 0, "--json", "--debug")
    assert "at least 1" in failed(done)["error"]
    assert done.err.startswith("Traceback")


def test_other_processes_than_the_first_print_nothing(sedd, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = sedd("train", "--json")
    assert (done.code, done.out, done.err) == (2, "", "")


def test_results_of_a_partial_failure_carry_the_error(sedd, tiny_run, tmp_path):
    (tmp_path / "jobs.jsonl").write_text('{"template": "the [MASK:2]"}\n{"template": "no gap"}\n')
    done = sedd("infill", "--model", tiny_run, "--input", tmp_path / "jobs.jsonl", "--json")
    document = json.loads(done.out)
    assert len(document["samples"]) == 1
    assert document["exit"] == done.code == 2
    assert done.err.splitlines()[-1] == f"error: {document['error']}"


def test_a_model_that_is_not_in_order(sedd, tmp_path):
    state = save_published(tmp_path / "m")
    state["blocks.1.mlp.0.bias"][3] = float("nan")
    save_file(state, tmp_path / "m" / "model.safetensors")
    document = json.loads(sedd("inspect", tmp_path / "m", "--json").out)
    assert document["exit"] == 1
    assert "is not in order" in document["error"]
    assert document["findings"]


@pytest.mark.parametrize(
    "words",
    [["sample"], ["infill", "[MASK]"], ["export", "x", "--to", "y"], ["inspect", "x"], ["mauve", "--references", "x"],
     ["table", "2", "--mini", "--run", "all"]],
)  # fmt: skip
def test_commands_of_one_process_want_no_torchrun(sedd, monkeypatch, tmp_path, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = sedd(*words)
    assert (done.code, "start it without torchrun" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["recipes", "--json", "show", "quickstart"], "sedd recipes show NAME --json"),
        (["table", "--mini", "--run", "all"], "which table?"),
        (["table", "2", "--mini", "--run", "all", "--run", "typo", "--dry-run"], "typo"),
    ],
)
def test_what_would_be_dropped_is_refused(sedd, words, said):
    done = sedd(*words)
    assert (done.code, said in done.err) == (2, True)
