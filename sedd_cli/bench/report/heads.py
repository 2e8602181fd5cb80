"""Head and loss alone: their exactness and their speed, for the objectives that have a fused loss."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from sedd_cli.bench.loss import FixedTrunk, PlainTrunk, readout_of
from sedd_cli.bench.plain import AllAtOnce
from sedd_cli.bench.report.measurement import Figure, Setting, lacks, line_of
from sedd_cli.core.fast.tiles import FAILURES
from sedd_cli.core.graphs import GRAPHS, Graph
from sedd_cli.core.losses import OBJECTIVES, Objective
from sedd_cli.core.schedules import Schedule
from sedd_cli.core.score import ScoreModel
from sedd_cli.errors import out_of_memory
from sedd_cli.models.precision import autocast_dtype, full_float32, native_bf16
from sedd_cli.system.events import Event, Progress
from sedd_cli.system.memory import begin_peak, peak, used_memory

Events = Generator["Figure | Event", None, None]
#: The graphs whose losses are measured; on `state_dependent` that is the loss of GenMD4 alone.
NAMES = ("absorbing", "uniform", "state_dependent")
#: Largest relative difference of values and of gradients (norms) from the plain form in float64.
TOLERANCE = {"float32": 1e-4, "bf16": 2e-2}


@dataclass(frozen=True)
class LossCase:
    """An objective on a graph, with the tensors of a head."""

    objective: Objective
    graph: Graph
    schedule: Schedule
    x0: Tensor
    v: Tensor
    u: Tensor
    leaves: tuple[Tensor, ...]

    @property
    def name(self) -> str:
        return f"{self.objective.name}, {self.graph.name}"

    def run(self, plain: bool, mixed: bool, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """The loss, and its gradients with respect to hidden states, weight, bias, and exponents where it has some."""
        leaves = [leaf.to(dtype).detach().requires_grad_() for leaf in self.leaves]
        hidden, weight, bias, *exponents = leaves
        graph = self.graph.learned(*exponents) if exponents else self.graph
        trunk = PlainTrunk(hidden, weight, bias) if plain else FixedTrunk(hidden, readout_of(weight, bias, mixed))
        kind = AllAtOnce if plain else ScoreModel
        model = kind(trunk, graph, self.schedule, parametrization=self.objective.parametrization)
        loss = self.objective.loss(model, self.x0, self.v, self.u).total
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def cases(setting: Setting, batch: int, length: int) -> Iterator[LossCase]:
    """Every fused loss: objectives on the graphs NAMES. Noise levels spread over the middle of the schedule."""
    for name in NAMES:
        graph = GRAPHS[name](vocab_size=setting.bench(setting.recipe, 1).vocab_size())
        for kind in OBJECTIVES.values():
            objective = kind()
            try:
                objective.check(graph)
            except ValueError:
                continue
            if objective.learns_exponents == graph.learnable:
                yield _case(setting, objective, graph, batch, length)


def _case(setting: Setting, objective: Objective, graph: Graph, batch: int, length: int) -> LossCase:
    dim, generator = setting.recipe.model.hidden_size, torch.Generator().manual_seed(1)
    shapes = [(objective.corruptions * batch, length, dim), (graph.states, dim), (graph.states,)]
    scales = [1.0, 0.02, 0.02]
    if objective.learns_exponents:
        shapes, scales = [*shapes, (graph.vocab_size,)], [*scales, 0.3]
    normal = (scale * torch.randn(shape, generator=generator) for shape, scale in zip(shapes, scales, strict=True))
    leaves = tuple(leaf.to(setting.device) for leaf in normal)
    x0 = torch.randint(graph.vocab_size, (batch, length), generator=generator)
    u = torch.rand(batch, objective.corruptions * length, dtype=torch.float64, generator=generator)
    v = 0.1 + 0.8 * (torch.arange(batch, dtype=torch.float64) + 0.5) / batch
    x0, v, u = (tensor.to(setting.device) for tensor in (x0, v, u))
    return LossCase(objective, graph, setting.recipe.noise.make(), x0, v, u, leaves)


def check_losses(setting: Setting) -> Events:
    """Value and gradients of each objective as it is trained, against its plain form in float64."""
    modes = {"float32": False} | ({"bf16": True} if native_bf16(setting.device) else {})
    for case in cases(setting, 2, setting.sizes.check):
        yield Progress("losses", 0, None, metrics={"now": case.name})
        wanted = case.run(plain=True, mixed=False, dtype=torch.float64)
        for mode, mixed in modes.items():
            what = f"loss: {case.name}, {mode}"
            try:
                FAILURES.clear()
                with full_float32(), torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
                    found = case.run(plain=False, mixed=mixed)
            except RuntimeError as error:  # a kernel that does not run here fails its check, not those of others
                yield Figure(what, math.inf, tolerance=TOLERANCE[mode], note=line_of(error))
                continue
            for why in FAILURES.values():
                yield Figure(what, math.inf, tolerance=TOLERANCE[mode], note=f"the loss runs uncompiled ({why})")
            if FAILURES:
                continue
            apart = [difference(mine, theirs) for mine, theirs in zip(found, wanted, strict=True)]
            note = f"value {apart[0]:.1g}, worst gradient {worst(apart[1:]):.1g}, against the plain form in float64"
            yield Figure(what, worst(apart), tolerance=TOLERANCE[mode], note=note)


def difference(found: Tensor, wanted: Tensor) -> float:
    """Relative difference of two tensors, by their norms."""
    wanted = wanted.double()
    return float((found.double() - wanted).norm() / wanted.norm().clamp(min=1e-300))


def worst(differences: list[float]) -> float:
    """The largest; one that is not a number counts as infinite."""
    return max(math.inf if math.isnan(value) else value for value in differences)


def losses(setting: Setting) -> Events:
    """Tokens/s of head and loss with gradients, against scores of all rows at once in float32."""
    mixed = autocast_dtype(setting.recipe.train.precision, setting.device) is not None
    length, batch = setting.recipe.model.length, setting.sizes.loss
    for case in cases(setting, batch, length):
        if setting.left() < 0:
            yield Figure(case.name, "skipped", note="no time left")
            continue
        yield Progress("losses", 0, None, metrics={"now": case.name})
        rate, extra = _rate(setting, case, False, mixed)
        note = f"{extra:,.0f} MiB"
        try:
            slow, slow_extra = _rate(setting, case, True, False)
            note += f"; plain in float32: {slow_extra:,.0f} MiB"
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            error.__traceback__, slow, note = None, None, f"{note}; plain in float32 does not fit into memory"
        yield Figure(case.name, rate, "tokens/s", slow, note=note)


def _rate(setting: Setting, case: LossCase, plain: bool, mixed: bool) -> tuple[float, float]:
    """Tokens/s, and MiB beyond what was allocated before."""
    # the plain form holds the scores, what is made of them, and their gradients; GenMD4's probabilities in float64
    each = 48.0 if case.objective.learns_exponents else 24.0
    if plain and (why := lacks(setting, each * case.objective.corruptions * case.x0.numel() * case.graph.states)):
        raise MemoryError(why)
    begin_peak(setting.device)
    before = used_memory(setting.device)
    with full_float32() if plain else nullcontext():
        seconds = setting.median(lambda: case.run(plain, mixed))
    return case.x0.numel() / seconds, (peak(setting.device) - before) / 2**20
