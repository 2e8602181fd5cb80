"""The moving average, step by step in plain arithmetic."""

import pytest
import torch
from torch import nn

from sedd_cli.models.ema import EMA


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9999])
def test_the_shadow_follows_with_a_warmed_up_decay(decay):
    net = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        net.weight.fill_(5.0)
    ema, shadow = EMA(net, decay), 5.0
    for n in range(1, 40):
        with torch.no_grad():
            net.weight.fill_(float(n % 7))
        ema.update(n)
        d = min(decay, (1 + n) / (10 + n))
        shadow = d * shadow + (1 - d) * (n % 7)
        assert float(ema.shadow["weight"]) == pytest.approx(shadow, rel=1e-12)
    assert net.weight.item() == 39 % 7  # the weights themselves are left alone


def test_the_shadow_holds_every_parameter_and_no_gradient():
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    ema = EMA(net, 0.9)
    assert ema.shadow.keys() == dict(net.named_parameters()).keys()
    assert not any(value.requires_grad for value in ema.shadow.values())
