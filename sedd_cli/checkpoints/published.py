"""The published layout, config.json beside model.safetensors or pytorch_model.bin, read and written.

Also reads training directories of the published code, whose configuration has the same keys.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.checkpoints.tensors import check_stored, load_weights, read_pickle, read_tensors
from sedd_cli.core.graphs import GRAPHS, Graph
from sedd_cli.core.schedules import SCHEDULES, Schedule
from sedd_cli.data.corpora.local import as_path
from sedd_cli.data.tokenizers import holds_tokenizer
from sedd_cli.data.tokenizers.base import FILE
from sedd_cli.errors import DamageError, RequestError, displayed, listed, not_one_of
from sedd_cli.models.dit import DiT
from sedd_cli.models.shape import DiTConfig
from sedd_cli.recipe import Recipe, load_recipe
from sedd_cli.recipe.build import build
from sedd_cli.recipe.outside import require_parts
from sedd_cli.system.documents import read_json, read_yaml

CONFIG, TOKENIZER, WEIGHTS = "config.json", FILE, ("model.safetensors", "pytorch_model.bin")
#: The published names of our graphs.
PUBLISHED_GRAPHS = {"absorb": "absorbing", "uniform": "uniform"}
SHAPE = ("hidden_size", "cond_dim", "length", "n_blocks", "n_heads")
#: Entries of a state dict that are not parameters.
BUFFERS = ("rotary_emb.inv_freq",)
#: The schedules that the published code has.
PUBLISHED_SCHEDULES = ("loglinear", "geometric")
#: The layout names no tokenizer; this vocabulary size means GPT-2's.
GPT2_TOKENS = 50257
#: The largest vocabulary that a configuration may declare.
MOST_TOKENS = 1 << 24
#: Where our exports keep what the published layout does not hold.
OURS, RECIPE = "sedd", "recipe.yaml"

HYDRA, CHECKPOINT = Path(".hydra", "config.yaml"), Path("checkpoints-meta", "checkpoint.pth")
#: Endings of the pickled checkpoints of the published code.
PICKLES = (".pth", ".pt")


def load_published(folder: Path, source: str) -> LoadedModel:
    """Load a folder in the published layout."""
    config, where = _mapping(read_json(folder / CONFIG), folder / CONFIG), str(folder / CONFIG)
    config = config.get("config", config)  # some hub versions nest it
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise RequestError(f"{folder} has {CONFIG} but neither {' nor '.join(WEIGHTS)}")
    facts: dict[str, Any] = {"layout": "published"}
    if isinstance(config, Mapping) and isinstance(ours := config.get(OURS), Mapping):
        facts |= {k: ours[k] for k, kind in (("step", int), ("weights", str)) if isinstance(ours.get(k), kind)}
    facts.setdefault("weights", "as published")
    _require_parts(folder / RECIPE)
    model = _model(config, where, read_tensors(weights), str(weights), source, facts)
    if holds_tokenizer(folder):  # the file may be another library's
        model.tokenizer_source = as_path(folder)
    if (folder / RECIPE).is_file():
        try:
            model.recipe = _agreeing(load_recipe(folder / RECIPE), model)
        except (RequestError, DamageError) as error:  # config.json alone determines the model
            model.facts["recipe"] = f"not read ({error})"
    return model


def _require_parts(recipe: Path) -> None:
    """RequestError if the graph or the schedule of an export is a part from outside that is not registered."""
    data: Any = None
    if recipe.is_file():
        with suppress(RequestError, DamageError):  # reported when the recipe is read
            data = read_yaml(recipe)
    if isinstance(data, Mapping):
        require_parts(data, ("graph", "noise"))


def _agreeing(recipe: Recipe, model: LoadedModel) -> Recipe:
    """The recipe; RequestError if it describes another model than config.json."""
    objective = recipe.objective.make()
    same = recipe.graph.make(vocab_size=model.vocab_size) == model.graph and recipe.noise.make() == model.schedule
    if objective.parametrization != "score" or objective.causal or not same:
        raise RequestError(f"it describes another model than {CONFIG}: {recipe.objective.name}, {recipe.graph.name}")
    return recipe


def training_directory(path: Path) -> Path | None:
    """The training directory that a path is or, if it is a file, lies in; None if there is none."""
    above = path.absolute().parents[:2] if path.is_file() else [path]
    return next((at for at in above if (at / HYDRA).is_file()), None)


def checkpoint_file(path: Path, folder: Path) -> Path:
    """The file that a path names in a training directory, or its checkpoint; RequestError names those there."""
    file = path if path.is_file() else folder / CHECKPOINT
    if not file.is_file():
        there = sorted(str(at) for ending in PICKLES for place in ("", "*/") for at in folder.glob(f"{place}*{ending}"))
        endings = " or ".join(f"*{ending}" for ending in PICKLES)
        others = f"; name one of {listed(there)}" if there else f", and no other file {endings}"
        raise RequestError(f"{folder} has no {CHECKPOINT}{others}")
    return file


def load_training_directory(path: Path, source: str) -> LoadedModel:
    """Load the EMA weights of a training directory of the published code, or of one of its checkpoint files."""
    folder = training_directory(path)
    if folder is None:
        raise RequestError(f"{path} is not in a training directory: there is no {HYDRA} above it")
    file, where = checkpoint_file(path, folder), str(folder / HYDRA)
    stored = _mapping(read_pickle(file), file)
    facts = {"layout": "training directory", "step": _get(stored, "step", int, str(file)), "weights": "EMA"}
    return _model(
        _mapping(read_yaml(folder / HYDRA, DamageError), where),
        where,
        averaged(stored, file),
        str(file),
        source,
        facts,
    )


def parts_of(config: Any, where: str) -> tuple[Graph, Schedule, DiTConfig]:
    """The parts that a published configuration describes; RequestError names a key that is missing or wrong."""
    kind, tokens = _get(config, "graph.type", str, where), _get(config, "tokens", int, where)
    if not 1 <= tokens <= MOST_TOKENS:
        raise RequestError(f"{where}: tokens must lie between 1 and {MOST_TOKENS:,}, found {displayed(tokens)}")
    kinds = {**PUBLISHED_GRAPHS, **{name: name for name in our_graphs()}}
    if kind not in kinds:
        raise RequestError(not_one_of(f"{where}: graph.type", kinds, kind))
    scale = _get(config, "model.scale_by_sigma", bool, where)
    options = {"scale_by_sigma": scale} if kind == "absorb" else {}
    if scale and not options:
        raise RequestError(f"{where}: model.scale_by_sigma must be false with graph.type {displayed(kind)}")
    if kind not in PUBLISHED_GRAPHS:
        options = {key: value for key, value in config["graph"].items() if key != "type"}
    graph = build(GRAPHS[kinds[kind]], options, f"{where}: graph", vocab_size=tokens)
    try:
        graph.active(torch.tensor([0]))
    except ValueError as error:
        raise RequestError(f"{where}: graph: {error}") from None
    schedule = _get(config, "noise.type", str, where)
    if schedule not in SCHEDULES:
        raise RequestError(not_one_of(f"{where}: noise.type", SCHEDULES, schedule))
    known = {
        f.name for f in dataclasses.fields(SCHEDULES[schedule])
    }  # the published loglinear schedule lists sigmas that it does not use
    for key in ("sigma_min", "sigma_max"):
        if key in known and key not in config["noise"]:
            raise RequestError(f"{where}: noise.{key} is missing")
    schedule = build(SCHEDULES[schedule], {k: v for k, v in config["noise"].items() if k in known}, f"{where}: noise")
    shape: dict[str, Any] = {k: _get(config, f"model.{k}", int, where) for k in SHAPE}
    shape["dropout"] = config["model"].get("dropout", 0.0)
    return graph, schedule, build(DiTConfig, shape, f"{where}: model")


def our_graphs() -> list[str]:
    """The graphs of recipes that the published code lacks; in its layout, sedd alone reads them."""
    return [name for name in GRAPHS if name not in PUBLISHED_GRAPHS.values()]


def config_of(graph: Graph, schedule: Schedule, net: DiTConfig) -> dict[str, Any]:
    """The published configuration of a model: the inverse of `parts_of`."""
    published = {ours: theirs for theirs, ours in PUBLISHED_GRAPHS.items()}
    if net.ablated:
        found = ", ".join(f"model.{key}={str(value).lower()}" for key, value in net.ablated.items())
        raise RequestError(f"the published layout, like its readers, holds SEDD's own network only, found {found}")
    if graph.name not in (*published, *our_graphs()):
        raise RequestError(f"the published layout holds graphs that a recipe names, not {graph.name!r}")
    own = {} if graph.name in published else dataclasses.asdict(graph)
    own.pop("vocab_size", None)
    shape = {key: getattr(net, key) for key in (*SHAPE, "dropout")}
    return {
        "tokens": graph.vocab_size,
        "graph": {"type": published.get(graph.name, graph.name), **own},
        "noise": {"type": schedule.name, **dataclasses.asdict(schedule)},
        "model": {"type": "ddit", **shape, "scale_by_sigma": getattr(graph, "scale_by_sigma", False)},
    }


def _model(
    config: Any, where: str, tensors: Mapping[str, Tensor], file: str, source: str, facts: dict[str, Any]
) -> LoadedModel:
    graph, schedule, shape = parts_of(config, where)
    if shape.n_blocks > len(tensors):
        raise DamageError(f"{where}: model.n_blocks is {shape.n_blocks:,}, but {file} holds {len(tensors)} tensors")
    net = DiT.empty(shape, graph.states)
    load_weights(net, tensors, file, copy=True)  # the tensors may be mapped from the file, which may be overwritten
    if kinds := {str(v.dtype).removeprefix("torch.") for v in tensors.values()} - {"float32"}:
        facts = {**facts, "stored": " and ".join(sorted(kinds))}
    model = LoadedModel(net, graph, schedule, None, source, facts=facts)
    model.tokenizer_source = "gpt2" if graph.vocab_size == GPT2_TOKENS else None
    return model


def averaged(stored: Mapping[str, Any], file: Path) -> dict[str, Tensor]:
    """The EMA weights by name of a checkpoint of the published code."""
    weights, ema = stored.get("model"), stored.get("ema")
    shadow = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    if not isinstance(weights, Mapping) or not isinstance(shadow, list):
        raise RequestError(f"{file} is not a checkpoint of the published code: it lacks model or ema.shadow_params")
    return named_averages(weights, shadow, file)


def named_averages(weights: Mapping[str, Any], shadow: list[Any], file: Path) -> dict[str, Tensor]:
    """Averages by name. They are stored as a list in the order of the named weights that are no buffers."""
    if not all(isinstance(v, Tensor) for v in [*weights.values(), *shadow]):
        raise DamageError(f"{file} is damaged: model and ema.shadow_params must hold tensors")
    named = {name: v for name, v in weights.items() if name not in BUFFERS}
    if len(named) != len(shadow):
        raise DamageError(f"{file} is damaged: {len(named)} weights, but {len(shadow)} averages of them")
    wrong = [
        f"{name} is {list(v.shape)}, its average {list(mean.shape)}"
        for (name, v), mean in zip(named.items(), shadow, strict=True)
        if v.shape != mean.shape
    ]
    if wrong:
        raise DamageError(f"{file} is damaged, its averages do not fit its weights: {listed(wrong, separator='; ')}")
    found = dict(zip(named, shadow, strict=True))
    check_stored(found, file)
    return found


def _get(config: Any, key: str, kind: type, where: str) -> Any:
    value, names = config, key.split(".")
    for depth, name in enumerate(names):
        if not isinstance(value, Mapping):
            raise RequestError(
                f"{where}: {'.'.join(names[:depth])} must hold keys and values, found {displayed(value)}"
            )
        if name not in value:
            raise RequestError(f"{where}: {'.'.join(names[: depth + 1])} is missing")
        value = value[name]
    if type(value) is not kind:
        raise RequestError(f"{where}: {key} must be {kind.__name__}, found {displayed(value)}")
    return value


def _mapping(data: Any, where: Path | str) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise RequestError(f"{where} must hold keys and values, found {type(data).__name__}")
    return data
