"""Real texts in the model's ids, all of one length."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sedd_cli.data.corpora import CORPORA
from sedd_cli.data.folders import prepared
from sedd_cli.data.formats import format_of, read_samples
from sedd_cli.data.shards import open_dataset
from sedd_cli.errors import RequestError, shell_command
from sedd_cli.evaluation.mauve.options import MauveOptions
from sedd_cli.evaluation.mauve.writers import Writer
from sedd_cli.evaluation.scorers.scorer import Scorer
from sedd_cli.system.digests import digest

#: Texts encoded at once.
TEXTS = 256


@dataclass(frozen=True)
class References:
    """Ids of real texts, and how many were skipped as too short or not expressible in the model's tokens."""

    rows: list[list[int]]
    split: str | None
    short: int
    unknown: int
    #: Which of several prepared corpora of one name was taken.
    note: str = field(default="", compare=False)

    @property
    def fingerprint(self) -> str:
        """sha256 over the ids."""
        return digest(self.rows)


def read_references(writer: Writer, options: MauveOptions) -> References:
    """The first `count` references that are long enough; RequestError if there are fewer."""
    path = Path(options.references)
    note = ""
    if path.exists() and options.references not in CORPORA:  # ./pydocs names a file or folder
        for option, value in (("--split", options.split), ("--windows", options.windows)):
            if value:
                raise RequestError(f"{option} belongs to a prepared corpus, {path} is a file")
        split, found = None, _of_file(writer, path)
    else:
        split, found, note = _of_corpus(writer, options)
    rows, short, unknown = [], 0, 0
    for ids in found:
        row = ids[: options.length]
        if len(row) < options.length:
            short += 1
        elif writer.unknown is not None and writer.unknown in row:
            unknown += 1
        else:
            rows.append(row)
        if len(rows) == options.count:
            return References(rows, split, short, unknown, note)
    raise RequestError(
        f"{options.references} has {len(rows)} usable references of at least {options.length} tokens "
        f"({short} are shorter{f', {unknown} not expressible' if unknown else ''}), {options.count} were requested: "
        "take fewer (-n), or shorter ones (--prompt, --new)"
        + (", or the text of a corpus end to end (--windows)" if split and not options.windows else "")
    )


def _of_file(writer: Writer, path: Path) -> Iterator[list[int]]:
    if path.is_dir():
        raise RequestError(f"references must be a file or the name of a prepared corpus, {path} is a folder")
    if format_of(path.name) == "text":
        return encoded(writer, (record["text"] for _, record in read_samples(path)))
    return _of_records(writer, path)


def _of_records(writer: Writer, path: Path) -> Iterator[list[int]]:
    for where, record in read_samples(path):
        if isinstance(text := record.get("text"), str):
            yield from writer.encode([text])
            continue
        ids = record["tokens"]
        if ids and not 0 <= min(ids) <= max(ids) < writer.vocab_size:
            raise RequestError(f"{where}: token ids must lie in [0, {writer.vocab_size})")
        yield ids


def _of_corpus(writer: Writer, options: MauveOptions) -> tuple[str, Iterator[list[int]], str]:
    """The split, and the ids of its documents without separators, encoded again where another tokenizer made them."""
    name = options.references
    found = [(folder, manifest) for folder, manifest in prepared() if manifest.corpus == name]
    if not found:
        raise RequestError(f"references {name}: no such file, and no prepared corpus of that name ({_prepare(name)})")
    ours = [folder for folder, manifest in found if manifest.tokenizer_fingerprint == writer.tokenizer_fingerprint]
    dataset = open_dataset((ours or [folder for folder, _ in found])[0])
    note = f"{len(found)} prepared texts are called {name}: taking {dataset.folder}" if len(found) > 1 else ""
    split = dataset.split(options.split or dataset.default_split)
    if not ours and split.info.unknown:
        raise RequestError(
            f"{name} is not prepared in the model's tokens, and those of {dataset.manifest.tokenizer} lose "
            f"{split.info.unknown:,} characters: prepare it with the model's tokenizer (sedd prepare --tokenizer)"
        )
    if options.windows:
        if not ours:
            raise RequestError(f"--windows needs {name} in the model's tokens: {_prepare(name)} --tokenizer …")
        starts = range(0, split.tokens - options.length + 1, options.length)
        return split.name, (split.read(a, a + options.length).tolist() for a in starts), note
    ends = split.document_ends().tolist()
    spans = zip([0, *ends], [end - (dataset.tokenizer.eos is not None) for end in ends], strict=False)
    if ours:
        return split.name, (split.read(a, max(a, min(b, a + options.length))).tolist() for a, b in spans), note
    texts = (dataset.tokenizer.decode(split.read(a, max(a, b)).tolist()) for a, b in spans)
    return split.name, encoded(writer, texts), note


def _prepare(name: str) -> str:
    """The command that prepares a corpus, for pasting."""
    return shell_command(["sedd", "prepare", name])


def encoded(holder: Writer | Scorer, texts: Iterable[str]) -> Iterator[list[int]]:
    """Ids of each text, encoded a few at a time."""
    texts = iter(texts)
    while group := list(itertools.islice(texts, TEXTS)):
        yield from holder.encode(group)
