"""torch.compile of the network's blocks, where a trial succeeds."""

from __future__ import annotations

import copy
import importlib.util
import os
import shutil

import torch

from sedd_cli.models.attention import ATTENTION
from sedd_cli.models.dit import DiT

#: FLOPs of a training for which a tenth of the time far exceeds the ten seconds a CPU compiler takes.
LONG = 1e16


def compile_pays(device: torch.device, flops: float) -> bool:
    """Whether compiling the blocks saves time in a training of `flops`.

    True on GPUs with Triton, and on CPUs with a C++ compiler where training takes hours: compiled steps of SEDD small
    were 5 to 10 % faster (two cores with AMX), after ten seconds of compilation.
    """
    if device.type == "cuda":
        return importlib.util.find_spec("triton") is not None
    return device.type == "cpu" and flops >= LONG and shutil.which(os.environ.get("CXX", "g++")) is not None


def compile_blocks(net: DiT, batch: int) -> str | None:
    """Compile every block, after a trial with `batch` sequences on a copy of one. Returns None, or the error."""
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
    net.compiled = True
    return None
