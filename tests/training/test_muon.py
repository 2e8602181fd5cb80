"""Muon in float32 against torch's, which rounds to bf16, and against its definition in float64."""

from __future__ import annotations

import pytest
import torch

from sedd_cli.models.dit import DiT
from sedd_cli.recipe import load_recipe
from sedd_cli.training import optim
from sedd_cli.training.optim import Float32Muon, orthogonalized

OPTIONS = {"lr": 0.02, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}


def steps(kind, shape, count=5):
    """A matrix after some steps, and the optimizer."""
    generator = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter(torch.randn(shape, generator=generator))
    made = kind([p], **OPTIONS)
    for _ in range(count):
        p.grad = torch.randn(shape, generator=generator)
        made.step()
    return p.detach(), made


@pytest.mark.parametrize("shape", [(24, 24), (16, 48), (48, 16)])
def test_it_takes_torchs_steps_up_to_bf16(shape):
    begun, _ = steps(Float32Muon, shape, 0)
    mine, made = steps(Float32Muon, shape)
    theirs, torchs = steps(torch.optim.Muon, shape)
    apart = (mine - theirs).norm() / (theirs - begun).norm()
    assert 0 < float(apart) < 0.02
    # a run goes on with the state of the other kind
    state, wanted = made.state_dict(), torchs.state_dict()
    assert state["param_groups"] == wanted["param_groups"]
    torch.testing.assert_close(state["state"][0]["momentum_buffer"], wanted["state"][0]["momentum_buffer"])


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)])
def test_the_iteration_maps_each_singular_value_by_its_polynomial(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    a, b, c = torch.optim.Muon([torch.nn.Parameter(x)]).defaults["ns_coefficients"]
    u, values, v = torch.linalg.svd(x.double(), full_matrices=False)
    values = values / values.norm()
    for _ in range(5):
        values = a * values + b * values**3 + c * values**5
    found = orthogonalized(x, (a, b, c), 5, 1e-7)
    torch.testing.assert_close(found.double(), u @ torch.diag(values) @ v, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("native", "kind"), [(True, torch.optim.Muon), (False, Float32Muon)])
def test_it_is_taken_where_bf16_is_not_native(workplace, monkeypatch, native, kind):
    monkeypatch.setattr(optim, "native_bf16", lambda device: native)
    recipe = load_recipe(workplace / "tiny.yaml", ["train.optimizer=muon"])
    assert type(optim.make_optimizers(recipe, DiT(recipe.model, 9))["muon"]) is kind
