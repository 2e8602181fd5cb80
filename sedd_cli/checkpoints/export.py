"""`export`: a model in the published layout, as a folder and on the hub."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from sedd_cli import __version__
from sedd_cli.checkpoints import hub
from sedd_cli.checkpoints.load import open_model
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.checkpoints.model_card import RESULTS, Card, results_of
from sedd_cli.checkpoints.published import CONFIG, OURS, RECIPE, TOKENIZER, WEIGHTS, config_of
from sedd_cli.checkpoints.tensors import check_finite
from sedd_cli.core.random import BASE, Stream
from sedd_cli.errors import RequestError, WorkError
from sedd_cli.recipe import dump_recipe
from sedd_cli.system.events import Event, Finished, Note, Warn
from sedd_cli.system.files import sync_path
from sedd_cli.system.home import nearest_existing

#: What an export may consist of, and what of an earlier one must not stay beside it.
FILES = (CONFIG, *WEIGHTS, TOKENIZER, RECIPE, RESULTS, "README.md")
#: The noise schedule's ε that the published code has built in.
PUBLISHED_EPS = 1e-3


@dataclass(frozen=True)
class ExportOptions:
    """to: the folder to make; without it a temporary one is uploaded. half: weights in bf16.

    push: upload as owner/name, private if asked; dry_run: say what would be uploaded, and upload nothing.
    """

    to: Path | None = None
    half: bool = False
    push: str | None = None
    private: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.to is None and self.push is None:
            raise RequestError("export where to? --to FOLDER, --push OWNER/NAME, or both")
        if self.push is None and (self.private or self.dry_run):
            raise RequestError(f"{'--private' if self.private else '--dry-run'} goes with --push")
        if self.push is not None:
            hub.check_id(self.push)
        if self.to is not None and self.to.exists() and not (self.to.is_dir() and not any(self.to.iterdir())):
            raise RequestError(f"{self.to} is there already: remove it, or name another folder")


def export(model: LoadedModel, options: ExportOptions) -> Iterator[Event]:
    """Write the float32 `model` in the published layout, see that it loads back to the same scores, and upload it.

    The folder appears whole or not at all. Raises RequestError for what the layout cannot hold, WorkError where the
    disk or the hub fails.
    """
    check_finite(model.net, model.source)
    if model.precision != "fp32":
        raise RequestError("an export takes a model that was loaded in fp32")
    if model.objective.mean or model.exact:
        raise RequestError(
            f"the published layout is that of scores: it has no place for a model of {model.objective.name}"
        )
    config = config_of(model.graph, model.schedule, model.net.config)
    if config["noise"].get("eps", PUBLISHED_EPS) != PUBLISHED_EPS:
        yield Warn(
            f"noise.eps is {config['noise']['eps']}: the published code computes with {PUBLISHED_EPS} all the same"
        )
    if model.tokenizer is None:
        why = f"{model.tokenizer_source}'s files are out of reach" if model.tokenizer_source else "none is named"
        yield Warn(f"no tokenizer is exported: {why}")
    if options.to is not None:
        for left in options.to.resolve().parent.glob(f".{options.to.resolve().name}.*.partial"):
            yield Warn(f"{left} was left by an export that was killed, or belongs to one that is going on")
    with ExitStack() as stack:
        place = options.to or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model"
        with _whole(place) as folder:
            moved, fingerprint = _write(model, config, folder, options.push or str(options.to), options.half)
        if options.half:
            yield Note(f"rounded to bf16: log-scores move by {moved[0]:.2g} (root mean square), at most {moved[1]:.2g}")
        else:
            yield Note("loaded back: weights and log-scores are identical")
        sizes = {path.name: path.stat().st_size for path in sorted(place.iterdir())}
        result: dict[str, Any] = {"model": model.source, "model_fingerprint": model.fingerprint}
        result |= {"fingerprint": fingerprint, "files": sizes}
        result |= {"half": options.half, "log_score_moved": {"rms": moved[0], "max": moved[1]}}
        if options.to is not None:
            result["folder"] = str(options.to)
            yield Note(f"wrote {options.to}")
        if options.push is not None:
            result["push"] = {"to": options.push, "private": options.private, "dry_run": options.dry_run}
            result["push"]["commit"] = yield from _pushed(model, place, sizes, options)
    yield Finished(result)


def _pushed(
    model: LoadedModel, folder: Path, sizes: dict[str, int], options: ExportOptions
) -> Generator[Event, None, str | None]:
    """The address of the commit; None after a dry run, which says what would be uploaded."""
    kind, total = "private" if options.private else "public", sum(sizes.values()) / 1e6
    for key, path in _local_paths(model):
        yield Warn(f"the recipe names a path of this machine, which others will read: {key} {path}")
    if options.dry_run:
        yield Note(f"dry run, nothing is uploaded: these files, {total:,.1f} MB, would go to {options.push} ({kind})")
        yield from (Note(f"  {size:>14,} bytes  {name}") for name, size in sizes.items())
        return None
    yield Note(f"uploading {total:,.1f} MB to {options.push} ({kind})")
    address = hub.push(folder, options.push, options.private, f"{Path(model.source).name} by sedd {__version__}", FILES)
    yield Note(f"pushed {address}")
    return address


def _local_paths(model: LoadedModel) -> Iterator[tuple[str, str]]:
    if model.recipe is not None:
        for key, value in (("data.corpus", model.recipe.data.corpus), ("init_from", model.recipe.init_from)):
            if value is not None and Path(value).is_absolute():
                yield key, value


@contextmanager
def _whole(place: Path) -> Iterator[Path]:
    """A folder to write to, which becomes `place` when the block is left in order; else nothing of it remains."""
    place = place.resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{place.name}.", suffix=".partial", dir=place.parent) as within:
            folder = Path(within) / "model"
            folder.mkdir()
            yield folder
            os.replace(folder, place)
            sync_path(place.parent)
    except OSError as error:
        kind = WorkError if error.errno == errno.ENOSPC else RequestError
        raise kind(f"cannot write to {place}: {error.strerror}") from None


def _write(
    model: LoadedModel, config: dict[str, Any], folder: Path, named: str, half: bool
) -> tuple[tuple[float, float], str]:
    """All files, on the disk; how log-scores move by it (root mean square, largest), and their fingerprint."""
    tensors = _stored(model, half)
    needed = sum(t.numel() * t.element_size() for t in tensors.values())
    free = shutil.disk_usage(nearest_existing(folder)).free
    if needed > free:
        raise WorkError(f"the weights take {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free on that disk")
    ours = {"version": __version__, "dtype": "bfloat16" if half else "float32"}
    ours |= {key: model.facts[key] for key in ("step", "weights") if key in model.facts}
    try:
        save_file(tensors, folder / WEIGHTS[0], metadata={"format": "pt"})
        (folder / CONFIG).write_text(json.dumps({**config, OURS: ours}, indent=1) + "\n", encoding="utf-8")
        (folder / WEIGHTS[0]).chmod((folder / CONFIG).stat().st_mode)  # the library makes it private
        if model.tokenizer is not None:
            model.tokenizer.save(folder)
        if model.recipe is not None:
            (folder / RECIPE).write_text(dump_recipe(model.recipe), encoding="utf-8")
        if found := list(results_of(model)):
            (folder / RESULTS).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        moved, fingerprint = _moved(model, folder, half)
        (folder / "README.md").write_text(Card(model, named, moved if half else None).text(), encoding="utf-8")
        for path in [*folder.iterdir(), folder]:
            sync_path(path)
    except (OSError, SafetensorError) as error:
        raise WorkError(f"cannot write the export: {error}") from None
    return moved, fingerprint


def _stored(model: LoadedModel, half: bool) -> dict[str, Tensor]:
    """What the file will hold: parameters, in bf16 if half, and buffers."""
    low = {name for name, _ in model.net.named_parameters()} if half else set()
    state = {name: value.detach().cpu().contiguous() for name, value in model.net.state_dict().items()}
    return {name: value.bfloat16() if name in low else value for name, value in state.items()}


def _moved(model: LoadedModel, folder: Path, half: bool) -> tuple[tuple[float, float], str]:
    """`difference` from what was written, loaded back, and its fingerprint; WorkError if it differs without half."""
    again = open_model(folder, str(model.device))
    moved = difference(model, again)
    if not half and (moved[1] or again.fingerprint != model.fingerprint):
        raise WorkError(f"what was written loads back as another model: log-scores move by up to {moved[1]:.2g}")
    return moved, again.fingerprint


@torch.no_grad()
def difference(one: LoadedModel, other: LoadedModel) -> tuple[float, float]:
    """(root mean square, largest) difference of two models' log-scores where sampling begins, on one sequence."""
    u, _ = Stream(0, BASE, torch.zeros(1, dtype=torch.int64)).uniforms(0, one.length)
    x, sigma = one.graph.sample_base(u), torch.tensor([one.schedule.sigma(1.0)], dtype=torch.float32)
    apart = one.log_score(x, sigma).sub_(other.log_score(x, sigma)).double()
    return float(apart.square().mean().sqrt()), float(apart.abs().max())
