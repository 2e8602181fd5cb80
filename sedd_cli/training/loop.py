"""The training loop: steps, metrics, checkpoints and validation, the same on one process and on many."""

from __future__ import annotations

import dataclasses
import math
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial

import torch
from torch import nn

from sedd_cli.checkpoints.async_checkpoint import AsyncCheckpoint
from sedd_cli.checkpoints.draft import lacks_space
from sedd_cli.checkpoints.run_directory import RunDir
from sedd_cli.data.loader import Loader, prefetch
from sedd_cli.errors import WorkError, one_line
from sedd_cli.system.distributed import whole
from sedd_cli.system.events import Event, Note, Progress, Saved, Warn
from sedd_cli.training.metrics import Divergence, StepMetrics
from sedd_cli.training.report import tolerated, validate
from sedd_cli.training.state import TrainState
from sedd_cli.training.step import gradients

#: This many consecutive steps without a finite loss and gradient end a run.
MAX_SKIPS = 3


def training(
    state: TrainState, loader: Loader, rows: range, run: RunDir, saving: AsyncCheckpoint, stopped: threading.Event
) -> Iterator[Event]:
    """Train to the recipe's last step, or to the step at which `stopped` is set, and save a checkpoint there."""
    config, net, dist, every = state.recipe.train, state.model.net, state.dist, state.recipe.report.every
    net.train()
    stop, parent = False, os.getppid()
    text = {"data": state.dataset.manifest.fingerprint}  # with the first record
    if state.step < config.steps:
        yield Progress("training", state.step, config.steps, "steps")
        stop = yield from _validate_missed(state, run, stopped)
    metrics, divergence = StepMetrics(state), Divergence(state)  # their clock starts here
    pin = dist.device.type == "cuda"
    with closing(prefetch(loader, state.step, rows.start, rows.stop, pin=pin)) as batches:
        while state.step < config.steps and not stop:
            losses = gradients(state, next(batches), rows)
            size = whole(nn.utils.clip_grad_norm_(net.parameters(), config.clip))
            # the one wait for the device in a step, beside that for the number of active positions (`core.score.Count`)
            norm, nats = torch.stack([size.double(), losses.nats.sum().to(size.device)]).tolist()
            finite = math.isfinite(norm) and math.isfinite(nats)
            # without this check, processes would go on training after their launcher has died
            orphaned = dist.world > 1 and os.getppid() != parent
            stop, skip, lost = dist.any(stopped.is_set() or orphaned, not finite, saving.failed)
            if lost:
                saving.finish()
                raise WorkError("another process could not write its part of a checkpoint; earlier ones are intact")
            divergence.begin(losses)
            if skip:
                yield from _skip(state, saving, run, nats, norm)
            else:
                state.update()
                metrics.add(losses, norm)
            last = stop or state.step == config.steps
            if state.step % config.log_every == 0 or last:
                yield from _log(state, run, metrics, divergence, text)
            if saving.over and not saving.failed:  # a failure is raised on all processes, after the next step
                yield from _saved(saving)
            if saved := state.step % config.save_every == 0 or state.step in saving.pinned or last:
                yield from _save(state, run, saving)
            if every and state.step % every == 0 and not last:
                began = time.perf_counter()
                stop = yield from _validate(state, run, stopped)
                metrics.exclude(began)
                if stop and state.step % config.log_every:
                    yield from _log(state, run, metrics, divergence, text)
                if stop and not saved:
                    yield from _save(state, run, saving)
    yield from _saved(saving)


def _log(
    state: TrainState, run: RunDir, metrics: StepMetrics, divergence: Divergence, text: dict[str, str]
) -> Iterator[Event]:
    """Log the steps since the last record; text: what the first record holds beside them."""
    event = metrics.close()
    if state.dist.main:
        record = {"kind": "train", **dataclasses.asdict(event), **text}
        yield from _aside(run, partial(run.log, record))
        text.clear()
    yield event
    yield from divergence.see(event)


def _save(state: TrainState, run: RunDir, saving: AsyncCheckpoint) -> Iterator[Event]:
    """Start writing a checkpoint. Weights that are not finite are never saved, so that no good checkpoint is pruned."""
    yield from _saved(saving)
    tensors = state.tensors()
    full = lacks_space(run.path, tensors)
    not_finite, lost = state.dist.any(not state.finite(), bool(full))
    if not_finite:
        raise WorkError(f"the weights are not finite at step {state.step}: lower train.lr; {run.last_good()}")
    if lost:
        raise WorkError(full or "another process has no room for its part of a checkpoint; earlier ones are intact")
    saving.start(state.step, tensors, state.files())


def _saved(saving: AsyncCheckpoint) -> Iterator[Event]:
    """Wait for the pending checkpoint, if there is one."""
    if done := saving.finish():
        yield Saved(*done)


def _skip(state: TrainState, saving: AsyncCheckpoint, run: RunDir, loss: float, norm: float) -> Iterator[Event]:
    """Skip a step whose loss or gradient is not finite; MAX_SKIPS in a row end the run."""
    state.skip()
    yield Warn(f"step {state.step} skipped: loss {loss:g}, gradient norm {norm:g}")
    if state.skipped_in_a_row == MAX_SKIPS:
        yield from _saved(saving)
        reason = (
            f"training has diverged: the loss or its gradient was not finite in {MAX_SKIPS} steps in a row, up to step "
            f"{state.step}; lower train.lr or raise train.warmup, in a new run (--fresh); {run.last_good()}"
        )
        if state.dist.main:
            yield from _aside(run, partial(run.log, {"kind": "failed", "step": state.step, "reason": reason}))
        raise WorkError(reason)


class _BrokenOffError(Exception):
    """A signal has come during a validation."""


def _validate_missed(state: TrainState, run: RunDir, stopped: threading.Event) -> Generator[Event, None, bool]:
    """The validation of the step at which a run goes on, where an interruption came between it and the checkpoint."""
    every = state.recipe.report.every
    if not (every and state.step and state.step % every == 0):
        return False
    if state.dist.from_main(lambda: run.validated(state.step)):
        return False
    return (yield from _validate(state, run, stopped))


def _validate(state: TrainState, run: RunDir, stopped: threading.Event) -> Generator[Event, None, bool]:
    """The bound and a sample with the EMA weights; the main process computes, the others wait.

    Returns whether to stop at this step: on one process, `stopped` breaks the validation off.
    """
    model = state.averaged()

    def see(event: Event) -> None:
        if stopped.is_set() and state.dist.world == 1:
            raise _BrokenOffError

    if state.dist.main:
        try:
            yield from validate(state.recipe, model, state.dataset, run, see)
        except _BrokenOffError:
            yield Note(f"step {state.step}: the validation is left to the next start")
        except Exception as error:
            if not tolerated(error):
                raise
            yield Warn(f"step {state.step}: no validation: {one_line(str(error))}")
    state.dist.wait()
    return state.dist.world == 1 and stopped.is_set()


def _aside(run: RunDir, write: Callable[[], None]) -> Iterator[Event]:
    """Write a record that the training does not need; a Warn where that fails."""
    try:
        write()
    except WorkError as error:
        yield Warn(str(error))
