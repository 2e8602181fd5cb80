"""Tokenizer files of others: what could take memory or time without limit is tried in a process of its own first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from sedd_cli.errors import DamageError, RequestError, first_line
from sedd_cli.system.digests import digest
from sedd_cli.system.documents import TOKENIZER_BYTES, parse_json

T = TypeVar("T")

#: What loading a tokenizer and encoding short texts may take, in a process of its own.
TRIAL_BYTES, TRIAL_SECONDS = 2 << 30, 10
#: The largest token id, and the longest word that WordPiece looks up piece by piece.
LARGEST_ID, LONGEST_WORD = 1 << 24, 10_000

_TRIAL = """
import resource, sys
most = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (most, most))
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[2]),) * 2)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from tokenizers import Tokenizer
engine = Tokenizer.from_str(sys.stdin.buffer.read().decode("utf-8"))
engine.no_padding()
engine.no_truncation()
for run in ("a", "1", " ", "-", "\\n", "ab", "a ", "\\u4e2d", "\\u0301", "'s", "A", "_"):
    for end in ("", "!", "\\n", " x", "\\u00e9"):
        engine.decode(engine.encode(run * 200 + end, add_special_tokens=False).ids)
print("fine")
"""

_tried: set[str] = set()


def checked(text: str, name: str) -> str:
    """The text of a tokenizer.json, if it is safe to load; RequestError or DamageError says why it is not.

    Regular expressions may backtrack for ever, and a map of characters may ask for gigabytes: with one of them the
    file is loaded, and short texts are encoded, in a process of limited memory and time.
    """
    content = parse_json(text, name)
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


def _hazardous(part: dict[str, Any]) -> bool:
    return "Regex" in part or "precompiled_charsmap" in part


def _try(text: str, name: str) -> None:
    # -I: neither the working folder nor the user's environment is imported from
    command = [sys.executable, "-I", "-c", _TRIAL, str(TRIAL_BYTES), str(TRIAL_SECONDS)]
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
            f"{TRIAL_BYTES >> 30} GiB (TRIAL_SECONDS, TRIAL_BYTES); its patterns or its map of characters have no bound"
        )
    if done.returncode or b"fine" not in done.stdout:
        reason = (done.stderr.decode("utf-8", "replace").strip().split("\n") or [""])[-1][:200]
        raise RequestError(f"{name} cannot be loaded: {reason}")


def checked_file(path: Path) -> str:
    """`checked` of a file."""
    try:
        if path.stat().st_size > TOKENIZER_BYTES:
            raise RequestError(f"{path} is larger than {TOKENIZER_BYTES >> 20} MiB (the limit TOKENIZER_BYTES)")
        return checked(path.read_text(encoding="utf-8-sig"), str(path))
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8: byte {error.start:,} does not decode") from None


def loaded(make: Callable[[], T], name: str) -> T:
    """What `make` returns; RequestError in one line for whatever a library raises, a panic too."""
    try:
        return make()
    except (RequestError, DamageError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise RequestError(f"tokenizer {name} cannot be loaded: {first_line(error)}") from None


def named_end(folder: Path) -> str | None:
    """The end-of-text token that the files beside a tokenizer.json name."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8"))["eos_token"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        found = found.get("content") if isinstance(found, dict) else found
        if isinstance(found, str):
            return found
    return None
