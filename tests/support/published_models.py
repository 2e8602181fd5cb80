"""Small random checkpoints in every form in which SEDD models are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from sedd_cli.models.dit import DiT
from sedd_cli.models.shape import DiTConfig

SHAPE = {"hidden_size": 16, "cond_dim": 8, "length": 12, "n_blocks": 2, "n_heads": 2}


def config(graph: str = "absorb", tokens: int = 11, **model: Any) -> dict[str, Any]:
    """The keys that a published config.json or .hydra/config.yaml holds."""
    absorb = graph == "absorb"
    return {
        "ngpus": 8,
        "tokens": tokens,
        "training": {"batch_size": 512, "accum": 1, "ema": 0.9999},
        "data": {"train": "openwebtext", "valid": "wikitext103", "cache_dir": "data"},
        "graph": {"type": graph, "file": "data", "report_all": False},
        "noise": {"type": "loglinear" if absorb else "geometric", "sigma_min": 1e-4, "sigma_max": 20},
        "model": {"name": "tiny", "type": "ddit", **SHAPE, "scale_by_sigma": absorb, "dropout": 0.1, **model},
    }


def weights(graph: str = "absorb", tokens: int = 11, seed: int = 0, **shape: int) -> dict[str, Tensor]:
    """A state dict under the published names, every entry random: a fresh network's gates and head are zero."""
    net = DiT(DiTConfig(**{**SHAPE, **shape}), tokens + (graph == "absorb"))
    generator = torch.Generator().manual_seed(seed)
    state = net.state_dict()
    for name, value in net.named_parameters():
        gain = 1.0 if "norm" in name else 0.0
        state[name] = gain + 0.3 * torch.randn(value.shape, generator=generator)
    return state


def save_published(
    folder: Path, graph: str = "absorb", tokens: int = 11, nested: bool = False, pickled: bool = False, **model: Any
) -> dict[str, Tensor]:
    """config.json beside the weights; returns the state dict."""
    folder.mkdir(exist_ok=True)
    found, state = (
        config(graph, tokens, **model),
        weights(graph, tokens, **{k: v for k, v in model.items() if k in SHAPE}),
    )
    (folder / "config.json").write_text(json.dumps({"config": found} if nested else found))
    if pickled:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file(state, folder / "model.safetensors")
    return state


def save_training_directory(
    folder: Path, graph: str = "absorb", tokens: int = 11, step: int = 700
) -> dict[str, Tensor]:
    """What the published code leaves of a training; returns the averaged weights, those that count."""
    live, averaged = weights(graph, tokens, seed=1), weights(graph, tokens)
    shadow = [value for name, value in averaged.items() if name != "rotary_emb.inv_freq"]
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": shadow[0]}}, "param_groups": [{"lr": 3e-4}]}
    stored = {
        "optimizer": optimizer,
        "model": live,
        "ema": {"decay": 0.9999, "num_updates": step, "shadow_params": shadow},
        "step": step,
    }
    for name in (".hydra", "checkpoints-meta", "checkpoints"):
        (folder / name).mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config(graph, tokens)))
    torch.save(stored, folder / "checkpoints-meta" / "checkpoint.pth")
    return averaged
