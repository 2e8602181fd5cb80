"""`train`: from a recipe to a run directory with checkpoints, metrics, an evaluation and samples."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sedd_cli.core.random import NOISE, TIME, Stream
from sedd_cli.errors import RequestError, WorkError
from sedd_cli.recipe import Recipe
from sedd_cli.runs import checkpoint
from sedd_cli.runs.assemble import learning_rate
from sedd_cli.runs.dist import Dist, connect
from sedd_cli.runs.events import Event, Finished, Note, Prepared, Saved, Step
from sedd_cli.runs.prepare import PrepareOptions, prepare
from sedd_cli.runs.report import check_report, report
from sedd_cli.runs.rundir import RunDir
from sedd_cli.runs.stop import stop_requested
from sedd_cli.runs.trainstate import TrainState
from sedd_cli.text.loader import Loader
from sedd_cli.text.prefetch import prefetch
from sedd_cli.text.shards import Dataset, open_dataset


@dataclass(frozen=True)
class TrainOptions:
    """Where and on what device; nothing here belongs to the recipe."""

    run: Path
    device: str = "auto"
    fresh: bool = False
    report: bool = True


def train(recipe: Recipe, options: TrainOptions) -> Iterator[Event]:
    """Train, or resume, the recipe's model; the last event is Finished.

    Raises RequestError for a request that cannot be met, WorkError when training itself fails. SIGINT and
    SIGTERM end it after the step at hand, with a checkpoint.
    """
    with connect(options.device) as dist:
        # a frame of its own: the parallel wrapper must be gone before the processes part
        yield from _train(recipe, options, dist)


def _train(recipe: Recipe, options: TrainOptions, dist: Dist) -> Iterator[Event]:
    run = RunDir(options.run).fresh() if options.fresh else RunDir(options.run)
    yield Note(f"recipe {recipe.name} → {run.path}")
    dataset = yield from _dataset(recipe, dist)
    loader = _loader(recipe, dataset)
    state = TrainState.create(recipe, dataset, dist)
    check_report(recipe, state.model, dataset)
    rows = dist.share(recipe.train.batch)
    if dist.main:
        run.claim(recipe)
    with run.hold() if dist.main else nullcontext():
        dist.wait()
        yield from _resume_and_finish(recipe, options, state, loader, rows, run)


def _resume_and_finish(
    recipe: Recipe, options: TrainOptions, state: TrainState, loader: Loader, rows: range, run: RunDir
) -> Iterator[Event]:
    """The run from its latest checkpoint, if it has one, to its report."""
    dist = state.dist
    if found := checkpoint.latest(run.path):
        state.restore(found)
        yield Note(f"resuming {run.path} at step {state.step} of {recipe.train.steps}")
    if dist.main:
        run.forget_after(state.step)
    started_at = state.step
    with stop_requested() as stopped:
        yield from _loop(recipe, state, loader, rows, run, stopped)
    if state.step < recipe.train.steps:
        yield Note(f"stopped at step {state.step} of {recipe.train.steps}; the same command resumes the run")
        yield Finished({"run": str(run.path), "step": state.step, "finished": False})
        return
    result: dict[str, Any] = {"run": str(run.path), "step": state.step, "finished": True}
    if options.report and dist.main:
        if started_at == state.step:
            yield Note(f"{run.path} is already trained; reporting again")
        result |= yield from report(recipe, state.averaged(), state.dataset, run)
    dist.wait()  # processes that leave at different times can take each other down
    yield Finished(result)


def _dataset(recipe: Recipe, dist: Dist) -> Iterator[Event]:
    """The recipe's dataset, prepared by the main process if it is missing."""
    wanted = PrepareOptions(corpus=recipe.data.corpus, tokenizer=recipe.data.tokenizer)
    folder = None
    for process in (True, False):
        if dist.main == process:
            for event in prepare(wanted):
                if isinstance(event, Prepared):
                    folder = event.path
                else:
                    yield event
        dist.wait()
    return open_dataset(folder)


def _loader(recipe: Recipe, dataset: Dataset) -> Loader:
    if "train" not in dataset.splits:
        raise RequestError(f"{dataset.manifest.corpus} has no train split, it has {', '.join(dataset.splits)}")
    return Loader(
        dataset.split("train"), recipe.model.length, recipe.train.batch, recipe.seed, windows=recipe.data.windows
    )


def _loop(
    recipe: Recipe, state: TrainState, loader: Loader, rows: range, run: RunDir, stopped: threading.Event
) -> Iterator[Event]:
    plan, net, dist = recipe.train, state.model.net, state.dist
    net.train()
    saved, window = state.step, _Window(state)
    with closing(prefetch(loader, state.step, rows.start, rows.stop)) as batches:
        while state.step < plan.steps and not dist.any(stopped.is_set()):
            loss = _gradients(recipe, state, next(batches), rows)
            norm = nn.utils.clip_grad_norm_(net.parameters(), plan.clip)
            state.update()
            window.add(loss)
            last = state.step == plan.steps
            saving = state.step % plan.save_every == 0 or last
            if state.step % plan.log_every == 0 or last:
                event = window.close(norm)
                _require_finite(event.loss, event.grad_norm, event.step, run)
                if dist.main:
                    run.log(dataclasses.asdict(event))
                yield event
            elif saving:
                _require_finite(float(dist.total(window.loss.clone())), float(norm), state.step, run)
            if saving:
                saved = state.step
                yield from _save(state, run)
    if saved != state.step:
        yield from _save(state, run)


class _Window:
    """The steps since the last line of metrics."""

    def __init__(self, state: TrainState):
        self.state = state
        self.tokens = state.recipe.train.batch * state.recipe.model.length
        self._begin()

    def _begin(self) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=self.state.dist.device)
        self.since, self.began = self.state.step, time.perf_counter()

    def add(self, loss: Tensor) -> None:
        """One step's loss, summed over this process's sequences, nats."""
        self.loss += loss

    def close(self, norm: Tensor) -> Step:
        """The window's figures over all processes; the next window begins."""
        steps, seconds = self.state.step - self.since, time.perf_counter() - self.began
        loss = float(self.state.dist.total(self.loss)) / steps / self.tokens
        plan, step = self.state.recipe.train, self.state.step
        rate = steps * self.tokens / seconds
        self._begin()
        return Step(step, plan.steps, loss, float(norm), learning_rate(self.state.recipe, step), rate, seconds)


def _require_finite(loss: float, norm: float, step: int, run: RunDir) -> None:
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise WorkError(
            f"the loss is not finite at step {step} (loss {loss}, gradient norm {norm}): "
            f"lower train.lr; the last good checkpoint is {run.last_good()}"
        )


def _gradients(recipe: Recipe, state: TrainState, batch: Tensor, rows: range) -> Tensor:
    """Accumulate the gradient of the mean loss per sequence (algorithm 1) over the global batch.

    batch [R, L] holds this process's rows; returns their summed loss, nats.
    """
    plan, length, device = recipe.train, recipe.model.length, state.dist.device
    if recipe.model.dropout:
        # the only noise not named by a counter; seeding it by step makes a resumed run the same run
        torch.manual_seed(((recipe.seed * 1_000_003 + state.step) * 4096 + state.dist.rank) % 2**63)
    state.model.net.zero_grad(set_to_none=True)
    total = torch.zeros((), dtype=torch.float64, device=device)
    parts = torch.arange(len(batch)).split(plan.micro_batch or len(batch))
    for part in parts:
        index = part + rows.start
        v = _levels(recipe, state.step, index).to(device)
        u = Stream(recipe.seed, NOISE, index.to(device)).uniforms(state.step, length)[0]
        with state.dist.accumulate(state.loss, last=part is parts[-1]):
            loss = state.loss(batch[part].to(device, non_blocking=True), v, u)
            # gradients are averaged over processes, the loss over the global batch
            (loss * (state.dist.world / plan.batch)).backward()
        total += loss.detach()
    return total


def _levels(recipe: Recipe, step: int, index: Tensor) -> Tensor:
    """The uniforms in (0, 1), float64 [R], that place the noise level of the global batch's rows `index`."""
    batch = recipe.train.batch
    u = Stream(recipe.seed, TIME, index).uniform(step)
    if recipe.train.t_sampling == "uniform":
        return u
    # strata in a scattered order: neighbouring rows (one process, one micro-batch) get all levels, not one end
    stride = next(k for k in range(int(0.618 * batch) + 1, 2 * batch + 2) if math.gcd(k, batch) == 1)
    return (index * stride % batch + u) / batch


def _save(state: TrainState, run: RunDir) -> Iterator[Event]:
    if state.dist.main:
        yield Saved(state.step, state.save(run))
    state.dist.wait()
