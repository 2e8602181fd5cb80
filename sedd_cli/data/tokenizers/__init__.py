"""Text to token ids and back: characters, bytes, text8, trained BPE, tiktoken's and the hub's tokenizers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sedd_cli.data.tokenizers.base import FILE, FORMAT, Tokenizer, TrainedTokenizer
from sedd_cli.data.tokenizers.bpe import BPETokenizer
from sedd_cli.data.tokenizers.characters import ByteTokenizer, CharTokenizer, Text8Tokenizer
from sedd_cli.data.tokenizers.huggingface import HuggingFaceTokenizer
from sedd_cli.data.tokenizers.reindexed import ReindexedTokenizer
from sedd_cli.data.tokenizers.tiktoken import TiktokenTokenizer
from sedd_cli.errors import DamageError, RequestError, WorkError, displayed, first_line, nearest_name
from sedd_cli.system.documents import TOKENIZER_BYTES, is_plain_name, read_json
from sedd_cli.system.files import near

__all__ = [
    "Tokenizer", "check_tokenizer", "holds_tokenizer", "load_tokenizer", "needs_training", "open_tokenizer",
    "train_tokenizer",
]  # fmt: skip

#: Models of the hub whose id is a single word: a run or a tokenizer of this name does not hide them.
HUB_WORDS = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2")
TRAINED: dict[str, type[TrainedTokenizer]] = {kind.kind: kind for kind in (CharTokenizer, BPETokenizer)}
FIXED = {kind.kind: kind for kind in (ByteTokenizer, Text8Tokenizer)}
KINDS: dict[str, type[Tokenizer]] = {
    **TRAINED,
    **FIXED,
    TiktokenTokenizer.kind: TiktokenTokenizer,
    HuggingFaceTokenizer.kind: HuggingFaceTokenizer,
}


def needs_training(spec: str) -> bool:
    """Whether `spec` ("char", "bpe:N") names a tokenizer that is learnt from a corpus."""
    return spec.partition(":")[0] in TRAINED


def may_be_ordered(spec: str) -> bool:
    """Whether the ids of the tokenizer of this name may have an order. One in a file may, until it is read."""
    name = spec.partition(":")[0]
    return KINDS[name].order is not None if name in KINDS else not is_known(spec)


def is_known(spec: str) -> bool:
    """Whether `spec` is the name of a tokenizer that needs no file; ./gpt2 is the path of one of that name."""
    return needs_training(spec) or spec in FIXED or spec in TiktokenTokenizer.names()


def is_local(spec: str) -> bool:
    """Whether `spec` names a file or folder on this machine, and not the tokenizer of a known name or of the hub."""
    path = _of_run(Path(spec))
    if is_known(spec) or not path.exists():
        return False
    return looks_like_path(spec) or path.is_file() or "/" in spec or holds_some_tokenizer(path)


def gives_tokenizer(spec: str) -> bool:
    """Whether `spec` is a run or a folder on this machine that holds a tokenizer, as a model's does or does not."""
    return is_local(spec) and holds_some_tokenizer(_of_run(Path(spec)))


def train_tokenizer(spec: str, texts: Iterable[str]) -> Tokenizer:
    """Learn "char" or "bpe:N" from `texts` (read once, not kept). The same texts give the same tokenizer."""
    if not needs_training(spec):
        raise RequestError(f"tokenizer {spec!r} is not trained; those that are: char, bpe:N")
    return TRAINED[spec.partition(":")[0]].train(spec, texts)


def load_tokenizer(spec: str, eos: str | None = None) -> Tokenizer:
    """A tokenizer that needs no training text: byte, text8, a tiktoken name (gpt2), a hub name, a file or folder.

    Known names come first: a folder called gpt2 is named ./gpt2. A folder may be one that `Tokenizer.save` wrote (a
    dataset, a checkpoint), a run, or a downloaded hub tokenizer. eos: the token of a hub tokenizer that separates
    documents. Raises RequestError where it cannot be loaded.
    """
    tokenizer = _load_tokenizer(spec)
    return tokenizer if eos is None else tokenizer.separated_by(eos)


def check_tokenizer(spec: str, eos: str | None = None) -> None:
    """RequestError for a name that cannot be right.

    It is nearly that of a known tokenizer, and not known on the hub (such as t5-base); or it is that of a tokenizer to
    be learnt, with a wrong number, or with an --eos, which none of them takes.
    """
    if needs_training(spec):
        TRAINED[spec.partition(":")[0]].check(spec)
        if eos is not None:
            raise RequestError(f"--eos has no effect on {spec}, which has its own separator")
    if is_known(spec) or is_local(spec) or "/" in spec or looks_like_path(spec) or spec in HUB_WORDS:
        return
    if size := re.fullmatch(r"bpe[-_ ]?([0-9]+)", spec, re.IGNORECASE):
        raise RequestError(f"there is no tokenizer {spec!r}; did you mean 'bpe:{size[1]}'?")
    likely = [name for name in TiktokenTokenizer.names() if not name.endswith("_base")]
    if meant := nearest_name(spec, [*TRAINED, *FIXED, *likely], 0.75):
        raise RequestError(f"there is no tokenizer {spec!r}; did you mean {meant!r}?")


def _load_tokenizer(spec: str) -> Tokenizer:
    check_tokenizer(spec)
    path = _of_run(Path(spec))
    if is_local(spec):
        if holds_tokenizer(path):
            return open_tokenizer(path)
        if path.is_dir() and not holds_some_tokenizer(path):
            raise RequestError(f"tokenizer {spec!r}: the folder holds none (no tokenizer.json, vocab.txt or the like)")
        return HuggingFaceTokenizer.load(spec)
    if needs_training(spec):
        raise RequestError(
            f"tokenizer {spec!r} is trained on a corpus: prepare one with --tokenizer {spec}, "
            "or give the folder of a dataset or checkpoint that holds one"
        )
    if spec in FIXED:
        return FIXED[spec]()
    if looks_like_path(spec) or (Path(spec).parent.is_dir() and "/" in spec):
        raise RequestError(f"tokenizer {spec!r}: no such file or folder{near(Path(spec))}")
    return (TiktokenTokenizer if spec in TiktokenTokenizer.names() else HuggingFaceTokenizer).load(spec)


def _of_run(path: Path) -> Path:
    """The latest checkpoint of a run, which holds its tokenizer; other paths are returned as they are."""
    mark = path / "latest"
    if holds_tokenizer(path) or not mark.is_file():
        return path
    with mark.open(encoding="utf-8", errors="replace") as file:
        name = file.read(64).strip()
    checkpoint = path / "checkpoints" / name
    return checkpoint if is_plain_name(name) and holds_tokenizer(checkpoint) else path


def open_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer that `Tokenizer.save` wrote into `folder`. Needs no network.

    Raises RequestError where there is none, DamageError where its content does not fit its fingerprint.
    """
    file = folder / FILE if folder.is_dir() else folder
    if not file.is_file():
        raise RequestError(f"no tokenizer in {folder}: {FILE} is missing")
    try:
        record = read_json(file, TOKENIZER_BYTES)
        if record["format"] != FORMAT:
            raise RequestError(f"{file} has format {displayed(record['format'])}; this version reads format {FORMAT}")
        tokenizer = _restored(record)
        expected = str(record["fingerprint"])
    except (RequestError, WorkError, OSError):
        raise
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # of the libraries that read the state, their panics too
        raise DamageError(f"{file} is damaged: {type(error).__name__}: {first_line(error)}") from error
    if tokenizer.fingerprint != expected:
        raise DamageError(f"{file} was changed: its content does not fit its fingerprint {expected[:12]}…")
    return tokenizer


def _restored(record: dict[str, Any]) -> Tokenizer:
    """The tokenizer of what `save` wrote: its kind, spec and state."""
    kind, spec, state = record["kind"], record["spec"], record["state"]
    if kind == ReindexedTokenizer.kind:
        return ReindexedTokenizer.from_state(spec, {**state, "base": _restored(state["base"])})
    return KINDS[kind].from_state(spec, state)


def looks_like_path(spec: str) -> bool:
    """Whether the user meant a file: it is absolute, starts with a dot, or ends like a tokenizer file."""
    return Path(spec).is_absolute() or spec.startswith((".", "~", os.sep)) or spec.endswith((".json", ".txt"))


def holds_some_tokenizer(folder: Path) -> bool:
    """Whether a folder holds files of a tokenizer of any kind."""
    return any(next(folder.glob(pattern), None) for pattern in ("*token*", "vocab*", "*.model", "merges.txt"))


def holds_tokenizer(path: Path) -> bool:
    """Whether `path` (a file or folder) holds what `Tokenizer.save` writes, rather than a hub tokenizer."""
    file = path / FILE if path.is_dir() else path
    if not file.is_file() or file.suffix != ".json":
        return False
    with file.open(encoding="utf-8", errors="replace") as lines:
        return lines.read(64).lstrip().startswith('{"format": ')
