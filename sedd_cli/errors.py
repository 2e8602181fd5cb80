"""Errors with their exit codes, and how messages spell values of others (short, without control codes) and commands."""

from __future__ import annotations

import difflib
import errno
import re
import reprlib
import shlex
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

#: Most characters of a message, and of one value in it.
MESSAGE, VALUE = 4000, 120
#: Text in quotes, and words without spaces, are cut in any message where they are longer: file names are rarely so.
QUOTED, WORD = 240, 480
#: Most items of a list in a message.
ITEMS = 12


class _ShortError(Exception):
    """An error whose message is bounded, whatever file or argument it quotes. own: see `of_this_process`."""

    own = False

    def __init__(self, message: object = ""):
        super().__init__(bounded(str(message)))


E = TypeVar("E", bound=Exception)


def of_this_process(error: E) -> E:
    """Mark an error that other processes need not have: it is shown whichever process it ends."""
    if isinstance(error, _ShortError):  # others are shown by every process
        error.own = True
    return error


class RequestError(_ShortError, ValueError):
    """The request is wrong; the message is one line with what to do. Exit code 2."""


class WorkError(_ShortError, RuntimeError):
    """The work failed (a full disk, a loss that is not finite). Exit code 1."""


class DamageError(WorkError):
    """A file is damaged (a truncated checkpoint, an edited shard). Exit code 1."""


#: Errors of the system for a disk, or a user's share of one, that is full.
FULL = (errno.ENOSPC, errno.EDQUOT)


def disk_full(error: BaseException | None) -> bool:
    """Whether a full disk is what an error comes from, also through the errors of libraries."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and (error.errno in FULL or "Not enough disk space" in str(error)):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def unwritable(place: object, error: OSError) -> RequestError | WorkError:
    """The error for a file or folder that cannot be written: a WorkError where the disk is full, else the request's."""
    kind = WorkError if disk_full(error) else RequestError
    return kind(f"cannot write {place}: {reason_of(error)}")


def reason_of(error: BaseException) -> str:
    """Why something failed, without the name of a file: an error of the system in its words, another's first line."""
    return getattr(error, "strerror", None) or first_line(error)


def first_line(error: BaseException) -> str:
    """The first line of an error of another library; its class if it has no message.

    Advice that only a programmer can follow is left out: of whole numbers of too many digits.
    """
    if "for integer string conversion" in str(error):
        return f"a whole number of over {sys.get_int_max_str_digits():,} digits is refused"
    return str(error).strip().split("\n")[0][:200] or type(error).__name__


#: Words of errors of torch and of NVIDIA's libraries (CUBLAS_STATUS_ALLOC_FAILED) that mean that memory ran out.
NO_MEMORY = ("out of memory", "can't allocate memory", "_STATUS_ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a GPU or on a CPU."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch is not imported here
    return named or any(words in str(error) for words in NO_MEMORY)


def shortened(text: str, most: int = VALUE) -> str:
    """At most about `most` characters of a text: its beginning and end, and how many there were."""
    if len(text) <= most:
        return text
    half = max(1, (most - 40) // 2)
    return f"{text[:half]} … ({len(text):,} characters) … {text[-half:]}"


#: Long values in a message, which are cut: text in quotes, and words without spaces (names, numbers, paths).
_LONG = re.compile(
    rf"""(?<!\w)(?P<quote>['"])(?:(?!(?P=quote))[^\n]){{{QUOTED},}}(?P=quote)(?!\w)|[^\s'"]{{{WORD},}}"""
)


def bounded(text: str) -> str:
    """A message of at most about MESSAGE characters, whose long values are cut in their middle."""
    return _LONG.sub(lambda found: shortened(found[0], QUOTED), shortened(text, MESSAGE))


class _Short(reprlib.Repr):
    """`repr` that costs no more than it shows, for nested and for very long values."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxother = self.maxlong = VALUE
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = ITEMS

    def repr_int(self, x: int, level: int) -> str:
        return super().repr_int(x, level) if x.bit_length() < 4096 else f"<a whole number of {x.bit_length():,} bits>"

    def repr_instance(self, x: object, level: int) -> str:
        return f"<{type(x).__name__}>" if hasattr(x, "numel") else super().repr_instance(x, level)


def displayed(value: Any) -> str:
    """`repr(value)`, shortened; values from files are quoted in messages by this."""
    return shortened(_Short().repr(value))


def listed(items: Iterable[object], most: int = ITEMS, separator: str = ", ") -> str:
    """The first items, shortened, and how many more there are."""
    found = [shortened(str(item)) for item in items]
    more = f" and {len(found) - most:,} others" if len(found) > most else ""
    return separator.join(found[:most]) + more


def nearest_name(name: str, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The known name that a misspelt one is most like, whatever its case and hyphens; None where none is like it."""
    plain = {one.lower().replace("-", "_"): one for one in known}
    wanted = shortened(name).lower().replace("-", "_")
    return next((plain[one] for one in difflib.get_close_matches(wanted, plain, n=1, cutoff=cutoff)), None)


def not_one_of(key: str, known: Iterable[str], found: object) -> str:
    """The message about a value that is none of the accepted ones, with the one that is probably meant."""
    known = list(known)
    return f"{key} must be one of {', '.join(known)}, found {displayed(found)}{did_you_mean(found, known)}"


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of a message about a name that is not known; empty where none is like it."""
    meant = nearest_name(name, known) if isinstance(name, str) else None
    return f"; did you mean {meant!r}?" if meant else ""


def shell_word(word: str | Path) -> str:
    """A word for a shell; one with an apostrophe in double quotes, where that leaves it readable and whole.

    A path that begins as an option does is spelled so that it is not taken for one.
    """
    word = f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word)
    plain = "'" in word and not set(word) & set('"$`\\!\n')
    return f'"{word}"' if plain else shlex.quote(word)


def shell_command(words: Iterable[str | Path]) -> str:
    """The words of a command in one line, quoted for pasting into a shell."""
    return " ".join(map(shell_word, words))


#: Characters that control a terminal instead of being shown: controls (C0 but for line ends and tabs, DEL, C1), halves
#: of surrogate pairs, and the marks that reverse the direction of what follows.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """A text for a terminal: control characters are spelled, not sent."""
    return _OBEYED.sub(_spelled, text)


def _spelled(found: re.Match[str]) -> str:
    point = ord(found[0])
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}"


def one_line(text: str, most: int = MESSAGE) -> str:
    """A message in one line, bounded and without control characters."""
    return shortened(printable(bounded(" ".join(shortened(text, 4 * most).split()))), most)


def visible_name(name: str) -> str:
    """A file's name without what cannot be stored as UTF-8 (bytes of other encodings): for JSON and Markdown."""
    return unicodedata.normalize("NFC", name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


def plus_minus(value: float, error: float | None, digits: int) -> str:
    """A value, and its standard error if there is one."""
    return f"{value:.{digits}f}" + (f" ± {spelled_error(error, digits)}" if error else "")


def spelled_error(error: float, digits: int) -> str:
    """A standard error; one that would be rounded to 0 is given by what it lies below."""
    shown = f"{error:.{digits}f}"
    return f"<{0.5 * 10**-digits:.{digits + 1}f}" if error > 0 and float(shown) == 0 else shown
