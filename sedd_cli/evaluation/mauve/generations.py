"""Completions of every reference, kept as they come."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sedd_cli import __version__
from sedd_cli.errors import WorkError
from sedd_cli.evaluation.mauve.options import MauveOptions
from sedd_cli.evaluation.mauve.references import References
from sedd_cli.evaluation.mauve.writers import Writer
from sedd_cli.system.digests import digest
from sedd_cli.system.events import Event, Note, Progress
from sedd_cli.system.files import sync
from sedd_cli.system.home import home
from sedd_cli.system.json_lines import json_lines, read_json_lines
from sedd_cli.system.locks import file_lock


def generations(
    writer: Writer, references: References, options: MauveOptions
) -> Generator[Event, None, list[dict[str, Any]]]:
    """{"number", "tokens", "nfe", "text"} of every generation, read from the work folder as far as they are there.

    Generation j of reference i has number i · generations + j, and depends on the seed, its number and its
    reference alone.
    """
    choices = [options.mode, options.prompt, options.new, options.generations, options.seed]
    everything = [
        __version__,
        writer.identity(),
        writer.precision,
        writer.sampler_facts,
        references.fingerprint,
        choices,
    ]
    path = home() / "mauve" / digest(everything) / "generations.jsonl"
    total = options.total
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(path.with_suffix(".lock"), f"another process is writing {path}"):
        made = _take_up(path, total, options.batch)
        if made:
            yield Note(f"going on behind {len(made):,} of {total:,} generations in {path}")
        else:
            yield Note(f"generations are kept in {path}")
        for start in range(len(made), total, options.batch):
            numbers = torch.arange(start, min(start + options.batch, total))
            rows = torch.tensor([references.rows[n // options.generations] for n in numbers.tolist()])
            tokens, nfe = yield from writer.write(rows, numbers)
            _check(tokens, rows, options.where)
            fresh = [
                {"number": number, "tokens": row, "nfe": evaluations, "text": writer.decode(row)}
                for number, row, evaluations in zip(numbers.tolist(), tokens.tolist(), nfe.tolist(), strict=True)
            ]
            try:
                with path.open("a", encoding="utf-8", newline="\n") as stream:
                    stream.write(json_lines(fresh))
                    sync(stream)
            except OSError as error:
                raise WorkError(f"cannot write {path}: {error.strerror}; what is whole in it is kept") from None
            made += fresh
        yield Progress("generating", total, total, "texts")
    if wrong := [one["number"] for one in made if len(one["tokens"]) != options.length]:
        raise WorkError(f"generation {wrong[0]} in {path} has not {options.length} tokens: delete the file")
    return made


def _check(tokens: Tensor, rows: Tensor, where: Tensor) -> None:
    """WorkError unless generations [B, L] are as long as their references and keep what was given."""
    if tokens.shape != rows.shape:
        raise WorkError(f"generations of {tokens.shape[1]} tokens, {rows.shape[1]} were asked for")
    if not torch.equal(tokens[:, where], rows[:, where]):
        raise WorkError("a given token was lost")


def _take_up(path: Path, total: int, batch: int) -> list[dict[str, Any]]:
    """The generations in the file up to the last whole batch; what stands behind, a torn line too, is cut off."""
    lines = [line for line in read_json_lines(path) if line.ended]
    made: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:total]):
        if line.record is None or line.record.get("number") != number:
            break
        made.append(line.record)
    if len(made) < total:
        made = made[: len(made) - len(made) % batch]
    if path.is_file():
        os.truncate(path, sum(len(line.raw) + 1 for line in lines[: len(made)]))
    return made
