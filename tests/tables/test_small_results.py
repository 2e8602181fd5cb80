"""recipes/mini/README.md shows the committed results of the small tables."""

from __future__ import annotations

import json

import pytest

from sedd_cli.recipe.load import recipes_folder

MINI = recipes_folder() / "mini"
README = (MINI / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(MINI.glob("results/*.json")), ids=lambda path: path.stem)
def test_the_readme_shows_the_values_of_the_committed_results(path):
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["unit"] == "text":
        return
    digits = 1 if found["unit"] == "generative_perplexity" else 3
    cells = [(row["label"], cell) for row in found["rows"] for cell in row["ours"].values()]
    assert cells
    for label, cell in cells:
        shown = f"{'≤ ' if cell['bound'] else ''}{cell['mean']:.{digits}f} ± {cell['error']:.{digits}f}"
        lines = [line for line in README.splitlines() if line.startswith(f"| {label.partition(',')[0]}")]
        assert any(shown in line for line in lines), f"{label}: {shown}"
    if found["seeds"] > 1:
        for pair in found["order"]:
            gap = f"{pair['gap']:.3f} ± {pair['error']:.3f}".replace("-", "−")
            lines = [line for line in README.splitlines() if pair["higher_label"] in line and gap in line]
            assert any(pair["verdict"] in line for line in lines), f"{pair['higher_label']}: {gap}"
