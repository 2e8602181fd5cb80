"""Which model a command works on: the one named, else the newest run, else the published small one; and which texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError

if TYPE_CHECKING:
    from sedd_cli.checkpoints.loaded_model import LoadedModel
    from sedd_cli.evaluation.scorers.causal import CausalModel

PUBLISHED = "louaaron/sedd-small"


def source_of(named: str | None) -> str:
    """What `--model` means: the model that is named, else the newest run under ./runs, else the published one."""
    from sedd_cli.checkpoints.run_directory import newest_run

    return named or str(newest_run(Path("runs")) or PUBLISHED)


def choose_model(view: View, named: str | None, device: str, precision: str, tokenizer: str | None) -> LoadedModel:
    """Load the model and say in one line what it is."""
    from sedd_cli.checkpoints.load import open_model

    source = source_of(named)
    if named is None and source == PUBLISHED:
        view.say(f"no run under ./runs (sedd train quickstart makes one): taking {PUBLISHED}")
    model = open_model(source, device, precision, tokenizer)
    view.say(f"model {model.describe()}", "dim")
    return model


def choose_any(
    view: View, named: str | None, device: str, precision: str, tokenizer: str | None
) -> LoadedModel | CausalModel:
    """As `choose_model`, or a causal language model of transformers where one is named."""
    from sedd_cli.evaluation.scorers.pretrained import is_causal, load_exact

    if named is None or not is_causal(named):
        return choose_model(view, named, device, precision, tokenizer)
    model = load_exact(named, device, precision, tokenizer)
    view.say(f"model {model.describe()}", "dim")
    return model


def own_corpus(model: LoadedModel | CausalModel) -> str:
    """The corpus that a model was trained on; RequestError where it names none."""
    if not model.recipe:
        raise RequestError(f"{model.source} names no corpus of its own: name one with --dataset")
    return model.recipe.data.corpus


def places_of(datasets: list[str], local: list[str]) -> dict[str, Path]:
    """Where each dataset stands, from PATHs, one a dataset, or NAME=PATHs."""
    named = [text.partition("=")[::2] for text in local]
    if all(path and name in datasets for name, path in named):
        return {name: Path(path) for name, path in named}
    if len(local) != len(datasets):
        raise RequestError(
            f"--from goes with --dataset: a PATH for each (found {len(local)} and {len(datasets)}), or NAME=PATH"
        )
    return {name: Path(path) for name, path in zip(datasets, local, strict=True)}
