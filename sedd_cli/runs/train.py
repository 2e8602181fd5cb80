"""`train`: from a recipe to a run directory with checkpoints, metrics, an evaluation and samples."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sedd_cli.core.graphs import Graph
from sedd_cli.core.noises import Noise
from sedd_cli.core.objectives import Objective
from sedd_cli.core.random import NOISE, TIME, Stream
from sedd_cli.core.score import ScoreModel
from sedd_cli.errors import RequestError, WorkError
from sedd_cli.nets.dit import DiT
from sedd_cli.nets.ema import EMA
from sedd_cli.recipe import Recipe, dump_recipe
from sedd_cli.runs import checkpoint
from sedd_cli.runs.assemble import learning_rate, make_graph, make_net, make_optimizers
from sedd_cli.runs.dist import Dist, connect
from sedd_cli.runs.evaluate import EvaluateOptions, evaluate
from sedd_cli.runs.events import Evaluated, Event, Finished, Note, Prepared, Sampled, Saved, Step
from sedd_cli.runs.generate import GenerateOptions, as_json, generate, prompt_tokens
from sedd_cli.runs.model import Model, load_weights
from sedd_cli.runs.prepare import PrepareOptions, prepare
from sedd_cli.runs.rundir import RunDir
from sedd_cli.text.loader import Loader
from sedd_cli.text.shards import Dataset, open_dataset


@dataclass(frozen=True)
class TrainOptions:
    """Where and on what; nothing here changes a number."""

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
        run = RunDir(options.run).fresh() if options.fresh else RunDir(options.run)
        dataset = yield from _dataset(recipe, dist)
        loader = _loader(recipe, dataset)
        state = _State.create(recipe, dataset, dist)
        _check_report(recipe, state.model)
        if dist.main:
            run.claim(recipe)
        with run.hold() if dist.main else nullcontext():
            dist.wait()
            yield from _resume_and_finish(recipe, options, state, loader, run)


def _resume_and_finish(
    recipe: Recipe, options: TrainOptions, state: _State, loader: Loader, run: RunDir
) -> Iterator[Event]:
    """The run from its latest checkpoint, if it has one, to its report."""
    dist = state.dist
    if found := checkpoint.latest(run.path):
        state.restore(found)
        if dist.main:
            run.forget_after(state.step)
        yield Note(f"resuming {run.path} at step {state.step} of {recipe.train.steps}")
    started_at = state.step
    with _stop_requested() as stopped:
        yield from _loop(recipe, state, loader, run, dist, stopped)
    if state.step < recipe.train.steps:
        yield Note(f"stopped at step {state.step} of {recipe.train.steps}; the same command resumes the run")
        yield Finished({"run": str(run.path), "step": state.step, "finished": False})
        return
    result: dict[str, Any] = {"run": str(run.path), "step": state.step, "finished": True}
    if options.report and dist.main:
        if started_at == state.step:
            yield Note(f"{run.path} is already trained; reporting again")
        result |= yield from report(recipe, state.averaged(), state.dataset, run)
    dist.wait()
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


def _check_report(recipe: Recipe, model: Model) -> None:
    """A prompt that cannot be placed should fail before training, not after."""
    if wanted := recipe.report.infill:
        length = wanted.length or recipe.model.length
        prompts = len(prompt_tokens(model, wanted.prefix)) + len(prompt_tokens(model, wanted.suffix))
        if not prompts < length <= recipe.model.length:
            raise RequestError(
                f"report.infill: prompts of {prompts} tokens in a length of {length} "
                f"(the model allows {recipe.model.length}) leave nothing to fill"
            )


class _Loss(nn.Module):
    """The objective as a module, so that a parallel wrapper sees one forward pass."""

    def __init__(self, net: DiT, graph: Graph, noise: Noise, objective: Objective):
        super().__init__()
        self.net, self._parts = net, (graph, noise, objective)

    def forward(self, x0: Tensor, v: Tensor, u: Tensor) -> Tensor:
        graph, noise, objective = self._parts
        return objective.loss(ScoreModel(self.net, graph, noise), x0, v, u).sum()


@dataclass
class _State:
    """Everything that changes while training, and how it is stored."""

    recipe: Recipe
    dataset: Dataset
    dist: Dist
    model: Model
    ema: EMA
    optimizers: dict[str, torch.optim.Optimizer]
    loss: nn.Module
    step: int = 0

    @classmethod
    def create(cls, recipe: Recipe, dataset: Dataset, dist: Dist) -> _State:
        graph, noise = make_graph(recipe, dataset.tokenizer.vocab_size), recipe.noise.make()
        net = make_net(recipe, graph, dist.device)
        model = Model(net, graph, noise, dataset.tokenizer, "training", recipe)
        loss = dist.parallel(_Loss(net, graph, noise, recipe.objective.make()))
        return cls(recipe, dataset, dist, model, EMA(net, recipe.train.ema), make_optimizers(recipe, net), loss)

    def save(self, run: RunDir) -> Path:
        optimizers = {name: checkpoint.optimizer_files(o) for name, o in self.optimizers.items()}
        state = {
            "step": self.step,
            "data": self.dataset.manifest.fingerprint,
            "optimizers": {name: plain for name, (_, plain) in optimizers.items()},
        }
        files = {
            "weights.safetensors": checkpoint.tensor_file(dict(self.model.net.named_parameters())),
            "ema.safetensors": checkpoint.tensor_file(self.ema.shadow),
            **{f"{n}.safetensors": checkpoint.tensor_file(tensors) for n, (tensors, _) in optimizers.items()},
            "state.json": checkpoint.json_file(state),
            "recipe.yaml": checkpoint.text_file(dump_recipe(self.recipe)),
            "tokenizer.json": lambda path: self.dataset.tokenizer.save(path.parent),
        }
        return checkpoint.write_checkpoint(run.path, self.step, files, self.recipe.train.keep)

    def restore(self, found: checkpoint.Checkpoint) -> None:
        state = found.json("state")
        if state["data"] != self.dataset.manifest.fingerprint:
            raise RequestError(
                f"{found.folder} was trained on other data (fingerprint {state['data'][:12]}, now "
                f"{self.dataset.manifest.fingerprint[:12]}); start anew with --fresh"
            )
        load_weights(self.model.net, found.tensors("weights"), str(found.folder))
        with torch.no_grad():
            for name, value in found.tensors("ema").items():
                self.ema.shadow[name].copy_(value)
        for name, optimizer in self.optimizers.items():
            checkpoint.restore_optimizer(optimizer, found.tensors(name), state["optimizers"][name])
        self.step = state["step"]

    def averaged(self) -> Model:
        """The model with its EMA weights, for evaluation; training weights are gone after this."""
        with torch.no_grad():
            for name, p in self.model.net.named_parameters():
                p.copy_(self.ema.shadow[name])
        self.model.net.eval().requires_grad_(False)
        self.model.net.autocast = None
        return dataclasses.replace(self.model, facts={"step": self.step, "weights": "EMA"})


def _loop(
    recipe: Recipe, state: _State, loader: Loader, run: RunDir, dist: Dist, stopped: threading.Event
) -> Iterator[Event]:
    plan, net = recipe.train, state.model.net
    rows = dist.share(plan.batch)
    tokens = plan.batch * recipe.model.length
    net.train()
    window, since, began = torch.zeros(1, dtype=torch.float64), state.step, time.perf_counter()
    saved = state.step
    while state.step < plan.steps and not stopped.is_set():
        loss = _gradients(recipe, state, loader, rows)
        norm = nn.utils.clip_grad_norm_(net.parameters(), plan.clip)
        state.step += 1
        rate = learning_rate(recipe, state.step)
        for optimizer in state.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        state.ema.update(state.step)
        window = window.to(loss.device) + loss
        if state.step % plan.log_every == 0 or state.step == plan.steps:
            steps, seconds = state.step - since, time.perf_counter() - began
            mean = float(dist.total(window)) / steps / tokens
            if not (mean < float("inf") and float(norm) < float("inf")):
                raise WorkError(
                    f"the loss is not finite at step {state.step} (loss {mean}, gradient norm {float(norm)}): "
                    f"lower train.lr; the last good checkpoint is {_last(run, saved)}"
                )
            event = Step(state.step, plan.steps, mean, float(norm), rate, steps * tokens / seconds, seconds)
            if dist.main:
                run.log(dataclasses.asdict(event))
            yield event
            window, since, began = torch.zeros_like(window), state.step, time.perf_counter()
        if state.step % plan.save_every == 0 or state.step == plan.steps:
            saved = state.step
            yield from _save(state, run, dist)
    if saved != state.step:
        yield from _save(state, run, dist)


def _gradients(recipe: Recipe, state: _State, loader: Loader, rows: range) -> Tensor:
    """Accumulate the gradient of this process's rows of the next global batch; returns its summed loss [1], nats."""
    plan, length, device = recipe.train, recipe.model.length, state.dist.device
    if recipe.model.dropout:
        # the only noise not named by a counter; seeding it by step makes a resumed run the same run
        torch.manual_seed((recipe.seed * 1_000_003 + state.step) * 4096 + state.dist.rank)
    state.model.net.zero_grad(set_to_none=True)
    total = torch.zeros(1, dtype=torch.float64, device=device)
    scale = state.dist.world / (plan.batch * length)
    size = plan.micro_batch or len(rows)
    for start in range(rows.start, rows.stop, size):
        index = torch.arange(start, min(start + size, rows.stop))
        x0 = torch.from_numpy(loader.batch(state.step, int(index[0]), int(index[-1]) + 1))
        level = Stream(recipe.seed, TIME, index).uniform(state.step)
        v = (index + level) / plan.batch if plan.t_sampling == "stratified" else level
        u = Stream(recipe.seed, NOISE, index.to(device)).uniforms(state.step, length)[0]
        loss = state.loss(x0.to(device), v.to(device), u)
        (loss * scale).backward()
        total += loss.detach()
    return total


def _save(state: _State, run: RunDir, dist: Dist) -> Iterator[Event]:
    if dist.main:
        yield Saved(state.step, state.save(run))
    dist.wait()


def _last(run: RunDir, step: int) -> str:
    return str(run.path / "checkpoints" / f"step-{step}") if (run.path / checkpoint.LATEST).is_file() else "none yet"


def report(recipe: Recipe, model: Model, dataset: Dataset, run: RunDir) -> Iterator[Event]:
    """Bound on the report's split, samples and an infill from a trained model, stored in the run."""
    wanted, found = recipe.report, {}
    if wanted.split in dataset.splits:
        options = EvaluateOptions(split=wanted.split, rel_error=wanted.rel_error)
        for event in evaluate(model, dataset, options):
            if isinstance(event, Evaluated):
                stored = run.store("results", f"{wanted.split}-step-{model.facts['step']}", event.result)
                found["evaluation"] = str(stored)
                found["bounds"] = event.result["bounds"]
            yield event
    jobs = {}
    if wanted.samples:
        jobs["samples"] = GenerateOptions(n=wanted.samples, seed=recipe.seed)
    if wanted.infill:
        jobs["infill"] = GenerateOptions(seed=recipe.seed, **dataclasses.asdict(wanted.infill))
    for name, options in jobs.items():
        kept = []
        for event in generate(model, options):
            if isinstance(event, Sampled):
                kept.append(as_json(event))
            yield event
        found[name] = str(run.store("samples", f"{name}-step-{model.facts['step']}", kept))
    return found


@contextmanager
def _stop_requested() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets; a second SIGINT interrupts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
