"""`sedd sample`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, cast

import typer

from sedd_cli.cli import options as o
from sedd_cli.cli.choose import choose_model, model_files, require_one_process
from sedd_cli.cli.commands.quality.judge import judged, load_judge, reference_corpus
from sedd_cli.cli.option_groups import ModelOptions, Watching, model_options, sampling_options, watching_options
from sedd_cli.cli.outcome import output
from sedd_cli.cli.view.denoising.showing import show_samples
from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError
from sedd_cli.system.software import recorded

if TYPE_CHECKING:
    from sedd_cli.inference.sampling import Sampling


@watching_options
@sampling_options()
@model_options()
def sample(
    using: ModelOptions,
    sampling: Sampling,
    watching: Watching,
    n: o.Count = 1,
    length: Annotated[
        int | None,
        typer.Option(
            metavar="INT", help="Tokens, prompt included; default: the trained length. Longer texts: in blocks."
        ),
    ] = None,
    block: Annotated[
        int | None, typer.Option(metavar="INT", help="Tokens per block; default: the trained length.")
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(metavar="INT", help="New tokens per further block, given those before; default: half a block."),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Text to begin with; may be repeated, -n samples of each.")
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="File with a prompt a line (- is standard input); empty lines are skipped."),
    ] = None,
    chat: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Instead: a message that an instruct model answers; may be repeated."),
    ] = None,
    seed: o.Seed = 0,
    out: o.Out = None,
    judge: o.Judge = None,
    self_bleu: o.SelfBleu = None,
    reference: o.Reference = None,
) -> None:
    """Draw samples from a model.

    In fp32, sample number k of a seed is the same text for every -n; in bf16, rounding may change it.

    Example: sedd sample --model runs/quickstart -n 3 --steps 64 --seed 1
    """
    from sedd_cli.cli.inputs import check_written
    from sedd_cli.inference.generate import GenerateOptions, generate

    require_one_process("sample")
    view = View(using.json, using.quiet)
    for option, value in {"--self-bleu": self_bleu, "--reference": reference}.items():
        if value is not None and judge is None:
            raise RequestError(f"{option} goes with --judge")
    begin = (*(prompt or ()), *(_prompts(prompts) if prompts is not None else ()))
    options = GenerateOptions(n, length, begin, block, stride, seed, sampling=sampling, chat=tuple(chat or ()))
    check_written({"--out": out, **watching.files}, {"--model": model_files(using.model)})
    watching.check(view.quiet)
    chosen = choose_model(view, using.choice)
    causal = corpus = None
    if judge is not None:  # before sampling: loading may fail
        causal = load_judge(view, judge, using.device)
        corpus = reference_corpus(view, reference, None, chosen, causal)
    job = generate(chosen, options, watch=watching.wanted)
    result = show_samples(view, chosen, job, "sedd sample", out, watching)
    document = result.to_dict()
    if causal is not None:
        from sedd_cli.evaluation.judge import Samples

        output.stored = False  # the judgement is not
        samples = Samples.of(result.samples, chosen.tokenizer)
        kept = f"interrupted: the samples are in {out}, sedd judge goes on with them" if out is not None else ""
        document["judged"] = judged(view, samples, causal, self_bleu, corpus, seed, kept)
    view.document(recorded(document))


def _prompts(source: str) -> list[str]:
    """The nonempty lines of a file, compressed or not, or of standard input."""
    from sedd_cli.data.formats.decoding import byte_lines
    from sedd_cli.data.formats.files import Input
    from sedd_cli.system.files import near, require_regular

    found: list[str] = []
    named = "standard input" if source == "-" else source
    number = 0
    try:
        if source != "-":
            require_regular(Path(source), "--prompts")
        stdin = Input(named, lambda: cast("BinaryIO", sys.stdin.buffer))
        for number, line in enumerate(byte_lines(stdin if source == "-" else Input.of(Path(source))), 1):
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            if text.strip():
                found.append(text.removesuffix("\n").removesuffix("\r"))
    except OSError as error:
        hint = near(Path(source)) if isinstance(error, FileNotFoundError) else ""
        raise RequestError(f"cannot read {source}: {error.strerror}{hint}") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"{named} is not UTF-8: byte {error.start:,} of line {number:,} does not decode") from None
    if not found:
        raise RequestError(f"{named} holds no prompt")
    return found
