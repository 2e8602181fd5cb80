"""Comments and code of CPython's standard library: out-of-domain texts for models of `pydocs`, by the same authors."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

from sedd_cli.data.corpora.pydocs import DOCUMENTED
from sedd_cli.data.corpora.stdlib import SHORTEST, corpus_of, parse, sources, utf8


def comments_of(library: Path) -> list[str]:
    """Comments over whole lines, consecutive ones as one text, of 81 characters or more, each distinct one once."""
    return list(dict.fromkeys(text for path in sources(library) for text in _comments(path)))


def _comments(path: Path) -> Iterator[str]:
    try:
        with tokenize.open(path) as file:
            tokens = list(tokenize.generate_tokens(io.StringIO(file.read()).readline))
    except (SyntaxError, ValueError, tokenize.TokenError):
        return  # skipped
    lines: list[str] = []
    last = -1
    for token in tokens:
        alone = token.line.lstrip() == token.line[token.start[1] :]
        if token.type != tokenize.COMMENT or not alone or token.string.startswith("#!"):
            continue
        if token.start[0] != last + 1:
            yield from _long_enough(lines)
            lines = []
        lines.append(token.string.lstrip("#").removeprefix(" ").rstrip())
        last = token.start[0]
    yield from _long_enough(lines)


def _long_enough(lines: list[str]) -> Iterator[str]:
    text = utf8("\n".join(lines).strip())
    if len(text) >= SHORTEST:
        yield text


def code_of(library: Path) -> list[str]:
    """Each module as `ast.unparse` writes it, without comments and docstrings, where 81 characters or more are left."""
    found = (utf8(ast.unparse(_bare(parse(path)))) for path in sources(library))
    return list(dict.fromkeys(text for text in found if len(text) >= SHORTEST))


def _bare(module: ast.Module) -> ast.Module:
    for node in ast.walk(module):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            # a function or class needs a body
            node.body = node.body[1:] or ([] if isinstance(node, ast.Module) else [ast.Pass()])
    return module


PYCOMMENTS = corpus_of(
    "pycomments",
    "comments inside every CPython",
    "1 MB",
    "comments of the standard library",
    comments_of,
)
PYCODE = corpus_of(
    "pycode",
    "code inside every CPython",
    "6 MB",
    "the standard library without comments and docstrings",
    code_of,
)
