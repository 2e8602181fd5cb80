"""`train`: from a recipe to a run directory with checkpoints, metrics, an evaluation and samples."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sedd_cli.checkpoints import checkpoint
from sedd_cli.checkpoints.async_checkpoint import AsyncCheckpoint
from sedd_cli.checkpoints.run_directory import RunDir
from sedd_cli.data.loader import Loader
from sedd_cli.data.prepare import PrepareOptions, prepare
from sedd_cli.data.shards import Dataset, open_dataset
from sedd_cli.errors import RequestError
from sedd_cli.recipe import Recipe, load_recipe
from sedd_cli.recipe.assemble import check_recipe
from sedd_cli.system.distributed import Dist, connect, restarts
from sedd_cli.system.events import Event, Finished, Note, Prepared, Warn
from sedd_cli.system.signals import stop_requested
from sedd_cli.training.autotune import fit, with_micro_batch
from sedd_cli.training.loop import training
from sedd_cli.training.report import check_report, report
from sedd_cli.training.state import TrainState
from sedd_cli.training.trackers import Tracker, check_trackers, open_trackers


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
    check_recipe(recipe, options.report)
    run = _run_dir(options)
    dist.from_main(run.check)
    yield Note(f"recipe {recipe.name} → {run.path}")
    dataset = yield from _dataset(recipe, dist)
    loader = _loader(recipe, dataset)
    check_report(recipe, dataset, options.report)
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
    return run.newest() if restarts() else run.fresh()


def _enter(run: RunDir, recipe: Recipe, stack: ExitStack) -> list[str]:
    """Hold the run's folder until the stack unwinds; the harmless differences from its recipe."""
    run.create()
    stack.enter_context(run.hold())
    return run.claim(recipe)


def _fit(
    recipe: Recipe, dataset: Dataset, dist: Dist, found: checkpoint.Checkpoint | None
) -> Generator[Event, None, Recipe]:
    """The recipe with a fitted micro_batch; a worker that was started again keeps the one it had."""
    if found and restarts():
        return with_micro_batch(recipe, load_recipe(found.folder / "recipe.yaml").train.micro_batch)
    return (yield from fit(recipe, dataset, dist))


def _state(
    recipe: Recipe, dataset: Dataset, dist: Dist, found: checkpoint.Checkpoint | None
) -> Generator[Event, None, TrainState]:
    """The state of a new run, or that of a checkpoint."""
    if recipe.train.compile:
        yield Note("compiling the blocks")
    state = TrainState.create(recipe, dataset, dist, anew=found is None)
    yield from map(Warn, state.notices)
    yield Note(state.describe())
    if found:
        state.restore(found)
        if state.step < recipe.train.steps:
            yield Note(f"resuming at step {state.step:,} of {recipe.train.steps:,}")
    elif state.origin:
        yield Note(f"started, averages and moments anew, with the weights of {state.origin}")
    return state


def _resume_and_finish(
    options: TrainOptions, state: TrainState, loader: Loader, rows: range, run: RunDir
) -> Iterator[Event]:
    """From the state as it stands to the run's report."""
    dist, plan = state.dist, state.recipe.train
    started_at = state.step
    saver = AsyncCheckpoint(run.path, dist, state.sharded, plan.keep, plan.keep_every)
    tell = options.tell if dist.main else lambda text: None
    with stop_requested(tell) as stopped, saver:
        yield from training(state, loader, rows, run, saver, stopped)
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
