"""A short training of a small network: in one go, resumed from a checkpoint, or by two processes.

`python -m sedd_cli.bench.report.trajectory FOLDER RANK DEVICE` is one of two processes; FOLDER holds their recipe.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sedd_cli.bench.report.measurement import Overrun, SkippedError
from sedd_cli.checkpoints import checkpoint
from sedd_cli.checkpoints.draft import Draft, write_shards
from sedd_cli.errors import WorkError
from sedd_cli.recipe import Recipe, dump_recipe, load_recipe
from sedd_cli.system.distributed import Dist
from sedd_cli.system.process import share_of_threads
from sedd_cli.training.state import TrainState
from sedd_cli.training.step import gradients

#: Optimizer steps, and sequences in each.
STEPS, BATCH = 6, 4
VOCABULARY = 257


def tiny(recipe: Recipe) -> Recipe:
    """A small network on the recipe's graph and schedule, in float32, with large steps from the first one on."""
    model = dataclasses.replace(
        recipe.model, n_blocks=2, hidden_size=64, n_heads=2, cond_dim=16, length=32, attention="sdpa"
    )
    # dropout is the same on any number of processes for the same micro-batches
    train = dataclasses.replace(
        recipe.train, batch=BATCH, micro_batch=BATCH // 2, optimizer="adamw", precision="fp32", compile=False, lr=1e-2,
        head_lr=None, embedding_lr=None, start="random", warmup=0, steps=2 * STEPS, ema=0.9, strategy="ddp",
    )  # fmt: skip
    data = dataclasses.replace(recipe.data, tokenizer="byte")
    return dataclasses.replace(recipe, model=model, train=train, data=data, init_from=None)


def one_process(recipe: Recipe, device: torch.device) -> tuple[Tensor, Tensor]:
    """(losses [STEPS], all weights) of one process."""
    state = _state(recipe, Dist(0, 1, device))
    return steps(state, STEPS), _weights(state)


def resumed(recipe: Recipe, device: torch.device, folder: Path) -> tuple[Tensor, Tensor]:
    """The same, with a checkpoint written and read after half of the steps."""
    state = _state(recipe, Dist(0, 1, device))
    first = steps(state, STEPS // 2)
    draft = Draft(folder, state.step)
    draft.begin()
    write_shards(draft.folder, state.tensors(), None)
    draft.commit(state.files(), keep=1)
    found = checkpoint.latest(folder)
    assert found is not None
    state = _state(recipe, Dist(0, 1, device))
    state.restore(found)
    return torch.cat([first, steps(state, STEPS - STEPS // 2)]), _weights(state)


def two_processes(recipe: Recipe, device: torch.device, folder: Path, seconds: float) -> tuple[Tensor, Tensor]:
    """The same by two processes on one device.

    Raises:
        Overrun: They do not end within the seconds.
        WorkError: One of them fails.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        raise SkippedError("this torch has no gloo, through which two processes exchange gradients")
    (folder / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "sedd_cli.bench.report.trajectory", str(folder)]
    logs = [(folder / f"log-{rank}").open("w+", encoding="utf-8") for rank in range(2)]
    # torch reads it when it is imported
    threads = os.environ | dict.fromkeys(share_of_threads(2), "1")
    running = [
        subprocess.Popen(
            [*command, str(rank), str(device)], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=threads
        )
        for rank, log in enumerate(logs)
    ]
    try:
        end = time.monotonic() + max(seconds, 1)
        while any(process.poll() is None for process in running):
            if time.monotonic() > end:
                raise Overrun
            if any(process.poll() for process in running):
                break  # one has failed: the other would wait for it
            time.sleep(0.1)
        for process, log in zip(running, logs, strict=True):
            if process.poll():
                log.seek(0)
                lines = log.read().strip().splitlines() or [f"exit code {process.returncode}"]
                raise WorkError(f"two processes cannot train on this device: {lines[-1][:160]}")
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
            process.wait()
        for log in logs:
            log.close()
    found = load_file(folder / "result.safetensors", device=str(device))
    return found["losses"], found["weights"]


def steps(state: TrainState, count: int) -> Tensor:
    """Train; the mean loss of each step over all processes, float64 [count]."""
    vocab_size, length = state.model.graph.vocab_size, state.recipe.model.length
    rows, losses = state.dist.share(BATCH), []
    state.model.net.train()
    for _ in range(count):
        generator = torch.Generator().manual_seed(state.step)
        batch = torch.randint(vocab_size, (BATCH, length), generator=generator)[rows.start : rows.stop]
        found = gradients(state, batch.to(state.dist.device), rows)
        nn.utils.clip_grad_norm_(state.model.net.parameters(), state.recipe.train.clip)
        state.update()
        losses.append(state.dist.total(found.nats.sum()) / BATCH)
    return torch.stack(losses)


def _state(recipe: Recipe, dist: Dist) -> TrainState:
    """A state on random tokens: of a dataset, only the vocabulary size and a fingerprint are used."""
    tokenizer = SimpleNamespace(vocab_size=VOCABULARY, save=lambda folder: None)
    dataset: Any = SimpleNamespace(tokenizer=tokenizer, manifest=SimpleNamespace(fingerprint="random tokens"))
    return TrainState.create(recipe, dataset, dist, anew=True)


def _weights(state: TrainState) -> Tensor:
    """Weights and their averages as one vector."""
    found = [p.detach() for p in state.model.net.parameters()] + list(state.ema.shadow.values())
    return torch.cat([p.flatten() for p in found])


def _main(folder: Path, rank: int, device: torch.device) -> None:
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    store = torch.distributed.FileStore(str(folder / "store"), 2)  # pyright: ignore[reportPrivateImportUsage]
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    try:
        group = cast("torch.distributed.ProcessGroup", torch.distributed.new_group(backend="gloo"))
        state = _state(load_recipe(str(folder / "recipe.yaml"), []), Dist(rank, 2, device, group, group))
        losses = steps(state, STEPS)
        if rank == 0:
            save_file({"losses": losses.cpu(), "weights": _weights(state).cpu()}, folder / "result.safetensors")
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]), torch.device(sys.argv[3]))
