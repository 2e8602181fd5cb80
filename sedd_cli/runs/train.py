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

from torch import nn

from sedd_cli.errors import RequestError, WorkError
from sedd_cli.recipe import Recipe
from sedd_cli.runs import checkpoint
from sedd_cli.runs.dist import Dist, connect, whole
from sedd_cli.runs.events import Event, Finished, Note, Prepared, Saved, Step, Warn
from sedd_cli.runs.fit import fit
from sedd_cli.runs.prepare import PrepareOptions, prepare
from sedd_cli.runs.report import check_report, report, validate
from sedd_cli.runs.rundir import RunDir
from sedd_cli.runs.saver import Saver
from sedd_cli.runs.step import gradients
from sedd_cli.runs.stop import stop_requested
from sedd_cli.runs.trackers import Tracker, check_trackers, open_trackers
from sedd_cli.runs.trainstate import TrainState
from sedd_cli.runs.window import Window
from sedd_cli.text.loader import Loader
from sedd_cli.text.prefetch import prefetch
from sedd_cli.text.shards import Dataset, open_dataset

#: So many steps without a finite loss and gradient, one after the other, end a run.
SKIPS = 3


@dataclass(frozen=True)
class TrainOptions:
    """Where, on what device and who is told; nothing here belongs to the recipe.

    fit: measure which micro-batch is fastest within the memory, and take it. trackers: names of TRACKERS.
    """

    run: Path
    device: str = "auto"
    fresh: bool = False
    report: bool = True
    fit: bool = False
    trackers: tuple[str, ...] = ()


def train(recipe: Recipe, options: TrainOptions) -> Iterator[Event]:
    """Train, or resume, the recipe's model; the last event is Finished.

    Raises RequestError for a request that cannot be met, WorkError when training itself fails. SIGINT, SIGTERM
    and SIGUSR1 end it after the step at hand, with a checkpoint.
    """
    with connect(options.device) as dist:
        # a frame of its own: the parallel wrapper must be gone before the processes part
        yield from _train(recipe, options, dist)


def _train(recipe: Recipe, options: TrainOptions, dist: Dist) -> Iterator[Event]:
    run = RunDir(options.run).fresh() if options.fresh else RunDir(options.run)
    yield Note(f"recipe {recipe.name} → {run.path}")
    check_trackers(options.trackers)
    dataset = yield from _dataset(recipe, dist)
    loader = _loader(recipe, dataset)
    rows = dist.share(recipe.train.batch)
    found = checkpoint.latest(run.path)
    state = TrainState.create(recipe, dataset, dist, anew=found is None)
    if state.notice:
        yield Warn(state.notice)
    check_report(recipe, state.model, dataset)
    if options.fit:
        yield from fit(state, rows)
    changed = run.claim(state.recipe) if dist.main else []
    yield from (Note(f"changed since the checkpoint: {line}") for line in changed)
    with run.hold() if dist.main else nullcontext():
        dist.wait()
        if found:
            state.restore(found)
            yield Note(f"resuming {run.path} at step {state.step} of {recipe.train.steps}")
        if dist.main:
            run.begin(state.recipe, state.step)
        job = _resume_and_finish(options, state, loader, rows, run)
        yield from _tracked(job, open_trackers(options.trackers, run.path, state.recipe) if dist.main else [])


def _resume_and_finish(
    options: TrainOptions, state: TrainState, loader: Loader, rows: range, run: RunDir
) -> Iterator[Event]:
    """From the state as it stands to the run's report."""
    dist, plan = state.dist, state.recipe.train
    started_at = state.step
    saver = Saver(run.path, dist, state.sharded, plan.keep, plan.keep_every)
    with stop_requested() as stopped, closing(saver):
        yield from _loop(state, loader, rows, run, saver, stopped)
    if state.step < plan.steps:
        yield Note(f"stopped at step {state.step} of {plan.steps}; the same command resumes the run")
        yield Finished({"run": str(run.path), "step": state.step, "finished": False})
        return
    result: dict[str, Any] = {"run": str(run.path), "step": state.step, "finished": True, "skipped": state.skipped}
    model = state.averaged()
    if dist.main:
        result["weights"] = str(run.export(dict(model.net.named_parameters())))
    if options.report and dist.main:
        if started_at == state.step:
            yield Note(f"{run.path} is already trained; reporting again")
        result |= yield from report(state.recipe, model, state.dataset, run)
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
    state: TrainState, loader: Loader, rows: range, run: RunDir, saver: Saver, stopped: threading.Event
) -> Iterator[Event]:
    plan, net, dist, wanted = state.recipe.train, state.model.net, state.dist, state.recipe.report
    net.train()
    window, watch = Window(state), _Divergence(state)
    stop = False
    with closing(prefetch(loader, state.step, rows.start, rows.stop)) as batches:
        while state.step < plan.steps and not stop:
            tally = gradients(state, next(batches), rows)
            norm = float(whole(nn.utils.clip_grad_norm_(net.parameters(), plan.clip)))
            good = math.isfinite(norm) and math.isfinite(tally.nats.sum())
            stop, bad, lost = dist.any(stopped.is_set(), not good, saver.failed)
            if lost:
                saver.finish()
                raise WorkError("another process could not write its part of a checkpoint; earlier ones are intact")
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
            if saver.over:
                yield from _saved(saver)
            if state.step % plan.save_every == 0 or last:
                yield from _save(state, run, saver)
            if wanted.every and state.step % wanted.every == 0 and state.step < plan.steps:
                began = time.perf_counter()
                yield from _validate(state, run)
                window.exclude(began)
    yield from _saved(saver)


def _save(state: TrainState, run: RunDir, saver: Saver) -> Iterator[Event]:
    """Begin a checkpoint, unless a weight is not finite: then no good one is pruned for it."""
    yield from _saved(saver)
    (spoilt,) = state.dist.any(not state.finite())
    if spoilt:
        raise WorkError(
            f"the weights are not finite at step {state.step}: lower train.lr; "
            f"the last good checkpoint is {run.last_good()}"
        )
    saver.start(state.step, state.tensors(), state.files())


def _saved(saver: Saver) -> Iterator[Event]:
    """Wait for the checkpoint that is being written, if there is one."""
    if done := saver.finish():
        yield Saved(*done)


def _skip(state: TrainState, saver: Saver, run: RunDir, loss: float, norm: float) -> Iterator[Event]:
    """Leave a step out whose loss or gradient is not finite; the third in a row ends the run."""
    state.skip()
    yield Warn(f"step {state.step} skipped: loss {loss:g}, gradient norm {norm:g}")
    if state.skipped_in_a_row == SKIPS:
        yield from _saved(saver)
        raise WorkError(
            f"training has diverged: the loss or its gradient was not finite in {SKIPS} steps in a row, up to step "
            f"{state.step}; lower train.lr or raise train.warmup. The last good checkpoint is {run.last_good()}"
        )


def _validate(state: TrainState, run: RunDir) -> Iterator[Event]:
    """The bound and a sample of the averaged weights; the main process computes, the others wait."""
    model = state.averaged()
    if state.dist.main:
        yield from validate(state.recipe, model, state.dataset, run)
    state.dist.wait()


def _tracked(events: Iterator[Event], trackers: list[Tracker]) -> Iterator[Event]:
    """The events, told to the trackers as well."""
    try:
        for event in events:
            for tracker in trackers:
                tracker.see(event)
            yield event
    finally:
        for tracker in trackers:
            tracker.close()


class _Divergence:
    """Says once, plainly, when the loss has left what any sane training gives."""

    def __init__(self, state: TrainState):
        # an untrained network scores 1 everywhere, which on either graph is the uniform model: log N nats a token
        self.untrained = math.log(state.model.graph.tokens)
        self.windows = 0

    def see(self, event: Step) -> Iterator[Event]:
        beyond = event.loss is not None and event.loss > 2 * self.untrained
        self.windows = self.windows + 1 if beyond else 0
        if self.windows == 2:
            yield Warn(
                f"the loss is {event.loss:.1f} nats a token at step {event.step}, an untrained network has "
                f"{self.untrained:.1f}: training has diverged, lower train.lr or raise train.warmup"
            )
