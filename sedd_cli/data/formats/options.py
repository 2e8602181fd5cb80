"""How files are read."""

from __future__ import annotations

from dataclasses import dataclass

LONGEST = 1 << 20
SEPARATIONS = ("auto", "blank", "line", "file")


@dataclass(frozen=True)
class Reading:
    """field: key or column that holds the text, None for "text". encoding: of text files.

    documents: what separates the documents of a text file: "blank" lines; every "line" one document; the
    whole "file" one document; "auto" takes blank lines where the first million characters have one, else
    lines. A document longer than a million characters is cut into documents of that length, so that memory
    stays flat.
    """

    field: str | None = None
    encoding: str = "utf-8"
    documents: str = "auto"
