"""The path of someone with parts of their own: train, sample, measure, resume, export; and what is said on the way."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from support.outside import PARTS, nothing_imported
from support.toys import only_with_all

from sedd_cli import load_model
from sedd_cli.checkpoints import checkpoint
from sedd_cli.recipe.outside import import_parts


@pytest.fixture(scope="module")
def place(workplace, tmp_path_factory) -> Path:
    """A folder with the parts and a recipe that needs them."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_parts.py").write_text(PARTS)
    data = yaml.safe_load((workplace / "tiny.yaml").read_text())
    data |= {"name": "own", "noise": "constant", "sampler": {"name": "frozen_rates", "steps": 4}}
    (folder / "own.yaml").write_text(yaml.safe_dump(data))
    return folder


@pytest.fixture(autouse=True)
def _here(place, monkeypatch):
    monkeypatch.chdir(place)


@pytest.fixture
def own(sedd):
    """The command line, each time in a process that has imported nothing yet."""

    def call(*words, parts="my_parts.py"):
        with nothing_imported():
            return sedd(*words, *(["--import", parts] if parts else []))

    return call


@contextmanager
def changed(parts: Path) -> Iterator[None]:
    """The file of the parts with another content, which is only a comment."""
    before = parts.read_text()
    parts.write_text(before + "# changed\n")
    try:
        yield
    finally:
        parts.write_text(before)


@pytest.fixture
def run(own, place) -> Path:
    if not (place / "runs" / "own" / "latest").is_file():
        done = own("train", "own.yaml", "--device", "cpu")
        assert done.code == 0, done.err
        assert "sedd sample --model runs/own -n 3 --import my_parts.py" in done.err
    return place / "runs" / "own"


def test_without_the_file_nothing_begins_and_the_line_says_how_to_give_it(own, place):
    done = own("train", "own.yaml", parts=None)
    assert done.code == 2
    assert "unknown noise 'constant'" in done.err
    assert "--import FILE" in done.err
    assert own("sample", "--sampler", "frozen_rates", parts=None).code == 2


@pytest.mark.slow
def test_parts_from_outside_train_sample_and_measure(own, run, place, monkeypatch):
    stored = yaml.safe_load((run / "checkpoints" / "step-12" / "recipe.yaml").read_text())
    assert stored["parts"]["noise constant"]["source"] == "my_parts.py"
    sampled = own("sample", "--model", run, "-n", "1", "--json", "--device", "cpu")
    assert json.loads(sampled.out)["samples"][0]["sampler"] == "frozen_rates"
    other = own("sample", "--model", run, "-n", "1", "--sampler", "frozen-rates", "--steps", "2", "--json")
    assert json.loads(other.out)["samples"][0]["steps"] == 2
    assert own("eval", "--model", run, "--json", "--rel-error", "0.5").code == 0
    assert own("infill", "--model", run, "--template", "the [MASK:3]", "-q").code == 0
    assert own("status", run).code == 0
    assert own("inspect", run).code in (0, 1)
    longer = own("train", run, "train.steps=14", "--no-report")
    assert longer.code == 0
    assert checkpoint.latest(run).step == 14
    assert own("export", run, "--to", "exported").code == 0
    card = (place / "exported" / "README.md").read_text()
    assert "--import my_parts.py" in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    monkeypatch.syspath_prepend(place)
    with nothing_imported():
        exec(code, {})
    assert own("sample", "--model", "exported", "-n", "1", "-q").code == 0
    for words in (["sample", "--model", run], ["train", run], ["sample", "--model", "exported"]):
        refused = own(*words, parts=None)
        assert refused.code == 2
        assert "is of my_parts.py (sha256" in refused.err
        assert "give it with --import my_parts.py" in refused.err


@pytest.mark.slow
def test_looking_at_runs_needs_no_parts(own, run, tiny_run, tmp_path):
    """What was measured is read from files; nothing of the parts is run."""
    (shown,) = json.loads(own("runs", run, "--json", parts=None).out)["runs"]
    assert (shown["state"], shown["recipe"], shown["bound"]["corpus"]) == ("finished", "own", "corpus")
    assert "own, finished at step" in own("status", run, parts=None).out
    stopped = shutil.copytree(run, tmp_path / "stopped")
    (stopped / "latest").write_text("step-6")
    again = f"sedd train {stopped} --import my_parts.py"
    for parts in (None, "my_parts.py"):
        assert json.loads(own("status", stopped, "--json", parts=parts).out)["resume"] == again
        shown = own("status", stopped, parts=parts)
        assert (shown.out + shown.err).rstrip().endswith(again)
    compared = json.loads(own("compare", tiny_run, run, "--json", parts=None).out)
    assert compared["recipes"]["noise.name"] == ["loglinear", "constant"]
    assert compared["recipes"]["sampler.name"] == ["tweedie", "frozen_rates"]


@pytest.mark.slow
def test_a_file_that_changed_is_said_recorded_and_makes_another_fingerprint(own, run, place):
    parts, before = place / "my_parts.py", (place / "my_parts.py").read_text()
    copy = place / "copied"
    shutil.copytree(run, copy)

    def fingerprint() -> str:
        with nothing_imported():
            import_parts("my_parts.py")
            return load_model(copy, "cpu").fingerprint

    first = fingerprint()
    parts.write_text(before + "# changed\n")
    try:
        steps = checkpoint.latest(copy).step + 1
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            sampled = own("sample", "--model", copy, "-n", "1", "-q")
            assert fingerprint() != first
            trained = own("train", copy, f"train.steps={steps}", "--no-report")
        for done in (sampled, trained):
            assert done.code == 0
            assert "warning: noise constant, sampler frozen_rates have changed" in done.err
        assert own("sample", "--model", copy, "-n", "1", "-q").code == 0  # the new file is recorded: no warning
    finally:
        parts.write_text(before)
        shutil.rmtree(copy)


@pytest.mark.slow
def test_results_of_a_changed_sampler_are_not_taken_for_those_of_now(own, tiny_run, place):
    """The sampler's file is named in every result, and results of another version of it are refused."""
    (place / "jobs.txt").write_text("the [MASK:3] sat\n")
    fill = ["infill", "--model", tiny_run, "--input", "jobs.txt", "--out", "filled.jsonl", "--sampler", "frozen-rates"]
    draw = ["sample", "--model", tiny_run, "-n", "1", "--sampler", "frozen-rates", "--steps", "2", "--json"]
    assert own(*fill).code == 0
    assert own(*fill).code == 0
    (line,) = map(json.loads, (place / "filled.jsonl").read_text().splitlines())
    digest = hashlib.sha256((place / "my_parts.py").read_bytes()).hexdigest()
    assert line["made_by"]["parts"]["sampler frozen_rates"] == {"source": "my_parts.py", "sha256": digest}
    code = f"my_parts.py {digest[:12]}"
    assert line["levers"]["code"] == line["job"]["options"]["code"] == code
    assert json.loads(own(*draw).out)["samples"][0]["levers"]["code"] == code
    with changed(place / "my_parts.py"):
        refused = own(*fill)
        assert refused.code == 2
        assert f"other options (code '{code}', now 'my_parts.py " in refused.err
        assert own(*fill, "--fresh").code == 0
        assert json.loads(own(*draw).out)["samples"][0]["levers"]["code"] != code


@pytest.mark.slow
def test_a_sampler_of_ones_own_is_swept(own, tiny_run, place, workplace):
    """As the help spells it; in the folder of another version of its file it is refused."""
    judge = ["train", workplace / "tiny.yaml", "objective=autoregressive", "--no-report"]
    assert own(*judge, "--run-dir", "runs/judge", "--device", "cpu").code == 0
    words = ["sweep", "--model", tiny_run, "--judge", "runs/judge", "--sampler", "frozen-rates,tweedie"]
    words += ["--steps", "2,4", "-n", "2", "--length", "12", "--out", "swept", "--no-self-bleu"]
    done = own(*words, "--json")
    assert done.code == 0, done.err
    assert [point["sampler"] for point in json.loads(done.out)["points"]] == ["frozen_rates"] * 2 + ["tweedie"] * 2
    lines = (place / "swept" / "samples" / "frozen_rates-2.jsonl").read_text().splitlines()
    assert all("made_by" in json.loads(line) for line in lines)
    exact = ["sweep", "--exact", "--sampler", "frozen-rates,tweedie", "--steps", "4", "--length", "3", "--json"]
    found = json.loads(own(*exact, "--graph", "absorbing").out)
    assert "frozen-rates" in [point["sampler"] for point in found["points"]]
    assert found["made_by"]["parts"]["sampler frozen_rates"]["source"] == "my_parts.py"
    with changed(place / "my_parts.py"):
        refused = own(*words)
    assert refused.code == 2
    assert "swept holds a sweep with another code of frozen_rates: choose" in refused.err


def test_the_command_behind_prepare_is_the_same_in_json(own, workplace):
    done = own("prepare", workplace / "corpus.txt", "--tokenizer", "char", "--json")
    command = json.loads(done.out)["train"]
    assert command.endswith(" --import my_parts.py")
    assert f"  {command}\n" in done.err


def test_help_names_the_parts(own):
    shown = own("sample", "--help", parts=None).out
    assert "frozen-rates" not in shown
    with_parts = own("sample", "--import", "my_parts.py", "--help", parts=None).out
    assert "frozen-rates" in with_parts
    assert "noise constant" in " ".join(with_parts.replace("│", " ").split())


@pytest.mark.parametrize(
    "command",
    ["train", "eval", "sample", "infill", "mauve", "judge", "sweep", "bench loss", "recipes", "recipes show x"],
)
def test_every_command_takes_it(own, command):
    refused = own(*command.split(), parts="no_such_file.py")
    assert refused.code == 2
    assert "--import no_such_file.py: there is no such file" in refused.err


@only_with_all
@pytest.mark.slow
def test_under_torchrun_every_process_imports_it_and_a_change_is_said_once(place, workplace):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = ["-m", "sedd_cli", "train", "own.yaml", "--import", "my_parts.py", "--run-dir", "runs/two"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}

    def go(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words, "--device", "cpu", "--no-report"],
            env=environment, cwd=place, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stderr

    go(*command)
    parts, before = place / "my_parts.py", (place / "my_parts.py").read_text()
    parts.write_text(before + "# changed\n")
    try:
        said = go(*launcher, *command, "train.steps=14")
    finally:
        parts.write_text(before)
    assert said.count("warning: noise constant, sampler frozen_rates have changed") == 1
    assert checkpoint.latest(place / "runs" / "two").step == 14
