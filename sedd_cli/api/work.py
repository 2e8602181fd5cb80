"""`prepare`, `train` and `evaluate` from Python: the commands' work, with progress, and results as objects."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from sedd_cli.api.progress import followed
from sedd_cli.data.prepare import PrepareResult
from sedd_cli.data.prepare import prepare as prepare_job
from sedd_cli.data.prepared import PrepareOptions
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.likelihood.evaluate import EvaluateOptions
from sedd_cli.evaluation.likelihood.evaluate import evaluate as evaluate_job
from sedd_cli.evaluation.likelihood.results import LikelihoodResult
from sedd_cli.evaluation.likelihood.texts import Text, prepared_for
from sedd_cli.inference.bound import MonteCarloOptions
from sedd_cli.inference.model import Model, load_model
from sedd_cli.recipe import Recipe, load_recipe
from sedd_cli.recipe.build import check_options
from sedd_cli.system.distributed import Dist
from sedd_cli.training.runs.folder import default_run
from sedd_cli.training.train import TrainOptions, TrainResult
from sedd_cli.training.train import train as train_job


def prepare(corpus: str | Path, *, progress: bool = True, **options: Any) -> PrepareResult:
    """Turn a corpus into token shards, as `sedd prepare`, unless it is prepared already.

    options: the other fields of `PrepareOptions`: tokenizer, field, format, documents, …
    """
    check_options("prepare", options, [f.name for f in fields(PrepareOptions) if f.name != "corpus"])
    if options.get("local") is not None:
        options["local"] = Path(options["local"])
    return followed(prepare_job(PrepareOptions(str(corpus), **options)), progress)


def train(
    recipe: str | Path | Recipe,
    *overrides: str,
    run_dir: str | Path | None = None,
    progress: bool = True,
    **options: Any,
) -> TrainResult:
    """Train a model from a recipe, or resume its run, as `sedd train`.

    Args:
        recipe: A YAML file, the name of a shipped recipe, a run, or a recipe.
        overrides: Changes such as "train.steps=500".
        run_dir: By default the run, or runs/NAME with the recipe's name, or that of the text where an override names
            another one.
        progress: Show bars and notes; without it, warnings alone.
        options: device, fresh, extend, report, autotune, as the command's.

    Raises:
        RequestError: The recipe or an option is wrong.
        WorkError: The training fails.
    """
    known = [f.name for f in fields(TrainOptions) if f.name not in ("run", "tell")]
    check_options("train", options, known)
    own = Path(str(recipe)) / "recipe.yaml"
    if isinstance(recipe, Recipe):
        if overrides:
            raise RequestError("overrides change a recipe by its name or file, not a Recipe object")
        resolved, folder = recipe, Path("runs") / recipe.name
    else:
        resolved = load_recipe(own if own.is_file() else recipe, overrides)
        folder = own.parent if own.is_file() else default_run(recipe, resolved)
    return followed(train_job(resolved, TrainOptions(Path(run_dir or folder), **options)), progress)


def evaluate(
    model: Model | str | Path, dataset: str | Path | None = None, *, progress: bool = True, **options: Any
) -> LikelihoodResult:
    """Likelihood bounds of a model on a text, with error bars, as `sedd eval`.

    Args:
        model: A loaded model, or what `load_model` takes.
        dataset: A named corpus, a file, a folder or a hub id; by default the model's own corpus.
        progress: Show bars and notes.
        options: split, protocols, blocks, length, baselines; estimator, rel_error, max_nfe, seed; and how a text is
            read (field, format, documents, …).
    """
    groups = [
        [f.name for f in fields(EvaluateOptions) if f.name not in ("monte_carlo", "sampling", "keep")],
        [f.name for f in fields(MonteCarloOptions) if f.name != "sampler"],
        ["field", "encoding", "documents", "format", "revision", "config", "detokenizer", "eos"],
    ]
    check_options("evaluate", options, [name for names in groups for name in names])
    measure, draws, reading = ({k: v for k, v in options.items() if k in names} for names in groups)
    if isinstance(measure.get("protocols"), str):
        measure["protocols"] = (measure["protocols"],)
    elif "protocols" in measure:
        measure["protocols"] = tuple(measure["protocols"])
    loaded = model if isinstance(model, Model) else load_model(model)
    if dataset is None and loaded.recipe is None:
        raise RequestError(f"{loaded.source} names no corpus of its own: give a dataset")
    corpus = loaded.recipe.data.corpus if dataset is None and loaded.recipe else str(dataset)
    prepared = followed(prepared_for(loaded, Text(corpus, None, reading), Dist(0, 1, loaded.device)), progress)
    wanted = EvaluateOptions(**measure, monte_carlo=MonteCarloOptions(**draws))
    return followed(evaluate_job(loaded, prepared, wanted), progress)
