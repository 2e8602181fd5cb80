"""How many programs torch compiles for one function."""

from __future__ import annotations

import inspect
from typing import Any

import torch

#: Programs that are compiled for one function: for its shapes and dtypes.
PROGRAMS = 64


def many_programs() -> dict[str, Any]:
    """Options of `torch.compile` for more programs of one function than 8, after which torch runs it uncompiled."""
    if "recompile_limit" in inspect.signature(torch.compile).parameters:
        return {"recompile_limit": PROGRAMS}
    torch._dynamo.config.recompile_limit = PROGRAMS  # of torch before 2.13, for the whole process
    return {}
