"""Training: what is minimised, resumed, stored and refused."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.jobs import completed, returned

from sedd_cli.checkpoints import checkpoint, draft
from sedd_cli.checkpoints.async_checkpoint import AsyncCheckpoint
from sedd_cli.checkpoints.draft import Draft, text_file
from sedd_cli.checkpoints.run_directory import RunDir
from sedd_cli.errors import DamageError, RequestError, WorkError
from sedd_cli.recipe import load_recipe
from sedd_cli.recipe.learning_rate import learning_rate
from sedd_cli.system.distributed import Dist
from sedd_cli.system.events import Evaluated, Note, Sampled, Saved, TrainStep, Validated, Warn
from sedd_cli.training.cost import estimate_cost
from sedd_cli.training.optim import make_optimizers
from sedd_cli.training.train import TrainOptions, TrainResult, train

#: What torch.distributed.checkpoint calls the one file of one process.
SHARD = "shard-00001-model-00001-of-00001.safetensors"


def run(workplace: Path, folder: Path, *overrides: str, report: bool = False) -> tuple[list, TrainResult]:
    """The events of a training, and its result."""
    recipe = load_recipe(workplace / "tiny.yaml", overrides)
    return completed(train(recipe, TrainOptions(folder, "cpu", report=report)))


def weights(folder: Path, name: str = "ema") -> dict[str, torch.Tensor]:
    return checkpoint.latest(folder).tensors(name)


def write(folder: Path, step: int, keep: int, keep_every: int | None = None, **files) -> Path:
    """A checkpoint of small files."""
    begun = Draft(folder, step)
    begun.begin()
    return begun.commit({"a.txt": text_file("x"), **files}, keep, keep_every)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_directory_holds_recipe_metrics_checkpoints_and_results(tiny_run):
    assert (tiny_run / "recipe.yaml").is_file()
    assert (tiny_run / "latest").read_text().strip() == "step-12"
    steps = [json.loads(line)["step"] for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6, 8, 10, 12]
    names = {p.name for p in (tiny_run / "checkpoints" / "step-12").iterdir()}
    assert names == {SHARD, "manifest.json", "state.json", "recipe.yaml", "tokenizer.json"}
    assert (tiny_run / "results" / "test-step-12.json").is_file()
    assert (tiny_run / "samples" / "samples-step-12.jsonl").is_file()


def test_training_yields_its_events(workplace, tmp_path):
    events, result = run(workplace, tmp_path / "run", report=True)
    kinds = [type(e) for e in events]
    assert [e.step for e in events if isinstance(e, TrainStep)] == [2, 4, 6, 8, 10, 12]
    assert [e.step for e in events if isinstance(e, Saved)] == [6, 12]
    assert kinds.count(Evaluated) == 1
    assert kinds.count(Sampled) == 1
    assert result.finished


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_lowers_the_loss(workplace, tmp_path, optimizer):
    if optimizer == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    changes = ("train.steps=60", "train.batch=64", "train.lr=1e-2", f"train.optimizer={optimizer}", "model.dropout=0.0")
    losses = [e.loss for e in run(workplace, tmp_path / "run", *changes)[0] if isinstance(e, TrainStep)]
    # from log N = 3.5 nats towards the entropy of the characters, 2.9
    assert sum(losses[-5:]) / 5 < losses[0] - 0.2


@pytest.mark.parametrize("stop_at", [1, 5, 6, 10])
def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(workplace, tmp_path, tiny_run, stop_at):
    recipe = load_recipe(workplace / "tiny.yaml", ["train.log_every=1"])
    events = train(recipe, TrainOptions(tmp_path / "run", "cpu", report=False))
    for event in events:
        if isinstance(event, TrainStep) and event.step == stop_at:
            os.kill(os.getpid(), signal.SIGINT)  # finishes the next step, saves, stops
    assert checkpoint.latest(tmp_path / "run").step == stop_at + 1
    events, resumed = run(workplace, tmp_path / "run")
    assert resumed.finished
    for name in ("ema", "weights", "adamw"):
        assert same(weights(tmp_path / "run", name), weights(tiny_run, name)), name
    logged = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert logged == sorted(set(logged))


@pytest.mark.slow
def test_a_run_killed_without_warning_goes_on_from_its_last_checkpoint(workplace, tmp_path, tiny_run):
    script = (
        "import sys, os, signal\n"
        "from sedd_cli.recipe import load_recipe\n"
        "from sedd_cli.system.events import TrainStep\n"
        "from sedd_cli.training.train import TrainOptions, train\n"
        "import torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "for e in train(load_recipe(sys.argv[1]), TrainOptions(Path(sys.argv[2]), 'cpu', report=False)):\n"
        "    if isinstance(e, TrainStep) and e.step == 10: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, workplace / "tiny.yaml", tmp_path / "run"], check=False)
    assert ended.returncode == -signal.SIGKILL
    found = checkpoint.latest(tmp_path / "run")
    assert found is None or found.step == 6  # a busy machine may not have written it yet
    run(workplace, tmp_path / "run")
    assert same(weights(tmp_path / "run"), weights(tiny_run))


@pytest.mark.slow
def test_micro_batches_do_not_change_the_gradient(workplace, tmp_path):
    # exact up to the order of float32 additions
    plain = ("train.steps=2", "model.dropout=0.0")
    run(workplace, tmp_path / "whole", *plain)
    run(workplace, tmp_path / "parts", *plain, "train.micro_batch=3")
    for name, value in weights(tmp_path / "whole", "weights").items():
        torch.testing.assert_close(weights(tmp_path / "parts", "weights")[name], value, rtol=1e-4, atol=1e-6)


def test_another_recipe_is_refused_in_the_same_run(workplace, tiny_run):
    with pytest.raises(RequestError, match=r"train.lr: 0.003 → 0.1") as refused:
        run(workplace, tiny_run, "train.lr=0.1")
    assert "--fresh" in str(refused.value)


def test_a_run_in_use_is_refused(workplace, tmp_path):
    recipe = load_recipe(workplace / "tiny.yaml")
    first = train(recipe, TrainOptions(tmp_path / "run", "cpu", report=False))
    while not isinstance(next(first), TrainStep):
        pass
    with pytest.raises(RequestError, match="another process is training"):
        run(workplace, tmp_path / "run")
    assert returned(first).finished


def test_keys_that_change_no_number_may_change(workplace, tiny_run):
    assert run(workplace, tiny_run, "train.keep=3")[1].finished


def test_fresh_starts_in_a_new_folder(workplace, tiny_run):
    recipe = load_recipe(workplace / "tiny.yaml", ["train.steps=1"])
    result = returned(train(recipe, TrainOptions(tiny_run, "cpu", fresh=True, report=False)))
    assert result.run == tiny_run.with_name("tiny-2")


@pytest.mark.parametrize("name", [SHARD, "state.json", "recipe.yaml", "tokenizer.json"])
@pytest.mark.parametrize("harm", ["truncate", "edit", "remove"])
def test_a_damaged_checkpoint_is_recognised_and_named(workplace, tmp_path, name, harm):
    run(workplace, tmp_path / "run", "train.steps=1")
    victim = tmp_path / "run" / "checkpoints" / "step-1" / name
    content = bytearray(victim.read_bytes())
    if harm == "remove":
        victim.unlink()
    elif harm == "truncate":
        victim.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    with pytest.raises(DamageError, match=name.replace(".", r"\.")):
        run(workplace, tmp_path / "run", "train.steps=1")
    shutil.rmtree(tmp_path / "run")


def test_a_validation_that_ctrl_c_breaks_off_is_made_by_the_next_start(workplace, tmp_path, monkeypatch):
    def interrupted(*_):
        os.kill(os.getpid(), signal.SIGINT)
        yield Note("measuring")
        raise AssertionError("it went on")

    changes = ("report.every=5", "report.blocks=2", "train.log_every=2")
    with monkeypatch.context() as during:
        during.setattr("sedd_cli.training.report.evaluate", interrupted)
        _, stopped = run(workplace, tmp_path / "run", *changes)
    assert (stopped.step, stopped.interrupted, checkpoint.latest(tmp_path / "run").step) == (5, True, 5)
    assert run(workplace, tmp_path / "run", *changes)[1].finished
    assert run(workplace, tmp_path / "whole", *changes)[1].finished
    found, expected = (
        [(r["step"], r["bits_per_char"]) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
         if (r := json.loads(line))["kind"] == "validation"] for name in ("run", "whole")
    )  # fmt: skip
    assert found == expected
    assert [step for step, _ in found] == [5, 10]
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_a_validation_that_was_missed_does_not_count_as_time_of_training(workplace, tmp_path, monkeypatch):
    late, now = [0.0], time.perf_counter

    def validate(*_):
        late[0] += 1e6
        yield Note("validating")

    run(workplace, tmp_path / "run", "train.steps=6")
    monkeypatch.setattr("sedd_cli.training.loop.validate", validate)
    monkeypatch.setattr(time, "perf_counter", lambda: now() + late[0])
    events, _ = run(workplace, tmp_path / "run", "report.every=6")
    assert late == [1e6]
    assert all(event.seconds < 1e6 for event in events if isinstance(event, TrainStep))


def test_a_failed_write_leaves_the_old_checkpoint_and_no_rubbish(tmp_path):
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    write(tmp_path, 1, keep=2)
    saver = AsyncCheckpoint(tmp_path, Dist(0, 1, torch.device("cpu")), sharded=False, keep=2, keep_every=None)
    saver.start(2, {"weights.a": torch.ones(3)}, {"b.txt": full})
    with pytest.raises(WorkError, match=r"earlier ones are intact.*No space left"):
        saver.finish()
    assert checkpoint.latest(tmp_path).step == 1
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-1"]


def test_only_the_last_checkpoints_are_kept(tmp_path):
    for step in (1, 2, 10):
        write(tmp_path, step, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-10", "step-2"]


def test_a_checkpoint_never_holds_a_pickle(tiny_run):
    for path in (tiny_run / "checkpoints" / "step-12").iterdir():
        assert path.suffix in (".safetensors", ".json", ".yaml"), path
    load_file(tiny_run / "checkpoints" / "step-12" / SHARD)


def test_a_loss_that_is_not_finite_stops_the_run(workplace, tmp_path):
    with pytest.raises(WorkError, match=r"not finite.*train\.lr"):
        run(workplace, tmp_path / "run", "train.lr=1e30", "train.warmup=0", "train.steps=40")


def test_divergence_is_named_where_its_record_cannot_be_written(workplace, tmp_path, monkeypatch):
    log = RunDir.log

    def full(folder: RunDir, record: dict) -> None:
        if record["kind"] == "failed":
            raise WorkError("cannot write metrics.jsonl: No space left on device")
        log(folder, record)

    monkeypatch.setattr(RunDir, "log", full)
    with pytest.raises(WorkError, match=r"training has diverged.*train\.lr"):
        run(workplace, tmp_path / "run", "train.lr=1e30", "train.warmup=0", "train.steps=40")


def test_training_on_the_cpu_leaves_gpus_alone(workplace, tmp_path, monkeypatch):
    """Another program may have filled a GPU, or have it for itself."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)  # else the optimizer asks about its streams
    assert run(workplace, tmp_path / "run", "train.steps=2")[1].finished
    assert checkpoint.latest(tmp_path / "run").step == 2


def test_a_validation_without_memory_does_not_end_the_training(workplace, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("sedd_cli.training.report.evaluate", full)
    events, result = run(workplace, tmp_path / "run", "train.steps=4", "report.every=2")
    assert result.finished
    assert any("step 2: no validation: CUDA out of memory" in e.text for e in events if isinstance(e, Warn))


def test_a_sample_without_memory_leaves_the_validation(workplace, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("sedd_cli.training.report.generate", full)
    events, _ = run(workplace, tmp_path / "run", "train.steps=4", "report.every=2")
    assert [e.step for e in events if isinstance(e, Validated)] == [2]
    assert any("step 2: no sample: CUDA out of memory" in e.text for e in events if isinstance(e, Warn))


def test_a_length_beyond_the_corpus_is_refused(workplace, tmp_path):
    with pytest.raises(RequestError, match="longer than the train split"):
        run(workplace, tmp_path / "run", "model.length=1000000")
    assert not (tmp_path / "run").exists()


def test_a_report_that_cannot_be_made_is_refused_before_training(workplace, tmp_path):
    with pytest.raises(RequestError, match=r"report\.infill"):
        run(workplace, tmp_path / "run", "report.infill.prefix='the cat sat on the mat for hours'", report=True)
    assert not (tmp_path / "run").exists()


def test_the_learning_rate_warms_up_and_follows_its_schedule():
    recipe = load_recipe("quickstart", ["train.steps=100", "train.warmup=10", "train.lr=1.0", "train.schedule=linear"])
    assert learning_rate(recipe, 1) == pytest.approx(0.1)
    assert learning_rate(recipe, 10) == pytest.approx(0.91)
    assert learning_rate(recipe, 100) == pytest.approx(0.01)
    constant = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, schedule="constant"))
    assert [learning_rate(constant, s) for s in (5, 10, 99)] == pytest.approx([0.5, 1.0, 1.0])


@pytest.mark.parametrize("rates", [[], ["train.head_lr=1e-3", "train.embedding_lr=1e-2"]])
def test_every_parameter_has_exactly_one_optimizer(rates):
    from sedd_cli.models.dit import DiT

    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    words = ["model.n_blocks=1", "model.hidden_size=16", "model.cond_dim=8", "train.optimizer=muon"]
    recipe = load_recipe("quickstart", [*words, *rates])
    net = DiT(recipe.model, 9)
    groups = [p for o in make_optimizers(recipe, net).values() for g in o.param_groups for p in g["params"]]
    assert sorted(map(id, groups)) == sorted(map(id, net.parameters()))


def test_head_and_embedding_have_learning_rates_of_their_own(workplace, tmp_path):
    """At the first step, AdamW moves a parameter by its rate."""
    still = ("train.steps=1", "train.warmup=0", "train.lr=1e-30", "train.head_lr=1e-3", "train.embedding_lr=1e-2")
    run(workplace, tmp_path / "run", *still)
    run(workplace, tmp_path / "none", *still[:3])
    moved, start = weights(tmp_path / "run", "weights"), weights(tmp_path / "none", "weights")
    most = {name: float((moved[name] - start[name]).abs().max()) for name in moved}
    assert most.pop("output_layer.linear.weight") == pytest.approx(1e-3, rel=1e-3)
    assert most.pop("output_layer.linear.bias") == pytest.approx(1e-3, rel=1e-3)
    # behind a head of zeros the embedding has no gradient yet
    assert set(most.values()) == {0.0}
    run(workplace, tmp_path / "two", "train.steps=2", "train.warmup=0", "train.schedule=constant", *still[2:])
    moved = weights(tmp_path / "two", "weights")
    most = float((moved["vocab_embed.embedding"] - start["vocab_embed.embedding"]).abs().max())
    assert 1e-3 < most < 2e-2


def test_a_run_with_these_rates_resumes_as_if_it_had_not_stopped(workplace, tmp_path):
    rates = ("train.head_lr=1e-3", "train.embedding_lr=1e-2", "train.warmup=0")
    run(workplace, tmp_path / "whole", *rates)
    run(workplace, tmp_path / "parts", *rates, "train.steps=6")
    run(workplace, tmp_path / "parts", *rates)
    for name in ("ema", "weights", "adamw"):
        assert same(weights(tmp_path / "parts", name), weights(tmp_path / "whole", name)), name


def rolled_back(workplace, folder):
    """A run of four checkpoints whose `latest` was set back to the first."""
    run(workplace, folder, "train.steps=8", "train.save_every=2", "train.keep=9")
    (folder / "latest").write_text("step-2\n")
    return folder


@pytest.mark.slow
def test_a_run_set_back_drops_the_course_it_gave_up(workplace, tmp_path):
    folder = rolled_back(workplace, tmp_path / "run")
    (folder / "checkpoints" / "step-6-backup").mkdir()
    run(workplace, folder, "train.steps=8", "train.save_every=2", "train.keep=1")
    kept = sorted(p.name for p in (folder / "checkpoints").iterdir())
    assert kept == ["step-6-backup", "step-8"]
    assert checkpoint.latest(folder).step == 8


def test_pruning_never_takes_the_checkpoint_just_written(tmp_path):
    for step in (12, 8):
        write(tmp_path, step, keep=1)
    assert checkpoint.latest(tmp_path).step == 8


def test_an_old_checkpoint_that_cannot_be_deleted_does_not_end_a_training(tmp_path, monkeypatch):
    """On NFS, a folder stays as long as a file of it is open on the same machine."""
    rmtree = shutil.rmtree

    def busy(folder: Path, ignore_errors: bool = False) -> None:
        if ".old." in str(folder) and not ignore_errors:
            raise OSError(39, "Directory not empty")

    monkeypatch.setattr(draft.shutil, "rmtree", busy)
    for step in (1, 2, 3):
        write(tmp_path, step, keep=1)
    assert checkpoint.latest(tmp_path).step == 3
    assert [one.step for one in checkpoint.completed(tmp_path)] == [3]
    monkeypatch.setattr(draft.shutil, "rmtree", rmtree)
    write(tmp_path, 4, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-3", "step-4"]


def test_latest_is_on_the_disk_before_older_checkpoints_go(tmp_path, monkeypatch):
    write(tmp_path, 1, keep=1)
    synced, sync = [], draft.sync_path

    def seen(path: Path) -> None:
        there = {one.step for one in checkpoint.completed(tmp_path)}
        synced.append((path, checkpoint.latest_name(tmp_path), there))
        sync(path)

    monkeypatch.setattr(draft, "sync_path", seen)
    write(tmp_path, 2, keep=1)
    assert (tmp_path, "step-2", {1, 2}) in synced
    assert [one.step for one in checkpoint.completed(tmp_path)] == [2]


def test_a_checkpoint_that_is_pruned_while_it_is_verified_gives_way_to_the_next(tmp_path, monkeypatch):
    write(tmp_path, 1, keep=1)
    verify = checkpoint.sha256_of

    def slow(path: Path) -> str:
        if path.parent.name == "step-1":
            monkeypatch.setattr(checkpoint, "sha256_of", verify)
            write(tmp_path, 2, keep=1)
        return verify(path)

    monkeypatch.setattr(checkpoint, "sha256_of", slow)
    assert checkpoint.latest(tmp_path).step == 2


@pytest.mark.parametrize("mark", ["../../elsewhere/checkpoints/step-2", "step-99", "", "/tmp", "step-2/../step-4"])
def test_latest_names_a_checkpoint_of_its_own_run_or_nothing(workplace, tmp_path, mark):
    write(tmp_path, 2, keep=1)
    (tmp_path / "latest").write_text(mark)
    with pytest.raises(DamageError, match=r"write the name of a complete one into it \(step-2\)"):
        checkpoint.latest(tmp_path)


def test_weights_that_are_not_finite_are_never_saved(workplace, tmp_path):
    with pytest.raises(WorkError, match="not finite"):
        run(workplace, tmp_path / "run", "train.lr=1e30", "train.log_every=40", "train.save_every=1", "train.steps=40")
    for path in (tmp_path / "run" / "checkpoints").glob("step-*"):
        assert all(v.isfinite().all() for v in load_file(path / SHARD).values())


def test_a_start_that_failed_does_not_bind_the_folder(workplace, tmp_path):
    RunDir(tmp_path / "run").create()
    (tmp_path / "run" / "recipe.yaml").write_text("seed: 99\n")
    assert run(workplace, tmp_path / "run", "train.steps=1")[1].finished


def test_metrics_of_steps_taken_again_are_dropped(workplace, tmp_path):
    RunDir(tmp_path / "run").create()
    lines = b'{"kind": "train", "step": 2}\n{"kind": "train", "step": 4}\n{"kind": "train", "st'
    (tmp_path / "run" / "metrics.jsonl").write_bytes(lines)
    run(workplace, tmp_path / "run", "train.steps=4")
    assert [json.loads(x)["step"] for x in (tmp_path / "run" / "metrics.jsonl").open()] == [2, 4]


@pytest.mark.parametrize("change", ["report.split=tset", "report.infill.length=0", "model.attention=flash"])
def test_what_cannot_be_done_is_refused_before_the_folder_is_made(workplace, tmp_path, change):
    with pytest.raises(RequestError, match=change.split("=")[0].split(".")[1]):
        run(workplace, tmp_path / "run", change, report=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["objective=autoregressive", "report.infill.suffix=mat"], ["report.infill", "'mat'", "report.infill=null"]),
        (["graph=uniform", "sampler=first_hitting"], ["first_hitting", "uniform", "sampler=tweedie"]),
        (["sampler=left_to_right"], ["left_to_right", "score_entropy", "sampler=tweedie"]),
        (["objective=masked_cross_entropy", "graph=uniform"], ["objective", "MASK"]),
        (["report.infill.length=99"], ["report.infill.length", "99"]),
    ],
)
def test_what_the_model_cannot_do_is_refused_before_data_are_prepared(workplace, tmp_path, monkeypatch, changes, words):
    used = "sedd_cli.evaluation.likelihood.texts.prepare"
    monkeypatch.setattr(used, lambda options: pytest.fail("data were prepared"))
    with pytest.raises(RequestError) as refused:
        run(workplace, tmp_path / "run", *changes, report=True)
    assert all(word in str(refused.value) for word in words), refused.value
    with pytest.raises(RequestError):
        estimate_cost(load_recipe(workplace / "tiny.yaml", changes))


def test_a_split_too_short_for_the_report_is_refused_before_training(workplace, tmp_path):
    (tmp_path / "a.train.txt").write_text("the cat sat on the mat\n" * 50)
    (tmp_path / "a.test.txt").write_text("cat\n")
    changes = (f"data.corpus={tmp_path}", "train.steps=1", "report.infill=null")
    with pytest.raises(RequestError, match=r"report\.split: the split 'test' .* needs at least 24"):
        run(workplace, tmp_path / "run", *changes, "objective=autoregressive", report=True)
    assert not (tmp_path / "run").exists()


def test_the_quickstart_with_another_objective_names_the_key_to_set(sedd):
    words = ("train", "quickstart", "objective=autoregressive", "--dry-run")
    ended = sedd(*words)
    assert ended.code == 2
    assert "report.infill=null" in ended.err
    assert sedd(*words, "report.infill=null").code == 0


def test_without_a_report_its_infill_is_not_checked(workplace, tmp_path):
    changes = ("objective=autoregressive", "report.infill.suffix=mat", "train.steps=1", "report.every=0")
    assert run(workplace, tmp_path / "run", *changes)[1].finished


def test_an_autoregressive_report_is_made_without_an_infill(workplace, tmp_path):
    changes = ("objective=autoregressive", "report.every=0", "train.steps=2")
    events, result = run(workplace, tmp_path / "run", *changes, report=True)
    assert result.report.samples
    assert not any(isinstance(event, Validated) for event in events)
