"""`sedd eval`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from sedd_cli.cli import options as o
from sedd_cli.cli.choose import choose_any, model_files, more_inputs, own_corpus, places_of
from sedd_cli.cli.outcome import shown
from sedd_cli.cli.view.results import bounds_table, comparison
from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError, WorkError

#: Shown after Ctrl-C.
RESUME = "interrupted: finished draws are kept, the same command continues"


@o.reading_options
def evaluate(
    reading: dict[str, Any],
    dataset: o.Dataset = None,
    local: o.From = None,
    split: o.Split = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="rigorous, sedd-paper, mdlm; default: the first two. May be repeated."),
    ] = None,
    rel_error: Annotated[
        float, typer.Option(metavar="FLOAT", help="Draw until the standard error is below this share of the bound.")
    ] = 0.005,
    max_nfe: Annotated[
        int, typer.Option("--max-nfe", metavar="INT", help="Network evaluations per block, at most.")
    ] = 64,
    estimator: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="iid, stratified or count; default: count, or stratified for graphs without MASK."
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
    model: o.ModelOrCausal = None,
    tokenizer: o.Tokenizer = None,
    device: o.Device = "auto",
    precision: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="fp32, bf16, or auto: bf16 if a measurement shows that it does not move the result."
        ),
    ] = "auto",
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Measure the likelihood of texts, with error bars.

    `--dataset` may be repeated. A dataset that is not prepared yet is prepared first, with the model's tokenizer. An
    autoregressive model of transformers (--model gpt2) is evaluated exactly, on the same blocks. On many GPUs:
    torchrun --standalone --nproc-per-node=8 -m sedd_cli eval --dataset wikitext103

    Example: sedd eval --model runs/quickstart --dataset pydocs --split validation
    """
    from sedd_cli.evaluation.likelihood.evaluate import EvaluateOptions, evaluate_all
    from sedd_cli.evaluation.likelihood.texts import Text
    from sedd_cli.inference.bound import Drawing
    from sedd_cli.system.distributed import connect
    from sedd_cli.system.outputs import check_outputs

    view = View(json, quiet)
    options = EvaluateOptions(
        split,
        tuple(protocol or ()),
        Drawing(estimator, rel_error, max_nfe, seed),
        baselines,
        blocks,
        length,
        try_bf16=precision == "auto",
        keep=resume,
    )
    reads = {"--dataset": dataset, "--from": local, "--model": model_files(model), "--tokenizer": tokenizer}
    check_outputs({"--out": out}, reads)
    places = places_of(dataset or [], local or [])
    with connect(device) as dist:
        chosen = choose_any(view, model, str(dist.device), "fp32" if precision == "auto" else precision, tokenizer)
        texts = [Text(name, places.get(name), reading) for name in dataset or [own_corpus(chosen)]]
        check_outputs({"--out": out}, more_inputs(chosen, [text.corpus for text in texts]))
        job = evaluate_all(chosen, texts, options, dist)
        found = view.finish(_stored(view, job, chosen.source, len(texts), out) if dist.main else job, RESUME)
    if len(found["results"]) > 1:
        view.result(comparison(found["results"]))
    elif quiet and found["results"]:  # otherwise it was shown when it came
        view.result(bounds_table(found["results"][0]))
    error = _error(found, len(texts))
    view.document(_document(found, len(texts)), error)
    if error:
        raise error


def _error(found: dict[str, Any], texts: int) -> Exception | None:
    """The error with which the command ends if datasets failed."""
    failed = found["failed"]
    if not failed:
        return None
    kind = RequestError if all(f["code"] == 2 for f in failed) else WorkError
    others = ", the others are done" if found["results"] else ""
    names = ", ".join(Path(f["dataset"]).name for f in failed)
    return kind(f"{len(failed)} of {texts} datasets failed{others}: {names}; the reasons stand above")


def _document(found: dict[str, Any], texts: int) -> Any:
    """The result of one text; for several texts, all results and failures."""
    return found["results"][0] if texts == 1 and found["results"] else found


def _stored(view: View, events: Iterable[Any], source: str, texts: int, out: Path | None) -> Iterator[Any]:
    """Pass the events on; write each result to the results/ of the run, if the model is one, and to `out`."""
    from sedd_cli.checkpoints.checkpoint import LATEST
    from sedd_cli.checkpoints.run_directory import RunDir
    from sedd_cli.system.digests import digest
    from sedd_cli.system.events import Evaluated, Finished, Warn
    from sedd_cli.system.files import is_stream, write_whole
    from sedd_cli.system.json_lines import json_text

    so_far: list[dict[str, Any]] = []
    copies: list[tuple[str, dict[str, Any]]] = []
    for event in events:
        document = None
        if isinstance(event, Evaluated):
            so_far.append(event.result)
            document = {"results": so_far, "failed": []}
            if (Path(source) / LATEST).is_file():
                asked = {k: v for k, v in event.result.items() if k not in ("bounds", "baselines", "software", "bf16")}
                asked["protocols"] = {name: b.get("max_nfe") for name, b in event.result["bounds"].items()}
                corpus, split = Path(event.result["corpus"]).name, event.result["split"]
                name = f"eval-{corpus}-{split}-step-{event.result['step']}-{digest(asked)[:8]}"
                copies.append((name, event.result))
        elif isinstance(event, Finished):
            document = event.result
        # a pipe takes one document only, so it gets the last
        if document is not None and out is not None and (isinstance(event, Finished) or not is_stream(out)):
            try:
                write_whole(out, json_text(_document(document, texts), 1) + "\n")
            except OSError as error:
                raise WorkError(f"cannot write {out}: {error.strerror}") from None
            shown.stored = True
        while copies:
            name, result = copies.pop()
            try:
                view.say(f"wrote {RunDir(Path(source)).store('results', name, result)}", "dim")
                shown.stored = True
            except OSError as error:
                yield Warn(f"the run keeps no copy of the result: cannot write to {source}/results: {error.strerror}")
        yield event
    if out is not None:
        view.say(f"wrote {out}", "dim")
