"""Lines of a file of jobs: templates as they are, or JSON objects."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from sedd_cli.data.formats.records import parse_record, repeated_keys
from sedd_cli.errors import RequestError, displayed, listed, nearest_name, shortened
from sedd_cli.inference.plan import Job
from sedd_cli.inference.template import gap_between, parse_template
from sedd_cli.recipe.build import build
from sedd_cli.system.documents import DEPTH, is_deeper
from sedd_cli.system.json_lines import json_text

#: Most characters of an `id`, and of all keys that are passed to the results, as JSON.
LONGEST_ID, LONGEST_EXTRA = 10_000, 1_000_000


@dataclass(frozen=True)
class JobRecord:
    """Fields of a line of JSON: a template, or prefix, suffix or both. Other keys are passed to the results."""

    template: str | None = None
    prefix: str = ""
    suffix: str = ""
    n: int | None = None
    seed: int | None = None
    length: int | None = None
    candidates: int | None = None


FIELDS = tuple(one.name for one in dataclasses.fields(JobRecord))
#: Keys of other files → the field that is probably meant.
WORDS = {
    "text": "template", "input": "template", "sentence": "template", "masked": "template", "prompt": "prefix",
    "before": "prefix", "after": "suffix", "samples": "n", "name": "id", "key": "id",
}  # fmt: skip


@dataclass(frozen=True)
class JobLine:
    """A line of the file: its job, or the reason why it has no job. PAUSE stands for no line.

    id: that of the line; extra: its other keys, which its results hold too. warning: about these keys.
    """

    number: int
    job: Job | None = None
    id: Any = None
    refusal: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    warning: str = ""


#: Among the lines of a pipe: no further line has arrived yet.
PAUSE = JobLine(0)


@dataclass(frozen=True)
class Defaults:
    """What holds for a line that does not say it.

    length: of prefix, suffix and the gap between them together.
    """

    length: int
    n: int = 1
    seed: int = 0
    candidates: int | None = None


def job_lines(
    lines: Iterable[bytes | None], source: str, length: int, n: int = 1, seed: int = 0, candidates: int | None = None
) -> Iterator[JobLine]:
    """One job per line; the last four are the `Defaults`. A line that cannot be read carries the reason.

    A line that begins with { is a JSON object, any other is a template. Where the first line is JSON, all have to be.
    RequestError where there is no line. None among the lines, no further one has arrived yet, gives PAUSE.
    """
    defaults, found, number, json_only = Defaults(length, n, seed, candidates), False, 0, False
    for line in lines:
        if line is None:
            yield PAUSE
            continue
        number += 1
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            continue
        is_json = line.lstrip().startswith(b"{")
        json_only = json_only or (is_json and not found)
        found = True
        try:
            if is_json or json_only:
                yield _json_job(source, number, line, defaults)
            else:
                yield JobLine(number, _plain_job(line, defaults))
        except RequestError as error:
            yield JobLine(number, refusal=str(error).removeprefix(f"line {number:,} of {source} "))
    if not found:
        raise RequestError(f"{source} holds no jobs")


def _plain_job(line: bytes, defaults: Defaults) -> Job:
    """The job of a line that is a template."""
    try:
        text = line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"it is not UTF-8: byte {error.start:,} does not decode") from None
    return Job(parse_template(text), defaults.n, defaults.seed, None, defaults.candidates)


def _json_job(source: str, number: int, line: bytes, defaults: Defaults) -> JobLine:
    """The job of a line of JSON, with its id and what is passed to its results."""
    record = parse_record(source, number, line)
    if not isinstance(record, dict):
        raise RequestError(f"it is no JSON object but a {type(record).__name__}")
    _check_depth(record)
    if repeated := repeated_keys(record):
        raise RequestError(f"it has {listed(map(repr, dict.fromkeys(repeated)))} more than once in one object")
    return record_job(record, number, defaults)


def _check_depth(record: dict[str, Any]) -> None:
    """RequestError for a value that could be written into the results at one place and not at another."""
    if is_deeper(record, DEPTH + 1):
        raise RequestError(f"it has a value that is nested deeper than {DEPTH} levels (the limit DEPTH)")


def record_job(record: dict[str, Any], number: int, defaults: Defaults) -> JobLine:
    """The job of an object of JSON, with its id and what is passed to its results; RequestError where it is none."""
    record = dict(record)
    if strange := [key for key in record if not isinstance(key, str)]:
        raise RequestError(f"its keys must be text, found {displayed(strange[0])}")
    _check_depth(record)
    keys, named = listed(map(repr, record)), "id" in record
    name = record.pop("id", None)
    if len(json_text(name)) > LONGEST_ID:
        raise RequestError(f"its id has more than {LONGEST_ID:,} characters (the limit LONGEST_ID)")
    extra = {key: value for key, value in record.items() if key not in FIELDS}
    if extra and len(json_text(extra)) > LONGEST_EXTRA:
        raise RequestError(f"its other keys have more than {LONGEST_EXTRA:,} characters (the limit LONGEST_EXTRA)")
    near = _close(extra, {*record, *(["id"] if named else [])})
    fields = build(JobRecord, {key: record[key] for key in record if key in FIELDS}, "")
    if (fields.template is None) == (fields.prefix + fields.suffix == ""):
        near = _close(extra, (), WORDS, 0.6)
        hint = f"; did you mean {listed(map(repr, near.values()))}?" if near else ""
        raise RequestError(f"it takes either a template, or prefix, suffix or both; found {keys or 'no keys'}{hint}")
    default_length = defaults.length if fields.template is None else None
    job = Job(
        gap_between(fields.prefix, fields.suffix) if fields.template is None else parse_template(fields.template),
        defaults.n if fields.n is None else fields.n,
        defaults.seed if fields.seed is None else fields.seed,
        default_length if fields.length is None else fields.length,
        defaults.candidates if fields.candidates is None else fields.candidates,
    )
    said = " ".join(f"found {shortened(key)!r}, did you mean {meant!r}?" for key, meant in near.items())
    warning = f"{said} (other keys are passed to the results as they are)" if near else ""
    return JobLine(number, job, name, extra=extra, warning=warning)


def _close(
    extra: Iterable[str], given: Container[str], words: Mapping[str, str] = MappingProxyType({}), cutoff: float = 0.75
) -> dict[str, str]:
    """The keys that look like fields misspelt, with these fields.

    given: the fields that the line has already. words: other names of fields. cutoff: how much alike they must be.
    """
    free = [name for name in (*FIELDS, "id") if name not in given]
    close = ((key, words.get(key.lower()) or nearest_name(key, free, cutoff)) for key in extra)
    return {key: meant for key, meant in close if meant}


def spelled_lines(numbers: Iterable[int]) -> str:
    """Numbers of lines for a message, consecutive ones joined: "line 3", "lines 1-50, 54"."""
    spans: list[list[int]] = []
    for number in sorted(set(numbers)):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    several = len(spans) > 1 or spans[0][0] < spans[0][1]
    spelled = (str(first) if first == last else f"{first}-{last}" for first, last in spans)
    return f"line{'s' if several else ''} {listed(spelled)}"
