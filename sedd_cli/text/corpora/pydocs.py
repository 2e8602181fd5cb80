"""The English text inside every CPython: the language reference's topics and the standard library's docstrings."""

from __future__ import annotations

import ast
import inspect
import platform
import sysconfig
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from sedd_cli.errors import RequestError
from sedd_cli.text.corpora.base import Corpus, Request, Source, by_share

SHORTEST = 81
_LEFT_OUT = frozenset(
    {"__pycache__", "_bundled", "dist-packages", "idle_test", "site-packages", "test", "tests", "testing"}
)
_TOPICS = "pydoc_data/topics.py"
_ORIGIN = "docstrings of the standard library and pydoc_data.topics"
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def documents_of(library: Path) -> list[str]:
    """Topics, then docstrings longer than 80 characters in path order, each distinct text once.

    Sources are parsed, never imported; a file that this Python cannot parse is passed over.
    """
    found = dict.fromkeys(_topics(library / _TOPICS))
    for path in _sources(library):
        found.update(dict.fromkeys(_docstrings(path)))
    return list(found)


def _sources(library: Path) -> list[Path]:
    relative = (path.relative_to(library) for path in library.rglob("*.py"))
    kept = (path for path in relative if not _LEFT_OUT.intersection(path.parts) and path.as_posix() != _TOPICS)
    return [library / path for path in sorted(kept, key=Path.as_posix)]


def _parse(path: Path) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in others' sources are none of the user's business
        try:
            return ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            return ast.Module(body=[], type_ignores=[])


def _docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(_parse(path)):
        if isinstance(node, _DOCUMENTED):
            text = ast.get_docstring(node, clean=False) or ""
            cleaned = _clean(text)
            if len(cleaned) >= SHORTEST:
                yield cleaned


def _topics(path: Path) -> Iterator[str]:
    """The values of the one dictionary in `pydoc_data/topics.py`, by key."""
    if not path.is_file():
        return
    for node in _parse(path).body:
        if isinstance(node, ast.Assign):
            topics = ast.literal_eval(node.value)
            yield from (_clean(topics[key]) for key in sorted(topics))


def _clean(text: str) -> str:
    """Common indentation and outer blank lines removed; lone surrogates, which UTF-8 cannot hold, replaced."""
    return inspect.cleandoc(text).strip().encode("utf-8", "replace").decode("utf-8")


@lru_cache(maxsize=1)
def _all() -> tuple[str, ...]:
    library = Path(sysconfig.get_paths()["stdlib"])
    documents = tuple(documents_of(library))
    if not documents:
        raise RequestError(f"no docstrings found in {library}: this Python comes without library sources")
    return documents


def _identity(request: Request) -> str:
    return f"python {platform.python_version()}"


def _open(request: Request) -> Source:
    return Source(location=_ORIGIN, revision=_identity(request), splits=by_share(lambda: iter(_all()))).only(
        request.split
    )


PYDOCS = Corpus(
    name="pydocs",
    about="docstrings inside every CPython",
    size="2 MB",
    licence="PSF-2.0",
    tokenizer="bpe:4096",
    origin=_ORIGIN,
    open=_open,
    identity=_identity,
)
