"""`init_from`: training that begins with the weights of a trained model."""

from __future__ import annotations

import dataclasses

import torch

from sedd_cli.checkpoints.load import open_model
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.checkpoints.tensors import check_finite
from sedd_cli.core.graphs import Graph
from sedd_cli.core.losses import Objective
from sedd_cli.core.schedules import Schedule
from sedd_cli.data.tokenizers import Tokenizer
from sedd_cli.errors import RequestError
from sedd_cli.models.dit import DiT

#: What must agree; the length need not, for rotary angles have no weights, nor must dropout.
SHAPE = ("n_blocks", "hidden_size", "n_heads", "cond_dim")
#: Parameters with a row for every state.
BY_STATE = ("vocab_embed.embedding", "output_layer.linear.weight", "output_layer.linear.bias")


def start_from(
    source: str, net: DiT, graph: Graph, schedule: Schedule, objective: Objective, tokenizer: Tokenizer
) -> tuple[str, list[str]]:
    """Copy a trained model's weights into a fresh network; returns what it is, and what one should know about it.

    Another vocabulary keeps the fresh rows of embedding and output, but for the embedding of MASK; all else is taken
    over. RequestError for a network of another shape, or another graph (its outputs mean something else),
    DamageError for weights that are not finite.
    """
    given = open_model(source, device="cpu")
    if (given.objective.mean, given.objective.causal) != (objective.mean, objective.causal):
        raise RequestError(
            f"init_from: {source} was trained for {given.objective.name}, this recipe for {objective.name}: "
            "their outputs mean different things"
        )
    if dataclasses.replace(given.graph, vocab_size=graph.vocab_size) != graph:
        raise RequestError(f"init_from: {source} has the graph {given.graph}, this recipe {graph}")
    found, wanted = ({key: getattr(n.config, key) for key in SHAPE} for n in (given.net, net))
    if found != wanted:
        changed = "; ".join(f"model.{k}: {found[k]} there, {wanted[k]} here" for k in SHAPE if found[k] != wanted[k])
        taken = " ".join(f"model.{k}={found[k]}" for k in SHAPE if found[k] != wanted[k])
        raise RequestError(f"init_from: {source} is a network of another shape ({changed}); its own is {taken}")
    check_finite(given.net, source)
    another = _another_vocabulary(given, tokenizer)
    theirs = dict(given.net.named_parameters())
    with torch.no_grad():
        for name, mine in net.named_parameters():
            if not (another and name in BY_STATE):
                mine.copy_(theirs[name])
        if another and graph.mask is not None:
            net.vocab_embed.embedding[graph.mask] = given.net.vocab_embed.embedding[given.graph.mask]
    told = []
    if another:
        kept = " and MASK's embedding" if graph.mask is not None else ""
        told.append(f"{another}: embedding and output rows begin anew, the rest{kept} is kept")
    elif given.tokenizer is None and given.tokenizer_source != tokenizer.spec:
        told.append(f"{source} names no tokenizer: its tokens are taken to be those of {tokenizer.spec}")
    if given.schedule != schedule:
        told.append(f"{source} was trained under the noise {given.schedule}, this recipe has {schedule}")
    return given.describe(), [f"init_from: {line}" for line in told]


def _another_vocabulary(given: LoadedModel, tokenizer: Tokenizer) -> str:
    """How the vocabularies differ, as far as is known; "" where they do not."""
    theirs = given.tokenizer
    if theirs is None:
        name = given.tokenizer_source or f"{given.vocab_size:,} tokens"
        same = given.vocab_size == tokenizer.vocab_size
    else:
        name, same = theirs.spec, theirs.fingerprint == tokenizer.fingerprint
    if same:
        return ""
    own = tokenizer.spec if tokenizer.spec != name else f"another {name}"
    return f"{given.source} was trained on the vocabulary {name}, this recipe has {own}"
