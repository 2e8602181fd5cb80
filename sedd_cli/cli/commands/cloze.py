"""`sedd cloze`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sedd_cli.cli import options as o
from sedd_cli.cli.choose import check_texts, choose_diffusion, require_one_process, texts_of
from sedd_cli.cli.option_groups import ModelOptions, model_options, reading_options
from sedd_cli.cli.view.results import cloze_table
from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError
from sedd_cli.system.software import recorded


@model_options()
@reading_options
def cloze(
    using: ModelOptions,
    reading: dict[str, Any],
    n: Annotated[int, typer.Option("-n", metavar="INT", help="Words to mask.")] = 200,
    candidates: Annotated[
        int, typer.Option(metavar="INT", help="Fillings of each gap; the one of the lowest bound counts.")
    ] = 8,
    dataset: o.Dataset = None,
    local: o.From = None,
    split: o.Split = None,
    out: o.OutDocument = None,
    seed: o.Seed = 0,
) -> None:
    """Mask words of a held-out text and count how many the model restores, beside a 5-gram.

    Example: sedd cloze --model runs/quickstart -n 200
    """
    from sedd_cli.evaluation.cloze.job import NEEDS, ClozeOptions
    from sedd_cli.evaluation.cloze.job import cloze as job

    view = View(using.json, using.quiet)
    datasets = dataset or []
    options = ClozeOptions(n, split, candidates, seed)
    require_one_process("cloze")
    if len(datasets) > 1:
        raise RequestError(f"sedd cloze masks words of one text, found {len(datasets)} of --dataset")
    places = check_texts(using.model, datasets, local or [], reading, out)
    chosen = choose_diffusion(view, using.choice, NEEDS.format)
    (text,) = texts_of(chosen, datasets, places, reading, out)
    result = view.run(job(chosen, text, options))
    view.result(cloze_table(result))
    found = recorded(result.to_dict())
    view.write(found, out)
    view.document(found)
