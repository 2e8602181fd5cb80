"""`sedd judge`, and the judgement of `sedd sample --judge`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sedd_cli.cli import options as o
from sedd_cli.cli.choose import require_one_process
from sedd_cli.cli.view.quality import judgement_table
from sedd_cli.cli.view.view import View
from sedd_cli.system.software import recorded

if TYPE_CHECKING:
    from sedd_cli.evaluation.judge import JudgeResult, Samples
    from sedd_cli.evaluation.scorers.scorer import Scorer


def judge(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines of `sedd sample --out`, or a text a line.")],
    judge: o.JudgeModel,
    self_bleu: o.SelfBleu = False,
    format: Annotated[
        str, typer.Option(metavar="NAME", help="text, jsonl, json, csv, tsv, parquet; default: by the ending.")
    ] = "auto",
    out: o.OutDocument = None,
    tokenizer: o.Tokenizer = None,
    device: o.Device = "auto",
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Measure generative perplexity and diversity of the samples in a file.

    Example: sedd judge samples.jsonl --judge gpt2-large --self-bleu
    """
    from sedd_cli.data.tokenizers import load_tokenizer
    from sedd_cli.evaluation.judge import Samples
    from sedd_cli.system.outputs import check_outputs

    view = View(json, quiet)
    require_one_process("judge")
    check_outputs({"--out": out}, {"the samples": file, "--judge": judge, "--tokenizer": tokenizer})
    samples = Samples.read(file, load_tokenizer(tokenizer) if tokenizer else None, format)
    result = judged(view, samples, load_judge(view, judge, device), self_bleu)
    found = recorded({"file": str(file), **result.to_dict()})
    view.write(found, out)
    view.document(found)


def load_judge(view: View, name: str, device: str) -> Scorer:
    """Load the judge and describe it in one line."""
    from sedd_cli.evaluation.scorers.scorer import load_scorer

    reader = load_scorer(name, device)
    view.say(f"judge {reader.describe()}", "dim")
    return reader


def judged(view: View, samples: Samples, reader: Scorer, self_bleu: bool) -> JudgeResult:
    """Judge samples and show the result."""
    from sedd_cli.evaluation.judge import judge as job

    result = view.run(job(reader, samples, self_bleu))
    view.result(judgement_table(result))
    return result
