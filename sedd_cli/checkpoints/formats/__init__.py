"""Checkpoints of other projects. A format is one file here, entered in `FORMATS`."""

from sedd_cli.checkpoints.formats import (  # noqa: F401  (registers them)
    a2d,
    dream,
    gidd,
    lightning,
    llada,
    mdlm,
    radd,
    sedd,
    smdm,
)
from sedd_cli.checkpoints.formats.base import FORMATS, find_format

__all__ = ["FORMATS", "find_format"]
