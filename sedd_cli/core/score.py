"""`ScoreModel`: the score s(x, sigma) of a network with its graph and noise schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sedd_cli.core.fast import Kernels, kernels_of
from sedd_cli.core.graphs import Graph
from sedd_cli.core.schedules import T_MIN, Schedule

#: What the network's outputs are: "score": log-scores; "mean": logits of the clean token, which on the absorbing graph
#: is as if the scores' normaliser e^m were set to 1; "plug_in": logits of what takes the place of the clean token in
#: p(y|x0)/p(x|x0), its distribution given all other positions (UDLM, Duo, GIDD).
Parametrization = Literal["score", "mean", "plug_in"]

#: Elements of one block of rows × states that a pass over the vocabulary may hold at once: what suits a CPU.
ROW_BLOCK = 2**23
#: On a GPU, one element for so many bytes of its memory: small blocks would leave it idle.
BYTES_AN_ELEMENT = 2048


def row_block(device: torch.device) -> int:
    """Elements of one block of rows × states on a device."""
    if device.type != "cuda":
        return ROW_BLOCK
    return max(ROW_BLOCK, torch.cuda.get_device_properties(device).total_memory // BYTES_AN_ELEMENT)


class Network(Protocol):
    """The interface of a network: a trunk and a head."""

    def hidden(self, x: Tensor, sigma: Tensor) -> Tensor:
        """x [B, L], sigma [B] → [B, L, D]."""
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """[..., D] → z [..., S], float32 or better."""
        ...


#: z [R, S], the rows' sequences [R], x [R], x0 [R] → [R].
RowLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Loss(NamedTuple):
    """What an objective returns.

    total: the sum that is minimised, a differentiable scalar. sequences: the loss of each sequence [B], detached, which
    is logged and does not train. The two differ where gradients have weights of their own.
    """

    total: Tensor
    sequences: Tensor


@dataclass(frozen=True)
class ScoreModel:
    """Scores of noisy sequences, at every position or only where they are needed."""

    net: Network
    graph: Graph
    schedule: Schedule
    #: The network gets sigma clamped to this range; None: the true sigma.
    sigma_range: tuple[float, float] | None = None
    parametrization: Parametrization = "score"
    #: T of a model in discrete time, None of any other.
    steps: int | None = None

    @cached_property
    def kernels(self) -> Kernels[Any] | None:
        """The graph's closed forms (`core.fast`), where it has them."""
        return kernels_of(self.graph)

    def given_clean(self, x0: Tensor) -> ScoreModel:
        """The model for the likelihood of x0 [B, L]: a network that fills blocks one after another is given x0."""
        given = getattr(self.net, "given_clean", None)
        return self if given is None else replace(self, net=given(x0))

    def block(self, device: torch.device) -> int:
        """Rows of scores held at once on a device."""
        size = max(1, row_block(device) // self.graph.states)
        return size - size % 64 if size > 64 else size  # whole tiles of a matrix product

    def hidden(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The trunk's output [B, L, D]."""
        return self.net.hidden(x, self._clamped(sigma))

    def _clamped(self, sigma: Tensor) -> Tensor:
        """The total noise as the network gets it."""
        return sigma if self.sigma_range is None else sigma.clamp(*self.sigma_range)

    def sigma_of_share(self, share: Tensor) -> Tensor:
        """The total noise [B] float64 that moves a share [B] of the tokens, at a time in [T_MIN, 1]."""
        least, greatest = self.schedule.sigma(T_MIN), self.schedule.sigma(1.0)
        sigma = -torch.log1p(-share.double().clamp(max=1 - 1e-12))
        return sigma.clamp(least, greatest)

    def log_score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """log s(x, sigma) [B, L, S] for x [B, L], sigma [B], at all positions at once."""
        return self.log_score_of(self.net.head(self.hidden(x, sigma)), sigma, x)

    def rows(self, x: Tensor, sigma: Tensor, where: Tensor | None = None) -> Iterator[Rows]:
        """Network outputs at the positions whose score matters, as blocks of rows [R, S] small enough to hold.

        where [B, L]: the positions, if not the active ones. Blocks come in the order of the positions. A batch without
        one yields one empty block, so that every parameter has a gradient, of zero.
        """
        batch, position, hidden = self.hidden_rows(x, sigma, where)
        block = self.block(x.device)
        for b, i, h in zip(*(t.split(block) for t in (batch, position, hidden)), strict=True):
            yield Rows(b, i, x[b, i], sigma[b], self.net.head(h))

    def hidden_rows(self, x: Tensor, sigma: Tensor, where: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The trunk's output at some positions, the active ones or `where` [B, L].

        Returns:
            The positions' sequences [R], their places in them [R], and the output [R, D].
        """
        count = Count(self.graph.active(x) if where is None else where)
        hidden, flat = self._hidden_at(x, sigma, lambda: count.indices), count.indices
        return flat // x.shape[1], flat % x.shape[1], hidden

    def hidden_of_one(self, x: Tensor, sigma: Tensor, place: Tensor) -> Tensor:
        """The trunk's output [B, D] at one position of each sequence, place [B]."""
        return self._hidden_at(x, sigma, lambda: torch.arange(len(x), device=x.device) * x.shape[1] + place)

    def _hidden_at(self, x: Tensor, sigma: Tensor, rows: Callable[[], Tensor]) -> Tensor:
        """The trunk's output [R, D] at rows [R] of B·L; some networks save work elsewhere."""
        if (at := getattr(self.net, "hidden_at", None)) is not None:
            return at(x, self._clamped(sigma), rows)
        hidden = self.hidden(x, sigma)
        return hidden.flatten(0, 1).index_select(0, rows())

    def scored_rows(self, x: Tensor, sigma: Tensor, where: Tensor | None = None) -> Iterator[tuple[Rows, Tensor]]:
        """`rows`, each with its log_score [R, S]."""
        for rows in self.rows(x, sigma, where):
            yield rows, self.log_score_of(rows.z, rows.sigma, rows.x)

    def log_score_of(self, z: Tensor, sigma: Tensor, x: Tensor) -> Tensor:
        """log_score [R, S] of network outputs z [R, S] at positions x [R] under sigma [R]."""
        graph = self.graph
        meaning = {"score": graph.log_score, "mean": graph.mean_score, "plug_in": graph.plug_in_score}
        return meaning[self.parametrization](z, sigma, x)

    def row_losses(
        self,
        x: Tensor,
        sigma: Tensor,
        x0: Tensor,
        loss_of: RowLoss,
        where: Tensor | None = None,
        factor: Tensor | None = None,
    ) -> Tensor:
        """The sum of `loss_of` over the positions of each sequence, [B]: over the active ones, or over `where` [B, L].

        factor [B, L] multiplies the gradient of each position, and not its value.

        Head outputs are made block by block, and, where a gradient is asked for, once more in the backward pass, so
        that they need not be held.
        """
        batch, position, hidden = self.hidden_rows(x, sigma, where)

        def block(h: Tensor, b: Tensor, i: Tensor) -> Tensor:
            loss = loss_of(self.net.head(h), b, x[b, i], x0[b, i])
            if factor is None:
                return loss
            return loss.detach() + factor[b, i].to(loss.dtype) * (loss - loss.detach())

        total = torch.zeros(len(x), dtype=torch.float32, device=x.device)
        most = self.block(x.device)
        for h, b, i in zip(*(t.split(most) for t in (hidden, batch, position)), strict=True):
            if torch.is_grad_enabled() and len(batch) > most:
                loss = checkpoint(block, h, b, i, use_reentrant=False)
            else:
                loss = block(h, b, i)
            total = total.to(loss.dtype).index_add(0, b, loss)
        return total


class Count:
    """The number of True entries of a mask, copied from a GPU while it computes other things."""

    def __init__(self, mask: Tensor):
        self._mask = mask.flatten()
        self._event = None
        if mask.is_cuda:
            self._count = torch.empty((), dtype=torch.int64, pin_memory=True)
            self._count.copy_(self._mask.sum(), non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(mask.device))  # the current GPU may be another

    @cached_property
    def indices(self) -> Tensor:
        """The places of the True entries in the flattened mask, in order, [R] int64."""
        if self._event is None:
            return self._mask.nonzero()[:, 0]
        self._event.synchronize()
        return torch.nonzero_static(self._mask, size=int(self._count))[:, 0]


@dataclass(frozen=True)
class Rows:
    """Some positions of a batch: batch [R] and position [R] index them, x [R] stands there under noise sigma [R].

    z [R, S] is the network's output.
    """

    batch: Tensor
    position: Tensor
    x: Tensor
    sigma: Tensor
    z: Tensor


def trained_range(model: ScoreModel, t_min: float = T_MIN) -> tuple[float, float]:
    """The total noise at t_min and at 1. A network of continuous time was trained between them."""
    return model.schedule.sigma(t_min), model.schedule.sigma(1.0)
