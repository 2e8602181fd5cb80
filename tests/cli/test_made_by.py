"""Every JSON result names what made it."""

from __future__ import annotations

import json

import pytest

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
    small = ["--recipe", str(workplace / "tiny.yaml"), "--batch", "1", "--repeats", "1", "--device", "cpu"]
    for words in (["table", "1"], ["bench", "loss", "data.tokenizer=byte", *small]):
        done = sedd(*words, "--json")
        assert json.loads(done.out)["made_by"]["command"].startswith("sedd "), done.err


def test_what_a_training_stores_too(tiny_run):
    stored = [json.loads(path.read_text()) for path in (tiny_run / "results").glob("*.json")]
    assert stored
    assert all("revision" in result["made_by"] for result in stored)
