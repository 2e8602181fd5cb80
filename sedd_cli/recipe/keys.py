"""The keys of a recipe by their dotted names, and the key that somebody meant."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterator
from functools import cache
from typing import Any

from sedd_cli.recipe.part import Part
from sedd_cli.recipe.recipe import Recipe

#: Words of other programs → the key.
WORDS = {
    "learning_rate": "train.lr", "max_steps": "train.steps", "max_iters": "train.steps", "iterations": "train.steps",
    "num_steps": "train.steps", "batch_size": "train.batch", "warmup_steps": "train.warmup", "grad_clip": "train.clip",
    "block_size": "model.length", "context": "model.length", "seq_len": "model.length", "layers": "model.n_blocks",
    "n_layer": "model.n_blocks", "n_layers": "model.n_blocks", "n_head": "model.n_heads", "heads": "model.n_heads",
    "n_embd": "model.hidden_size", "d_model": "model.hidden_size", "hidden_dim": "model.hidden_size",
    "dim": "model.hidden_size", "width": "model.hidden_size", "embed_dim": "model.hidden_size",
    "eval_every": "report.every", "eval_interval": "report.every", "eval_blocks": "report.blocks",
    "eval_iters": "report.blocks", "log_interval": "train.log_every", "save_interval": "train.save_every",
    "schedule": "noise", "loss": "objective", "process": "graph", "dataset": "data.corpus",
}  # fmt: skip


@cache
def keys() -> dict[str, Any]:
    """Every key of a recipe, sections and parts included, with its type; without the options of parts."""
    return dict(_below(Recipe, ""))


def _below(owner: Any, path: str) -> Iterator[tuple[str, Any]]:
    hints = typing.get_type_hints(owner)
    for field in dataclasses.fields(owner):
        hint = hints[field.name]
        kind = next((k for k in (typing.get_args(hint) or (hint,)) if k is not type(None)), hint)
        yield f"{path}{field.name}", kind
        if dataclasses.is_dataclass(kind) and not issubclass(kind, Part):  # type: ignore[arg-type]
            yield from _below(kind, f"{path}{field.name}.")


def is_key(name: str) -> bool:
    """Whether a dotted name may be a key; the options of parts are checked when the part is built."""
    section, _, option = name.partition(".")
    return name in keys() or (bool(option) and issubclass(keys().get(section, object), Part))


def is_section(name: str) -> bool:
    """Whether a key holds further keys that are known, unlike a part, whose options depend on its name."""
    return any(key.startswith(f"{name}.") for key in keys())


def is_spelled(name: str) -> bool:
    """Whether a name without its section, or a word of other programs, is spelled as the key."""
    wanted = name.strip("-").replace("-", "_")
    return wanted in WORDS or any(key.rpartition(".")[2] == wanted for key in keys())


def meant(name: str) -> str | None:
    """The key that a wrong name is nearest to, such as train.lr for lr, learning-rate and trian.lr; None: none is."""
    wanted = name.strip("-").replace("-", "_")
    section, _, leaf = wanted.rpartition(".")
    if found := WORDS.get(leaf):
        return found
    known = list(keys())
    own = [key for key in known if section and key.rpartition(".")[0] == section]
    if close := difflib.get_close_matches(wanted, own, n=1, cutoff=0.85):
        return close[0]
    if alike := [key for key in known if key.rpartition(".")[2] == leaf]:
        return next(iter(difflib.get_close_matches(wanted, alike, n=1, cutoff=0.0)))
    whole = difflib.get_close_matches(wanted, known, n=1, cutoff=0.75)
    if whole or "." in wanted:
        return next(iter(whole or difflib.get_close_matches(wanted, known, n=1, cutoff=0.6)), None)
    leaves = {key.rpartition(".")[2]: key for key in reversed(known)}
    return next((leaves[name] for name in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.7)), None)
