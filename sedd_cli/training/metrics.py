"""The figures of the steps since the last line of metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from torch import Tensor

from sedd_cli.system.events import Event, TrainStep, Warn
from sedd_cli.system.memory import begin_peak, peak
from sedd_cli.training.flops import flops_a_token, known_peak
from sedd_cli.training.optim import learning_rate
from sedd_cli.training.state import TrainState
from sedd_cli.training.step import LossByTime


class StepMetrics:
    """Adds up steps; `close` turns them into a Step event over all processes and begins anew."""

    def __init__(self, state: TrainState):
        self.state = state
        model, dist = state.model, state.dist
        best = known_peak(dist.device) if model.net.autocast else None
        flops = flops_a_token(model.net.config, model.graph, model.schedule, model.objective.causal)
        #: Share of the devices' peak that one token per second is.
        self._mfu_a_token = None if best is None else flops / (best * dist.world)
        begin_peak(dist.device)
        self._begin()

    def _begin(self) -> None:
        self._tally = LossByTime.zero(self.state.dist.device)
        self._norm = math.nan
        self._since, self._began = self.state.step, time.perf_counter()

    def add(self, tally: LossByTime, norm: float) -> None:
        """A step that was taken."""
        self._tally.merge(tally)
        self._norm = norm

    def exclude(self, began: float) -> None:
        """Do not count the time since `began` (perf_counter): it was not spent on training."""
        self._began += time.perf_counter() - began

    def close(self) -> TrainStep:
        """The window's figures; losses in nats per token."""
        state, length = self.state, self.state.recipe.model.length
        taken, seconds = state.step - self._since, time.perf_counter() - self._began
        nats, sequences = (state.dist.total(x).cpu() for x in (self._tally.nats, self._tally.sequences))
        rate = taken * state.recipe.train.batch * length / seconds
        # a causal network knows no noise: what fell into a bin of t says nothing of t
        bins = [] if state.model.objective.causal else zip(nats, sequences, strict=True)
        event = TrainStep(
            step=state.step,
            steps=state.recipe.train.steps,
            loss=_per_token(nats.sum(), sequences.sum(), length),
            loss_by_t=[_per_token(*bin, length) for bin in bins],
            grad_norm=None if math.isnan(self._norm) else self._norm,
            lr=learning_rate(state.recipe, state.step),
            tokens_per_second=rate,
            seconds=seconds,
            seconds_left=(state.recipe.train.steps - state.step) * seconds / taken,
            memory=peak(state.dist.device),
            mfu=None if self._mfu_a_token is None else rate * self._mfu_a_token,
            skipped=state.skipped,
        )
        self._begin()
        return event


def _per_token(nats: Tensor, sequences: Tensor, length: int) -> float | None:
    return float(nats / sequences) / length if sequences else None


class Divergence:
    """Says once, plainly, when the loss has left what any sane training gives."""

    def __init__(self, state: TrainState):
        # an untrained network scores 1 everywhere; where scores are scaled that is the uniform model, log N nats
        self.untrained = math.log(state.model.graph.vocab_size)
        self.length, self.begun = state.recipe.model.length, state.step > 0
        self.windows = 0

    def begin(self, tally: LossByTime) -> None:
        """The first step of all shows what an untrained network has."""
        if not self.begun and math.isfinite(tally.nats.sum()):
            self.untrained = max(self.untrained, float(tally.nats.sum() / tally.sequences.sum()) / self.length)
        self.begun = True

    def see(self, event: TrainStep) -> Iterator[Event]:
        """A warning at the second window in a row whose loss is beyond twice that."""
        beyond = event.loss is not None and event.loss > 2 * self.untrained
        self.windows = self.windows + 1 if beyond else 0
        if self.windows == 2:
            yield Warn(
                f"the loss is {event.loss:.1f} nats a token at step {event.step}, an untrained network has "
                f"{self.untrained:.1f}: training has diverged, lower train.lr or raise train.warmup"
            )
