"""`sedd infill --interactive`: edit a template and see it filled."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from sedd_cli.cli.option_groups import Watching
from sedd_cli.cli.view.denoising.showing import show_samples
from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError, WorkError
from sedd_cli.inference.template import parse_template
from sedd_cli.recipe.build import nearest

if TYPE_CHECKING:
    from sedd_cli.checkpoints.loaded_model import LoadedModel
    from sedd_cli.inference.plan import Job
    from sedd_cli.inference.sampling import Sampling

Options = TypeVar("Options", "Job", "Sampling")

_HELP = r"""A line is a template: text with gaps such as [MASK:8], [MASK:5-20], [MASK].
  Enter            fill the last template with the next seed; ↑ brings it back
  :seed 7          set seed, n, steps, candidates, length, temperature, top_p,
                   grid, correctors, remask or sampler; without a value: default
  :show  :help     what is set; this
  :quit            leave (or Ctrl-D); Ctrl-C drops the line, or the filling"""


def prompt_loop(view: View, model: LoadedModel, job: Job, sampling: Sampling, every: bool) -> None:
    """Read and fill templates until the input ends; errors are shown and the loop continues."""
    from sedd_cli.inference.infill import infill

    view.say(_HELP, "dim")
    filled, fresh = "", True  # fresh: the seed was set since the last filling
    while (line := _ask()) is not None:
        try:
            if line in (":q", ":quit", ":exit"):
                return
            if line in (":h", ":help") or not (line or filled):
                view.say(_HELP, "dim")
                continue
            if line.startswith(":"):
                changed, how = _set(line[1:].strip().split(maxsplit=1), job, sampling)
                how.resolve(model)  # raises if the sampler does not take an option, which is then not kept
                fresh = fresh or changed.seed != job.seed or line.startswith(":seed")
                job, sampling = changed, how
                view.say(_settings(job, sampling), "dim")
                continue
            again = line in ("", filled) and not fresh
            typed, seed = line or filled, (job.seed + again) % 2**64
            asked = dataclasses.replace(job, template=parse_template(typed), seed=seed)
            watch = view.console.is_terminal
            filling = infill(model, [asked], sampling, every, watch)
            show_samples(view, model, filling, "", None, Watching(watch=watch))
            job, filled, fresh = asked, typed, False
        except (RequestError, WorkError) as error:
            view.say(f"{error}", "yellow")
        except KeyboardInterrupt:
            view.say("interrupted: the filling is dropped", "yellow")


def _ask() -> str | None:
    """A line, with editing and history if the terminal has them; None at the end of the input."""
    with suppress(ImportError):
        import readline  # noqa: F401  (input() takes it up)
    while True:
        try:
            return input("template> ").strip("\r\n")
        except KeyboardInterrupt:
            print()
        except EOFError:
            print()
            return None


def _set(words: list[str], job: Job, sampling: Sampling) -> tuple[Job, Sampling]:
    """Change one option of the job or of the sampling."""
    name, value = (words[0].lstrip("-").replace("-", "_") if words else ""), words[1] if len(words) > 1 else None
    if name == "show" and value is None:
        return job, sampling
    if name in _JOB:
        return _replaced(job, name, _JOB[name], value), sampling
    if name in _SAMPLING:
        return job, _replaced(sampling, name, _SAMPLING[name], value)
    raise RequestError(f"cannot set {name!r}{nearest(name, [*_JOB, *_SAMPLING])}")


_JOB: dict[str, type] = {"seed": int, "n": int, "length": int, "candidates": int}
_SAMPLING: dict[str, type] = {
    "steps": int, "sampler": str, "temperature": float, "top_p": float, "grid": str, "correctors": int, "remask": float,
    "last_step": str,
}  # fmt: skip


def _replaced(owner: Options, name: str, kind: type, value: str | None) -> Options:
    """The options with one field set, or set to its default without a value."""
    default = {f.name: f.default for f in dataclasses.fields(owner)}[name]
    return dataclasses.replace(owner, **{name: default if value is None else _read(kind, value)})


def _read(kind: type, value: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise RequestError(f"expected {'a whole number' if kind is int else 'a number'}, found {value!r}") from None


def _settings(job: Job, sampling: Sampling) -> str:
    found = {name: getattr(job, name) for name in _JOB} | {name: getattr(sampling, name) for name in _SAMPLING}
    return ", ".join(f"{name} {value}" for name, value in found.items() if value is not None)
