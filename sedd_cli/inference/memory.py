"""How much memory sequences take: what fits at once, and what does not fit at all."""

from __future__ import annotations

import torch

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.core.fast import kernels_of
from sedd_cli.errors import RequestError
from sedd_cli.system.memory import free_memory


def batch_for(model: LoadedModel, length: int) -> int:
    """How many sequences of a length fit into half of the free memory: an estimate, at least one."""
    fits = int(free_memory(model.device) // 2 // _activations(model, length, 4))
    return max(1, min(fits, tokens_at_once(model.device) // length))


def tokens_at_once(device: torch.device) -> int:
    """Tokens per batch beyond which a device gains no speed."""
    return 2**18 if device.type == "cuda" else 8192


def _activations(model: LoadedModel, length: int, size: int) -> int:
    """Bytes that a block of the network holds at most for one sequence, in numbers of `size` bytes."""
    config = model.net.config
    # a block holds most at its MLP: input, queries, keys and values, the four-fold inner layer and its activation
    held = size * length * config.hidden_size * 16
    if model.net.kernel(length) == "plain":
        held += 8 * config.n_heads * length**2
    return held


def check_fits(model: LoadedModel, length: int, whole: bool = True) -> None:
    """RequestError where one sequence of a length takes more than the free memory of the device.

    whole: the network sees all positions at once; a causal one that samples sees one, and keeps keys and values.
    """
    config, states, size = model.net.config, model.graph.states, 2 if model.net.autocast else 4
    if model.net.causal and not whole:
        needed, what = 2 * size * length * config.hidden_size * config.n_blocks, "keys and values"
    else:
        needed, what = _activations(model, length, size), "activations"
    if kernels_of(model.graph) is None and not model.net.causal:  # without closed forms, a block of scores is held
        held = 4 * states * min(length, model.score.block(model.device))
        needed, what = needed + held, f"{what} and scores of {states:,} states"
    if needed > (free := free_memory(model.device)):
        raise RequestError(
            f"one sequence of {length:,} tokens takes about {needed / 2**30:,.1f} GiB on {model.device} ({what} of a "
            f"network of width {config.hidden_size:,}), of which {free / 2**30:,.1f} are free: give a smaller length"
        )
