"""A sequence that cannot fit into memory is refused with the numbers, before any work."""

from __future__ import annotations

import json

import pytest
import torch
from support.published_models import save_published

from sedd_cli import load_model
from sedd_cli.errors import RequestError
from sedd_cli.inference import memory
from sedd_cli.inference.denoise import SequenceRequest, denoise
from sedd_cli.inference.generate import GenerateOptions
from sedd_cli.inference.plan import Job, plan_job
from sedd_cli.inference.sampling import Sampling
from sedd_cli.inference.template import Gap, Template
from sedd_cli.models.dit import DiT

GIB = 2**30


@pytest.fixture
def long(tmp_path, monkeypatch):
    """A published model whose configuration declares 2^20 tokens, on a machine with a tenth of a GiB free."""
    save_published(tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text())
    config["model"]["length"] = 1 << 20
    path.write_text(json.dumps(config))
    monkeypatch.setattr(memory, "free_memory", lambda device: GIB // 10)
    return load_model(tmp_path / "m", device="cpu")


def test_a_length_that_does_not_fit_is_refused_before_the_network_is_called(long, monkeypatch):
    monkeypatch.setattr(DiT, "hidden", lambda *_: pytest.fail("the network was called"))
    refused = r"one sequence of 1,048,576 tokens takes about \d+\.\d GiB on cpu .*of which 0\.1 are free"
    with pytest.raises(RequestError, match=refused):
        long.sample(1)
    with pytest.raises(RequestError, match=refused):
        list(denoise(long, Sampling().resolve(long), [SequenceRequest((None,) * long.length, seed=0)]))
    template = Template((Gap(1 << 20, 1 << 20),))
    with pytest.raises(RequestError, match=refused):
        plan_job(long, Job(template), Sampling())


def test_a_length_that_fits_is_sampled(long):
    assert len(long.sample(1, length=8, steps=2)[0].tokens) == 8


def test_what_a_causal_network_keeps_while_it_samples_is_less(long):
    long.net.causal = True
    held = 2 * 4 * long.net.config.hidden_size * long.net.config.n_blocks
    fits = GIB // 10 // held
    memory.check_fits(long, fits, whole=False)
    with pytest.raises(RequestError, match="keys and values"):
        memory.check_fits(long, fits + 1, whole=False)
    with pytest.raises(RequestError, match="activations"):
        memory.check_fits(long, fits)


def test_half_precision_takes_half(long):
    most = GIB // 10 // (4 * 16 * long.net.config.hidden_size)
    memory.check_fits(long, most)
    with pytest.raises(RequestError, match="activations"):
        memory.check_fits(long, 2 * most)
    long.net.autocast = torch.bfloat16
    memory.check_fits(long, 2 * most)


def test_options_of_any_length_are_still_made():
    assert GenerateOptions(length=1 << 20).length == 1 << 20
