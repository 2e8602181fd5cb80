"""The file that the results of a batch are stored in: what it holds already, and its order at the end."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sedd_cli.errors import RequestError, displayed, listed
from sedd_cli.inference.names import id_name
from sedd_cli.system.digests import digest
from sedd_cli.system.events import with_id
from sedd_cli.system.files import whole_file
from sedd_cli.system.json_lines import finite, json_lines, read_json_line

#: How every result begins (see `inference.generate.as_json`).
BEGINNING = '{"index": '
Filling = tuple[str, int]


class StoredFillings:
    """The results in a file of an earlier call: where each is, not what it holds.

    every: without incomplete sets of candidates. fresh: the file is begun anew, whatever it holds. RequestError where
    it holds anything but results of a batch.
    """

    def __init__(self, out: Path, every: bool, fresh: bool = False):
        self.out = out
        self.kept: list[dict[str, Any]] = []
        #: What is said of the job of each result that is taken up.
        self._taken: dict[Filling, dict[str, Any]] = {}
        self._at: dict[Filling, list[int]] = {}
        #: The jobs of the input so far, by their keys.
        self._jobs: dict[str, dict[str, Any]] = {}
        #: model and options of the results → line of the first.
        self._settings: list[tuple[dict[str, Any], int]] = []
        self._end = self._size = 0
        self._drop: set[Filling] = set()
        self._expected: dict[Filling, int] = {}
        #: The ids of the input.
        self._ids: set[bytes] = set()
        #: Results of other jobs: those of ids of the input by id, and how many others.
        self._former: Counter[str] = Counter()
        self._others = 0
        if fresh or not out.is_file():
            return
        with out.open("rb") as file:
            for number, raw in enumerate(file, 1):
                line = read_json_line(raw)
                if not line.ended and line.cut_short(BEGINNING):
                    break
                try:
                    self._note(line.record or {}, number, every)
                except (KeyError, TypeError, ValueError):
                    raise RequestError(
                        f"{out} holds something else (line {number} is no result of --input): "
                        "name another file with --out"
                    ) from None
                self._end += len(raw)
        self._size = out.stat().st_size
        self._drop = {filling for filling, count in self._expected.items() if len(self._at[filling]) != count}

    def _note(self, record: dict[str, Any], number: int, every: bool) -> None:
        """Remember a record; KeyError or TypeError where it is no result of a batch."""
        filling, candidates, job = _filling(record), record["candidates"], record["job"]
        if not all(type(number) is int for number in (record["index"], record["candidate"], candidates)):
            raise TypeError
        if "model" in job and all(found != _setting(job) for found, _ in self._settings):
            self._settings.append((_setting(job), number))
        self._at.setdefault(filling, []).append(self._end)
        if every:
            self._expected[filling] = candidates

    def check(self, setting: Mapping[str, Any]) -> None:
        """RequestError where a result is of another model, or of other options, than those of `setting`."""
        for found, number in self._settings:
            if what := _difference(found, finite(setting)):
                raise RequestError(
                    f"{self.out} holds results of {what} (line {number}): --fresh begins it anew, or name another "
                    "file with --out"
                )

    def take(self, key: str, number: int, job: dict[str, Any], keep: bool) -> bool:
        """Whether a filling of the job is stored; keep: read its records."""
        self._jobs[key] = job
        if job["id"] is not None:
            self._ids.add(id_digest(job["id"]))
        places = self._at.get((key, number))
        if places is None or (key, number) in self._drop:
            return False
        self._taken[key, number] = job
        if keep:
            with self.out.open("rb") as file:
                for at in places:
                    file.seek(at)
                    self.kept.append(with_id((read_json_line(file.readline()).record or {}) | {"job": job}))
        return True

    @property
    def count(self) -> int:
        """Number of complete fillings in the file."""
        return len(self._at.keys() - self._drop)

    def remarks(self) -> list[str]:
        """The warning about results of other jobs that `arrange` has found."""
        found = []
        if self._former:
            count, ids = sum(self._former.values()), listed(self._former)
            found.append(
                f"{self.out} also holds {count} fillings of former lines of {ids}: these ids have other templates or "
                'options now. The old texts come last, marked "former": true; --fresh begins the file anew, without '
                "them"
            )
        if self._others:
            found.append(
                f"{self.out} also holds {self._others} fillings of jobs that the input does not hold, from before; "
                "they come last (--fresh begins it anew)"
            )
        return found

    def tidy(self) -> None:
        """Write the file anew without a torn last line and incomplete sets of candidates, if there are any."""
        torn = self._end < self._size
        with self.out.open("rb") if self.out.is_file() else io.BytesIO() as file:
            file.seek(max(self._end - 1, 0))
            unended = bool(self._end) and file.read(1) != b"\n"
        if not (torn or self._drop or unended):
            return
        with whole_file(self.out) as fresh, fresh.open("wb") as new, self.out.open("rb") as old:
            at, moved = 0, dict[int, int]()
            for raw in old:
                if at >= self._end:
                    break
                if not self._drop or _filling(read_json_line(raw).record or {}) not in self._drop:
                    moved[at] = new.tell()
                    new.write(raw.rstrip(b"\n") + b"\n")
                at += len(raw)
            self._end = self._size = new.tell()
        self._at = {one: [moved[at] for at in places] for one, places in self._at.items() if one not in self._drop}
        self._drop = set()

    def arrange(self) -> None:
        """Put the file into the order of the input, results of jobs that it does not hold last, if it is not in it.

        What is said of the job of a result that was taken up, such as its line, becomes that of the input. A result of
        another job whose id the input has is marked as a former one of this id.
        """
        if not self.out.is_file():
            return
        places: list[tuple[bool, tuple[int, int, int], int]] = []
        with self.out.open("rb") as file:
            at, changed = 0, False
            for raw in file:
                record = read_json_line(raw).record or {}
                others, job = self._now(record)
                if others and record["candidate"] == 0:
                    self._count(job)
                changed = changed or finite(job) != record["job"]
                place = (0, 0, 0) if others else (job["line"], record["index"], record["candidate"])
                places.append((others, place, at))
                at += len(raw)
            if places == sorted(places) and not changed:
                return
            with whole_file(self.out) as fresh, fresh.open("w", encoding="utf-8") as new:
                for _, _, at in sorted(places):
                    file.seek(at)
                    record = read_json_line(file.readline()).record or {}
                    new.write(json_lines([with_id(record | {"job": self._now(record)[1]})]))

    def _now(self, record: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
        """Whether a result is of a job that the input does not hold, and what is said of its job now."""
        filling = _filling(record)
        job: dict[str, Any] = record["job"]
        if filling in self._taken or filling not in self._at or filling in self._drop:
            return False, self._taken.get(filling, job)
        if (held := self._jobs.get(filling[0])) is not None:  # more fillings than are asked for now
            return False, held
        plain = {key: value for key, value in job.items() if key != "former"}
        named = job.get("id")
        former = named is not None and id_digest(named) in self._ids
        return True, {**plain, "former": True} if former else plain

    def _count(self, job: dict[str, Any]) -> None:
        """Count a filling of a job that the input does not hold, for `remarks`."""
        if "former" in job:
            self._former[id_name(job["id"])] += 1
        else:
            self._others += 1


def id_digest(named: Any) -> bytes:
    """Eight bytes that stand for an id."""
    return bytes.fromhex(digest(named)[:16])


def _filling(record: dict[str, Any]) -> Filling:
    """The filling that a record belongs to: its job's key and its number."""
    return record["job"]["key"], record["index"]


def _setting(job: Mapping[str, Any]) -> dict[str, Any]:
    """Model, options and version of the draws of a result; where the model lay does not count."""
    # results from before the version was stored are of the first
    version = job.get("samples_version", 1)
    return {"model": {**job["model"], "source": None}, "options": dict(job["options"]), "samples_version": version}


def _difference(found: dict[str, Any], now: Mapping[str, Any]) -> str:
    """How the model or the options of stored results differ from those of this call; empty where they do not."""
    now = _setting(now)
    if found["model"].get("fingerprint") != now["model"]["fingerprint"]:
        step = found["model"].get("step")
        named = f"{str(found['model'].get('fingerprint'))[:12]}" + (f", step {step}" if step else "")
        return f"another model ({named}; this one is {now['model']['fingerprint'][:12]})"
    if found["samples_version"] != now["samples_version"]:
        return "another version of the samplers, which drew other texts"
    differing = [
        f"{name} {_spelled(found[part].get(name))}, now {_spelled(now[part].get(name))}"
        for part in ("model", "options")
        for name in sorted({**found[part], **now[part]})
        if found[part].get(name) != now[part].get(name)
    ]
    return f"other options ({listed(differing, separator='; ')})" if differing else ""


def _spelled(value: Any) -> str:
    return "not set" if value is None else displayed(value)
