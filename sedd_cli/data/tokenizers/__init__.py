"""Text to token ids and back: characters, bytes, text8, trained BPE, tiktoken's and the hub's tokenizers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from sedd_cli.data.tokenizers.base import FILE, FORMAT, Tokenizer, TrainedTokenizer
from sedd_cli.data.tokenizers.bpe import BPETokenizer
from sedd_cli.data.tokenizers.characters import ByteTokenizer, CharTokenizer, Text8Tokenizer
from sedd_cli.data.tokenizers.huggingface import HuggingFaceTokenizer
from sedd_cli.data.tokenizers.tiktoken import TiktokenTokenizer
from sedd_cli.errors import DamageError, RequestError, WorkError, first_line, shown
from sedd_cli.system.documents import TOKENIZER_BYTES, read_json

__all__ = ["Tokenizer", "holds_tokenizer", "load_tokenizer", "needs_training", "open_tokenizer", "train_tokenizer"]

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
    return spec.partition(":")[0] in TRAINED and not Path(spec).exists()


def train_tokenizer(spec: str, texts: Iterable[str]) -> Tokenizer:
    """Learn "char" or "bpe:N" from `texts` (read once, not kept). The same texts give the same tokenizer."""
    if not needs_training(spec):
        raise RequestError(f"tokenizer {spec!r} is not trained; those that are: char, bpe:N")
    return TRAINED[spec.partition(":")[0]].train(spec, texts)


def load_tokenizer(spec: str) -> Tokenizer:
    """A tokenizer that needs no training text: byte, text8, a tiktoken name (gpt2), a hub name, a file or folder.

    A folder may be one that `Tokenizer.save` wrote (a dataset, a checkpoint), or a downloaded hub tokenizer.
    Raises RequestError where it cannot be loaded.
    """
    path = Path(spec)
    if path.exists():
        return open_tokenizer(path) if holds_tokenizer(path) else HuggingFaceTokenizer.load(spec)
    if needs_training(spec):
        raise RequestError(
            f"tokenizer {spec!r} is trained on a corpus: prepare one with --tokenizer {spec}, "
            "or give the folder of a dataset or checkpoint that holds one"
        )
    if spec in FIXED:
        return FIXED[spec]()
    if looks_like_path(spec):
        raise RequestError(f"tokenizer {spec!r}: no such file or folder")
    return (TiktokenTokenizer if spec in TiktokenTokenizer.names() else HuggingFaceTokenizer).load(spec)


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
            raise RequestError(f"{file} has format {shown(record['format'])}; this version reads format {FORMAT}")
        tokenizer = KINDS[record["kind"]].from_state(record["spec"], record["state"])
        expected = record["fingerprint"]
    except (RequestError, WorkError, OSError):
        raise
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # of the libraries that read the state, their panics too
        raise DamageError(f"{file} is damaged: {type(error).__name__}: {first_line(error)}") from error
    if tokenizer.fingerprint != expected:
        raise DamageError(f"{file} was changed: its content does not fit its fingerprint {expected[:12]}…")
    return tokenizer


def looks_like_path(spec: str) -> bool:
    """Whether the user meant a file: it is absolute, starts with a dot, or ends like a tokenizer file."""
    return Path(spec).is_absolute() or spec.startswith((".", "~", os.sep)) or spec.endswith((".json", ".txt"))


def holds_tokenizer(path: Path) -> bool:
    """Whether `path` (a file or folder) holds what `Tokenizer.save` writes, rather than a hub tokenizer."""
    file = path / FILE if path.is_dir() else path
    if not file.is_file() or file.suffix != ".json":
        return False
    with file.open(encoding="utf-8", errors="replace") as lines:
        return lines.read(64).lstrip().startswith('{"format": ')
