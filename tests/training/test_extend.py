"""Runs that go on for more steps than they were made for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.jobs import completed, without_origin

from sedd_cli import load_model
from sedd_cli.checkpoints import checkpoint
from sedd_cli.checkpoints.run_directory import RunDir
from sedd_cli.errors import RequestError, WorkError
from sedd_cli.recipe import dump_recipe, load_recipe
from sedd_cli.recipe.learning_rate import common_steps, learning_rate, pinned_steps, steps_before_decay
from sedd_cli.system.events import Note, Saved, TrainStep
from sedd_cli.training.status import status
from sedd_cli.training.train import TrainOptions, train

STABLE = ("train.decay=0.34", "train.save_every=3", "train.keep=1")


def run(workplace: Path, folder: Path, *changes: str, extend: bool = False, report: bool = False) -> list:
    """The events of a training of the tiny recipe."""
    options = TrainOptions(folder, "cpu", report=report, extend=extend)
    return completed(train(load_recipe(workplace / "tiny.yaml", changes), options))[0]


def everything(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the latest checkpoint: weights, averages and moments."""
    found = checkpoint.latest(folder)
    return {f"{kind}.{k}": v for kind in ("weights", "ema", "adamw") for k, v in found.tensors(kind).items()}


def same(a: Path, b: Path) -> bool:
    x, y = everything(a), everything(b)
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def steps_of(folder: Path) -> list[int]:
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [r["step"] for r in records if r["kind"] == "train"]


def rates(*changes: str) -> list[float]:
    recipe = load_recipe("quickstart", ["train.lr=1.0", "train.warmup=0", *changes])
    return [learning_rate(recipe, step) for step in range(1, recipe.train.steps + 1)]


def test_the_rate_is_stable_and_then_falls_to_its_end():
    found = rates("train.schedule=constant", "train.steps=10", "train.decay=4")
    assert found == pytest.approx([1, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    assert found == rates("train.schedule=constant", "train.steps=10", "train.decay=0.4")
    assert rates("train.schedule=constant", "train.steps=4", "train.decay=4") == rates(
        "train.schedule=linear", "train.steps=4"
    )


def test_an_extended_schedule_is_the_short_one_and_then_the_rest_of_the_long_one():
    short, long = rates("train.steps=6"), rates("train.steps=9")
    assert rates("train.steps=9", "train.extended=[6]") == [*short, *long[6:]]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("train.steps=9 train.decay=3", "train.steps=14 train.decay=4", 6),
        ("train.steps=9 train.decay=0.5", "train.steps=7 train.decay=0.1", 5),
        ("train.steps=9", "train.steps=14", 9),
        ("train.steps=9 train.extended=[5] train.decay=2", "train.steps=12 train.extended=[5] train.decay=2", 7),
        ("train.steps=9 train.extended=[5] train.decay=2", "train.steps=12 train.decay=2", 3),
        ("train.steps=9 train.schedule=cosine", "train.steps=14 train.schedule=cosine", 0),
        ("train.steps=9 train.schedule=cosine", "train.steps=14 train.schedule=cosine train.extended=[9]", 9),
    ],
)
def test_common_steps_have_equal_rates(first, second, expected):
    base = [] if "cosine" in first else ["train.schedule=constant"]
    a, b = (load_recipe("quickstart", [*base, *changes.split()]) for changes in (first, second))
    common = common_steps(a.train, b.train)
    assert common == common_steps(b.train, a.train) == expected
    assert [learning_rate(a, s) for s in range(1, common + 1)] == [learning_rate(b, s) for s in range(1, common + 1)]


def test_the_checkpoint_before_the_decay_and_those_of_extensions_are_pinned():
    train = load_recipe("quickstart", ["train.schedule=constant", "train.steps=20", "train.decay=0.25"]).train
    assert steps_before_decay(train) == 15
    assert pinned_steps(train) == {15}
    assert pinned_steps(load_recipe("quickstart", ["train.steps=20", "train.extended=[7]"]).train) == {7}
    assert pinned_steps(load_recipe("quickstart", ["train.schedule=constant"]).train) == set()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["train.decay=0.5"], "schedule=constant"),
        (["train.decay=-1"], "decay must be"),
        (["train.decay=1.5"], "decay must be"),
        (["train.schedule=constant", "train.decay=9999"], "at most steps"),
        (["train.extended=[9, 5]"], "increasing"),
        (["train.steps=20", "train.extended=[20]"], "increasing"),
    ],
)
def test_wrong_schedules_are_refused(changes, message):
    with pytest.raises(RequestError, match=message):
        load_recipe("quickstart", changes)


def test_fewer_steps_than_a_run_was_extended_to_drop_what_it_records_of_that(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(dump_recipe(load_recipe("quickstart", ["train.steps=9", "train.extended=[3, 6]"])))
    for steps, left in (("9", (3, 6)), ("5", (3,)), ("1_0", (3, 6)), ("2", ())):
        assert load_recipe(file, [f"train.steps={steps}"]).train.extended == left
    with pytest.raises(RequestError, match="extended"):
        load_recipe(file, ["train.steps=5", "train.extended=[3, 6]"])


@pytest.mark.parametrize("stop_again", [False, True])
def test_a_run_extended_before_its_decay_is_the_longer_run_bit_for_bit(workplace, tmp_path, stop_again):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(workplace, whole, *STABLE, "train.steps=18")
    run(workplace, parts, *STABLE, "train.steps=12")
    assert not same(whole, parts)
    job = train(
        load_recipe(workplace / "tiny.yaml", [*STABLE, "train.steps=18"]), TrainOptions(parts, "cpu", report=False)
    )
    if not stop_again:
        assert [e for e in job if isinstance(e, Note) and "going back from step 12 to step 8" in e.text]
    else:  # ended without notice after a few steps, and started again
        while not (isinstance(event := next(job), TrainStep) and event.step > 9):
            pass
        job.close()
        run(workplace, parts, *STABLE, "train.steps=18")
    assert same(whole, parts)
    assert steps_of(parts) == steps_of(whole)
    assert load_recipe(parts / "recipe.yaml") == load_recipe(whole / "recipe.yaml")


def test_what_was_annealed_before_is_kept(workplace, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    folder = tmp_path / "run"
    run(workplace, folder, *STABLE)
    annealed, before = checkpoint.latest(folder).tensors("ema"), steps_of(folder)
    with monkeypatch.context() as during:
        during.setattr("os.link", full)
        during.setattr("shutil.copy2", full)
        with pytest.raises(WorkError, match=r"cannot write to .*: No space left on device"):
            run(workplace, folder, *STABLE, "train.steps=18")
    assert not list(folder.rglob("*.partial"))
    events = run(workplace, folder, *STABLE, "train.steps=18")
    assert any("going back from step 12 to step 8" in e.text for e in events if isinstance(e, Note))
    model = load_model(folder / "annealed" / "step-12", device="cpu")
    assert all(torch.equal(p, annealed[name]) for name, p in model.net.named_parameters())
    kept = map(json.loads, (folder / "annealed" / "step-12-metrics.jsonl").read_text().splitlines())
    assert [r["step"] for r in kept] == before
    (record,) = [json.loads(r) for r in (folder / "metrics.jsonl").open() if "extended" in r]
    assert (record["step"], record["from"], record["steps"]) == (8, 12, 18)


def test_what_lies_beyond_the_step_from_which_a_run_goes_on_is_no_longer_its_own(workplace, tmp_path):
    """Neither the report of a training that was annealed, nor steps that were on their way to it, are lost."""
    folder = tmp_path / "run"
    run(workplace, folder, *STABLE, report=True)
    before = {file.relative_to(folder): file.read_bytes() for file in folder.glob("*/*-step-12.json*")}
    assert len(before) >= 2
    job = train(
        load_recipe(workplace / "tiny.yaml", [*STABLE, "train.steps=18"]), TrainOptions(folder, "cpu", report=False)
    )
    while not (isinstance(event := next(job), TrainStep) and event.step > 9):
        pass
    job.close()
    beside = folder / "annealed" / "step-12-results"
    assert {file.relative_to(beside): file.read_bytes() for file in beside.glob("*/*-step-12.json*")} == before
    assert (beside / "ema.safetensors").is_file()
    assert not (folder / "ema.safetensors").exists()
    assert status(folder).bound is None


def test_steps_that_were_not_trained_to_the_end_are_kept_too(workplace, tmp_path):
    folder = tmp_path / "run"
    job = train(load_recipe(workplace / "tiny.yaml", STABLE), TrainOptions(folder, "cpu", report=False))
    while not (isinstance(event := next(job), Saved) and event.step == 9):
        pass
    job.close()
    run(workplace, folder, *STABLE, "train.steps=18")
    assert checkpoint.open_checkpoint(folder / "annealed" / "step-9").step == 9


def test_a_decay_can_begin_at_any_step_of_a_constant_run(workplace, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(workplace, whole, "train.steps=12", "train.decay=4")
    run(workplace, parts, "train.steps=8")
    run(workplace, parts, "train.steps=12", "train.decay=4")
    assert same(whole, parts)


def test_an_annealed_run_goes_on_when_asked_with_its_moments_and_the_rate_rewound(workplace, tmp_path):
    """The recipe's record is the whole truth: a run made from it at once is the same."""
    cosine, parts, whole = ("train.schedule=cosine",), tmp_path / "parts", tmp_path / "whole"
    run(workplace, parts, *cosine, "train.steps=6", "train.keep=1")
    with pytest.raises(RequestError, match="--extend"):
        run(workplace, parts, *cosine, "train.steps=20", "train.keep=1")
    for _ in range(2):  # the second time there is nothing left to do
        events = run(workplace, parts, *cosine, "train.steps=20", "train.keep=1", extend=True)
    assert not [e for e in events if isinstance(e, TrainStep)]
    assert load_recipe(parts / "recipe.yaml").train.extended == (6,)
    run(workplace, whole, *cosine, "train.steps=20", "train.extended=[6]", "train.keep=1")
    assert same(whole, parts)
    assert [c.step for c in checkpoint.completed(parts)] == [6, 20]


def test_a_run_in_its_decay_is_not_extended(workplace, tmp_path):
    job = train(
        load_recipe(workplace / "tiny.yaml", ["train.schedule=cosine", "train.save_every=2"]),
        TrainOptions(tmp_path / "run", "cpu", report=False),
    )
    while not (isinstance(event := next(job), TrainStep) and event.step == 6):
        pass
    job.close()
    with pytest.raises(RequestError, match="finish it first"):
        run(workplace, tmp_path / "run", "train.schedule=cosine", "train.save_every=2", "train.steps=20", extend=True)


def test_without_a_run_there_is_nothing_to_extend(workplace, tmp_path):
    with pytest.raises(RequestError, match="no checkpoint"):
        run(workplace, tmp_path / "run", extend=True)
    assert not (tmp_path / "run").exists()


def test_a_refused_extension_changes_nothing(workplace, tmp_path):
    folder = tmp_path / "run"
    run(workplace, folder, *STABLE)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(RequestError, match=r"train\.lr"):
        run(workplace, folder, *STABLE, "train.steps=18", "train.lr=0.1")
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert RunDir(folder).last_good().endswith("step-12")


def test_a_run_is_named_to_resume_it_to_report_on_it_and_to_go_on(sedd, workplace, tmp_path):
    folder = tmp_path / "shake"
    recipe = load_recipe(workplace / "tiny.yaml", ["train.schedule=cosine"])
    job = train(recipe, TrainOptions(folder, "cpu"))
    while not (isinstance(event := next(job), TrainStep) and event.step == 8):
        pass
    job.close()
    resumed = sedd("train", folder, "--json")
    assert resumed.code == 0, resumed.err
    first = json.loads(resumed.out)
    assert (first["step"], first["finished"]) == (12, True)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}
    again = sedd("train", folder, "--json")
    assert again.code == 0
    assert without_origin(json.loads(again.out)) == without_origin(first)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    told = sedd("train", folder)
    assert "nothing left to train" in told.out + told.err
    assert f"sedd train {folder} train.steps=24 --extend" in told.out + told.err
    refused = sedd("train", folder, "train.steps=24")
    assert refused.code == 2
    for way in ("--extend", "--fresh"):
        assert f"`sedd train {folder} train.steps=24 {way}`" in refused.err
    longer = sedd("train", folder, "train.steps=24", "--extend", "--json")
    assert longer.code == 0, longer.err
    assert json.loads(longer.out)["step"] == 24
    assert load_recipe(folder / "recipe.yaml").train.extended == (12,)
    for words in (["train.steps=12"], ["train.steps=12", "--extend"]):
        shorter = sedd("train", folder, *words)
        assert shorter.code == 2
        assert "is at step 24, beyond train.steps=12" in shorter.err
        assert f"`sedd train {folder} train.steps=12 --fresh` starts a new run" in shorter.err
        assert f"the model of step 12 is kept in {folder}/checkpoints/step-12" in shorter.err
        assert "extended" not in shorter.err


def test_a_finished_run_without_its_report_makes_it(sedd, workplace, tmp_path):
    run(workplace, tmp_path / "run")
    assert sedd("train", tmp_path / "run", "--no-report").code == 0
    assert not (tmp_path / "run" / "results").exists()
    assert sedd("train", tmp_path / "run").code == 0
    assert (tmp_path / "run" / "results" / "test-step-12.json").is_file()


@pytest.mark.parametrize(("name", "message"), [("", "is a folder and not a run"), ("begun", "has not begun")])
def test_a_folder_that_is_no_run_is_named(sedd, tmp_path, name, message):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / ".sedd-run").touch()
    done = sedd("train", tmp_path / name)
    assert done.code == 2
    assert message in done.err
