"""A wrong request is refused with one line and exit code 2, before a model is loaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from sedd_cli.cli import options
from sedd_cli.errors import RequestError
from sedd_cli.inference.template import parse_template
from sedd_cli.models.precision import PRECISIONS


@pytest.fixture
def refused(sedd, tmp_path, monkeypatch):
    """Runs a command line in an empty folder; returns the line of its refusal."""
    from sedd_cli.checkpoints import load
    from sedd_cli.evaluation.scorers import pretrained

    def loaded(*_):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(load, "open_model", loaded)
    monkeypatch.setattr(pretrained, "load_exact", loaded)
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> str:
        done = sedd(*words, "--json")
        assert "a model was loaded" not in done.err, done.err
        assert done.code == 2, done.err
        return done.err

    return run


SAMPLING = {
    "--temperature": ("nan", "inf", "-1"),  # 0 is up to the sampler, which may be the model's own
    "--top-p": ("0", "nan", "1.5", "-0.1", "inf"),
    "--remask": ("nan", "2", "-0.1", "inf"),
    "--correctors": ("-1", "9999999"),
    "--steps": ("0", "-1", "99999999"),
    "--batch": ("0", "-1"),
    "--kappa": ("nan", "1.5", "-1"),
    "--beta": ("nan", "-1", "inf"),
    "--threshold": ("nan", "2", "-1"),
    "--entropy-bound": ("nan", "-1", "inf"),
    "--sweeps": ("0", "-1", "9999999"),
    "--grid": ("nonsense",),
    "--last-step": ("nonsense",),
    "--sampler": ("nonsense",),
    "--precision": ("fp99",),
    "--device": ("nonsense", "cuda:x", "cuda:٣"),
    "--seed": ("-1", str(2**64)),
    "-n": ("0", "-1"),
}
COMMANDS = {
    "sample": {"--length": ("0", "-1"), "--block": ("0",), "--stride": ("0", "-2")},
    "infill -t [MASK:2]": {"--length": ("0", "-1"), "--candidates": ("0",)},
}
OTHERS = [
    *(f"eval --rel-error {value}" for value in ("nan", "0", "-1", "inf")),
    *(f"eval --{name} {value}" for name in ("blocks", "length", "max-nfe") for value in (0, -1)),
    "eval --dataset nodir/x.txt", "cloze --dataset nodir/x.txt", "eval --precision fp99", "eval --estimator nonsense",
    "cloze -n 0", "cloze --candidates 0", "cloze --seed -1", "inspect x --seed -1", "inspect x --precision fp99",
    "sweep --exact --letters 26 --length 9", "sweep --exact --letters 1", "sweep --exact --judge x",
    "sweep --exact -n 3", "sweep --exact --sampler nonsense", "sweep --exact --graph nonsense",
    "sweep --letters 3 --steps 4 --judge x", "sweep --judge x", "sweep --steps 4",
    "sweep --judge x --steps 4 --length 0", "sweep --judge x --steps ٣", "sweep --judge x --steps 4 --seed -1",
    *(f"mauve --references x --temperature {value}" for value in ("nan", "inf")),
    *(f"{line} --sampler tweedie --temperature 0" for line in ("sample", "infill -t [MASK:2]", "mauve --references x")),
    "table 2 --mini --run all --rel-error nan", "table 2 --budget ٣m --run all", "table 2 --seeds 0",
    "bench report --minutes nan", "bench prepare --megabytes inf", "bench loader --batch 0", "prepare x --workers 0",
]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        (command, option, value)
        for command, own in COMMANDS.items()
        for option, values in (SAMPLING | own).items()
        for value in values
    ],
)
def test_values_out_of_range_of_commands_that_sample(command, option, value, refused):
    refused(*command.split(), option, value)


@pytest.mark.parametrize("line", OTHERS)
def test_values_out_of_range_of_other_commands(line, refused):
    refused(*line.split())


def test_the_options_know_every_precision():
    assert options.PRECISIONS == PRECISIONS


@pytest.mark.parametrize(
    "words",
    [
        ["sample", "--tokenizer", ""], ["sample", "--model", ""], ["inspect", ""], ["eval", "--dataset="],
        ["train", "quickstart", "--run-dir", ""], ["prepare", "pydocs", "--from", ""], ["sample", "--out", ""],
        ["bench", "report", "--only", ""],
    ],
)  # fmt: skip
def test_an_empty_value_is_refused(words, refused):
    assert "is empty" in refused(*words)


@pytest.mark.parametrize("command", ["sample --out", "infill -t [MASK:2] --out", "eval --out", "sample --html"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [("x" * 255, "255 bytes"), ("x" * 300, "300 bytes"), ("é" * 125, "250 bytes"), ("new/", "folder")],
)
def test_a_name_that_cannot_be_written(command, name, reason, refused, tmp_path):
    assert reason in refused(*command.split(), name).replace("\n", "")
    assert not list(tmp_path.iterdir())


def test_a_foreign_output_of_jobs(refused, tmp_path):
    (tmp_path / "jobs.jsonl").write_text('{"template": "[MASK:2]"}\n')
    (tmp_path / "mine.txt").write_text("my diary\n")
    assert "holds something else" in refused("infill", "--input", "jobs.jsonl", "--out", "mine.txt")


@pytest.mark.parametrize(
    "line",
    [
        "infill --input fifo", "sample --prompts fifo", "eval --dataset fifo", "prepare fifo", "cloze --dataset fifo",
        "judge fifo.txt --judge x",
    ],
)  # fmt: skip
def test_a_pipe_without_a_writer_is_refused(line, refused, tmp_path):
    for name in ("fifo", "fifo.txt"):
        os.mkfifo(tmp_path / name)
    assert "no regular file" in refused(*line.split())


def test_a_pipe_of_the_shell_is_read(tiny_run):
    line = f'{sys.executable} -m sedd_cli infill --model {tiny_run} -q --input <(echo \'{{"template": "[MASK:2]"}}\')'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_deleted_folder_is_said(tmp_path):
    (tmp_path / "gone").mkdir()
    script = "import os; os.rmdir(os.getcwd()); from sedd_cli.__main__ import main; main()"
    words = [sys.executable, "-c", script, "sample"]
    done = subprocess.run(words, cwd=tmp_path / "gone", capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "current folder" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("template", ["[MASK:٣]", "[MASK:1-٣]"])
def test_digits_of_other_scripts_are_no_length(template):
    with pytest.raises(RequestError, match="is no gap"):
        parse_template(f"a {template}")


def test_dry_run_refuses_what_the_run_refuses_and_nothing_else(sedd, workplace):
    words = ["train", workplace / "tiny.yaml", "report.infill.length=999", "--dry-run"]
    assert sedd(*words).code == 2
    assert sedd(*words, "--no-report").code == 0


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["train.steps=4", "train.steps.x=3"], "train.steps is one value"),
        (["train.steps.x=3"], "train.steps is one value"),
        (["name.x.y=3"], "name is one value"),
        (["train.betas.x=3"], "train.betas is one value"),
        (["sampler.steps=3", "sampler=euler"], "replaces sampler.steps"),
    ],
)
def test_overrides_that_do_not_fit_each_other(overrides, reason, refused):
    assert reason in refused("train", "quickstart", *overrides)


def test_overrides_of_parts_stay(sedd):
    assert sedd("train", "quickstart", "--dry-run", "graph=uniform", "sampler=euler", "sampler.steps=3").code == 0


def test_a_job_that_names_a_key_twice_is_refused(sedd, tiny_run, tmp_path):
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text('{"template": "[MASK:2]"}\n{"template": "[MASK:2]", "n": 1, "n": 2}\n')
    done = sedd("infill", "--model", tiny_run, "--input", jobs)
    assert done.code == 2
    assert "line 2" in done.err
    assert "'n'" in done.err


def test_a_document_that_names_a_key_twice_is_refused(tmp_path):
    from sedd_cli.errors import DamageError
    from sedd_cli.system.documents import read_json

    (tmp_path / "config.json").write_text('{"model": {"length": 1, "length": 2}}')
    with pytest.raises(DamageError, match=r"config.json: the key 'length' stands twice"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize(("size", "file"), [(10**7, "latest"), (5 * 10**6, "manifest.json")])
def test_values_of_foreign_files_are_cut(size, file, sedd, tiny_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    if file == "latest":
        (run / file).write_text("step 12 " * (size // 8))
    else:
        at = run / "checkpoints" / "step-12" / file
        manifest = json.loads(at.read_text())
        manifest["sha256"]["x" * size] = "0"
        at.write_text(json.dumps(manifest))
    done = sedd("sample", "--model", run)
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert len(done.err) < 1000
