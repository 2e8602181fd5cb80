"""How samples are drawn: what is asked for, and what that means for a model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.core.samplers import SAMPLERS, Sampler
from sedd_cli.core.score import ScoreModel
from sedd_cli.errors import RequestError
from sedd_cli.recipe.build import build, nearest


@dataclass(frozen=True)
class Sampling:
    """What is not None stands above the recipe's sampler, or above 128 Tweedie steps where there is no recipe.

    normalized: the law of the absorbing model with its normaliser set to 1, under which steps without an event cost
    nothing. thinning: false looks at every position in every step, whatever the recipe says. temperature, top_p,
    grid, correctors: levers of the sampler. remask: ReMDM's η. legacy: the float32 race of the published code.
    batch: sequences denoised together; None: as memory allows.
    """

    steps: int | None = None
    sampler: str | None = None
    normalized: bool = False
    thinning: bool = True
    temperature: float | None = None
    top_p: float | None = None
    grid: str | None = None
    correctors: int | None = None
    remask: float | None = None
    legacy: bool = False
    batch: int | None = None

    def __post_init__(self) -> None:
        for key in ("steps", "batch"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise RequestError(f"{key} must be at least 1, found {value}")

    def resolve(self, model: LoadedModel) -> ResolvedSampler:
        """RequestError where the options mean nothing with each other, or with the model's graph."""
        if model.graph.mask is None and self.normalized:
            raise RequestError(
                f"--normalized means nothing with the graph {model.graph.name!r}, it needs one with MASK"
            )
        sampler = self._sampler(model)
        if sampler.causal != model.exact:
            whose = "goes from left to right" if model.exact else "is no causal network"
            raise RequestError(f"the sampler {sampler.name} means nothing with {model.source}, which {whose}")
        try:
            sampler.check(model.graph)
        except ValueError:
            raise RequestError(
                f"the sampler {sampler.name} means nothing with the graph {model.graph.name!r}, it needs one with MASK"
            ) from None
        score, normalized = model.score, self.normalized and not model.score.mean
        return ResolvedSampler(
            sampler, dataclasses.replace(score, mean=score.mean or normalized), self.batch, normalized
        )

    def _sampler(self, model: LoadedModel) -> Sampler:
        part = model.recipe.sampler if model.recipe else None
        usual = "left_to_right" if model.exact else part.name if part else "tweedie"
        name = (usual if self.sampler is None else self.sampler).replace("-", "_")
        if name not in SAMPLERS:
            raise RequestError(f"unknown sampler {name!r}{nearest(name, SAMPLERS)}")
        kept = dict(part.options) if part and part.name == name else {}
        if self.remask is not None and name != "remdm":
            if name != "tweedie":
                raise RequestError(f"--remask means nothing with the sampler {name}: it is a kind of Tweedie step")
            name = "remdm"
        asked = {
            "steps": self.steps,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "grid": self.grid,
            "correctors": self.correctors,
            "eta": self.remask,
            "thinning": None if self.thinning else False,
            "draws": "float32-gumbel" if self.legacy else None,
        }
        asked = {key: value for key, value in asked.items() if value is not None}
        known = {f.name for f in dataclasses.fields(SAMPLERS[name])}
        for key in asked:
            if key not in known:
                raise RequestError(f"{_OPTIONS.get(key, '--' + key)} means nothing with the sampler {name}")
        return build(SAMPLERS[name], {k: v for k, v in kept.items() if k in known} | asked, "sampler")


def split_options(options: dict[str, Any]) -> tuple[Sampling, dict[str, Any]]:
    """Those of `options` that say how to sample, and the others."""
    own = {f.name for f in dataclasses.fields(Sampling)}
    ours = {key: value for key, value in options.items() if key in own}
    return Sampling(**ours), {key: value for key, value in options.items() if key not in own}


#: What options are called on the command line, where that is not their own name.
_OPTIONS = {"thinning": "--no-thinning", "draws": "--legacy-float32-gumbel", "top_p": "--top-p"}


@dataclass(frozen=True)
class ResolvedSampler:
    """A sampler, the score it works on, how many sequences at once (None: as memory allows)."""

    sampler: Sampler
    score: ScoreModel
    batch: int | None = None
    #: Whether the normaliser was set to 1 where the model's own is another.
    normalized: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        """What a sample says of how it was drawn; `levers` are those that change the law."""
        levers = self.sampler.levers() | ({"normalized": True} if self.normalized else {})
        return {
            "sampler": self.sampler.name,
            "steps": getattr(self.sampler, "steps", None),
            "draws": getattr(self.sampler, "draws", "float64"),
            "levers": levers,
        }
