"""The standard library of the Python that runs this: its sources, parsed and never imported."""

from __future__ import annotations

import ast
import platform
import sysconfig
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from sedd_cli.data.corpora.base import Corpus, Request, Source, by_share
from sedd_cli.errors import RequestError

#: Shorter texts are left out.
SHORTEST = 81
#: One dictionary, of texts about the language.
TOPICS = "pydoc_data/topics.py"
_LEFT_OUT = frozenset(
    {"__pycache__", "_bundled", "dist-packages", "idle_test", "site-packages", "test", "tests", "testing"}
)


def sources(library: Path) -> list[Path]:
    """Its modules in path order, without those of tests and of others' packages."""
    relative = (path.relative_to(library) for path in library.rglob("*.py"))
    kept = (path for path in relative if not _LEFT_OUT.intersection(path.parts) and path.as_posix() != TOPICS)
    # the build configuration differs between machines
    shared = (path for path in kept if not path.name.startswith("_sysconfigdata_"))
    return [library / path for path in sorted(shared, key=Path.as_posix)]


def parse(path: Path) -> ast.Module:
    """An empty module for a file that this Python cannot parse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in library sources do not concern the user
        try:
            return ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            return ast.Module(body=[], type_ignores=[])


def utf8(text: str) -> str:
    """Lone surrogates, which UTF-8 cannot hold, replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


def corpus_of(name: str, about: str, size: str, origin: str, documents_of: Callable[[Path], list[str]]) -> Corpus:
    """A corpus of distinct texts that `documents_of` extracts from the folder of the standard library."""

    @lru_cache(maxsize=1)
    def documents() -> tuple[str, ...]:
        library = Path(sysconfig.get_paths()["stdlib"])
        if found := tuple(documents_of(library)):
            return found
        raise RequestError(f"nothing found in {library} for {name}: this Python comes without library sources")

    def identity(request: Request) -> str:
        return f"python {platform.python_version()}"

    def source(request: Request) -> Source:
        return Source(origin, identity(request), by_share(lambda: iter(documents()))).only(request.split)

    return Corpus(
        name=name,
        about=about,
        size=size,
        licence="PSF-2.0",
        tokenizer="bpe:4096",
        origin=origin,
        open=source,
        identity=identity,
    )
