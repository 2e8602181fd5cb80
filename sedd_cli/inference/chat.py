"""A message in the chat template of an instruct model, with room for the answer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.data.tokenizers.huggingface import HuggingFaceTokenizer
from sedd_cli.data.tokenizers.reindexed import ReindexedTokenizer
from sedd_cli.errors import RequestError, first_line
from sedd_cli.inference.layout import Layout
from sedd_cli.inference.template import gap_between
from sedd_cli.system.documents import TOKENIZER_BYTES, read_json

CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
#: Special tokens that a template may name.
NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")


def chat_layout(model: LoadedModel, message: str, length: int) -> Layout:
    """A sequence of `length` tokens: the message in the model's chat template, then a gap for the answer.

    The answer's text ends at its first special token. RequestError where the model has no chat template, or the
    message leaves no room.
    """
    tokenizer = model.text_tokenizer()
    base = tokenizer.base if isinstance(tokenizer, ReindexedTokenizer) else tokenizer
    if not isinstance(base, HuggingFaceTokenizer) or model.tokenizer_source is None:
        raise RequestError(f"{model.source} has no chat template: its tokenizer is none of the hub")
    text = rendered(Path(model.tokenizer_source), message)
    ids, ends = base.encode_special(text), sorted(base.special)
    if isinstance(tokenizer, ReindexedTokenizer):
        ids, ends = tokenizer.states(ids), tokenizer.states([id for id in ends if id != tokenizer.mask])
    if len(ids) >= length:
        raise RequestError(f"the message takes {len(ids)} tokens, of {length} in all: raise --length, or shorten it")
    parts = (tuple(ids), length - len(ids))
    return Layout(gap_between(text, ""), parts, (False, False), tokenizer, frozenset(ends))


def rendered(source: Path, message: str) -> str:
    """A message of the user in the chat template beside a tokenizer, up to where the answer begins."""
    folder = source if source.is_dir() else source.parent
    config = read_json(folder / CONFIG, TOKENIZER_BYTES) if (folder / CONFIG).is_file() else {}
    config = config if isinstance(config, Mapping) else {}
    template = _template(folder, config)
    if template is None:
        raise RequestError(f"{folder} has no chat template (chat_template in {CONFIG}, or {TEMPLATE})")
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _refuse
    messages = [{"role": "user", "content": message}]
    try:
        return environment.from_string(template).render(
            messages=messages, add_generation_prompt=True, **{name: _spelled(config.get(name)) for name in NAMED}
        )
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise RequestError(f"the chat template of {folder} fails: {first_line(error)}") from None


def _template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The template: of its own file, or in the configuration, alone or as the one named default."""
    if (folder / TEMPLATE).is_file():
        return (folder / TEMPLATE).read_text(encoding="utf-8")
    found = config.get("chat_template")
    if isinstance(found, list):
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, Mapping)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _spelled(token: Any) -> str:
    """A special token, which may be written with its options."""
    token = token.get("content") if isinstance(token, Mapping) else token
    return token if isinstance(token, str) else ""


def _refuse(reason: str) -> None:
    raise ValueError(reason)
