"""`prepare`, `train` and `evaluate` from Python: the commands' work, with progress, and results as objects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

from sedd_cli.api.progress import followed
from sedd_cli.checkpoints.run_directory import find_run
from sedd_cli.data.prepare import PrepareResult
from sedd_cli.data.prepare import prepare as prepare_job
from sedd_cli.data.prepared import PrepareOptions
from sedd_cli.errors import RequestError, shortened
from sedd_cli.evaluation.likelihood.evaluate import EvaluateOptions, check_measures, exactly
from sedd_cli.evaluation.likelihood.evaluate import evaluate as evaluate_job
from sedd_cli.evaluation.likelihood.results import LikelihoodResult
from sedd_cli.evaluation.likelihood.texts import Text, prepared_for
from sedd_cli.inference.bound import MonteCarloOptions
from sedd_cli.inference.model import Model, load_model
from sedd_cli.inference.sampling import split_options
from sedd_cli.recipe import Recipe, load_recipe, shipped
from sedd_cli.recipe.options import hints_of, override_hint, read_options
from sedd_cli.system.distributed import Dist
from sedd_cli.system.software import called, made_by
from sedd_cli.training.runs.folder import default_run
from sedd_cli.training.train import TrainOptions, TrainResult
from sedd_cli.training.train import train as train_job

#: Options of `evaluate` that say how a text is read, and how a model is loaded.
READING = ("field", "encoding", "documents", "format", "revision", "config", "detokenizer", "eos")
LOADING = ("device", "precision", "tokenizer", "mask_token")
#: The precision of `sedd eval`: bf16 where a measurement shows that it does not matter.
AUTO = "auto"


@called("sedd_cli.prepare")
def prepare(corpus: str | Path, *, progress: bool = True, **options: Any) -> PrepareResult:
    """Turn a corpus into token shards, as `sedd prepare`, unless it is prepared already.

    options: the other fields of `PrepareOptions`: tokenizer, field, format, documents, …
    """
    read = read_options("prepare", options, hints_of(PrepareOptions, "corpus"), ("progress",))
    return followed(prepare_job(PrepareOptions(str(corpus), **read)), progress)


@called("sedd_cli.train")
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
        options: device, fresh, extend, report, autotune, trackers, as the command's.

    Raises:
        RequestError: The recipe or an option is wrong.
        WorkError: The training fails.
    """
    known, others = hints_of(TrainOptions, "run", "notify"), ("run_dir", "progress")
    read = read_options("train", options, known, others, override_hint([*known, *others]))
    for override in overrides:
        if not isinstance(override, str):
            raise RequestError(
                f"an override is a text such as 'train.steps=500', found {shortened(repr(override), 80)}"
            )
    if isinstance(recipe, Recipe):
        if overrides:
            raise RequestError("overrides change a recipe by its name or file, not a Recipe object")
        resolved, folder = recipe, Path("runs") / recipe.name
    else:
        run = None if str(recipe) in shipped() else find_run(recipe)
        own = run if run and (run / "recipe.yaml").is_file() else None
        resolved = load_recipe(own / "recipe.yaml" if own else recipe, overrides)
        folder = own or default_run(recipe, resolved)
    found = followed(train_job(resolved, TrainOptions(Path(run_dir or folder), **read)), progress)
    return replace(found, made_by=made_by())


@called("sedd_cli.evaluate")
def evaluate(
    model: Model | str | Path, dataset: str | Path | None = None, *, progress: bool = True, **options: Any
) -> LikelihoodResult:
    """Likelihood bounds of a model on a text, with error bars, as `sedd eval`.

    Args:
        model: A loaded model, or what `load_model` takes.
        dataset: A named corpus, a file, a folder or a hub id; by default the model's own corpus.
        progress: Show bars and notes.
        options: split, protocol (a name or several), blocks, length, baselines; estimator, rel_error, max_nfe, seed;
            precision ("auto", as of the command: bf16 where that is measured not to matter; else that in which a loaded
            model computes, or fp32, bf16, tf32 of one that is loaded here); device, tokenizer, mask_token of such a
            model; of protocol="sampler" its steps, sampler, …; and how a text is read (field, format, documents, …).
    """
    groups = [
        hints_of(EvaluateOptions, "monte_carlo", "sampling", "keep", "try_bf16"),
        hints_of(MonteCarloOptions, "sampler"),
        {name: hint for name, hint in hints_of(PrepareOptions).items() if name in READING},
        {name: hint for name, hint in get_type_hints(load_model).items() if name in LOADING},
    ]
    known = {name: hint for names in groups for name, hint in names.items()}
    sampling, read = split_options("evaluate", options, known, ("dataset", "progress"))
    measure, draws, reading, loading = ({k: v for k, v in read.items() if k in names} for names in groups)
    precision = loading.pop("precision", AUTO)
    wanted = EvaluateOptions(
        **measure, monte_carlo=MonteCarloOptions(**draws), try_bf16=precision == AUTO, sampling=sampling
    )
    if not isinstance(model, Model):
        loaded = load_model(model, precision="fp32" if precision == AUTO else precision, **loading)
    elif loading or precision not in (AUTO, model.precision.removesuffix(" compiled")):
        name = next(iter(loading), "precision")
        raise RequestError(f"{name} is for a model that is loaded here; this one computes in {model.precision}")
    else:
        loaded = model
    if dataset is None and loaded.recipe is None:
        raise RequestError(f"{loaded.source} names no corpus of its own: give a dataset")
    corpus = loaded.recipe.data.corpus if dataset is None and loaded.recipe else str(dataset)
    if loaded.exact and draws:
        raise RequestError(f"{next(iter(draws))} has no effect with {exactly(loaded.source)}")
    check_measures(loaded, wanted)  # before the text is prepared
    text = Text(corpus, None, reading, own=dataset is None)
    prepared = followed(prepared_for(loaded, text, Dist(0, 1, loaded.device)), progress)
    return replace(followed(evaluate_job(loaded, prepared, wanted), progress), made_by=made_by())
