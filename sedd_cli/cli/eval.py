"""`sedd eval`: likelihoods of texts; quality of samples, also against the number of steps; masked words restored."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from sedd_cli.cli import options as o
from sedd_cli.cli.choose import choose_any, own_corpus, places_of, source_of
from sedd_cli.cli.cloze import run_cloze
from sedd_cli.cli.idle import refuse_idle
from sedd_cli.cli.judging import judge_file, run_sweep
from sedd_cli.cli.view.results import bounds_table, comparison
from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError, WorkError

Protocols = Annotated[
    list[str] | None,
    typer.Option(help="rigorous, sedd-paper, mdlm; default: the first two. May be given several times."),
]


def evaluate(
    context: typer.Context,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            help="A named corpus, file, folder or hub id; may be given several times. Default: the run's own."
        ),
    ] = None,
    local: Annotated[
        list[str] | None,
        typer.Option("--from", help="Where a named corpus stands on this machine: PATH, or NAME=PATH among several."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Default: test where there is one, else validation.")] = None,
    protocol: Protocols = None,
    rel_error: Annotated[
        float, typer.Option(help="Draw until the standard error is below this share of the bound.")
    ] = 0.005,
    max_nfe: Annotated[int, typer.Option("--max-nfe", help="Network evaluations a block, at most.")] = 64,
    estimator: Annotated[
        str | None,
        typer.Option(help="How noise is placed: iid, stratified, count. Default: count, or stratified without MASK."),
    ] = None,
    blocks: Annotated[int | None, typer.Option(help="Only the first so many blocks of the split.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens of a block; default: the model's length.")] = None,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines/--no-baselines",
            "--yardsticks/--no-yardsticks",
            help="Also score n-gram models of the same tokens.",
        ),
    ] = True,
    samples: Annotated[
        Path | None, typer.Option(help="Judge the samples in this file instead (.jsonl of --out, or one text a line).")
    ] = None,
    judge: o.Judge = None,
    self_bleu: o.SelfBleu = False,
    sweep: Annotated[
        str | None,
        typer.Option(help="Judge fresh samples at each of these: steps=32,64,128 or steps=32,64,...,2048."),
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="For --sweep: tweedie, euler, or both with a comma.")] = None,
    n: Annotated[int, typer.Option("-n", help="For --sweep: samples at each point.")] = 64,
    cloze: Annotated[
        int | None, typer.Option(help="Mask so many words of the split instead, and count those that are restored.")
    ] = None,
    candidates: Annotated[int, typer.Option(help="For --cloze: fillings of each gap, the best by the bound.")] = 8,
    resume: Annotated[bool, typer.Option(help="Go on from draws and samples made before.")] = True,
    out: Annotated[
        Path | None, typer.Option(help="Also write the JSON document here; for --sweep a folder (default: sweep).")
    ] = None,
    seed: o.Seed = 0,
    model: o.ModelOrCausal = None,
    tokenizer: o.Tokenizer = None,
    device: o.Device = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32, bf16, or auto: bf16 where it is measured not to move the result.")
    ] = "auto",
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Likelihood of texts with error bars; or the quality of samples, also against the number of steps; or how many
    masked words are restored.

    A dataset that is not prepared yet is prepared first, with the model's tokenizer. An autoregressive model of
    transformers (--model gpt2) is evaluated on the same blocks, exactly. Interrupted evaluations go on where they
    stopped. On many GPUs: torchrun --standalone --nproc-per-node=8 -m sedd_cli eval --dataset wikitext103

    Example: sedd eval --model runs/quickstart --dataset pydocs --split validation
    """
    view = View(json, quiet)
    mode = _mode({"--samples": samples, "--sweep": sweep, "--cloze": cloze})
    refuse_idle(context, IDLE[mode], mode, HINTS)
    if samples is not None:
        return judge_file(view, samples, judge, self_bleu, tokenizer, device, out)
    if sweep is not None:

        def sweep_options():
            from sedd_cli.evaluation.sweep import SweepOptions, parse_sweep

            samplers = tuple((sampler or "tweedie").split(","))
            return SweepOptions(out or Path("sweep"), parse_sweep(sweep), samplers, n, length, seed, self_bleu, resume)

        return run_sweep(view, sweep_options, judge, model, tokenizer, device, precision)
    if cloze is not None:

        def cloze_options():
            from sedd_cli.evaluation.cloze import ClozeOptions

            return ClozeOptions(cloze, split, candidates, seed)

        return run_cloze(view, cloze_options, dataset or [], local or [], model, tokenizer, device, precision, out)
    from sedd_cli.evaluation.likelihood.evaluate import EvaluateOptions, evaluate_all
    from sedd_cli.evaluation.likelihood.texts import Text
    from sedd_cli.inference.bound import Drawing
    from sedd_cli.system.distributed import connect
    from sedd_cli.system.events import Finished
    from sedd_cli.system.outputs import check_outputs

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
    reads = {"--dataset": dataset, "--from": local, "--model": source_of(model), "--tokenizer": tokenizer}
    check_outputs({"--out": out}, reads)
    places = places_of(dataset or [], local or [])
    with connect(device) as dist:
        chosen = choose_any(view, model, str(dist.device), "fp32" if precision == "auto" else precision, tokenizer)
        texts = [Text(name, places.get(name)) for name in dataset or [own_corpus(chosen)]]
        check_outputs({"--out": out}, {"the model's own corpus": [text.corpus for text in texts]})
        job = evaluate_all(chosen, texts, options, dist)
        events = view.follow(_stored(view, job, chosen.source, len(texts), out) if dist.main else job, RESUME)
    found = next(event.result for event in events if isinstance(event, Finished))
    if len(found["results"]) > 1:
        view.result(comparison(found["results"]))
    elif quiet and found["results"]:  # else it was shown when it came
        view.result(bounds_table(found["results"][0]))
    view.document(_document(found, len(texts)))
    if failed := found["failed"]:
        said = ", ".join(Path(f["dataset"]).name for f in failed)
        kind = RequestError if all(f["code"] == 2 for f in failed) else WorkError
        kept = ", the others are done" if found["results"] else ""
        raise kind(f"{len(failed)} of {len(texts)} datasets failed{kept}: {said}; the reasons stand above")


#: What is said after Ctrl-C.
RESUME = "interrupted: what is finished is kept, the same command goes on"
#: What each way to use the command has no use for.
LIKELIHOOD = {"dataset", "local", "split", "protocol", "rel_error", "max_nfe", "estimator", "blocks", "baselines"}
IDLE = {
    "--samples": {*LIKELIHOOD, "length", "model", "sampler", "n", "candidates", "seed", "resume", "precision"},
    "--sweep": {*LIKELIHOOD, "candidates"},
    "--cloze": {*LIKELIHOOD, "length", "sampler", "n", "judge", "self_bleu", "resume"} - {"dataset", "local", "split"},
    "a likelihood": {"sampler", "n", "candidates", "judge", "self_bleu"},
}
#: What some of them go with.
HINTS = dict.fromkeys(("judge", "self_bleu"), "--samples FILE or --sweep") | {"candidates": "--cloze"}


def _mode(asked: dict[str, Any]) -> str:
    """The way the command is used: the option of `asked` that was given, of which there is one at most."""
    given = [option for option, value in asked.items() if value is not None]
    if len(given) > 1:
        raise RequestError(
            "--samples judges a file, --sweep draws its own, --cloze masks words of a text: name one of them"
        )
    return given[0] if given else "a likelihood"


def _document(found: dict[str, Any], texts: int) -> Any:
    """The one result of a call for one text; for several, all of them and what failed."""
    return found["results"][0] if texts == 1 and found["results"] else found


def _stored(view: View, events: Iterable[Any], source: str, texts: int, out: Path | None) -> Iterator[Any]:
    """The events; each result is written as it comes, into the run's results/ where the model is a run, and `out`."""
    from sedd_cli.checkpoints.checkpoint import LATEST
    from sedd_cli.checkpoints.run_directory import RunDir
    from sedd_cli.system.digests import digest
    from sedd_cli.system.events import Evaluated, Finished
    from sedd_cli.system.files import is_stream, write_whole

    so_far: list[dict] = []
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
                view.say(f"wrote {RunDir(Path(source)).store('results', name, event.result)}", "dim")
        elif isinstance(event, Finished):
            document = event.result
        # a pipe takes one document, the last
        if document is not None and out is not None and (isinstance(event, Finished) or not is_stream(out)):
            write_whole(out, json_module.dumps(_document(document, texts), indent=1) + "\n")
        yield event
    if out is not None:
        view.say(f"wrote {out}", "dim")
