"""GIDD (von Rütte et al. 2025): SEDD's network, conditioned on the time itself; hub folders and run directories."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from sedd_cli.checkpoints.formats.backbone import network
from sedd_cli.checkpoints.formats.base import Format, Mark, ModelFiles, register, unwrapped
from sedd_cli.checkpoints.formats.special_tokens import mask_id, named_token, token_ids, tokenizer_of
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.checkpoints.tensors import read_tensors
from sedd_cli.core.graphs import Graph
from sedd_cli.core.graphs.absorbing import Absorbing
from sedd_cli.core.graphs.gidd import Mixing, gidd_process
from sedd_cli.core.losses import Objective
from sedd_cli.core.losses.masked_cross_entropy import MaskedCrossEntropy
from sedd_cli.core.losses.score_entropy import PlugInScoreEntropy
from sedd_cli.core.vocabulary import Vocabulary
from sedd_cli.errors import DamageError, RequestError, displayed
from sedd_cli.models.network import Adapted, NoiseInput
from sedd_cli.system.documents import read_yaml

RUN_CONFIG, RUN_WEIGHTS, RUN_SCHEDULE = "config.yaml", "model.pt", "noise_schedule.pt"


@dataclass(frozen=True)
class GiddFacts:
    """What a layout holds about its model. first_version: its noise is that of the code's versions up to 1.0.1."""

    config: Mapping[str, Any]
    where: str
    tensors: Mapping[str, Tensor]
    first_version: bool

    def number(self, *keys: str, default: float | None = None) -> float:
        """The number under the first of `keys` that is there."""
        value = next((self.config[key] for key in keys if self.config.get(key) is not None), default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RequestError(f"{self.where}: {' or '.join(keys)} must be a number, found {displayed(value)}")
        return value

    def whole(self, *keys: str) -> int:
        """The same, positive and whole."""
        if not isinstance(value := self.number(*keys), int) or value < 1:
            raise RequestError(f"{self.where}: {' or '.join(keys)} must be a positive number, found {value}")
        return value


class GiddLayout(Format):
    """What its two layouts share."""

    def assembled(self, source: ModelFiles, facts: GiddFacts, mask: str | None) -> LoadedModel:
        """The model. Raises RequestError where MASK is not to be found."""
        net = network(
            facts.tensors, facts.whole("num_attention_heads", "n_heads"), facts.whole("max_seq_len"), source.name
        )
        rows, ids = net.states, token_ids(source.folder)
        vocabulary = Vocabulary(rows, mask_id(source, rows, mask))
        reached = min(max(ids.values(), default=rows - 1) + 1, rows) - 1
        if reached < 1:
            raise RequestError(f"{source.name}: its tokenizer has no token but MASK")
        p_uniform, t_eps = float(facts.number("p_uniform")), float(facts.number("t_eps", default=1e-4))
        try:
            mixing = Mixing(p_uniform, reached, facts.first_version)
            gidd, schedule = gidd_process(vocabulary.tokens, mixing, t_eps)
        except ValueError as error:
            raise RequestError(f"{facts.where}: {error}") from None
        graph: Graph = gidd if mixing.p_uniform else Absorbing(vocabulary.tokens, scale_by_sigma=False)
        objective: Objective = PlugInScoreEntropy() if mixing.p_uniform else MaskedCrossEntropy()
        return LoadedModel(
            Adapted(net, vocabulary, NoiseInput("time", schedule)),
            graph,
            schedule,
            None,
            source.name,
            facts={"layout": self.name, "weights": "as published"},
            tokenizer_source=tokenizer_of(source.folder) if ids else None,
            vocabulary=vocabulary,
            parametrized=objective,
            padding=vocabulary.state_of(ids.get(named_token(source.folder, "pad_token") or "")),
        )


@register
class GiddHub(GiddLayout):
    """A hub folder. The models there were trained with the code's first version."""

    name: ClassVar[str] = "gidd"
    marks: ClassVar[str] = "config.json with model_type dit and p_uniform or max_seq_len"
    #: What its class of configurations has where config.json does not.
    DEFAULTS: ClassVar[dict[str, Any]] = {"num_attention_heads": 12, "max_seq_len": 1024, "p_uniform": 0.0}

    def recognises(self, source: ModelFiles) -> bool:
        return source.model_type == "dit" and ("p_uniform" in source.config or "max_seq_len" in source.config)

    def load(self, source: ModelFiles, mask: str | None = None) -> LoadedModel:
        stated = {key: value for key, value in source.config.items() if value is not None}
        facts = GiddFacts(self.DEFAULTS | stated, f"{source.folder}/config.json", source.tensors, first_version=True)
        return self.assembled(source, facts, mask)


@register
class GiddRun(GiddLayout):
    """A run directory. The version of its noise shows in the stored schedule; without one it is the latest."""

    name: ClassVar[str] = "gidd-run"
    marks: ClassVar[str] = "config.yaml with model.diffusion_process beside model.pt"
    marked_by: ClassVar[Mark] = Mark.DIRECTORY

    def recognises(self, source: ModelFiles) -> bool:
        if not all((source.path / name).is_file() for name in (RUN_CONFIG, RUN_WEIGHTS)):
            return False
        return "diffusion_process" in _model_section(source)

    def files(self, source: ModelFiles) -> list[Path]:
        return [source.path / RUN_WEIGHTS]

    def load(self, source: ModelFiles, mask: str | None = None) -> LoadedModel:
        section, where = _model_section(source), f"{source.path / RUN_CONFIG}: model"
        if section["diffusion_process"] != "gidd":
            raise RequestError(
                f"{where}.diffusion_process must be gidd, found {displayed(section['diffusion_process'])}"
            )
        tensors = {unwrapped(name): value for name, value in read_tensors(source.path / RUN_WEIGHTS).items()}
        if (bias := tensors.get("logit_bias")) is not None and bool(bias.any()):
            raise RequestError(f"{source.name} has a logit_bias other than 0, which is not supported")
        facts = GiddFacts(section, where, tensors, self._first_version(source, section))
        return self.assembled(source, facts, mask)

    def _first_version(self, source: ModelFiles, section: Mapping[str, Any]) -> bool:
        """Whether the stored schedule's log_B is that of the first version: below that of the latest by about log V."""
        p, file = section.get("p_uniform"), source.path / RUN_SCHEDULE
        if not file.is_file() or not isinstance(p, float) or not 0 < p < 1:
            return False
        stored = read_tensors(file)
        for name in ("log_gamma", "log_B"):
            if name in stored and stored[name].numel() != 1:
                raise DamageError(f"{file}: {name} must be one number, found {list(stored[name].shape)}")
        if (gamma := stored.get("log_gamma")) is not None and float(gamma):
            raise RequestError(f"{file}: log_gamma {float(gamma):g} is not supported, published models have 0")
        log_B = stored.get("log_B")
        return log_B is not None and abs(float(log_B) - math.log(2 * p / (1 - p))) > 1e-3


def _model_section(source: ModelFiles) -> Mapping[str, Any]:
    config = read_yaml(source.path / RUN_CONFIG, DamageError)
    section = config.get("model") if isinstance(config, Mapping) else None
    return section if isinstance(section, Mapping) else {}
