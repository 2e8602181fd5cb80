"""The only calls of `from_pretrained`: what `transformers` loads, never with code of its folder or repository.

Without an explicit `trust_remote_code`, `transformers` asks on standard input whether to run the Python files that a
model or tokenizer brings along.
"""

from __future__ import annotations

from typing import Any

from sedd_cli.errors import RequestError


def pretrained_tokenizer(source: str, **options: Any) -> Any:
    """`AutoTokenizer.from_pretrained`; RequestError for a tokenizer that needs code of its own."""
    from transformers import AutoTokenizer

    return _load(AutoTokenizer, source, options)


def pretrained_causal_model(source: str, **options: Any) -> Any:
    """`AutoModelForCausalLM.from_pretrained`; RequestError for a model that needs code of its own."""
    from transformers import AutoModelForCausalLM

    return _load(AutoModelForCausalLM, source, options)


def _load(kind: Any, source: str, options: dict[str, Any]) -> Any:
    try:
        return kind.from_pretrained(source, trust_remote_code=False, **options)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise RequestError(
            f"{source} needs Python code that it brings along (auto_map in its configuration), and code of a model or "
            "tokenizer is never run: take one that transformers knows without it"
        ) from None
