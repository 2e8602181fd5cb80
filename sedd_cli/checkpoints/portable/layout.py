"""The two layouts of exports: SEDD's published one, and one for models of any kind, which `transformers` opens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.checkpoints.model_card import escaped
from sedd_cli.checkpoints.portable.config import MODULE, PREFIX, portable_config
from sedd_cli.checkpoints.published import PUBLISHED_GRAPHS, PUBLISHED_SCHEDULES, TOKENIZER, config_of
from sedd_cli.data.tokenizers import Tokenizer
from sedd_cli.data.tokenizers.huggingface import HuggingFaceTokenizer
from sedd_cli.data.tokenizers.reindexed import ReindexedTokenizer
from sedd_cli.errors import RequestError
from sedd_cli.models.network import Adapted
from sedd_cli.system.documents import TOKENIZER_BYTES, read_json

#: The file of the classes that `transformers` loads.
MODELING = f"{MODULE}.py"
TOKENIZER_CONFIG = "tokenizer_config.json"
#: Files of tokenizers that are copied from the folder of a model.
TOKENIZERS = (
    TOKENIZER, TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "vocab.txt", "chat_template.jinja",
)  # fmt: skip
#: The ε of the log-linear schedule that the published code has built in.
PUBLISHED_EPS = 1e-3


@dataclass(frozen=True)
class ExportLayout:
    """How an export is laid out.

    Attributes:
        config: The content of config.json.
        prefix: What stands before the names of tensors.
        use: How others load it, for the model card.
        remarks: Warnings for the user.
        portable: Whether `transformers` opens it.
    """

    config: dict[str, Any]
    prefix: str
    use: str
    remarks: tuple[str, ...] = ()
    portable: bool = False

    def tensors(self, model: LoadedModel, half: bool) -> dict[str, Tensor]:
        """The tensors to store: parameters, in bf16 if half, and buffers that checkpoints hold."""
        net = model.net.net if isinstance(model.net, Adapted) else model.net
        low = {name for name, _ in net.named_parameters()} if half else set()
        found = {}
        for name, value in net.state_dict().items():
            value = value.detach().cpu().contiguous()
            found[self.prefix + name] = value.bfloat16() if name in low else value
        return found

    def write_files(self, model: LoadedModel, folder: Path) -> None:
        """Write the tokenizer and, for `transformers`, the modeling file."""
        if not self.portable:
            if model.tokenizer is not None:
                model.tokenizer.save(folder)
            return
        shutil.copyfile(Path(__file__).with_name(MODELING), folder / MODELING)
        _write_tokenizer(model, folder)


def published_layout(model: LoadedModel) -> ExportLayout:
    """SEDD's own; RequestError for a model that it cannot hold."""
    if model.objective.parametrization != "score" or model.exact or model.vocabulary is not None:
        found = model.objective.name if model.vocabulary is None else "another project"
        raise RequestError(
            f"the published layout holds SEDD's models of scores only, found a model of {found}: --transformers writes "
            "a layout that holds it"
        )
    config = config_of(model.graph, model.schedule, model.net.config)
    remarks, use = [], "The layout is that of the published checkpoints."
    if config["noise"].get("eps", PUBLISHED_EPS) != PUBLISHED_EPS:
        remarks.append(f"noise.eps is {config['noise']['eps']}: the published code always uses {PUBLISHED_EPS}")
        use += f" The original code takes it for another model: its loglinear ε is always {PUBLISHED_EPS}."
    named = (
        ("graph", model.graph.name, PUBLISHED_GRAPHS.values()),
        ("noise", model.schedule.name, PUBLISHED_SCHEDULES),
    )
    if lacking := " and ".join(f"no {key} {name}" for key, name, known in named if name not in known):
        remarks.append(f"the published code has {lacking}: only sedd reads this export")
        use += f" The original code does not read this model: it has {escaped(lacking)}."
    if not remarks:
        use += " `SEDD.from_pretrained(NAME)` of the original code should read it: the code was not run on this model."
    return ExportLayout(config, "", use, tuple(remarks))


def portable_layout(model: LoadedModel, half: bool) -> ExportLayout:
    """The layout of `transformers`; RequestError for a network or schedule that its modeling file does not have."""
    kinds = {value.dtype for value in model.net.parameters()}
    dtype = torch.bfloat16 if half else next(iter(kinds)) if len(kinds) == 1 else torch.float32
    config = portable_config(model, str(dtype).removeprefix("torch."))
    (auto,) = (key for key in config["auto_map"] if key != "AutoConfig")
    remarks = ()
    if model.tokenizer is not None and not isinstance(_own(model.tokenizer), HuggingFaceTokenizer):
        remarks = ("the tokenizer is stored in a form that sedd reads and transformers does not",)
    what = {
        "log_p_x0": "`(input_ids=x, t=t).logits` are log p(x0 | x_t)",
        "log_score": "`(input_ids=x, t=t).logits` are log-scores, zero at the present token",
        "next_token": "`(input_ids=x).logits` are those of the next token",
    }
    use = (
        f"`{auto}.from_pretrained(NAME, trust_remote_code=True, dtype=torch.float32)` of transformers (with `import "
        f"torch` and `from transformers import {auto}`) reads it: {what[config['outputs']]}. Without `dtype`, a model "
        "stored in bf16 computes in bf16."
    )
    return ExportLayout(config, PREFIX, use, remarks, portable=True)


def _own(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with its own ids."""
    return tokenizer.base if isinstance(tokenizer, ReindexedTokenizer) else tokenizer


def _write_tokenizer(model: LoadedModel, folder: Path) -> None:
    """The tokenizer's files: those beside it, without the names of code in them, else what is loaded."""
    source = Path(model.tokenizer_source or model.source)  # of a model from the hub, its folder in the cache
    source = source if source.is_dir() else source.parent
    files = [source / name for name in TOKENIZERS if source != Path() and (source / name).is_file()]
    if model.vocabulary is not None and files:
        for file in files:
            if file.name == TOKENIZER_CONFIG and isinstance(content := read_json(file, TOKENIZER_BYTES), Mapping):
                content = {key: value for key, value in content.items() if key != "auto_map"}
                (folder / file.name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            else:
                shutil.copyfile(file, folder / file.name)
        if (folder / TOKENIZER).is_file():
            return
    if model.tokenizer is None:
        return
    tokenizer = _own(model.tokenizer)
    if not isinstance(tokenizer, HuggingFaceTokenizer):
        tokenizer.save(folder)
        return
    (folder / TOKENIZER).write_text(tokenizer.state()["engine"], encoding="utf-8")
    if not (folder / TOKENIZER_CONFIG).is_file():
        ids = {"eos_token": tokenizer.eos, "mask_token": model.vocabulary.mask if model.vocabulary else None}
        named = {key: tokenizer.token(number) for key, number in ids.items() if number is not None}
        content = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{key: token for key, token in named.items() if token},
        }
        (folder / TOKENIZER_CONFIG).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
