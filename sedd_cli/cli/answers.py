"""`sedd eval --protocol llada`: likelihoods of answers given their prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from sedd_cli.cli.choose import choose_model, model_files
from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError, plus_minus
from sedd_cli.system.software import recorded

if TYPE_CHECKING:
    from sedd_cli.cli.option_groups import ModelOptions

PROTOCOL = "llada"


def evaluate_answers(
    view: View, using: ModelOptions, protocols: list[str], local: list[str], out: Path | None, seed: int
) -> None:
    """Estimate log p(answer | prompt) of the pairs in a file, by LLaDA's protocol and over the tokens alone."""
    from sedd_cli.cli.inputs import check_written
    from sedd_cli.evaluation.likelihood.answers import read_pairs, score_answers

    if protocols != [PROTOCOL] or len(local) != 1:
        raise RequestError(
            f"protocol {PROTOCOL!r} stands alone, with --from FILE: lines of JSON with the texts prompt and answer"
        )
    file = Path(local[0])
    pairs = read_pairs(file)
    check_written({"--out": out}, {"--model": model_files(using.model)})
    precision = "fp32" if using.precision == "auto" else using.precision
    model = choose_model(view, replace(using, precision=precision).choice)
    result = recorded(view.run(score_answers(model, pairs, seed, file)).to_dict())
    view.result(answers_table(result))
    view.write(result, out)
    view.document(result)


def answers_table(result: dict[str, Any]) -> Table:
    """A row for each answer: log p in nats by LLaDA's estimate, and over the tokens alone."""
    table = Table("answer", title="log p(answer | prompt), nats", header_style="bold")
    for name in ("tokens", PROTOCOL, "tokens alone"):
        table.add_column(name, justify="right")
    for number, found in enumerate(result["answers"], 1):
        each = (plus_minus(one["log_p"], one["error"], 3) for one in (found[PROTOCOL], found["tokens"]))
        table.add_row(str(number), str(found[PROTOCOL]["tokens"]), *each)
    return table
