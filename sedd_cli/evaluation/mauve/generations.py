"""Texts generated from every reference, stored batch by batch."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from sedd_cli import __version__
from sedd_cli.errors import WorkError
from sedd_cli.evaluation.mauve.options import MauveOptions
from sedd_cli.evaluation.mauve.references import References
from sedd_cli.evaluation.mauve.writers import Writer
from sedd_cli.inference.sampling import SAMPLES_VERSION
from sedd_cli.system.digests import digest
from sedd_cli.system.events import Event, Note, Progress, Warn
from sedd_cli.system.files import sync
from sedd_cli.system.home import home
from sedd_cli.system.json_lines import json_lines, read_json_lines
from sedd_cli.system.locks import file_lock


@dataclass(frozen=True)
class Generation:
    """A generated text. Number i · generations + j is the j-th from reference i."""

    number: int
    tokens: list[int]
    nfe: int
    text: str


@dataclass
class Keeping:
    """Whether results are kept in the caches. After the first write that fails nothing more is written."""

    on: bool = True

    def stop(self, path: Path, error: OSError) -> Iterator[Warn]:
        """Keep nothing more; the warning that says so."""
        self.on = False
        yield Warn(f"what is computed from here on is not kept: cannot write {path}: {error.strerror}")


def generations(
    writer: Writer, references: References, options: MauveOptions, keeping: Keeping
) -> Generator[Event, None, list[Generation]]:
    """Every generation; those that the cache has are read from it.

    A generation depends only on the seed, its number and its reference.
    """
    choices = [options.mode, options.prompt, options.new, options.generations, options.seed]
    everything = [
        __version__,
        SAMPLES_VERSION,
        writer.identity(),
        writer.precision,
        writer.sampler_facts,
        references.fingerprint,
        choices,
    ]
    path = home() / "mauve" / digest(everything) / "generations.jsonl"
    total = options.total
    with ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(file_lock(path.with_suffix(".lock"), f"another process is writing {path}"))
            made = _resume(path, total, options.batch)
        except OSError as error:
            yield from keeping.stop(path, error)
            made, _ = _stored(path, total, options.batch)
        if made:
            yield Note(f"resuming after {len(made):,} of {total:,} generations in {path}")
        elif keeping.on:
            yield Note(f"generations are kept in {path}")
        for start in range(len(made), total, options.batch):
            numbers = torch.arange(start, min(start + options.batch, total))
            rows = torch.tensor([references.rows[n // options.generations] for n in numbers.tolist()])
            tokens, nfe = yield from writer.write(rows, numbers)
            _check(tokens, rows, options.where)
            fresh = [
                Generation(number, row, evaluations, writer.decode(row))
                for number, row, evaluations in zip(numbers.tolist(), tokens.tolist(), nfe.tolist(), strict=True)
            ]
            try:
                if keeping.on:
                    with path.open("a", encoding="utf-8", newline="\n") as stream:
                        stream.write(json_lines(map(asdict, fresh)))
                        sync(stream)
            except OSError as error:
                yield from keeping.stop(path, error)
            made += fresh
        yield Progress("generating", total, total, "texts")
    if wrong := [one.number for one in made if len(one.tokens) != options.length]:
        raise WorkError(f"generation {wrong[0]} in {path} has not {options.length} tokens: delete the file")
    return made


def _check(tokens: Tensor, rows: Tensor, where: Tensor) -> None:
    """WorkError unless generations [B, L] are as long as their references and keep the given tokens."""
    if tokens.shape != rows.shape:
        raise WorkError(f"generations of {tokens.shape[1]} tokens, {rows.shape[1]} were requested")
    if not torch.equal(tokens[:, where], rows[:, where]):
        raise WorkError("a given token was lost")


def _resume(path: Path, total: int, batch: int) -> list[Generation]:
    """The generations that are stored; the file is truncated after them."""
    made, size = _stored(path, total, batch)
    if path.is_file():
        os.truncate(path, size)
    return made


def _stored(path: Path, total: int, batch: int) -> tuple[list[Generation], int]:
    """The generations in the file up to the last whole batch, and their bytes."""
    lines = [line for line in read_json_lines(path) if line.ended]
    made: list[Generation] = []
    for number, line in enumerate(lines[:total]):
        try:
            one = Generation(**(line.record or {}))
        except TypeError:
            break
        if one.number != number:
            break
        made.append(one)
    if len(made) < total:
        made = made[: len(made) - len(made) % batch]
    return made, sum(len(line.raw) + 1 for line in lines[: len(made)])
