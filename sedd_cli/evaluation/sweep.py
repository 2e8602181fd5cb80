"""Generative perplexity of samples against the number of steps (figures 1 and 2 of the paper)."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.core.samplers import SAMPLERS, Stepper
from sedd_cli.errors import DamageError, RequestError, WorkError
from sedd_cli.evaluation.judge import JudgeResult, Samples, judge
from sedd_cli.evaluation.scorers.scorer import Scorer
from sedd_cli.inference.generate import GenerateOptions, generate
from sedd_cli.inference.resumable import resumable_samples
from sedd_cli.inference.sampling import Sampling
from sedd_cli.recipe.build import nearest, to_data
from sedd_cli.recipe.outside import HINT
from sedd_cli.system.documents import read_json
from sedd_cli.system.events import Event, Note, Sampled
from sedd_cli.system.files import write_whole
from sedd_cli.system.json_lines import json_text
from sedd_cli.system.locks import file_lock
from sedd_cli.system.plotting import empty_figure, save, steps_axes
from sedd_cli.system.software import recorded, software

SETTINGS, RESULT = "settings.json", "sweep.json"


@dataclass(frozen=True)
class SweepOptions:
    """n samples of `length` tokens for each number of steps and each sampler, judged, and stored in `folder`."""

    folder: Path
    steps: tuple[int, ...]
    samplers: tuple[str, ...] = ("tweedie",)
    n: int = 64
    length: int | None = None
    seed: int = 0
    self_bleu: bool = False
    resume: bool = True

    def __post_init__(self) -> None:
        # a wrong option of the last point must not be found after sampling the others
        GenerateOptions(n=self.n, length=self.length, seed=self.seed)
        for name in self.samplers:
            if name not in SAMPLERS:
                raise RequestError(f"unknown sampler {name!r}{nearest(name, SAMPLERS)}{HINT}")
            if not issubclass(SAMPLERS[name], Stepper):
                raise RequestError(f"a sweep of steps means nothing with {name}: it takes one step a token")


@dataclass(frozen=True)
class SweepSettings:
    """What all samples of a sweep have in common.

    recipe_sampler: the sampler section of the run's recipe, which changes how samples are drawn.
    """

    model: str
    model_fingerprint: str
    length: int
    seed: int
    precision: str
    recipe_sampler: dict[str, Any] | None
    software: dict[str, str]


@dataclass(frozen=True)
class SweepPoint:
    """Samples of one sampler and number of steps, judged. requested: number of samples in the options."""

    sampler: str
    steps: int
    requested: int
    judged: JudgeResult

    def to_dict(self) -> dict[str, Any]:
        return {
            "sampler": self.sampler,
            "steps": self.steps,
            "asked": self.requested,
            **self.judged.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SweepPoint:
        """The inverse; KeyError or TypeError for anything else."""
        judged = {key: value for key, value in data.items() if key not in ("sampler", "steps", "asked")}
        return cls(data["sampler"], data["steps"], data["asked"], JudgeResult.from_dict(judged))


@dataclass(frozen=True)
class SweepResult:
    """All points of a sweep's folder, in the order of samplers and steps."""

    folder: Path
    judge: str
    settings: SweepSettings
    points: tuple[SweepPoint, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"folder": str(self.folder), "judge": self.judge, **self.stored()}

    def stored(self) -> dict[str, Any]:
        """The document that `sweep.json` holds."""
        return {**asdict(self.settings), "points": [point.to_dict() for point in self.points]}


def parse_sweep(text: str) -> tuple[int, ...]:
    """`steps=32,64,128` or `steps=32,64,...,2048` (a geometric sequence); RequestError for anything else."""
    key, equals, values = text.partition("=")
    if key.strip() != "steps" or not equals:
        raise RequestError(f"a sweep is written steps=32,64,128 or steps=32,64,...,2048, found {text!r}")
    words = [word.strip() for word in values.split(",")]
    found: list[int] = []
    for at, word in enumerate(words):
        if word in ("...", "…"):
            if at < 2 or at + 1 == len(words) or found[-1] <= found[-2] or found[-1] % found[-2]:
                raise RequestError(f"sweep {text!r}: the dots continue a sequence like 32,64 up to a number")
            last, ratio = _whole(words[at + 1], text), found[-1] // found[-2]
            while found[-1] * ratio < last:
                found.append(found[-1] * ratio)
            if found[-1] * ratio != last:
                raise RequestError(f"sweep {text!r}: {last} does not follow from {words[at - 2]},{words[at - 1]}")
        else:
            found.append(_whole(word, text))
    if len(set(found)) < len(found):
        raise RequestError(f"sweep {text!r}: a number stands twice in it")
    return tuple(found)


def _whole(word: str, text: str) -> int:
    if not (word.isascii() and word.isdecimal()) or int(word) < 1:
        raise RequestError(f"sweep {text!r}: {word!r} is not a whole number of steps, 1 or more")
    return int(word)


def sweep(model: LoadedModel, scorer: Scorer, options: SweepOptions) -> Generator[Event, None, SweepResult]:
    """Sample and judge point after point; the result holds all points in the folder.

    Samples and judged points are stored as they come, so that an interrupted sweep resumes, and points can be added.
    """
    settings = SweepSettings(
        model=model.source,
        model_fingerprint=model.fingerprint,
        length=options.length or model.length,
        seed=options.seed,
        precision=model.precision,
        recipe_sampler=to_data(model.recipe.sampler) if model.recipe else None,
        software=software("torch"),
    )
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"cannot write to {options.folder}: {error.strerror}") from None
    with file_lock(options.folder / ".lock", f"another process is at work in {options.folder}"):
        _claim(options, asdict(settings))
        points = _stored_points(options, scorer) if options.resume else []
        order = list(dict.fromkeys([*options.samplers, *SAMPLERS]))
        for sampler in options.samplers:
            for steps in options.steps:
                if any((point.sampler, point.steps) == (sampler, steps) for point in points):
                    yield Note(f"{sampler}, {steps} steps: judged before")
                    continue
                sampled = yield from _samples(model, options, sampler, steps)
                yield Note(f"{sampler}, {steps} steps: judging {len(sampled)} samples")
                judged = yield from judge(scorer, Samples.of(sampled, model.tokenizer), options.self_bleu)
                points.append(SweepPoint(sampler, steps, options.n, judged))
                points.sort(key=lambda point: (order.index(point.sampler), point.steps))
                result = SweepResult(options.folder, scorer.source, settings, tuple(points))
                _write(options.folder / RESULT, recorded(result.stored()))
    return SweepResult(options.folder, scorer.source, settings, tuple(points))


def holds_sweep(folder: Path) -> bool:
    """Whether this is the folder of a sweep, by its settings."""
    try:
        found = read_json(folder / SETTINGS)
    except (OSError, DamageError):
        return False
    return isinstance(found, dict) and {"model", "model_fingerprint", "seed"} <= found.keys()


def _claim(options: SweepOptions, settings: dict[str, Any]) -> None:
    """Write the settings into the folder; RequestError if it holds samples of other settings, or other files."""
    file = options.folder / SETTINGS
    if file.is_file():
        there = read_json(file)
        changed = [key for key in settings if there.get(key) != settings[key] and key not in ("model", "software")]
        if changed and options.resume:
            raise RequestError(
                f"{options.folder} holds a sweep with another {', '.join(changed)}: "
                "choose another folder with --out, or delete its samples with --no-resume"
            )
        if not options.resume:
            for record in _records(options.folder):  # the samples of the earlier sweep, and nothing else
                (options.folder / "samples" / record).unlink(missing_ok=True)
    elif (samples := options.folder / "samples").is_dir() and any(samples.iterdir()):
        raise RequestError(
            f"{options.folder / 'samples'} holds files of something else: choose another folder with --out"
        )
    _write(file, settings)  # before anything else: it tells whose folder this is
    try:
        (options.folder / "samples").mkdir(exist_ok=True)
    except OSError as error:
        raise RequestError(f"cannot write to {options.folder}: {error.strerror}") from None


def _records(folder: Path) -> list[str]:
    """The names of the files of samples."""
    found = ((path.name, *path.stem.rpartition("-")[::2]) for path in (folder / "samples").glob("*.jsonl"))
    return [name for name, sampler, steps in found if sampler in SAMPLERS and steps.isdecimal()]


def _stored_points(options: SweepOptions, scorer: Scorer) -> list[SweepPoint]:
    """The points of as many samples that this judge has already judged."""
    try:
        stored = read_json(options.folder / RESULT)["points"]
        points = [SweepPoint.from_dict(point) for point in stored]
    except (OSError, DamageError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return [
        point
        for point in points
        if (point.judged.judge_fingerprint, point.requested) == (scorer.fingerprint, options.n)
        and (point.judged.with_self_bleu or not options.self_bleu)
    ]


def _samples(
    model: LoadedModel, options: SweepOptions, sampler: str, steps: int
) -> Generator[Event, None, list[Sampled]]:
    """The samples of one point; a sample depends only on its number, not on where sampling resumed."""

    def draw(first: int) -> Iterator[Event]:
        wanted = options.n - first, options.length
        return generate(
            model, GenerateOptions(*wanted, seed=options.seed, first=first, sampling=Sampling(steps, sampler))
        )

    path = options.folder / "samples" / f"{sampler}-{steps}.jsonl"
    return (yield from resumable_samples(path, options.n, draw, f"{sampler}, {steps} steps"))


def _write(path: Path, data: dict[str, Any]) -> None:
    try:
        write_whole(path, json_text(data, 1) + "\n")
    except OSError as error:
        raise WorkError(f"cannot write {path}: {error.strerror}") from None


def plot(result: SweepResult, path: Path) -> None:
    """Plot a sweep: generative perplexity against steps, with error bars, both logarithmic."""
    figure = empty_figure(6, 4)
    axis = figure.subplots()
    # with a loglinear schedule euler and tweedie coincide: open markers keep both curves visible
    for style, sampler in zip(("o-", "s--", "^:"), dict.fromkeys(p.sampler for p in result.points), strict=False):
        points = sorted((p for p in result.points if p.sampler == sampler), key=lambda p: p.steps)
        values = [p.judged.per_sequence.perplexity for p in points]
        # an error bar must not reach below zero on a logarithmic axis
        errors = [min(p.judged.per_sequence.error or 0.0, 0.99 * v) for p, v in zip(points, values, strict=True)]
        axis.errorbar([p.steps for p in points], values, errors, fmt=style, ms=5, mfc="none", capsize=3, label=sampler)
    model, judge = Path(result.settings.model).name, Path(result.judge).name
    n = min(p.judged.samples for p in result.points)
    axis.set_title(f"{model} judged by {judge}: {n} samples a point ± standard error", size=10)
    steps_axes(axis, [p.steps for p in result.points])
    axis.legend(frameon=False)
    save(figure, path)
