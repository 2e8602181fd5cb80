"""Causal language models from a folder, the hub's cache, or the hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sedd_cli.checkpoints.formats import find_format
from sedd_cli.checkpoints.formats.base import CONFIG, ModelFiles
from sedd_cli.checkpoints.hub import cached_else_fetched, refusal
from sedd_cli.checkpoints.portable.config import MODEL_TYPE
from sedd_cli.data.tokenizers import load_tokenizer
from sedd_cli.errors import DamageError, RequestError
from sedd_cli.evaluation.scorers.causal import CausalModel
from sedd_cli.models.precision import autocast_dtype
from sedd_cli.system.distributed import pick_device
from sedd_cli.system.documents import read_json
from sedd_cli.system.from_pretrained import pretrained_causal_model, pretrained_tokenizer

#: A hub id; some old models have no owner.
HUB_ID = r"\w[\w.-]*(/[\w.-]+)?"
#: What judges texts, or gives features of them.
AUTOREGRESSIVE = (
    "a judge, or a model of features, must be autoregressive (a model such as gpt2-large, or a run with "
    "objective=autoregressive)"
)


def load_causal(source: str | Path, device: str = "auto", precision: str = "fp32") -> CausalModel:
    """A causal language model of `transformers` from a local folder, the hub's cache, or the hub.

    precision: fp32 | bf16 | auto; bf16 casts the weights, and the softmax stays float32.
    Raises RequestError for what cannot be fetched, is no such model, or lacks some of its weights.
    """
    source, chosen = str(source), pick_device(device)
    _refuse_diffusion(source)
    dtype = autocast_dtype(precision, chosen) or torch.float32
    with _quiet_transformers():
        net, loading = _found(source, lambda **at: pretrained_causal_model(source, output_loading_info=True, **at))
        tokenizer = _tokenizer(source)
    # transformers fills missing weights with random numbers
    if lacking := sorted(loading["missing_keys"]):
        raise RequestError(f"{source} is no whole causal language model: its weights lack {', '.join(lacking[:3])}")
    model = CausalModel(net.to(chosen, dtype).eval().requires_grad_(False), tokenizer, source)
    if not _looks_back_only(model):
        raise RequestError(f"{source} is not a causal language model: its predictions depend on later tokens")
    return model


def load_exact(source: str, device: str = "auto", precision: str = "fp32", tokenizer: str | None = None) -> CausalModel:
    """A causal language model with the tokenizer its datasets are prepared with: the one named, else its own.

    RequestError where either cannot be loaded, and where the tokenizer has more tokens than the model.
    """
    model = load_causal(source, device, precision)
    model.tokenizer_source = tokenizer or ("gpt2" if model.gpt2 else source)
    model.tokenizer = load_tokenizer(model.tokenizer_source)
    if model.tokenizer.vocab_size > model.vocab_size:
        raise RequestError(
            f"tokenizer {model.tokenizer.spec!r} has {model.tokenizer.vocab_size} tokens, {source} knows "
            f"{model.vocab_size}: name its own with --tokenizer"
        )
    return model


def is_causal(source: str | Path) -> bool:
    """Whether `source` names a causal language model of `transformers` rather than a diffusion model.

    It does if it is a folder whose config.json has a "model_type" (the published layout of SEDD has none) that is not
    one of the diffusion models of others (`checkpoints.formats`), a hub name without owner, or an owner/name whose
    config.json, cached or fetched, has such a type.
    """
    files = config_files(source)
    if files is None:  # the only name whose configuration is not asked for
        return re.fullmatch(HUB_ID, str(source)) is not None and "/" not in str(source)
    return _has_model_type(files.path / CONFIG) and find_format(files)[0] is None


def config_files(source: str | Path) -> ModelFiles | None:
    """What a path names, or the folder in the hub's cache that holds the config.json of an owner/name; else None."""
    path, source = Path(source), str(source)
    if path.exists():
        return ModelFiles(path, source)
    if not re.fullmatch(HUB_ID, source) or "/" not in source or path.parent.is_dir():
        return None
    from huggingface_hub import hf_hub_download

    try:
        found = cached_else_fetched(source, lambda **at: hf_hub_download(source, CONFIG, **at))
    except Exception:  # unreachable or missing: loading it reports why
        return None
    return ModelFiles(Path(found).parent, source)


def is_export(source: str | Path) -> bool:
    """Whether `source` is what `sedd export --transformers` writes, on this machine or the hub."""
    files = config_files(source)
    return files is not None and files.model_type == MODEL_TYPE


def _refuse_diffusion(source: str) -> None:
    """RequestError for a diffusion model in any layout: the message of transformers about one would mislead."""
    if (files := config_files(source)) is None:
        return
    found = find_format(files)[0]
    layout = found.name if found else "published layout of SEDD" if "graph" in files.config else None
    if layout is not None:
        raise RequestError(
            f"{source} is a diffusion model ({layout}), which has a bound and no exact likelihood: {AUTOREGRESSIVE}"
        )


def _has_model_type(file: Path) -> bool:
    try:
        found = read_json(file)
    except (OSError, DamageError):
        return False
    return isinstance(found, dict) and "model_type" in found


def _found(source: str, load: Callable[..., Any]) -> Any:
    """What `load` returns for a folder or a hub id; a RequestError of one line where it fails."""
    if Path(source).is_dir():
        if not _has_model_type(Path(source) / CONFIG):
            raise RequestError(f"{source} is no causal language model of transformers: it has no config.json of one")
        try:
            return load(local_files_only=True)
        except RequestError:
            raise
        except Exception as error:  # of transformers, of safetensors, or of the system
            reason = str(error).strip().split("\n")[0].rstrip(".")
            raise RequestError(f"{source} cannot be loaded as a causal language model: {reason}") from error
    if not re.fullmatch(HUB_ID, source):
        raise RequestError(f"no causal language model at {source}: neither a folder nor a hub id")
    try:
        return cached_else_fetched(source, load)
    except RequestError:
        raise
    except Exception as error:
        raise refusal(source, error, "its files") from error


def _tokenizer(source: str) -> Any:
    """The tokenizer that comes with a model, or None where there is none."""

    def load(**at: bool) -> Any:
        tokenizer = pretrained_tokenizer(source, **at)
        if not tokenizer.vocab_size:  # transformers makes an empty one where its files are missing
            raise OSError(f"no tokenizer in {source}")
        return tokenizer

    if Path(source).is_dir() and not any(Path(source).glob("*token*")) and not any(Path(source).glob("vocab*")):
        return None
    return _found(source, load)


def _looks_back_only(model: CausalModel) -> bool:
    """Whether predictions do not depend on later tokens (those of BERT loaded as a causal model do)."""
    ids = torch.zeros(2, min(4, model.context), dtype=torch.int64, device=model.device)
    ids[1, -1] = min(1, model.vocab_size - 1)
    with torch.no_grad():
        one, other = model.net(input_ids=ids, use_cache=False).logits[:, :-1].float()
    return torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().amax().nan_to_num()), equal_nan=True)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Suppress the progress bars and messages of transformers, which would mix with ours."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
