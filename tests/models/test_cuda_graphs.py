"""Recorded trunks: which shapes are recorded, what is filled up, and that results are those of the trunk."""

from __future__ import annotations

import copy
from contextlib import contextmanager, nullcontext

import pytest
import torch

from sedd_cli.models import cuda_graphs
from sedd_cli.models.cuda_graphs import CudaRecorder, GraphedTrunk, Recording, filled_up
from sedd_cli.models.dit import DiT
from sedd_cli.models.shape import DiTConfig


def trunk(x, sigma):
    return torch.stack([x * sigma[:, None], x + 1.0], -1)


class Recorder:
    """Runs the trunk on static inputs in place of a GPU's graph."""

    def __init__(self):
        self.shapes = []

    def __call__(self, trunk, x, sigma):
        self.shapes.append(tuple(x.shape))
        output = torch.full_like(trunk(x, sigma), torch.nan)
        return Recording(x, sigma, lambda: output.copy_(trunk(x, sigma)), output)


def inputs(batch, length, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(9, (batch, length), generator=g), torch.rand(batch, dtype=torch.float64, generator=g)


def test_a_shape_is_recorded_when_it_occurs_again_and_again():
    recorder = Recorder()
    run = GraphedTrunk(recorder)
    for seed in range(5):
        x, sigma = inputs(3, 4, seed)
        torch.testing.assert_close(run(trunk, x, sigma), trunk(x, sigma), rtol=0, atol=0)
        assert len(recorder.shapes) == (seed >= cuda_graphs.RECORDED_AT - 1)
    run(trunk, *inputs(3, 5))
    assert recorder.shapes == [(3, 4)]


@pytest.mark.parametrize(("compiled", "recorded"), [(True, [(16, 4)]), (False, [])])
def test_large_batches_are_filled_up_to_few_sizes_where_each_is_compiled(compiled, recorded):
    assert [filled_up(n) for n in (1, 2, 8, 9, 16, 17, 64)] == [1, 2, 8, 16, 16, 24, 64]
    recorder, received = Recorder(), []

    def watched(x, sigma):
        received.append(len(x))
        return trunk(x, sigma)

    run = GraphedTrunk(recorder, compiled)
    for size in (9, 12, 16, 10, 13):
        x, sigma = inputs(size, 4, size)
        torch.testing.assert_close(run(watched, x, sigma), trunk(x, sigma), rtol=0, atol=0)
    assert set(received) == ({16} if compiled else {9, 12, 16, 10, 13})
    assert recorder.shapes == recorded
    for seed in range(3):
        run(trunk, *inputs(8, 4, seed))
    assert recorder.shapes == [*recorded, (8, 4)]


def test_outputs_stay_when_the_next_one_is_made():
    run = GraphedTrunk(Recorder())
    pairs = [inputs(2, 3, seed) for seed in range(6)]
    outputs = [run(trunk, *pair) for pair in pairs]
    for pair, output in zip(pairs, outputs, strict=True):
        torch.testing.assert_close(output, trunk(*pair), rtol=0, atol=0)


def test_a_copied_network_records_anew():
    run = GraphedTrunk(Recorder())
    for seed in range(4):
        run(trunk, *inputs(2, 3, seed))
    assert run._recordings
    assert not copy.deepcopy(run)._recordings


def test_what_cannot_be_recorded_runs_as_usual_and_says_why():
    def refuse(trunk, x, sigma):
        refuse.times += 1
        raise torch.OutOfMemoryError("CUDA out of memory.\nmore")

    refuse.times, run = 0, GraphedTrunk(refuse)
    for seed in range(6):
        pair = inputs(2, 3, seed)
        recorded = seed == cuda_graphs.RECORDED_AT - 1
        with pytest.warns(UserWarning, match="CUDA out of memory") if recorded else nullcontext():
            torch.testing.assert_close(run(trunk, *pair), trunk(*pair), rtol=0, atol=0)
    assert refuse.times == 1
    assert run.failure == "CUDA out of memory."


def test_only_so_many_graphs_are_kept(monkeypatch):
    monkeypatch.setattr(cuda_graphs, "MOST_GRAPHS", 2)
    recorder = Recorder()
    run = GraphedTrunk(recorder)
    for length in (3, 4, 5):
        for seed in range(4):
            pair = inputs(2, length, seed)
            torch.testing.assert_close(run(trunk, *pair), trunk(*pair), rtol=0, atol=0)
    assert recorder.shapes == [(2, 3), (2, 4)]


def test_a_graph_is_recorded_on_a_stream_of_the_tensors_device_which_is_left_where_that_fails(monkeypatch):
    entered, left = [], []

    @contextmanager
    def stream(made):
        entered.append(made)
        try:
            yield
        finally:
            left.append(made)

    class Graph:
        """As torch's, which does not leave its stream if the capture cannot end."""

        def __init__(self, graph, pool, stream, capture_error_mode):
            self.stream = stream

        def __enter__(self):
            entered.append(self.stream)

        def __exit__(self, *_):
            raise RuntimeError("operation failed due to a previous error during capture")

    class Whole:
        replay = None

    fakes = {"CUDAGraph": Whole, "graph_pool_handle": object, "synchronize": lambda device: None}
    fakes |= {"Stream": lambda device: ("stream", device), "stream": stream, "graph": Graph}
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    x, sigma = inputs(2, 3)
    with pytest.raises(RuntimeError, match="capture"):
        CudaRecorder()(trunk, x, sigma)
    assert entered == [("stream", x.device)] * 2
    assert left == entered[:1]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_what_is_replayed_on_a_gpu_that_is_not_the_current_one_follows_its_input():
    run = GraphedTrunk()
    for seed in range(6):
        pair = [t.to("cuda:1") for t in inputs(2, 3, seed)]
        torch.testing.assert_close(run(trunk, *pair), trunk(*pair), rtol=0, atol=0)
    assert run._recordings


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_a_network_replayed_on_a_gpu_is_the_eager_one():
    config = DiTConfig(n_blocks=2, hidden_size=64, n_heads=2, cond_dim=16, dropout=0.0, length=32)
    net = DiT(config, 51).cuda().eval().requires_grad_(False)
    net.cast_for_inference(None)
    with torch.no_grad():
        for seed in range(6):
            x, sigma = (t.cuda() for t in inputs(8, 32, seed))
            torch.testing.assert_close(net.hidden(x, sigma), net._hidden(x, sigma), rtol=1e-5, atol=1e-5)
    assert not net.graphed.failure
    assert net.graphed._recordings
