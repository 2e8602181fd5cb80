"""What a crash, a full disk or a step without a finite loss leaves behind, and how the run goes on from there.

`SEDD_KILLS=20 pytest tests/training/test_kill.py` is the long form: so many kills at random moments of one run.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.forked import Forked
from support.jobs import completed
from support.toys import ALL

from sedd_cli import load_model
from sedd_cli.checkpoints import checkpoint
from sedd_cli.checkpoints.draft import lacks_space
from sedd_cli.errors import WorkError
from sedd_cli.recipe import load_recipe
from sedd_cli.system.events import Warn
from sedd_cli.training import step
from sedd_cli.training.train import TrainOptions, TrainResult, train

KILLS = int(os.environ.get("SEDD_KILLS", "1"))

#: (function, when, at which call, the step that `latest` then names). Checkpoints are written every second step and
#: two are kept, so the third is the first to remove one. A kill "amid" leaves half of what the call does.
EVERY_MOMENT = [
    ("saver.write_shards", "before", 1, None),
    ("saver.write_shards", "amid", 1, None),
    ("saver.write_shards", "amid", 2, 2),
    ("saver.write_shards", "after", 2, 2),
    ("draft.sha256_of", "before", 3, None),
    ("draft.sha256_of", "after", 8, 2),
    ("draft.sync_path", "after", 9, 2),
    ("draft.os.replace", "before", 1, None),
    ("draft.os.replace", "after", 1, None),
    ("draft.os.replace", "before", 3, 4),
    ("draft.os.replace", "after", 3, 4),
    ("draft.write_whole", "before", 2, 2),
    ("atomic.os.replace", "before", 5, 2),  # the calls before it are for the recipe, two tokenizers and a `latest`
    ("draft.write_whole", "after", 2, 4),
    ("draft._prune", "before", 3, 6),
    ("draft.shutil.rmtree", "amid", 1, 6),
    ("draft._prune", "after", 3, 6),
    ("draft._prune", "after", 6, 12),
]
#: The usual ones lie before, amid or after most of what is done.
MOMENTS = EVERY_MOMENT if ALL else [EVERY_MOMENT[i] for i in (0, 1, 3, 4, 6, 9, 10, 12, 13, 15, 16)]

#: Trains in a fork for each moment, which kills itself then; prints how each of them ended. One start for all.
FORKS = """
import json, os, signal, sys, types
from pathlib import Path

import torch
import torch.distributed.checkpoint.staging

from sedd_cli.recipe import load_recipe
from sedd_cli.checkpoints import async_checkpoint as saver
from sedd_cli.checkpoints import draft
from sedd_cli.training.train import TrainOptions, TrainResult, train
from sedd_cli.system import files as atomic


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def half(folder):
    for path in folder.iterdir():
        os.truncate(path, path.stat().st_size // 2)


def deadly(real, when, number):
    calls = 0

    def call(*args, **named):
        nonlocal calls
        calls += 1
        if calls == number and when == "before":
            die()
        if calls == number and when == "amid" and real.__name__ == "rmtree":
            (args[0] / "manifest.json").unlink()
            die()
        found = real(*args, **named)
        if calls == number and when == "amid":
            half(args[0])
        if calls == number:
            die()
        return found

    return call


def arm(name, when, number):
    module, *inner, function = name.split(".")
    owner = {"draft": draft, "saver": saver, "atomic": atomic}[module]
    if inner:  # of os or shutil as this one module sees it
        seen = types.SimpleNamespace(**vars(getattr(owner, inner[0])))
        setattr(owner, inner[0], seen)
        owner = seen
    setattr(owner, function, deadly(getattr(owner, function), when, number))


recipe = load_recipe(sys.argv[1], ["train.save_every=2"])
for folder, (name, when, number, _) in json.loads(sys.argv[2]).items():
    if not os.fork():
        torch.set_num_threads(1)
        arm(name, when, number)
        for _ in train(recipe, TrainOptions(Path(folder), "cpu", report=False)):
            pass
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


def environment(workplace: Path) -> dict[str, str]:
    root = Path(__file__).parents[2]
    home = {"SEDD_HOME": str(workplace / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(root)}
    return {**os.environ, **home, "OMP_NUM_THREADS": "1"}


def run(workplace: Path, folder: Path, *changes: str) -> tuple[list, TrainResult]:
    """The events of a training, and its result."""
    return completed(train(load_recipe(workplace / "tiny.yaml", changes), TrainOptions(folder, "cpu", report=False)))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def same_state(a: checkpoint.Checkpoint, b: checkpoint.Checkpoint) -> bool:
    """Whether weights, averages and moments are equal bit for bit."""
    for kind in ("weights", "ema", "adamw"):
        mine, theirs = a.tensors(kind), b.tensors(kind)
        if mine.keys() != theirs.keys() or not all(torch.equal(mine[name], theirs[name]) for name in mine):
            return False
    return True


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


@pytest.fixture(scope="module")
def killed(workplace, tiny_run, tmp_path_factory) -> dict[tuple, tuple[Path, int]]:
    """For each moment the folder of the run that was killed then, and how its process ended."""
    folders = {tmp_path_factory.mktemp("killed") / "run": moment for moment in MOMENTS}
    argument = json.dumps({str(folder): moment for folder, moment in folders.items()})
    command = [sys.executable, "-c", FORKS, str(workplace / "tiny.yaml"), argument]
    done = subprocess.run(command, env=environment(workplace), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ends = map(int, done.stdout.split())
    return {moment: (folder, end) for (folder, moment), end in zip(folders.items(), ends, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda m: f"{m[1]} {m[0]} {m[2]}")
def test_a_kill_inside_a_checkpoint_costs_no_more_than_the_steps_since_the_last(workplace, tiny_run, killed, moment):
    folder, end = killed[moment]
    assert end == -signal.SIGKILL
    found = checkpoint.latest(folder)  # verified: this raises for a damaged one
    assert moment[3] == (None if found is None else found.step)
    assert run(workplace, folder, "train.save_every=2")[1].finished
    assert sha256(folder / "ema.safetensors") == sha256(tiny_run / "ema.safetensors")
    assert same_state(checkpoint.latest(folder), checkpoint.latest(tiny_run))
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step-10", "step-12"]
    assert [line["step"] for line in metrics(folder)] == [2, 4, 6, 8, 10, 12]


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(workplace, tmp_path, tiny_run):
    changes = ["train.steps=120", "train.save_every=5", "train.log_every=1"]
    words = ["train", workplace / "tiny.yaml", *changes, "--device", "cpu", "--no-report", "--run-dir"]
    job = Forked(*words, tmp_path / "whole", stdout=None, text=True)
    output = job.communicate()[1]
    assert job.returncode == 0, output

    seed = time.time_ns()
    print(f"seed {seed}")
    chance, done = random.Random(seed), tmp_path / "run" / "metrics.jsonl"
    for kill in range(KILLS):
        job = Forked(*words, tmp_path / "run", stdout=None, text=True)
        step, delay = int(110 * (kill + chance.random()) / KILLS), chance.uniform(0, 0.02)
        while job.poll() is None and (not done.exists() or done.read_bytes().count(b"\n") < step):
            time.sleep(0.002)
        time.sleep(delay)
        job.kill()
        job.communicate()
        found = checkpoint.latest(tmp_path / "run")
        left = [p.name for p in (tmp_path / "run" / "checkpoints").glob(".*")]
        print(f"killed {delay:.3f} s after step {step} at {found and found.folder.name}, left {left}")
        assert job.returncode == -signal.SIGKILL
    job = Forked(*words, tmp_path / "run", stdout=None, text=True)
    output = job.communicate()[1]
    assert job.returncode == 0, output
    assert sha256(tmp_path / "run" / "ema.safetensors") == sha256(tmp_path / "whole" / "ema.safetensors")
    assert same_state(checkpoint.latest(tmp_path / "run"), checkpoint.latest(tmp_path / "whole"))
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-115", "step-120"]
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, 121))


def free(size: float) -> Callable:
    return lambda path: shutil._ntuple_diskusage(10**12, 10**12 - int(size), int(size))


def test_the_missing_disk_space_is_named_in_megabytes(tmp_path, monkeypatch):
    tensors = {"weights.a": torch.empty(500_000_000, device="meta")}
    monkeypatch.setattr(shutil, "disk_usage", free(1.5e9))
    message = lacks_space(tmp_path, tensors)
    assert "takes 2,000.0 MB, 1,500.0 MB are free" in message
    assert "earlier checkpoints are intact" in message
    monkeypatch.setattr(shutil, "disk_usage", free(2.1e9))
    assert lacks_space(tmp_path, tensors) == ""


def test_a_disk_that_fills_up_ends_the_run_and_room_lets_it_go_on(workplace, tmp_path, tiny_run, sedd, monkeypatch):
    words = ("train", workplace / "tiny.yaml", "--run-dir", tmp_path / "run", "--device", "cpu", "--no-report")
    room = [free(1e9), free(10)]
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: room.pop(0)(path))
        ended = sedd(*words)
    assert ended.code == 1
    assert "MB are free" in ended.err.splitlines()[-1]
    assert checkpoint.latest(tmp_path / "run").step == 6
    assert sedd(*words).code == 0
    assert sha256(tmp_path / "run" / "ema.safetensors") == sha256(tiny_run / "ema.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("part", ["", "checkpoints"])
def test_a_folder_that_may_not_be_written_to_is_refused(workplace, tmp_path, part):
    # root may write anywhere, unless it gives that power up
    humble = ["setpriv", "--bounding-set", "-dac_override"] if os.geteuid() == 0 else []
    if humble and not shutil.which("setpriv"):
        pytest.skip("root, and no setpriv to give its powers up with")
    run(workplace, tmp_path / "run", "train.steps=6")
    closed = tmp_path / "run" / part
    closed.chmod(0o555)
    command = [*humble, sys.executable, "-m", "sedd_cli", "train", str(workplace / "tiny.yaml")]
    command += ["--run-dir", str(tmp_path / "run"), "--device", "cpu", "--no-report"]
    done = subprocess.run(command, env=environment(workplace), capture_output=True, text=True, check=False)
    closed.chmod(0o755)
    assert done.returncode == 2, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error"))
    assert f"{closed}" in line
    assert line.endswith("Permission denied")
    assert checkpoint.latest(tmp_path / "run").step == 6


@pytest.fixture
def break_steps(monkeypatch) -> Callable[..., None]:
    """`break_steps(3, 7)`: loss and gradient of these steps, counted from 0, are not a number."""

    def put(*steps: int, loss: float = math.nan, gradient: float = math.nan) -> None:
        def gradients(state, batch, rows):
            by_time = step.gradients(state, batch, rows)
            if state.step in steps:
                by_time.nats *= loss
                for p in state.model.net.parameters():
                    p.grad *= gradient
            return by_time

        monkeypatch.setattr("sedd_cli.training.loop.gradients", gradients)

    return put


@pytest.fixture(scope="module")
def undisturbed(workplace, tiny_run, tmp_path_factory) -> list[float]:
    """The losses of the steps of a run in which nothing breaks."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEDD_HOME", str(workplace / "home"))
        run(workplace, folder, "train.log_every=1")
    return [line["loss"] for line in metrics(folder)]


@pytest.mark.slow
@pytest.mark.parametrize("broken", [{}, {"loss": 1.0}, {"gradient": 1.0}, {"loss": math.inf, "gradient": 1.0}])
def test_a_step_without_a_finite_loss_and_gradient_is_left_out_and_counted(
    workplace, tmp_path, undisturbed, break_steps, broken
):
    folder = tmp_path / "run"
    break_steps(4, **broken)
    events, result = run(workplace, folder, "train.save_every=1", "train.keep=12", "train.log_every=1")
    before, after, last = (checkpoint.open_checkpoint(folder / "checkpoints" / f"step-{n}") for n in (4, 5, 12))
    assert same_state(before, after)
    assert not same_state(after, last)
    assert [line["skipped"] for line in metrics(folder)] == [0] * 4 + [1] * 8
    assert [line["step"] for line in metrics(folder) if line["loss"] is None] == [5]
    (warning,) = (event.text for event in events if isinstance(event, Warn))
    assert warning.startswith("step 5 skipped: loss ")
    assert result.skipped == 1
    # its batch is spent: the steps after it see the batches that they would have seen, by slightly other weights
    losses = [line["loss"] for line in metrics(folder)]
    assert losses[:4] == undisturbed[:4]
    assert losses[5:] == pytest.approx(undisturbed[5:], rel=0.05)


@pytest.mark.slow
def test_a_skipped_step_is_shown_on_the_command_line(workplace, tmp_path, sedd, break_steps):
    break_steps(4)
    words = ("train", workplace / "tiny.yaml", "train.log_every=1", "--run-dir", tmp_path / "run", "--no-report")
    done = sedd(*words, "--device", "cpu", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["skipped"] == 1
    assert "step 5 skipped: loss nan, gradient norm nan" in done.err


@pytest.mark.slow
@pytest.mark.parametrize(("bad", "stop"), [(3, 6), (0, 1), (5, 6)])
def test_skipped_steps_are_remembered_by_a_resumed_run(workplace, tmp_path, break_steps, bad, stop):
    # a first step that was skipped leaves no moments to be stored
    break_steps(bad)
    run(workplace, tmp_path / "whole")
    run(workplace, tmp_path / "run", f"train.steps={stop}")
    assert run(workplace, tmp_path / "run")[1].skipped == 1
    assert same_state(checkpoint.latest(tmp_path / "run"), checkpoint.latest(tmp_path / "whole"))
    assert metrics(tmp_path / "run")[-1]["skipped"] == 1


def test_three_non_finite_steps_in_a_row_end_the_run(workplace, tmp_path, break_steps):
    break_steps(1, 2, 4, 5, 8, 9, 10)  # two in a row are no divergence
    with pytest.raises(WorkError, match=r"diverged.*up to step 11;.*checkpoints/step-6$"):
        run(workplace, tmp_path / "run")
    assert load_model(tmp_path / "run", device="cpu").facts["step"] == 6
    assert checkpoint.latest(tmp_path / "run").json("state")["skipped"] == 4


def test_a_resume_does_not_break_a_row_of_non_finite_steps(workplace, tmp_path, break_steps):
    break_steps(4, 5, 6)
    run(workplace, tmp_path / "run", "train.steps=6")
    with pytest.raises(WorkError, match=r"diverged.*up to step 7;"):
        run(workplace, tmp_path / "run")
    assert checkpoint.latest(tmp_path / "run").step == 6
