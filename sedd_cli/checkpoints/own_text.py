"""The text of a run: how a training prepares it, where it is afterwards, and a prompt that is cut from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sedd_cli.checkpoints import checkpoint
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.checkpoints.run_directory import by_name
from sedd_cli.data.corpora import find_corpus, is_ambiguous
from sedd_cli.data.folders import prepared, prepared_texts
from sedd_cli.data.held_out import Cut, cut
from sedd_cli.data.manifest import FILE, read_manifest
from sedd_cli.data.prepared import PrepareOptions, find_prepared, prepared_copies
from sedd_cli.data.shards import Dataset, open_dataset
from sedd_cli.data.tokenizers import gives_tokenizer, open_tokenizer
from sedd_cli.errors import DamageError, RequestError
from sedd_cli.recipe import Recipe
from sedd_cli.system.documents import read_json

#: The most tokens of a prompt with its gap.
PROMPT = 40


def text_options(recipe: Recipe, run: Path | None = None) -> PrepareOptions:
    """The options of `sedd prepare` for a recipe's text.

    Where the recipe names no tokenizer, a run goes on with the one it began with, and a training that starts from a
    model on this machine takes that model's, if its folder holds one; otherwise it is that of the corpus. Of several
    prepared texts of one name, a run goes on with its own.
    """
    options = recipe.data.prepared()
    began = checkpoint.latest(run) if run else None
    origin = by_name(recipe.init_from) if recipe.init_from else None
    wanted = replace(options, tokenizer=origin) if origin and gives_tokenizer(origin) else options
    if is_ambiguous(options.corpus) or (began and options.local is None and len(prepared_copies(options)) > 1):
        data = began.json("state")["data"] if began else None
        own = next((folder for folder, found in prepared_texts(options.corpus) if found.fingerprint == data), None)
        if own is not None:
            return replace(options, corpus=str(own))
        return options if options.tokenizer is not None else wanted
    if options.tokenizer is not None or find_corpus(options).prepared is not None:
        return options
    if began is None:
        return wanted
    tokenizer = open_tokenizer(began.folder)
    former = replace(options, tokenizer=tokenizer.spec if tokenizer.named else str(began.folder))
    for one in (wanted, options, former):
        folder = find_prepared(one)
        if folder and read_manifest(folder).fingerprint == began.json("state")["data"]:
            return one
    return former if tokenizer.named else wanted


def own_dataset(folder: Path, recipe: Recipe) -> Dataset | None:
    """The prepared text that a checkpoint, or an export of it, was trained on; None where it is not on this machine."""
    try:
        return _of_fingerprint(_fingerprint(folder, recipe), recipe)
    except (OSError, KeyError, TypeError, DamageError, RequestError):
        return None


def text_of(model: LoadedModel) -> Dataset | None:
    """The prepared text that a model was trained on; None where it is not on this machine.

    Where its fingerprint is not known, it is what is prepared of the text that the recipe names.
    """
    if model.recipe is None:
        return None
    try:
        if model.trained_on is not None:
            return _of_fingerprint(model.trained_on, model.recipe)
        own = own_dataset(Path(model.tokenizer_source), model.recipe) if model.tokenizer_source else None
        folder = None if own else find_prepared(model.recipe.data.prepared())
        return open_dataset(folder) if folder else own
    except (OSError, DamageError, RequestError):
        return None


def _of_fingerprint(wanted: str | None, recipe: Recipe) -> Dataset | None:
    return next((open_dataset(at) for at, found in _prepared(recipe) if found == wanted), None)


def _fingerprint(folder: Path, recipe: Recipe) -> str | None:
    """The fingerprint of a checkpoint's data; of an export, that of its evaluations on the recipe's corpus."""
    if (state := folder / "state.json").is_file():
        return read_json(state)["data"]
    named = Path(recipe.data.corpus)
    own = (recipe.data.corpus, named.name, named.stem)
    return next((r["fingerprint"] for r in read_json(folder / "results.json") if r["corpus"] in own), None)


def _prepared(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """(folder, fingerprint) of what is prepared, also outside the data home."""
    named = Path(recipe.data.corpus)
    if (named / FILE).is_file():
        yield named, read_manifest(named).fingerprint
    yield from ((folder, manifest.fingerprint) for folder, manifest in prepared())


def prompt(recipe: Recipe, dataset: Dataset | None) -> Cut | None:
    """What stands around the gap of an infill: that of the recipe, else words of the held-out text with their spaces.

    None for an autoregressive model, which fills no gaps, and where no words are found.
    """
    gap = recipe.report.infill
    if recipe.objective.make().causal:
        return None
    if gap is not None and gap.prefix is not None and gap.suffix is not None:
        return Cut(gap.prefix, gap.suffix)
    if dataset is None:
        return None
    found = cut(dataset, (gap and gap.length) or min(PROMPT, recipe.model.length))
    spaced = found is not None and " " in found.prefix + found.suffix  # else a text without spaces
    return Cut(f"{found.prefix} ", f" {found.suffix}") if found and spaced else found


def infill_length(recipe: Recipe) -> int:
    """The tokens of an infill around `prompt`, the given ones included."""
    gap = recipe.report.infill
    if gap is None:
        return min(PROMPT, recipe.model.length)
    return gap.length or recipe.model.length
