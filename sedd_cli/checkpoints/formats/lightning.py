"""Lightning checkpoints of the code of MDLM, UDLM, BD3-LM and Duo, read without running anything."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from sedd_cli.checkpoints.formats.backbone import PREFIX, network
from sedd_cli.checkpoints.formats.base import Format, Mark, ModelFiles, assembled, register, step_of, unwrapped
from sedd_cli.checkpoints.formats.inert import Inert, plain, read_inert
from sedd_cli.checkpoints.formats.special_tokens import (
    KNOWN_MASKS,
    KNOWN_TOKENIZERS,
    chosen_mask,
    named_token,
    token_ids,
    tokenizer_of,
)
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.checkpoints.published import named_averages
from sedd_cli.checkpoints.tensors import check_stored
from sedd_cli.core.graphs.absorbing import Absorbing
from sedd_cli.core.losses import Objective
from sedd_cli.core.losses.d3pm import D3PM
from sedd_cli.core.losses.masked_cross_entropy import MaskedCrossEntropy
from sedd_cli.core.losses.score_entropy import PlugInScoreEntropy, ScoreEntropy
from sedd_cli.core.schedules import LogLinear
from sedd_cli.core.vocabulary import Vocabulary
from sedd_cli.data.tokenizers.huggingface import HuggingFaceTokenizer
from sedd_cli.errors import DamageError, RequestError, displayed, not_one_of
from sedd_cli.models.network import Condition

SUFFIX = ".ckpt"
#: Names of algorithms, and of processes, whose noise is uniform.
UNIFORM = ("uniform", "udlm", "duo", "duo_base", "distillation", "ot-finetune")
#: What the vocabulary of a tokenizer of BERT has to hold.
BERT_TOKENS = ("[UNK]", "[SEP]", "[CLS]")
#: Parametrisations of models with MASK. Duo's code calls score what MDLM's calls sedd, and its D3PM has the mean one.
PARAMETERIZATIONS = ("subs", "d3pm", "sedd", "score", "mean")
#: Names of the log-linear schedule.
LOG_LINEAR = ("loglinear", "log-linear", None)


@register
class Lightning(Format):
    """A file *.ckpt, or a folder with one such file and no config.json."""

    name: ClassVar[str] = "lightning"
    marks: ClassVar[str] = "one file *.ckpt"
    marked_by: ClassVar[Mark] = Mark.FILE

    def recognises(self, source: ModelFiles) -> bool:
        return not source.config and self.file(source) is not None

    def file(self, source: ModelFiles) -> Path | None:
        """The checkpoint; None where there is none, or several."""
        if source.path.is_file():
            return source.path if source.path.suffix == SUFFIX else None
        files = list(source.path.glob(f"*{SUFFIX}")) if source.path.is_dir() else []
        return files[0] if len(files) == 1 else None

    def files(self, source: ModelFiles) -> list[Path]:
        file = self.file(source)
        return [file] if file else []

    def load(self, source: ModelFiles, mask: str | None = None) -> LoadedModel:
        file = self.file(source)
        assert file is not None, "a recognised source"
        return Stored(source, file).model(mask)


def unprefixed(name: str) -> str:
    """The name of a weight without the prefix, however often it stands there."""
    while name.startswith(PREFIX):
        name = name.removeprefix(PREFIX)
    return name


@dataclass(frozen=True)
class Stored:
    """One checkpoint file."""

    source: ModelFiles
    file: Path

    @cached_property
    def content(self) -> Mapping[str, Any]:
        """Everything, with stand-ins for foreign objects."""
        found = read_inert(self.file)
        if not isinstance(found, Mapping) or not isinstance(found.get("state_dict"), Mapping):
            raise RequestError(f"{self.file} is not a checkpoint of lightning: it has no state_dict")
        return found

    @cached_property
    def parameters(self) -> Mapping[str, Any]:
        """hyper_parameters."""
        found = self.content.get("hyper_parameters")
        return found if isinstance(found, Mapping) else {}

    @cached_property
    def config(self) -> Any:
        """The configuration that the model was trained with."""
        found = plain(self.parameters.get("config"))
        if not isinstance(found, dict):
            raise RequestError(f"{self.file} holds no hyper_parameters.config, by which its model would be known")
        return found

    def setting(self, *keys: str, default: Any = None) -> Any:
        """The value of the first of the dotted `keys` that is there; `default` if none is."""
        for key in keys:
            value: Any = self.config
            for name in key.split("."):
                value = value.get(name) if isinstance(value, Mapping) else None
            if value is not None:
                return value
        return default

    def whole(self, key: str) -> int:
        """A positive whole number."""
        value = self.setting(key)
        if type(value) is not int or value < 1:
            raise RequestError(f"{self.file}: config.{key} must be a positive number, found {displayed(value)}")
        return value

    def weights(self) -> tuple[dict[str, Tensor], str]:
        """The network's weights by name, averaged if there are averages, and in words which they are."""
        stored = {unwrapped(name): value for name, value in self.content["state_dict"].items()}
        # twice where the backbone is a model of the hub, which has a backbone (hf_dit)
        raw = {unprefixed(name): value for name, value in stored.items() if name.startswith(PREFIX)}
        if not raw or not all(isinstance(value, Tensor) for value in raw.values()):
            raise DamageError(f"{self.file}: state_dict holds no tensors {PREFIX}*")
        ema = self.content.get("ema")
        shadow = ema.get("shadow_params") if isinstance(ema, Mapping) else None
        if not shadow:
            check_stored(raw, self.file)
            return raw, "not averaged"
        return named_averages(raw, list(shadow), self.file), "EMA"

    @cached_property
    def uniform(self) -> bool:
        """Whether noise is uniform rather than MASK."""
        return any(self.setting(key) in UNIFORM for key in ("diffusion", "algo.name", "algo.diffusion"))

    def model(self, mask: str | None) -> LoadedModel:
        """The model."""
        backbone = self.setting("algo.backbone", "backbone", default="dit")
        if backbone not in ("dit", "hf_dit"):
            raise RequestError(f"{self.file} has the network {displayed(backbone)}, supported is dit")
        if self.setting("algo.causal_attention") is True:
            raise RequestError(f"{self.file} has causal attention, which diffusion models here do not have")
        tensors, which = self.weights()
        block_size = self.block_size()
        net = network(tensors, self.whole("model.n_heads"), self.whole("model.length"), self.source.name, block_size)
        vocabulary, objective, kind = self.meaning(net.states, mask)
        conditioned = self.setting("algo.time_conditioning", "time_conditioning", default=False) is True
        condition: Condition = "sigma" if conditioned else "none"
        facts = {"layout": "lightning", "weights": which, **step_of(self.content.get("global_step"))}
        noise = self.noise(conditioned)
        model = assembled(self.source, kind, net, vocabulary, noise, objective, condition, facts)
        if kind == "sedd":
            model.graph = Absorbing(vocabulary.tokens, scale_by_sigma=True)
        return self.with_tokenizer(model)

    def block_size(self) -> int | None:
        """The tokens of a block of BD3-LM; None for any other model."""
        if self.setting("algo.name") != "bd3lm":
            return None
        size, length = self.whole("block_size"), self.whole("model.length")
        if self.setting("algo.cross_attn") is False:
            raise RequestError(f"{self.file} is a BD3-LM without block-causal attention, which is not supported")
        if length % size:
            raise RequestError(f"{self.file}: config.model.length {length} is no multiple of its block_size {size}")
        return size

    def noise(self, conditioned: bool) -> LogLinear:
        """The schedule. RequestError for another than the log-linear one where it changes outputs or likelihoods.

        conditioned: whether the network gets the noise. A masked model without it is the same under all of them.
        """
        kind = self.setting("noise.type")
        if kind not in LOG_LINEAR and (conditioned or self.uniform):
            raise RequestError(f"{self.file} has noise of the type {displayed(kind)}, supported is loglinear")
        eps = self.setting("noise.eps", default=1e-3) if kind in LOG_LINEAR else 1e-3
        if isinstance(eps, str):  # YAML's 1e-3
            with suppress(ValueError):
                eps = float(eps)
        if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps < 1:
            raise RequestError(f"{self.file}: config.noise.eps must lie between 0 and 1, found {displayed(eps)}")
        return LogLinear(eps)

    def meaning(self, rows: int, mask: str | None) -> tuple[Vocabulary, Objective, str]:
        """What the ids and the outputs of a network with so many rows mean, and the kind's name."""
        kind = self.setting("algo.parameterization", "parameterization")
        if kind not in PARAMETERIZATIONS:
            raise RequestError(not_one_of(f"{self.file}: config.parameterization", PARAMETERIZATIONS, kind))
        if self.uniform:
            if mask is not None:
                raise RequestError(f"--mask-token means nothing with {self.file}: its noise is uniform, without MASK")
            return Vocabulary(rows), PlugInScoreEntropy(), "uniform"
        found = chosen_mask(mask, rows, self.token_ids, self.source.name)
        if found is None:
            token = self.special("mask_token") or (named_token(self.file.parent, "mask_token") if self.beside else None)
            found = self.token_ids.get(token or "", KNOWN_MASKS.get(rows, rows - 1))
            found = found if 0 <= found < rows else KNOWN_MASKS.get(rows, rows - 1)
        if kind in ("sedd", "score"):
            return Vocabulary(rows, found), ScoreEntropy(), "sedd"
        if kind == "d3pm" or self.setting("algo.name") == "d3pm":
            steps = self.setting("algo.T", "T", default=0)
            only_tokens = self.setting("algo.subs_masking", "subs_masking", default=False) is True
            objective: Objective = D3PM(steps) if type(steps) is int and steps > 0 else MaskedCrossEntropy()
            return Vocabulary(rows, found, counts_mask=not only_tokens), objective, "d3pm"
        if kind == "mean":
            raise RequestError(
                f"{self.file}: config.parameterization mean is known with uniform noise and of d3pm, found algo.name "
                f"{displayed(self.setting('algo.name'))}"
            )
        return Vocabulary(rows, found, carries_over=True), MaskedCrossEntropy(), kind

    # -- the tokenizer, a pickled one of transformers ----------------------------------------------

    @cached_property
    def tokenizer(self) -> Inert | None:
        found = self.parameters.get("tokenizer")
        return found if isinstance(found, Inert) else None

    def special(self, name: str) -> str | None:
        """A special token by its name, such as mask_token."""
        if self.tokenizer is None:
            return None
        named = self.tokenizer.get("_special_tokens_map")
        found = self.tokenizer.get(f"_{name}") or (named.get(name) if isinstance(named, Mapping) else None)
        if isinstance(found, Inert):
            found = found.get("content")
        return found if isinstance(found, str) else None

    @cached_property
    def vocab(self) -> dict[str, int]:
        """Ids by token of a tokenizer written in Python; empty for any other."""
        found = self.tokenizer.get("vocab") if self.tokenizer else None
        items = found.items() if isinstance(found, Mapping) else ()
        return {key: value for key, value in items if isinstance(key, str) and type(value) is int}

    @cached_property
    def token_ids(self) -> dict[str, int]:
        """Ids by token of the tokenizer in the file, as far as the pickle has them, else of the one beside."""
        if self.own_tokenizer:
            return self.vocab or self.own_tokenizer.ids_by_token()
        return token_ids(self.file.parent) if self.beside else self.vocab

    @cached_property
    def own_tokenizer(self) -> HuggingFaceTokenizer | None:
        """The tokenizer, if the pickle has all of it; None otherwise."""
        engine = self.tokenizer.get("_tokenizer") if self.tokenizer else None
        text = engine.state if isinstance(engine, Inert) else None
        if not isinstance(text, bytes):
            bert = self.tokenizer is not None and type(self.tokenizer).__name__.startswith("Bert")
            whole = bert and all(token in self.vocab for token in BERT_TOKENS)
            return HuggingFaceTokenizer.from_bert_ids(str(self.file), self.vocab) if whole else None
        try:
            return HuggingFaceTokenizer.from_engine(str(self.file), text.decode(), self.special("eos_token"))
        except UnicodeDecodeError:
            raise DamageError(f"{self.file} is damaged: its tokenizer is not UTF-8") from None

    @cached_property
    def beside(self) -> str | None:
        """What the tokenizer in the folder of the file is loaded from, if the pickle does not have all of one."""
        return None if self.own_tokenizer else tokenizer_of(self.file.parent)

    def with_tokenizer(self, model: LoadedModel) -> LoadedModel:
        """The model with the tokenizer in the file, else with the one beside it, else by its name."""
        model.tokenizer, rows = self.own_tokenizer, model.net.states
        name = self.setting("data.tokenizer_name_or_path")
        fits = name not in KNOWN_TOKENIZERS.values() or KNOWN_TOKENIZERS.get(rows) == name
        by_name = name if isinstance(name, str) and fits else KNOWN_TOKENIZERS.get(rows)
        model.tokenizer_source = self.beside or by_name
        return model
