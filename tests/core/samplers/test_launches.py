"""What a step costs beside the network: few operators, since on a GPU each is a launch that Python has to make."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.graphs import GRAPHS
from sedd_cli.core.samplers import SAMPLERS
from sedd_cli.core.schedules import SCHEDULES
from sedd_cli.core.score import ScoreModel
from sedd_cli.models.dit import DiT
from sedd_cli.models.shape import DiTConfig

#: Operators without a kernel of their own.
VIEWS = {"view", "expand", "select", "slice", "unsqueeze", "transpose", "alias", "detach", "_unsafe_view", "split", "t"}
#: Operators that wait for the device.
WAITS = {"nonzero", "_local_scalar_dense"}


class Operators(TorchDispatchMode):
    """Counts operators while no trunk runs."""

    def __init__(self, net: DiT):
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.counting = True
        trunk = net._hidden

        def quiet(*arguments):
            self.counting = False
            try:
                return trunk(*arguments)
            finally:
                self.counting = True

        net._hidden = quiet

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[1]
        if self.counting and name not in VIEWS:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("sampler", ["tweedie", "euler", "remdm"])
def test_a_step_of_one_text_is_a_few_dozen_operators(sampler):
    graph, length, steps = GRAPHS["absorbing"](vocab_size=60), 64, 32
    net = DiT(DiTConfig(n_blocks=1, hidden_size=16, n_heads=2, cond_dim=8, length=length), graph.states).eval()
    model, operators = ScoreModel(net, graph, SCHEDULES["loglinear"]()), Operators(net)
    run = SAMPLERS[sampler](steps=steps).run(model, Conditioning.nothing(1, length), 0, torch.arange(1))
    with torch.no_grad():
        next(run)  # what the numbers of all steps take is not a step's
        with operators:
            for _ in range(steps // 2):
                next(run)
    assert sum(operators.counts.values()) <= 95 * (steps // 2)
    assert sum(operators.counts[name] for name in WAITS) <= 5 * (steps // 2)
