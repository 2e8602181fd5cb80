"""What `sample` and `infill` share: load, generate, show, store."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Any

from sedd_cli.cli.choose import choose_model
from sedd_cli.cli.judging import judged, load_judge
from sedd_cli.cli.output import check_writable
from sedd_cli.cli.view import View
from sedd_cli.errors import RequestError, WorkError


def run_generation(
    request: dict[str, Any],
    out: Path | None,
    model: str | None,
    tokenizer: str | None,
    device: str,
    precision: str,
    json: bool,
    quiet: bool,
    judge: str | None = None,
    self_bleu: bool = False,
) -> None:
    """Generate as requested; samples go to the screen, to `out`, and into the JSON document, perhaps judged."""
    from sedd_cli.runs.events import Sampled
    from sedd_cli.runs.generate import GenerateOptions, as_json, generate

    view = View(json, quiet)
    if self_bleu and judge is None:
        raise RequestError("--self-bleu goes with --judge")
    options = GenerateOptions(**request)
    if out is not None:
        check_writable(out)
    chosen = choose_model(view, model, device, precision, tokenizer)
    causal = load_judge(view, judge, device) if judge is not None else None  # before the work: it may be out of reach
    sampled = [event for event in view.follow(generate(chosen, options)) if isinstance(event, Sampled)]
    samples = [as_json(event) for event in sampled]
    if out is not None:
        try:
            out.write_text("".join(json_module.dumps(s, ensure_ascii=False) + "\n" for s in samples), encoding="utf-8")
        except OSError as error:
            raise WorkError(f"cannot write {out}: {error.strerror}") from None
        view.say(f"wrote {out}", "dim")
    document = {"model": chosen.source, "request": request, "samples": samples}
    if causal is not None:
        from sedd_cli.runs.judge import Samples

        document["judged"] = judged(view, Samples.of(sampled, chosen.tokenizer), causal, self_bleu)
    view.document(document)
