"""Lists whose rows take two lines: values in columns, and below them, indented, what has no room beside them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.cells import cell_len
from rich.text import Text

#: Columns before the second line of a row, and between two values of the first.
INDENT, GAP = "  ", "  "


def two_lines(
    heads: Sequence[str],
    rows: Sequence[tuple[Sequence[Text], str]],
    width: int,
    right: Collection[str] = (),
) -> Text:
    """A list under its heads.

    Args:
        heads: Names of the columns. The first column takes what the others leave; of what is longer, the end is shown.
        rows: The values of each row, and its second line, already short enough ("" for none).
        width: Columns of the screen.
        right: Heads whose columns are aligned to the right.
    """
    wide = [max(cell_len(one) for one in (head, *(row[i].plain for row, _ in rows))) for i, head in enumerate(heads)]
    wide[0] = max(min(wide[0], width - sum(wide[1:]) - len(GAP) * (len(heads) - 1)), len(heads[0]))
    found = _line([Text(head, "bold") for head in heads], heads, wide, right)
    for values, below in rows:
        first = values[0]
        if cell_len(first.plain) > wide[0]:
            first = Text("…" + first.plain[1 - wide[0] :], first.style)
        found.append("\n").append_text(_line([first, *values[1:]], heads, wide, right))
        if below:
            found.append(f"\n{INDENT}{below}", "dim")
    return found


def _line(values: Sequence[Text], heads: Sequence[str], wide: Sequence[int], right: Collection[str]) -> Text:
    line = Text()
    for value, head, size in zip(values, heads, wide, strict=True):
        space = " " * (size - cell_len(value.plain))
        line.append(GAP if line.plain else "")
        line.append_text(Text(space).append_text(value) if head in right else value.copy().append(space))
    line.rstrip()
    return line


def as_many(parts: Sequence[str], width: int) -> str:
    """Parts in one line, separated by commas: as many as fit, and how many are left out."""
    for left_out in range(len(parts)):
        shown = ", ".join(parts[: len(parts) - left_out])
        line = f"{shown}, … {left_out} more" if left_out else shown
        if cell_len(line) <= width:
            return line
    return shortened_to(parts[0], width) if len(parts) == 1 else f"… {len(parts)} more" if parts else ""


def shortened_to(text: str, width: int) -> str:
    """A text of at most so many columns, cut after a word where it can be, with … at the end."""
    if cell_len(text) <= width:
        return text
    head = text[: width - 2]
    return f"{head.rpartition(' ')[0] or head} …"
