"""What `sample` and `infill` share: load, generate, show, store."""

from __future__ import annotations

import json as json_module
import os
from pathlib import Path
from typing import Any

from sedd_cli.cli.choose import choose_model
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
) -> None:
    """Generate as requested; samples go to the screen, to `out`, and into the JSON document."""
    from sedd_cli.runs.events import Sampled
    from sedd_cli.runs.generate import GenerateOptions, as_json, generate

    view = View(json, quiet)
    options = GenerateOptions(**request)
    if out is not None and not out.parent.is_dir():
        raise RequestError(f"cannot write {out}: the folder {out.parent} does not exist")
    if out is not None and out.is_dir():
        raise RequestError(f"cannot write {out}: it is a folder")
    if out is not None and not os.access(out if out.exists() else out.parent, os.W_OK):
        raise RequestError(f"cannot write {out}: permission denied")
    chosen = choose_model(view, model, device, precision, tokenizer)
    samples = [as_json(event) for event in view.follow(generate(chosen, options)) if isinstance(event, Sampled)]
    if out is not None:
        try:
            out.write_text("".join(json_module.dumps(s, ensure_ascii=False) + "\n" for s in samples), encoding="utf-8")
        except OSError as error:
            raise WorkError(f"cannot write {out}: {error.strerror}") from None
        view.say(f"wrote {out}", "dim")
    view.document({"model": chosen.source, "request": request, "samples": samples})
