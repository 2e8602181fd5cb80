"""torch.compile of the network's blocks, where a trial succeeds."""

from __future__ import annotations

import copy
import importlib.util
import os
import shutil
from typing import Any

import torch

from sedd_cli.core.fast.programs import many_programs
from sedd_cli.models.attention import ATTENTION
from sedd_cli.models.cuda_graphs import GraphedTrunk
from sedd_cli.models.dit import DiT
from sedd_cli.models.network import Adapted, LanguageNetwork
from sedd_cli.models.timing import now

#: FLOPs of a training for which a tenth of the time far exceeds the ten seconds a CPU compiler takes.
LONG = 1e16
#: Runs of a compiled block on a GPU that are timed.
TIMED_RUNS = 5
#: Other options have to be faster by this factor, so that the choice is the same in every run.
MIN_SPEEDUP = 1.02


def compile_pays(device: torch.device, flops: float) -> bool:
    """Whether compiling the blocks saves time in a training of `flops`.

    True on GPUs with Triton, and on CPUs with a C++ compiler where training takes hours: compiled steps of SEDD small
    were 5 to 10 % faster (two cores with AMX), after ten seconds of compilation.
    """
    if device.type == "cuda":
        return importlib.util.find_spec("triton") is not None
    return device.type == "cpu" and flops >= LONG and shutil.which(os.environ.get("CXX", "g++")) is not None


def compile_blocks(net: DiT, batch: int) -> str | None:
    """Compile every block, after a trial with `batch` sequences on a copy of one. Returns None, or the error.

    On a GPU the trial is timed, with the compiler's defaults and with other options of it.
    """
    options: dict[str, Any] = {}
    try:
        seconds = _trial(net, batch, options)
    except Exception as error:  # a compiler can fail in any way; training goes on without it
        return _in_short(error)
    for other in alternatives(net.vocab_embed.embedding.device):
        try:
            needed = _trial(net, batch, other)
        except Exception:  # the defaults work
            continue
        if needed * MIN_SPEEDUP < seconds:
            options, seconds = other, needed
    for block in net.blocks:
        block.compile(options=options or None)
    net.compiled = True
    return None


def compile_for_inference(net: LanguageNetwork) -> str | None:
    """Compile every block, one program a shape, after a trial with one of them. Returns None, or why not."""
    inner = net.net if isinstance(net, Adapted) else net
    if not isinstance(inner, DiT):
        return "only networks of SEDD's kind can be"
    try:
        _trial(inner, 1, {}, backward=False)
    except Exception as error:  # a compiler can fail in any way; the network works without it
        return _in_short(error)
    for block in inner.blocks:
        block.compile(dynamic=False, **many_programs())
    inner.graphed = inner.graphed and GraphedTrunk(compiled=True)  # what is recorded is not compiled
    net.compiled = inner.compiled = True
    return None


def _in_short(error: Exception) -> str:
    text = " ".join(str(error).split()).split(" Set TORCH")[0]
    return f"{type(error).__name__}: {text[:160]}"


def alternatives(device: torch.device) -> list[dict[str, Any]]:
    """Options of the compiler that may be faster than its defaults on a device.

    Mixed orders: one kernel sums both along the rows, for layer normalisation, and down the columns, for its gain. The
    backward kernel of layer normalisation took four times as long as its memory traffic does (H200).
    """
    if device.type != "cuda":
        return []
    from torch._inductor import config

    name = "triton.mix_order_reduction"
    return [{name: False}] if getattr(config.triton, "mix_order_reduction", False) else []


def _trial(net: DiT, batch: int, options: dict[str, Any], backward: bool = True) -> float:
    """Compile a copy of a block and run it, forward and backward: seconds of the fastest run, the first one apart."""
    device, length = net.vocab_embed.embedding.device, net.config.length
    block = copy.deepcopy(net.blocks[0])
    block.compile(options=options or None)
    h = torch.zeros(batch, length, net.config.hidden_size, device=device, requires_grad=True)
    cond = None if block.adaLN_modulation is None else torch.zeros(batch, net.config.cond_dim, device=device)
    times = []
    for _ in range(TIMED_RUNS + 1 if device.type == "cuda" else 1):
        began = now(device)
        mixed = torch.autocast(device.type, net.autocast or torch.bfloat16, enabled=net.autocast is not None)
        with mixed, torch.set_grad_enabled(backward):
            out = block(h, cond, *net.angles(length, h.dtype), ATTENTION[net.kernel()], net.causal).float().sum()
            if backward:
                out.backward()
        times.append(now(device) - began)
    return min(times[1:] or times)
