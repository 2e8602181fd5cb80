"""`sedd eval --cloze`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sedd_cli.cli.choose import choose_any, own_corpus, places_of, source_of
from sedd_cli.cli.judging import alone
from sedd_cli.cli.view.results import cloze_table
from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError

if TYPE_CHECKING:
    from sedd_cli.evaluation.cloze.job import ClozeOptions


def run_cloze(
    view: View, options: Callable[[], ClozeOptions], datasets: list[str], local: list[str], model: str | None,
    tokenizer: str | None, device: str, precision: str, out: Path | None,
) -> None:  # fmt: skip
    """Mask words of a text, show how many are restored, and write it down."""
    from sedd_cli.evaluation.cloze.job import cloze
    from sedd_cli.evaluation.likelihood.texts import Text
    from sedd_cli.system.events import Finished
    from sedd_cli.system.files import write_whole
    from sedd_cli.system.outputs import check_outputs

    asked, places = options(), places_of(datasets, local)
    alone("--cloze")
    if len(datasets) > 1:
        raise RequestError(f"--cloze masks words of one text, found {len(datasets)} of --dataset")
    reads = {"--dataset": datasets, "--from": local, "--model": source_of(model), "--tokenizer": tokenizer}
    check_outputs({"--out": out}, reads)
    # whether bf16 moves a bound can be measured on the way, whether it moves samples cannot
    chosen = choose_any(view, model, device, "fp32" if precision == "auto" else precision, tokenizer)
    name = datasets[0] if datasets else own_corpus(chosen)
    check_outputs({"--out": out}, {"the model's own corpus": name})
    events = view.follow(cloze(chosen, Text(name, places.get(name)), asked))
    found = next(event.result for event in events if isinstance(event, Finished))
    view.result(cloze_table(found))
    if out is not None:
        write_whole(out, json.dumps(found, indent=1) + "\n")
        view.say(f"wrote {out}", "dim")
    view.document(found)
