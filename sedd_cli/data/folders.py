"""The folders of prepared corpora: all of them, and the one of a name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sedd_cli.data.manifest import FILE, Manifest, read_manifest
from sedd_cli.errors import DamageError, RequestError, listed
from sedd_cli.system.home import home


def data_folder() -> Path:
    """The folder of all prepared datasets."""
    return home() / "data"


def prepared() -> Iterator[tuple[Path, Manifest]]:
    """(folder, manifest) of every finished dataset with a readable manifest."""
    for file in sorted(data_folder().glob(f"*/{FILE}")):
        if file.parent.name.endswith(".partial"):
            continue
        try:
            yield file.parent, read_manifest(file.parent)
        except (DamageError, RequestError):
            continue


def prepared_as(name: str, tokenizer: str | None = None) -> Path | None:
    """The folder of the prepared corpus of this name, as `sedd prepare --list` shows it: of the corpus, or the folder.

    Raises RequestError where several are, and where none has the tokenizer that is asked for.
    """
    if "/" in name or name in ("", ".", ".."):
        return None
    if (data_folder() / name / FILE).is_file():
        return data_folder() / name
    alike = _named(name)
    found = [folder for folder, manifest in alike if tokenizer in (None, manifest.tokenizer)]
    if alike and not found:
        held = listed(sorted({manifest.tokenizer for _, manifest in alike}))
        raise RequestError(f"{name} is prepared in {held}, not in {tokenizer}: name its text to prepare it again")
    if len(found) > 1:
        names = ", ".join(folder.name for folder in found)
        raise RequestError(f"{len(found)} prepared texts are called {name}: name one by its folder, {names}")
    return found[0] if found else None


def is_prepared(name: str) -> bool:
    """Whether `prepared_as` finds something under this name, one or several."""
    return "/" not in name and ((data_folder() / name / FILE).is_file() or bool(_named(name)))


def _named(name: str) -> list[tuple[Path, Manifest]]:
    return [(folder, manifest) for folder, manifest in prepared() if manifest.corpus == name]
