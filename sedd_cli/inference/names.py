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
    """What a filling is called: its number; of several jobs, what its job is called, and the number where it is > 0.

    job: what the results of several templates say of their job. It is called by its id, by its line in a file, or by
    the number of its template among the arguments.
    """
    if job is None:
        return f"infill {index}"
    if (named := job.get("id")) is not None:
        text = id_name(named)
    else:
        text = f"line {job['line']}" if "line" in job else f"template {job['argument']}"
    return text + (f", infill {index}" if index else "")


def id_name(named: Any) -> str:
    """An id in one line: a text as it is, any other value as JSON."""
    text = named if isinstance(named, str) else json_text(named)
    return shortened(" ".join(text.split()), ID)


def name_of(sample: Sampled) -> str:
    """What a sample or filling is called."""
    if isinstance(sample, Filled):
        return filling_name(sample.index, sample.job)
    return sample_name(sample.index, sample.prompt)
