"""Commands in odd surroundings: read-only runs, full disks, Ctrl-C, options that a recipe repeats, typed overrides."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml
from support.forked import Forked

from sedd_cli.recipe import load_recipe

START = "from sedd_cli.__main__ import main; main()"


def test_a_run_that_cannot_be_written_is_evaluated(tiny_run, workplace, tmp_path, sedd, monkeypatch):
    from sedd_cli.checkpoints.run_directory import RunDir

    def denied(*_):
        raise PermissionError(13, "Permission denied", "results")

    monkeypatch.setattr(RunDir, "store", denied)
    words = ["--model", tiny_run, "--dataset", workplace / "corpus.txt", "--max-nfe", 4, "--no-baselines"]
    outcome = sedd("eval", *words, "--out", tmp_path / "r.json")
    assert outcome.code == 0, outcome.err
    assert "rigorous" in outcome.out
    assert "keeps no copy" in outcome.err
    assert json.loads((tmp_path / "r.json").read_text())["bounds"]


@pytest.mark.parametrize(
    "words", [["sample", "-n", 60, "--steps", 2, "-q"], ["sample", "--html", "p.html", "--steps", 2]]
)
def test_a_full_disk_is_named_with_its_file(words, tiny_run, tmp_path):
    file = "s.jsonl" if "--html" not in words else "p.html"
    words = [*words, *(["--out", file] if "--html" not in words else [])]
    job = Forked(
        *words, "--model", tiny_run, cwd=tmp_path, text=True,
        begin=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048)),
    )  # fmt: skip
    err = job.communicate()[1]
    assert job.returncode == 1, err
    assert err.strip().split("\n")[-1].startswith(f"error: cannot write {file}: File too large")


def test_ctrl_c_is_heard_while_a_library_works(tmp_path):
    (tmp_path / "x.train.txt").write_text("".join(chr(0x4E00 + i * 7919 % 20000) for i in range(3_000_000)))
    (tmp_path / "y.valid.txt").write_text("a\n\nb")
    job = subprocess.Popen(
        [sys.executable, "-c", START, "prepare", str(tmp_path), "--tokenizer", "bpe:30000"], stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        env={**os.environ, "SEDD_HOME": str(tmp_path / ".home")},
    )  # fmt: skip
    assert job.stderr is not None
    while b"training the tokenizer" not in (line := job.stderr.readline()):
        assert line, "it ended before"
    time.sleep(0.5)
    job.send_signal(signal.SIGINT)
    began = time.monotonic()
    job.communicate()
    assert job.returncode == 130
    assert time.monotonic() - began < 20, "1 s on a machine that is not busy"


def test_what_was_prepared_with_options_is_trained_on_and_evaluated(workplace, tmp_path, sedd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = [f"the cat sat on the mat {i}" for i in range(400)]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"content": text}) + "\n" for text in texts))
    recipe = yaml.safe_load((workplace / "tiny.yaml").read_text()) | {
        "data": {"corpus": "c.jsonl", "tokenizer": "char"}
    }
    recipe["train"]["steps"] = 2
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    assert sedd("prepare", "c.jsonl", "--field", "content", "--tokenizer", "char", "-q").code == 0
    words = ["train", "r.yaml", "--run-dir", "run", "--no-report", "-q"]
    assert "choose one with --field" in sedd(*words).err
    assert sedd(*words, "data.field=content").code == 0
    prepared = len(list((workplace / "home" / "data").glob("c-char-*")))
    measure = ["eval", "--model", "run", "--max-nfe", 4, "--no-baselines", "-q"]
    assert sedd(*measure, "--dataset", "c.jsonl").code == 0, "the run's own corpus is read as its recipe says"
    assert sedd(*measure, "--dataset", "c.jsonl", "--field", "content").code == 0
    folder = next((workplace / "home" / "data").glob("c-char-*"))
    assert sedd(*measure, "--dataset", folder).code == 0
    assert len(list((workplace / "home" / "data").glob("c-char-*"))) <= prepared + 1


@pytest.mark.parametrize(
    ("typed", "key", "value"),
    [
        ("data.corpus=wiki #2.txt", "data.corpus", "wiki #2.txt"),
        ("data.corpus=no", "data.corpus", "no"),
        ("data.corpus=2024-01-01", "data.corpus", "2024-01-01"),
        ("data.corpus=a: b.txt", "data.corpus", "a: b.txt"),
        ("data.corpus=[x].txt", "data.corpus", "[x].txt"),
        ("data.corpus=010", "data.corpus", "010"),
        ("data.tokenizer=null", "data.tokenizer", None),
        ("name=1e3", "name", "1e3"),
        ("train.steps=010", "train.steps", 10),
        ("train.lr=3e-4", "train.lr", 3e-4),
        ("train.betas=[0.9, 0.95]", "train.betas", (0.9, 0.95)),
        ("train.betas=0.9,0.95", "train.betas", (0.9, 0.95)),
        ("train.compile=no", "train.compile", False),
        ("train.keep_every=null", "train.keep_every", None),
        ("report.infill={prefix: 'no', length: 4}", "report.infill.length", 4),
    ],
)
def test_an_override_means_what_the_type_of_its_field_says(typed, key, value):
    found = load_recipe("quickstart", [typed])
    for name in key.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


def test_a_renamed_run_is_one_run(tiny_run, tmp_path, sedd):
    shutil.copytree(tiny_run, tmp_path / "[best] run")
    outcome = sedd("sample", "--model", tmp_path / "[best] run", "--steps", 2)
    assert outcome.code == 0
    assert "[best] run" in outcome.err
