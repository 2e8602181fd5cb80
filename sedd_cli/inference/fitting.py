"""Which protocols a model can be measured by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.core.graphs.gidd import MixingSchedule
from sedd_cli.core.schedules import LogLinear
from sedd_cli.errors import RequestError
from sedd_cli.inference.bound import find_protocol
from sedd_cli.models.network import Adapted

if TYPE_CHECKING:
    from sedd_cli.core.protocols import Protocol

#: What the evaluation of other projects is for, in words.
UNIFORM = (
    "models of uniform noise whose outputs take the clean token's place, under the log-linear schedule of eps 1e-3"
)
GIDD = "models of GIDD's process"
SCORES = "models that give scores on the absorbing graph, whose normaliser may differ from 1"
TIMELESS = "masked models whose network does not depend on the noise, normalised over the tokens"


def check_protocol(name: str, model: LoadedModel | Any) -> None:
    """RequestError where a protocol does not fit a model (a LoadedModel, or an autoregressive one of transformers)."""
    protocol = find_protocol(name)
    diffusion = model if isinstance(model, LoadedModel) and not model.exact else None
    if protocol.discrete and (diffusion is None or diffusion.objective.steps is None):
        raise RequestError(f"protocol {name!r} is for models in discrete time (d3pm), which {model.source} is not")
    if protocol.stepwise and diffusion is None:
        raise RequestError(f"protocol {name!r} is for diffusion models, which {model.source} is not")
    if protocol.stepwise and diffusion is not None and diffusion.block_size is not None:
        raise RequestError(
            f"protocol {name!r} is for models that fill all positions at once, and {model.source} fills blocks one "
            "after another"
        )
    if wanted := _unmet(protocol, diffusion):
        raise RequestError(f"protocol {name!r} is for {wanted}, which {model.source} is not")


def _unmet(protocol: Protocol, model: LoadedModel | None) -> str:
    """What a protocol is for, if the model is not of that kind."""
    if protocol.models == "uniform":
        fits = model is not None and model.objective.parametrization == "plug_in" and model.graph.name == "uniform"
        return "" if fits and model is not None and model.schedule == LogLinear() else UNIFORM
    if protocol.models == "gidd":
        return "" if model is not None and model.schedule.name == MixingSchedule.name else GIDD
    if protocol.models == "scores":
        fits = model is not None and model.objective.parametrization == "score" and model.graph.masking
        return "" if fits else SCORES
    if protocol.models == "timeless":
        timeless = model is not None and isinstance(model.net, Adapted) and model.net.condition.kind == "none"
        if model is None or not timeless or not model.graph.masking or model.objective.parametrization != "mean":
            return TIMELESS
        return TIMELESS if model.vocabulary is None or model.vocabulary.counts_mask or model.block_size else ""
    return ""
