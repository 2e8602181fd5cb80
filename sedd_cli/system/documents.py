"""Read JSON and YAML of others: every failure is one error that names the file, and nothing grows without limit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from sedd_cli.errors import DamageError, RequestError, WorkError, displayed, first_line, shortened
from sedd_cli.system.files import require_regular
from sedd_cli.system.json_lines import MOST_VALUES, TOKENIZER_VALUES, holds_more

#: Most bytes of a configuration, manifest or recipe.
DOCUMENT_BYTES = 64 << 20
#: Most bytes of a tokenizer file.
TOKENIZER_BYTES = 512 << 20
#: Most bytes of a YAML file, whose parser is slow.
YAML_BYTES = 1 << 19
#: Most characters of a number in YAML: those of base 60 (1:30) cost the square of their length.
YAML_DIGITS = 100
#: Most levels of nested lists and mappings.
DEPTH = 64


def read_json(path: Path, most: int = DOCUMENT_BYTES) -> Any:
    """The JSON value of a file; DamageError for anything else, OSError where it cannot be read."""
    limit = "TOKENIZER_BYTES" if most == TOKENIZER_BYTES else "DOCUMENT_BYTES"
    return parse_json(_text(path, most, limit, DamageError), str(path), most == TOKENIZER_BYTES)


class EqualKeysError(ValueError):
    """An object of JSON names a key twice, of which Python would keep the last."""


def strict_json(text: str | bytes) -> Any:
    """The JSON value of a text; EqualKeysError, or another ValueError, or RecursionError, where there is none."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise EqualKeysError(f"the key {displayed(key)} stands twice")
            seen.add(key)
    return found


def parse_json(text: str | bytes, where: str, tokenizer: bool = False) -> Any:
    """The JSON value of a text; DamageError where there is none. tokenizer: it is the file of one, which is larger."""
    most = TOKENIZER_VALUES if tokenizer else MOST_VALUES
    if holds_more(text, most):
        limit = "TOKENIZER_VALUES" if tokenizer else "MOST_VALUES"
        raise DamageError(f"{where} holds more than {most:,} JSON values (the limit {limit}): no such file needs them")
    try:
        return strict_json(text)
    except EqualKeysError as error:
        raise DamageError(f"{where}: {error}") from None
    except (ValueError, RecursionError) as error:  # also numbers of too many digits, and bytes that are no UTF-8
        raise DamageError(f"{where} is not JSON, or damaged: {_reason(error)}") from None


def read_yaml(path: Path, kind: type[RequestError | WorkError] = RequestError) -> Any:
    """The YAML value of a file; an error of this kind for anything else and for a file that cannot be read."""
    try:
        text = _text(path, YAML_BYTES, "YAML_BYTES", kind)
    except OSError as error:
        raise kind(f"cannot read {path}: {error.strerror}") from None
    return parse_yaml(text, str(path), kind)


def parse_yaml(
    text: str,
    where: str,
    kind: type[RequestError | WorkError] = RequestError,
    plain: Callable[[str], Any] | None = None,
) -> Any:
    """The YAML value of a text.

    Args:
        text: The YAML.
        where: What it is, for messages.
        kind: The error to raise.
        plain: What a value without quotes means, by its characters, instead of what YAML takes it for: a number, a
            date. The words for nothing, such as null, keep their meaning.

    Raises:
        kind: It is no YAML, names a key twice, or uses aliases, which can stand for more than memory holds.
    """
    try:
        loader = _Strict(text)
        loader.plain = plain
        return loader.get_single_data()
    except RequestError as error:
        raise kind(f"{where}: {error}") from None
    except _FAILURES as error:
        raise kind(f"{where} is not YAML: {_reason(error)}") from None


#: What the parser raises for hostile text, beside its own errors.
_FAILURES = (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError, TypeError)


class _Strict(yaml.SafeLoader):
    """Plain YAML without aliases and without equal keys."""

    depth = 0
    plain: Callable[[str], Any] | None = None

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if self.plain and isinstance(node, yaml.ScalarNode) and node.style is None:
            meant = self.resolve(yaml.ScalarNode, node.value, (True, False))
            if node.tag == meant != "tag:yaml.org,2002:null":
                return self.plain(node.value)
        return super().construct_object(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise RequestError(f"line {mark.line + 1} uses an alias (*name), which is refused: write the value out")
        self.depth += 1
        if self.depth > DEPTH:
            raise RequestError(f"values are nested deeper than {DEPTH} levels")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise RequestError(f"line {key.start_mark.line + 1}: a key must be a word")
            if key.value in seen:
                raise RequestError(f"line {key.start_mark.line + 1}: the key {displayed(key.value)} stands twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: Any) -> int:
        if len(node.value) > YAML_DIGITS:
            raise RequestError(f"line {node.start_mark.line + 1}: a number of {len(node.value):,} digits is refused")
        return super().construct_yaml_int(node)


_Strict.add_constructor("tag:yaml.org,2002:int", _Strict.construct_yaml_int)


def is_deeper(value: Any, most: int) -> bool:
    """Whether the lists and mappings of a JSON value are nested deeper than so many levels."""
    level = [value]
    for _ in range(most):
        inner = (
            one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list | tuple)
        )
        level = [part for parts in inner for part in parts]
    return any(isinstance(one, dict | list | tuple) for one in level)


def is_plain_name(name: object) -> bool:
    """Whether a manifest may name this file: one of its own folder, without a way out of it."""
    if not isinstance(name, str) or name in ("", ".", "..") or len(name.encode("utf-8", "surrogatepass")) > 255:
        return False
    return not {"/", "\\", "\0"} & set(name)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8; DamageError for anything else."""
    return _text(path, DOCUMENT_BYTES, "DOCUMENT_BYTES", DamageError, "a text")


def _text(path: Path, most: int, limit: str, kind: type[RequestError | WorkError], what: str = "") -> str:
    try:
        require_regular(path, "a document")
    except RequestError as error:
        raise kind(str(error)) from None
    with path.open("rb") as stream:
        raw = stream.read(most + 1)
    if len(raw) > most:
        raise kind(f"{path} is larger than {most / 2**20:g} MiB, the most that is read of such a file ({limit})")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = what or ("YAML" if limit == "YAML_BYTES" else "JSON, or damaged")
        raise kind(f"{path} is not {what}: it is no UTF-8, byte {error.start:,} does not decode") from None


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        return f"line {error.problem_mark.line + 1}, {shortened(' '.join(error.problem.split()), 200)}"
    return shortened(" ".join(str(error).split()), 300) if isinstance(error, yaml.YAMLError) else first_line(error)
