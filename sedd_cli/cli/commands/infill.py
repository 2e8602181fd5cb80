"""`sedd infill`."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, cast

import typer

from sedd_cli.cli import options as o
from sedd_cli.cli.choose import choose_model, model_files, require_one_process
from sedd_cli.cli.option_groups import (
    ModelOptions,
    Watching,
    model_options,
    refuse_unused,
    sampling_options,
    watching_options,
)
from sedd_cli.cli.outcome import continues, output
from sedd_cli.cli.view.denoising.showing import show_samples
from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError, shell_word, shortened
from sedd_cli.system.software import recorded

if TYPE_CHECKING:
    from sedd_cli.checkpoints.loaded_model import LoadedModel
    from sedd_cli.inference.batch.jobs import JobsResult
    from sedd_cli.inference.plan import Job
    from sedd_cli.inference.sampling import Sampling


@watching_options
@sampling_options()
@model_options()
def infill(
    context: typer.Context,
    using: ModelOptions,
    sampling: Sampling,
    watching: Watching,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEMPLATE",
            help="Text with gaps, in quotes: [MASK:8], [MASK:5-20], [MASK]. A literal bracket takes a backslash. "
            "Several are filled one after another.",
            show_default=False,
        ),
    ] = None,
    template: Annotated[
        str | None, typer.Option("--template", "-t", metavar="TEXT", help="The same, as an option.")
    ] = None,
    prefix: Annotated[str, typer.Option(metavar="TEXT", help="Instead: text before a single gap.")] = "",
    suffix: Annotated[str, typer.Option(metavar="TEXT", help="And text after it.")] = "",
    jobs: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="Instead: a template a line, or a JSON job: template or prefix and suffix, n, seed, length, "
            "candidates, id; other keys are passed on. -n, --seed, --candidates: defaults of a line.",
        ),
    ] = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Instead: read templates from a prompt and fill each.")
    ] = False,
    n: o.Count = 1,
    length: Annotated[
        int | None,
        typer.Option(
            metavar="INT",
            help="Tokens of the whole text; gaps written [MASK] fill it up. "
            "Default for --prefix and --suffix: the trained length.",
        ),
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option(
            metavar="INT",
            help="Draw several fillings and keep the best: of the length that fits the given text, the one of the "
            "lowest bound; default: 1, for ranges 8.",
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Show all candidates, best first.")] = False,
    seed: o.Seed = 0,
    out: o.OutOfInfill = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume",
            " /--fresh",
            help="With --input: skip the jobs whose results --out holds, or begin the file anew.",
        ),
    ] = True,
) -> None:
    """Fill gaps anywhere in a text; the given tokens stay as they are.

    Example: sedd infill "Return the [MASK:6] of the [MASK:2-5] list."
    """
    from sedd_cli.cli.inputs import check_written
    from sedd_cli.inference.plan import Job
    from sedd_cli.inference.template import gap_between, parse_template
    from sedd_cli.system.files import is_stream

    ways = {
        "TEMPLATE": bool(words),
        "--template": template is not None,
        "--prefix": bool(prefix),
        "--suffix": bool(suffix),
        "--input": jobs is not None,
        "--interactive": interactive,
    }
    asked = [name for name, given in ways.items() if given]
    if len(asked) != 1 and asked != GAP:
        found = " and ".join(asked) if asked else "nothing"
        raise RequestError(
            "name one of TEMPLATE, --template, --prefix or --suffix (or both), --input, --interactive; found "
            f"{found}" + ("" if asked else " (sedd sample draws without a prompt)")
        )
    refuse_unused(context, UNUSED[asked[0]], asked[0])
    if out is None:
        refuse_unused(context, {"resume"}, "--input without --out")
    require_one_process("infill")
    view = View(using.json, using.quiet)
    templates = _in_quotes(words) if words else [] if template is None else [template]
    parsed = [parse_template(one) for one in templates] or [gap_between(prefix, suffix)]
    job = Job(parsed[0], n, seed, length, candidates)
    if every and candidates == 1:
        raise RequestError("--all shows candidates, and --candidates 1 leaves nothing to show")
    if every and jobs is None and not interactive and all(replace(job, template=one).draws == 1 for one in parsed):
        raise RequestError("--all shows candidates, and without a range of lengths there is one: give --candidates")
    check_written({"--out": out, **watching.files}, {"--model": model_files(using.model)})
    watching.check(view.quiet)
    lines = _read(jobs) if jobs is not None else iter(())
    if jobs is not None and out is not None and resume and not is_stream(out):
        from sedd_cli.inference.batch.stored import StoredFillings

        StoredFillings(out, every)  # a file that holds anything else is refused before a model is loaded
    chosen = choose_model(view, using.choice)
    if interactive:
        from sedd_cli.cli.interactive import prompt_loop

        return prompt_loop(view, chosen, job, sampling, every)
    if jobs is not None:
        return _fill_jobs(view, chosen, lines, jobs, job, sampling, every, out, resume, watching)
    if not templates and length is None:
        job = replace(job, length=chosen.length)
    from sedd_cli.inference.infill import infill as fill

    asked_jobs = [replace(job, template=one, facts={"argument": k}) for k, one in enumerate(parsed, 1)]
    filling = fill(chosen, asked_jobs if len(parsed) > 1 else [job], sampling, every, watching.wanted)
    view.document(recorded(show_samples(view, chosen, filling, "sedd infill", out, watching).to_dict()))


#: The options of a single gap, which may be given together.
GAP = ["--prefix", "--suffix"]
#: Source of the templates → options that have no effect with it.
UNUSED = {
    "TEMPLATE": {"resume"},
    "--template": {"resume"},
    "--prefix": {"resume"},
    "--suffix": {"resume"},
    "--input": {"length"},
    "--interactive": {"out", "resume", "json", "watch", "html", "svg", "gif", "quiet"},
}


def _in_quotes(words: list[str]) -> list[str]:
    """The templates that are given as arguments; RequestError for words without quotes, and the name of a file."""
    if without := [word for word in words if "[MASK" not in word] if len(words) > 1 else []:
        raise RequestError(
            f'{len(words)} words are given: put the template in quotes, as in "To be [MASK:2]" (of several templates '
            f"each has a gap, {shortened(without[0])!r} has none)"
        )
    if "[" not in words[0] and Path(words[0]).is_file():
        raise RequestError(f"{words[0]} is a file: --input {shell_word(words[0])} reads a template a line from it")
    return words


def _read(source: str) -> Iterator[bytes | None]:
    """The lines of a file, opened now, or of standard input; they are read as they are needed.

    Of a pipe or a terminal, None means that nothing more has arrived yet.
    """
    from sedd_cli.system.files import is_stream, near, require_regular

    try:
        if source != "-":
            require_regular(Path(source), "--input")
            Path(source).open("rb").close()
    except OSError as error:
        hint = near(Path(source)) if isinstance(error, FileNotFoundError) else ""
        raise RequestError(f"cannot read {source}: {error.strerror}{hint}") from None
    from sedd_cli.data.formats.decoding import byte_lines, live_lines
    from sedd_cli.data.formats.files import Input

    if source != "-":
        path = Path(source)
        return live_lines(os.open(path, os.O_RDONLY), source) if is_stream(path) else byte_lines(Input.of(path))
    stdin = cast("BinaryIO", sys.stdin.buffer)
    with suppress(OSError, ValueError):  # a stream of a notebook or a test has no descriptor
        if not stat.S_ISREG(os.fstat(stdin.fileno()).st_mode) and os.name == "posix":
            return live_lines(stdin.fileno(), "standard input")
    return byte_lines(Input("standard input", lambda: stdin))


def _fill_jobs(
    view: View, chosen: LoadedModel, raw: Iterator[bytes | None], source: str, job: Job, sampling: Sampling,
    every: bool, out: Path | None, resume: bool, watching: Watching,
) -> None:  # fmt: skip
    """Fill a file of jobs. If lines are refused, RequestError after the others are done."""
    from sedd_cli.inference.batch.jobs import fill_jobs
    from sedd_cli.inference.batch.lines import job_lines
    from sedd_cli.system.files import is_stream, last_written

    named = "standard input" if source == "-" else source
    lines = job_lines(raw, named, chosen.length, job.n, job.seed, job.candidates)
    asked = {"seed": job.seed, "candidates": job.candidates}
    filling = fill_jobs(chosen, lines, sampling, every, out, resume, watching.wanted, keep=view.json, asked=asked)
    output.stored = out is not None  # as results come, so that a closed standard output does not end the work
    interrupted = ""
    if out is not None and not is_stream(out):
        interrupted = partial(_kept, out, every, None if resume else last_written(out))
    result = show_samples(view, chosen, filling, "sedd infill", None, watching, interrupted)
    if out is not None:
        wrote = f"wrote {out}" if out.exists() else f"nothing was written to {out}"
        view.say(f"{wrote}: {result.fillings:,} fillings of {result.lines:,} lines", "dim")
    error = _refusal(result, named, view.quiet) if result.refused else None
    view.document(recorded(result.to_dict()), error)
    if error:
        raise error


def _kept(out: Path, every: bool, before: int | None) -> str:
    """What to say after Ctrl-C. before: when `out` was last written before it was to begin anew (--fresh)."""
    from sedd_cli.inference.batch.stored import StoredFillings
    from sedd_cli.system.files import last_written

    if before is not None and last_written(out) == before:
        return f"interrupted: nothing was written to {out} yet, the same command begins anew"
    try:
        kept = f"{StoredFillings(out, every).count:,} fillings are kept in {out}"
    except (RequestError, OSError):
        kept = "finished jobs are kept"
    return continues(kept)


def _refusal(result: JobsResult, source: str, quiet: bool) -> RequestError:
    """The error that names the refused lines; their reasons stand above it unless `quiet`."""
    from sedd_cli.inference.batch.lines import spelled_lines

    refused = result.refused
    numbers = spelled_lines(one.line for one in refused).partition(" ")[2]
    others = " (the others are done)" if len(refused) < result.lines else ""
    reason = f"line {refused[0].line}: {refused[0].reason}" if quiet else "the reasons stand above"
    return RequestError(f"{len(refused)} of {result.lines} lines of {source} were refused{others}: {numbers}; {reason}")
