"""Finding a micro-batch, recomputing and compiling: they change speed and memory, not what is computed."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch
from support.jobs import completed, returned

from sedd_cli.checkpoints import checkpoint
from sedd_cli.data.prepare import prepare
from sedd_cli.data.prepared import PrepareOptions
from sedd_cli.data.shards import open_dataset
from sedd_cli.errors import RequestError, WorkError
from sedd_cli.models.compile import compile_blocks
from sedd_cli.models.dit import DiT
from sedd_cli.models.precision import autocast_dtype
from sedd_cli.recipe import load_recipe
from sedd_cli.system import memory
from sedd_cli.system.distributed import Dist
from sedd_cli.system.events import Note, Progress, Warn
from sedd_cli.training import autotune
from sedd_cli.training.state import TrainState
from sedd_cli.training.train import TrainOptions, train

CPU = torch.device("cpu")


@pytest.fixture
def state(workplace):
    recipe = load_recipe(workplace / "tiny.yaml", ["train.batch=16"])
    folder = returned(prepare(PrepareOptions(corpus=recipe.data.corpus, tokenizer=recipe.data.tokenizer))).folder
    return TrainState.create(recipe, open_dataset(folder), Dist(0, 1, CPU), anew=True)


def fitted(state, batch=16):
    """(events, the micro-batch that was found)."""
    train = dataclasses.replace(state.recipe.train, batch=batch)
    job, events = autotune.autotune(dataclasses.replace(state.recipe, train=train), state.dataset, state.dist), []
    while True:
        try:
            events.append(next(job))
        except StopIteration as end:
            return events, end.value.train.micro_batch


def sizes(events):
    return [int(e.metrics["micro-batch"]) for e in events if isinstance(e, Progress)]


def planned(monkeypatch, bytes_a_row: int, seconds, free: int = 10**12):
    """Attempts that take the given micro-batch, in place of real ones."""
    tried = []

    def attempt(module, recipe, size, device):
        tried.append(size)
        return bytes_a_row * size, seconds(size)

    monkeypatch.setattr(autotune, "_attempt", attempt)
    monkeypatch.setattr(autotune, "free_memory", lambda device: free)
    monkeypatch.setattr(autotune, "used_memory", lambda device: 0)
    return tried


def test_the_fastest_of_all_sizes_is_taken(state, monkeypatch):
    planned(monkeypatch, 1, lambda size: {1: 1.0, 2: 1.5, 4: 1.7, 8: 3.35, 16: 7.0}[size])
    events, found = fitted(state)
    assert sizes(events) == [1, 2, 4, 8, 16]
    # 8 is faster than 4, by too little to be worth twice the memory
    assert found == 4
    assert isinstance(events[-1], Note)
    assert "micro_batch=4" in events[-1].text


def test_a_size_that_is_not_expected_to_fit_is_not_tried(state, monkeypatch):
    to_come = sum(12 * p.numel() for p in state.model.net.parameters())
    tried = planned(monkeypatch, 100, lambda size: 1.0, free=int((to_come + 500) / 0.9))
    assert fitted(state)[1] == 4
    assert tried == [1, 2, 4]


def test_a_size_that_took_more_than_there_is_is_not_taken(state, monkeypatch):
    to_come = sum(12 * p.numel() for p in state.model.net.parameters())
    planned(monkeypatch, 100, lambda size: 1.0, free=int((to_come + 500) / 0.9))
    monkeypatch.setattr(autotune, "_attempt", lambda module, recipe, size, device: (100 if size < 4 else 900, 1.0))
    assert fitted(state)[1] == 2


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("out"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_running_out_of_memory_ends_the_search_not_the_process(state, monkeypatch, error):
    real = type(state.loss).forward

    def needing_memory(self, x0, v, u):
        if len(x0) > 2:
            raise error
        return real(self, x0, v, u)

    monkeypatch.setattr(type(state.loss), "forward", needing_memory)
    events, found = fitted(state, 8)
    assert sizes(events) == [1, 2]
    assert found in (1, 2)


def test_no_memory_at_all_is_said(state, monkeypatch):
    monkeypatch.setattr(autotune, "_attempt", lambda module, recipe, size, device: None)
    with pytest.raises(WorkError, match="not even a micro-batch of 1"):
        fitted(state)


def test_an_error_of_another_kind_is_not_taken_for_lack_of_memory(state, monkeypatch):
    def broken(self, x0, v, u):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(type(state.loss), "forward", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        fitted(state)


def test_fitting_leaves_no_trace_in_the_training(workplace, tmp_path):
    weights = []
    for name, asked in (("fitted", True), ("given", False)):
        stored = checkpoint.latest(tmp_path / "fitted")
        size = load_recipe(stored.folder / "recipe.yaml").train.micro_batch if stored else 8
        recipe = load_recipe(workplace / "tiny.yaml", ["train.steps=3", f"train.micro_batch={size}"])
        list(train(recipe, TrainOptions(tmp_path / name, "cpu", report=False, autotune=asked)))
        weights.append(checkpoint.latest(tmp_path / name).tensors("weights"))
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_the_compiler_forgets_the_sizes_that_were_tried(state, monkeypatch):
    """Otherwise the blocks of the training would be compiled for every size, in slower kernels."""
    from sedd_cli.training import state as trainstate

    def compiled(net, batch):
        net.compiled = True

    forgotten = []
    monkeypatch.setattr(trainstate, "compile_blocks", compiled)
    monkeypatch.setattr(torch.compiler, "reset", lambda: forgotten.append(tried[-1]))
    tried = planned(monkeypatch, 100, lambda size: 1.0)
    for wanted in (False, True):
        train = dataclasses.replace(state.recipe.train, compile=wanted)
        returned(autotune.autotune(dataclasses.replace(state.recipe, train=train), state.dataset, state.dist))
    assert forgotten == [16]


def test_a_fitted_run_stores_what_was_found(workplace, tmp_path):
    recipe = load_recipe(workplace / "tiny.yaml", ["train.steps=2"])
    assert returned(train(recipe, TrainOptions(tmp_path / "run", "cpu", report=False, autotune=True))).finished
    stored = load_recipe(checkpoint.latest(tmp_path / "run").folder / "recipe.yaml")
    assert stored.train.micro_batch in (1, 2, 4, 8)


def test_the_peak_of_memory_sees_a_tensor_come_and_the_free_memory_is_plausible():
    memory.begin_peak(CPU)
    before = memory.peak(CPU)
    block = torch.ones(64 << 20, dtype=torch.uint8)
    assert memory.peak(CPU) - before > 0.9 * len(block)
    assert 0 < memory.free_memory(CPU) <= memory.total_memory(CPU)


def gradients(net, config, recompute):
    net.recompute = recompute
    net.zero_grad()
    torch.manual_seed(3)
    x = torch.arange(2 * config.length).view(2, -1) % 9
    net(x, torch.tensor([0.3, 2.0])).square().sum().backward()
    return [p.grad.clone() for p in net.parameters()]


def awake(recipe):
    """A network whose zero-initialised parts are filled, so that every part is felt."""
    net = DiT(recipe.model, 9)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return net


def test_recomputed_activations_give_the_same_gradients_dropout_included(workplace):
    recipe = load_recipe(workplace / "tiny.yaml", ["model.n_blocks=2"])
    net = awake(recipe)
    kept, again = (gradients(net, recipe.model, recompute) for recompute in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))
    assert torch.stack([g.abs().sum() for g in kept]).min() > 0


def test_recomputing_holds_fewer_activations(workplace):
    recipe = load_recipe(workplace / "tiny.yaml", ["model.n_blocks=4", "model.length=64"])
    net, x = awake(recipe), torch.zeros(4, 64, dtype=torch.int64)

    def bytes_kept(recompute):
        net.recompute, kept = recompute, []

        def pack(tensor):
            kept.append(tensor.numel() * tensor.element_size())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            net(x, torch.ones(4))
        return sum(kept)

    assert bytes_kept(True) < bytes_kept(False) / 3


def test_a_recipe_can_recompute(workplace, tmp_path):
    runs = {}
    for name in ("true", "false"):
        recipe = load_recipe(workplace / "tiny.yaml", ["train.steps=4", f"train.recompute={name}"])
        list(train(recipe, TrainOptions(tmp_path / name, "cpu", report=False)))
        runs[name] = checkpoint.latest(tmp_path / name).tensors("weights")
    assert all(torch.equal(value, runs["false"][name]) for name, value in runs["true"].items())


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_blocks_compute_the_same(workplace):
    recipe = load_recipe(workplace / "tiny.yaml", ["model.dropout=0.0"])
    net = awake(recipe)
    plain = gradients(net, recipe.model, False)
    assert compile_blocks(net, 2) is None
    assert net.blocks[0]._compiled_call_impl is not None
    names = set(dict(net.named_parameters()))
    # compiled kernels add in another order
    for a, b in zip(plain, gradients(net, recipe.model, False), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert names == set(dict(awake(recipe).named_parameters()))


def test_a_compiler_that_fails_is_left_out_and_said(workplace, tmp_path, monkeypatch):
    def broken(self, *args, **kwargs):
        raise RuntimeError("no working compiler")

    monkeypatch.setattr(torch.nn.Module, "compile", broken)
    recipe = load_recipe(workplace / "tiny.yaml", ["train.steps=1", "train.compile=true"])
    events, result = completed(train(recipe, TrainOptions(tmp_path / "run", "cpu", report=False)))
    assert any("no working compiler" in e.text for e in events if isinstance(e, Warn))
    assert result.finished


def test_autotune_tries_compiling_with_one_row_and_says_where_it_fails(state, monkeypatch):
    from sedd_cli.training import state as trainstate

    rows, dynamic = [], []
    state.recipe = dataclasses.replace(state.recipe, train=dataclasses.replace(state.recipe.train, compile=True))
    planned(monkeypatch, 1, lambda size: dynamic.append(torch._dynamo.config.automatic_dynamic_shapes) or size)

    def compiled(net, batch):
        rows.append(batch)
        net.compiled = True

    monkeypatch.setattr(trainstate, "compile_blocks", compiled)
    assert not [e for e in fitted(state)[0] if isinstance(e, Warn)]
    assert set(dynamic) == {False}
    assert torch._dynamo.config.automatic_dynamic_shapes
    monkeypatch.setattr(trainstate, "compile_blocks", lambda net, batch: "no compiler")
    (warning,) = [e for e in fitted(state)[0] if isinstance(e, Warn)]
    assert "no compiler" in warning.text
    assert rows == [1]


def test_tf32_is_for_gpus(workplace, tmp_path, monkeypatch):
    with pytest.raises(RequestError, match="tf32 needs a GPU"):
        autocast_dtype("tf32", CPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        for precision, allowed, dtype in (("tf32", True, None), ("fp32", False, None), ("bf16", False, torch.bfloat16)):
            assert autocast_dtype(precision, torch.device("cuda")) == dtype
            assert torch.backends.cuda.matmul.allow_tf32 == allowed
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def test_parameters_are_sharded_when_whole_ones_would_fill_half_a_gpu(state, monkeypatch):
    from sedd_cli.training import state as trainstate

    parameters, two = sum(p.numel() for p in state.model.net.parameters()), Dist(0, 2, torch.device("cuda", 0))
    taken = 20 * parameters
    for room, expected in ((taken * 2 - 1, True), (taken * 2, False)):
        monkeypatch.setattr(trainstate, "total_memory", lambda device, room=room: room)
        assert trainstate.use_sharding(state.recipe, parameters, two) == expected
    asked = dataclasses.replace(state.recipe, train=dataclasses.replace(state.recipe.train, strategy="fsdp"))
    assert trainstate.use_sharding(asked, parameters, two)


@pytest.mark.parametrize(
    ("device", "flops", "compiler", "pays"),
    [("cpu", 1e17, "/usr/bin/g++", True), ("cpu", 1e15, "/usr/bin/g++", False), ("cpu", 1e17, None, False)],
)
def test_compiling_on_a_cpu_pays_in_long_trainings_where_there_is_a_compiler(
    monkeypatch, device, flops, compiler, pays
):
    import shutil

    from sedd_cli.models.compile import compile_pays

    monkeypatch.setattr(shutil, "which", lambda name: compiler)
    assert compile_pays(torch.device(device), flops) is pays
