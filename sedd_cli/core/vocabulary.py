"""`Vocabulary`: the token ids of a checkpoint and the states of our graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Vocabulary:
    """V rows of a checkpoint's embedding, one of which may be MASK, at any place.

    Our graphs put MASK last. So the state of an id is the id itself before MASK, the id less one behind it, and N for
    MASK; without MASK ids and states are the same.
    """

    #: V, the number of ids that the network takes.
    rows: int
    mask: int | None = None
    #: Whether p(x0|x) of the checkpoint's own code is normalised over all rows, MASK among them.
    counts_mask: bool = False
    #: Whether in the checkpoint's own code a token that is not MASK stays with probability 1.
    carries_over: bool = False

    def __post_init__(self) -> None:
        if self.mask is not None and not 0 <= self.mask < self.rows:
            raise ValueError(f"MASK must be one of the {self.rows:,} rows, found {self.mask}")

    @property
    def tokens(self) -> int:
        """N, the number of ids that are not MASK."""
        return self.rows - (self.mask is not None)

    @property
    def states(self) -> int:
        """S, the number of states: as many as rows."""
        return self.rows

    @property
    def in_order(self) -> bool:
        """Whether ids and states are the same."""
        return self.mask is None or self.mask == self.rows - 1

    def ids(self, states: Tensor) -> Tensor:
        """Checkpoint ids of states, int64 of the same shape."""
        if self.mask is None or self.in_order:
            return states
        return torch.where(states == self.tokens, self.mask, states + (states >= self.mask).long())

    def states_of(self, ids: Tensor) -> Tensor:
        """States of checkpoint ids, int64 of the same shape."""
        if self.mask is None or self.in_order:
            return ids
        return torch.where(ids == self.mask, self.tokens, ids - (ids > self.mask).long())

    def state_of(self, id: Any) -> int | None:
        """The state of an id; None for MASK and for anything that is no id."""
        if type(id) is not int or not 0 <= id < self.rows or id == self.mask:
            return None
        return int(self.states_of(torch.tensor(id)))

    def by_state(self, z: Tensor) -> Tensor:
        """Outputs z [..., V] in the order of ids, in that of states [..., S].

        A network without an output for MASK, whose id is then the last one, gets the least number there.
        """
        z = F.pad(z, (0, self.rows - z.shape[-1]), value=torch.finfo(z.dtype).min)
        if self.mask is None or self.in_order:
            return z
        return torch.cat([z[..., : self.mask], z[..., self.mask + 1 :], z[..., self.mask, None]], -1)

    def by_id(self, values: Tensor) -> Tensor:
        """The inverse of `by_state`: values [..., S] in the order of ids [..., V]."""
        if self.mask is None or self.in_order:
            return values
        return torch.cat([values[..., : self.mask], values[..., -1:], values[..., self.mask : -1]], -1)

    def log_p_x0(self, z: Tensor, x: Tensor) -> Tensor:
        """log p(x0|x) [..., V] by id, for outputs z [..., S] by state at states x [...]."""
        if self.mask is not None and not self.counts_mask:
            z = torch.cat([z[..., : self.tokens], torch.full_like(z[..., self.tokens :], -torch.inf)], -1)
        log_p = z.log_softmax(-1)
        if self.carries_over and self.mask is not None:
            stays = torch.full_like(log_p, -torch.inf).scatter(-1, x[..., None], 0.0)
            log_p = torch.where((x == self.tokens)[..., None], log_p, stays)
        return self.by_id(log_p)
