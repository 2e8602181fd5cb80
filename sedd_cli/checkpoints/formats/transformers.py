"""What LLaDA, Dream, a2d and SMDM have in common: a Llama-like network with MASK, without noise as an input."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sedd_cli.checkpoints.bidirectional import BidirectionalTransformer, TransformerConfig, rope_kind
from sedd_cli.checkpoints.formats.base import CONFIG, ModelFiles, assembled
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.checkpoints.tensors import load_weights
from sedd_cli.core.losses.masked_cross_entropy import MaskedCrossEntropy
from sedd_cli.core.schedules import LogLinear
from sedd_cli.core.vocabulary import Vocabulary
from sedd_cli.errors import DamageError, RequestError, displayed, first_line

#: alpha = 1 − t, but for what keeps the noise at t = 1 finite.
SCHEDULE = LogLinear(eps=1e-6)
#: The attention of the first layer, whose matrices show what a configuration leaves out.
ATTENTION = "layers.0.self_attn"
#: Tensors of old files that are computed.
BUFFERS = "rotary_emb.inv_freq"


def transformer(
    source: ModelFiles, kind: str, shape: dict[str, Any], tensors: Mapping[str, Tensor], mask: int, tied: bool = False
) -> LoadedModel:
    """The model of tensors under the names of `BidirectionalTransformer`.

    shape: fields of TransformerConfig; hidden_size and mlp_size are those of the tensors.
    """
    tensors = {name: value for name, value in tensors.items() if not name.endswith(BUFFERS)}
    rows, width = size(source, tensors, "embed_tokens.weight")
    mlp = size(source, tensors, "layers.0.mlp.gate_proj.weight")[0]
    if shape["n_blocks"] > len(tensors):
        raise DamageError(f"{source.name} declares {shape['n_blocks']:,} layers and holds {len(tensors)} tensors")
    outputs = rows if tied else size(source, tensors, "lm_head.weight")[0]
    if not rows - 1 <= outputs <= rows or (outputs < rows and mask != outputs):
        raise DamageError(f"{source.name} has {rows:,} embedded tokens and {outputs:,} outputs")
    try:
        config = TransformerConfig(hidden_size=width, mlp_size=mlp, **shape)
        net = BidirectionalTransformer(config, rows, outputs, tied)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:  # for rope_scaling
        raise RequestError(f"{source.name}: its shape is not possible: {first_line(error)}") from None
    load_weights(net, tensors, source.name, dtype=None)
    vocabulary = Vocabulary(rows, mask, counts_mask=True)
    stored = sorted({str(value.dtype).removeprefix("torch.") for value in tensors.values()} - {"float32"})
    facts = {"stored": " and ".join(stored)} if stored else {}
    model = assembled(source, kind, net, vocabulary, SCHEDULE, MaskedCrossEntropy(), "none", facts)
    if (file := source.folder / "tokenizer.json").is_file():
        model.tokenizer_source = str(file)
    return model


def hugging_face(source: ModelFiles, length: int, **more: Any) -> tuple[dict[str, Any], dict[str, Tensor], bool]:
    """Shape, tensors and whether the head is tied, of a folder that `transformers` wrote.

    length: where the configuration does not say it. more: entries of the shape. RequestError for what would change the
    outputs and is not supported.
    """
    refuse(source, {"hidden_act": "silu"})  # use_sliding_window: their code, seeing both ways, ignores it
    heads = source.number("num_attention_heads")
    tensors = {name.removeprefix("model."): value for name, value in source.tensors.items()}
    tied = without_head(source, "tie_word_embeddings", tensors)
    theta, scaling = _rope(source)
    head = source.number("head_dim", default=max(1, size(source, tensors, f"{ATTENTION}.q_proj.weight")[0] // heads))
    biases = {name: True for name in ("attention_bias", "mlp_bias") if source.flag(name)}
    shape = {
        "n_blocks": source.number("num_hidden_layers"),
        "n_heads": heads,
        "n_kv_heads": source.number(
            "num_key_value_heads", default=max(1, size(source, tensors, f"{ATTENTION}.k_proj.weight")[0] // head)
        ),
        "head_dim": head,
        "length": source.number("max_position_embeddings", default=length),
        "norm_eps": real(source, "rms_norm_eps", 1e-6),
        **biases,
        "rope_theta": theta,
        "rope_scaling": scaling,
        **more,
    }
    return shape, tensors, tied


def without_head(source: ModelFiles, key: str, tensors: dict[str, Tensor]) -> bool:
    """Whether the head is the embedding, by a flag of the configuration, else because there is no head.

    A head that is stored all the same is taken out of the tensors.
    """
    tied = source.flag(key, "lm_head.weight" not in tensors)
    if tied:
        tensors.pop("lm_head.weight", None)
    return tied


def renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors whose names have another beginning, or, in "…N.name.…" of layer N, another name."""
    found = {}
    for name, value in tensors.items():
        for old, new in names.items():
            pattern = "^" + re.escape(old).replace("N", r"(\d+)") + r"(?=\.)"
            if re.match(pattern, name):
                name = re.sub(pattern, new.replace("N", r"\1"), name)
                break
        found[name] = value
    return found


def size(source: ModelFiles, tensors: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    """The shape of a matrix; DamageError where it is missing or none."""
    if name not in tensors:
        raise DamageError(f"the weights of {source.name} lack {name}")
    if tensors[name].dim() != 2 or not tensors[name].numel():
        raise DamageError(f"the weights of {source.name}: {name} is {list(tensors[name].shape)}, expected a matrix")
    return tensors[name].shape[0], tensors[name].shape[1]


def real(source: ModelFiles, key: str, default: float, config: Mapping[str, Any] | None = None) -> float:
    """A positive number of the configuration."""
    value = (source.config if config is None else config).get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise RequestError(f"{source.folder / CONFIG}: {key} must be a positive number, found {displayed(value)}")
    return float(value)


def refuse(source: ModelFiles, known: Mapping[str, Any]) -> None:
    """RequestError where the configuration has another value than the known one, or than one of a tuple."""
    for key, value in known.items():
        found = source.config.get(key)
        if found is not None and found not in (value if isinstance(value, tuple) else (value,)):
            raise RequestError(f"{source.folder / CONFIG}: {key} {displayed(found)} is not supported")


def _rope(source: ModelFiles) -> tuple[float, tuple[tuple[str, Any], ...]]:
    """theta, and the entries of rope_scaling; newer files have both under rope_parameters."""
    section = "rope_parameters" if source.config.get("rope_parameters") else "rope_scaling"
    both, where = source.config.get(section) or {}, f"{source.folder / CONFIG}: {section}"
    if not isinstance(both, Mapping):
        raise RequestError(f"{where} must hold keys and values, found {displayed(both)}")
    theta = real(source, "rope_theta", 10000.0, both if "rope_theta" in both else None)
    if rope_kind(both, where) == "default":
        return theta, ()
    return theta, tuple(sorted((str(key), value) for key, value in both.items() if key != "rope_theta"))
