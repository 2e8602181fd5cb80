"""The trial before blocks are compiled: which options of the compiler are taken."""

import pytest
import torch

from sedd_cli.models import compile as compile_module
from sedd_cli.models.compile import alternatives, compile_blocks
from sedd_cli.models.dit import DiT
from sedd_cli.models.shape import DiTConfig

OTHER = {"some.option": False}


@pytest.mark.parametrize(("seconds", "taken"), [(0.5, OTHER), (0.99, None), (2.0, None), (None, None)])
def test_other_options_are_taken_where_they_are_clearly_faster(seconds, taken, monkeypatch):
    def trial(net, batch, options):
        if options and seconds is None:
            raise RuntimeError("no such option")
        return seconds if options else 1.0

    given = []
    monkeypatch.setattr(compile_module, "_trial", trial)
    monkeypatch.setattr(compile_module, "alternatives", lambda device: [OTHER])
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, options: given.append(options))
    net = DiT(DiTConfig(n_blocks=2, hidden_size=16, n_heads=2, cond_dim=8, length=8), 12)
    assert compile_blocks(net, 2) is None
    assert given == [taken, taken]


def test_options_are_tried_on_gpus_alone():
    assert alternatives(torch.device("cpu")) == []
