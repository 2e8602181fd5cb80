"""`sedd eval`."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sedd_cli.cli import options as o
from sedd_cli.cli.answers import PROTOCOL, evaluate_answers
from sedd_cli.cli.choose import check_texts, choose_any, require_one_process, texts_of
from sedd_cli.cli.option_groups import (
    MODEL,
    ModelOptions,
    model_options,
    reading_options,
    refuse_unused,
    sampling_options,
)
from sedd_cli.cli.outcome import continues, output
from sedd_cli.cli.view.results import bounds_table, comparison
from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError, WorkError
from sedd_cli.system.events import Event
from sedd_cli.system.software import recorded

if TYPE_CHECKING:
    from sedd_cli.evaluation.likelihood.results import EvaluationResults
    from sedd_cli.inference.sampling import Sampling

Precision = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        callback=o.known_precision,
        help="fp32, tf32, bf16, or auto: bf16 if a measurement shows that it does not move the result.",
    ),
]
#: Shown after Ctrl-C.
RESUME = partial(continues, "finished draws are kept")
#: Options that have an effect on answers given prompts.
OF_ANSWERS = {"protocol", "local", "out", "seed", "imports", *MODEL}


@model_options(model=(o.ModelOrCausal, None), precision=(Precision, "auto"))
@sampling_options("steps", "sampler", "normalized", "temperature", "top_p", "grid", "correctors", "remask", "last_step")
@reading_options
def evaluate(
    context: typer.Context,
    using: ModelOptions,
    reading: dict[str, Any],
    sampling: Sampling,
    dataset: o.Dataset = None,
    local: o.From = None,
    split: o.Split = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="rigorous, sedd-paper, normalized, sampler (with --steps), discrete (of models in discrete time), or "
            "that of a project: mdlm, duo, udlm, radd, gidd, llada; default: rigorous and sedd-paper. May be repeated.",
        ),
    ] = None,
    rel_error: Annotated[
        float, typer.Option(metavar="FLOAT", help="Draw until the standard error is below this share of the bound.")
    ] = 0.005,
    max_nfe: Annotated[
        int,
        typer.Option(
            "--max-nfe",
            metavar="INT",
            help="Draws per block, at most, of one network evaluation each (two where MASK is not the only noise).",
        ),
    ] = 64,
    estimator: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="iid, stratified or count; default: count where MASK alone is the noise, else stratified.",
        ),
    ] = None,
    blocks: Annotated[
        int | None, typer.Option(metavar="INT", help="Evaluate only the first blocks of the split.")
    ] = None,
    length: Annotated[
        int | None, typer.Option(metavar="INT", help="Tokens per block; default: the model's length.")
    ] = None,
    baselines: Annotated[bool, typer.Option(help="Also score n-gram models of the same tokens.")] = True,
    resume: Annotated[bool, typer.Option(help="Continue from the draws of an interrupted evaluation.")] = True,
    out: o.OutDocument = None,
    seed: o.Seed = 0,
) -> None:
    """Measure the likelihood of texts, with error bars.

    `--dataset` may be repeated. A dataset that is not prepared yet is prepared first, with the model's tokenizer. An
    autoregressive model of transformers (--model gpt2) is evaluated exactly, on the same blocks. On many GPUs:
    torchrun --standalone --nproc-per-node=8 -m sedd_cli eval --dataset wikitext103

    --protocol llada is about answers given prompts: --from FILE names lines of JSON with the texts prompt and answer.
    With --precision auto it computes in fp32.

    Options of the sampler are for --protocol sampler alone, which bounds the likelihood of samples drawn in that way
    without thinning.

    Example: sedd eval --model runs/quickstart --dataset pydocs --split validation
    """
    from sedd_cli.evaluation.likelihood.evaluate import OF_DRAWS, EvaluateOptions, evaluate_all, exactly
    from sedd_cli.evaluation.scorers.pretrained import is_causal
    from sedd_cli.inference.bound import MonteCarloOptions
    from sedd_cli.system.distributed import connect

    view = View(using.json, using.quiet)
    if PROTOCOL in (protocol or []) and local and not dataset:
        require_one_process(f"eval --protocol {PROTOCOL}")
        unused = {p.name for p in context.command.params if p.name} - OF_ANSWERS
        refuse_unused(context, unused, f"--protocol {PROTOCOL}")
        return evaluate_answers(view, using, protocol or [], local, out, seed)
    options = EvaluateOptions(
        split,
        tuple(protocol or ()),
        MonteCarloOptions(estimator, rel_error, max_nfe, seed),
        baselines,
        blocks,
        length,
        try_bf16=using.precision == "auto",
        keep=resume,
        sampling=sampling,
    )
    datasets = dataset or []
    places = check_texts(using.model, datasets, local or [], reading, out)
    if using.model is not None and is_causal(using.model):
        refuse_unused(context, OF_DRAWS, exactly(using.model))
    with connect(using.device) as dist:
        precision = "fp32" if using.precision == "auto" else using.precision
        named = replace(using, device=str(dist.device), precision=precision)
        chosen = choose_any(view, named.choice)
        if chosen.exact:
            refuse_unused(context, OF_DRAWS, exactly(chosen.source))
        texts = texts_of(chosen, datasets, places, reading, out)
        job = evaluate_all(chosen, texts, options, dist)
        result = view.run(
            _stored(view, job, chosen.source, len(texts), out) if dist.main else job, RESUME if resume else ""
        )
    found = result.to_dict()
    if len(found["results"]) > 1:
        view.result(comparison(found["results"]))
    elif using.quiet and found["results"]:  # otherwise it was shown when it came
        view.result(bounds_table(found["results"][0]))
    error = _error(result, len(texts))
    view.document(output.result or _document(found, len(texts)), error)  # the same as in the file, its date too
    if error:
        raise error


def _error(result: EvaluationResults, texts: int) -> Exception | None:
    """The error with which the command ends if datasets failed."""
    failed = result.failed
    if not failed:
        return None
    kind = RequestError if all(f.code == 2 for f in failed) else WorkError
    others = ", the others are done" if result.results else ""
    names = ", ".join(Path(f.dataset).name for f in failed)
    return kind(f"{len(failed)} of {texts} datasets failed{others}: {names}; the reasons stand above")


def _document(found: dict[str, Any], texts: int) -> Any:
    """The result of one text; for several texts, all results and failures."""
    return recorded(found["results"][0] if texts == 1 and found["results"] else found)


def _stored(
    view: View, job: Generator[Event, None, EvaluationResults], source: str, texts: int, out: Path | None
) -> Generator[Event, None, EvaluationResults]:
    """The job; each result is written to the results/ of the run, if the model is one, and to `out`."""
    from sedd_cli.checkpoints.checkpoint import LATEST
    from sedd_cli.checkpoints.run_directory import RunDir
    from sedd_cli.evaluation.likelihood.stepwise import PROTOCOL as PATHS
    from sedd_cli.system.digests import digest
    from sedd_cli.system.events import Evaluated, Warn, expand_events
    from sedd_cli.system.files import is_stream, write_document

    so_far: list[dict[str, Any]] = []

    def write(document: dict[str, Any], last: bool) -> None:
        output.result = _document(document, texts)
        if last:
            view.write(output.result, out)
        elif out is not None and not is_stream(out):  # a pipe takes one document only: the last
            write_document(out, output.result)
            output.stored = True

    def keep_copy(event: Evaluated) -> Warn | None:
        """Store a result in its run."""
        result = event.result
        asked = {k: v for k, v in result.items() if k not in ("bounds", "baselines", "software", "bf16")}
        asked["protocols"] = {
            name: [b.get("max_nfe"), b["process"]] if name == PATHS else b.get("max_nfe")
            for name, b in result["bounds"].items()
        }
        name = f"eval-{Path(result['corpus']).name}-{result['split']}-step-{result['step']}-{digest(asked)[:8]}"
        try:
            view.say(f"wrote {RunDir(Path(source)).store_result(name, result, event.documents)}", "dim")
        except (OSError, ValueError) as error:  # ValueError: a corpus whose name no file can have
            why = getattr(error, "strerror", None) or str(error)
            return Warn(f"the run keeps no copy of the result: cannot write to {source}/results: {why}")
        output.stored = True
        return None

    def store(event: Event) -> Iterator[Event]:
        yield event  # shown before it is written, which may fail
        if isinstance(event, Evaluated):
            so_far.append(event.result)
            write({"results": so_far, "failed": []}, last=False)
            if (Path(source) / LATEST).is_file() and (warning := keep_copy(event)):
                yield warning

    result = yield from expand_events(job, store)
    write(result.to_dict(), last=True)
    return result
