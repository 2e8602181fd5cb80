"""What does not fit into memory is refused before it is loaded, in every layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import llamas, sedd_networks
from support.jobs import completed
from support.published_models import save_published, save_training_directory

from sedd_cli.checkpoints.checkpoint import Checkpoint
from sedd_cli.checkpoints.export import ExportOptions, export
from sedd_cli.checkpoints.formats import FORMATS, base
from sedd_cli.checkpoints.formats.weights_memory import memory_needed
from sedd_cli.checkpoints.load import open_model
from sedd_cli.errors import RequestError


def save_hugging_face(kind: str, architecture: str):
    config = {"mask_token_id": llamas.MASK}
    return lambda path: llamas.save_hugging_face(path, llamas.reference(architecture), kind, config=config)


def halved(save):
    """The same with its safetensors file in bf16."""

    def saved(path: Path) -> None:
        save(path)
        (file,) = path.glob("*.safetensors")
        save_file({name: value.bfloat16() for name, value in load_file(file).items()}, file)

    return saved


def pickled_in_half(path: Path) -> None:
    sedd_networks.save_gidd_run(path)
    state = torch.load(path / "model.pt")
    torch.save({name: value.bfloat16() for name, value in state.items()}, path / "model.pt")


def exported(kind: str, **options):
    def saved(path: Path) -> None:
        first = path.with_name("first")
        SAVED[kind](first)
        completed(export(open_model(first, "cpu"), ExportOptions(path, transformers=True, **options)))

    return saved


def save_shards(path: Path) -> None:
    llamas.save_llada(path, llamas.reference(), shards=3)


SAVED = {
    **{name: save for name, (save, *_) in sedd_networks.FORMATS.items()},
    "mdlm in bf16": halved(sedd_networks.FORMATS["mdlm"][0]),
    "gidd-run in bf16": pickled_in_half,
    "llada": lambda path: llamas.save_llada(path, llamas.reference()),
    "llada in shards": save_shards,
    "dream": save_hugging_face("Dream", "Qwen2"),
    "a2d": save_hugging_face("a2d-qwen3", "Qwen3"),
    "smdm": lambda path: llamas.save_smdm(path, llamas.reference()),
    "smdm in bf16": halved(lambda path: llamas.save_smdm(path, llamas.reference())),
    "sedd, of mdlm in bf16": exported("mdlm", half=True),
    "sedd, of llada": exported("llada"),
    "sedd, of llada in bf16": exported("llada", half=True),
    "published": save_published,
    "training directory": save_training_directory,
}


@pytest.mark.parametrize("name", SAVED)
def test_what_does_not_fit_is_refused_before_it_is_loaded(tmp_path, monkeypatch, name):
    SAVED[name](tmp_path / "m")
    path = tmp_path / "m" if (tmp_path / "m").exists() else tmp_path / "m.ckpt"
    taken = sum(value.numel() * value.element_size() for value in open_model(path, "cpu").net.parameters())
    with monkeypatch.context() as patched:
        for kind in FORMATS.values():
            patched.setattr(kind, "load", lambda *_: pytest.fail("loaded"))
        patched.setattr(base, "free_memory", lambda device: taken)
        with pytest.raises(RequestError, match=r"takes 0\.00 GB of memory, 0\.00 GB are free on cpu"):
            open_model(path, "cpu")
    monkeypatch.setattr(base, "free_memory", lambda device: 1.2 * taken + 10_000)  # headers of files, and buffers
    open_model(path, "cpu")


def test_a_folder_with_one_checkpoint_is_checked_like_its_file(tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    sedd_networks.FORMATS["lightning subs"][0](tmp_path / "m" / "last.ckpt")
    monkeypatch.setattr(base, "free_memory", lambda device: 100)
    with pytest.raises(RequestError, match="of memory"):
        open_model(tmp_path / "m", "cpu")


@pytest.mark.parametrize("part", ["", "checkpoints/step-12"])
def test_a_run_that_does_not_fit_is_refused_before_its_weights_are_read(tiny_run, monkeypatch, part):
    """Of its checkpoint the averaged weights count, not the others and the optimizer's moments beside them."""
    taken = sum(value.numel() * value.element_size() for value in open_model(tiny_run, "cpu").net.parameters())
    monkeypatch.setattr(base, "free_memory", lambda device: taken)
    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "tensors", lambda *_: pytest.fail("read"))
        with pytest.raises(RequestError, match=r"takes 0\.00 GB of memory, 0\.00 GB are free on cpu"):
            open_model(tiny_run / part, "cpu")
    monkeypatch.setattr(base, "free_memory", lambda device: 1.2 * taken)
    open_model(tiny_run / part, "cpu")


def test_a_checkpoint_in_shards_takes_the_memory_of_them_all(tmp_path):
    for number in (1, 2):
        parts = {"ema.a": torch.zeros(8, 4), "weights.a": torch.zeros(8, 4), "adamw.a.exp_avg": torch.zeros(8, 4)}
        save_file(parts, tmp_path / f"shard-{number}.safetensors")
    assert memory_needed(tmp_path.glob("*.safetensors"), copied=True, kind="ema.") == 4 * 64
    assert memory_needed(tmp_path.glob("*.safetensors"), copied=True) == 4 * 192


def test_every_format_is_among_them(tmp_path):
    found = set()
    for i, save in enumerate(SAVED.values()):
        (folder := tmp_path / str(i)).mkdir()
        save(folder / "m")
        path = folder / "m" if (folder / "m").exists() else folder / "m.ckpt"
        kind = base.find_format(base.ModelFiles(path, "m"))[0]
        found |= {kind.name} if kind else set()
    assert found == set(FORMATS)
