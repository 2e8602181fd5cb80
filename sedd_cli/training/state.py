"""The state of a training run, and how checkpoints store and restore it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import torch
from torch import Tensor, nn

from sedd_cli.checkpoints import checkpoint
from sedd_cli.checkpoints.draft import Writer, json_file, text_file
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.checkpoints.tensors import load_weights
from sedd_cli.core.graphs import Graph
from sedd_cli.core.losses import Objective
from sedd_cli.core.schedules import Schedule
from sedd_cli.core.score import Loss, ScoreModel
from sedd_cli.data.shards import Dataset
from sedd_cli.errors import RequestError
from sedd_cli.models.compile import compile_blocks, compile_pays
from sedd_cli.models.dit import DiT
from sedd_cli.models.ema import EMA, local_part
from sedd_cli.models.precision import precision_name
from sedd_cli.recipe import Recipe, dump_recipe
from sedd_cli.recipe.assemble import make_graph, make_net, with_exponents
from sedd_cli.recipe.learning_rate import learning_rate
from sedd_cli.system.distributed import Dist, whole
from sedd_cli.system.memory import total_memory
from sedd_cli.training.fine_tuning import start_from
from sedd_cli.training.flops import training_flops
from sedd_cli.training.initialise import start_at_bigrams, start_at_unigrams
from sedd_cli.training.optim import make_optimizers, set_learning_rate

#: Bytes per parameter while training with AdamW: weight, gradient, EMA and two optimizer moments in float32.
BYTES_A_PARAMETER = 20


class LossModule(nn.Module):
    """The loss as a module, so that DDP and FSDP wrap one forward pass."""

    def __init__(self, net: DiT, graph: Graph, schedule: Schedule, objective: Objective):
        super().__init__()
        self.net, self.graph, self._parts = net, graph, (schedule, objective)

    def forward(self, x0: Tensor, v: Tensor, u: Tensor) -> Loss:
        schedule, objective = self._parts
        graph = with_exponents(self.graph, self.net)  # here, where parameters are whole
        model = ScoreModel(self.net, graph, schedule, parametrization=objective.parametrization)
        return objective.loss(model, x0, v, u)


def without_text(vocab_size: int) -> Dataset:
    """A stand-in for a prepared text, where a training is only timed: nothing else of it is used."""
    return cast(Dataset, SimpleNamespace(tokenizer=SimpleNamespace(vocab_size=vocab_size)))


@dataclass
class TrainState:
    """Network, EMA, optimizers, and counts of steps taken and skipped."""

    recipe: Recipe
    dataset: Dataset
    dist: Dist
    model: LoadedModel
    sharded: bool
    ema: EMA
    optimizers: dict[str, torch.optim.Optimizer]
    loss: nn.Module
    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    compiled: bool = False
    #: Description of the model whose weights training starts from.
    origin: str = ""
    #: Warnings about the setup.
    notices: tuple[str, ...] = ()
    #: Noise of the next step that is drawn already, by (step, batch, first row, rows) (`step.gradients`).
    drawn: dict[tuple[int, int, int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def create(cls, recipe: Recipe, dataset: Dataset, dist: Dist, anew: bool) -> TrainState:
        """The state before the first step. anew: no checkpoint will be restored, so the recipe's init_from applies."""
        graph, schedule = make_graph(recipe, dataset.tokenizer.vocab_size), recipe.noise.make()
        net = make_net(recipe, graph, dist.device)
        objective, origin, notices = recipe.objective.make(), "", []
        if anew and (source := recipe.init_from) is not None:
            origin, notices = dist.from_main(
                lambda: start_from(source, net, graph, schedule, objective, dataset.tokenizer)
            )
            dist.broadcast(p.detach() for p in net.parameters())
        elif anew and recipe.train.start != "random" and not graph.only_masks:
            notices.append(
                f"train.start={recipe.train.start} needs MASK as the only noise: on {graph.name} weights start random"
            )
        elif anew:
            if recipe.train.start == "unigrams":
                start_at_unigrams(net, graph, dataset)
            elif recipe.train.start == "bigrams":
                start_at_bigrams(net, graph, dataset, recipe.seed)
                dist.broadcast(p.detach() for p in net.parameters())
        net.recompute = recipe.train.recompute
        compiled, notice = compile_if_wanted(recipe, net, graph, dist)
        notices += [notice] if notice else []
        model = LoadedModel(net, graph, schedule, dataset.tokenizer, "training", recipe)
        sharded = dist.world > 1 and use_sharding(recipe, sum(p.numel() for p in net.parameters()), dist)
        loss = dist.parallel(LossModule(net, graph, schedule, objective), net.blocks, sharded)
        # from here on parameters may be shards; EMA and moments are created from them and sharded alike
        ema, optimizers = EMA(net, recipe.train.ema), make_optimizers(recipe, net)
        return cls(
            recipe,
            dataset,
            dist,
            model,
            sharded,
            ema,
            optimizers,
            loss,
            compiled=compiled,
            origin=origin,
            notices=tuple(notices),
        )

    def describe(self) -> str:
        """One line on the model, the devices, the precision and the batch."""
        config, net, dist = self.recipe.train, self.model.net, self.dist
        parameters = sum(p.numel() for p in net.parameters())
        each = config.batch // dist.world
        parts = [
            f"{parameters:,} parameters",
            str(dist.device) if dist.world == 1 else f"{dist.world} processes ({'fsdp' if self.sharded else 'ddp'})",
            precision_name(bool(net.autocast), dist.device),
            f"{net.kernel()} attention",
            f"{config.batch} × {self.recipe.model.length} tokens a step",
        ]
        if config.micro_batch and config.micro_batch < each:
            parts.append(f"micro-batches of {config.micro_batch}")
        parts += [name for name, on in (("compiled", self.compiled), ("recomputing", config.recompute)) if on]
        return ", ".join([*parts, f"{config.steps:,} steps"])

    def update(self) -> None:
        """One optimizer step with the current gradients, and the EMA update after it."""
        self.step += 1
        self.skipped_in_a_row = 0
        set_learning_rate(self.optimizers.values(), learning_rate(self.recipe, self.step))
        for optimizer in self.optimizers.values():
            optimizer.step()
        self.ema.update(self.step)

    def skip(self) -> None:
        """Skip a step: its batch is used up, but weights, EMA and moments stay as they are."""
        self.step += 1
        self.skipped += 1
        self.skipped_in_a_row += 1

    def finite(self) -> bool:
        """Whether every weight on this process is finite."""
        local = [local_part(p.detach()) for p in self.model.net.parameters()]
        return bool(nn.utils.get_total_norm(local).isfinite())  # one synchronisation with the device

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the state, not copied, by full names such as "weights.…", "ema.…" and "adamw.….exp_avg"."""
        named = list(self.model.net.named_parameters())
        found = {f"weights.{name}": p.detach() for name, p in named}
        found |= {f"ema.{name}": value for name, value in self.ema.shadow.items()}
        for kind, optimizer in self.optimizers.items():
            for name, p in named:
                found |= {f"{kind}.{name}.{key}": value for key, value in optimizer.state.get(p, {}).items()}
        return found

    def files(self) -> dict[str, Writer]:
        """Writers of the small files of a checkpoint."""
        state = {
            "step": self.step,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "data": self.dataset.manifest.fingerprint,
        }
        return {
            "state.json": json_file(state),
            "recipe.yaml": text_file(dump_recipe(self.recipe)),
            "tokenizer.json": lambda path: self.dataset.tokenizer.save(path.parent),
        }

    def restore(self, found: checkpoint.Checkpoint) -> None:
        """Load weights, EMA, moments and counters from a checkpoint that any number of processes wrote."""
        state = found.json("state")
        if state["data"] != self.dataset.manifest.fingerprint:
            raise RequestError(
                f"{found.folder} was trained on other data (fingerprint {state['data'][:12]}, now "
                f"{self.dataset.manifest.fingerprint[:12]}); start a new run with --fresh"
            )
        if state["step"] > state["skipped"]:
            # optimizers create their moments at the first step: a step with zero gradients and rate allocates them
            for p in self.model.net.parameters():
                p.grad = torch.zeros_like(p)
            set_learning_rate(self.optimizers.values(), 0.0)
            for optimizer in self.optimizers.values():
                optimizer.step()
            self.model.net.zero_grad(set_to_none=True)
        found.load(self.tensors())
        self.step, self.skipped = state["step"], state["skipped"]
        self.skipped_in_a_row = state["skipped_in_a_row"]

    def averaged(self) -> LoadedModel:
        """The model with its EMA weights, for evaluation. All processes must call: shards are gathered."""
        net = _network(self.model, {name: whole(value) for name, value in self.ema.shadow.items()})
        return dataclasses.replace(
            self.model,
            net=net,
            graph=with_exponents(self.model.graph, net),
            facts={"step": self.step, "weights": "EMA"},
        )


def _network(model: LoadedModel, tensors: dict[str, Tensor]) -> DiT:
    """A network whose parameters are the given tensors; nothing is copied."""
    learned = len(tensors.get("exponents", ()))
    net = DiT.empty(model.net.config, model.graph.states, model.net.causal, exponents=learned)
    load_weights(net, tensors, "training")
    return net.to(model.device).eval().requires_grad_(False)


def compile_if_wanted(recipe: Recipe, net: DiT, graph: Graph, dist: Dist) -> tuple[bool, str]:
    """Compile the blocks if train.compile is set, or if it is null and compiling saves time.

    Returns:
        Whether the blocks are compiled, and a warning if compiling failed.
    """
    wanted = recipe.train.compile
    if wanted is None:
        wanted = compile_pays(dist.device, training_flops(recipe, graph) / dist.world)
    if not wanted:
        return False, ""
    rows = len(dist.share(recipe.train.batch))
    reason = compile_blocks(net, min(recipe.train.micro_batch or rows, rows))
    return not reason, f"torch.compile does not work here, training continues without it ({reason})" if reason else ""


def state_bytes(recipe: Recipe, parameters: int) -> int:
    """Bytes of weights, gradients, EMA and optimizer moments, of which Muon has one for the blocks' matrices."""
    matrices = 12 * recipe.model.n_blocks * recipe.model.hidden_size**2 if recipe.train.optimizer == "muon" else 0
    return BYTES_A_PARAMETER * parameters - 4 * matrices


def use_sharding(recipe: Recipe, parameters: int, dist: Dist) -> bool:
    """Whether to shard the parameters: with fsdp, or with auto if whole ones would take over half of a GPU's memory."""
    if recipe.train.strategy != "auto":
        return recipe.train.strategy == "fsdp"
    needed = state_bytes(recipe, parameters)
    return dist.device.type == "cuda" and needed > total_memory(dist.device) / 2
