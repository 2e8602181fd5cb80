"""Everything that changes while training, and how it is stored and restored."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sedd_cli.core.graphs import Graph
from sedd_cli.core.noises import Noise
from sedd_cli.core.objectives import Objective
from sedd_cli.core.score import ScoreModel
from sedd_cli.errors import RequestError, WorkError
from sedd_cli.nets.dit import DiT
from sedd_cli.nets.ema import EMA
from sedd_cli.recipe import Recipe, dump_recipe
from sedd_cli.runs import checkpoint
from sedd_cli.runs.assemble import learning_rate, make_graph, make_net, make_optimizers
from sedd_cli.runs.dist import Dist
from sedd_cli.runs.model import Model, load_weights
from sedd_cli.runs.rundir import RunDir
from sedd_cli.text.shards import Dataset


class LossModule(nn.Module):
    """The objective as a module, so that a parallel wrapper sees one forward pass."""

    def __init__(self, net: DiT, graph: Graph, noise: Noise, objective: Objective):
        super().__init__()
        self.net, self._parts = net, (graph, noise, objective)

    def forward(self, x0: Tensor, v: Tensor, u: Tensor) -> Tensor:
        graph, noise, objective = self._parts
        return objective.loss(ScoreModel(self.net, graph, noise), x0, v, u).sum()


@dataclass
class TrainState:
    """The network in training, its average, its optimizers and the number of steps they have taken."""

    recipe: Recipe
    dataset: Dataset
    dist: Dist
    model: Model
    ema: EMA
    optimizers: dict[str, torch.optim.Optimizer]
    loss: nn.Module
    step: int = 0

    @classmethod
    def create(cls, recipe: Recipe, dataset: Dataset, dist: Dist) -> TrainState:
        graph, noise = make_graph(recipe, dataset.tokenizer.vocab_size), recipe.noise.make()
        net = make_net(recipe, graph, dist.device)
        model = Model(net, graph, noise, dataset.tokenizer, "training", recipe)
        loss = dist.parallel(LossModule(net, graph, noise, recipe.objective.make()))
        return cls(recipe, dataset, dist, model, EMA(net, recipe.train.ema), make_optimizers(recipe, net), loss)

    def update(self) -> None:
        """One optimizer step from the gradients at hand, and the average after it."""
        self.step += 1
        rate = learning_rate(self.recipe, self.step)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        self.ema.update(self.step)

    def save(self, run: RunDir) -> Path:
        """Write a checkpoint; WorkError instead if a weight is not finite, so that no good one is pruned for it."""
        if not all(bool(p.isfinite().all()) for p in self.model.net.parameters()):
            raise WorkError(
                f"the weights are not finite at step {self.step}: lower train.lr; "
                f"the last good checkpoint is {run.last_good()}"
            )
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
        """Take over a checkpoint's weights, averages, optimizers and step."""
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
