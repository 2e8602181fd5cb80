"""What samples and fillings are called where they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sedd_cli.errors import shortened
from sedd_cli.system.events import Filled, Sampled
from sedd_cli.system.json_lines import json_text

#: Most characters of a prompt, and of an id.
PROMPT, ID = 24, 60


def sample_name(index: int, prompt: str | None = None) -> str:
    """What a sample is called: its number, and the beginning of its prompt."""
    if prompt is None:
        return f"sample {index}"
    begun = " ".join(prompt.split())
    if len(begun) > PROMPT:  # cut between words
        begun = begun[: PROMPT + 1].rpartition(" ")[0] or begun[:PROMPT]
        return f"sample {index} of {begun + '…'!r}"
    return f"sample {index} of {begun!r}"


def filling_name(index: int, job: Mapping[str, Any] | None = None) -> str:
    """What a filling is called: its number; of a batch, the id of its job, or its line, and the number where it is > 0.

    job: what the results of a batch say of their job.
    """
    if job is None:
        return f"infill {index}"
    named = job.get("id")
    text = f"line {job['line']}" if named is None else named if isinstance(named, str) else json_text(named)
    return shortened(" ".join(text.split()), ID) + (f", infill {index}" if index else "")


def name_of(sample: Sampled) -> str:
    """What a sample or filling is called."""
    if isinstance(sample, Filled):
        return filling_name(sample.index, sample.job)
    return sample_name(sample.index, sample.prompt)
