"""`sedd infill`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sedd_cli.cli import options as o
from sedd_cli.cli.choose import choose_model, source_of
from sedd_cli.cli.idle import refuse_idle
from sedd_cli.cli.view.showing import shown
from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError

if TYPE_CHECKING:
    from sedd_cli.checkpoints.loaded_model import LoadedModel
    from sedd_cli.inference.infill import Job
    from sedd_cli.inference.sampling import Sampling


def infill(
    context: typer.Context,
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            "-t",
            help="Text with gaps: [MASK:8], [MASK:5-20], [MASK]. A bracket of its own takes a backslash.",
        ),
    ] = None,
    prefix: Annotated[str, typer.Option(help="Instead: text before a single gap.")] = "",
    suffix: Annotated[str, typer.Option(help="And text after it.")] = "",
    jobs: Annotated[
        str | None,
        typer.Option(
            "--input",
            help="Instead: a job a line as JSON, with template or prefix and suffix, n, seed, length, candidates, id; "
            "-n, --seed and --candidates hold where a line names none.",
        ),
    ] = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Instead: ask for a template, fill it, ask again.")
    ] = False,
    n: o.Count = 1,
    length: Annotated[
        int | None,
        typer.Option(
            help="Tokens of the whole, what is given included: gaps written [MASK] grow to it. "
            "Default for --prefix and --suffix: the trained length."
        ),
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option(help="Draw so many for each and keep the best by the model's bound; default 1, 8 for ranges."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Show all candidates, the best first.")] = False,
    seed: o.Seed = 0,
    out: o.Out = None,
    resume: Annotated[bool, typer.Option(help="With --input: keep what --out holds, and leave those jobs out.")] = True,
    steps: o.Steps = None,
    sampler: o.SamplerName = None,
    no_thinning: o.NoThinning = False,
    batch: o.Batch = None,
    normalized: o.Normalized = False,
    temperature: o.Temperature = None,
    top_p: o.TopP = None,
    grid: o.Grid = None,
    correctors: o.Correctors = None,
    remask: o.Remask = None,
    legacy: o.Legacy = False,
    watch: o.Watch = False,
    html: o.Html = None,
    svg: o.Svg = None,
    model: o.ModelOption = None,
    tokenizer: o.Tokenizer = None,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Fill gaps anywhere in a text; what is given comes back as it is.

    Example: sedd infill --template "Return the [MASK:6] of the [MASK:2-5] list."
    """
    from sedd_cli.inference.infill import Job
    from sedd_cli.inference.sampling import Sampling
    from sedd_cli.inference.template import between, parse_template
    from sedd_cli.system.outputs import check_outputs

    ways = {
        "--template": template is not None,
        "--prefix and --suffix": bool(prefix or suffix),
        "--input": jobs is not None,
        "--interactive": interactive,
    }
    asked = [name for name, given in ways.items() if given]
    if len(asked) != 1:
        found = " and ".join(asked) if asked else "nothing"
        raise RequestError(
            f"name one of --template, --prefix or --suffix (or both), --input, --interactive; found {found}"
            + ("" if asked else " (sedd sample draws without a prompt)")
        )
    refuse_idle(context, IDLE[asked[0]], asked[0])
    view = View(json, quiet)
    sampling = Sampling(
        steps, sampler, normalized, not no_thinning, temperature, top_p, grid, correctors, remask, legacy, batch
    )
    parsed = between(prefix, suffix) if template is None else parse_template(template)
    job = Job(parsed, n, seed, length, candidates)
    if every and candidates == 1:
        raise RequestError("--all shows candidates, and --candidates 1 leaves nothing to show")
    reads = {"--input": jobs, "--model": source_of(model), "--tokenizer": tokenizer}
    check_outputs({"--out": out, "--html": html, "--svg": svg}, reads)
    lines = _read(jobs) if jobs is not None else []
    chosen = choose_model(view, model, device, precision, tokenizer)
    if interactive:
        from sedd_cli.cli.interactive import prompt_loop

        return prompt_loop(view, chosen, job, sampling, every)
    if jobs is not None:
        return _fill_jobs(view, chosen, lines, jobs, job, sampling, every, out, resume, watch, html, svg)
    if template is None and length is None:
        job = Job(parsed, n, seed, chosen.length, candidates)
    from sedd_cli.inference.generate import as_json
    from sedd_cli.inference.infill import infill as fill
    from sedd_cli.system.events import Filled

    events = fill(chosen, [job], sampling, every, watch or html is not None or svg is not None)
    found = [e for e in shown(view, chosen, events, "sedd infill", out, watch, html, svg=svg) if isinstance(e, Filled)]
    found.sort(key=lambda one: (one.index, one.candidate))
    view.document(
        {"model": chosen.source, "fingerprint": chosen.fingerprint, "samples": [as_json(event) for event in found]}
    )


#: What each way to use the command has no use for.
IDLE = {
    "--template": {"resume"},
    "--prefix and --suffix": {"resume"},
    "--input": {"length"},
    "--interactive": {"out", "resume", "json", "html", "svg", "quiet"},
}


def _read(source: str) -> list[bytes]:
    try:
        raw = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise RequestError(f"cannot read {source}: {error.strerror}") from None
    return raw.split(b"\n")


def _fill_jobs(
    view: View, chosen: LoadedModel, raw: list[bytes], source: str, job: Job, sampling: Sampling, every: bool,
    out: Path | None, resume: bool, watch: bool, html: Path | None, svg: Path | None,
) -> None:  # fmt: skip
    """Fill a file of jobs; lines that were refused make the command end with 2, after the others are done."""
    from sedd_cli.inference.generate import as_json
    from sedd_cli.inference.jobs import fill_jobs, read_jobs
    from sedd_cli.system.events import Filled, Finished

    named = "standard input" if source == "-" else source
    lines = read_jobs(raw, named, chosen.length, job.n, job.seed, job.candidates)
    events = fill_jobs(chosen, lines, sampling, every, out, resume, watch or html is not None or svg is not None)
    interrupted = "interrupted: what is finished is kept, the same command goes on" if out is not None else ""
    kept = shown(view, chosen, events, "sedd infill", None, watch, html, interrupted, svg)
    if out is not None:
        view.say(f"wrote {out}", "dim")
    found = kept[-1].result if isinstance(kept[-1], Finished) else {}
    samples = [*found.pop("kept"), *(as_json(event) for event in kept if isinstance(event, Filled))]
    samples.sort(key=lambda one: (one["job"]["line"], one["index"], one["candidate"]))
    view.document({"model": chosen.source, "fingerprint": chosen.fingerprint, **found, "samples": samples})
    if refused := found["refused"]:
        said = ", ".join(str(one["line"]) for one in refused[:20]) + (", …" if len(refused) > 20 else "")
        others = " (the others are done)" if len(refused) < found["lines"] else ""
        first = f"line {refused[0]['line']}: {refused[0]['reason']}"
        raise RequestError(
            f"{len(refused)} of {found['lines']} lines were refused{others}: {said}; "
            + (first if view.quiet else "the reasons stand above")
        )
