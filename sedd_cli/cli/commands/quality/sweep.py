"""`sedd sweep`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sedd_cli.cli import options as o
from sedd_cli.cli.choose import choose_diffusion, require_one_process
from sedd_cli.cli.commands.quality.exact_sweep import ExactRequest, exact_sweep
from sedd_cli.cli.commands.quality.judge import load_judge, reference_corpus
from sedd_cli.cli.option_groups import ModelOptions, model_options, refuse_unused
from sedd_cli.cli.outcome import continues, output
from sedd_cli.cli.view.quality import sweep_table, sweep_verdict
from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError
from sedd_cli.system.software import recorded

#: The panel of the help with the options of --exact.
EXACT = "Distances from the model's own distribution"
#: Options of a network, which the built-in source of --exact has not.
OF_A_MODEL = ("precision", "compile", "tokenizer", "mask_token")
#: Shown after Ctrl-C.
RESUME = partial(continues, "finished samples and points are kept")


@model_options(model=(o.ModelOfSweep, None))
def sweep(
    context: typer.Context,
    using: ModelOptions,
    steps: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Numbers of steps: 32,64,128 or 32,64,...,2048; --exact: of network evaluations, default: 4,8,16,32.",
        ),
    ] = None,
    judge: o.JudgeOfSweep = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Samplers with steps, commas between them: tweedie (the default), euler, '{name: confidence, order: "
            "entropy}'; --exact: any, default: all.",
        ),
    ] = None,
    n: Annotated[int | None, typer.Option("-n", metavar="INT", help="Samples at each point; default: 64.")] = None,
    length: Annotated[
        int | None, typer.Option(metavar="INT", help="Tokens per sample; default: the model's length, --exact: 6.")
    ] = None,
    temperature: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Temperatures of each point, such as 1,0.9,0.8 (a frontier)."),
    ] = None,
    reference: o.Reference = None,
    self_bleu: o.SelfBleu = None,
    resume: Annotated[bool, typer.Option(help="Continue from the samples of an interrupted sweep.")] = True,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of samples, result and figure. Default: sweep.")
    ] = None,
    seed: o.Seed = 0,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Distances from the model's own distribution instead.", rich_help_panel=EXACT),
    ] = False,
    letters: Annotated[
        int | None, typer.Option(metavar="INT", help="Of the built-in source; default: 4.", rich_help_panel=EXACT)
    ] = None,
    graph: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Of the built-in source, such as '{name: gaussian, width: 0.2}'; default: absorbing,uniform.",
            rich_help_panel=EXACT,
        ),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of the built-in source, such as '{name: geometric, sigma_max: 20}'; default: loglinear.",
            rich_help_panel=EXACT,
        ),
    ] = None,
    given: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Letters given at positions of the built-in source, ? where free: 'a??b'.",
            rich_help_panel=EXACT,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", parser=o.file_name, help="Draw them here (PNG).", rich_help_panel=EXACT),
    ] = None,
) -> None:
    """Measure the quality of samples against the number of sampling steps (figures 1 and 2 of the paper).

    Beside the points: real text, and controls without a network. Points of lower entropy than real text are marked.

    With --exact: the distance of every sampler from the model's own distribution against network evaluations, on a
    source whose sequences can be enumerated.

    Example: sedd sweep --steps 32,64,...,2048 --sampler tweedie,euler --judge gpt2-large -n 64 --out figure1

    Example: sedd sweep --exact --plot frontier.png
    """
    if exact:
        unused = (judge, self_bleu, n, temperature, reference)
        if any(value is not None for value in unused) or not resume:
            raise RequestError(
                "--judge, --self-bleu, -n, --temperature, --reference and --no-resume mean nothing with --exact: no "
                "text is judged"
            )
        if using.model is None:
            refuse_unused(context, OF_A_MODEL, "the built-in source of --exact, only with --model")
        exact_sweep(using, ExactRequest(steps, sampler, length, letters, graph, noise, given, seed, plot, out))
        return
    of_exact = {"--letters": letters, "--graph": graph, "--noise": noise, "--given": given, "--plot": plot}
    for flag, value in of_exact.items():
        if value is not None:
            raise RequestError(f"{flag} goes with --exact")
    if steps is None or judge is None:
        raise RequestError(f"missing option {'--steps' if steps is None else '--judge'} (or --exact)")
    from sedd_cli.evaluation.sweep import SweepOptions, holds_sweep, parse_sweep, parse_temperatures
    from sedd_cli.evaluation.sweep import sweep as job
    from sedd_cli.evaluation.sweep_plot import plot as draw
    from sedd_cli.evaluation.sweep_plot import plot_frontier
    from sedd_cli.recipe.part import typed_list
    from sedd_cli.system.outputs import check_folder

    view = View(using.json, using.quiet)
    samplers, folder = typed_list(sampler or "tweedie"), out or Path("sweep")
    points = parse_sweep(f"steps={steps}"), samplers, 64 if n is None else n, length, seed
    options = SweepOptions(folder, *points, self_bleu is not False, resume, parse_temperatures(temperature))
    require_one_process("sweep")
    check_folder("--out", options.folder, holds_sweep, "a folder of a sweep")
    chosen = choose_diffusion(
        view, using.choice, "a sweep needs a diffusion model: {} is autoregressive and has no steps".format
    )
    reader = load_judge(view, judge, using.device)
    corpus = reference_corpus(view, reference, None, chosen, reader)
    result = view.run(job(chosen, reader, options, corpus), RESUME)
    found = output.result = recorded(result.to_dict())
    view.result(sweep_table(result))
    for line in sweep_verdict(result):
        view.say(line, "yellow")
    output.stored = True
    stored, png, frontier = (options.folder / name for name in ("sweep.json", "sweep.png", "frontier.png"))
    draw(result, png)
    plot_frontier(result, frontier)
    found |= {"png": str(png), "frontier": str(frontier)}
    view.say(f"wrote {stored}, {png} and {frontier}", "dim")
    view.document(found)
