"""`sedd infill`."""

from __future__ import annotations

from typing import Annotated

import typer

from sedd_cli.cli import options as o
from sedd_cli.cli.render import run_generation
from sedd_cli.cli.sample import Count, Length, Normalized, NoThinning, Out, SamplerName, Steps
from sedd_cli.errors import RequestError


def infill(
    prefix: Annotated[str, typer.Option(help="Text the sequence begins with.")] = "",
    suffix: Annotated[str, typer.Option(help="Text the sequence ends with.")] = "",
    n: Count = 1,
    length: Length = None,
    steps: Steps = None,
    sampler: SamplerName = None,
    normalized: Normalized = False,
    no_thinning: NoThinning = False,
    seed: o.Seed = 0,
    out: Out = None,
    model: o.ModelOption = None,
    tokenizer: o.Tokenizer = None,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Fill the gap between a prefix and a suffix; both come back as they are.

    Example: sedd infill --prefix "Return the" --suffix "of the list." --length 32
    """
    if not prefix and not suffix:
        raise RequestError("nothing is given: name --prefix, --suffix or both (sedd sample draws without a prompt)")
    request = {"prefix": prefix, "suffix": suffix, "n": n, "length": length}
    request |= {"steps": steps, "sampler": sampler, "normalized": normalized, "thinning": not no_thinning, "seed": seed}
    run_generation(request, out, model, tokenizer, device, precision, json, quiet)
