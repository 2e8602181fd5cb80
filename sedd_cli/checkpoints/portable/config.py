"""The configuration of a model of any kind in a folder that `transformers` opens, written and read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from sedd_cli.checkpoints.bidirectional import BidirectionalTransformer, TransformerConfig, rope_kind
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.core.graphs import GRAPHS, Graph
from sedd_cli.core.graphs.gidd import Gidd, Mixing, MixingSchedule, gidd_process
from sedd_cli.core.losses import OBJECTIVES, Objective
from sedd_cli.core.losses.score_entropy import PlugInScoreEntropy
from sedd_cli.core.schedules import (
    SCHEDULES,
    Cosine,
    Geometric,
    LogLinear,
    MutualInformation,
    Polynomial,
    Schedule,
)
from sedd_cli.core.vocabulary import Vocabulary
from sedd_cli.errors import DamageError, RequestError, displayed, first_line, not_one_of
from sedd_cli.models.dit import DiT
from sedd_cli.models.network import Adapted, Condition, LanguageNetwork, NoiseInput
from sedd_cli.models.shape import DiTConfig, Variant
from sedd_cli.recipe.build import build

#: `model_type`, the name of the modeling file, and the prefix of all tensor names.
MODEL_TYPE, MODULE, PREFIX = "sedd", "modeling_sedd", "network."
#: Schedules that the modeling file has, for networks whose input is the total noise. The last one is the first where
#: it has no curve.
KNOWN_SCHEDULES = (LogLinear.name, Geometric.name, Cosine.name, Polynomial.name, MutualInformation.name)
#: The most rows of a vocabulary.
MOST_ROWS = 1 << 24


def portable_config(model: LoadedModel, dtype: str) -> dict[str, Any]:
    """config.json of a model whose parameters are stored in `dtype`; RequestError for what the file cannot hold."""
    net, condition = _inner(model.net)
    if model.exact:
        condition = "none"
    if condition == "sigma":
        _check_schedule(model.schedule)
    ids = model.clean_ids or Vocabulary(model.graph.states, model.graph.mask)
    name = "SeddForCausalLM" if model.exact else "SeddForMaskedLM"
    auto = "AutoModelForCausalLM" if model.exact else "AutoModelForMaskedLM"
    shape = net.config
    return {
        "model_type": MODEL_TYPE,
        "architectures": [name],
        "auto_map": {"AutoConfig": f"{MODULE}.SeddConfig", auto: f"{MODULE}.{name}"},
        "torch_dtype": dtype,
        "vocab_size": ids.tokens if model.exact else ids.rows,
        "mask_token_id": None if model.exact else ids.mask,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.n_blocks,
        "num_attention_heads": shape.n_heads,
        "max_position_embeddings": shape.length,
        "tie_word_embeddings": False,
        "use_cache": False,
        "network": _shape(net),
        "vocabulary": asdict(ids),
        "own_ids": model.vocabulary is None,
        "condition": condition,
        "outputs": "next_token" if model.exact else "log_p_x0" if model.clean_ids else "log_score",
        "noise": _named(model.schedule),
        "graph": _named(model.graph),
        "objective": _named(model.objective),
        **({} if model.padding is None else {"pad_token_id": int(ids.ids(torch.tensor(model.padding)))}),
    }


def _check_schedule(schedule: Schedule) -> None:
    """RequestError for a schedule that the modeling file lacks, from whose total noise a network's input is made."""
    instead = "export without --transformers, which sedd reads, or train with model.time=false"
    if schedule.name not in KNOWN_SCHEDULES:
        raise RequestError(
            f"the modeling file of --transformers has the schedules {', '.join(KNOWN_SCHEDULES)}, not "
            f"{schedule.name!r}, on whose total noise the network is conditioned: {instead}"
        )
    if isinstance(schedule, MutualInformation) and schedule.curve:
        raise RequestError(
            f"the modeling file of --transformers cannot hold {schedule.name} on a graph other than absorbing, whose "
            f"noise is interpolated from {len(schedule.curve):,} measured values: {instead}"
        )


def portable_model(config: Mapping[str, Any], where: str, source: str, tensors: int) -> LoadedModel:
    """The model of a configuration with so many tensors beside it, its parameters without memory.

    Raises:
        RequestError: keys are missing or wrong.
        DamageError: it declares more blocks than there are tensors.
    """
    vocabulary = build(Vocabulary, config.get("vocabulary"), f"{where}: vocabulary")
    if not 2 <= vocabulary.rows <= MOST_ROWS:
        raise RequestError(f"{where}: vocabulary.rows must lie between 2 and {MOST_ROWS:,}, found {vocabulary.rows}")
    graph, schedule = _process(config, where, vocabulary.tokens)
    if (graph.states, graph.mask) != (vocabulary.rows, vocabulary.tokens if vocabulary.mask is not None else None):
        raise RequestError(f"{where}: vocabulary and graph {graph.name} do not have the same states")
    objective, net = _objective(config, where), _network(config, where, vocabulary, tensors)
    facts = {"layout": "transformers"}
    if config.get("own_ids") is True:
        if not vocabulary.in_order:
            raise RequestError(f"{where}: MASK must be the last id of a model with own_ids, found {vocabulary.mask}")
        return LoadedModel(net, graph, schedule, None, source, facts=facts, parametrized=objective)
    condition: Condition = config.get("condition", "none")
    if condition not in ("sigma", "none", "time"):
        raise RequestError(f"{where}: condition must be sigma, none or time, found {displayed(condition)}")
    adapted = Adapted(net, vocabulary, NoiseInput(condition, schedule))
    return LoadedModel(
        adapted,
        graph,
        schedule,
        None,
        source,
        facts=facts,
        vocabulary=vocabulary,
        parametrized=objective,
        padding=vocabulary.state_of(config.get("pad_token_id")),
    )


def _inner(net: LanguageNetwork) -> tuple[DiT | BidirectionalTransformer, Condition]:
    """The network itself, and its input for the noise: sigma, time or none (the number 0)."""
    condition: Condition = "sigma"
    if isinstance(net, Adapted):
        net, condition = net.net, net.condition.kind
    if not isinstance(net, DiT | BidirectionalTransformer):
        raise RequestError(f"the layout of transformers has no network of the kind {type(net).__name__}")
    if isinstance(net, DiT):
        ablated = dict(net.config.ablated)
        if ablated.pop("time", None) is not None:
            condition = "none"  # what a network without time conditioning makes of any noise
        if ablated:
            found = ", ".join(f"model.{key}={str(value).lower()}" for key, value in ablated.items())
            raise RequestError(f"the modeling file of --transformers has adaLN and rotary positions alone, not {found}")
    return net, condition


def _shape(net: DiT | BidirectionalTransformer) -> dict[str, Any]:
    if isinstance(net, DiT):
        shape = {"kind": "dit", "states": net.states, "causal": net.causal, **asdict(net.variant), **asdict(net.config)}
        return {key: value for key, value in shape.items() if key not in ("attention", "dropout")}
    rows, tied = len(net.embed_tokens.weight), net.lm_head is None
    shape = {"kind": "transformer", "rows": rows, "outputs": net.states, "tied": tied, **asdict(net.config)}
    return {**shape, "rope_scaling": dict(net.config.rope_scaling)}


def _network(
    config: Mapping[str, Any], where: str, vocabulary: Vocabulary, tensors: int
) -> DiT | BidirectionalTransformer:
    shape, where = config.get("network"), f"{where}: network"
    if not isinstance(shape, Mapping) or shape.get("kind") not in ("dit", "transformer"):
        raise RequestError(f"{where} must hold a shape of the kind dit or transformer")
    rest = {key: value for key, value in shape.items() if key != "kind"}

    def taken(key: str, kind: type) -> Any:
        value = rest.pop(key, None)
        if type(value) is not kind:
            raise RequestError(f"{where}.{key} must be {kind.__name__}, found {displayed(value)}")
        return value

    if shape["kind"] == "dit":
        causal, states = taken("causal", bool), taken("states", int)
        parts = {key: rest.pop(key) for key in ("conditioned", "norm_bias", "block_size") if key in rest}
        variant = build(Variant, parts, where)
        if variant.block_size is not None and variant.block_size < 1:
            raise RequestError(f"{where}.block_size must be positive, found {variant.block_size}")
        if states != vocabulary.rows:
            raise RequestError(f"{where}.states is {states:,}, the vocabulary has {vocabulary.rows:,} rows")
        given = build(DiTConfig, {**rest, "dropout": 0.0}, where)
        _check_blocks(given.n_blocks, tensors, where)
        return DiT.empty(given, states, causal, variant)
    rows, outputs, tied = taken("rows", int), taken("outputs", int), taken("tied", bool)
    if rows != vocabulary.rows or not rows - 1 <= outputs <= rows or (tied and outputs != rows):
        raise RequestError(f"{where}: {rows:,} rows and {outputs:,} outputs do not fit {vocabulary.rows:,} ids")
    scaling = rest.pop("rope_scaling", None) or {}
    if not isinstance(scaling, Mapping):
        raise RequestError(f"{where}.rope_scaling must hold keys and values, found {displayed(scaling)}")
    if scaling:
        rope_kind(scaling, f"{where}.rope_scaling")
    pairs = tuple(sorted((str(key), value) for key, value in scaling.items()))
    try:
        made = build(TransformerConfig, rest, where, rope_scaling=pairs)
        _check_blocks(made.n_blocks, tensors, where)
        return BidirectionalTransformer(made, rows, outputs, tied)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:  # for rope_scaling
        raise RequestError(f"{where}: its shape is not possible: {first_line(error)}") from None


def _check_blocks(blocks: int, tensors: int, where: str) -> None:
    if blocks > tensors:
        raise DamageError(f"{where}.n_blocks is {blocks:,}, but the weights are {tensors:,} tensors")


def _named(part: Graph | Schedule | Objective) -> dict[str, Any]:
    return {"name": part.name, **{key: value for key, value in asdict(part).items() if key != "vocab_size"}}


def _process(config: Mapping[str, Any], where: str, tokens: int) -> tuple[Graph, Schedule]:
    """Graph and schedule."""
    name, options = _part(config, "noise", [*SCHEDULES, MixingSchedule.name], where)
    if name != MixingSchedule.name:
        schedule = build(SCHEDULES[name], options, f"{where}: noise")
        kind, more = _part(config, "graph", list(GRAPHS), where)
        return _tried(build(GRAPHS[kind], more, f"{where}: graph", vocab_size=tokens), where), schedule
    t_eps = options.get("t_eps")
    if not isinstance(t_eps, float):
        raise RequestError(f"{where}: noise.t_eps must be a number, found {displayed(t_eps)}")
    mixing = build(Mixing, options.get("mixing"), f"{where}: noise.mixing")
    if not 1 <= mixing.reached <= tokens:
        raise RequestError(f"{where}: noise.mixing.reached must lie between 1 and {tokens:,}, found {mixing.reached}")
    kind, more = _part(config, "graph", [*GRAPHS, Gidd.name], where)
    try:
        gidd, mixed = gidd_process(tokens, mixing, t_eps)
    except ValueError as error:
        raise RequestError(f"{where}: noise: {error}") from None
    graph = gidd if kind == Gidd.name else build(GRAPHS[kind], more, f"{where}: graph", vocab_size=tokens)
    return _tried(graph, where), mixed


def _tried(graph: Graph, where: str) -> Graph:
    """The graph; RequestError where it cannot have so many tokens, or has edges of others."""
    try:
        graph.active(torch.tensor([0]))
    except ValueError as error:
        raise RequestError(f"{where}: graph: {error}") from None
    return graph


def _objective(config: Mapping[str, Any], where: str) -> Objective:
    known: dict[str, type] = {**OBJECTIVES, PlugInScoreEntropy.name: PlugInScoreEntropy}
    name, options = _part(config, "objective", list(known), where)
    return build(known[name], options, f"{where}: objective")


def _part(config: Mapping[str, Any], key: str, known: list[str], where: str) -> tuple[str, dict[str, Any]]:
    """Name and options of a part."""
    found = config.get(key)
    if not isinstance(found, Mapping) or found.get("name") not in known:
        name = found.get("name") if isinstance(found, Mapping) else found
        raise RequestError(not_one_of(f"{where}: {key}.name", known, name))
    return found["name"], {name: value for name, value in found.items() if name != "name"}
