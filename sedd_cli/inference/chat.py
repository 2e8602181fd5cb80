"""A message in the chat template of an instruct model, with room for the answer."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.data.tokenizers.huggingface import HuggingFaceTokenizer
from sedd_cli.data.tokenizers.reindexed import ReindexedTokenizer
from sedd_cli.errors import RequestError
from sedd_cli.inference.layout import Layout
from sedd_cli.inference.template import gap_between
from sedd_cli.system.documents import TOKENIZER_BYTES, read_json, read_text

CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
#: Special tokens that a template may name.
NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")
#: What rendering a template may take, in a process of its own, and the most characters it may give.
RENDER_BYTES, RENDER_SECONDS, RENDERED = 2 << 30, 5, 1 << 20
#: The exit code of that process, as it stands in _RENDER, where a limit is met; a signal may end it as well.
_LIMIT = 3
_RENDER = """
import json, sys
most, seconds, characters = map(int, sys.argv[1:])
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
except ImportError:
    pass
from datetime import datetime
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("content"), [], [], body).set_lineno(line)

    def content(self, caller):
        return caller()

def refuse(reason):
    raise ValueError(reason)

template, values = json.load(sys.stdin)
environment = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
)
environment.globals["raise_exception"] = refuse
environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
text = reason = None
try:
    text = environment.from_string(template).render(add_generation_prompt=True, **values)
except MemoryError:
    sys.exit(3)
except Exception as error:
    reason = (str(error).strip() or type(error).__name__).split(chr(10))[0][:200]
if text is not None and len(text) > characters:
    sys.exit(3)
json.dump([text, reason], sys.stdout)
"""


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
        raise RequestError(
            f"the tokenizer {source} has no chat template beside it (chat_template in {CONFIG}, or {TEMPLATE})"
        )
    values = {name: _spelled(config.get(name)) for name in NAMED}
    return _rendered(template, {"messages": [{"role": "user", "content": message}], **values}, folder)


def _rendered(template: str, values: Mapping[str, Any], folder: Path) -> str:
    """The template with these values, rendered where it can neither run on nor take the memory of this process."""
    command = [sys.executable, "-I", "-c", _RENDER, *map(str, (RENDER_BYTES, RENDER_SECONDS, RENDERED))]
    given = json.dumps([template, values]).encode()
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=2 * RENDER_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        done = None
    if done is None or done.returncode < 0 or done.returncode == _LIMIT:
        raise RequestError(
            f"the chat template of {folder} is refused: rendering it takes more than {RENDER_SECONDS} s, "
            f"{RENDER_BYTES >> 30} GiB or {RENDERED:,} characters (RENDER_SECONDS, RENDER_BYTES, RENDERED)"
        )
    if done.returncode:
        reason = (done.stderr.decode("utf-8", "replace").strip().split("\n") or [""])[-1][:200]
        raise RequestError(f"the chat template of {folder} cannot be rendered: {reason}")
    text, reason = json.loads(done.stdout)
    if reason is not None:
        raise RequestError(f"the chat template of {folder} fails: {reason}")
    return text


def _template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The template: of its own file, or in the configuration, alone or as the one named default."""
    if (folder / TEMPLATE).is_file():
        return read_text(folder / TEMPLATE)
    found = config.get("chat_template")
    if isinstance(found, list):
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, Mapping)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _spelled(token: Any) -> str:
    """A special token, which may be written with its options."""
    token = token.get("content") if isinstance(token, Mapping) else token
    return token if isinstance(token, str) else ""
