"""`sedd sweep --exact`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from sedd_cli.cli.choose import choose_model, require_one_process
from sedd_cli.cli.option_groups import ModelOptions
from sedd_cli.cli.outcome import NOTHING_KEPT, output
from sedd_cli.cli.view.quality import exact_table
from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError, WorkError
from sedd_cli.system.software import recorded

FIGURE = "exact.png"


@dataclass(frozen=True)
class ExactRequest:
    """The values of the options that count with --exact; None: the default."""

    steps: str | None
    sampler: str | None
    length: int | None
    letters: int | None
    graph: str | None
    noise: str | None
    given: str | None
    seed: int
    plot: Path | None
    out: Path | None


def exact_sweep(using: ModelOptions, request: ExactRequest) -> None:
    """Compare all samplers; of the built-in source, or of the model of --model."""
    from sedd_cli.cli.inputs import check_png, check_written
    from sedd_cli.evaluation.exact.options import ExactOptions
    from sedd_cli.evaluation.exact.plot import plot_exact
    from sedd_cli.evaluation.exact.results import RESULT, holds_exact_sweep
    from sedd_cli.evaluation.exact.sweep import sweep_model, sweep_source
    from sedd_cli.evaluation.sweep import parse_sweep
    from sedd_cli.recipe.part import typed_list
    from sedd_cli.system.files import write_whole
    from sedd_cli.system.json_lines import json_text
    from sedd_cli.system.outputs import check_folder

    if using.model is not None:
        for flag in ("letters", "graph", "noise", "given"):
            if getattr(request, flag) is not None:
                raise RequestError(f"--{flag} is of the built-in source and means nothing with --model")
    if using.device not in ("auto", "cpu"):
        raise RequestError(f"--exact computes on the CPU, found --device {using.device}")
    named = None if request.sampler in (None, "all") else request.sampler
    chosen = {
        "evaluations": None if request.steps is None else parse_sweep(f"steps={request.steps}"),
        "samplers": None if named is None else typed_list(named),
        "graphs": None if request.graph is None else typed_list(request.graph),
        "noise": request.noise,
        "letters": request.letters,
        "length": request.length if request.given is None or request.length is not None else len(request.given),
        "given": request.given,
    }
    options = ExactOptions(seed=request.seed, **{key: value for key, value in chosen.items() if value is not None})
    require_one_process("sweep")
    check_png(request.plot)
    check_written({"--plot": request.plot})
    if request.out is not None:
        check_folder("--out", request.out, holds_exact_sweep, "a folder of such a sweep")
    view = View(using.json, using.quiet)
    if using.model is None:
        job = sweep_source(options)
    else:
        model = choose_model(view, replace(using, device="cpu").choice)
        job = sweep_model(model, options)
    result = view.run(job, NOTHING_KEPT)
    found = output.result = recorded(result.to_dict())
    view.result(exact_table(result))
    if request.out is not None:
        try:
            request.out.mkdir(parents=True, exist_ok=True)
            write_whole(request.out / RESULT, json_text(found, 1) + "\n")
        except OSError as error:
            raise WorkError(f"cannot write to {request.out}: {error.strerror}") from None
        plot_exact(result, request.out / FIGURE)
        output.stored = True
        view.say(f"wrote {request.out / RESULT} and {request.out / FIGURE}", "dim")
    if request.plot is not None:
        plot_exact(result, request.plot)
        found["png"] = str(request.plot)
        view.say(f"wrote {request.plot}", "dim")
    view.document(found)
