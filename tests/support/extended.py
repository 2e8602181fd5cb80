"""A pytest plugin (`-p support.extended`): examples of the guide `extending`, as if they were parts of the package."""

from __future__ import annotations

import re
from pathlib import Path

import reference
import torch

import sedd_cli
from sedd_cli.core.graphs import GRAPHS
from sedd_cli.core.samplers import SAMPLERS
from support.toys import Cyclic

TEXT = (Path(sedd_cli.__file__).parent / "guides" / "extending.md").read_text(encoding="utf-8")


def frozen_rates_step(Q: torch.Tensor, x: torch.Tensor, s: torch.Tensor, step: reference.Interval) -> torch.Tensor:
    """1 − e^{−Σ} to move, Σ the sum over y ≠ x of dt sigma' Q(x, y) s_y; where to in proportion to its terms."""
    rates = ((step.t - step.s) * step.dsigma * Q[x] * s).scatter(-1, x[..., None], 0.0)
    total = rates.sum(-1, keepdim=True)
    moves = 1 - torch.exp(-total)
    return (moves * rates / total.clamp(min=1e-300)).scatter(-1, x[..., None], 1 - moves)


for number, code in enumerate(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)):
    exec(compile(code, f"extending.md, example {number}", "exec", dont_inherit=True), {"__name__": f"example_{number}"})
GRAPHS.register(Cyclic)
reference.STEPS["frozen_rates"] = frozen_rates_step
assert {"ring", "cyclic"} <= set(GRAPHS)
assert "frozen_rates" in SAMPLERS
