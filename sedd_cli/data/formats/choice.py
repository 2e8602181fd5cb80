"""Which files of a folder, or members of an archive, are read: one rule for both."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from sedd_cli.errors import listed

#: Papers that lie beside data.
_PAPERS = {
    "readme", "license", "licence", "copying", "notice", "changelog", "changes", "contributing", "citation", "authors",
    "code_of_conduct", "security",
}  # fmt: skip
#: What macOS adds to an archive.
_MAC = "__MACOSX"


@dataclass(frozen=True)
class Choice:
    """The names that are read, in path order, and how many of which kind are not, with their names."""

    names: list[str]
    left_out: Counter[str]
    shown: list[str]

    def note(self, where: str, noun: str) -> str:
        """One line about what a folder or an archive gave."""
        return f"{where}: {len(self.names):,} {noun} are read" + (f", {self.missing(noun)}" if self.shown else "")

    def missing(self, noun: str) -> str:
        """How many were left out, of which kinds, and the first names."""
        common = self.left_out.most_common(5)
        kinds = ", ".join(f"{count:,} {kind or 'without ending'}" for kind, count in common)
        return f"{self.left_out.total():,} {noun} are left out ({kinds}): {listed(self.shown, 5)}"


def choose(names: Iterable[str], accepted: Callable[[str], bool], other: Mapping[str, str]) -> Choice:
    """Choose among paths below one root, with slashes.

    Hidden entries (a name with a dot in front, __MACOSX) are left out, a hidden folder as one; so are papers such as
    README beside data, and what is not accepted. other: what kind of thing a name is that is no file.
    """
    read: list[str] = []
    left: dict[str, str] = {}
    for name in names:
        if (hidden := hidden_entry(name)) is not None:
            left[hidden] = "hidden"
        elif name in other:
            left[name] = other[name]
        elif accepted(name):
            read.append(name)
        else:
            left[name] = ending(name)
    papers = [name for name in read if is_paper(name)]
    if 0 < len(papers) < len(read):
        read = [name for name in read if not is_paper(name)]
        left |= {name: ending(name) for name in papers}
    return Choice(sorted(read), Counter(left.values()), sorted(left))


def ending(name: str) -> str:
    """The ending of a file's name, in lower case, with its dot."""
    return posixpath.splitext(name)[1].lower()


def hidden_entry(name: str) -> str | None:
    """The path of the outermost hidden entry that a path goes through."""
    parts = name.split("/")
    for depth, part in enumerate(parts, 1):
        if is_hidden(part):
            return "/".join(parts[:depth])
    return None


def is_hidden(name: str) -> bool:
    """Whether an entry of this name is left out of folders and archives."""
    return name.startswith(".") or name == _MAC


def is_paper(name: str) -> bool:
    """Whether a file of this name is a paper that lies beside data."""
    stem, found = posixpath.splitext(posixpath.basename(name))
    return stem.lower() in _PAPERS and found.lower() in ("", ".md", ".txt")
