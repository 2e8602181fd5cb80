"""Commands as messages show them, quoted for pasting into a shell: every command and word is spelled here."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path


def quoted(word: str | Path) -> str:
    """A word for a shell; one with an apostrophe in double quotes, where that leaves it readable and whole."""
    word = str(word)
    plain = "'" in word and not set(word) & set('"$`\\!\n')
    return f'"{word}"' if plain else shlex.quote(word)


def command(words: Iterable[str | Path]) -> str:
    """The words of a command in one line."""
    return " ".join(map(quoted, words))
