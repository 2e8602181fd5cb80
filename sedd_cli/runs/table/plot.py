"""Learning curves of a table's rows: the bound on validation text against the tokens seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sedd_cli.errors import RequestError
from sedd_cli.recipe import load_recipe
from sedd_cli.runs.png import blank, save
from sedd_cli.runs.status import status
from sedd_cli.runs.table.cells import Place


def plot(title: str, places: Sequence[Place], path: Path) -> None:
    """Write a PNG; a line for each row, one for each of its seeds. RequestError where no run has been looked at yet."""
    figure = blank(9, 5)
    axis, colours, drawn = figure.subplots(), {}, False
    for place in places:
        if not (place.folder / "recipe.yaml").is_file():
            continue
        recipe, seen = load_recipe(place.folder / "recipe.yaml"), status(place.folder).validation
        if not seen:
            continue
        each, drawn = recipe.train.batch * recipe.model.length, True
        label = place.row.label if place.row.name not in colours else None
        (line,) = axis.plot(
            [r["step"] * each for r in seen],
            [r["bits_per_char"] for r in seen],
            marker="o",
            ms=3,
            lw=1.2,
            label=label,
            color=colours.get(place.row.name),
        )
        colours[place.row.name] = line.get_color()
    if not drawn:
        raise RequestError("no run of this table has been looked at on the way yet: there is nothing to plot")
    axis.set(xlabel="tokens seen", ylabel="bits per character of validation text, at most", title=title)
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axis.grid(alpha=0.3)
    save(figure, path)
