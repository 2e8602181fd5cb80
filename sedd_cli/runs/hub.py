"""Checkpoints in the published layout: config.json beside model.safetensors, in a folder or on the hub."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sedd_cli.core.graphs import GRAPHS, Graph
from sedd_cli.core.noises import NOISES
from sedd_cli.errors import DamageError, RequestError
from sedd_cli.nets.dit import DiT, DiTConfig
from sedd_cli.recipe.build import build
from sedd_cli.runs.checkpoint import read_tensors
from sedd_cli.runs.model import Model, load_weights
from sedd_cli.text.tokenizers import Tokenizer, load_tokenizer

CONFIG, WEIGHTS = "config.json", "model.safetensors"
#: The published names of our graphs.
PUBLISHED_GRAPHS = {"absorb": "absorbing", "uniform": "uniform"}
GPT2_TOKENS = 50257
SHAPE = ("hidden_size", "cond_dim", "length", "n_blocks", "n_heads")


def load_published(source: str | Path) -> Model:
    """A model in the published layout from a local folder or a hub id, its weights as they are (EMA)."""
    folder = Path(source)
    if not folder.is_dir():
        folder = _download(str(source))
    if not (folder / CONFIG).is_file():
        raise RequestError(
            f"{source} is not a model: neither a run (it has no `latest` checkpoint), "
            f"nor a checkpoint, nor a folder with {CONFIG} and {WEIGHTS}"
        )
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamageError(f"{folder / CONFIG} is not JSON: {error}") from None
    if not isinstance(config, Mapping):
        raise RequestError(f"{folder / CONFIG} must hold keys and values, found {type(config).__name__}")
    config = config.get("config", config)  # some hub versions nest it
    where = str(folder / CONFIG)
    graph = _graph(config, where)
    kind = _get(config, "noise.type", str, where)
    if kind not in NOISES:
        raise RequestError(f"{where}: noise.type must be one of {', '.join(NOISES)}, found {kind!r}")
    known = {f.name for f in dataclasses.fields(NOISES[kind])}  # a loglinear one lists sigmas that mean nothing
    noise = build(NOISES[kind], {k: v for k, v in config["noise"].items() if k in known}, f"{where}: noise")
    shape: dict[str, Any] = {k: _get(config, f"model.{k}", int, where) for k in SHAPE}
    shape["dropout"] = config["model"].get("dropout", 0.0)
    net = DiT.empty(build(DiTConfig, shape, f"{where}: model"), graph.states)
    if not (folder / WEIGHTS).is_file():
        raise RequestError(f"{folder} has {CONFIG} but no {WEIGHTS}")
    load_weights(net, read_tensors(folder / WEIGHTS), str(folder / WEIGHTS))
    return Model(net, graph, noise, _tokenizer(graph.tokens), str(source), facts={"layout": "published"})


def _graph(config: Mapping[str, Any], where: str) -> Graph:
    kind, tokens = _get(config, "graph.type", str, where), _get(config, "tokens", int, where)
    if kind not in PUBLISHED_GRAPHS:
        raise RequestError(f"{where}: graph.type must be one of {', '.join(PUBLISHED_GRAPHS)}, found {kind!r}")
    scale = _get(config, "model.scale_by_sigma", bool, where)
    options = {"scale_by_sigma": scale} if kind == "absorb" else {}
    if scale and not options:
        raise RequestError(f"{where}: model.scale_by_sigma means nothing with graph.type {kind!r}")
    return build(GRAPHS[PUBLISHED_GRAPHS[kind]], options, where, tokens=tokens)


def _get(config: Any, key: str, kind: type, where: str) -> Any:
    value = config
    for name in key.split("."):
        if not isinstance(value, Mapping) or name not in value:
            raise RequestError(f"{where}: {key} is missing")
        value = value[name]
    if type(value) is not kind:
        raise RequestError(f"{where}: {key} must be {kind.__name__}, found {value!r}")
    return value


def _tokenizer(tokens: int) -> Tokenizer | None:
    """The layout names no tokenizer: 50257 tokens mean GPT-2's, with any other count token ids remain."""
    if tokens != GPT2_TOKENS:
        return None
    try:
        return load_tokenizer("gpt2")
    except RequestError:
        return None  # scores and token ids work without; a command that needs text says what is missing


def _download(name: str) -> Path:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise RequestError(f"no model at {name}: neither a folder nor a hub id of the form owner/name")
    if Path(name).parent.is_dir():
        raise RequestError(f"no model at {name}: {Path(name).parent} is a folder here, without {Path(name).name} in it")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS]))
    except Exception as error:  # the hub client raises many kinds; all of them mean the same here
        raise RequestError(
            f"cannot fetch {name} from the Hugging Face hub ({type(error).__name__}), and its cache does not have it. "
            f"Offline: download {CONFIG} and {WEIGHTS} elsewhere and pass their folder as --model"
        ) from None
