"""Metrics of the steps since the last line of metrics.jsonl."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from torch import Tensor

from sedd_cli.recipe.learning_rate import learning_rate
from sedd_cli.system.events import Event, TrainStep, Warn
from sedd_cli.system.memory import begin_peak, peak
from sedd_cli.training.flops import flops_a_token, known_peak
from sedd_cli.training.state import TrainState
from sedd_cli.training.step import LossByTime


class StepMetrics:
    """Adds up steps; `close` reduces them over processes to one TrainStep event and starts again."""

    def __init__(self, state: TrainState):
        self.state = state
        model, dist = state.model, state.dist
        best = known_peak(dist.device) if model.net.autocast else None
        flops = flops_a_token(model.net.config, model.objective, model.graph, model.schedule)
        #: Model FLOP utilisation of one token per second.
        self._mfu_a_token = None if best is None else flops / (best * dist.world)
        begin_peak(dist.device)
        self._reset()

    def _reset(self) -> None:
        self._losses = LossByTime.zero(self.state.dist.device)
        self._norm = math.nan
        self._since, self._began = self.state.step, time.perf_counter()

    def add(self, losses: LossByTime, norm: float) -> None:
        """Add a step that was taken. norm: its gradient norm before clipping."""
        self._losses.merge(losses)
        self._norm = norm

    def exclude(self, began: float) -> None:
        """Leave out the time since `began` (perf_counter), which was not spent on training."""
        self._began += time.perf_counter() - began

    def close(self) -> TrainStep:
        """The metrics of the steps since the last call; losses in nats per token."""
        state, length = self.state, self.state.recipe.model.length
        taken, seconds = state.step - self._since, time.perf_counter() - self._began
        nats, sequences = (state.dist.total(x).cpu() for x in (self._losses.nats, self._losses.sequences))
        rate = taken * state.recipe.train.batch * length / seconds
        # a causal network has no noise level, so its loss does not depend on t
        bins = [] if state.model.objective.causal else zip(nats, sequences, strict=True)
        event = TrainStep(
            step=state.step,
            steps=state.recipe.train.steps,
            loss=_per_token(nats.sum(), sequences.sum(), length),
            loss_by_t=[_per_token(one, count, length) for one, count in bins],
            grad_norm=None if math.isnan(self._norm) else self._norm,
            lr=learning_rate(state.recipe, state.step),
            tokens_per_second=rate,
            seconds=seconds,
            seconds_left=(state.recipe.train.steps - state.step) * seconds / taken,
            memory=peak(state.dist.device),
            mfu=None if self._mfu_a_token is None else rate * self._mfu_a_token,
            skipped=state.skipped,
        )
        self._reset()
        return event


def _per_token(nats: Tensor, sequences: Tensor, length: int) -> float | None:
    return float(nats / sequences) / length if sequences else None


class Divergence:
    """Warns once when the loss is far above that of an untrained network.

    A resumed training with a loss that is no bound is not watched: its first loss, which has a unit of its own, is not
    known.
    """

    def __init__(self, state: TrainState):
        # an untrained network has score 1 everywhere; with scaled scores that is the uniform model, log N nats
        self.untrained = math.log(state.model.graph.vocab_size)
        self.length, self.started = state.recipe.model.length, state.step > 0
        self.in_a_row = 0
        self.watched = state.model.objective.logs_bound or not self.started

    def begin(self, losses: LossByTime) -> None:
        """Take the loss of an untrained network from the first step of a run."""
        if not self.started and math.isfinite(losses.nats.sum()):
            self.untrained = max(self.untrained, float(losses.nats.sum() / losses.sequences.sum()) / self.length)
        self.started = True

    def see(self, event: TrainStep) -> Iterator[Event]:
        """Warn at the second event in a row whose loss is more than twice that of an untrained network."""
        beyond = event.loss is not None and event.loss > 2 * self.untrained
        self.in_a_row = self.in_a_row + 1 if beyond else 0
        if self.in_a_row == 2 and self.watched:
            self.watched = False
            yield Warn(
                f"the loss is {event.loss:.1f} nats per token at step {event.step}, an untrained network has "
                f"{self.untrained:.1f}: training has diverged, lower train.lr or raise train.warmup"
            )
