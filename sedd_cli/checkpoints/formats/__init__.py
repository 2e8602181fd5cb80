"""Checkpoints of other projects. A format is one file here, entered in `FORMATS`."""

from sedd_cli.checkpoints.formats import a2d, dream, llada, mdlm, smdm  # noqa: F401  (registers them)
from sedd_cli.checkpoints.formats.base import FORMATS, find_format

__all__ = ["FORMATS", "find_format"]
