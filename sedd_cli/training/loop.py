"""The training loop: steps, figures, checkpoints and looks at the model, the same on one process and on many."""

from __future__ import annotations

import dataclasses
import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing

from torch import nn

from sedd_cli.checkpoints import checkpoint
from sedd_cli.checkpoints.async_checkpoint import AsyncCheckpoint
from sedd_cli.checkpoints.run_directory import RunDir
from sedd_cli.data.loader import Loader, prefetch
from sedd_cli.errors import WorkError
from sedd_cli.system.distributed import whole
from sedd_cli.system.events import Event, Progress, Saved, Warn
from sedd_cli.training.metrics import Divergence, StepMetrics
from sedd_cli.training.report import validate
from sedd_cli.training.state import TrainState
from sedd_cli.training.step import gradients

#: So many steps without a finite loss and gradient, one after the other, end a run.
SKIPS = 3


def training(
    state: TrainState, loader: Loader, rows: range, run: RunDir, saver: AsyncCheckpoint, stopped: threading.Event
) -> Iterator[Event]:
    """Steps until the recipe's last one, or until one after `stopped` is set; every one saved in the end."""
    plan, net, dist, wanted = state.recipe.train, state.model.net, state.dist, state.recipe.report
    net.train()
    window, watch = StepMetrics(state), Divergence(state)
    stop, parent = False, os.getppid()
    if state.step < plan.steps:
        yield Progress("training", state.step, plan.steps, "steps")
    with closing(prefetch(loader, state.step, rows.start, rows.stop)) as batches:
        while state.step < plan.steps and not stop:
            tally = gradients(state, next(batches), rows)
            norm = float(whole(nn.utils.clip_grad_norm_(net.parameters(), plan.clip)))
            good = math.isfinite(norm) and math.isfinite(tally.nats.sum())
            # a launcher that died would leave its processes training for ever
            orphaned = dist.world > 1 and os.getppid() != parent
            stop, bad, lost = dist.any(stopped.is_set() or orphaned, not good, saver.failed)
            if lost:
                saver.finish()
                raise WorkError("another process could not write its part of a checkpoint; earlier ones are intact")
            watch.begin(tally)
            if bad:
                yield from _skip(state, saver, run, float(tally.nats.sum()), norm)
            else:
                state.update()
                window.add(tally, norm)
            last = stop or state.step == plan.steps
            if state.step % plan.log_every == 0 or last:
                event = window.close()
                if dist.main:
                    run.log({"kind": "train", **dataclasses.asdict(event)})
                yield event
                yield from watch.see(event)
            if saver.over and not saver.failed:  # a failure is for all to hear, after the next step
                yield from _saved(saver)
            if state.step % plan.save_every == 0 or last:
                yield from _save(state, run, saver)
            if wanted.every and state.step % wanted.every == 0 and not last:
                began = time.perf_counter()
                yield from _validate(state, run)
                window.exclude(began)
    yield from _saved(saver)


def _save(state: TrainState, run: RunDir, saver: AsyncCheckpoint) -> Iterator[Event]:
    """Begin a checkpoint, unless a weight is not finite: then no good one is pruned for it."""
    yield from _saved(saver)
    tensors = state.tensors()
    full = checkpoint.lacks_space(run.path, tensors)
    spoilt, lost = state.dist.any(not state.finite(), bool(full))
    if spoilt:
        raise WorkError(f"the weights are not finite at step {state.step}: lower train.lr; {run.last_good()}")
    if lost:
        raise WorkError(full or "another process has no room for its part of a checkpoint; earlier ones are intact")
    saver.start(state.step, tensors, state.files())


def _saved(saver: AsyncCheckpoint) -> Iterator[Event]:
    """Wait for the checkpoint that is being written, if there is one."""
    if done := saver.finish():
        yield Saved(*done)


def _skip(state: TrainState, saver: AsyncCheckpoint, run: RunDir, loss: float, norm: float) -> Iterator[Event]:
    """Leave a step out whose loss or gradient is not finite; the third in a row ends the run."""
    state.skip()
    yield Warn(f"step {state.step} skipped: loss {loss:g}, gradient norm {norm:g}")
    if state.skipped_in_a_row == SKIPS:
        yield from _saved(saver)
        reason = (
            f"training has diverged: the loss or its gradient was not finite in {SKIPS} steps in a row, up to step "
            f"{state.step}; lower train.lr or raise train.warmup, in a new run (--fresh); {run.last_good()}"
        )
        if state.dist.main:
            run.log({"kind": "failed", "step": state.step, "reason": reason})
        raise WorkError(reason)


def _validate(state: TrainState, run: RunDir) -> Iterator[Event]:
    """The bound and a sample of the averaged weights; the main process computes, the others wait."""
    model = state.averaged()
    if state.dist.main:
        yield from validate(state.recipe, model, state.dataset, run)
    state.dist.wait()
