"""The paper's likelihoods (arXiv 2310.16834v3, tables 1 to 3) for comparison, read from the files of the tables."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from sedd_cli.recipe.load import recipes_folder

#: Models of each table by (kind, blocks of the network): the row that holds their values.
ZERO_SHOT_ROWS = {
    ("gpt2", 12): "gpt2_small",
    ("absorbing", 12): "sedd_absorb_small",
    ("uniform", 12): "sedd_uniform_small",
    ("gpt2", 24): "gpt2_medium",
    ("absorbing", 24): "sedd_absorb_medium",
    ("uniform", 24): "sedd_uniform_medium",
}
SMALL_ROWS = {("absorbing", 12): "sedd_absorb", ("uniform", 12): "sedd_uniform"}
#: Table number → tokenizer, length of a block in tokens, rows.
TABLES = {
    1: ("gpt2", 1024, ZERO_SHOT_ROWS),
    2: ("text8", 256, SMALL_ROWS),
    3: ("bert-base-uncased", 128, SMALL_ROWS),
}


@dataclass(frozen=True)
class PaperValue:
    """A value of the paper in `unit` (perplexity or bits_per_char), on which split, and in which table."""

    value: float
    unit: str
    split: str
    table: int


def paper_value(kind: str, layers: int, length: int, tokenizer: str, corpus: str) -> PaperValue | None:
    """The paper's value for a model of this kind (a graph, or gpt2), size and tokens; None where it has none."""
    for number, (own_tokenizer, own_length, rows) in TABLES.items():
        name, table = rows.get((kind, layers)), _table(number)
        if name is None or table is None or (tokenizer, length) != (own_tokenizer, own_length):
            continue
        values = next(row["paper"] for row in table["rows"] if row["name"] == name)
        for column in table["columns"]:
            if column["dataset"] == corpus:
                return PaperValue(values[column["name"]], table["unit"], column.get("split", "test"), number)
    return None


@cache
def _table(number: int) -> dict[str, Any] | None:
    folder = recipes_folder()
    return folder and yaml.safe_load((folder / "tables" / f"table{number}.yaml").read_text(encoding="utf-8"))
