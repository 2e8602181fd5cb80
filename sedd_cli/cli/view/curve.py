"""Curves drawn in characters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from rich.text import Text

#: The eight dots of a braille character, by [row][column] of its 4 × 2 cell.
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
#: Colours of the curves of a chart, in order.
COLOURS = ("cyan", "magenta", "yellow", "blue", "red", "green")
#: The character of a horizontal line.
LEVEL = "╌"
Point = tuple[float, float]
#: From a point and a number of columns and rows to the column and row of the point.
Place = Callable[[float, float, int, int], tuple[int, int]]


@dataclass(frozen=True)
class Line:
    """A curve through points (x, y) with increasing x, marks by their character, and a letter at its end."""

    points: Sequence[Point]
    marks: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    letter: str = ""


def chart(lines: Sequence[Line], levels: Mapping[str, float], width: int = 60, height: int = 12) -> Text:
    """Draw curves over each other, with named horizontal lines behind them; the axes show the range of all."""
    everything = [point for line in lines for point in (*line.points, *chain(*line.marks.values()))]
    left, right = min(x for x, _ in everything), max(x for x, _ in everything)
    heights = [*(y for _, y in everything), *levels.values()]
    low, high = min(heights), max(heights)

    def place(x: float, y: float, columns: int, rows: int) -> tuple[int, int]:
        column = round((x - left) / (right - left or 1) * (columns - 1))
        return column, round((high - y) / (high - low or 1) * (rows - 1))

    cells: list[list[tuple[str, str]]] = [[(" ", "")] * width for _ in range(height)]
    for value in levels.values():
        cells[place(left, value, 1, height)[1]] = [(LEVEL, "dim")] * width
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        dots = _dots(line.points, place, width, height, left)
        for (row, column), bits in dots.items():
            before = cells[row][column][0]
            under = ord(before) - 0x2800 if 0x2800 < ord(before) <= 0x28FF else 0
            cells[row][column] = (chr(0x2800 + (bits | under)), colour)
        style = "bold green" if len(lines) == 1 else f"bold {colour}"
        for mark, (x, y) in ((mark, point) for mark, points in line.marks.items() for point in points):
            column, row = place(x, y, width, height)
            _mark(cells[row], column, (mark, style))
    for name, value in levels.items():
        _label(cells[place(left, value, 1, height)[1]], f" {name} {value:.3f} ")
    for number, line in enumerate(lines):
        if line.letter and line.points:
            column, row = place(*line.points[-1], width, height)
            while row + 1 < height and cells[row][column][0].isupper():  # another curve ends here
                row += 1
            cells[row][column] = (line.letter, f"bold {COLOURS[number % len(COLOURS)]}")
    text = Text()
    for r, row_of in enumerate(cells):
        label = f"{high:.3f}" if r == 0 else f"{low:.3f}" if r == height - 1 else ""
        text.append(f"{label:>9} ┤", "dim")
        for mark, style in row_of:
            text.append(mark, style)
        text.append("\n")
    ends = f"{left:,.0f}", f"{right:,.0f}"
    text.append(f"{'':>9} └" + "─" * width + "\n", "dim")
    text.append(f"{'':>11}{ends[0]}{ends[1]:>{max(1, width - len(ends[0]))}} steps\n", "dim")
    return text


def _mark(row: list[tuple[str, str]], column: int, mark: tuple[str, str]) -> None:
    """Set a mark into a row; where another mark of this curve stands, to its left."""
    while column and row[column][1] == mark[1] and row[column][0] != mark[0]:
        column -= 1
    row[column] = mark


def _label(row: list[tuple[str, str]], text: str) -> None:
    """Write a text into a row, as far right as it covers no curve, else at the right end."""
    starts = range(len(row) - len(text) - 2, -1, -1)
    free = (at for at in starts if all(mark == LEVEL for mark, _ in row[at : at + len(text)]))
    if starts:
        at = next(free, starts[0])
        row[at : at + len(text)] = [(letter, "dim") for letter in text]


def _dots(points: Sequence[Point], place: Place, width: int, height: int, left: float) -> dict[tuple[int, int], int]:
    """The dots of a curve by (row, column) of their cells; points of one column are averaged."""
    by_column: dict[int, list[float]] = {}
    for x, y in points:
        by_column.setdefault(place(x, y, 2 * width, 1)[0], []).append(y)
    means = sorted((column, sum(values) / len(values)) for column, values in by_column.items())
    found: dict[tuple[int, int], int] = {}
    for (c0, y0), (c1, y1) in zip(means, [*means[1:], *means[-1:]], strict=True):
        for column in range(c0, max(c1, c0 + 1)):
            row = place(left, y0 + (y1 - y0) * (column - c0) / max(c1 - c0, 1), 1, 4 * height)[1]
            cell = row // 4, column // 2
            found[cell] = found.get(cell, 0) | DOTS[row % 4][column % 2]
    return found
