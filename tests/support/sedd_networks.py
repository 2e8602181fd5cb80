"""Tiny checkpoints on SEDD's network, laid out as other projects lay out theirs, with random weights."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from sedd_cli.models.dit import DiT
from sedd_cli.models.shape import SEDD, DiTConfig, Variant

#: N tokens and MASK; few, so that sequences can be enumerated.
N, LENGTH, HEADS = 3, 6, 2
HUB = {"n_blocks": 2, "n_heads": HEADS, "hidden_dim": 16, "cond_dim": 129, "model_length": LENGTH, "dropout": 0.1}


def network(states: int = N + 1, variant: Variant = SEDD, seed: int = 0) -> DiT:
    """A network whose parameters are all random: a fresh one has gates and a head of zero."""
    net = DiT(DiTConfig(2, 16, HEADS, 8, 0.0, LENGTH), states, variant=variant)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.named_parameters():
            value.copy_(("norm" in name) + 0.3 * torch.randn(value.shape, generator=generator))
    return net.eval()


def prefixed(net: DiT, prefix: str = "backbone.") -> dict[str, Tensor]:
    return {prefix + name: value.clone() for name, value in net.state_dict().items()}


def save_hub(folder: Path, kind: str, states: int = N + 1, variant: Variant = SEDD, **config: Any) -> DiT:
    """A hub folder of mdlm, udlm, duo or bd3lm."""
    net = network(states, variant)
    tensors = prefixed(net)
    if kind == "bd3lm":
        tensors |= {"sampling_eps_min": torch.tensor(1e-3), "sampling_eps_max": torch.tensor(1.0)}
    folder.mkdir()
    told = {"time_conditioning": kind in ("udlm", "duo")}
    (folder / "config.json").write_text(json.dumps({"model_type": kind, "vocab_size": states, **HUB, **told, **config}))
    save_file(tensors, folder / "model.safetensors")
    return net


RADD = Variant(conditioned=False, norm_bias=True)


def radd_config() -> dict[str, Any]:
    model = {"type": "ddit_wot", "hidden_size": 16, "cond_dim": 8, "length": LENGTH, "n_blocks": 2, "n_heads": HEADS}
    return {"tokens": N, "noise": {"type": "loglinear"}, "training": {"ema": 0.9999}, "model": model}


def save_radd_hub(folder: Path) -> DiT:
    net = network(variant=RADD)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(radd_config()))
    save_file(net.state_dict(), folder / "model.safetensors")
    return net


def save_radd_run(folder: Path) -> DiT:
    """The averages differ from the other weights; their network is returned."""
    live, net = network(variant=RADD, seed=1), network(variant=RADD)
    for name in (".hydra", "checkpoints-meta"):
        (folder / name).mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(radd_config()))
    shadow = [value.detach() for value in net.parameters()]
    stored = {"model": prefixed(live, "module."), "ema": {"shadow_params": shadow}, "step": 5, "optimizer": {}}
    torch.save(stored, folder / "checkpoints-meta" / "checkpoint.pth")
    return net


def save_tokenizer(folder: Path, tokens: list[str], mask: str = "[MASK]") -> None:
    """Files of a word tokenizer of transformers, with MASK among its added tokens."""
    ids = {token: number for number, token in enumerate(tokens)}
    model = {"type": "WordLevel", "vocab": ids, "unk_token": tokens[0]}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": ids[mask], "content": mask, **special}]
    split = {"type": "WhitespaceSplit"}
    empty = {"truncation": None, "padding": None, "normalizer": None, "post_processor": None, "decoder": None}
    engine = {"version": "1.0", "added_tokens": added, "pre_tokenizer": split, "model": model, **empty}
    (folder / "tokenizer.json").write_text(json.dumps(engine))
    (folder / "tokenizer_config.json").write_text(json.dumps({"mask_token": mask, "eos_token": tokens[0]}))


def save_gidd_hub(folder: Path, p_uniform: float = 0.2) -> DiT:
    net = network()
    folder.mkdir()
    tables = {f"rotary_emb.{name}_cached": torch.zeros(1, LENGTH, 3, 1, 8) for name in ("cos", "sin")}
    tensors = {name: value for name, value in net.state_dict().items() if "inv_freq" not in name}
    save_file(tensors | tables, folder / "model.safetensors")
    config = {"model_type": "dit", "p_uniform": p_uniform, "t_eps": 0.1, "num_attention_heads": HEADS}
    (folder / "config.json").write_text(json.dumps({**config, "max_seq_len": LENGTH, "vocab_size": N + 1}))
    save_tokenizer(folder, ["a", "b", "[MASK]", "c"])
    return net


def save_gidd_run(folder: Path, p_uniform: float = 0.2) -> DiT:
    """Rows are rounded up: to 8 here."""
    net = network(8)
    folder.mkdir()
    state = {f"_orig_mod.{name}": value for name, value in net.state_dict().items()}
    torch.save(state | {"_orig_mod.logit_bias": torch.zeros(1, 1, 1)}, folder / "model.pt")
    model = {"type": "diffusion", "diffusion_process": "gidd", "p_uniform": p_uniform, "t_eps": 1e-4}
    shape = {"hidden_size": 16, "n_blocks": 2, "n_heads": HEADS, "cond_dim": 8, "max_seq_len": LENGTH}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model | shape}))
    save_tokenizer(folder, ["a", "b", "[MASK]", "c"])
    return net


# Lightning checkpoints, with objects of libraries that need not be installed


def foreign(path: str, state: dict[str, Any]) -> Any:
    """An object whose pickle names the class `path` ("omegaconf.nodes.AnyNode")."""
    module, _, name = path.rpartition(".")
    parts = module.split(".")
    for upper in (".".join(parts[: i + 1]) for i in range(len(parts))):
        if upper not in sys.modules:
            sys.modules[upper] = types.ModuleType(upper)
            _MADE.append(upper)
    if not hasattr(sys.modules[module], name):
        setattr(sys.modules[module], name, type(name, (), {"__module__": module}))
    found = object.__new__(getattr(sys.modules[module], name))
    found.__dict__.update(state)
    return found


#: Modules that exist until a checkpoint is saved.
_MADE: list[str] = []


def omegaconf(value: Any) -> Any:
    """A configuration as omegaconf pickles it."""
    if isinstance(value, dict):
        content = {key: omegaconf(one) for key, one in value.items()}
        return foreign("omegaconf.dictconfig.DictConfig", {"_content": content, "_parent": None})
    return foreign("omegaconf.nodes.AnyNode", {"_val": value, "_parent": None})


def save_lightning(
    file: Path,
    states: int = N + 1,
    tokenizer: Any = None,
    variant: Variant = SEDD,
    averaged: bool = True,
    step: Any = 7,
    prefix: str = "_orig_mod.backbone.",
    **config: Any,
) -> DiT:
    """A checkpoint of lightning; returns the network of the weights that count."""
    live, net = network(states, variant, seed=1), network(states, variant)
    settings = {
        "backbone": "dit",
        "model": {"n_heads": HEADS, "length": LENGTH, "hidden_size": 16},
        "data": {"tokenizer_name_or_path": "no/such-tokenizer"},
        "noise": {"type": "loglinear"},
        "checkpointing": {"path": "${.save_dir}/last.ckpt"},
        **config,
    }
    ema = {"decay": 0.9999, "shadow_params": [value.detach() for value in net.parameters()]}
    stored = {
        "state_dict": prefixed(live, prefix),
        "ema": ema if averaged else None,
        "global_step": step,
        "optimizer_states": [{}],
        "hyper_parameters": {"config": omegaconf(settings), "tokenizer": tokenizer},
    }
    try:
        torch.save(stored, file)
    finally:
        while _MADE:
            del sys.modules[_MADE.pop()]
    return net if averaged else live


def bert_tokenizer(ids: dict[str, int]) -> Any:
    """A slow tokenizer of transformers with these ids and [MASK]."""
    path = "transformers.models.bert.tokenization_bert.BertTokenizer"
    return foreign(path, {"vocab": ids, "_mask_token": "[MASK]", "_eos_token": None})


Save = Callable[[Path], DiT]
SUBS = {"parameterization": "subs", "diffusion": "absorbing_state", "time_conditioning": False}
UNIFORM = {"parameterization": "d3pm", "diffusion": "uniform", "time_conditioning": True}
DUO = {"algo": {"name": "duo_base", "parameterization": "mean", "time_conditioning": True, "backbone": "dit"}}
#: Each format: how it is saved, the graph, and whether the network gets sigma, t or nothing.
FORMATS: dict[str, tuple[Save, str, str]] = {
    "mdlm": (lambda path: save_hub(path, "mdlm"), "absorbing", "none"),
    "mdlm, with time": (lambda path: save_hub(path, "mdlm", time_conditioning=True), "absorbing", "sigma"),
    "udlm": (lambda path: save_hub(path, "udlm"), "uniform", "sigma"),
    "duo": (lambda path: save_hub(path, "duo"), "uniform", "sigma"),
    "bd3lm": (lambda path: save_hub(path, "bd3lm", variant=Variant(block_size=2), block_size=2), "absorbing", "none"),
    "bd3lm, without adaLN": (
        lambda path: save_hub(path, "bd3lm", variant=Variant(False, block_size=3), block_size=3),
        "absorbing",
        "none",
    ),
    "radd": (save_radd_hub, "absorbing", "none"),
    "radd-run": (save_radd_run, "absorbing", "none"),
    "gidd": (save_gidd_hub, "gidd", "time"),
    "gidd, masks alone": (lambda path: save_gidd_hub(path, 0.0), "absorbing", "time"),
    "gidd-run": (save_gidd_run, "gidd", "time"),
    "lightning subs": (lambda path: save_lightning(path.with_suffix(".ckpt"), **SUBS), "absorbing", "none"),
    "lightning d3pm": (
        lambda path: save_lightning(
            path.with_suffix(".ckpt"),
            parameterization="d3pm",
            diffusion="absorbing_state",
            T=50,
            time_conditioning=True,
        ),
        "absorbing",
        "sigma",
    ),
    "lightning sedd": (
        lambda path: save_lightning(path.with_suffix(".ckpt"), parameterization="sedd", time_conditioning=True),
        "absorbing",
        "sigma",
    ),
    "lightning udlm": (lambda path: save_lightning(path.with_suffix(".ckpt"), **UNIFORM), "uniform", "sigma"),
    "lightning duo": (lambda path: save_lightning(path.with_suffix(".ckpt"), **DUO), "uniform", "sigma"),
}
