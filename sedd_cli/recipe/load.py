"""Read and write recipes as YAML, with `key=value` overrides."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sedd_cli.data.corpora import CORPORA, is_own_text
from sedd_cli.data.formats import format_of
from sedd_cli.errors import RequestError, displayed, listed, shell_command, shell_word, shortened
from sedd_cli.recipe.build import Typed, build, nearest
from sedd_cli.recipe.differences import spelled
from sedd_cli.recipe.keys import is_key, is_section, keys, meant
from sedd_cli.recipe.outside import REGISTRIES, import_installed, require_parts, say_changes
from sedd_cli.recipe.recipe import Recipe
from sedd_cli.system.documents import read_yaml


def shipped() -> dict[str, Path]:
    """The recipes of the package: name → file."""
    folder = recipes_folder()
    if folder is None:
        return {}
    files = (*sorted(folder.glob("*.yaml")), *sorted(folder.glob("mini/*.yaml")))
    return {p.relative_to(folder).with_suffix("").as_posix(): p for p in files}


def recipes_folder() -> Path | None:
    """The folder of the package's recipes: inside the installed package, or beside it in the repository."""
    package = Path(__file__).parents[1]
    return next((at for at in (package / "recipes", package.parent / "recipes") if at.is_dir()), None)


def load_recipe(source: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Load a recipe.

    Args:
        source: A YAML file, or the name of a shipped recipe.
        overrides: dotted.key=value.

    Raises:
        RequestError: Names the key, the value found and the accepted values.
    """
    path = recipe_file(source)
    try:
        data = read_yaml(path)
        if not isinstance(data, dict):
            raise RequestError(f"{path}: expected keys and values, found {type(data).__name__}")
    except RequestError:
        if path.suffix.lower() not in (".yaml", ".yml", ".json") and format_of(path.name) is not None:
            train = shell_command(["sedd", "train", "quickstart", f"data.corpus={source}"])
            raise RequestError(f"{source} is a text, not a recipe: {train}") from None
        raise
    data.setdefault("name", path.stem)
    return recipe_from(override(data, overrides))


def recipe_file(source: str | Path) -> Path:
    """The YAML file of a recipe, or of a shipped one by its name; RequestError where there is none."""
    path, known = Path(source), shipped()
    if path.is_file():
        return path
    if str(source) not in known:
        raise RequestError(f"no file {source}, and no shipped recipe of that name{nearest(path.stem, known)}")
    return known[str(source)]


def recipe_from(data: Mapping[str, Any]) -> Recipe:
    """A recipe from plain data, the inverse of `Recipe.to_data`; warns of a part whose file has changed."""
    import_installed()
    require_parts(data)
    _check_keys(data)
    recipe = build(Recipe, data, "")
    current = recipe.with_parts_of_now()
    say_changes(recipe.parts, current.parts)
    recorded = {part: origin for part, origin in recipe.parts.items() if part in current.parts}
    return dataclasses.replace(recipe, parts={**current.parts, **recorded})


def _check_keys(data: Mapping[str, Any], path: str = "") -> None:
    """RequestError at the first key that a recipe does not have, with the key that is meant."""
    for key, value in data.items():
        name = f"{path}{key}"
        if is_key(name):
            if isinstance(value, Mapping) and is_section(name):
                _check_keys(value, f"{name}.")
            continue
        name += f".{next(iter(value))}" if isinstance(value, Mapping) and value else ""
        close = meant(name) or meant(str(key))
        known = sorted(k[len(path) :] for k in keys() if k.startswith(path) and "." not in k[len(path) :])
        hint = f", did you mean {close!r}?" if close else "."
        raise RequestError(f"{shortened(name)}: unknown key{hint} Accepted: {listed(known, 100)}")


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, with all defaults."""
    return yaml.safe_dump(recipe.to_data(), sort_keys=False, allow_unicode=True, width=110)


def override(data: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of the data with overrides applied; `build` checks the keys and reads the values later."""
    overrides = list(overrides)
    data = {k: dict(v) if isinstance(v, dict) else v for k, v in data.items()}
    _leave_the_measured(data, overrides)
    _leave_the_text(data, overrides)
    _leave_the_extensions(data, overrides)
    given: set[str] = set()
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            own = f"; a text is named by {shell_word(f'data.corpus={text}')}" if is_own_text(text) else ""
            raise RequestError(f"override {text!r} is not of the form key=value, for example train.steps=200{own}")
        if key in given:
            raise RequestError(f"override {shortened(key)} is given twice")
        if whole := [shortened(other) for other in given if other.startswith(f"{key}.")]:
            raise RequestError(f"override {shortened(key)} replaces {whole[0]}, which stands before it: name it first")
        *path, last = key.split(".")
        _check_parents(path, key)
        at = data
        for depth, name in enumerate(path, 1):
            there = at.get(name) or (_default_part(name) if depth == 1 else None)
            at[name] = _with_keys(there, ".".join(path[:depth]))
            at = at[name]
        if path and last == "name" and at.get("name") != value:
            section = ".".join(path)
            if dropped := [other for other in given if other == section or other.startswith(f"{section}.")]:
                raise RequestError(f"override {shortened(key)} drops {shortened(dropped[0])}: name it first")
            at.clear()  # the options of another graph, schedule or sampler do not apply
        at[last] = Typed(value)
        if is_section(key) and value.strip().lower() not in ("null", ""):
            at[last] = _with_keys(at[last], key)
        given.add(key)
    return data


def _default_part(key: str) -> dict[str, Any] | None:
    """The part that a recipe has where it does not name one; None for other keys, and where it has to be named."""
    field = next((f for f in dataclasses.fields(Recipe) if f.name == key and key in REGISTRIES), None)
    made = field.default_factory if field else dataclasses.MISSING
    return None if made is dataclasses.MISSING else made().to_data()


def _with_keys(value: Any, key: str) -> dict[str, Any]:
    """A value that an override reaches into, as a mapping; RequestError where a section of a recipe is one value."""
    if isinstance(value, Typed) and value.lstrip().startswith("{"):
        value = value.read(dict, key)
    if isinstance(value, str) and is_section(key):
        example = f"{key}.corpus={shortened(value)}" if key == "data" else f"{key}.KEY=VALUE"
        raise RequestError(f"{key}: expected keys and values, found {displayed(str(value))}; write {example}")
    # "graph: absorbing" is short for "graph: {name: absorbing}"
    return value if isinstance(value, dict) else {"name": value} if isinstance(value, str) else {}


def _leave_the_text(data: dict[str, Any], overrides: Sequence[str]) -> None:
    """Take out the options of a known corpus where an override names a text of one's own instead.

    That is a tokenizer sized for that corpus, bpe:N, and the words around the gap of the infill.
    """
    given: dict[str, str] = {key: value for key, _, value in (one.partition("=") for one in overrides)}
    text = given.get("data.corpus")
    if text is None and given.get("data", "").lstrip().startswith("{"):
        text = _with_keys(Typed(given["data"]), "data").get("corpus")
    own, report = data.get("data"), data.get("report")
    if not isinstance(own, dict) or own.get("corpus") not in CORPORA:
        return
    if not isinstance(text, str) or not is_own_text(text):
        return
    if str(own.get("tokenizer")).startswith("bpe:"):
        del own["tokenizer"]
    if isinstance(report, dict) and isinstance(infill := report.get("infill"), dict):
        report["infill"] = {key: value for key, value in infill.items() if key not in ("prefix", "suffix")}


def _leave_the_extensions(data: dict[str, Any], overrides: Sequence[str]) -> None:
    """Take out what a run's recipe records of extensions that a smaller number of steps, of an override, never had."""
    given: dict[str, str] = {key: value for key, _, value in (one.partition("=") for one in overrides)}
    train, steps = data.get("train"), Typed(given.get("train.steps", "")).read(int, "train.steps")
    if isinstance(train, dict) and isinstance(steps, int) and isinstance(ends := train.get("extended"), list):
        train["extended"] = [end for end in ends if not isinstance(end, int) or end < steps]


def _leave_the_measured(data: dict[str, Any], overrides: Sequence[str]) -> None:
    """Take out what a run measured where overrides change what it was measured of.

    The graph's values depend on the text and on its other options, the schedule's on the graph, too.
    """
    changed = False
    for section in ("data", "graph", "noise"):
        changed = changed or any(_changes(data.get(section), section, one) for one in overrides)
        part, registry = data.get(section), REGISTRIES.get(section, {})
        if changed and isinstance(part, dict):
            made = registry[name] if isinstance(name := part.get("name"), str) and name in registry else None
            if made and made.measured:
                part.pop(made.measured, None)


def _changes(stored: Any, section: str, text: str) -> bool:
    """Whether an override replaces a section, or a value of it; how windows are drawn changes no text."""
    key, _, value = text.partition("=")
    owner, _, name = key.partition(".")
    if owner != section or key == "data.windows":
        return False
    return not name or not isinstance(stored, dict) or spelled(stored.get(name)) != value


def _check_parents(path: Sequence[str], key: str) -> None:
    """RequestError where an override names a key of what is one value, such as train.steps.x."""
    owner: Any = Recipe
    for i, name in enumerate(path):
        if not dataclasses.is_dataclass(owner) or hasattr(owner, "from_data"):
            return  # a part, whose keys depend on its name
        hint = typing.get_type_hints(owner).get(name)
        kinds = [kind for kind in (typing.get_args(hint) or (hint,)) if kind is not type(None)]
        if typing.get_origin(hint) is tuple or kinds[0] in (int, float, bool, str):
            raise RequestError(f"override {shortened(key)}: {'.'.join(path[: i + 1])} is one value and has no keys")
        owner = kinds[0]
