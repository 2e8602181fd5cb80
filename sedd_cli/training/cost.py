"""What a recipe costs, before anything is spent."""

from __future__ import annotations

from sedd_cli.core.fast.fused import BUDGET
from sedd_cli.core.graphs import Graph
from sedd_cli.data.corpora import find_corpus
from sedd_cli.data.prepared import PrepareOptions, dataset_folder, find_prepared
from sedd_cli.data.shards import open_dataset
from sedd_cli.models.dit import DiT
from sedd_cli.recipe import Recipe
from sedd_cli.recipe.assemble import expected_vocab_size, make_graph
from sedd_cli.training.flops import PEAKS, mean_active_share, training_flops
from sedd_cli.training.state import BYTES_A_PARAMETER

#: The paper trained on nodes of 8 A100 80GB (appendix C.2); the share of their peak is an assumption.
GPUS, MFU = 8, 0.4


def plan(recipe: Recipe) -> dict[str, str]:
    """Parameters, steps, tokens and an estimate of memory. Nothing is prepared and no weight is allocated."""
    options = PrepareOptions(corpus=recipe.data.corpus, tokenizer=recipe.data.tokenizer)
    prepared = find_prepared(options)
    if prepared:
        vocabulary = open_dataset(prepared).tokenizer.vocab_size
    else:
        vocabulary = expected_vocab_size(recipe.data.tokenizer or find_corpus(options).tokenizer)
    train, length = recipe.train, recipe.model.length
    tokens = train.batch * length
    cost = {
        "data": str(prepared or f"not prepared yet, will be in {dataset_folder(options)}"),
        "steps": f"{train.steps:,}",
        "tokens a step": f"{tokens:,} ({train.batch} × {length})",
        "tokens in all": f"{train.steps * tokens:,}",
    }
    if vocabulary is None:
        return cost | {"vocabulary": "known once the corpus is prepared", "parameters": "known once it is prepared"}
    graph = make_graph(recipe, vocabulary)
    parameters = sum(p.numel() for p in DiT.empty(recipe.model, graph.states).parameters())
    embedding = graph.states * recipe.model.hidden_size
    flops = training_flops(recipe, graph)
    hours = flops / (GPUS * PEAKS["A100"] * MFU) / 3600
    held = train.micro_batch or train.batch
    return cost | {
        "vocabulary": f"{vocabulary:,}",
        "parameters": f"{parameters:,} ({parameters - embedding:,} without the embedding)",
        "memory, one process": f"about {_memory(recipe, parameters, graph, held) / 2**30:.1f} GiB "
        f"for micro-batches of {held} × {length} (an estimate)",
        "useful FLOP in all": f"{flops:.2e}",
        "on the paper's hardware": f"about {hours:,.1f} hours on {GPUS} × A100 80 GB at {MFU:.0%} of the bf16 peak",
    }


def _memory(recipe: Recipe, parameters: int, graph: Graph, held: int) -> float:
    """Bytes: fp32 weights, gradients, EMA and two optimizer moments, and what the backward pass keeps."""
    wide, rows, blocks = recipe.model.hidden_size, held * recipe.model.length, recipe.model.n_blocks
    # a block keeps about 34·D bf16 values a token (Korthikanti et al. 2022, without the attention matrix);
    # recomputing keeps the input of each block and one block's inside at a time
    inside = 34 + 2 * blocks if recipe.train.recompute else 34 * blocks
    # the fused loss: hidden states of the active rows, scaled, and their gradient in float32; one tile
    active = mean_active_share(graph, recipe.noise.make(), recipe.objective.make().causal)
    loss = 3 * 4 * wide * active * rows + BUDGET["cuda"]
    return parameters * BYTES_A_PARAMETER + rows * inside * wide * 2 + loss
