"""The model and the texts that a command works on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError

if TYPE_CHECKING:
    from sedd_cli.checkpoints.loaded_model import LoadedModel
    from sedd_cli.evaluation.scorers.causal import CausalModel

PUBLISHED = "louaaron/sedd-small"


def source_of(named: str | None) -> str:
    """The model of `--model`: the named one, else the newest run under ./runs, else the published one."""
    from sedd_cli.checkpoints.run_directory import RUNS, find_run, newest_run

    if not named:
        return str(newest_run(RUNS) or PUBLISHED)
    found = find_run(named)
    return named if found == Path(named) else str(found)


def model_files(named: str | None) -> list[str]:
    """The paths that `--model` reads: with a single file of a model, also the folder that this file belongs to."""
    source = source_of(named)
    path = Path(source)
    if not path.is_file():
        return [source]
    return [source, str(path.parent.parent if path.suffix in (".pth", ".pt") else path.parent)]


def more_inputs(model: LoadedModel | CausalModel, corpora: list[str]) -> dict[str, list[str | None]]:
    """Inputs that are known once the model is loaded: its own corpus and its tokenizers."""
    recipe = model.recipe
    tokenizers = [model.tokenizer_source, recipe.data.tokenizer if recipe else None]
    return {"the model's own corpus": [*corpora], "the model's tokenizer": tokenizers}


class ModelChoice(NamedTuple):
    """The options that say which model is loaded, and how."""

    model: str | None
    device: str
    precision: str
    tokenizer: str | None
    mask_token: str | None
    compile: bool = False


def choose_model(view: View, choice: ModelChoice) -> LoadedModel:
    """Load the model and describe it in one line."""
    from sedd_cli.checkpoints.load import open_model

    source = source_of(choice.model)
    if choice.model is None and source == PUBLISHED:
        view.say(f"no run under ./runs (sedd train quickstart makes one): using {PUBLISHED}")
    model = open_model(source, choice.device, choice.precision, choice.tokenizer, choice.mask_token)
    if choice.compile and (reason := model.compile()):
        view.say(f"warning: the network is not compiled: {reason}", "yellow")
    view.say(f"model {model.describe()}", "dim")
    return model


def choose_any(view: View, choice: ModelChoice) -> LoadedModel | CausalModel:
    """Like `choose_model`; the model may also be a causal language model of transformers."""
    from sedd_cli.evaluation.scorers.pretrained import is_causal, load_exact

    if choice.model is None or not is_causal(choice.model):
        return choose_model(view, choice)
    check_causal(choice)
    model = load_exact(choice.model, choice.device, choice.precision, choice.tokenizer)
    view.say(f"model {model.describe()}", "dim")
    return model


def check_causal(choice: ModelChoice) -> None:
    """RequestError for options that mean nothing with a causal language model of transformers."""
    for option, given in (("--mask-token", choice.mask_token is not None), ("--compile", choice.compile)):
        if given:
            raise RequestError(f"{option} means nothing with the causal model {choice.model}")


def own_corpus(model: LoadedModel | CausalModel) -> str:
    """The corpus a model was trained on; RequestError if it names none."""
    if not model.recipe:
        raise RequestError(f"{model.source} names no corpus of its own: name one with --dataset")
    return model.recipe.data.corpus


def places_of(datasets: list[str], local: list[str]) -> dict[str, Path]:
    """The local files of each dataset, from PATHs (one per dataset) or NAME=PATHs."""
    named = [text.partition("=")[::2] for text in local]
    if all(path and name in datasets for name, path in named):
        return {name: Path(path) for name, path in named}
    if len(local) != len(datasets):
        raise RequestError(
            f"--from goes with --dataset: one PATH for each (found {len(local)} and {len(datasets)}), or NAME=PATH"
        )
    return {name: Path(path) for name, path in zip(datasets, local, strict=True)}


def check_texts(datasets: list[str], places: dict[str, Path], reading: dict[str, Any]) -> None:
    """RequestError for a dataset that is nothing that can be prepared."""
    from sedd_cli.data.corpora import find_corpus, is_ambiguous
    from sedd_cli.data.prepared import PrepareOptions

    for name in datasets:
        if not is_ambiguous(name):  # the model's tokenizer will choose
            find_corpus(PrepareOptions(name, places.get(name), **reading))


def require_one_process(command: str) -> None:
    """RequestError under torchrun, where all processes would do the same work and write the same files."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise RequestError(f"sedd {command} runs in one process: start it without torchrun")
