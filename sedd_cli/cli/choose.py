"""The model and the texts that a command works on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError

if TYPE_CHECKING:
    from sedd_cli.checkpoints.loaded_model import LoadedModel
    from sedd_cli.evaluation.likelihood.texts import Text
    from sedd_cli.evaluation.scorers.causal import CausalModel

PUBLISHED = "louaaron/sedd-small"


def source_of(named: str | None) -> str:
    """The model of `--model`: the named one, else the newest run under ./runs, else the published one."""
    from sedd_cli.checkpoints.run_directory import RUNS, by_name, newest_run

    return by_name(named) if named else str(newest_run(RUNS) or PUBLISHED)


def model_files(named: str | None) -> list[str]:
    """The paths that `--model` reads: with a single file of a model, also the folder that this file belongs to."""
    source = source_of(named)
    path = Path(source)
    if not path.is_file():
        return [source]
    return [source, str(path.parent.parent if path.suffix in (".pth", ".pt") else path.parent)]


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


def choose_diffusion(view: View, choice: ModelChoice, otherwise: Callable[[str], str]) -> LoadedModel:
    """Like `choose_model`; RequestError with the words of `otherwise` about an autoregressive model.

    One of transformers is refused before it is loaded.
    """
    from sedd_cli.evaluation.scorers.pretrained import is_causal

    if choice.model is not None and is_causal(choice.model):
        raise RequestError(otherwise(choice.model))
    model = choose_model(view, choice)
    if model.exact:
        raise RequestError(otherwise(model.source))
    return model


def check_causal(choice: ModelChoice) -> None:
    """RequestError for options that mean nothing with a causal language model of transformers."""
    for option, given in (("--mask-token", choice.mask_token is not None), ("--compile", choice.compile)):
        if given:
            raise RequestError(f"{option} means nothing with the causal model {choice.model}")


def _places(datasets: list[str], local: list[str]) -> dict[str, Path]:
    """The local files of each dataset, from PATHs (one per dataset) or NAME=PATHs."""
    named = [text.partition("=")[::2] for text in local]
    if all(path and name in datasets for name, path in named):
        return {name: Path(path) for name, path in named}
    if len(local) != len(datasets):
        raise RequestError(
            f"--from goes with --dataset: one PATH for each (found {len(local)} and {len(datasets)}), or NAME=PATH"
        )
    return {name: Path(path) for name, path in zip(datasets, local, strict=True)}


def check_texts(
    model: str | None, datasets: list[str], local: list[str], reading: dict[str, Any], out: Path | None
) -> dict[str, Path]:
    """The local files of each dataset, checked before a model is loaded.

    Raises:
        RequestError: `out` would replace an input, or the dataset is nothing that can be prepared; of several, one
            that fails does not stop the others.
    """
    from sedd_cli.cli.inputs import check_written
    from sedd_cli.data.corpora import find_corpus, is_ambiguous
    from sedd_cli.data.prepared import PrepareOptions

    places = _places(datasets, local)
    check_written({"--out": out}, {"--model": model_files(model)})
    if len(datasets) == 1 and not is_ambiguous(datasets[0]):  # the model's tokenizer chooses of several
        find_corpus(PrepareOptions(datasets[0], places.get(datasets[0]), **reading))
    return places


def texts_of(
    model: LoadedModel | CausalModel,
    datasets: list[str],
    places: dict[str, Path],
    reading: dict[str, Any],
    out: Path | None,
) -> list[Text]:
    """The named datasets, else the corpus that the model was trained on; RequestError if `out` would replace it."""
    from sedd_cli.cli.inputs import check_written
    from sedd_cli.evaluation.likelihood.texts import Text

    data = model.recipe.data if model.recipe else None
    names = datasets or ([data.corpus] if data else [])
    if not names:
        raise RequestError(f"{model.source} names no corpus of its own: name one with --dataset")
    tokenizers = [model.tokenizer_source, data.tokenizer if data else None]
    check_written({"--out": out}, {"the model's own corpus": names, "the model's tokenizer": tokenizers})
    return [Text(name, places.get(name), reading, own=not datasets) for name in names]


def require_one_process(command: str) -> None:
    """RequestError under torchrun, where all processes would do the same work and write the same files."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise RequestError(f"sedd {command} runs in one process: start it without torchrun")
