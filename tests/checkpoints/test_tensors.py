"""Files of tensors: what does not fit is listed, what is damaged named, what wants to run code refused."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file
from support.published_models import save_published, save_training_directory

from sedd_cli import load_model
from sedd_cli.checkpoints.tensors import read_tensors, tensor_shapes
from sedd_cli.errors import DamageError, RequestError

FORMS = {
    "safetensors": save_published,
    "pickle": lambda folder, graph: save_published(folder, graph, pickled=True),
    "training directory": save_training_directory,
}

DEVIATIONS = {
    "missing": (lambda s: s.pop("blocks.0.attn_qkv.weight"), ["missing blocks.0.attn_qkv.weight"]),
    "unexpected": (lambda s: s.update(extra=torch.zeros(2)), ["unexpected extra"]),
    "misshapen": (
        lambda s: s.update({"blocks.1.norm1.weight": torch.zeros(3)}),
        ["blocks.1.norm1.weight is [3], expected [16]"],
    ),
    "of whole numbers": (
        lambda s: s.update({"blocks.1.norm1.weight": torch.zeros(16, dtype=torch.int8)}),
        ["blocks.1.norm1.weight is int8, expected floating point"],
    ),
    "all at once": (
        lambda s: (s.pop("output_layer.linear.bias"), s.update(a=torch.zeros(1), b=torch.zeros(1))),
        ["missing output_layer.linear.bias", "unexpected a", "unexpected b"],
    ),
}


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize(("change", "words"), DEVIATIONS.values(), ids=DEVIATIONS)
def test_weights_that_do_not_fit_are_all_listed(tmp_path, change, words, pickled):
    state = save_published(tmp_path / "m", pickled=pickled)
    change(state)
    if pickled:
        torch.save(state, tmp_path / "m" / "pytorch_model.bin")
    else:
        save_file(state, tmp_path / "m" / "model.safetensors")
    with pytest.raises(DamageError) as refused:
        load_model(tmp_path / "m")
    assert all(word in str(refused.value) for word in words)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kept", [0, 10, 1000, -1])
def test_a_truncated_file_is_named(tmp_path, form, kept):
    FORMS[form](tmp_path / "m", "absorb")
    (path,) = (p for p in (tmp_path / "m").rglob("*") if p.suffix in (".safetensors", ".bin", ".pth"))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DamageError, match=path.name):
        load_model(tmp_path / "m")


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch evil-was-here",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("form", ["pickle", "training directory"])
def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path, monkeypatch, form, zipped):
    monkeypatch.chdir(tmp_path)
    FORMS[form](tmp_path / "m", "absorb")
    (path,) = (p for p in (tmp_path / "m").rglob("*") if p.suffix in (".bin", ".pth"))
    torch.save({"model": Evil()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(RequestError, match=r"is refused: this pickle needs \w+\.system"):
        load_model(tmp_path / "m")
    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(RequestError, match=r"is refused: this pickle needs \w+\.system"):
        load_model(tmp_path / "m")
    path.write_bytes(pickle.dumps(Evil(), protocol=4))
    with pytest.raises(RequestError, match="is refused: this pickle needs more than tensors"):
        load_model(tmp_path / "m")
    assert not (tmp_path / "evil-was-here").exists()


@pytest.mark.parametrize("stored", [[1, 2], {"a": 1}, {"a": {"b": torch.zeros(2)}}])
def test_a_pickle_of_other_things_is_no_state_dict(tmp_path, stored):
    save_published(tmp_path / "m", pickled=True)
    torch.save(stored, tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(DamageError, match=r"pytorch_model\.bin does not hold tensors by name"):
        load_model(tmp_path / "m")


def test_a_legacy_pickle_that_is_cut_anywhere_is_named(tmp_path):
    state = save_published(tmp_path / "m", pickled=True)
    path = tmp_path / "m" / "pytorch_model.bin"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    assert load_model(tmp_path / "m").length == 12
    for kept in range(0, len(whole), 997):
        path.write_bytes(whole[:kept])
        with pytest.raises((DamageError, RequestError), match=r"pytorch_model\.bin"):
            load_model(tmp_path / "m")


def test_a_pointer_of_git_lfs_is_recognised(tmp_path):
    save_published(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(DamageError, match=r"is a pointer of Git LFS.*git lfs pull"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("form", FORMS)
def test_a_model_does_not_change_when_its_file_does(tmp_path, form):
    """The published trainer overwrites its checkpoint while it runs."""
    FORMS[form](tmp_path / "m", "absorb")
    model = load_model(tmp_path / "m")
    before = [p.clone() for p in model.net.parameters()]
    (path,) = (p for p in (tmp_path / "m").rglob("*") if p.suffix in (".safetensors", ".bin", ".pth"))
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
        file.truncate(100)
    assert all(torch.equal(p, q) for p, q in zip(model.net.parameters(), before, strict=True))


def test_other_rotary_angles_are_another_network(tmp_path):
    state = save_published(tmp_path / "m")
    name = "rotary_emb.inv_freq"
    for value, reason in ((state[name] * 2, "differs from this"), (torch.ones(77), r"is \[77\], expected \[4\]")):
        save_file({**state, name: value}, tmp_path / "m" / "model.safetensors")
        with pytest.raises(DamageError, match=f"rotary_emb.inv_freq {reason}"):
            load_model(tmp_path / "m")
    save_file({**state, "blocks.0.inv_freq": torch.ones(4)}, tmp_path / "m" / "model.safetensors")
    with pytest.raises(DamageError, match=r"unexpected blocks\.0\.inv_freq"):
        load_model(tmp_path / "m")
    for kept in ({k: v for k, v in state.items() if k != name}, {**state, name: state[name].bfloat16()}):
        save_file(kept, tmp_path / "m" / "model.safetensors")
        assert load_model(tmp_path / "m").length == 12


def test_weights_in_half_precision_load_and_say_so(tmp_path):
    state = save_published(tmp_path / "m")
    save_file({k: v.half() for k, v in state.items()}, tmp_path / "m" / "model.safetensors")
    model = load_model(tmp_path / "m")
    assert model.describe().endswith("stored float16")
    assert {p.dtype for p in model.net.parameters()} == {torch.float32}


def test_a_pickle_of_odd_tensors_is_listed(tmp_path):
    state = save_published(tmp_path / "m", pickled=True)
    state["output_layer.linear.weight"] = state["output_layer.linear.weight"].to_sparse()
    torch.save(state, tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(DamageError, match=r"output_layer\.linear\.weight is not a dense tensor"):
        load_model(tmp_path / "m")
    torch.save({**state, 3: torch.zeros(1)}, tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(DamageError, match="does not hold tensors by name"):
        load_model(tmp_path / "m")


def with_head(path, make):
    """Store a state dict whose head is another tensor."""
    state = save_published(path, pickled=True)
    state["output_layer.linear.weight"] = make(state["output_layer.linear.weight"])
    torch.save(state, path / "pytorch_model.bin")


@pytest.mark.parametrize(
    "make",
    [
        lambda head: torch.zeros(1).expand(head.shape),
        lambda head: torch.zeros(head.shape[1]).expand(head.shape),
        lambda head: torch.zeros(1).expand(1 << 20, 1 << 20),
        lambda head: torch.zeros(head.numel() - 1).as_strided(head.shape, (head.shape[1] - 1, 1)),
    ],
    ids=["one number", "one row", "absurd", "rows that overlap"],
)
def test_a_tensor_that_declares_more_than_it_stores_is_refused(tmp_path, make):
    with_head(tmp_path / "m", make)
    with pytest.raises(DamageError, match=r"is refused: output_layer\.linear\.weight declares .* numbers and stores"):
        load_model(tmp_path / "m")


def test_tensors_that_all_store_the_same_numbers_are_refused(tmp_path):
    """Each is as large as its storage, but copied one by one they take many times the file."""
    state = save_published(tmp_path / "m", pickled=True)
    largest = torch.zeros(max(value.numel() for value in state.values()))
    shared = {name: largest[: value.numel()].view(value.shape) for name, value in state.items()}
    torch.save(shared, tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(DamageError, match=r"is refused: its tensors declare [\d,]+ bytes and store [\d,]+"):
        load_model(tmp_path / "m")


def test_tied_weights_are_no_damage(tmp_path):
    state = save_published(tmp_path / "m", pickled=True)
    state["blocks.1.mlp.0.weight"] = state["blocks.0.mlp.0.weight"]
    torch.save(state, tmp_path / "m" / "pytorch_model.bin")
    assert load_model(tmp_path / "m").length == 12


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("numel", [10**6, 10**15, 2**62])
def test_a_storage_of_an_absurd_size_takes_no_memory(tmp_path, monkeypatch, zipped, numel):
    """The pickle declares a storage of more numbers than the file holds: damage, or mapped no further than its end."""
    state = save_published(tmp_path / "m", pickled=True)
    path = tmp_path / "m" / "pytorch_model.bin"
    true = torch.storage.TypedStorage._size
    with monkeypatch.context() as during:
        during.setattr(torch.storage.TypedStorage, "_size", lambda self: numel if true(self) == 192 else true(self))
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
    if zipped:
        largest = max(value.untyped_storage().nbytes() for value in read_tensors(path).values())
        assert largest <= path.stat().st_size
        weight = dict(load_model(tmp_path / "m").net.named_parameters())["output_layer.linear.weight"]
        assert torch.equal(weight, state["output_layer.linear.weight"])
    else:
        with pytest.raises(DamageError, match=r"pytorch_model\.bin"):
            load_model(tmp_path / "m")


def test_a_header_of_more_names_than_a_model_has_is_refused_before_it_is_read(tmp_path):
    header = json.dumps({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(170_000)})
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode())
    with pytest.raises(DamageError, match=r"its header declares .* bytes, at most 8,388,608 are read \(the limit SAF"):
        read_tensors(path)
    assert tensor_shapes(path) == {}
