"""`train`: from a recipe to a run directory with checkpoints, metrics, an evaluation and samples."""

from __future__ import annotations

import dataclasses
import math
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from sedd_cli.errors import RequestError, WorkError
from sedd_cli.recipe import Recipe, load_recipe
from sedd_cli.runs import checkpoint
from sedd_cli.runs.dist import Dist, connect, whole
from sedd_cli.runs.events import Event, Finished, Note, Prepared, Progress, Saved, Step, Warn
from sedd_cli.runs.fit import fit
from sedd_cli.runs.prepare import PrepareOptions, prepare
from sedd_cli.runs.report import check_report, report, validate
from sedd_cli.runs.rundir import RunDir
from sedd_cli.runs.saver import Saver
from sedd_cli.runs.step import Tally, gradients
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

    fit: measure which micro-batch is fastest within the memory, and take it. trackers: names of TRACKERS. tell: is
    called with a line as soon as a signal asks for the end, in the signal's handler.
    """

    run: Path
    device: str = "auto"
    fresh: bool = False
    report: bool = True
    fit: bool = False
    trackers: tuple[str, ...] = ()
    tell: Callable[[str], None] = lambda text: None


def train(recipe: Recipe, options: TrainOptions) -> Iterator[Event]:
    """Train, or resume, the recipe's model; the last event is Finished.

    Raises RequestError for a request that cannot be met, WorkError when training itself fails. SIGINT, SIGTERM
    and SIGUSR1 end it after the step at hand, with a checkpoint.
    """
    with connect(options.device) as dist:
        # a frame of its own: the parallel wrapper must be gone before the processes part
        yield from _train(recipe, options, dist)


def _train(recipe: Recipe, options: TrainOptions, dist: Dist) -> Iterator[Event]:
    rows = dist.share(recipe.train.batch)
    check_trackers(options.trackers)
    run = _run_dir(options)
    yield Note(f"recipe {recipe.name} → {run.path}")
    dataset = yield from _dataset(recipe, dist)
    loader = _loader(recipe, dataset)
    check_report(recipe, dataset)
    with ExitStack() as stack:
        changed = dist.from_main(lambda: _enter(run, recipe, stack))
        yield from (Note(f"changed since the checkpoint: {line}") for line in changed)
        # nothing of the run is read before it is held: another process may have been at work until now
        found = checkpoint.latest(run.path)
        if recipe.train.warmup >= recipe.train.steps:
            yield Warn(f"train.warmup ({recipe.train.warmup}) never ends in train.steps ({recipe.train.steps})")
        if options.fit and not (found and found.step == recipe.train.steps):
            recipe = yield from _fit(recipe, dataset, dist, found)
        state = yield from _state(recipe, dataset, dist, found)
        if dist.main:
            run.begin(state.recipe, state.step)
        job = _resume_and_finish(options, state, loader, rows, run)
        trackers = open_trackers(options.trackers, run.path, state.recipe, state.step) if dist.main else []
        yield from _tracked(job, trackers)


def _run_dir(options: TrainOptions) -> RunDir:
    """The run's folder. A worker that was started again goes on in the one that `fresh` had made."""
    run = RunDir(options.run)
    if not options.fresh:
        return run
    return run.newest() if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0" else run.fresh()


def _enter(run: RunDir, recipe: Recipe, stack: ExitStack) -> list[str]:
    """Hold the run's folder until the stack unwinds; the harmless differences from its recipe."""
    run.create()
    stack.enter_context(run.hold())
    return run.claim(recipe)


def _fit(
    recipe: Recipe, dataset: Dataset, dist: Dist, found: checkpoint.Checkpoint | None
) -> Generator[Event, None, Recipe]:
    """The recipe with a fitted micro_batch; a worker that was started again keeps the one it had."""
    if found and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
        kept = load_recipe(found.folder / "recipe.yaml").train.micro_batch
        return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, micro_batch=kept))
    return (yield from fit(recipe, dataset, dist))


def _state(
    recipe: Recipe, dataset: Dataset, dist: Dist, found: checkpoint.Checkpoint | None
) -> Generator[Event, None, TrainState]:
    """The state of a new run, or that of a checkpoint."""
    if recipe.train.compile:
        yield Note("compiling the blocks")
    state = TrainState.create(recipe, dataset, dist, anew=found is None)
    if state.notice:
        yield Warn(state.notice)
    yield Note(state.describe())
    if found:
        state.restore(found)
        if state.step < recipe.train.steps:
            yield Note(f"resuming at step {state.step:,} of {recipe.train.steps:,}")
    elif recipe.init_from is not None:
        yield Note(f"started with the weights of {recipe.init_from}, averages and moments anew")
    return state


def _resume_and_finish(
    options: TrainOptions, state: TrainState, loader: Loader, rows: range, run: RunDir
) -> Iterator[Event]:
    """From the state as it stands to the run's report."""
    dist, plan = state.dist, state.recipe.train
    started_at = state.step
    saver = Saver(run.path, dist, state.sharded, plan.keep, plan.keep_every)
    tell = options.tell if dist.main else lambda text: None
    with stop_requested(tell) as stopped, saver:
        yield from _loop(state, loader, rows, run, saver, stopped)
    if state.step < plan.steps:
        yield Note(f"stopped at step {state.step:,} of {plan.steps:,}; the same command resumes the run")
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


def _save(state: TrainState, run: RunDir, saver: Saver) -> Iterator[Event]:
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
        # an untrained network scores 1 everywhere; where scores are scaled that is the uniform model, log N nats
        self.untrained = math.log(state.model.graph.tokens)
        self.length, self.begun = state.recipe.model.length, state.step > 0
        self.windows = 0

    def begin(self, tally: Tally) -> None:
        """The first step of all shows what an untrained network has."""
        if not self.begun and math.isfinite(tally.nats.sum()):
            self.untrained = max(self.untrained, float(tally.nats.sum() / tally.sequences.sum()) / self.length)
        self.begun = True

    def see(self, event: Step) -> Iterator[Event]:
        """A warning at the second window in a row whose loss is beyond twice that."""
        beyond = event.loss is not None and event.loss > 2 * self.untrained
        self.windows = self.windows + 1 if beyond else 0
        if self.windows == 2:
            yield Warn(
                f"the loss is {event.loss:.1f} nats a token at step {event.step}, an untrained network has "
                f"{self.untrained:.1f}: training has diverged, lower train.lr or raise train.warmup"
            )
