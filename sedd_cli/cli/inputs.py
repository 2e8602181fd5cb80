"""The files that a command reads, collected from its options: no output may replace them; and names of outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sedd_cli.errors import RequestError

if TYPE_CHECKING:
    from sedd_cli.recipe import Recipe
    from sedd_cli.system.outputs import Named

#: Parameters of commands that may name a file, or a folder, that is read.
READ = {
    "corpus", "dataset", "features", "file", "imports", "jobs", "judge", "larger", "local", "model", "overrides",
    "prompts", "recipe", "reference", "references", "text", "tokenizer",
}  # fmt: skip

#: Option → value, of the command that runs.
_named: dict[str, Any] = {}


def note_inputs(params: Iterable[Any], values: Mapping[str, Any]) -> None:
    """Remember what the command line names for reading."""
    _named.clear()
    for param in params:
        if param.name in READ and values.get(param.name) is not None:
            flag = param.opts[0]
            _named[flag if flag.startswith("-") else param.metavar or flag] = values[param.name]


def check_written(
    writes: Mapping[str, Path | None], reads: Mapping[str, Named | Iterable[Named]] | None = None
) -> None:
    """`check_outputs` against all inputs that the command line names, and `reads`, which it does not."""
    from sedd_cli.system.outputs import check_outputs

    more = reads or {}
    check_outputs(writes, {**more, **{option: _files(value) for option, value in _named.items() if option not in more}})


def _files(value: Named | Iterable[Named]) -> list[Named]:
    """What an option names, and the folders of the runs that it names as `sedd runs` lists them."""
    from sedd_cli.checkpoints.run_directory import find_run

    named = [value] if isinstance(value, str | Path) else list(value or [])
    return [*named, *(find_run(one) for one in named if one is not None)]


def inputs_of(recipe: Recipe) -> dict[str, str | None]:
    """The files that a recipe names."""
    from sedd_cli.checkpoints.run_directory import by_name

    data = recipe.data
    return {
        "data.corpus": data.corpus,
        "data.local": data.local,
        "data.tokenizer": data.tokenizer,
        "init_from": recipe.init_from and by_name(recipe.init_from),
        "graph.embedding": recipe.graph.options.get("embedding"),
    }


def check_png(out: Path | None) -> None:
    """RequestError for a name of `--plot` that does not end in .png; a device or a pipe has any name."""
    from sedd_cli.system.files import is_stream

    if out is not None and out.suffix.lower() != ".png" and not is_stream(out):
        raise RequestError(f"--plot writes a PNG: a name that ends in .png is needed, found {out}")
