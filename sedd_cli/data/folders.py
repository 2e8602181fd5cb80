"""The folders of prepared corpora: all of them, and the one of a name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sedd_cli.data.manifest import FILE, Manifest, read_manifest
from sedd_cli.data.tokenizers import is_local, load_tokenizer
from sedd_cli.errors import DamageError, RequestError, listed, shell_word
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


def prepared_as(name: str, tokenizer: str | None = None, hold_out: str | None = None) -> Path | None:
    """The folder of the prepared corpus of this name, as `sedd prepare --list` shows it: of the corpus, or the folder.

    tokenizer: its name, or a file, folder or run that holds it. hold_out: where some were divided so, they are meant.

    Raises RequestError where several are, and where none has the tokenizer that is asked for.
    """
    if "/" in name or name in ("", ".", ".."):
        return None
    if (data_folder() / name / FILE).is_file():
        return data_folder() / name
    alike = prepared_texts(name)
    found = [one for one in alike if tokenizer is None or has_tokenizer(one[1], tokenizer)]
    if alike and not found:
        held = listed(sorted({manifest.tokenizer for _, manifest in alike}))
        raise RequestError(f"{name} is prepared in {held}, not in {tokenizer}: name its text to prepare it again")
    found = [one for one in found if one[1].options.get("hold_out", "hash") == hold_out] or found
    if len(found) > 1:
        keys = _keys([manifest for _, manifest in found])
        ways = listed(f"{folder.name}{key and f' ({key})'}" for (folder, _), key in zip(found, keys, strict=True))
        add = ", or add the key in parentheses (with sedd prepare: --tokenizer, --hold-out)" if any(keys) else ""
        raise RequestError(f"{len(found)} prepared texts are called {name}: name one by its folder{add}: {ways}")
    return found[0][0] if found else None


def _keys(found: list[Manifest]) -> list[str]:
    """For each text the keys of a recipe that choose it among the others; empty where its folder alone does."""
    pairs = [(one.tokenizer, one.options.get("hold_out")) for one in found]
    specs = [spec for spec, _ in pairs]
    keys = []
    for spec, way in pairs:
        words = [f"data.tokenizer={shell_word(spec)}"] if len(set(specs)) > 1 else []
        words += [f"data.hold_out={way}"] if way and specs.count(spec) > 1 else []
        alone = pairs.count((spec, way)) == 1 and (way or specs.count(spec) == 1)
        keys.append(" ".join(words) if alone else "")
    return keys


def has_tokenizer(manifest: Manifest, spec: str) -> bool:
    """Whether a text is prepared with the tokenizer of this name, or in this file, folder or run."""
    if spec == manifest.tokenizer:
        return True
    return is_local(spec) and load_tokenizer(spec).fingerprint == manifest.tokenizer_fingerprint


def is_prepared(name: str) -> bool:
    """Whether `prepared_as` finds something under this name, one or several."""
    return "/" not in name and ((data_folder() / name / FILE).is_file() or bool(prepared_texts(name)))


def prepared_texts(name: str) -> list[tuple[Path, Manifest]]:
    """(folder, manifest) of each prepared corpus of this name."""
    return [(folder, manifest) for folder, manifest in prepared() if manifest.corpus == name]
