"""`sedd eval`."""

from __future__ import annotations

from typing import Annotated

import typer

from sedd_cli.cli import options as o
from sedd_cli.cli.choose import choose_model
from sedd_cli.cli.view import View
from sedd_cli.errors import RequestError


def evaluate(
    dataset: Annotated[str | None, typer.Option(help="A named corpus or a local file; default: the run's own.")] = None,
    split: Annotated[str | None, typer.Option(help="Default: test where there is one, else validation.")] = None,
    protocol: Annotated[list[str] | None, typer.Option(help="rigorous, sedd-paper; default: both.")] = None,
    rel_error: Annotated[
        float, typer.Option(help="Draw until the standard error is below this share of the bound.")
    ] = 0.005,
    max_replicates: Annotated[int, typer.Option(help="Draws a block at most.")] = 64,
    yardsticks: Annotated[bool, typer.Option(help="Also score n-gram models of the same tokens.")] = True,
    seed: o.Seed = 0,
    model: o.ModelOption = None,
    tokenizer: o.Tokenizer = None,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Bound the likelihood of a dataset, with error bars.

    A dataset that is not prepared yet is prepared first, with the model's tokenizer.

    Example: sedd eval --model runs/quickstart --dataset pydocs --split validation
    """
    from sedd_cli.runs.evaluate import PROTOCOLS, EvaluateOptions, open_for
    from sedd_cli.runs.evaluate import evaluate as job
    from sedd_cli.runs.events import Evaluated

    view = View(json, quiet)
    options = EvaluateOptions(
        split=split,
        protocols=tuple(protocol or PROTOCOLS),
        rel_error=rel_error,
        max_replicates=max_replicates,
        seed=seed,
        yardsticks=yardsticks,
    )
    chosen = choose_model(view, model, device, precision, tokenizer)
    corpus = dataset or (chosen.recipe.data.corpus if chosen.recipe else None)
    if corpus is None:
        raise RequestError(f"{chosen.source} names no corpus of its own: name one with --dataset")
    found = view.follow(open_for(chosen, corpus, lambda data: job(chosen, data, options)))
    view.document([event.result for event in found if isinstance(event, Evaluated)][-1])
