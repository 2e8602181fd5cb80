"""Use bf16 where a measurement shows that it does not matter."""

from __future__ import annotations

import math
from collections.abc import Generator

import torch
from torch import Tensor

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.core.random import BOUND, Stream
from sedd_cli.errors import spelled_error
from sedd_cli.evaluation.likelihood.estimator import group_tokens, levels
from sedd_cli.evaluation.likelihood.protocols import Blocks
from sedd_cli.evaluation.likelihood.results import Bf16Trial
from sedd_cli.inference.bound import MonteCarloOptions, draw_bounds, find_protocol
from sedd_cli.system.distributed import Dist
from sedd_cli.system.events import Event, Note

#: bf16 is used where it moves a bound by less than this share of the requested error.
ALLOWED_SHARE = 0.25
#: Blocks on which this is measured.
TRIED_BLOCKS = 64


def try_bf16(
    model: LoadedModel, protocol: str, blocks: Blocks, monte_carlo: MonteCarloOptions, dist: Dist
) -> Generator[Event, None, tuple[LoadedModel, Bf16Trial | None]]:
    """The model in bf16 if this moves the bound by far less than the requested error, measured with the same draws.

    The bound is the rigorous one, or the discrete-time bound if that is the protocol.
    """
    from scipy.special import stdtrit

    low = model.lowered()
    if low is None:
        return model, None
    protocol = protocol if find_protocol(protocol).discrete else "rigorous"
    group = blocks.groups(TRIED_BLOCKS * blocks.read(torch.tensor([0])).shape[1])[0]
    if len(group) < 2:  # a single block gives no error
        return model, None
    x0, estimator = blocks.read(group).to(model.device), monte_carlo.estimator_for(model.graph, protocol)
    level = levels(len(group), 1, estimator, monte_carlo.seed, 0)[0]
    surprisal = blocks.surprisal(model.graph.vocab_size).to(model.device) if estimator == "count" else None

    def nats(m: LoadedModel, part: Tensor) -> Tensor:
        cost, stream = None if surprisal is None else surprisal[x0[part]], Stream(monte_carlo.seed, BOUND, group[part])
        return draw_bounds(m.score, (protocol,), estimator, x0[part], level[part], stream, 0, cost)[:, 0].cpu()

    parts = torch.arange(len(group)).split(max(1, group_tokens(model.device) // x0.shape[1]))
    bounds = [torch.cat([nats(m, part) for part in parts]) for m in (model, low)]
    moved = (bounds[1] - bounds[0]) / x0.shape[1]
    shift, error = float(moved.mean()), float(moved.std() / math.sqrt(len(moved)))
    allowed = ALLOWED_SHARE * monte_carlo.rel_error * float(bounds[0].mean()) / x0.shape[1]
    reach = float(stdtrit(len(moved) - 1, 0.975)) * error
    harmless = dist.from_main(lambda: abs(shift) + reach < allowed)  # processes may round differently
    yield Note(
        f"bf16 moves the bound by {shift:+.5f} ± {spelled_error(error, 5)} nats per token, "
        f"at most {allowed:.5f} is allowed: computing in {'bf16' if harmless else 'float32'}"
    )
    return (low if harmless else model), Bf16Trial(shift, error, allowed, len(group))
