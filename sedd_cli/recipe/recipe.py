"""The recipe: the settings of a training, from text to report, typed, validated and frozen."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from sedd_cli.data.corpora import HOLD_OUT
from sedd_cli.data.prepared import PrepareOptions
from sedd_cli.errors import displayed, not_one_of
from sedd_cli.models.precision import PRECISIONS
from sedd_cli.models.shape import DiTConfig
from sedd_cli.recipe.build import to_data
from sedd_cli.recipe.outside import REGISTRIES, Origin, origins
from sedd_cli.recipe.part import GraphPart, ObjectivePart, SamplerPart, SchedulePart

#: Schedules of the learning rate.
RATE_SCHEDULES = ("constant", "linear", "cosine")


def _one_of(key: str, value: str, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise ValueError(not_one_of(key, accepted, value))


def _at_least(owner: Any, bound: float, *keys: str) -> None:
    for key in keys:
        if getattr(owner, key) < bound:
            raise ValueError(f"{key} must be at least {bound}, found {getattr(owner, key)}")


def _is_encodable(name: str) -> bool:
    """Whether a file can have this name; not one with half a surrogate pair."""
    try:
        return bool(os.fsencode(name))
    except UnicodeEncodeError:
        return False


@dataclass(frozen=True)
class DataRecipe:
    """The training text.

    Attributes:
        corpus: A named corpus, a file, a folder or a hub id.
        tokenizer: Its tokenizer; by default that of the corpus.
        windows: Draw random contiguous windows instead of packing documents into blocks.
        local: The original files of a named corpus (--from of `sedd prepare`).
        eos, field, encoding, documents, format, config, revision, detokenizer, hold_out: As the options of
            `sedd prepare`.
    """

    corpus: str
    tokenizer: str | None = None
    windows: bool = False
    local: str | None = None
    eos: str | None = None
    field: str | None = None
    encoding: str = "utf-8"
    documents: str = "auto"
    format: str = "auto"
    config: str | None = None
    revision: str | None = None
    detokenizer: str | None = None
    hold_out: str = "hash"

    def __post_init__(self) -> None:
        _one_of("hold_out", self.hold_out, HOLD_OUT)

    def prepared(self) -> PrepareOptions:
        """The options of `sedd prepare` for this text."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("windows", "local")}
        return PrepareOptions(**given, local=Path(self.local) if self.local else None)


@dataclass(frozen=True)
class TrainRecipe:
    """Optimisation (appendix C.2).

    `batch` counts sequences over all processes and accumulation steps. These keys are for speed and memory, and change
    results by rounding only: micro_batch (sequences per forward pass of a process; it also changes dropout masks),
    strategy (DDP or FSDP), compile (torch.compile of the blocks; null: if it saves time; it also changes
    dropout masks) and recompute (activation checkpointing). A checkpoint is written every save_every
    steps; the last `keep` and those at multiples of keep_every are kept.

    Attributes:
        schedule: Of the rate after the warm-up: constant, linear or cosine; the last two end at zero.
        decay: With the constant schedule, the rate falls linearly to zero over the last `decay` steps, or, below 1,
            over this share of the steps. A checkpoint before the decay is kept; from it the run can be extended.
        extended: Numbers of steps after which a run whose rate had decayed was extended (`sedd train --extend`).
        head_lr: The learning rate of the output layer, null: lr; it follows the schedule.
        embedding_lr: The same of the token embedding.
        start: With unigrams, the output biases start from the frequencies of the training tokens; with bigrams,
            embedding and output layer also start from the counts of neighbouring tokens (`training.initialise`). Both
            on graphs with MASK and without init_from.
    """

    steps: int
    batch: int = 512
    micro_batch: int | None = None
    optimizer: str = "adamw"
    lr: float = 3e-4
    head_lr: float | None = None
    embedding_lr: float | None = None
    start: str = "random"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup: int = 2000
    schedule: str = "constant"
    decay: float = 0.0
    extended: tuple[int, ...] = ()
    clip: float = 1.0
    ema: float = 0.9999
    t_sampling: str = "stratified"
    precision: str = "auto"
    strategy: str = "auto"
    compile: bool | None = None
    recompute: bool = False
    log_every: int = 50
    save_every: int = 1000
    keep: int = 2
    keep_every: int | None = None

    def __post_init__(self) -> None:
        _at_least(self, 1, "steps", "batch", "log_every", "save_every", "keep")
        _at_least(self, 0, "warmup", "weight_decay")
        if self.keep_every is not None and (self.keep_every < 1 or self.keep_every % self.save_every):
            every = self.save_every
            raise ValueError(f"keep_every must be a multiple of save_every ({every}), found {self.keep_every}")
        if self.micro_batch is not None and not 1 <= self.micro_batch <= self.batch:
            raise ValueError(f"micro_batch must lie between 1 and batch ({self.batch}), found {self.micro_batch}")
        for key in ("lr", "head_lr", "embedding_lr", "eps", "clip"):
            if (found := getattr(self, key)) is not None and not 0 < found < float("inf"):
                raise ValueError(f"{key} must be positive and finite, found {found}")
        if not all(0 <= b < 1 for b in self.betas):
            raise ValueError(f"betas must lie in [0, 1), found {list(self.betas)}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie in [0, 1), found {self.ema}")
        _one_of("optimizer", self.optimizer, ("adamw", "muon"))
        _one_of("start", self.start, ("random", "unigrams", "bigrams"))
        if self.schedule not in RATE_SCHEDULES:
            wrong = not_one_of("schedule", RATE_SCHEDULES, self.schedule)
            raise ValueError(f"{wrong}; warm-up, stable, decay is constant with train.decay (sedd guide scale)")
        self._check_decay()
        _one_of("t_sampling", self.t_sampling, ("stratified", "uniform"))
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("strategy", self.strategy, ("auto", "ddp", "fsdp"))

    def decay_steps(self, total: int) -> int:
        """The steps of the decay in a training of `total` steps."""
        return round(self.decay * total) if self.decay < 1 else int(self.decay)

    def _check_decay(self) -> None:
        if self.decay < 0 or (self.decay >= 1 and self.decay != int(self.decay)):
            raise ValueError(f"decay must be a number of steps, or a share of them below 1, found {self.decay}")
        if self.decay and self.schedule != "constant":
            raise ValueError(f"decay goes with schedule=constant, found schedule={self.schedule}, which itself decays")
        ends = (0, *self.extended, self.steps)
        if any(later <= earlier for earlier, later in pairwise(ends)):
            raise ValueError(
                f"extended, the steps at which the schedule had ended before, must be increasing and below steps "
                f"({self.steps}), found {list(self.extended)}"
            )
        if self.decay_steps(self.steps) > self.steps:
            raise ValueError(f"decay must be at most steps ({self.steps}), found {int(self.decay)}")


@dataclass(frozen=True)
class InfillRecipe:
    """The infill after training; `length` counts tokens, prefix and suffix included.

    Without prefix and suffix, both are cut from the report's split (`data.held_out`).
    """

    prefix: str | None = None
    suffix: str | None = None
    length: int | None = None

    def __post_init__(self) -> None:
        for one, other in (("prefix", "suffix"), ("suffix", "prefix")):
            if getattr(self, one) is None and getattr(self, other) is not None:
                object.__setattr__(self, one, "")  # as in recipes of before

    @property
    def cut(self) -> bool:
        """Whether prefix and suffix are cut from the text."""
        return self.prefix is None


@dataclass(frozen=True)
class ReportRecipe:
    """The evaluation after training, and validation during it.

    After training: the bound on `split`, samples, and an infill unless it is null. Every `every` steps (null or 0:
    never): the bound on the first `blocks` blocks of the validation split (else of `split`), and one sample.
    """

    split: str = "validation"
    rel_error: float = 0.005
    samples: int = 3
    infill: InfillRecipe | None = None
    every: int | None = None
    blocks: int = 64

    def __post_init__(self) -> None:
        _at_least(self, 0, "samples")
        _at_least(self, 1, "blocks")
        if self.every is not None:
            _at_least(self, 0, "every")
        if not self.rel_error > 0:
            raise ValueError(f"rel_error must be positive, found {self.rel_error}")


@dataclass(frozen=True)
class Recipe:
    """One trained model, from text to report.

    init_from: a run, a checkpoint or a hub id whose weights training starts from. parts: where those of graph, noise,
    objective and sampler come from that are no parts of this package; `recipe_from` fills it in.
    """

    name: str
    data: DataRecipe
    train: TrainRecipe
    graph: GraphPart
    noise: SchedulePart
    model: DiTConfig
    seed: int = 0
    init_from: str | None = None
    objective: ObjectivePart = dataclasses.field(
        default_factory=lambda: ObjectivePart.from_data("score_entropy", "objective")
    )
    sampler: SamplerPart = dataclasses.field(default_factory=lambda: SamplerPart.from_data("tweedie", "sampler"))
    report: ReportRecipe = dataclasses.field(default_factory=ReportRecipe)
    parts: Mapping[str, Origin] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must lie in [0, 2^64), found {self.seed}")
        if not self.name or set("/\0") & set(self.name) or self.name.startswith(".") or not _is_encodable(self.name):
            raise ValueError(f"name must be usable as a folder name, found {displayed(self.name)}")

    def to_data(self) -> dict[str, Any]:
        """Mappings, lists and scalars, from which `recipe_from` builds an equal recipe."""
        data = {f.name: to_data(getattr(self, f.name)) for f in fields(self) if f.name != "parts"}
        return data | ({"parts": {key: to_data(origin) for key, origin in self.parts.items()}} if self.parts else {})

    def with_parts_of_now(self) -> Recipe:
        """The recipe with `parts` as they are registered now."""
        return dataclasses.replace(self, parts=origins({key: getattr(self, key).name for key in REGISTRIES}))
