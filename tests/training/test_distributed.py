"""Many processes: what they train, how their checkpoints are read by others, and how they end."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from support.published_models import save_published
from support.ranks import Ranks
from support.toys import ALL, only_with_all

from sedd_cli.checkpoints import checkpoint
from sedd_cli.checkpoints.draft import Draft
from sedd_cli.checkpoints.run_directory import RunDir
from sedd_cli.cli.app import _show
from sedd_cli.errors import RequestError, WorkError, of_this_process
from sedd_cli.recipe import load_recipe
from sedd_cli.system import distributed
from sedd_cli.system.distributed import connect
from sedd_cli.training.fine_tuning import BY_STATE
from sedd_cli.training.train import TrainOptions, train

#: Two rows at once, so that the dropout masks of a global batch of eight are the same on one, two and four processes.
PLAIN = ("train.log_every=1", "train.micro_batch=2")
#: Long enough to be killed twice on the way.
LONG = ("train.steps=80", "train.save_every=10", "train.strategy=fsdp")


@pytest.fixture(scope="module", autouse=True)
def _home(workplace):
    """Where runs that outlive a test find their data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEDD_HOME", str(workplace / "home"))
        yield


def torchrun(recipe: Path, folder: Path, processes: int, *changes: str, restarts: int = 0) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*launcher, f"--max-restarts={restarts}", "-m", "sedd_cli", "train", recipe, *changes]
    return [sys.executable, *map(str, command), "--run-dir", str(folder), "--device", "cpu", "--no-report"]


def environment() -> dict[str, str]:
    # a worker that aborts should say where it was
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PYTHONFAULTHANDLER": "1",
    }


@pytest.fixture(scope="module")
def ranks(_home) -> Iterator[Ranks]:
    """Starts processes by forking. A test of torchrun itself uses `torchrun`."""
    made = Ranks(environment())
    yield made
    made.close()


def train_on(processes: int, workplace: Path, folder: Path, *changes: str, ranks: Ranks) -> Path:
    """Train, or resume, on so many processes."""
    if processes == 1:
        list(train(load_recipe(workplace / "tiny.yaml", changes), TrainOptions(folder, "cpu", report=False)))
        return folder
    words = ["train", workplace / "tiny.yaml", *changes, "--run-dir", folder, "--device", "cpu", "--no-report"]
    errors = folder.with_name("errors")
    codes = ranks.run(processes, [*map(str, words)], errors)
    assert codes == [0] * processes, errors.read_text()
    return folder


@pytest.fixture(scope="module")
def trained(workplace, tmp_path_factory, ranks) -> Callable[..., Path]:
    """`trained(2, "train.strategy=fsdp")`: the folder of an undisturbed run. Read only."""

    @functools.cache
    def once(processes: int, *changes: str) -> Path:
        return train_on(processes, workplace, tmp_path_factory.mktemp("undisturbed") / "run", *changes, ranks=ranks)

    return once


def metrics_of(folder: Path, kind: str) -> list[dict]:
    """The lines of one kind in metrics.jsonl."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return [record for record in records if record["kind"] == kind]


def assert_same_training(found: Path, wanted: Path, kinds: tuple[str, ...] = ("adamw",), part: float = 1e-5) -> None:
    """Weights, averages, moments: to `part` of each tensor's largest entry. Losses and gradient norms: to 1e-5."""
    ends = [checkpoint.latest(folder) for folder in (found, wanted)]
    assert ends[0].step == ends[1].step
    for kind in ("weights", "ema", *kinds):
        mine, theirs = (end.tensors(kind) for end in ends)
        assert mine.keys() == theirs.keys()
        assert theirs, kind
        for name, value in theirs.items():
            # a second moment is some 1e-9: one absolute tolerance for all would let it be anything
            torch.testing.assert_close(mine[name], value, rtol=1e-4, atol=part * float(value.abs().max()))
    mine, theirs = (metrics_of(folder, "train") for folder in (found, wanted))
    assert [line["step"] for line in mine] == [line["step"] for line in theirs] == list(range(1, ends[0].step + 1))
    for a, b in zip(mine, theirs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["loss_by_t"] == pytest.approx(b["loss_by_t"], rel=1e-5)
        # clipping and Adam hide a gradient of another size: only its norm shows it
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "changes"),
    [
        (2, ("graph=absorbing", "train.strategy=ddp")),
        (2, ("graph=uniform", "train.strategy=ddp")),
        (2, ("graph=absorbing", "train.strategy=fsdp")),
        (4, ("graph=absorbing", "train.strategy=fsdp")),
    ],
)
def test_many_processes_train_what_one_trains(trained, processes, changes):
    # exact up to the order of float32 additions over processes: measured 1e-6 of the largest entry
    assert_same_training(trained(processes, *PLAIN, *changes), trained(1, *PLAIN, changes[0]))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_many_processes_learn_the_exponents_that_one_learns(trained, strategy):
    learned = (*PLAIN, "graph=state_dependent", "objective=genmd4")
    assert_same_training(trained(2, *learned, f"train.strategy={strategy}"), trained(1, *learned))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_many_processes_begin_with_the_same_weights(trained, tmp_path, strategy):
    """Those that the main process has read, new rows of another vocabulary among them."""
    save_published(tmp_path / "m", tokens=11)
    still = (f"init_from={tmp_path / 'm'}", "train.steps=1", "train.warmup=0", "train.lr=1e-30", "train.log_every=1")
    shape = ("model.hidden_size=16", "model.cond_dim=8", "model.n_blocks=2", "model.n_heads=2", "model.dropout=0.0")
    one, two = (
        checkpoint.latest(trained(*how, *still, *shape)).tensors("weights")
        for how in ((1,), (2, f"train.strategy={strategy}"))
    )
    assert all(torch.equal(value, one[name]) for name, value in two.items() if name not in BY_STATE)
    assert all(torch.allclose(two[name], one[name], rtol=0, atol=1e-20) for name in BY_STATE if name in one)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_fitting_and_looking_on_the_way_change_nothing(trained, strategy):
    # any micro-batch may be found: without dropout they all give the same, up to rounding
    still = ("train.log_every=1", "model.dropout=0.0")
    found = trained(2, *still, f"train.strategy={strategy}", "report.every=5", "report.blocks=4", "--autotune")
    assert_same_training(found, trained(1, *still))
    assert [r["step"] for r in map(json.loads, (found / "metrics.jsonl").open()) if r["kind"] == "validation"] == [
        5,
        10,
    ]


@pytest.mark.slow
def test_a_sharded_muon_is_the_whole_matrix_muon(trained):
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    muon = (*PLAIN, "train.optimizer=muon")
    # Muon orthogonalises in bfloat16, which enlarges a rounding error: 1 % here, as much as another micro-batch on
    # one process gives. Shards orthogonalised each by itself would be 10 % off
    assert_same_training(trained(2, *muon, "train.strategy=fsdp"), trained(1, *muon), ("adamw", "muon"), part=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"), [((2, "fsdp"), (1, "auto")), ((1, "auto"), (4, "fsdp")), ((2, "ddp"), (2, "fsdp"))]
)
def test_a_run_goes_on_on_other_processes(trained, workplace, tmp_path, before, after, ranks):
    half = trained(before[0], *PLAIN, "graph=absorbing", "train.steps=6", f"train.strategy={before[1]}")
    run = Path(shutil.copytree(half, tmp_path / "run"))
    train_on(after[0], workplace, run, *PLAIN, f"train.strategy={after[1]}", ranks=ranks)
    # the tolerance of processes that train together from the start
    assert_same_training(run, trained(1, *PLAIN, "graph=absorbing"))


@pytest.mark.slow
def test_a_resumed_sharded_run_is_the_uninterrupted_one_bit_for_bit(trained, workplace, tmp_path, ranks):
    sharded = (*PLAIN, "graph=absorbing", "train.strategy=fsdp")
    run = Path(shutil.copytree(trained(2, *PLAIN, "graph=absorbing", "train.steps=6", sharded[-1]), tmp_path / "run"))
    train_on(2, workplace, run, *sharded, ranks=ranks)
    for kind in ("weights", "ema", "adamw"):
        found, wanted = (checkpoint.latest(folder).tensors(kind) for folder in (run, trained(2, *sharded)))
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted), kind


def test_a_draft_that_another_process_has_begun_is_no_obstacle(tmp_path, monkeypatch):
    draft, glob = Draft(tmp_path, 1), Path.glob

    def slow(folder: Path, pattern: str):
        yield from glob(folder, pattern)
        draft.folder.mkdir(parents=True)  # what torch does first on every process that saves its share

    monkeypatch.setattr(Path, "glob", slow)
    draft.begin()
    assert draft.folder.is_dir()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wait_until(there: Callable[[], bool], job: subprocess.Popen, errors: Path) -> None:
    end = time.monotonic() + 30
    while not there():
        assert job.poll() is None, errors.read_text()
        assert time.monotonic() < end, errors.read_text()
        time.sleep(0.02)


def workers(job: subprocess.Popen) -> list[int]:
    """Process ids by rank."""
    found = subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True, check=False)
    return sorted(map(int, found.stdout.split()))


@pytest.fixture
def start(tmp_path):
    """`start(command)`: a job in the background, which writes to tmp_path / "errors". Gone when the test is over."""
    jobs = []

    def begin(command: list[str]) -> subprocess.Popen:
        # to a file: a pipe nobody reads would fill up
        with (tmp_path / "errors").open("w") as stderr:
            job = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=stderr)
        jobs.append(job)
        return job

    yield begin
    for job in jobs:
        if job.poll() is None:
            for process in (job.pid, *workers(job)):
                os.kill(process, signal.SIGKILL)
            job.wait()


@only_with_all
@pytest.mark.slow
def test_a_killed_worker_is_started_again_and_changes_nothing(trained, workplace, tmp_path, start):
    run, errors, latest = tmp_path / "run", tmp_path / "errors", tmp_path / "run" / "latest"
    job = start(torchrun(workplace / "tiny.yaml", run, 2, *LONG, restarts=3))
    seen = ""
    killed = (0, 1) if ALL else (1,)
    for rank in killed:
        # a checkpoint of these very workers: the second kill comes when the first is got over
        wait_until(lambda known=seen: latest.is_file() and latest.read_text() != known, job, errors)
        seen = latest.read_text()
        os.kill(workers(job)[rank], signal.SIGKILL)
    assert job.wait(timeout=60) == 0, errors.read_text()
    assert errors.read_text().count("resuming") == len(killed)
    assert sha256(run / "ema.safetensors") == sha256(trained(2, *LONG) / "ema.safetensors")


@pytest.mark.slow
def test_processes_stop_together(workplace, tmp_path, start):
    """A signal that reaches one worker ends all of them after the same step; alone it would wait for ever."""
    run, errors = tmp_path / "run", tmp_path / "errors"
    job = start(torchrun(workplace / "tiny.yaml", run, 2, "train.steps=100000", "train.save_every=100000"))
    wait_until((run / "metrics.jsonl").is_file, job, errors)
    os.kill(workers(job)[0], signal.SIGTERM)
    assert job.wait(timeout=60) == 0, errors.read_text()  # that it ends at all is the point
    assert checkpoint.latest(run).step > 0


@pytest.mark.slow
def test_processes_that_do_not_divide_the_batch_are_refused_once(workplace, tmp_path, ranks):
    words = ["train", workplace / "tiny.yaml", "--run-dir", tmp_path / "run", "--device", "cpu"]
    assert ranks.run(3, [*map(str, words)], tmp_path / "errors") == [2, 2, 2]
    (line,) = (line for line in (tmp_path / "errors").read_text().splitlines() if line.startswith("error"))
    assert re.match(r"error: train\.batch \(8\).*number of processes \(3\)", line)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def place(monkeypatch) -> Callable[..., None]:
    """`place(RANK=0)`: the environment in which torchrun would start this process."""

    def put(**variables: object) -> None:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    return put


def test_a_world_without_a_rank_is_refused(place):
    place(WORLD_SIZE=2)
    with pytest.raises(RequestError, match=r"\bRANK is ''.*torchrun"), connect("cpu"):
        pass


def test_a_port_in_use_is_named(place):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        place(RANK=0, WORLD_SIZE=2, LOCAL_RANK=0, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        with pytest.raises(RequestError, match=rf"127\.0\.0\.1:{port}.*MASTER_PORT"), connect("cpu"):
            pass
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(("device", "failed", "shut"), [("cuda", False, 1), ("cuda", True, 0), ("cpu", True, 1)])
def test_a_process_that_fails_does_not_wait_for_the_others_to_shut_nccl_down(place, monkeypatch, device, failed, shut):
    calls = []
    monkeypatch.setattr(distributed, "_init_process_group", lambda backend: None)
    monkeypatch.setattr(distributed, "pick_device", lambda name: torch.device(device))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.distributed, "new_group", lambda **_: None)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: calls.append(1))
    place(RANK=0, WORLD_SIZE=2, LOCAL_RANK=0)
    with pytest.raises(RuntimeError, match="lost") if failed else nullcontext(), connect(device):
        if failed:
            raise RuntimeError("lost")
    assert len(calls) == shut


def test_one_process_chooses_the_folder_of_a_new_run(workplace, tmp_path, monkeypatch):
    """The others may look for it after the first has made it."""
    RunDir(tmp_path / "run").create()
    chosen, asked = RunDir(tmp_path / "run-2"), []

    def from_main(dist, job):
        asked.append(job)
        return chosen if len(asked) == 1 else job()

    def seen(run):
        raise WorkError(str(run.path))

    chosen.create()  # by the first
    monkeypatch.setattr(distributed.Dist, "from_main", from_main)
    monkeypatch.setattr(RunDir, "check", seen)
    with pytest.raises(WorkError, match=r"run-2$"):
        list(train(load_recipe(workplace / "tiny.yaml"), TrainOptions(tmp_path / "run", "cpu", fresh=True)))


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_more_processes_than_gpus_are_refused_on_each_of_them(place, monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for rank in range(4):
        place(RANK=rank, WORLD_SIZE=4, LOCAL_RANK=rank, LOCAL_WORLD_SIZE=4)
        with pytest.raises(RequestError, match=r"--nproc-per-node=2\b") as few, connect(device):
            pass
        assert few.value.own, "on another machine no first process reports it"


def test_one_gpu_for_several_processes_is_refused(place):
    place(RANK=1, WORLD_SIZE=2, LOCAL_RANK=1)
    with pytest.raises(RequestError, match="--device cuda:1 is one GPU, and there are 2 processes"), connect("cuda:1"):
        pass


@pytest.mark.parametrize("mark", [of_this_process, lambda error: error])
def test_an_error_that_one_process_alone_has_is_shown_by_it(place, mark, capsys):
    place(RANK=1, WORLD_SIZE=2)
    _show(mark(WorkError("this disk is full")))
    shown = "error (process 1): this disk is full\n" if mark is of_this_process else ""
    assert capsys.readouterr().err == shown


def evaluate_on(processes: int, model: Path, out: Path, *more: str) -> dict:
    words = ["eval", "--model", model, "--device", "cpu", "--precision", "fp32", "--no-baselines", "--out", out, *more]
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "sedd_cli", *words]
    done = subprocess.run(
        [sys.executable, *map(str, command), "--json"], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(out.read_text())  # one process speaks
    return json.loads(done.stdout)


@pytest.mark.slow
def test_an_evaluation_on_two_processes_is_that_of_one(tiny_run, tmp_path, sedd):
    from sedd_cli.system.home import home

    words = ["eval", "--model", tiny_run, "--device", "cpu", "--precision", "fp32", "--no-baselines", "--no-resume"]
    done = sedd(*words, "--json")
    assert done.code == 0, done.err
    alone = json.loads(done.out)
    together = evaluate_on(2, tiny_run, tmp_path / "found.json")
    assert together["processes"] == 2
    same_bounds(alone, together)
    assert {key: alone[key] for key in alone if key not in ("bounds", "processes", "made_by")} == {
        key: together[key] for key in together if key not in ("bounds", "processes", "made_by")
    }
    # what two processes have kept, one takes up where it was cut off
    kept = sorted((home() / "evaluations").glob("*/5.npy"))
    assert kept
    for file in kept:
        file.unlink()
    done = sedd(*words[:-1], "--json")
    assert "5 replicates are read from the cache" in done.err
    same_bounds(together, json.loads(done.out))


def same_bounds(one: dict, other: dict) -> None:
    """The same draws in the same groups; threads may add in another order."""
    for protocol in one["bounds"]:
        a, b = (dict(found["bounds"][protocol]) for found in (one, other))
        assert a.pop("perplexity_interval") == pytest.approx(b.pop("perplexity_interval"), rel=1e-6)
        for key in ("same_draws_as", "estimator", "sign", "process"):
            assert a.pop(key) == b.pop(key)
        assert a == pytest.approx(b, rel=1e-5), protocol
