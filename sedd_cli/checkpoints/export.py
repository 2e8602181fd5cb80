"""Export a model, in the published layout or in that of `transformers`, to a folder and to the Hugging Face hub."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from sedd_cli import __version__
from sedd_cli.checkpoints import hub
from sedd_cli.checkpoints.load import open_model
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.checkpoints.model_card import RESULTS, ModelCard, results_of
from sedd_cli.checkpoints.portable.layout import (
    MODELING,
    TOKENIZER_CONFIG,
    TOKENIZERS,
    ExportLayout,
    portable_layout,
    published_layout,
)
from sedd_cli.checkpoints.published import CONFIG, OURS, RECIPE, TOKENIZER, WEIGHTS
from sedd_cli.checkpoints.tensors import check_finite
from sedd_cli.core.random import BASE, Stream
from sedd_cli.data.tokenizers import holds_tokenizer, open_tokenizer
from sedd_cli.errors import RequestError, WorkError, reason_of, unwritable
from sedd_cli.recipe import dump_recipe
from sedd_cli.system.documents import read_json, read_yaml
from sedd_cli.system.events import Event, Note, Warn
from sedd_cli.system.files import new_folder, remove_left, sync_path
from sedd_cli.system.home import nearest_existing
from sedd_cli.system.json_lines import json_text
from sedd_cli.system.outputs import check_folder

#: All files that an export may hold; on the hub, those of an earlier export are removed.
FILES = (CONFIG, *WEIGHTS, *TOKENIZERS, RECIPE, RESULTS, MODELING, "README.md")


@dataclass(frozen=True)
class ExportOptions:
    """Where to export to.

    Attributes:
        to: The folder to make; None uploads from a temporary one.
        half: Store the weights in bf16.
        push: Upload as this owner/name.
        private: Make the repository private.
        dry_run: List what would be uploaded, and upload nothing.
        transformers: Take the layout that `transformers` opens, which holds models of any kind.
    """

    to: Path | None = None
    half: bool = False
    push: str | None = None
    private: bool = False
    dry_run: bool = False
    transformers: bool = False

    def __post_init__(self) -> None:
        if self.to is None and self.push is None:
            raise RequestError("export needs --to FOLDER, --push OWNER/NAME, or both")
        if self.push is None and (self.private or self.dry_run):
            raise RequestError(f"{'--private' if self.private else '--dry-run'} needs --push")
        if self.push is not None:
            hub.check_id(self.push)
        if self.to is not None:
            check_folder("--to", self.to, lambda folder: False, "an empty one")
            if (above := nearest_existing(self.to.absolute())) and not above.is_dir():
                raise RequestError(f"cannot write to {self.to}: {above} is not a folder")


@dataclass(frozen=True)
class Pushed:
    """An upload. commit: its URL, None after a dry run."""

    to: str
    private: bool
    dry_run: bool
    commit: str | None


@dataclass(frozen=True)
class ExportResult:
    """What was exported.

    fingerprint: that of the exported weights. files: sizes in bytes. rms, most: how rounding moves log-scores, root
    mean square and maximum.
    """

    model: str
    model_fingerprint: str
    fingerprint: str
    files: dict[str, int]
    half: bool
    rms: float
    most: float
    folder: Path | None
    push: Pushed | None

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {"model": self.model, "model_fingerprint": self.model_fingerprint}
        found |= {"fingerprint": self.fingerprint, "files": self.files}
        found |= {"half": self.half, "log_score_moved": {"rms": self.rms, "max": self.most}}
        found |= {} if self.folder is None else {"folder": str(self.folder)}
        return found | ({} if self.push is None else {"push": asdict(self.push)})


def export(model: LoadedModel, options: ExportOptions) -> Generator[Event, None, ExportResult]:
    """Write a model that was loaded in fp32, verify that it loads back to the same scores, and upload it.

    The folder appears complete or not at all.

    Raises:
        RequestError: The layout cannot hold this model, or the folder cannot be written.
        WorkError: The disk is full, or the upload fails.
    """
    if model.objective.learns_exponents:
        raise RequestError(f"no layout of an export holds learned exponents, which {model.source} has: copy its folder")
    check_finite(model.net, model.source)
    if model.precision != "fp32":
        raise RequestError(f"export needs a model that was loaded in fp32, found {model.precision}")
    layout = portable_layout(model, options.half) if options.transformers else published_layout(model)
    yield from (Warn(line) for line in layout.remarks)
    if model.tokenizer is None:
        why = f"{model.tokenizer_source}'s files are not available" if model.tokenizer_source else "none is named"
        yield Warn(f"no tokenizer is exported: {why}")
    if options.to is not None:
        remove_left(options.to.resolve())
    with ExitStack() as stack:
        place = options.to or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model"
        with _whole(place) as folder:
            moved, fingerprint = _write(model, layout, folder, options.push or str(options.to), options.half)
        if options.half:
            yield Note(f"rounded to bf16: log-scores move by {moved[0]:.2g} (root mean square), at most {moved[1]:.2g}")
        else:
            yield Note("loaded back: weights and log-scores are identical")
        sizes = {path.name: path.stat().st_size for path in sorted(place.iterdir())}
        if options.to is not None:
            yield Note(f"wrote {options.to}")
        pushed = None
        if options.push is not None:
            commit = yield from _push(model, place, sizes, options.push, options)
            pushed = Pushed(options.push, options.private, options.dry_run, commit)
    rms, most = moved
    return ExportResult(
        model.source, model.fingerprint, fingerprint, sizes, options.half, rms, most, options.to, pushed
    )


def _push(
    model: LoadedModel, folder: Path, sizes: dict[str, int], name: str, options: ExportOptions
) -> Generator[Event, None, str | None]:
    """Upload the folder; the URL of the commit, None after a dry run, which lists what would be uploaded."""
    kind, total = "private" if options.private else "public", sum(sizes.values()) / 1e6
    for path, place in _local_paths(folder).items():
        yield Warn(f"{place} {path} names a path of this machine, and is uploaded too")
    if options.dry_run:
        yield Note(f"dry run, nothing is uploaded: these files, {total:,.1f} MB, would go to {name} ({kind})")
        yield from (Note(f"  {size:>14,} bytes  {name}") for name, size in sizes.items())
        return None
    yield Note(f"uploading {total:,.1f} MB to {name} ({kind})")
    address = hub.push(folder, name, options.private, f"{Path(model.source).name} by sedd {__version__}", FILES)
    yield Note(f"pushed {address}")
    return address


def _local_paths(folder: Path) -> dict[str, str]:
    """The absolute paths in the documents of an export, each with the first file and key that names it."""
    found: dict[str, str] = {}
    for name in (RECIPE, CONFIG, RESULTS, TOKENIZER_CONFIG):
        if (folder / name).is_file():
            content = read_yaml(folder / name) if name == RECIPE else read_json(folder / name)
            for key, value in _texts(content):
                found.setdefault(value, f"{name}: {key}")
    if holds_tokenizer(folder):
        found.setdefault(open_tokenizer(folder).spec, f"{TOKENIZER}: spec")
    return {text: place for text, place in found.items() if "\n" not in text and Path(text).is_absolute()}


def _texts(content: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and value of every text in a document."""
    if isinstance(content, str):
        yield key, content
    named = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for name, value in named:
        yield from _texts(value, f"{key}.{name}" if key else str(name))


@contextmanager
def _whole(place: Path) -> Iterator[Path]:
    """A temporary folder that becomes `place` when the block ends without an error, and is removed otherwise."""
    place = place.resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(place) as within:
            folder = within / "model"
            folder.mkdir()
            try:
                yield folder
            except (OSError, SafetensorError) as error:
                raise WorkError(f"cannot write {place}: {reason_of(error)}") from None
            os.replace(folder, place)
            sync_path(place.parent)
    except OSError as error:
        raise unwritable(place, error) from None


def _write(
    model: LoadedModel, layout: ExportLayout, folder: Path, named: str, half: bool
) -> tuple[tuple[float, float], str]:
    """Write all files; returns how log-scores move (root mean square, maximum) and the fingerprint of the copy."""
    tensors = layout.tensors(model, half)
    needed = sum(t.numel() * t.element_size() for t in tensors.values())
    disk = folder.parent.parent
    free = shutil.disk_usage(disk).free
    if needed > free:
        raise WorkError(f"the weights take {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free in {disk}")
    ours = {"version": __version__, "dtype": "bfloat16" if half else "float32"}
    ours |= {key: model.facts[key] for key in ("step", "weights") if key in model.facts}
    if model.tokenizer is None and model.tokenizer_source and not Path(model.tokenizer_source).exists():
        ours["tokenizer"] = model.tokenizer_source
    save_file(tensors, folder / WEIGHTS[0], metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps({**layout.config, OURS: ours}, indent=1) + "\n", encoding="utf-8")
    (folder / WEIGHTS[0]).chmod((folder / CONFIG).stat().st_mode)  # safetensors makes it readable by the owner only
    layout.write_files(model, folder)
    if model.recipe is not None:
        (folder / RECIPE).write_text(dump_recipe(model.recipe), encoding="utf-8")
    if found := list(results_of(model)):
        (folder / RESULTS).write_text(json_text(found, 1) + "\n", encoding="utf-8")
    moved, fingerprint = _moved(model, folder, half)
    (folder / "README.md").write_text(
        ModelCard(model, named, moved if half else None, layout.use).text(), encoding="utf-8"
    )
    for path in [*folder.iterdir(), folder]:
        sync_path(path)
    return moved, fingerprint


def _moved(model: LoadedModel, folder: Path, half: bool) -> tuple[tuple[float, float], str]:
    """Load the export back and compare: `difference` and fingerprint; WorkError if it differs without half."""
    again = open_model(folder, str(model.device))
    moved = difference(model, again)
    if not half and (moved[1] or again.fingerprint != model.fingerprint):
        raise WorkError(f"the export loads back as a different model: log-scores differ by up to {moved[1]:.2g}")
    return moved, again.fingerprint


@torch.no_grad()
def difference(one: LoadedModel, other: LoadedModel) -> tuple[float, float]:
    """Root mean square and maximum difference of two models' log-scores, on one sequence of the base distribution.

    Of autoregressive models: of the nats of one sequence.
    """
    u, _ = Stream(0, BASE, torch.zeros(1, dtype=torch.int64)).uniforms(0, one.length)
    if one.exact:
        x = (u * one.vocab_size).long()
        return (apart := float((one.nats(x) - other.nats(x)).abs())), apart
    x, sigma = one.graph.sample_base(u), torch.tensor([one.schedule.sigma(1.0)], dtype=torch.float32)
    found, again = one.log_score(x, sigma), other.log_score(x, sigma)
    apart = torch.where(found == again, 0.0, found - again).double()  # equal infinities among them
    return float(apart.square().mean().sqrt()), float(apart.abs().max())
