"""Recognise and load a model: a run, a checkpoint, a published model in any of its layouts."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sedd_cli.checkpoints import checkpoint, hub, published
from sedd_cli.checkpoints.formats import FORMATS, find_format
from sedd_cli.checkpoints.formats.base import ModelFiles
from sedd_cli.checkpoints.formats.lightning import SUFFIX
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.checkpoints.portable.layout import TOKENIZERS
from sedd_cli.checkpoints.run_directory import find_run, near_run
from sedd_cli.checkpoints.tensors import INDEX, load_weights, read_tensors, tensor_shapes
from sedd_cli.data.tokenizers import Tokenizer, is_known, is_local, load_tokenizer, open_tokenizer
from sedd_cli.data.tokenizers.reindexed import ReindexedTokenizer
from sedd_cli.errors import DamageError, RequestError, displayed, listed
from sedd_cli.models.dit import DiT
from sedd_cli.models.precision import autocast_dtype
from sedd_cli.recipe import load_recipe
from sedd_cli.recipe.assemble import learned_exponents, make_graph, with_exponents
from sedd_cli.recipe.outside import import_installed
from sedd_cli.system.distributed import pick_device

#: The kind of a checkpoint's tensors that a run is loaded from.
AVERAGED = "ema"
#: Names of weights on the hub, best first.
WEIGHTS = (*published.WEIGHTS, *(name + INDEX for name in published.WEIGHTS))


def open_model(
    source: str | Path,
    device: str = "auto",
    precision: str = "fp32",
    tokenizer: str | None = None,
    mask_token: str | None = None,
) -> LoadedModel:
    """Load a model without the methods that sample and infill; arguments and errors are those of `load_model`."""
    import_installed()
    chosen = pick_device(device)
    autocast = autocast_dtype(precision, chosen)
    model = _recognised(find_run(source), str(source), mask_token, chosen)
    if mask_token is not None and model.vocabulary is None:
        raise RequestError(f"--mask-token is for models of other projects, which {source} is not")
    if tokenizer is not None and not _is_own(tokenizer, model):
        own, model.tokenizer, model.tokenizer_source = model.tokenizer, load_tokenizer(tokenizer), tokenizer
        if own is None or own.fingerprint != model.tokenizer.fingerprint:
            model.trained_on = None
    elif model.tokenizer is None and model.tokenizer_source is not None:
        model.tokenizer = _load_if_available(model.tokenizer_source)
    if model.tokenizer is not None and (own := model.vocabulary) is not None:
        if model.tokenizer.vocab_size > own.rows:
            raise RequestError(
                f"tokenizer {model.tokenizer_source!r} has {model.tokenizer.vocab_size:,} tokens, {source} has only "
                f"{own.rows:,} rows"
            )
        if model.tokenizer.vocab_size != own.tokens or not own.in_order:
            model.tokenizer = ReindexedTokenizer(model.tokenizer, own.rows, own.mask)
    if model.tokenizer is not None and model.tokenizer.vocab_size != model.vocab_size:
        raise RequestError(
            f"tokenizer {model.tokenizer_source!r} has {model.tokenizer.vocab_size} tokens, "
            f"{source} has {model.vocab_size}"
        )
    model.net.to(chosen).eval().requires_grad_(False)
    model.net.cast_for_inference(autocast)  # on the device: what is rounded depends on it
    return model


def _recognised(path: Path, source: str, mask: str | None, device: torch.device) -> LoadedModel:
    files = ModelFiles(path, source)
    if own := _own(files, source, device):
        return own
    found, taken = find_format(files)
    if found:
        files.check_memory(device, found.files(files), found.copies(files))
        model = found.load(files, mask)
        facts: dict[str, Any] = {"taken for": taken} if taken else {}
        facts |= files.which_weights(found.files(files))
        declared = files.config.get("mask_token_id")
        if mask is not None and model.vocabulary and type(declared) is int and declared != model.vocabulary.mask:
            facts[f"MASK by {published.CONFIG}"] = declared
        return replace(model, facts=model.facts | facts) if facts else model
    if not files.config and not (path / published.CHECKPOINT).is_file() and (stored := _lightning_files(path)):
        raise RequestError(f"{source} is a folder of checkpoints of lightning: name one of {listed(stored)}")
    if (path.is_dir() or path.suffix in published.PICKLES) and published.training_directory(path):
        files.check_memory(device, [path if path.is_file() else path / published.CHECKPOINT], copied=True)
        return published.load_training_directory(path, source)
    if files.model_type and "graph" not in files.config:
        found = f"model_type {displayed(files.model_type)}"
        raise RequestError(f"{source} is of no known format: its {published.CONFIG} has {found}; {_formats()}")
    if (path / published.CONFIG).is_file():
        files.check_memory(device, files.weight_files, copied=True)
        model = published.load_published(path, source)
        return replace(model, facts=model.facts | files.which_weights(files.weight_files))
    if path.is_file() and path.name in (published.CONFIG, *published.WEIGHTS):
        return _recognised(path.parent, source, mask, device)
    if path.is_dir():
        raise RequestError(
            f"{source} is not a model: neither a run (it has no `{checkpoint.LATEST}` checkpoint), nor a checkpoint "
            f"({checkpoint.MANIFEST}), nor the published layout ({published.CONFIG}), nor a training directory of the "
            f"published code ({published.HYDRA}); it holds "
            f"{listed(sorted(at.name for at in path.iterdir())) or 'nothing'}; {_formats()}"
        )
    if path.is_file():
        raise RequestError(
            f"{source} is a file of no known format: neither {' nor '.join(published.WEIGHTS)} of a folder with "
            f"{published.CONFIG}, nor a checkpoint {' or '.join(f'*{one}' for one in published.PICKLES)} in a training "
            f"directory of the published code ({published.HYDRA}); it holds {_tensors_in(path)}; {_formats()}"
        )
    folder = _fetched(source)
    model = _recognised(folder, source, mask, device)
    model.facts = {"commit": folder.name[:8], **model.facts}
    return model


def _own(files: ModelFiles, source: str, device: torch.device) -> LoadedModel | None:
    """The model of a run or of a checkpoint of this package; None where the path is neither."""
    path = files.path
    own = checkpoint.latest(path)
    if own is None and (path / checkpoint.MANIFEST).is_file():
        own = checkpoint.open_checkpoint(path)
    while own:
        try:
            files.check_memory(device, own.folder.glob("*.safetensors"), copied=True, kind=f"{AVERAGED}.")
            return _from_checkpoint(own, source)
        except (RequestError, DamageError, OSError):
            if checkpoint.latest_name(path) in (None, own.folder.name):
                raise
            own = checkpoint.latest(path)  # a training has written another one meanwhile, and removed this one
    return None


def _lightning_files(folder: Path) -> list[Path]:
    """The checkpoints of lightning in a folder, or in the folders `checkpoints*` of a training directory."""
    found = [*folder.glob(f"*{SUFFIX}"), *folder.glob(f"checkpoints*/*{SUFFIX}")]
    return sorted(file for file in found if file.is_file())


def _tensors_in(file: Path) -> str:
    """The tensors that a file holds, in words, for a message."""
    names = list(tensor_shapes(file)) if file.suffix == ".safetensors" else []
    if file.suffix in (".bin", *published.PICKLES):
        with suppress(RequestError, DamageError):
            names = list(read_tensors(file))
    return f"{len(names):,} tensors: {listed(names, 4)}" if names else "no tensors by name that can be read"


def _formats() -> str:
    """The formats of others and their marks, for a message."""
    return "formats of others: " + "; ".join(f"{one.name} ({one.marks})" for one in FORMATS.values())


def _fetched(name: str) -> Path:
    """The cached folder of a hub id; RequestError if `name` cannot be one."""
    if name.count("/") != 1 or name.startswith(("/", ".", "~")) or name.endswith("/"):
        hint = near_run(Path(name))
        raise RequestError(f"no model at {name}: neither a folder nor a hub id of the form owner/name{hint}")
    if Path(name).parent.is_dir():
        raise RequestError(
            f"no model at {name}: {Path(name).parent} is a folder without {Path(name).name} in it{near_run(Path(name))}"
        )
    hub.check_id(name)
    try:
        return hub.fetch(name, published.CONFIG, WEIGHTS, [*TOKENIZERS, published.RECIPE])
    except RequestError as error:
        raise RequestError(f"there is no folder {name}, and {error}") from error


def _from_checkpoint(found: checkpoint.Checkpoint, source: str) -> LoadedModel:
    recipe = load_recipe(found.folder / "recipe.yaml")
    tokenizer = open_tokenizer(found.folder)
    graph, objective = make_graph(recipe, tokenizer.vocab_size), recipe.objective.make()
    learned = learned_exponents(objective, graph)
    net = DiT.empty(recipe.model, graph.states, objective.causal, exponents=learned)
    load_weights(net, found.tensors(AVERAGED), str(found.folder))
    graph = with_exponents(graph, net)
    facts = {"step": found.step, "weights": "EMA"}
    data = found.json("state").get("data")
    return LoadedModel(
        net, graph, recipe.noise.make(), tokenizer, source, recipe, facts, str(found.folder),
        trained_on=data if isinstance(data, str) else None,
    )  # fmt: skip


def _is_own(named: str, model: LoadedModel) -> bool:
    """Whether a tokenizer's name is that of the one that a model holds.

    RequestError where both are names that need no file, and differ. Others are loaded before it is known.
    """
    own = model.tokenizer
    if own is None or is_local(named):
        return False
    if named != own.spec and is_known(named) and is_known(own.spec):
        raise RequestError(f"{model.source} has its own tokenizer, {own.spec}: leave out {named}")
    return named == own.spec


def _load_if_available(name: str) -> Tokenizer | None:
    """The tokenizer that a model names; None if its files are not available, since scores need none."""
    try:
        return load_tokenizer(name)
    except RequestError:
        if is_local(name):
            raise
        return None
