"""Generative perplexity of samples against the number of steps (figures 1 and 2 of the paper)."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.core.samplers import SAMPLERS
from sedd_cli.data.shards import Dataset
from sedd_cli.errors import DamageError, RequestError, unwritable
from sedd_cli.evaluation.controls import ControlSet, comparable, compare
from sedd_cli.evaluation.judge import Samples, judge
from sedd_cli.evaluation.scorers.scorer import Scorer
from sedd_cli.evaluation.sweep_results import SweepPoint, SweepResult, SweepSettings
from sedd_cli.inference.generate import GenerateOptions, generate
from sedd_cli.inference.resumable import resumable_samples
from sedd_cli.inference.sampling import SAMPLES_VERSION, Sampling
from sedd_cli.recipe.build import to_data
from sedd_cli.recipe.outside import code_of
from sedd_cli.recipe.part import TypedSampler
from sedd_cli.system.documents import read_json
from sedd_cli.system.events import Event, Note, Sampled
from sedd_cli.system.files import write_document
from sedd_cli.system.locks import file_lock
from sedd_cli.system.software import recorded, software

SETTINGS, RESULT = "settings.json", "sweep.json"
#: The key of the settings with the version of what samplers draw. Where there is none, it is the first.
VERSION = "samples_version"
#: What reading a file of other content raises.
DAMAGED = (DamageError, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class SweepOptions:
    """n samples of `length` tokens for each number of steps and each sampler, judged, and stored in `folder`.

    samplers: each a name, or `{name: confidence, order: entropy}`.
    temperatures: each point is measured at each of them; without any, as the model's own sampler has it.
    """

    folder: Path
    steps: tuple[int, ...]
    samplers: tuple[str, ...] = ("tweedie",)
    n: int = 64
    length: int | None = None
    seed: int = 0
    self_bleu: bool = True
    resume: bool = True
    temperatures: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        # a wrong option of the last point must not be found after sampling the others
        GenerateOptions(n=self.n, length=self.length, seed=self.seed)
        for temperature in self.temperatures:
            if not 0 < temperature < math.inf:
                raise RequestError(f"a temperature of a sweep must be positive, found {temperature:g}")
            Sampling(temperature=temperature)
        for typed in self.typed:
            own = {f.name for f in dataclasses.fields(SAMPLERS[typed.name])}
            if "steps" not in own:
                raise RequestError(f"a sweep of steps means nothing with {typed.name}, which has no number of steps")
            swept = ("steps", *(("temperature",) if self.temperatures else ()))
            for key in (key for key in swept if key in typed.options):
                raise RequestError(f"sampler.{key}: it follows from --{key}, remove it")

    @property
    def typed(self) -> list[TypedSampler]:
        """The samplers with their options."""
        return [TypedSampler.read(text) for text in self.samplers]


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
    if not re.fullmatch("[0-9]{1,9}", word) or int(word) < 1:
        raise RequestError(f"sweep {text!r}: {word!r} is not a whole number of steps, 1 or more")
    return int(word)


def parse_temperatures(text: str | None) -> tuple[float, ...]:
    """`1,0.9,0.8` as different positive numbers, none for None; RequestError for anything else."""
    try:
        found = tuple(map(float, text.split(","))) if text is not None else ()
    except ValueError:
        raise RequestError(f"temperatures are written 1,0.9,0.8, found {text!r}") from None
    if len(set(found)) < len(found):
        raise RequestError(f"temperatures {text!r}: a number stands twice in it")
    return found


def sweep(
    model: LoadedModel, scorer: Scorer, options: SweepOptions, corpus: Dataset | None = None
) -> Generator[Event, None, SweepResult]:
    """Sample and judge point after point; the result holds all points in the folder.

    Samples and judged points are stored as they come, so that an interrupted sweep resumes, and points can be added.

    Args:
        corpus: Where the real text and the controls beside the points come from; None: there are none.
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
        raise unwritable(options.folder, error) from None
    with file_lock(options.folder / ".lock", f"another process is at work in {options.folder}"):
        names = [typed.name for typed in options.typed]
        codes = {f"code of {name}": code["code"] for name in names if (code := code_of(SAMPLERS[name]))}
        _claim(options, asdict(settings) | codes | {VERSION: SAMPLES_VERSION})
        stored = _stored(options, scorer) if options.resume else _Stored([])
        points, comparison, others = stored.points, stored.comparison, tuple(stored.others)
        samplers = {sampler_of_point(typed): text for typed, text in zip(options.typed, options.samplers, strict=True)}
        order = list(dict.fromkeys([*samplers, *SAMPLERS, *(point.sampler for point in points)]))
        for sampler in samplers:
            for steps, temperature in itertools.product(options.steps, options.temperatures or (None,)):
                name = _name(sampler, steps, temperature)
                if any(point.place == (sampler, steps, temperature) for point in points):
                    yield Note(f"{name}: judged before")
                    continue
                sampled = yield from _samples(model, options, samplers[sampler], steps, temperature)
                samples = Samples.of(sampled, model.tokenizer)
                if corpus is not None:
                    samples = comparable(samples, corpus)
                    comparison = yield from compare(scorer, samples, corpus, options.seed, comparison)
                yield Note(f"{name}: judging {len(sampled)} samples")
                judged = yield from judge(scorer, samples, options.self_bleu)
                points.append(SweepPoint(sampler, steps, options.n, judged, temperature))
                points.sort(key=lambda p: (order.index(p.sampler), p.steps, -(p.temperature or math.inf)))
                result = SweepResult(options.folder, scorer.source, settings, tuple(points), comparison, others)
                write_document(options.folder / RESULT, recorded(result.stored()))
        if corpus is not None and points and (comparison is None or not comparison.of(corpus)):
            # the points were judged before, without this corpus
            sampler, steps, temperature = next(point.place for point in points if point.sampler in samplers)
            sampled = yield from _samples(model, options, samplers[sampler], steps, temperature)
            samples = comparable(Samples.of(sampled, model.tokenizer), corpus)
            comparison = yield from compare(scorer, samples, corpus, options.seed)
        result = SweepResult(options.folder, scorer.source, settings, tuple(points), comparison, others)
        write_document(options.folder / RESULT, recorded(result.stored()))
    return result


def sampler_of_point(typed: TypedSampler) -> str:
    """What a point calls its sampler: the name in the registry, and behind it the options."""
    return typed.label if typed.options else typed.name


def _name(sampler: str, steps: int, temperature: float | None) -> str:
    """A point in words."""
    return f"{sampler}, {steps} steps" + ("" if temperature is None else f", temperature {temperature:g}")


def holds_sweep(folder: Path) -> bool:
    """Whether this is the folder of a sweep, by its settings."""
    try:
        found = read_json(folder / SETTINGS)
    except (OSError, DamageError):
        return False
    return isinstance(found, dict) and {"model", "model_fingerprint", "seed"} <= found.keys()


def _claim(options: SweepOptions, settings: dict[str, Any]) -> None:
    """Write the settings into the folder; RequestError if it holds samples of other settings, or other files."""
    file, there = options.folder / SETTINGS, {}
    if file.is_file():
        there = {VERSION: 1} | read_json(file)
        aside = {"model", "software", *(key for key in settings if key.startswith("code of ") and key not in there)}
        changed = [key for key in settings if there.get(key) != settings[key] and key not in aside]
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
    kept = there if options.resume else {}
    codes = {key: value for key, value in kept.items() if key.startswith("code of ")}  # of other samplers
    write_document(file, codes | settings)  # before anything else: it marks the folder
    try:
        (options.folder / "samples").mkdir(exist_ok=True)
    except OSError as error:
        raise unwritable(options.folder, error) from None


def _records(folder: Path) -> list[str]:
    """The names of the files of samples."""
    found = ((path.name, *path.stem.rpartition("-")[::2]) for path in (folder / "samples").glob("*.jsonl"))
    points = ((name, sampler, steps.partition("@")) for name, sampler, steps in found)
    return [
        name
        for name, sampler, (steps, _, temperature) in points
        if sampler.partition("+")[0] in SAMPLERS and steps.isdecimal() and re.fullmatch(r"[0-9.]*", temperature)
    ]


@dataclass
class _Stored:
    """What `sweep.json` holds: points as these options measure them, their comparison, and the rest as documents."""

    points: list[SweepPoint]
    comparison: ControlSet | None = None
    others: list[dict[str, Any]] = field(default_factory=list)


def _stored(options: SweepOptions, scorer: Scorer) -> _Stored:
    """What is judged already; points by another judge, of another number of samples or without self-BLEU stay apart."""
    wanted, found = (scorer.fingerprint, options.n), _Stored([])
    try:
        document = read_json(options.folder / RESULT)
        for group in [document, *document.get("others", [])]:  # the latest settings first
            rest = []
            for data in group["points"]:
                point = SweepPoint.from_dict(data)
                of = point.judged.judge_fingerprint, point.requested
                if of != wanted or (options.self_bleu and not point.judged.with_self_bleu):
                    rest.append(data)
                elif all(point.place != other.place for other in found.points):
                    found.points.append(point)
            beside = group.get("comparison")
            if rest:
                found.others.append({"points": rest} | ({} if beside is None else {"comparison": beside}))
            found.comparison = found.comparison or _comparison(beside, *wanted)
    except (OSError, *DAMAGED):
        return _Stored([])
    return found


def _comparison(data: Any, judge: str, n: int) -> ControlSet | None:
    """A stored comparison, if it is of `n` texts by this judge."""
    try:
        found = ControlSet.from_dict(data)
        return found if (found.key.get("judge"), found.real.judged.samples) == (judge, n) else None
    except DAMAGED:
        return None


def _samples(
    model: LoadedModel, options: SweepOptions, sampler: str, steps: int, temperature: float | None
) -> Generator[Event, None, list[Sampled]]:
    """The samples of one point; a sample depends only on its number, not on where sampling resumed."""

    def draw(first: int) -> Iterator[Event]:
        wanted = options.n - first, options.length
        sampling = Sampling(steps, sampler, temperature=temperature)
        return generate(model, GenerateOptions(*wanted, seed=options.seed, first=first, sampling=sampling))

    at = "" if temperature is None else f"@{temperature:.10f}".rstrip("0").rstrip(".")
    typed = TypedSampler.read(sampler)
    stated = "".join(f"+{key}={value}" for key, value in typed.options.items())
    path = options.folder / "samples" / f"{typed.name}{re.sub('[^-+=.0-9A-Za-z_]', '_', stated)}-{steps}{at}.jsonl"
    return (yield from resumable_samples(path, options.n, draw, _name(sampler_of_point(typed), steps, temperature)))
