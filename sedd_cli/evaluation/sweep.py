"""Quality of samples against the number of steps (figures 1 and 2 of the paper)."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.core.samplers import SAMPLERS, Stepper
from sedd_cli.errors import RequestError, WorkError
from sedd_cli.evaluation.judge import Samples, judge
from sedd_cli.evaluation.scorers.reader import Reader
from sedd_cli.inference.generate import GenerateOptions, generate
from sedd_cli.inference.resumable import resumable_samples
from sedd_cli.inference.sampling import Sampling
from sedd_cli.recipe.build import nearest, plain
from sedd_cli.system.events import Event, Finished, Note, Sampled
from sedd_cli.system.figures import empty_figure, save, steps_axes
from sedd_cli.system.files import write_whole
from sedd_cli.system.locks import file_lock
from sedd_cli.system.software import software

SETTINGS, RESULT = "settings.json", "sweep.json"


@dataclass(frozen=True)
class SweepOptions:
    """n samples of `length` tokens at each number of steps and for each sampler, judged; kept in `folder`."""

    folder: Path
    steps: tuple[int, ...]
    samplers: tuple[str, ...] = ("tweedie",)
    n: int = 64
    length: int | None = None
    seed: int = 0
    self_bleu: bool = False
    resume: bool = True

    def __post_init__(self) -> None:
        # refused now rather than after the points before it
        GenerateOptions(n=self.n, seed=self.seed)
        for name in self.samplers:
            if name not in SAMPLERS:
                raise RequestError(f"unknown sampler {name!r}{nearest(name, SAMPLERS)}")
            if not issubclass(SAMPLERS[name], Stepper):
                raise RequestError(f"a sweep of steps means nothing with {name}: it takes one step a token")


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
                raise RequestError(f"sweep {text!r}: the dots go on with a sequence like 32,64, and end in a number")
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
    if not word.isdecimal() or int(word) < 1:
        raise RequestError(f"sweep {text!r}: {word!r} is not a whole number of steps, 1 or more")
    return int(word)


def sweep(model: LoadedModel, reader: Reader, options: SweepOptions) -> Iterator[Event]:
    """Sample and judge point after point; Finished with all that the folder holds at the end.

    Samples are kept as they come and points as they are judged, so that an interrupted sweep goes on where it was, and
    points can be added to it.
    """
    settings = {
        "model": model.source,
        "model_fingerprint": model.fingerprint,
        "length": options.length or model.length,
        "seed": options.seed,
        "precision": model.precision,
        # what the run's own recipe changes of how samples are drawn
        "recipe_sampler": plain(model.recipe.sampler) if model.recipe else None,
        "software": software("torch"),
    }
    try:
        (options.folder / "samples").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"cannot write to {options.folder}: {error.strerror}") from None
    with file_lock(options.folder / ".lock", f"another process is at work in {options.folder}"):
        _claim(options, settings)
        result = {**settings, "points": _known_points(options, reader) if options.resume else []}
        order = list(dict.fromkeys([*options.samplers, *SAMPLERS]))
        for sampler in options.samplers:
            for steps in options.steps:
                if any((p["sampler"], p["steps"]) == (sampler, steps) for p in result["points"]):
                    yield Note(f"{sampler}, {steps} steps: judged before")
                    continue
                sampled = yield from _samples(model, options, sampler, steps)
                yield Note(f"{sampler}, {steps} steps: judging {len(sampled)} samples")
                found = yield from judge(reader, Samples.of(sampled, model.tokenizer), options.self_bleu)
                result["points"].append({"sampler": sampler, "steps": steps, "asked": options.n, **found})
                result["points"].sort(key=lambda p: (order.index(p["sampler"]), p["steps"]))
                _write(options.folder / RESULT, result)
    yield Finished({"folder": str(options.folder), "judge": reader.source, **result})


def holds_sweep(folder: Path) -> bool:
    """Whether a sweep made this folder: its settings say what was sampled."""
    try:
        found = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"model", "model_fingerprint", "seed"} <= found.keys()


def _claim(options: SweepOptions, settings: dict[str, Any]) -> None:
    """The folder, if it is free or holds samples of the same settings."""
    file = options.folder / SETTINGS
    if file.is_file():
        there = json.loads(file.read_text(encoding="utf-8"))
        changed = [key for key in settings if there.get(key) != settings[key] and key not in ("model", "software")]
        if changed and options.resume:
            raise RequestError(
                f"{options.folder} holds a sweep with another {', '.join(changed)}: "
                "name another folder with --out, or start anew in it with --no-resume"
            )
        if not options.resume:
            for record in _records(options.folder):  # what the sweep before made, and nothing else
                (options.folder / "samples" / record).unlink(missing_ok=True)
    elif any((options.folder / "samples").iterdir()):
        raise RequestError(
            f"{options.folder / 'samples'} holds files of something else: name another folder with --out"
        )
    _write(file, settings)


def _records(folder: Path) -> list[str]:
    found = ((path.name, *path.stem.rpartition("-")[::2]) for path in (folder / "samples").glob("*.jsonl"))
    return [name for name, sampler, steps in found if sampler in SAMPLERS and steps.isdecimal()]


def _known_points(options: SweepOptions, reader: Reader) -> list[dict[str, Any]]:
    """The points of so many samples that this judge has judged before."""
    try:
        points = json.loads((options.folder / RESULT).read_text(encoding="utf-8"))["points"]
    except (OSError, ValueError, KeyError):
        return []
    known = [p for p in points if (p["judge_fingerprint"], p["asked"]) == (reader.fingerprint, options.n)]
    return known if not options.self_bleu else [p for p in known if "self_bleu" in p]


def _samples(
    model: LoadedModel, options: SweepOptions, sampler: str, steps: int
) -> Generator[Event, None, list[Sampled]]:
    """The samples of one point; a sample depends on its number alone."""

    def draw(first: int) -> Iterator[Event]:
        how = Sampling(steps, sampler)
        return generate(
            model, GenerateOptions(options.n - first, options.length, seed=options.seed, first=first, sampling=how)
        )

    path = options.folder / "samples" / f"{sampler}-{steps}.jsonl"
    return (yield from resumable_samples(path, options.n, draw, f"{sampler}, {steps} steps"))


def _write(path: Path, data: dict[str, Any]) -> None:
    try:
        write_whole(path, json.dumps(data, indent=1) + "\n")
    except OSError as error:
        raise WorkError(f"cannot write {path}: {error.strerror}") from None


def plot(result: dict[str, Any], path: Path) -> None:
    """Generative perplexity against steps, both axes logarithmic, with error bars; RequestError without matplotlib."""
    figure = empty_figure(6, 4)
    axis = figure.subplots()
    # under loglinear noise euler and tweedie are one and the same: the later curve lets the earlier be seen
    for style, sampler in zip(("o-", "s--", "^:"), dict.fromkeys(p["sampler"] for p in result["points"]), strict=False):
        points = sorted((p for p in result["points"] if p["sampler"] == sampler), key=lambda p: p["steps"])
        values = [p["per_sequence"]["perplexity"] for p in points]
        # an error bar must not reach below zero on a logarithmic axis
        errors = [min(p["per_sequence"]["error"] or 0.0, 0.99 * v) for p, v in zip(points, values, strict=True)]
        axis.errorbar(
            [p["steps"] for p in points], values, errors, fmt=style, ms=5, mfc="none", capsize=3, label=sampler
        )
    judge, n = Path(result["judge"]).name, min(p["samples"] for p in result["points"])
    axis.set_title(f"{Path(result['model']).name} judged by {judge}: {n} samples a point ± standard error", size=10)
    steps_axes(axis, [p["steps"] for p in result["points"]])
    axis.legend(frameon=False)
    save(figure, path)
