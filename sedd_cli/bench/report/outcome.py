"""The report: options, how each measurement ended, and the files on disk."""

from __future__ import annotations

import json
import math
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sedd_cli.bench.report.markdown import TITLE, markdown
from sedd_cli.bench.report.measurement import Figure, Measurement, Sizes
from sedd_cli.bench.report.plan import CHECKS, MEASUREMENTS
from sedd_cli.errors import DamageError, RequestError, WorkError, not_one_of
from sedd_cli.recipe import Recipe
from sedd_cli.system.documents import read_json
from sedd_cli.system.files import is_stream, write_whole
from sedd_cli.system.software import recorded


class UnwritableError(WorkError):
    """The report cannot be written, which ends it."""


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What is measured, for how long, and where the report goes.

    recipe, larger: their networks are measured. minutes: for everything, counted from `began` (`time.monotonic`).
    out: the JSON document; the Markdown stands beside it. only: names or tables of measurements, () for all. sizes:
    None for those of the device.
    """

    recipe: Recipe
    larger: Recipe
    minutes: float = 8.0
    out: Path = Path("report.json")
    device: str = "auto"
    only: tuple[str, ...] = ()
    sizes: Sizes | None = None
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if not 0 < self.minutes < math.inf:
            raise RequestError(f"minutes must be positive, found {self.minutes}")
        if self.out.suffix != ".json":
            raise RequestError(f"--out must end in .json (the Markdown is written beside it), found {self.out}")
        for name in self.only:
            if not _named(name):
                raise RequestError(not_one_of("--only", [*(m.name for m in MEASUREMENTS), CHECKS], name))
        _check_own(self.out)
        _check_own(self.out.with_suffix(".md"))

    def chosen(self) -> list[Measurement]:
        """The measurements to run."""
        wanted = [m for name in self.only for m in _named(name)]
        return [m for m in MEASUREMENTS if not self.only or m in wanted]


def _named(name: str) -> list[Measurement]:
    """The measurement of a name, else all those of a table of that name."""
    return [m for m in MEASUREMENTS if m.name == name] or [m for m in MEASUREMENTS if m.table == name]


def _check_own(path: Path) -> None:
    """RequestError if the file exists and is not such a report."""
    if not path.exists() or is_stream(path):
        return
    wrong = suppress(OSError, ValueError, DamageError, AttributeError)  # AttributeError: JSON that is no object
    with wrong, path.open(encoding="utf-8") as file:
        if file.read(len(TITLE)) == TITLE or (path.suffix == ".json" and read_json(path).get("bench") == "report"):
            return
    raise RequestError(f"{path} exists and is no earlier report: name another file with --out")


@dataclass
class Outcome:
    """How a measurement ended, and its figures.

    state: running, done, skipped, failed, stopped (its time was over) or interrupted. reason: why it is not done.
    """

    name: str
    table: str
    state: str = "running"
    reason: str = ""
    seconds: float = 0.0
    figures: list[Figure] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As in the JSON document."""
        figures = [figure.to_dict() for figure in self.figures]
        return {"name": self.name, "state": self.state, "reason": self.reason, "seconds": self.seconds} | {
            "table": self.table, "figures": figures,
        }  # fmt: skip


@dataclass
class Report:
    """The outcomes so far, as they are written to disk."""

    options: ReportOptions
    device: str
    outcomes: list[Outcome] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The JSON document. A measurement of checks that fails or is stopped counts as one more, failed check."""
        options = self.options
        head = {"bench": "report", "device": self.device, "recipe": options.recipe.name, "larger": options.larger.name}
        head |= {"minutes": options.minutes, "seconds": time.monotonic() - options.began}
        checks = [f.passed for o in self.outcomes for f in o.figures if f.passed is not None]
        checks += [False for o in self.outcomes if o.table == CHECKS and o.state in ("failed", "stopped")]
        head |= {"checks": len(checks), "checks_failed": checks.count(False)}
        return head | {"measurements": [outcome.to_dict() for outcome in self.outcomes]}

    def write(self) -> None:
        """Write both files; an interrupted write leaves the earlier ones."""
        document, out = recorded(self.to_dict()), self.options.out
        try:
            write_whole(out, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
            write_whole(out.with_suffix(".md"), markdown(document))
        except OSError as error:
            raise UnwritableError(f"cannot write {out}: {error.strerror}") from None
