"""Sampling options, and the sampler they give for a model."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.core.samplers import SAMPLERS, Sampler
from sedd_cli.core.score import ScoreModel
from sedd_cli.errors import RequestError, displayed
from sedd_cli.recipe.build import build
from sedd_cli.recipe.options import hints_of, read_options
from sedd_cli.recipe.outside import code_of
from sedd_cli.recipe.part import TypedSampler

#: Version of what a sampler draws from a seed; samples kept by another one are not used. It increases with a change.
SAMPLES_VERSION = 1


@dataclass(frozen=True)
class Sampling:
    """Sampling options. Those that are not None override the recipe's sampler, by default 128 Tweedie steps.

    sampler: a name, `{name: confidence, order: entropy}`, or the object with its options. normalized: sets the
    normaliser of an absorbing model's scores to 1, so that steps without a transition cost no network evaluation.
    thinning: False evaluates every position in every step, whatever the recipe has. temperature, top_p, grid,
    correctors, last_step, and order, quota, block_length, guidance, all_rows (of `confidence`): options of the sampler.
    remask: ReMDM's η. kappa (of `psi`), beta (of `flow_matching`), threshold, entropy_bound (of `entropy_bounded`),
    sweeps (of `gibbs`). legacy: the float32 Gumbel draws of the published code. batch: sequences denoised together;
    None: as memory allows.
    """

    steps: int | None = None
    sampler: str | Sampler | None = None
    normalized: bool = False
    thinning: bool = True
    temperature: float | None = None
    top_p: float | None = None
    grid: str | None = None
    correctors: int | None = None
    remask: float | None = None
    last_step: str | None = None
    order: str | None = None
    quota: str | None = None
    block_length: int | None = None
    guidance: float | None = None
    all_rows: bool = False
    kappa: float | None = None
    beta: float | None = None
    threshold: float | None = None
    entropy_bound: float | None = None
    sweeps: int | None = None
    legacy: bool = False
    batch: int | None = None

    def __post_init__(self) -> None:
        for key in ("steps", "batch"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise RequestError(f"{key} must be at least 1, found {value}")
        if isinstance(self.sampler, Sampler):
            self._check_alone(self.sampler)
        # the sampler with every option checks their ranges, before a model is loaded; which go together is seen then
        given = {key: getattr(self, key) for key in _RANGES if getattr(self, key) is not None}
        typed = TypedSampler.read(self.sampler) if isinstance(self.sampler, str) else None
        name = typed.name if typed else ""
        for f in dataclasses.fields(self) if typed else ():
            key = _KEYS.get(f.name, f.name)
            if typed and key in typed.options and getattr(self, f.name) != f.default:
                raise RequestError(
                    f"{key} of the sampler {name} is given twice: in {self.sampler} and as {flag(f.name)}"
                )
        if given.get("temperature") == 0 and (self.sampler is None or (name and SAMPLERS[name].greedy)):
            del given["temperature"]  # the likeliest token; without a name, the model's own sampler accepts it or not
        eta = {} if self.remask is None else {"eta": self.remask}
        try:
            SAMPLERS["remdm"](**given, **eta)
            for key, name in _OWN.items():
                if (value := getattr(self, key)) is not None:
                    SAMPLERS[name](**{key: value})
        except ValueError as error:
            raise RequestError(re.sub(r"^eta\b", "remask", str(error))) from None

    def _check_alone(self, sampler: Sampler) -> None:
        """RequestError where an option of the sampler stands beside the object, which holds them."""
        for f in dataclasses.fields(self):
            if f.name not in _BESIDE and getattr(self, f.name) != f.default:
                name = type(sampler).__name__
                raise RequestError(f"{f.name} is an option of the sampler, which is given as an object: {name}(…)")

    def for_gaps(self, model: LoadedModel, tokens: int) -> ResolvedSampler:
        """The sampler for a text with so many tokens to fill.

        Where options and recipe leave it open and the gaps have no more tokens than there would be steps,
        first-hitting: it takes one evaluation a token, and with exact scores its fillings follow the conditional
        distribution exactly. Steps resolve several tokens at once, as if they were independent.
        """
        resolved = self.resolve(model)
        if not model.graph.masking or model.exact or not self._open(model):
            return resolved
        steps = getattr(resolved.sampler, "steps", 0)
        return dataclasses.replace(self, sampler="first_hitting").resolve(model) if tokens <= steps else resolved

    def _open(self, model: LoadedModel) -> bool:
        """Whether neither these options nor the recipe choose anything about the steps."""
        usual = Sampling()._sampler(model)  # the recipe's
        chosen = {f.name for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}
        plain = usual.name in ("tweedie", "euler") and not usual.distribution_options()
        return plain and chosen <= {"temperature", "top_p", "normalized", "batch"}

    def resolve(self, model: LoadedModel) -> ResolvedSampler:
        """The sampler for a model. RequestError where options do not fit each other or the model."""
        if self.normalized and not model.graph.masking:
            raise RequestError(_needs_mask("--normalized", model))
        sampler = self._sampler(model)
        if sampler.causal != model.exact:
            whose = "goes from left to right" if model.exact else "is no causal network"
            raise RequestError(f"the sampler {sampler.name} means nothing with {model.source}, which {whose}")
        try:
            sampler.check(model.graph)
        except ValueError as error:
            raise RequestError(
                _needs_mask(_spelled(sampler.name), model) if sampler.needs_mask else str(error)
            ) from None
        score = model.score
        normalized = self.normalized and score.parametrization == "score"
        if normalized:
            score = dataclasses.replace(score, parametrization="mean")
        return ResolvedSampler(sampler, score, self.batch, normalized)

    def _sampler(self, model: LoadedModel) -> Sampler:
        if isinstance(self.sampler, Sampler):
            return self.sampler
        part = model.recipe.sampler if model.recipe else None
        default = "left_to_right" if model.exact else part.name if part else "tweedie"
        typed = TypedSampler.read(default if self.sampler is None else self.sampler)
        name = typed.name
        from_recipe = dict(part.options) if part and part.name == name else {}
        if self.remask is not None and "eta" not in {f.name for f in dataclasses.fields(SAMPLERS[name])}:
            if name != "tweedie":
                raise RequestError(f"--remask means nothing with the sampler {name}: it is a kind of Tweedie step")
            name = "remdm"
        if SAMPLERS[name].needs_mask and not model.graph.masking:  # whatever else is chosen
            raise RequestError(_needs_mask(_spelled(name), model))
        fields = [f for f in dataclasses.fields(self) if f.name not in _BESIDE and getattr(self, f.name) != f.default]
        chosen = {_KEYS.get(f.name, f.name): getattr(self, f.name) for f in fields}
        if self.legacy:
            chosen["draws"] = "float32-gumbel"
        known = {f.name for f in dataclasses.fields(SAMPLERS[name])}
        for key in chosen:
            if key not in known:
                raise RequestError(f"{flag(key)} means nothing with the sampler {name}")
        stated = {k: v for k, v in (from_recipe | dict(typed.options)).items() if k in known}
        return build(SAMPLERS[name], stated | chosen, "sampler")


#: Fields that are no options of a sampler.
_BESIDE = ("sampler", "normalized", "batch")
#: Options of samplers, where they have another name than the field.
_KEYS = {"remask": "eta", "legacy": "draws"}
#: Options whose ranges the samplers state.
_RANGES = ("steps", "temperature", "top_p", "grid", "correctors", "last_step")

#: Options of a single sampler, which states their range.
_OWN = {
    "kappa": "psi",
    "beta": "flow_matching",
    "threshold": "threshold",
    "entropy_bound": "entropy_bounded",
    "sweeps": "gibbs",
}


def _spelled(name: str) -> str:
    """A sampler as options spell it."""
    return f"the sampler {name.replace('_', '-')}"


def _needs_mask(what: str, model: LoadedModel) -> str:
    graph = model.graph
    mixed = "whose only noise is MASK" if graph.mask is not None else "with MASK"
    wanted = "that masks all tokens alike" if graph.only_masks else mixed
    return f"{what} means nothing with the graph {graph.name!r}, it needs one {wanted}"


def split_options(
    of: str, options: Mapping[str, Any], known: Mapping[str, Any], others: Iterable[str] = ()
) -> tuple[Sampling, dict[str, Any]]:
    """The fields of Sampling among `options` of the function `of`, and those `known` with their types, checked.

    others: further parameters of the function. RequestError for an unknown option and for a value of another type.
    """
    sampler, own = options.get("sampler"), hints_of(Sampling) | {"sampler": str | None}
    if not isinstance(sampler, str | Sampler | None):
        is_class = f"the class {sampler.__name__}; write {sampler.__name__}()" if isinstance(sampler, type) else ""
        raise RequestError(f"sampler: expected a name or an object, found {is_class or displayed(sampler)}")
    given = {key: value for key, value in options.items() if not isinstance(value, Sampler) or key != "sampler"}
    read = read_options(of, given, own | dict(known), others)
    if isinstance(sampler, Sampler):
        read["sampler"] = sampler
    sampling = {key: value for key, value in read.items() if key in own}
    return Sampling(**sampling), {key: value for key, value in read.items() if key not in own}


#: Most sequences of one call, whose results are held in memory, and most candidates of a filling.
MOST_DRAWS, MOST_CANDIDATES = 100_000, 1024


def check_draws(n: int, seed: int, first: int = 0) -> None:
    """RequestError where a number of samples, a seed or the number of the first one is out of range."""
    if n < 1:
        raise RequestError(f"n must be at least 1, found {n}")
    if n > MOST_DRAWS:
        raise RequestError(
            f"n must be at most {MOST_DRAWS:,} (the limit MOST_DRAWS), found {n:,}: draw more with other seeds"
        )
    if not 0 <= seed < 2**64:
        raise RequestError(f"seed must lie in [0, 2^64), found {seed}")
    check_first(first, n)


def check_first(first: int, n: int) -> None:
    """RequestError where numbers from `first` on are out of the range that draws are made for (`core.random`)."""
    if not 0 <= first <= 2**32 - n:
        raise RequestError(f"first must be at least 0, and first + {n:,} at most 2^32; found {first}")


def flag(key: str) -> str:
    """The option of the command line for a field of `Sampling` or an option of a sampler."""
    return _FLAGS.get(key, f"--{key}")


#: Names of options on the command line, where they differ.
_FLAGS = {
    "thinning": "--no-thinning",
    "draws": "--legacy-float32-gumbel",
    "legacy": "--legacy-float32-gumbel",
    "top_p": "--top-p",
    "last_step": "--last-step",
    "block_length": "--block-length",
    "all_rows": "--all-rows",
    "entropy_bound": "--entropy-bound",
}


@dataclass(frozen=True)
class ResolvedSampler:
    """A sampler, the score it uses, and the batch size (None: as memory allows).

    normalized: whether the normaliser is set to 1 where the model's own is another.
    """

    sampler: Sampler
    score: ScoreModel
    batch: int | None = None
    normalized: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        """How samples are drawn, as recorded with them; `levers` are the options that change their distribution.

        Among them is the file of a sampler that is not of this package, with its hash.
        """
        levers = self.sampler.distribution_options() | ({"normalized": True} if self.normalized else {})
        levers |= code_of(type(self.sampler))
        return {
            "sampler": self.sampler.name,
            "steps": getattr(self.sampler, "steps", None),
            "draws": getattr(self.sampler, "draws", "float64"),
            "levers": levers,
        }
