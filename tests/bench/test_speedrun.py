"""The speedrun: bits per character against seconds, within a time."""

from __future__ import annotations

import json
import time

import pytest
from support.jobs import completed

from sedd_cli.bench import speedrun
from sedd_cli.bench.speedrun import SpeedrunOptions, bench_speedrun
from sedd_cli.checkpoints.checkpoint import latest_name
from sedd_cli.errors import RequestError, WorkError
from sedd_cli.recipe import load_recipe
from sedd_cli.system.events import Sampled
from sedd_cli.training.train import TrainResult


def options(workplace, folder, *words, **changed) -> SpeedrunOptions:
    recipe = load_recipe(workplace / "tiny.yaml", ["report.every=4", "report.blocks=2", *words])
    return SpeedrunOptions(**{"recipe": recipe, "run": folder / "run", "minutes": 60.0, "device": "cpu"} | changed)


def test_the_table_holds_each_validation_and_the_bound_on_the_whole_test_split(workplace, tmp_path):
    events, result = completed(bench_speedrun(options(workplace, tmp_path)))
    assert [(p.step, p.split, p.sign) for p in result.points] == [
        (4, "validation", "≤"), (8, "validation", "≤"), (12, "test", "≤"),
    ]  # fmt: skip
    assert [p.tokens for p in result.points] == [step * 8 * 24 for step in (4, 8, 12)]
    seconds = [p.seconds for p in result.points]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    assert seconds[-1] <= result.seconds
    logged = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    found = [line["bits_per_char"] for line in logged if line["kind"] == "validation"]
    stored = json.loads((tmp_path / "run/results/test-step-12.json").read_text())["bounds"]["rigorous"]
    assert [p.bits_per_char for p in result.points] == [*found, stored["bits_per_char"]]
    assert result.within
    assert result.memory > 0
    assert any(isinstance(e, Sampled) for e in events)


def test_time_before_the_training_counts(workplace, tmp_path):
    late = options(workplace, tmp_path, began=time.monotonic() - 100)
    _, result = completed(bench_speedrun(late))
    assert all(p.seconds > 100 for p in result.points)


def test_the_training_ends_when_the_time_is_over(workplace, tmp_path):
    _, result = completed(bench_speedrun(options(workplace, tmp_path, minutes=1e-9)))
    assert result.step == 1, "a step that has begun is finished"
    assert not result.within
    assert not result.points
    assert latest_name(result.run) == "step-1", "what was trained is kept"
    _, result = completed(bench_speedrun(options(workplace, tmp_path, "train.steps=1", "train.warmup=0", minutes=1e-9)))
    assert result.step == 1
    assert result.points[-1].split == "test", "what is trained is evaluated"
    assert not result.within


@pytest.mark.parametrize(("interrupted", "error"), [(True, KeyboardInterrupt), (False, WorkError)])
def test_a_training_that_a_signal_stopped_is_not_late(interrupted, error, workplace, tmp_path, monkeypatch):
    def stopped(*_):
        return TrainResult(tmp_path, 3, finished=False, interrupted=interrupted)
        yield

    monkeypatch.setattr(speedrun, "train", stopped)
    with pytest.raises(error):
        list(bench_speedrun(options(workplace, tmp_path)))


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("inf"), float("nan")])
def test_the_time_is_positive_and_finite(minutes, workplace, tmp_path):
    with pytest.raises(RequestError, match="minutes must be positive"):
        options(workplace, tmp_path, minutes=minutes)


def test_the_command_prints_a_table_and_writes_json(sedd, workplace, tmp_path):
    (tmp_path / "run").mkdir()
    words = ("--recipe", str(workplace / "tiny.yaml"), "--run-dir", str(tmp_path / "run"), "--device", "cpu")
    done = sedd("bench", "speedrun", *words, "--minutes", "60", "--out", str(tmp_path / "run.json"), "--quiet")
    assert done.code == 0, done.err
    assert "bits/char" in done.out
    assert "test" in done.out
    assert "3,600 s allowed" in done.out
    document = json.loads((tmp_path / "run.json").read_text())
    assert document["bench"] == "speedrun"
    assert document["within"]
    assert document["torch"]
    assert document["run"] == str(tmp_path / "run-2"), "a folder that exists is left alone"


def test_a_run_that_is_too_slow_fails_and_prints_what_it_has(sedd, workplace, tmp_path):
    words = ("--recipe", str(workplace / "tiny.yaml"), "--run-dir", str(tmp_path / "run"), "--device", "cpu")
    done = sedd("bench", "speedrun", *words, "--minutes", "1e-9", "--json")
    assert done.code == 1
    document = json.loads(done.out)
    assert not document["within"]
    assert "minutes were over at step 1 of 12: sedd train" in document["error"]
    assert sedd("bench", "speedrun", *words, "--minutes", "0").code == 2
