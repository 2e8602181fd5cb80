"""Train a recipe into a run directory with checkpoints, metrics, an evaluation and samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sedd_cli.checkpoints import checkpoint
from sedd_cli.checkpoints.async_checkpoint import AsyncCheckpoint
from sedd_cli.checkpoints.continuation import Start, begin, check_recipe_of, find_start
from sedd_cli.checkpoints.foreign_weights import check_source
from sedd_cli.checkpoints.own_text import text_options
from sedd_cli.checkpoints.run_directory import RunDir
from sedd_cli.data.loader import Loader
from sedd_cli.data.shards import Dataset
from sedd_cli.data.statistics import CorpusStatistics
from sedd_cli.errors import RequestError, first_line
from sedd_cli.evaluation.likelihood.texts import prepared_by_main
from sedd_cli.recipe import Recipe, load_recipe
from sedd_cli.recipe.assemble import check_order, check_recipe, make_graph
from sedd_cli.recipe.learning_rate import pinned_steps
from sedd_cli.recipe.measure import measured
from sedd_cli.system.distributed import Dist, connect, restarts
from sedd_cli.system.events import Event, Note, Warn, expand_events
from sedd_cli.system.signals import stop_requested
from sedd_cli.training.autotune import autotune, with_micro_batch
from sedd_cli.training.cost import check_memory, known_vocab_size, too_little_noise
from sedd_cli.training.loop import training
from sedd_cli.training.report import TrainReport, check_report, check_split, report
from sedd_cli.training.state import TrainState
from sedd_cli.training.trackers import Tracker, check_trackers, open_trackers


@dataclass(frozen=True)
class TrainOptions:
    """Options of a training that are no part of its recipe.

    They do not change what is trained. device and autotune can change results by rounding, and dropout masks.

    Attributes:
        run: The run directory.
        device: auto, cpu, cuda, cuda:N or mps.
        fresh: Start a new run in a new directory beside `run`.
        report: Evaluate and sample at the end.
        autotune: Measure which micro-batch is fastest, and use it.
        trackers: Names among TRACKERS.
        notify: Called with a line of text from the signal handler when a signal ends the training.
        extend: Go on with a run whose rate has decayed, with the rate of the longer schedule.
        until: The time (`time.monotonic`) after which the training stops, as it does after a signal.
    """

    run: Path
    device: str = "auto"
    fresh: bool = False
    report: bool = True
    autotune: bool = False
    trackers: tuple[str, ...] = ()
    notify: Callable[[str], None] = lambda text: None
    extend: bool = False
    until: float = math.inf


@dataclass(frozen=True, repr=False)
class TrainResult:
    """The end of a training.

    skipped, weights and report are None where it stopped early, or on other processes. interrupted: Ctrl-C stopped it.
    made_by: of a training from Python (a command adds its own).
    """

    run: Path
    step: int
    finished: bool
    skipped: int | None = None
    weights: Path | None = None
    report: TrainReport | None = None
    interrupted: bool = False
    made_by: dict[str, Any] | None = None

    def __repr__(self) -> str:
        bounds = self.report.bounds if self.report else {}
        figures = "".join(f", {name} {b['sign']} {b['bits_per_char']:.3f} bits/char" for name, b in bounds.items())
        return f"TrainResult({self.run}, {'finished' if self.finished else 'stopped'} at step {self.step:,}{figures})"

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {"run": str(self.run), "step": self.step, "finished": self.finished}
        found |= {} if self.skipped is None else {"skipped": self.skipped}
        found |= {} if self.weights is None else {"weights": str(self.weights)}
        found |= self.report.to_dict() if self.report else {}
        return found | ({} if self.made_by is None else {"made_by": self.made_by})


def train(recipe: Recipe, options: TrainOptions) -> Generator[Event, None, TrainResult]:
    """Train the recipe's model, or resume its run.

    SIGINT, SIGTERM and SIGUSR1 stop the training after the current step, with a checkpoint.

    Raises:
        RequestError: The recipe or the options cannot be carried out.
        WorkError: Training fails.
    """
    with connect(options.device) as dist:
        # in a frame of its own: the parallel wrapper must be freed before the process group is destroyed
        return (yield from _train(recipe, options, dist))


def _train(recipe: Recipe, options: TrainOptions, dist: Dist) -> Generator[Event, None, TrainResult]:
    rows, recipe = dist.share(recipe.train.batch), recipe.with_parts_of_now()
    check_trackers(options.trackers)
    check_recipe(recipe, options.report)
    run = dist.from_main(lambda: _run_dir(options))
    if (source := recipe.init_from) is not None:  # it is not read once the run has a checkpoint
        dist.from_main(lambda: check_source(source) if checkpoint.latest_named(run.path) is None else None)
    dist.from_main(run.check)
    dist.from_main(lambda: check_recipe_of(run, recipe))
    yield Note(f"recipe {recipe.name} on {recipe.data.corpus} → {run.path}")
    text = dist.from_main(lambda: text_options(recipe, run.path))
    if text.tokenizer != recipe.data.tokenizer:
        yield Note(f"taking the tokenizer {text.tokenizer} (data.tokenizer names another)")
    smallest = 1 if options.autotune else None
    check_memory(recipe, known_vocab_size(text), dist, smallest)
    dist.from_main(lambda: check_split(recipe, text))
    dataset = yield from prepared_by_main(text, dist)
    loader = _loader(recipe, dataset)
    check_order(make_graph(recipe, dataset.tokenizer.vocab_size), dataset.tokenizer)
    check_report(recipe, dataset, options.report)
    check_memory(recipe, dataset.tokenizer.vocab_size, dist, smallest)
    with ExitStack() as stack:
        # read the run only once it is locked: another process may have been writing until now
        start = dist.from_main(lambda: _lock_and_find(run, recipe, options.extend, stack))
        yield from map(Note, start.notes)
        recipe, found = start.recipe, start.found
        if not found:
            size, statistics = dataset.tokenizer.vocab_size, CorpusStatistics(dataset)
            recipe = dist.from_main(lambda: measured(start.recipe, size, statistics))
        if recipe.train.warmup >= recipe.train.steps:
            yield Warn(
                f"train.warmup ({recipe.train.warmup}) does not end within train.steps ({recipe.train.steps}): the "
                f"rate does not reach train.lr; train.warmup={recipe.train.steps // 10} is a tenth of the steps"
            )
        objective = recipe.objective.make()
        if not objective.logs_bound:
            yield Note(
                f"the loss {objective.name} is no bound on the likelihood: its curve has units of its own; "
                "validation and sedd eval measure the bound"
            )
        elif not objective.direct:
            yield Note(
                "the loss that is shown estimates the likelihood bound; gradients weight its noise levels otherwise "
                f"({objective.weights})"
            )
        if warning := too_little_noise(make_graph(recipe, dataset.tokenizer.vocab_size), recipe.noise.make()):
            yield Warn(warning)
        if options.autotune and not (found and found.step == recipe.train.steps):
            recipe = yield from _autotuned(recipe, dataset, dist, found)
        state = yield from _state(recipe, dataset, dist, found)
        if dist.main:
            begin(run, start, state.recipe)
        job = _train_and_report(options, state, loader, rows, run)
        trackers = open_trackers(options.trackers, run.path, state.recipe, state.step) if dist.main else []
        return (yield from _tracked(job, trackers))


def _run_dir(options: TrainOptions) -> RunDir:
    """The run directory. A restarted worker continues in the one that `fresh` made."""
    run = RunDir(options.run)
    if not options.fresh:
        return run
    return run.newest() if restarts() else run.fresh()


def _lock_and_find(run: RunDir, recipe: Recipe, extend: bool, stack: ExitStack) -> Start:
    """Lock the run directory until the stack unwinds, and find where the training begins."""
    run.create()
    stack.enter_context(run.hold())
    return find_start(run, recipe, extend)


def _autotuned(
    recipe: Recipe, dataset: Dataset, dist: Dist, found: checkpoint.Checkpoint | None
) -> Generator[Event, None, Recipe]:
    """The recipe with the fastest micro_batch; a restarted worker keeps the one of its checkpoint."""
    if found and restarts():
        return with_micro_batch(recipe, load_recipe(found.folder / "recipe.yaml").train.micro_batch)
    return (yield from autotune(recipe, dataset, dist))


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
        yield Note(f"starting from the weights of {state.origin}, with new EMA and optimizer moments")
    return state


def _train_and_report(
    options: TrainOptions, state: TrainState, loader: Loader, rows: range, run: RunDir
) -> Generator[Event, None, TrainResult]:
    """Train from the given state to the end, and report."""
    dist, config = state.dist, state.recipe.train
    started_at = state.step
    saving = AsyncCheckpoint(run.path, dist, state.sharded, config.keep, config.keep_every, pinned_steps(config))
    notify = options.notify if dist.main else lambda text: None
    with stop_requested(notify, options.until) as stopped, saving:
        yield from training(state, loader, rows, run, saving, stopped)
    if state.step < config.steps:
        yield Note(f"stopped at step {state.step:,} of {config.steps:,}")
        # torchrun counts workers that end with another code than 0 as failed, and may start them again
        interrupted = stopped.interrupted and dist.world == 1
        return TrainResult(run.path, state.step, finished=False, interrupted=interrupted)
    model = state.averaged()
    weights, reported = None, None
    if dist.main:
        weights = run.export(dict(model.net.named_parameters()))
    if options.report and dist.main:
        if started_at == state.step:
            yield Note(f"{run.path} is already trained; reporting again")
        reported = yield from report(state.recipe, model, state.dataset, run)
    dist.wait()  # a process that exits early can abort the others
    return TrainResult(run.path, state.step, True, state.skipped, weights, reported)


def _loader(recipe: Recipe, dataset: Dataset) -> Loader:
    if "train" not in dataset.splits:
        raise RequestError(f"{dataset.manifest.corpus} has no train split, it has {', '.join(dataset.splits)}")
    return Loader(
        dataset.split("train"), recipe.model.length, recipe.train.batch, recipe.seed, windows=recipe.data.windows
    )


def _tracked(job: Generator[Event, None, TrainResult], trackers: list[Tracker]) -> Generator[Event, None, TrainResult]:
    """Run the job and pass its events to the trackers too."""

    def see(event: Event) -> Iterator[Event]:
        for tracker in list(trackers):
            try:
                tracker.see(event)
            except Exception as error:  # of their libraries: metrics.jsonl has it all
                trackers.remove(tracker)
                _closed([tracker])
                yield Warn(f"{type(tracker).__name__} is left out from now on: {first_line(error)}")
        yield event

    try:
        result = yield from expand_events(job, see)
    except BaseException:
        _closed(trackers)
        raise
    yield from _closed(trackers)
    return result


def _closed(trackers: list[Tracker]) -> list[Warn]:
    """Close all trackers; a warning for each that cannot be."""
    found = []
    for tracker in trackers:
        try:
            tracker.close()
        except Exception as error:  # what is trained is stored
            found.append(Warn(f"{type(tracker).__name__} could not be closed: {first_line(error)}"))
    return found
