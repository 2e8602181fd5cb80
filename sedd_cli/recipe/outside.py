"""Parts from outside the package: graphs, schedules, objectives and samplers in a user's file or in another package.

Importing such a file registers its parts. Recipes, and with them runs and checkpoints, name the file of each part and
its SHA-256, and nothing more: code is imported only where the user names it, or from an installed package.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from sedd_cli.core.graphs import GRAPHS
from sedd_cli.core.losses import OBJECTIVES
from sedd_cli.core.samplers import SAMPLERS
from sedd_cli.core.schedules import SCHEDULES
from sedd_cli.errors import RequestError, displayed, first_line, shell_word, shortened
from sedd_cli.system.digests import sha256_of
from sedd_cli.system.software import offered

#: Key of a recipe → registry of its parts.
REGISTRIES = {"graph": GRAPHS, "noise": SCHEDULES, "objective": OBJECTIVES, "sampler": SAMPLERS}

#: The end of a message about an unknown name.
HINT = "; parts of your own: --import FILE.py"
#: Name of a module that was imported here → what was named to import it, with its folder.
_GIVEN: dict[str, str] = {}
#: Part → the SHA-256 of its file when the part was first looked at. A reloaded module has new classes.
_DIGESTS: WeakKeyDictionary[type, str] = WeakKeyDictionary()


@dataclass(frozen=True)
class Origin:
    """Where a part from outside comes from: what to name after `--import`, and the SHA-256 of the part's file.

    package: name and version of the installed package that offers it, which needs no `--import`.
    """

    source: str
    sha256: str
    package: str = ""

    def to_data(self) -> dict[str, str]:
        """The inverse of building an origin from a recipe's data."""
        data = {"source": self.source, "sha256": self.sha256}
        return data | ({"package": self.package} if self.package else {})

    def __str__(self) -> str:
        return f"{self.package or self.source} (sha256 {self.sha256[:12]})"


def import_parts(source: str) -> list[str]:
    """Import a file (`my_parts.py`) or a module (`my_package.parts`), which registers its parts.

    Returns:
        The parts that it registers, as "noise constant".

    Raises:
        RequestError: There is no such file or module, it fails, or it registers nothing.
    """
    before = {key: dict(registry) for key, registry in REGISTRIES.items()}
    name = re.sub(r"\W", "_", Path(source).stem) if source.endswith(".py") else source
    known = name in sys.modules
    try:
        module = _from_file(Path(source), name) if source.endswith(".py") else _from_name(name)
    except RequestError:
        raise
    except Exception as error:
        raise RequestError(
            f"--import {source}: {_place(error, source)}{type(error).__name__}: {first_line(error)}"
        ) from error
    _GIVEN.setdefault(module.__name__, source)
    found = [
        f"{key} {part}"
        for key, part, _ in outside_parts()  # which also takes their digests now
        if before[key].get(part) is not (cls := REGISTRIES[key][part]) or cls.__module__ == module.__name__
    ]
    if not found and not known:
        raise RequestError(
            f"--import {source}: it registers no part; write @GRAPHS.register, @SCHEDULES.register, "
            "@OBJECTIVES.register or @SAMPLERS.register above a class"
        )
    return found


def _from_file(path: Path, name: str) -> ModuleType:
    if not path.is_file():
        raise RequestError(f"--import {path}: there is no such file")
    if (there := sys.modules.get(name)) is not None:
        if getattr(there, "__file__", None) and Path(str(there.__file__)).resolve() == path.resolve():
            return there
        raise RequestError(f"--import {path}: another module has the name {name}; give the file another name")
    if importlib.util.find_spec(name) is not None and not _beside(path, name):
        raise RequestError(f"--import {path}: an installed module has the name {name}; give the file another name")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RequestError(f"--import {path}: it is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their annotations up there
    _search(path.resolve().parent)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _from_name(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise RequestError(f"--import {name}: neither a Python file (NAME.py) nor the name of a module")
    _search(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # something that the module imports
        hint = f"; there is a file {name}.py: --import {name}.py" if Path(f"{name}.py").is_file() else ""
        raise RequestError(f"--import {name}: there is no module of this name{hint}") from None


def _beside(path: Path, name: str) -> bool:
    """Whether the module of this name is the file itself, on Python's path."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve() == path.resolve()


def _search(folder: Path) -> None:
    """Let modules of this folder be imported, after all others."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _place(error: Exception, source: str) -> str:
    """The line of the user's file that an error comes from, for a message."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: "
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).name == Path(source).name]
    return f"line {lines[-1]}: " if lines else ""


@cache
def import_installed() -> None:
    """Import the parts that installed packages offer as entry points; those that fail are left out, with a warning."""
    for entry in offered():
        try:
            entry.load()
        except Exception as error:
            of = f" of {entry.dist.name}" if entry.dist else ""
            _warn(f"the parts {entry.value}{of} are left out: {first_line(error)}")


def origin_of(cls: type) -> Origin | None:
    """Where a part comes from; None if it is a part of this package."""
    module = cls.__module__
    if module.split(".")[0] == "sedd_cli":
        return None
    file = getattr(sys.modules.get(module), "__file__", None)
    if file and cls not in _DIGESTS and Path(file).is_file():
        _DIGESTS[cls] = sha256_of(Path(file))
    source = _GIVEN.get(module) or file or module
    return Origin(
        Path(source).name if source.endswith(".py") else source,
        _DIGESTS.get(cls, ""),
        _packages().get(module.split(".")[0], ""),
    )


def code_of(cls: type) -> dict[str, str]:
    """{"code": "my_parts.py 351a5accee10"}: the file of a part from outside and its SHA-256; empty for any other part.

    What is computed with a part is stored under it, so that results of a changed file are not taken for those of now.
    """
    origin = origin_of(cls)
    return {} if origin is None else {"code": f"{origin.source} {origin.sha256[:12]}"}


@cache
def _packages() -> dict[str, str]:
    """Top-level module → name and version of the installed package that offers parts in it."""
    return {e.module.split(".")[0]: f"{e.dist.name} {e.dist.version}" for e in offered() if e.dist}


def given() -> list[str]:
    """`--import SOURCE` for everything that was imported by name: words that a further command needs."""
    return [word for source in _GIVEN.values() for word in ("--import", source)]


def outside_parts() -> Iterator[tuple[str, str, Origin]]:
    """(key of a recipe, name, origin) of every registered part from outside."""
    for key, registry in REGISTRIES.items():
        for name, cls in registry.items():
            if origin := origin_of(cls):
                yield key, name, origin


def origins(names: Mapping[str, str]) -> dict[str, Origin]:
    """The origins of those parts of a recipe that come from outside, by "noise constant". names: key → name."""
    found = {f"{key} {name}": origin_of(REGISTRIES[key][name]) for key, name in names.items()}
    return {part: origin for part, origin in found.items() if origin is not None}


def require_parts(data: Mapping[str, Any], keys: Iterable[str] = tuple(REGISTRIES)) -> None:
    """RequestError if plain data of a recipe names, under these keys, a part from outside that is not registered."""
    for key in keys:
        if (origin := _missing(data, key)) is None:
            continue
        source, digest, package = (shortened(str(origin.get(k) or "")) for k in ("source", "sha256", "package"))
        give = (
            f"install {package}"
            if package
            else f"give it with --import {shell_word(source)} (in Python: import it first)"
        )
        raise RequestError(
            f"the {REGISTRIES[key].kind} {displayed(_name(data, key))} is of {source} (sha256 {digest[:12]}), not of "
            f"sedd: {give}"
        )


def imports_of(data: Mapping[str, Any]) -> list[str]:
    """`--import SOURCE` for the parts in plain data of a recipe that are not registered; not for those of packages."""
    missing = [origin for key in REGISTRIES if (origin := _missing(data, key)) and not origin.get("package")]
    sources = dict.fromkeys(shortened(str(origin.get("source") or "")) for origin in missing)
    return [word for source in sources if source for word in ("--import", source)]


def is_missing(data: Mapping[str, Any], key: str) -> bool:
    """Whether plain data of a recipe names, under this key, a part from outside that is not registered."""
    return _missing(data, key) is not None


def _missing(data: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    """The recorded origin of a part that is not registered; None where there is no such part."""
    recorded, name = data.get("parts"), _name(data, key)
    origin = recorded.get(f"{key} {name}") if isinstance(recorded, Mapping) else None
    unknown = isinstance(name, str) and name not in REGISTRIES[key]
    return origin if unknown and isinstance(origin, Mapping) else None


def _name(data: Mapping[str, Any], key: str) -> Any:
    """The name of a part in plain data, which may be the name alone."""
    part = data.get(key)
    return part.get("name") if isinstance(part, Mapping) else part


def say_changes(recorded: Mapping[str, Origin], current: Mapping[str, Origin]) -> None:
    """Warn where the file of parts is another one than a recipe recorded, once a file."""
    changed: dict[str, list[str]] = {}
    for part in sorted(recorded.keys() & current.keys()):
        if recorded[part].sha256 != current[part].sha256:
            files = f"recorded with {recorded[part]}, now from {current[part]}"
            changed.setdefault(files, []).append(part)
    for files, parts in changed.items():
        _warn(f"{', '.join(parts)} {'has' if len(parts) == 1 else 'have'} changed: {files}")


@cache
def _warn(text: str) -> None:
    """A warning that is given once, by the first of several processes."""
    if os.environ.get("RANK", "0") == "0":
        warnings.warn(text, stacklevel=3)
