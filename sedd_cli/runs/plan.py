"""What a recipe costs, before anything is spent."""

from __future__ import annotations

import torch

from sedd_cli.nets.dit import DiT
from sedd_cli.recipe import Recipe
from sedd_cli.runs.assemble import expected_vocab_size, make_graph
from sedd_cli.runs.datasets import PrepareOptions, dataset_folder, find_prepared
from sedd_cli.text.corpora import find_corpus
from sedd_cli.text.shards import open_dataset


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
    with torch.device("meta"):
        net = DiT(recipe.model, make_graph(recipe, vocabulary).states)
    parameters = sum(p.numel() for p in net.parameters())
    rows = (train.micro_batch or train.batch) * length
    return cost | {
        "vocabulary": f"{vocabulary:,}",
        "parameters": f"{parameters:,} ({parameters - net.vocab_embed.embedding.numel():,} without the embedding)",
        "memory, one process": f"about {_memory(recipe, parameters, vocabulary, rows) / 2**30:.1f} GiB "
        f"for micro-batches of {rows // length} × {length} (an estimate)",
    }


def _memory(recipe: Recipe, parameters: int, vocabulary: int, rows: int) -> float:
    """Bytes: fp32 weights, gradients, EMA and two optimizer moments, and what the backward pass keeps."""
    wide = recipe.model.hidden_size
    # a block keeps about 34·D bf16 values a token (Korthikanti et al. 2022, without the attention matrix);
    # the loss keeps about four float32 copies of the scores of the active rows
    active = 0.5 if recipe.graph.name == "absorbing" else 1.0
    kept = rows * (recipe.model.n_blocks * 34 * wide * 2 + active * vocabulary * 4 * 4)
    return parameters * 4 * 5 + kept
