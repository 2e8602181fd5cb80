"""`init_from`: start training from the weights of a trained model."""

from __future__ import annotations

import dataclasses

import torch

from sedd_cli.checkpoints.foreign_weights import check_meaning, conditioned_on_noise, own_network, rows_of
from sedd_cli.checkpoints.load import open_model
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.checkpoints.tensors import check_finite
from sedd_cli.core.graphs import Graph
from sedd_cli.core.losses import Objective
from sedd_cli.core.schedules import Schedule
from sedd_cli.data.tokenizers import Tokenizer
from sedd_cli.errors import RequestError
from sedd_cli.models.dit import DiT

#: Keys of `model` that must agree. Length may differ, since rotary embeddings have no weights, and so may dropout.
SHAPE = ("n_blocks", "hidden_size", "n_heads", "cond_dim", "adaln", "positions", "time")
#: Parameters with a row per state.
BY_STATE = ("vocab_embed.embedding", "output_layer.linear.weight", "output_layer.linear.bias", "exponents")


def start_from(
    source: str, net: DiT, graph: Graph, schedule: Schedule, objective: Objective, tokenizer: Tokenizer
) -> tuple[str, list[str]]:
    """Copy a trained model's weights into a new network.

    If the vocabularies differ, the rows of embedding and output layer stay newly initialised, except the embedding of
    MASK. The model may be of another project whose network is SEDD's (`foreign_weights`).

    Returns:
        A description of the trained model, and warnings.

    Raises:
        RequestError: The trained model has another shape, graph or parametrization.
        DamageError: Its weights are not finite.
    """
    given = open_model(source, device="cpu")
    theirs, warnings = own_network(given), []
    if given.vocabulary is not None:
        warnings += check_meaning(given, graph, objective)
    else:
        _check_same(given, graph, objective)
    keys = (*SHAPE, "length") if net.position_embed is not None else SHAPE
    found, wanted = ({key: getattr(n.config, key) for key in keys} for n in (theirs, net))
    found["time"] = found["time"] and conditioned_on_noise(given)
    if found != wanted:
        changed = "; ".join(f"model.{k}: {found[k]} there, {wanted[k]} here" for k in keys if found[k] != wanted[k])
        settings = " ".join(f"model.{k}={found[k]}" for k in keys if found[k] != wanted[k])
        raise RequestError(f"init_from: {source} is a network of another shape ({changed}); set {settings}")
    check_finite(given.net, source)
    if net.exponents is None and theirs.exponents is not None:
        raise RequestError(f"init_from: {source} has learned exponents; set objective=genmd4, which goes on with them")
    rows = rows_of(given, graph, tokenizer)
    source_weights = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name not in BY_STATE:
                parameter.copy_(source_weights[name])
            elif rows is not None and name in source_weights:  # exponents may be new, and MASK has none
                parameter.copy_(source_weights[name][rows[: len(parameter)]])
        if rows is None and graph.mask is not None:
            mask = given.graph.mask if given.vocabulary is None else given.vocabulary.mask
            net.vocab_embed.embedding[graph.mask] = theirs.vocab_embed.embedding[mask]
    if rows is None:
        kept = " and MASK's embedding" if graph.mask is not None else ""
        warnings.append(
            f"{_vocabulary_difference(given, tokenizer)}: embedding and output rows are newly initialised, the rest"
            f"{kept} is copied"
        )
    elif given.tokenizer is None and given.tokenizer_source != tokenizer.spec:
        warnings.append(f"{source} names no tokenizer: its token ids are assumed to be those of {tokenizer.spec}")
    if given.schedule != schedule:
        warnings.append(f"{source} was trained with the noise schedule {given.schedule}, this recipe has {schedule}")
    return given.describe(), [f"init_from: {line}" for line in warnings]


def _check_same(given: LoadedModel, graph: Graph, objective: Objective) -> None:
    """RequestError unless a model of ours has the parametrization and the graph of a recipe."""
    ours, theirs = ((one.parametrization, one.causal) for one in (objective, given.objective))
    if ours != theirs:
        raise RequestError(
            f"init_from: {given.source} was trained with the objective {given.objective.name}, this recipe has "
            f"{objective.name}: their outputs have different parametrizations"
        )
    if dataclasses.replace(given.graph, vocab_size=graph.vocab_size) != graph:
        raise RequestError(f"init_from: {given.source} has the graph {given.graph}, this recipe {graph}")


def _vocabulary_difference(given: LoadedModel, tokenizer: Tokenizer) -> str:
    """How the vocabularies differ, as far as is known."""
    theirs = given.tokenizer
    name = theirs.spec if theirs else given.tokenizer_source or f"{given.vocab_size:,} tokens"
    own = tokenizer.spec if tokenizer.spec != name else f"another {name}"
    return f"{given.source} was trained on the vocabulary {name}, this recipe has {own}"
