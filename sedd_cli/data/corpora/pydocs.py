"""The English text inside every CPython: the language reference's topics and the standard library's docstrings."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

from sedd_cli.data.corpora.stdlib import SHORTEST, TOPICS, corpus_of, parse, sources, utf8

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def documents_of(library: Path) -> list[str]:
    """Topics, then docstrings longer than 80 characters in path order, each distinct text once.

    Sources are parsed, never imported; a file that this Python cannot parse is skipped.
    """
    found = dict.fromkeys(_topics(library / TOPICS))
    for path in sources(library):
        found.update(dict.fromkeys(_docstrings(path)))
    return list(found)


def _docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(parse(path)):
        if isinstance(node, DOCUMENTED):
            text = ast.get_docstring(node, clean=False) or ""
            cleaned = _clean(text)
            if len(cleaned) >= SHORTEST:
                yield cleaned


def _topics(path: Path) -> Iterator[str]:
    """The values of the one dictionary in `pydoc_data/topics.py`, by key."""
    if not path.is_file():
        return
    for node in parse(path).body:
        if isinstance(node, ast.Assign):
            topics = ast.literal_eval(node.value)
            yield from (_clean(topics[key]) for key in sorted(topics))


def _clean(text: str) -> str:
    """Common indentation and outer blank lines removed."""
    return utf8(inspect.cleandoc(text).strip())


PYDOCS = corpus_of(
    "pydocs",
    "docstrings inside every CPython",
    "2 MB",
    "docstrings of the standard library and pydoc_data.topics",
    documents_of,
)
