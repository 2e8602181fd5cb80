"""How each kind of column is measured.

To add a kind: a column and its unit in `tables/column.py`, a file here, and a line below.
"""

from __future__ import annotations

from sedd_cli.tables.column import Column, Filling, Likelihood, Mauve, Quality
from sedd_cli.tables.measures.base import Measure, ModelCache, Value
from sedd_cli.tables.measures.filling import FillingMeasure
from sedd_cli.tables.measures.likelihood import LikelihoodMeasure
from sedd_cli.tables.measures.mauve import MauveMeasure
from sedd_cli.tables.measures.quality import QualityMeasure

__all__ = ["MEASURES", "Measure", "ModelCache", "Value"]

MEASURES: dict[type[Column], Measure] = {
    Likelihood: LikelihoodMeasure(),
    Mauve: MauveMeasure(),
    Quality: QualityMeasure(),
    Filling: FillingMeasure(),
}
