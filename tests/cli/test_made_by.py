"""Every JSON result names what made it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import sedd_cli
from sedd_cli.cli.app import PANELS
from sedd_cli.inference.resumable import resumable_samples
from sedd_cli.system.events import Sampled
from sedd_cli.tables.definition import load_table
from sedd_cli.tables.row_run import RowRun
from sedd_cli.tables.row_status import write_result

COMMANDS = {
    "eval": ["--rel-error", "0.5", "--blocks", "4"],
    "sample": ["-n", "1", "--steps", "2"],
    "infill": ["--template", "the [MASK:2]", "--steps", "2"],
    "cloze": ["-n", "2"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_result_names_its_command_date_versions_and_revision(sedd, tiny_run, command):
    done = sedd(command, "--model", tiny_run, "--device", "cpu", "--json", *COMMANDS[command])
    assert done.code == 0, done.err
    made_by = json.loads(done.out)["made_by"]
    assert set(made_by) == {"command", "date", "software", "revision"}
    assert made_by["command"].startswith(f"sedd {command} --model ")
    assert {"sedd", "torch", "python"} <= set(made_by["software"])


def test_the_table_and_a_bench_too(sedd, workplace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for module in ("loss", "model"):
        monkeypatch.setattr(f"sedd_cli.bench.{module}.matmul_peak", lambda device: 1e12)
    small = ["--recipe", str(workplace / "tiny.yaml"), "--batch", "1", "--repeats", "1", "--device", "cpu"]
    for words in (["table", "1"], ["bench", "loss", "data.tokenizer=byte", *small]):
        done = sedd(*words, "--json")
        assert json.loads(done.out)["made_by"]["command"].startswith("sedd "), done.err


def test_every_line_of_a_file_of_samples_too(sedd, tiny_run, tmp_path):
    (tmp_path / "jobs.txt").write_text("the [MASK:2] sat\na [MASK:3]\n")
    commands = {
        "sampled.jsonl": ["sample", "-n", "2", "--steps", "2"],
        "filled.jsonl": ["infill", "--template", "the [MASK:2]", "-n", "2"],
        "batch.jsonl": ["infill", "--input", tmp_path / "jobs.txt"],
    }
    for name, words in commands.items():
        out = tmp_path / name
        for _ in range(2):  # a batch is taken up, and its lines stay
            assert sedd(*words, "--model", tiny_run, "--device", "cpu", "--out", out).code == 0
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        assert len(lines) == 2
        for line in lines:
            assert line["made_by"]["command"].startswith(f"sedd {words[0]} ")
            assert {"date", "software", "revision"} <= set(line["made_by"])


def test_samples_that_are_taken_up_keep_what_made_them(tmp_path):
    path = tmp_path / "a.jsonl"
    list(resumable_samples(path, 1, lambda first: iter([Sampled(0, "a", [1], 2, 0.1)]), "a"))
    before = json.loads(path.read_text())
    list(resumable_samples(path, 2, lambda first: iter([Sampled(1, "b", [1], 2, 0.1)]), "a"))
    first, second = map(json.loads, path.read_text().splitlines())
    assert first == before
    assert "revision" in first["made_by"]
    assert second["text"] == "b"


def test_a_row_of_a_table_too(tmp_path):
    table = load_table("1")
    run = RowRun(table, table.rows[0], False, 0, tmp_path)
    column = run.columns[0]
    result = {"bounds": {"rigorous": {run.unit: 1.0, f"{run.unit}_error": 0.1}}}
    write_result(run, column, result, 2.0)
    found = json.loads(run.result_file(column).read_text())
    assert found["result"] == result
    assert "revision" in found["made_by"]


#: Commands whose JSON is no result: it tells what there is.
NO_RESULTS = {"recipes", "runs", "doctor", "guide"}


def test_no_command_that_measures_is_left_out():
    """The source of each other command stamps its document."""
    package = Path(sedd_cli.__file__).parent / "cli"
    sources = {path.stem: path.read_text() for path in (package / "commands").rglob("*.py")}
    commands = [name for panel in PANELS.values() for name in panel]
    assert {name for name in commands if "recorded(" not in sources[name]} == NO_RESULTS


def test_what_a_training_stores_too(tiny_run):
    stored = [json.loads(path.read_text()) for path in (tiny_run / "results").glob("*.json")]
    assert stored
    assert all("revision" in result["made_by"] for result in stored)


def test_a_status_an_export_and_a_preparation_too(sedd, tiny_run, workplace, tmp_path):
    for words in (
        ["status", tiny_run],
        ["export", tiny_run, "--to", tmp_path / "out"],
        ["prepare", workplace / "corpus.txt", "--tokenizer", "byte"],
    ):
        done = sedd(*words, "--json")
        assert json.loads(done.out)["made_by"]["command"].startswith(f"sedd {words[0]}"), done.err
