"""The interface of a model's network, and `Adapted`: a network with other token ids and another condition."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sedd_cli.core.schedules import Schedule
from sedd_cli.core.vocabulary import Vocabulary
from sedd_cli.models.block import at_rows
from sedd_cli.models.head import Readout


class LanguageNetwork(nn.Module):
    """Tokens x [B, L] and noise sigma [B] → outputs z [B, L, S], in two parts: the trunk `hidden` and the `head`."""

    #: The shape, with at least `length` (the most tokens of a sequence), `n_blocks`, `hidden_size` and `n_heads`.
    config: Any
    #: S, the number of outputs a position.
    states: int
    #: The dtype of mixed precision, or None.
    autocast: torch.dtype | None
    #: Whether positions attend to earlier ones only.
    causal: bool
    #: Of a network that fills blocks of so many tokens one after another, each given clean earlier ones; else None.
    block_size: int | None = None
    #: Whether the first token is never predicted, so that a sequence has to begin with a given one.
    first_given: bool = False
    #: Whether the caller has compiled the blocks.
    compiled: bool = False
    #: Libraries beside torch that compute its outputs.
    libraries: tuple[str, ...] = ()

    @abstractmethod
    def hidden(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The head's input [B, L, D]."""

    def hidden_at(self, x: Tensor, sigma: Tensor, rows: Callable[[], Tensor]) -> Tensor:
        """The head's input [R, D] at some rows [R] of B·L, whose indices are computed as late as possible."""
        hidden = self.hidden(x, sigma)
        return at_rows(hidden, rows())

    @abstractmethod
    def head(self, hidden: Tensor) -> Tensor:
        """z [..., S] from hidden [..., D], in float32 or better."""

    @abstractmethod
    def kernel(self, length: int | None = None) -> str:
        """Name of the attention kernel used at a length (default: the trained length)."""

    @abstractmethod
    def cast_for_inference(self, dtype: torch.dtype | None) -> None:
        """Prepare for inference in mixed precision, or in float32 if dtype is None: matrices are cast once."""

    @property
    def meaning(self) -> str:
        """What determines an output beside weights and shape, spelled; "" if nothing does."""
        return ""

    @property
    def readout(self) -> Readout:
        """The linear head, for callers that compute its outputs in part; AttributeError where it is not plain."""
        raise AttributeError("this network's head is no plain matrix")

    def hidden_given(self, x: Tensor, sigma: Tensor, x0: Tensor) -> Tensor:
        """`hidden` where each block of noisy x [B, L] is given the earlier blocks of clean x0 [B, L]."""
        raise NotImplementedError("this network does not fill blocks one after another")

    def given_clean(self, x0: Tensor) -> LanguageNetwork:
        """This network, given clean x0 [B, L] by blocks where it takes blocks one after another; else itself."""
        return self if self.block_size is None else GivenClean(self, x0)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.head(self.hidden(x, sigma))


#: What a network is conditioned on: the total noise sigma, nothing (it gets the number 0), or the time t.
Condition = Literal["sigma", "none", "time"]


@dataclass(frozen=True)
class NoiseInput:
    """Turns total noise into the number that a network was trained with."""

    kind: Condition
    schedule: Schedule

    def __call__(self, sigma: Tensor) -> Tensor:
        if self.kind == "none":
            return torch.zeros_like(sigma)
        return self.schedule.t(sigma) if self.kind == "time" else sigma


class Adapted(LanguageNetwork):
    """A network of others in the order of our states, with the noise input of its training.

    `hidden` takes states and `head` gives outputs by state; the network inside has the checkpoint's own ids.
    """

    def __init__(self, net: LanguageNetwork, vocabulary: Vocabulary, condition: NoiseInput):
        super().__init__()
        self.net, self.vocabulary, self.condition = net, vocabulary, condition
        self.config, self.states, self.autocast, self.causal = net.config, vocabulary.states, net.autocast, net.causal
        self.block_size = net.block_size
        self.first_given, self.libraries = net.first_given, net.libraries

    @property
    def readout(self) -> Readout:
        """The linear head, where its rows are our states; AttributeError elsewhere."""
        if not self.vocabulary.in_order or self.net.states != self.states:
            raise AttributeError("the rows of the head are not the states")
        return self.net.readout

    def hidden(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.net.hidden(self.vocabulary.ids(x), self.condition(sigma))

    def hidden_at(self, x: Tensor, sigma: Tensor, rows: Callable[[], Tensor]) -> Tensor:
        return self.net.hidden_at(self.vocabulary.ids(x), self.condition(sigma), rows)

    def hidden_given(self, x: Tensor, sigma: Tensor, x0: Tensor) -> Tensor:
        return self.net.hidden_given(self.vocabulary.ids(x), self.condition(sigma), self.vocabulary.ids(x0))

    def head(self, hidden: Tensor) -> Tensor:
        return self.vocabulary.by_state(self.net.head(hidden))

    @property
    def meaning(self) -> str:
        """Everything beside weights and shape that determines an output."""
        return repr(self.condition) + self.net.meaning

    def kernel(self, length: int | None = None) -> str:
        return self.net.kernel(length)

    def cast_for_inference(self, dtype: torch.dtype | None) -> None:
        self.autocast = dtype
        self.net.cast_for_inference(dtype)


class GivenClean(LanguageNetwork):
    """A network whose blocks are given the earlier ones of clean sequences x0 [B, L], for likelihoods."""

    def __init__(self, net: LanguageNetwork, x0: Tensor):
        super().__init__()
        self.net, self.x0 = net, x0
        self.config, self.states, self.autocast, self.causal = net.config, net.states, net.autocast, net.causal
        self.block_size = net.block_size

    @property
    def readout(self) -> Readout:
        return self.net.readout

    def hidden(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.net.hidden_given(x, sigma, self.x0)

    def head(self, hidden: Tensor) -> Tensor:
        return self.net.head(hidden)

    def given_clean(self, x0: Tensor) -> LanguageNetwork:
        return GivenClean(self.net, x0)

    def kernel(self, length: int | None = None) -> str:
        return self.net.kernel(length)

    def cast_for_inference(self, dtype: torch.dtype | None) -> None:
        self.net.cast_for_inference(dtype)
