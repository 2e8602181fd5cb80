"""torch.compile of the network's blocks, only where it is known to work."""

from __future__ import annotations

import copy
import importlib.util
import os
import shutil

import torch

from sedd_cli.models.attention import ATTENTION
from sedd_cli.models.dit import DiT

#: FLOPs of a training from which a tenth of the time is worth a CPU compiler's ten seconds many times over.
LONG = 1e16


def compile_pays(device: torch.device, flops: float) -> bool:
    """Whether compiled blocks are expected to be faster in all, in a training of `flops`.

    On a GPU that Triton serves; on a CPU with a C++ compiler where training takes hours: there they took 5 to 10 % off
    a step of SEDD small (two cores with AMX), after ten seconds.
    """
    if device.type == "cuda":
        return importlib.util.find_spec("triton") is not None
    return device.type == "cpu" and flops >= LONG and shutil.which(os.environ.get("CXX", "g++")) is not None


def compile_blocks(net: DiT, batch: int) -> str | None:
    """Compile every block, after a trial with `batch` sequences on a copy of one. None, or why it was left out."""
    device, length = net.vocab_embed.embedding.device, net.config.length
    trial = copy.deepcopy(net.blocks[0])
    try:
        trial.compile()
        h = torch.zeros(batch, length, net.config.hidden_size, device=device, requires_grad=True)
        cond = torch.zeros(batch, net.config.cond_dim, device=device)
        with torch.autocast(device.type, net.autocast or torch.bfloat16, enabled=net.autocast is not None):
            trial(h, cond, *net.angles(length, h.dtype), ATTENTION[net.kernel()], net.causal).float().sum().backward()
    except Exception as error:  # a compiler can fail in any way; training goes on without it
        text = " ".join(str(error).split()).split(" Set TORCH")[0]
        return f"{type(error).__name__}: {text[:160]}"
    for block in net.blocks:
        block.compile()
    return None
