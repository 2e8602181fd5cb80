"""`init_from`: start training from the weights of a trained model."""

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

#: Keys of `model` that must agree. Length may differ, since rotary embeddings have no weights, and so may dropout.
SHAPE = ("n_blocks", "hidden_size", "n_heads", "cond_dim", "adaln", "positions", "time")
#: Parameters with a row per state.
BY_STATE = ("vocab_embed.embedding", "output_layer.linear.weight", "output_layer.linear.bias", "exponents")


def start_from(
    source: str, net: DiT, graph: Graph, schedule: Schedule, objective: Objective, tokenizer: Tokenizer
) -> tuple[str, list[str]]:
    """Copy a trained model's weights into a new network.

    If the vocabularies differ, the rows of embedding and output layer stay newly initialised, except the embedding of
    MASK.

    Returns:
        A description of the trained model, and warnings.

    Raises:
        RequestError: The trained model has another shape, graph or parametrization.
        DamageError: Its weights are not finite.
    """
    given = open_model(source, device="cpu")
    if not isinstance(given.net, DiT):
        raise RequestError(f"init_from: {source} is a network of another project, which cannot be trained here")
    ours, theirs = ((one.parametrization, one.causal) for one in (objective, given.objective))
    if ours != theirs:
        raise RequestError(
            f"init_from: {source} was trained with the objective {given.objective.name}, this recipe has "
            f"{objective.name}: their outputs have different parametrizations"
        )
    if dataclasses.replace(given.graph, vocab_size=graph.vocab_size) != graph:
        raise RequestError(f"init_from: {source} has the graph {given.graph}, this recipe {graph}")
    keys = (*SHAPE, "length") if net.position_embed is not None else SHAPE
    found, wanted = ({key: getattr(n.config, key) for key in keys} for n in (given.net, net))
    if found != wanted:
        changed = "; ".join(f"model.{k}: {found[k]} there, {wanted[k]} here" for k in keys if found[k] != wanted[k])
        settings = " ".join(f"model.{k}={found[k]}" for k in keys if found[k] != wanted[k])
        raise RequestError(f"init_from: {source} is a network of another shape ({changed}); set {settings}")
    check_finite(given.net, source)
    other_vocabulary = _vocabulary_difference(given, tokenizer)
    source_weights = dict(given.net.named_parameters())
    if net.exponents is None and given.net.exponents is not None:
        raise RequestError(f"init_from: {source} has learned exponents; set objective=genmd4, which goes on with them")
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if not (other_vocabulary and name in BY_STATE) and name in source_weights:  # exponents may be new
                parameter.copy_(source_weights[name])
        if other_vocabulary and graph.mask is not None:
            net.vocab_embed.embedding[graph.mask] = given.net.vocab_embed.embedding[given.graph.mask]
    warnings = []
    if other_vocabulary:
        kept = " and MASK's embedding" if graph.mask is not None else ""
        warnings.append(
            f"{other_vocabulary}: embedding and output rows are newly initialised, the rest{kept} is copied"
        )
    elif given.tokenizer is None and given.tokenizer_source != tokenizer.spec:
        warnings.append(f"{source} names no tokenizer: its token ids are assumed to be those of {tokenizer.spec}")
    if given.schedule != schedule:
        warnings.append(f"{source} was trained with the noise schedule {given.schedule}, this recipe has {schedule}")
    return given.describe(), [f"init_from: {line}" for line in warnings]


def _vocabulary_difference(given: LoadedModel, tokenizer: Tokenizer) -> str:
    """How the vocabularies differ, as far as is known; "" if they do not."""
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
