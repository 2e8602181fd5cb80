"""`sedd judge`, and the judgement of `sedd sample --judge`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sedd_cli.cli import options as o
from sedd_cli.cli.choose import require_one_process
from sedd_cli.cli.view.quality import comparison_table, judgement_table, verdict
from sedd_cli.cli.view.view import View
from sedd_cli.system.software import recorded

if TYPE_CHECKING:
    from sedd_cli.data.shards import Dataset
    from sedd_cli.evaluation.judge import Samples
    from sedd_cli.evaluation.scorers.scorer import Scorer


def judge(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines of `sedd sample --out`, or a text a line.")],
    judge: o.JudgeModel,
    self_bleu: o.SelfBleu = None,
    reference: o.Reference = None,
    seed: o.Seed = 0,
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

    Beside them: real text, and controls without a network (a repeated phrase, unigram and 5-gram draws). Samples of
    lower entropy than real text are marked. --seed is that of the controls.

    Example: sedd judge samples.jsonl --judge gpt2-large
    """
    from sedd_cli.cli.inputs import check_written
    from sedd_cli.data.tokenizers import load_tokenizer
    from sedd_cli.evaluation.judge import Samples

    view = View(json, quiet)
    require_one_process("judge")
    check_written({"--out": out}, {"the samples": file})
    samples = Samples.read(file, load_tokenizer(tokenizer) if tokenizer else None, format)
    reader = load_judge(view, judge, device)
    corpus = reference_corpus(view, reference, tokenizer, reader)
    found = recorded({"file": str(file), **judged(view, samples, reader, self_bleu, corpus, seed)})
    view.write(found, out)
    view.document(found)


def load_judge(view: View, name: str, device: str) -> Scorer:
    """Load the judge and describe it in one line."""
    from sedd_cli.evaluation.scorers.scorer import load_scorer

    reader = load_scorer(name, device)
    view.say(f"judge {reader.describe()}", "dim")
    return reader


def reference_corpus(view: View, name: str | None, tokenizer: str | None, *trained: Any) -> Dataset | None:
    """The named corpus, else that of the first of some models that was trained on a corpus that is prepared here."""
    from sedd_cli.evaluation.controls import named_corpus, own_corpus

    if name is not None:
        return view.run(named_corpus(name, tokenizer, *trained))
    return next((corpus for model in trained if (corpus := own_corpus(model)) is not None), None)


def judged(
    view: View, samples: Samples, reader: Scorer, self_bleu: bool | None, corpus: Dataset | None, seed: int,
    interrupted: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Judge samples beside real text and controls from a corpus, and show the result; its document.

    interrupted: shown after Ctrl-C.
    """
    from sedd_cli.evaluation.controls import comparable, compare
    from sedd_cli.evaluation.judge import judge as job

    beside = None
    if corpus is not None:
        samples = comparable(samples, corpus)
        beside = view.run(compare(reader, samples, corpus, seed), interrupted)
    result = view.run(job(reader, samples, self_bleu is not False), interrupted)
    view.result(judgement_table(result))
    document = result.to_dict()
    if beside is not None:
        view.result(comparison_table(result, beside))
        document |= {"marks": list(beside.marks(result)), "comparison": beside.to_dict()}
    for line in verdict(result, beside):
        view.say(line, "yellow")
    return document
