"""Make the objects that a recipe names, and check that they fit together."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from sedd_cli.core.graphs import Graph
from sedd_cli.core.losses import Objective
from sedd_cli.data.corpora import CORPORA, SPLITS
from sedd_cli.data.statistics import read_embedding
from sedd_cli.data.tokenizers import Tokenizer, may_be_ordered
from sedd_cli.errors import RequestError, not_one_of
from sedd_cli.models.dit import DiT
from sedd_cli.models.precision import autocast_dtype
from sedd_cli.recipe import Recipe


def make_graph(recipe: Recipe, vocab_size: int) -> Graph:
    """The recipe's graph for a vocabulary of N tokens; RequestError if it has no form for so many."""
    graph = recipe.graph.make(vocab_size=vocab_size)
    try:
        graph.active(torch.tensor([0]))
    except ValueError as error:
        raise RequestError(f"graph: {error}") from None
    return graph


def learned_exponents(objective: Objective, graph: Graph) -> int:
    """How many exponents of the graph are parameters of its network: N where the objective learns them, else 0."""
    return graph.vocab_size if objective.learns_exponents else 0


def with_exponents(graph: Graph, net: DiT) -> Graph:
    """The graph with the exponents that are parameters of its network, if there are some."""
    return graph if net.exponents is None else graph.learned(net.exponents)


def check_recipe(recipe: Recipe, report: bool = True) -> None:
    """Check whatever can be checked without data: that graph, objective, sampler and report go together.

    Loading does not check this, so that the model of an old run with an odd report stays readable.

    Args:
        recipe: A recipe that is about to be trained.
        report: Whether the report at the end will be made, so that its infill counts.

    Raises:
        RequestError: Names the key, and the value to set.
    """
    corpus = CORPORA.get(recipe.data.corpus)
    check_order(recipe.graph.make(vocab_size=2), recipe.data.tokenizer or (corpus.tokenizer if corpus else None))
    size = expected_vocab_size(recipe.data.tokenizer)
    general = recipe if size else _without_measured(recipe)  # what was measured is of the vocabulary of a text
    graph = make_graph(general, max(2, size or 2))
    _check_embedding(recipe)
    try:
        general.noise.make().check(graph)
    except ValueError as error:
        raise RequestError(f"noise: {error}") from None
    objective, sampler = _checked_objective(recipe, graph), recipe.sampler.make()
    if not objective.causal:  # an autoregressive model is sampled from left to right, whatever the recipe's sampler
        try:
            if sampler.causal:
                raise ValueError(f"{sampler.name} needs an autoregressive objective, found {objective.name}")
            sampler.check(graph)
        except ValueError as error:
            raise RequestError(f"sampler: {error}; set sampler=tweedie") from None
    if recipe.report.split not in SPLITS:
        raise RequestError(not_one_of("report.split", SPLITS, recipe.report.split))
    if report and (infill := recipe.report.infill):
        if objective.causal and infill.suffix:
            raise RequestError(
                f"report.infill: the objective {objective.name} generates from left to right and cannot fill a gap "
                f"before the suffix {infill.suffix!r}; set report.infill=null"
            )
        if infill.length is not None and not 1 <= infill.length <= recipe.model.length:
            raise RequestError(
                f"report.infill.length must lie between 1 and model.length ({recipe.model.length}), "
                f"found {infill.length}"
            )


def _without_measured(recipe: Recipe) -> Recipe:
    """The recipe without what its graph and its schedule have measured of a text."""
    for key in ("graph", "noise"):
        part = getattr(recipe, key)
        if name := part.registry[part.name].measured:
            part = dataclasses.replace(part, options={**part.options, name: getattr(part.registry[part.name], name)})
            recipe = dataclasses.replace(recipe, **{key: part})
    return recipe


def check_order(graph: Graph, tokenizer: Tokenizer | str | None) -> None:
    """RequestError where the graph needs tokens in an order and those of the tokenizer, or of that name, have none."""
    if not graph.ordered or tokenizer is None:
        return
    spec, known = (
        (tokenizer, may_be_ordered(tokenizer))
        if isinstance(tokenizer, str)
        else (tokenizer.spec, tokenizer.order is not None)
    )
    if not known:
        raise RequestError(
            f"graph: {graph.name} needs tokens in an order, and the ids of the tokenizer {spec!r} have none: set "
            "data.tokenizer=char (in the order of code points) or byte (of values), or graph=nearest_neighbour"
        )


def _check_embedding(recipe: Recipe) -> None:
    """RequestError where a graph that is still to be measured names a file that holds no embedding of its tokens."""
    options, size = recipe.graph.options, expected_vocab_size(recipe.data.tokenizer)
    if (file := options.get("embedding")) and not options["edges"]:
        rows = len(read_embedding(Path(file)))
        if size is not None and rows != size:
            raise RequestError(
                f"graph.embedding: {file} has {rows:,} rows, the tokenizer {recipe.data.tokenizer} {size:,} tokens"
            )


def _checked_objective(recipe: Recipe, graph: Graph) -> Objective:
    objective = recipe.objective.make()
    try:
        objective.check(graph)
    except ValueError as error:
        raise RequestError(f"objective: {error}") from None
    return objective


def make_net(recipe: Recipe, graph: Graph, device: torch.device) -> DiT:
    """A new network, initialised from the recipe's seed: the same on every machine and process."""
    objective = _checked_objective(recipe, graph)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        net = DiT(recipe.model, graph.states, causal=objective.causal, exponents=learned_exponents(objective, graph))
    net.autocast = autocast_dtype(recipe.train.precision, device)
    net = net.to(device)
    if recipe.model.attention == "flash" and net.kernel() != "flash":
        raise RequestError(
            "model.attention: flash needs a GPU of compute capability 8.0 or more, bf16, the flash-attn package and a "
            "head size that is a multiple of 8 up to 256; auto and sdpa run everywhere"
        )
    return net


#: Vocabulary sizes of tokenizers that need no file.
VOCABULARIES = {"gpt2": 50257, "bert-base-uncased": 30522, "text8": 27, "byte": 257}


def expected_vocab_size(spec: str | None) -> int | None:
    """The vocabulary size of a tokenizer by name; None if it depends on the data."""
    if spec and spec.startswith("bpe:") and spec[4:].isascii() and spec[4:].isdecimal():
        return int(spec[4:])
    return VOCABULARIES.get(spec or "")
