"""A curve drawn in characters."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

#: The eight dots of a braille character, by [row][column] of its 4 × 2 cell.
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def curve(
    points: Sequence[tuple[float, float]], marks: Sequence[tuple[float, float]], width: int = 60, height: int = 12
) -> Text:
    """Draw points (x, y) with increasing x as a curve and `marks` as circles; the axes show their range."""
    everything = [*points, *marks]
    left, right = min(x for x, _ in everything), max(x for x, _ in everything)
    low, high = min(y for _, y in everything), max(y for _, y in everything)

    def place(x: float, y: float, columns: int, rows: int) -> tuple[int, int]:
        column = round((x - left) / (right - left or 1) * (columns - 1))
        return column, round((high - y) / (high - low or 1) * (rows - 1))

    cells = [[0] * width for _ in range(height)]
    by_column: dict[int, list[float]] = {}
    for x, y in points:
        by_column.setdefault(place(x, y, 2 * width, 1)[0], []).append(y)
    means = sorted((column, sum(values) / len(values)) for column, values in by_column.items())
    for (c0, y0), (c1, y1) in zip(means, [*means[1:], means[-1]], strict=True):
        for column in range(c0, max(c1, c0 + 1)):
            row = place(left, y0 + (y1 - y0) * (column - c0) / max(c1 - c0, 1), 1, 4 * height)[1]
            cells[row // 4][column // 2] |= DOTS[row % 4][column % 2]
    circles = {place(x, y, width, height) for x, y in marks}
    text = Text()
    for r, row in enumerate(cells):
        label = f"{high:.3f}" if r == 0 else f"{low:.3f}" if r == height - 1 else ""
        text.append(f"{label:>9} ┤", "dim")
        for c, bits in enumerate(row):
            if (c, r) in circles:
                text.append("o", "bold green")
            else:
                text.append(chr(0x2800 + bits) if bits else " ", "cyan")
        text.append("\n")
    ends = f"{left:,.0f}", f"{right:,.0f}"
    text.append(f"{'':>9} └" + "─" * width + "\n", "dim")
    text.append(f"{'':>11}{ends[0]}{ends[1]:>{max(1, width - len(ends[0]))}} steps\n", "dim")
    return text
