"""Tokenizer files of others: what could take memory or time without limit is tried in a process of its own first."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from sedd_cli.errors import DamageError, RequestError, WorkError, first_line
from sedd_cli.system.digests import digest
from sedd_cli.system.documents import TOKENIZER_BYTES, parse_json, read_json

T = TypeVar("T")

#: What loading a tokenizer and encoding short texts may take, in a process of its own.
TRIAL_BYTES, TRIAL_SECONDS = 2 << 30, 10
#: A text, and its ids decoded, may become this many times as long, and as long as GROWTH_FREE in any case.
GROWTH, GROWTH_FREE = 64, 10_000
#: The largest token id, the longest token, and the longest word that WordPiece looks up piece by piece.
LARGEST_ID, LONGEST_TOKEN, LONGEST_WORD = 1 << 24, 1 << 16, 10_000
#: Kinds of normalizers, pre-tokenizers, post-processors and decoders that neither backtrack nor grow a text further.
_BOUNDED = {
    "Sequence", "BertNormalizer", "Strip", "StripAccents", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Nmt",
    "ByteLevel", "BertPreTokenizer", "Whitespace", "WhitespaceSplit", "CharDelimiterSplit", "Metaspace", "Split",
    "Punctuation", "Digits", "UnicodeScripts", "FixedLength", "TemplateProcessing", "BertProcessing",
    "RobertaProcessing", "WordPiece", "BPEDecoder", "CTC", "ByteFallback", "Fuse", "Replace", "Prepend",
}  # fmt: skip

_TRIAL = """
import json, resource, sys
most, seconds, growth, free = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_AS, (most, most))
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from tokenizers import Tokenizer
text = sys.stdin.buffer.read().decode("utf-8")
engine = Tokenizer.from_str(text)
engine.no_padding()
engine.no_truncation()
engine.encode_special_tokens = True

def bounded(before, after):
    if after > growth * before + free:
        print("grows", before, after)
        sys.exit(0)

def spelled(value):
    waiting, found = [value], []
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            found += [v for k, v in one.items() if k in ("String", "pattern") and isinstance(v, str)]
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return found

def tried(run):
    if engine.normalizer is not None:
        bounded(len(run), len(engine.normalizer.normalize_str(run)))
    ids = engine.encode(run, add_special_tokens=False).ids
    bounded(4 * len(run), len(ids))
    bounded(len(run), len(engine.decode(ids)))

content = json.loads(text)
own = [one for part in ("normalizer", "pre_tokenizer", "decoder") for one in spelled(content.get(part))]
for run in ("a", "1", " ", "-", "\\n", "ab", "a ", "\\u4e2d", "\\u0301", "'s", "A", "_"):
    for end in ("", "!", "\\n", " x", "\\u00e9"):
        tried(run * 200 + end)
for run in own:
    tried(run * (1 + 200 // max(1, len(run))))
ids = sorted(engine.get_vocab().values())
for start in range(0, len(ids), 1000):
    some = ids[start : start + 1000]
    bounded(sum(len(engine.id_to_token(i) or "") for i in some), len(engine.decode(some, skip_special_tokens=False)))
print("fine")
"""

_tried: set[str] = set()


def checked(text: str, name: str) -> str:
    """The text of a tokenizer.json, if it is safe to load; RequestError or DamageError where it is not.

    Regular expressions may backtrack for ever, a map of characters may ask for gigabytes, and what replaces or adds
    text may multiply it: with one of them the file is loaded, and short texts are encoded, in a process of limited
    memory and time, which also measures how texts grow.
    """
    content = parse_json(text, name, tokenizer=True)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise RequestError(f"{name} is no tokenizer of the tokenizers library: it has no model")
    added = content.get("added_tokens") or []
    if not isinstance(added, list):
        raise RequestError(f"{name} is no tokenizer of the tokenizers library: its added_tokens are no list")
    for token in added:
        if isinstance(token, dict) and isinstance(token.get("id"), int) and token["id"] > LARGEST_ID:
            raise RequestError(f"{name} has a token of id {token['id']:,}, above {LARGEST_ID:,} (the limit LARGEST_ID)")
    vocab = content["model"].get("vocab")
    if isinstance(vocab, dict) and any(isinstance(i, int) and i > LARGEST_ID for i in vocab.values()):
        raise RequestError(f"{name} has a token id above {LARGEST_ID:,} (the limit LARGEST_ID)")
    for token in _tokens(content):
        if len(token) > LONGEST_TOKEN:
            raise RequestError(
                f"{name} has a token of {len(token):,} characters, above {LONGEST_TOKEN:,} (the limit LONGEST_TOKEN)"
            )
    longest = content["model"].get("max_input_chars_per_word")
    if isinstance(longest, int) and longest > LONGEST_WORD:
        raise RequestError(f"{name} looks up words of {longest:,} characters, above {LONGEST_WORD:,} (LONGEST_WORD)")
    parts = [content.get(part) for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder")]
    if any(_hazardous(part) for part in _nested(parts)) and (key := digest(text)) not in _tried:
        _try(text, name)
        _tried.add(key)
    return text


def _nested(value: Any) -> Iterator[dict[str, Any]]:
    """All mappings in a JSON value."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _tokens(content: dict[str, Any]) -> Iterator[str]:
    """The spelling of all tokens, where the file has the form of one."""
    vocab = content["model"].get("vocab")
    for one in vocab if isinstance(vocab, dict | list) else ():
        token = one[0] if isinstance(one, list) and one else one
        if isinstance(token, str):
            yield token
    for added in content.get("added_tokens") or []:
        if isinstance(added, dict) and isinstance(token := added.get("content"), str):
            yield token


def _hazardous(part: dict[str, Any]) -> bool:
    """Whether a part may backtrack, ask for memory, or grow a text, whatever kind it claims to be of."""
    if "Regex" in part or "precompiled_charsmap" in part or str(part.get("type", "Sequence")) not in _BOUNDED:
        return True
    if "prepend" in part:
        return not isinstance(part["prepend"], str) or len(part["prepend"]) > 1
    if "pattern" in part and "content" in part:
        pattern = part["pattern"]
        pattern = pattern.get("String") if isinstance(pattern, dict) else pattern
        texts = isinstance(pattern, str) and isinstance(part["content"], str)
        return not texts or not pattern or len(part["content"]) > len(pattern)
    return False


def _try(text: str, name: str) -> None:
    # -I: neither the working folder nor the user's environment is imported from
    command = [sys.executable, "-I", "-c", _TRIAL, *map(str, (TRIAL_BYTES, TRIAL_SECONDS, GROWTH, GROWTH_FREE))]
    settings = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        raw = text.encode("utf-8", "replace")
        done = subprocess.run(
            command, input=raw, capture_output=True, timeout=2 * TRIAL_SECONDS, env=settings, check=False
        )
    except subprocess.TimeoutExpired:
        done = None
    if done is None or done.returncode < 0:
        raise RequestError(
            f"{name} is refused: loading it and encoding short texts takes more than {TRIAL_SECONDS} s or "
            f"{TRIAL_BYTES >> 30} GiB (TRIAL_SECONDS, TRIAL_BYTES); its patterns, its map of characters or what "
            "it replaces have no bound"
        )
    if done.stdout.startswith(b"grows"):
        before, after = map(int, done.stdout.split()[1:3])
        raise RequestError(
            f"{name} is refused: it turns {before:,} characters into {after:,}, more than {GROWTH} times as many and "
            f"{GROWTH_FREE:,} (the limits GROWTH, GROWTH_FREE)"
        )
    if done.returncode or b"fine" not in done.stdout:
        reason = (done.stderr.decode("utf-8", "replace").strip().split("\n") or [""])[-1][:200]
        raise RequestError(f"{name} cannot be loaded: {reason}")


#: For messages about files that are none.
KINDS_OF_FILES = "a file of a tokenizer is a tokenizer.json or a vocab.txt"


def check_size(path: Path) -> None:
    """RequestError for a file that is too large."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from None
    if size > TOKENIZER_BYTES:
        raise RequestError(
            f"{path} is larger than {TOKENIZER_BYTES >> 20} MiB (the limit TOKENIZER_BYTES): {KINDS_OF_FILES}"
        )


def checked_file(path: Path) -> str:
    """`checked` of a file."""
    check_size(path)
    try:
        return checked(path.read_text(encoding="utf-8-sig"), str(path))
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8: byte {error.start:,} does not decode; {KINDS_OF_FILES}") from None


def loaded(make: Callable[[], T], name: str) -> T:
    """What `make` returns; RequestError in one line for whatever a library raises, a panic too."""
    try:
        return make()
    except (RequestError, WorkError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise RequestError(f"tokenizer {name} cannot be loaded: {first_line(error)}") from None


def named_end(folder: Path) -> str | None:
    """The end-of-text token that the files beside a tokenizer.json name."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        try:
            found = read_json(folder / name, TOKENIZER_BYTES)["eos_token"]
        except (OSError, DamageError, RequestError, KeyError, TypeError):
            continue
        found = found.get("content") if isinstance(found, dict) else found
        if isinstance(found, str):
            return found
    return None
