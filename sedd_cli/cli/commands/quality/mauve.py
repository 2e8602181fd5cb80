"""`sedd mauve`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from sedd_cli.cli import options as o
from sedd_cli.cli.choose import check_causal, choose_model, require_one_process
from sedd_cli.cli.option_groups import ModelOptions, model_options, sampling_options
from sedd_cli.cli.outcome import continues
from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError, spelled_error
from sedd_cli.system.software import recorded

if TYPE_CHECKING:
    from sedd_cli.checkpoints.loaded_model import LoadedModel
    from sedd_cli.evaluation.mauve.results import MauveResult
    from sedd_cli.evaluation.scorers.causal import CausalModel
    from sedd_cli.inference.sampling import Sampling


#: Shown after Ctrl-C.
RESUME = partial(continues, "finished batches of generations are kept", "--batch sets their size")


@sampling_options("steps", "sampler", "normalized", "temperature", "top_p")
@model_options(model=(o.ModelOrCausal, None))
def mauve(
    using: ModelOptions,
    sampling: Sampling,
    references: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="A .txt file (one a line), a .jsonl file (text or tokens), or a prepared corpus."
        ),
    ],
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Split of a corpus; default: test, else validation, else train."),
    ] = None,
    mode: Annotated[
        str, typer.Option(metavar="NAME", help="standard: continue the prompt; infill: give half of it at each end.")
    ] = "standard",
    n: Annotated[int, typer.Option("-n", metavar="INT", help="Number of references.")] = 1000,
    generations: Annotated[int, typer.Option(metavar="INT", help="Generations per reference.")] = 5,
    prompt: Annotated[int, typer.Option(metavar="INT", help="Tokens given of each reference.")] = 50,
    new: Annotated[int, typer.Option(metavar="INT", help="Tokens generated.")] = 50,
    features: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="Model whose hidden states are compared: a hub id, a folder or an autoregressive run.",
        ),
    ] = "gpt2-large",
    seeds: Annotated[int, typer.Option(metavar="INT", help="Seeds of k-means; the score is their mean.")] = 5,
    windows: Annotated[
        bool, typer.Option("--windows", help="Cut references from the whole corpus, not from document starts.")
    ] = False,
    seed: o.Seed = 0,
    batch: Annotated[int, typer.Option(metavar="INT", help="Texts per batch.")] = 64,
) -> None:
    """Compare generated with real text by MAUVE: prompts from references, continued or infilled.

    Both sides have prompt + new tokens. --top-p is 1 by default, for an autoregressive model 0.95. Generations and
    features are kept: after an interruption the same command continues.

    Example: sedd mauve --references webtext.jsonl --model louaaron/sedd-small --mode infill --features gpt2-large
    """
    from sedd_cli.evaluation.mauve.job import mauve as job
    from sedd_cli.evaluation.mauve.options import MauveOptions

    require_one_process("mauve")
    view = View(using.json, using.quiet)
    options = MauveOptions(
        references=references,
        split=split,
        mode=mode,
        count=n,
        generations=generations,
        prompt=prompt,
        new=new,
        features=features,
        seeds=seeds,
        steps=sampling.steps,
        sampler=sampling.sampler and str(sampling.sampler),
        normalized=sampling.normalized,
        top_p=sampling.top_p,
        temperature=sampling.temperature,
        seed=seed,
        batch=batch,
        windows=windows,
    )
    chosen = _choose(view, using)
    result = view.run(job(chosen, options, using.device), RESUME)
    view.result(_table(result))
    view.document(recorded(result.to_dict()))


def _choose(view: View, using: ModelOptions) -> LoadedModel | CausalModel:
    """The causal model that is named, else the model that every command would choose."""
    from sedd_cli.evaluation.scorers.pretrained import is_causal, load_causal

    if using.model is None or not is_causal(using.model):
        return choose_model(view, using.choice)
    if using.tokenizer is not None:
        raise RequestError(f"--tokenizer has no effect with the causal model {using.model}, which has its own")
    check_causal(using.choice)
    model = load_causal(using.model, using.device, using.precision)
    view.say(f"model {model.describe()}", "dim")
    return model


def _table(result: MauveResult) -> Table:
    """The score, its spread over the seeds of k-means, and what was compared."""
    title = f"{result.mode}: {result.prompt} tokens given, {result.new} new"
    table = Table(title=title, title_justify="left", show_header=False)
    score = result.score
    rows = {
        "MAUVE": f"{score.mauve:.4f} ± {spelled_error(score.mauve_std, 4)} over {len(score.values)} seeds of k-means",
        "model": result.model,
        "references": f"{result.references.count:,}",
        "generations": f"{result.generations.count:,}, {result.sampler['nfe_mean']:.1f} evaluations each",
        "features": f"{result.features.model}, {score.clusters} clusters",
    }
    beside = result.diversity
    for name, of in {"entropy, dist-2, self-BLEU": beside.generations, "of the references": beside.references}.items():
        values = (of.entropy, of.distinct["2"], of.self_bleu)
        rows[name] = "  ".join("-" if value is None else f"{value:.3f}" for value in values)
    if beside.marks:
        rows["mark"] = ", ".join(beside.marks)
    for name, value in rows.items():
        table.add_row(name, value)
    return table
