"""The plans of a batch: each line's job in the model's tokens, under a key of all that determines its results."""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.errors import RequestError, WorkError, listed
from sedd_cli.inference.batch.lines import PAUSE, JobLine, spelled_lines
from sedd_cli.inference.batch.stored import Filling, StoredFillings, id_digest
from sedd_cli.inference.names import id_name
from sedd_cli.inference.plan import Plan, plan_job
from sedd_cli.inference.sampling import Sampling
from sedd_cli.system.digests import digest
from sedd_cli.system.events import Warn


class Plans:
    """The plans of the fillings that are wanted and not stored yet, one a filling, made as they are asked for.

    None among them: no further line has arrived yet.
    """

    def __init__(
        self, model: LoadedModel, sampling: Sampling, lines: Iterable[JobLine], every: bool,
        there: StoredFillings | None, keep: bool, setting: dict[str, Any],
    ):  # fmt: skip
        self.lines = self.wanted = self.before = 0
        self.refused: list[tuple[int, str]] = []
        #: The fillings that are planned and not shown yet, in the order of the lines.
        self.issued: deque[Filling] = deque()
        self._setting = setting
        #: Warnings → the numbers of their lines: those not shown yet, and all about lines that have a job.
        self._news: dict[str, list[int]] = {}
        self._remarks: dict[str, list[int]] = {}
        self._ids = _Ids()
        self._each = self._missing(keyed(model, self._planned(model, sampling, lines), every), there, keep)

    def __iter__(self) -> Iterator[Plan | None]:
        return self._each

    def news(self) -> list[Warn]:
        """Warnings about the lines since the last call."""
        news, self._news = self._news, {}
        return [Warn(text) for text in _by_lines(news)]

    @property
    def remarks(self) -> list[str]:
        """Warnings about the lines that have a job."""
        return _by_lines(self._remarks)

    def _refuse(self, line: JobLine, reason: str) -> None:
        self.refused.append((line.number, reason))
        self._news.setdefault(reason, []).append(line.number)

    def _planned(
        self, model: LoadedModel, sampling: Sampling, lines: Iterable[JobLine]
    ) -> Iterator[tuple[JobLine, Plan] | None]:
        for line in lines:
            if line is PAUSE:
                yield None
                continue
            self.lines += 1
            if line.job is None:
                self._refuse(line, line.refusal)
                continue
            try:
                plan = plan_job(model, line.job, sampling)
            except (RequestError, WorkError) as error:  # WorkError: a tokenizer that cannot encode its text
                self._refuse(line, str(error))
                continue
            if line.warning:
                if line.warning in self._news or line.warning not in self._remarks:  # printed once
                    self._news.setdefault(line.warning, []).append(line.number)
                self._remarks.setdefault(line.warning, []).append(line.number)
            self._ids.note(line)
            yield line, plan
        if text := self._ids.repeated():
            self._news[text] = self._remarks[text] = []

    def _missing(
        self, keyed: Iterator[tuple[JobLine, Plan, str] | None], there: StoredFillings | None, keep: bool
    ) -> Iterator[Plan | None]:
        for one in keyed:
            if one is None:
                yield None
                continue
            line, plan, key = one
            facts = {"id": line.id, "line": line.number, "key": key, "extra": line.extra, **self._setting}
            for k in range(plan.job.n):
                self.wanted += 1
                if there is not None and there.take(key, k, facts, keep):
                    self.before += 1
                else:
                    self.issued.append((key, k))
                    yield dataclasses.replace(plan, job=dataclasses.replace(plan.job, n=1, first=k, facts=facts))


def _by_lines(found: dict[str, list[int]]) -> list[str]:
    """Each warning once, with the numbers of all its lines in front."""
    return [f"{spelled_lines(lines)}: {text}" if lines else text for text, lines in found.items()]


class _Ids:
    """The ids of the lines, to find those that stand on several."""

    def __init__(self) -> None:
        self._line: dict[bytes, int] = {}
        self._repeated: dict[str, list[int]] = {}

    def note(self, line: JobLine) -> None:
        """Remember the id of a line, if it has one."""
        if line.id is None:
            return
        first = self._line.setdefault(id_digest(line.id), line.number)
        if first != line.number:
            self._repeated.setdefault(id_name(line.id), [first]).append(line.number)

    def repeated(self) -> str:
        """The warning about ids that stand on several lines; empty where none does."""
        if not self._repeated:
            return ""
        each = (f"{name} ({spelled_lines(lines)})" for name, lines in self._repeated.items())
        return f"several lines have the same id, and so will their results: {listed(each)}"


def keyed(
    model: LoadedModel, planned: Iterable[tuple[JobLine, Plan] | None], every: bool
) -> Iterator[tuple[JobLine, Plan, str] | None]:
    """Each planned line with a key of all that determines its results; equal jobs are numbered. None stays."""
    fixed = [model.precision, model.fingerprint, model.tokenizer.fingerprint if model.tokenizer else None]
    seen: Counter[bytes] = Counter()
    for one in planned:
        if one is None:
            yield None
            continue
        line, plan = one
        job, resolved = plan.job, plan.resolved
        how = [resolved.facts, dataclasses.asdict(resolved.sampler), *fixed]
        key = digest([how, [str(job.template), job.seed, job.length, job.candidates, every, line.id]])[:16]
        number = bytes.fromhex(key)
        seen[number] += 1
        yield line, plan, key if seen[number] == 1 else f"{key}-{seen[number]}"
