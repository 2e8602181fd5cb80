"""An estimate of what a recipe costs, before anything is spent."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from sedd_cli.checkpoints.own_text import text_options
from sedd_cli.core.fast.tiles import BUDGET
from sedd_cli.core.graphs import Graph
from sedd_cli.core.schedules import Schedule
from sedd_cli.data.corpora import find_corpus
from sedd_cli.data.prepared import PrepareOptions, dataset_folder, find_prepared
from sedd_cli.data.shards import open_dataset
from sedd_cli.data.tokenizers import is_local, load_tokenizer
from sedd_cli.errors import RequestError, of_this_process
from sedd_cli.models.dit import DiT
from sedd_cli.models.precision import autocast_dtype
from sedd_cli.recipe import Recipe
from sedd_cli.recipe.assemble import check_recipe, expected_vocab_size, learned_exponents, make_graph
from sedd_cli.system.distributed import Dist
from sedd_cli.system.memory import free_memory
from sedd_cli.training.durations import about
from sedd_cli.training.flops import PEAKS, mean_active_share, training_flops
from sedd_cli.training.state import state_bytes, use_sharding

#: Nats per token between the end of the noise and p_base that are not warned of, and the states of a graph without a
#: closed form up to which they are computed.
MOST_PRIOR, DENSE_STATES = 0.01, 512
#: The most noise that is looked for where there is too little.
MOST_SIGMA = 1e6
#: Values of the model's width that a block keeps for the backward pass at least, for each token.
KEPT = 10
#: Bytes in bf16 that a block keeps for the backward pass for each token and column of its width: measured on an H200
#: with gpt2_small and gpt2_medium, whose blocks were not compiled (compiled ones keep 37 to 43; `sedd guide speed`).
HELD = 60
#: The paper trained on nodes of 8 A100 80GB (appendix C.2); the share of their peak is an assumption.
GPUS, MFU = 8, 0.4


@dataclass(frozen=True)
class ModelCost:
    """What follows from the vocabulary size.

    parameters and embedding count weights; memory is bytes of one process for micro-batches of `micro_batch`; flops
    counts the useful operations of the whole training; hours are those on GPUS A100.
    """

    vocab_size: int
    parameters: int
    embedding: int
    micro_batch: int
    memory: float
    flops: float
    hours: float
    warning: str | None


@dataclass(frozen=True)
class CostEstimate:
    """The cost of a recipe. model: None while the vocabulary size is not known."""

    data: str
    steps: int
    batch: int
    length: int
    model: ModelCost | None

    def to_dict(self) -> dict[str, str]:
        """Labels and values, ready to print."""
        tokens = self.batch * self.length
        found = {
            "data": self.data,
            "steps": f"{self.steps:,}",
            "tokens a step": f"{tokens:,} ({self.batch} × {self.length})",
            "tokens in all": f"{self.steps * tokens:,}",
        }
        if (model := self.model) is None:
            return found | {
                "vocabulary": "known once the corpus is prepared",
                "parameters": "known once it is prepared",
            }
        return found | {
            "vocabulary": f"{model.vocab_size:,}",
            "parameters": f"{model.parameters:,} ({model.parameters - model.embedding:,} without the embedding)",
            "memory, one process": f"about {model.memory / 2**30:.1f} GiB "
            f"for micro-batches of {model.micro_batch} × {self.length} (an estimate)",
            "useful FLOP in all": f"{model.flops:.2e}",
            "on the paper's hardware": f"{about(3600 * model.hours)} on {GPUS} × A100 80 GB at {MFU:.0%} of the bf16 "
            "peak",
            **({"warning": model.warning} if model.warning else {}),
        }


def estimate_cost(recipe: Recipe, report: bool = True) -> CostEstimate:
    """Parameters, tokens, memory and hours of a recipe. Prepares no data and allocates no weights.

    report: whether the report at the end will be made, as for `check_recipe`.

    Raises:
        RequestError: The recipe could not be trained.
    """
    check_recipe(recipe, report)
    options = text_options(recipe)
    prepared, vocab_size = find_prepared(options), known_vocab_size(options)
    return CostEstimate(
        data=str(prepared or f"not prepared yet, will be in {dataset_folder(options)}"),
        steps=recipe.train.steps,
        batch=recipe.train.batch,
        length=recipe.model.length,
        model=None if vocab_size is None else _model_cost(recipe, vocab_size),
    )


def known_vocab_size(options: PrepareOptions) -> int | None:
    """The vocabulary size of a prepared text, or of one still to be prepared; None if its tokens are not known yet."""
    if prepared := find_prepared(options):
        return open_dataset(prepared).tokenizer.vocab_size
    spec = options.tokenizer or find_corpus(options).tokenizer
    return load_tokenizer(spec).vocab_size if is_local(spec) else expected_vocab_size(spec)


def check_memory(recipe: Recipe, vocab_size: int | None, dist: Dist, micro_batch: int | None = None) -> None:
    """RequestError where a training takes more than the free memory of the process's device.

    The estimate is a low one: what is refused cannot work. vocab_size: None if it is not known yet. micro_batch: other
    than the recipe's.
    """
    graph, rows = make_graph(recipe, vocab_size or 2), dist.share(recipe.train.batch)
    parameters, length = count_parameters(recipe, graph), recipe.model.length
    size = 4 if autocast_dtype(recipe.train.precision, dist.device) is None else 2
    each = min(micro_batch or recipe.train.micro_batch or len(rows), len(rows))
    values = KEPT + recipe.model.n_blocks if recipe.train.recompute else KEPT * recipe.model.n_blocks
    shards = dist.world if use_sharding(recipe, parameters, dist) else 1
    needs = [
        _Need(
            state_bytes(recipe, parameters) / shards,
            f"weights, gradients, average and moments of {parameters:,} parameters",
            "model",
        ),
        _Need(
            size * values * recipe.model.hidden_size * each * length,
            f"activations of {each:,} × {length:,} tokens",
            "model.length, train.micro_batch or model",
        ),
        _Need(8 * len(rows) * length, f"a batch of {len(rows):,} × {length:,} tokens", "train.batch or model.length"),
    ]
    needed, free = sum(need.bytes for need in needs), free_memory(dist.device)
    if needed > free:
        spelled = ", ".join(f"{need.bytes / 2**30:,.1f} for {need.what}" for need in needs)
        error = RequestError(
            f"training takes {needed / 2**30:,.1f} GiB or more on {dist.device} ({spelled}), of which "
            f"{free / 2**30:,.1f} are free: choose a smaller {max(needs, key=lambda need: need.bytes).lower}"
        )
        raise of_this_process(error)  # of its own device


@dataclass(frozen=True)
class _Need:
    """Bytes, what they are for, and what makes them fewer."""

    bytes: float
    what: str
    lower: str


def count_parameters(recipe: Recipe, graph: Graph) -> int:
    """The number of parameters of a recipe's network, from two that have one and two blocks."""
    learned = learned_exponents(recipe.objective.make(), graph)
    nets = (DiT.empty(replace(recipe.model, n_blocks=n), graph.states, exponents=learned) for n in (1, 2))
    one, two = (sum(p.numel() for p in net.parameters()) for net in nets)
    return one + (recipe.model.n_blocks - 1) * (two - one)


def _model_cost(recipe: Recipe, vocab_size: int) -> ModelCost:
    graph = make_graph(recipe, vocab_size)
    parameters = count_parameters(recipe, graph)
    flops = training_flops(recipe, graph)
    micro_batch = recipe.train.micro_batch or recipe.train.batch
    return ModelCost(
        vocab_size=vocab_size,
        parameters=parameters,
        embedding=graph.states * recipe.model.hidden_size,
        micro_batch=micro_batch,
        memory=_memory(recipe, parameters, graph, micro_batch),
        flops=flops,
        hours=flops / (GPUS * PEAKS["A100"] * MFU) / 3600,
        warning=too_little_noise(graph, recipe.noise.make()),
    )


def too_little_noise(graph: Graph, schedule: Schedule) -> str | None:
    """A warning where D_KL(p(x_1|x0) ‖ p_base), which the rigorous bound counts, is above MOST_PRIOR.

    None on graphs with MASK, where a dense matrix of the graph would take long, and where the graph or the schedule is
    still to be measured of the training text.
    """
    if any(part.measured and not getattr(part, part.measured) for part in (graph, schedule)):
        return None
    closed = type(graph).prior_kl is not Graph.prior_kl
    if graph.mask is not None or not (closed or graph.states <= DENSE_STATES):
        return None
    tokens = torch.arange(graph.vocab_size)

    def left(sigma: float) -> float:
        return float(graph.prior_kl(torch.full(tokens.shape, sigma, dtype=torch.float64), tokens).mean())

    nats, much = left(schedule.sigma(1.0)), schedule.sigma(1.0)
    if nats <= MOST_PRIOR:
        return None
    while left(much) > MOST_PRIOR and much < MOST_SIGMA:
        much *= 1.2
    enough = f", as noise={{name: geometric, sigma_max: {math.ceil(much)}}} has" if much < MOST_SIGMA else ""
    return (
        f"the noise at t = 1, a total of {schedule.sigma(1.0):.4g}, leaves tokens {nats:.2f} nats per token from the "
        "distribution that samplers start from, and the rigorous bound counts them: choose more noise"
        f"{enough}"
    )


def _memory(recipe: Recipe, parameters: int, graph: Graph, micro_batch: int) -> float:
    """Bytes of weights, gradients, EMA and optimizer moments in float32, and of what the backward pass keeps."""
    width, blocks, objective = recipe.model.hidden_size, recipe.model.n_blocks, recipe.objective.make()
    tokens = objective.corruptions * micro_batch * recipe.model.length
    # recomputing keeps the input of each block and the activations of one block at a time
    each = HELD if recipe.train.precision in ("auto", "bf16") else 2 * HELD
    held = each + 4 * blocks if recipe.train.recompute else each * blocks
    # the fused loss: hidden states of the active positions, scaled, and their gradient in float32; one tile in float32
    # and its gradient in bf16
    active = mean_active_share(objective, graph, recipe.noise.make())
    loss = 3 * 4 * width * active * tokens + 1.5 * BUDGET["cuda"]
    return state_bytes(recipe, parameters) + tokens * held * width + loss
