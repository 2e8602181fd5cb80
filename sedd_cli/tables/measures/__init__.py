"""How each kind of column is measured. To add one: a column and its unit in `recipe/column.py`, a file here, a line
below."""

from __future__ import annotations

from sedd_cli.tables.column import Column, Filling, Likelihood, Mauve, Quality
from sedd_cli.tables.measures.base import Desk, Measure, Value
from sedd_cli.tables.measures.filling import FillingMeasure
from sedd_cli.tables.measures.likelihood import LikelihoodMeasure
from sedd_cli.tables.measures.mauve import MauveMeasure
from sedd_cli.tables.measures.quality import QualityMeasure

__all__ = ["MEASURES", "Desk", "Measure", "Value"]

MEASURES: dict[type[Column], Measure] = {
    Likelihood: LikelihoodMeasure(),
    Mauve: MauveMeasure(),
    Quality: QualityMeasure(),
    Filling: FillingMeasure(),
}
