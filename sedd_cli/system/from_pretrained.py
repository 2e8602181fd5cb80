"""The only calls of `from_pretrained` of `transformers`, which never run code of a model or tokenizer.

Without an explicit `trust_remote_code`, `transformers` prompts on standard input for permission to run such code.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sedd_cli.errors import DamageError, RequestError, displayed, first_line
from sedd_cli.system.documents import is_plain_name, read_json
from sedd_cli.system.files import require_regular

#: Most layers of a model, and most experts of a layer. The deepest published ones have less than 200 and 1,000.
MOST_LAYERS = 4096
_COUNT = re.compile(r"n_layers?|(num|n)_(\w+_)?(layers|experts)")


def pretrained_tokenizer(source: str, **options: Any) -> Any:
    """`AutoTokenizer.from_pretrained`; RequestError for a tokenizer that needs code of its own."""
    from transformers import AutoTokenizer

    return _load(AutoTokenizer, source, options)


def pretrained_qwen2_tokenizer(folder: str) -> Any:
    """The tokenizer of Qwen2 from its vocab.json and merges.txt, whatever class the folder names."""
    import transformers

    fast = getattr(transformers, "Qwen2TokenizerFast", transformers.Qwen2Tokenizer)  # one class since version 5
    return fast.from_pretrained(folder, local_files_only=True)


def pretrained_causal_model(source: str, **options: Any) -> Any:
    """`AutoModelForCausalLM.from_pretrained`; RequestError for a model that needs code of its own."""
    from transformers import AutoModelForCausalLM

    return _load(AutoModelForCausalLM, source, options)


def _load(kind: Any, source: str, options: dict[str, Any]) -> Any:
    for file in Path(source).iterdir() if Path(source).is_dir() else ():
        require_regular(file, f"a file of {source}")
    _refuse_foreign_kernels(source)
    _refuse_many_layers(source)
    _refuse_ways_out(source)
    try:
        return kind.from_pretrained(source, trust_remote_code=False, **options)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise RequestError(
            f"{source} needs Python code of its own (auto_map in its configuration), which is never run: "
            "choose a model or tokenizer that transformers supports without it"
        ) from None
    except (OSError, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except (AttributeError, KeyError, TypeError, ArithmeticError, RecursionError, IndexError) as error:
        raise RequestError(f"{source} cannot be loaded: its configuration is malformed ({first_line(error)})") from None


def _refuse_ways_out(source: str) -> None:
    """RequestError for an index of weights that names other than plain files of its own folder."""
    for index in Path(source).glob("*.index.json") if Path(source).is_dir() else ():
        try:
            names = set(map(str, read_json(index)["weight_map"].values()))
        except (OSError, DamageError, KeyError, TypeError, AttributeError):
            continue
        if wrong := sorted(name for name in names if not is_plain_name(name)):
            raise RequestError(f"{index} names {displayed(wrong[0])}, which is no file of its own folder")


def _refuse_many_layers(source: str) -> None:
    """RequestError for a folder whose configuration counts more layers or experts than any model has.

    They are made before the weights are read, one after another.
    """
    try:
        config = read_json(Path(source) / "config.json")
        counts = {**config, **(config.get("text_config") or {})}.items()
    except (OSError, DamageError, AttributeError, TypeError):
        return
    for key, value in counts:
        if _COUNT.fullmatch(key) and isinstance(value, int) and value > MOST_LAYERS:
            raise RequestError(
                f"{source}/config.json: {key} must be at most {MOST_LAYERS:,} (the limit MOST_LAYERS), found "
                f"{displayed(value)}"
            )


def _refuse_foreign_kernels(source: str) -> None:
    """RequestError for a folder that names an attention implementation of a hub repository, which is code."""
    try:
        config = read_json(Path(source) / "config.json")
        named = [config.get(key) for key in ("attn_implementation", "_attn_implementation")]
    except (OSError, DamageError, AttributeError):
        return
    if foreign := [name for name in named if isinstance(name, str) and "/" in name]:
        raise RequestError(f"{source} needs code of {foreign[0]} (attn_implementation), which is never run")
