"""The sizes of a `DiT`, and how networks of other projects differ from SEDD's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sedd_cli.errors import not_one_of
from sedd_cli.models.attention import NAMES

#: The most tokens of a sequence, and the largest other number of a shape: a file that declares more is refused
#: before memory is allocated.
MOST_LENGTH, MOST_SIZE = 1 << 20, 1 << 16
#: How positions enter a network.
POSITIONS = ("rotary", "learned")


@dataclass(frozen=True)
class DiTConfig:
    """Shape of the network. `length` is the trained length in tokens; rotary angles need no weights.

    The last three are ablations of the paper's network (appendix C.2). adaln: the condition modulates every block;
    otherwise blocks are plain, and the condition is added to the embeddings. positions: rotary, or a learned embedding
    of each position. time: the condition is the noise; otherwise it is always that of no noise.
    """

    n_blocks: int = 12
    hidden_size: int = 768
    n_heads: int = 12
    cond_dim: int = 128
    dropout: float = 0.1
    length: int = 1024
    attention: str = "auto"
    # not in the repr, from which the fingerprints of the paper's network are made
    adaln: bool = field(default=True, repr=False)
    positions: str = field(default="rotary", repr=False)
    time: bool = field(default=True, repr=False)

    @property
    def ablated(self) -> dict[str, Any]:
        """What differs from the paper's network, by its key."""
        usual = {"adaln": True, "positions": "rotary", "time": True}
        return {key: getattr(self, key) for key, value in usual.items() if getattr(self, key) != value}

    def __post_init__(self) -> None:
        for key in ("n_blocks", "hidden_size", "n_heads", "cond_dim", "length"):
            most = MOST_LENGTH if key == "length" else MOST_SIZE
            if (found := getattr(self, key)) < 1:
                raise ValueError(f"{key} must be at least 1, found {found}")
            if found > most:
                raise ValueError(f"{key} must be at most {most:,}, found {found:,}")
        if self.hidden_size % (2 * self.n_heads):
            raise ValueError(
                f"hidden_size must be a multiple of 2·n_heads (rotary turns pairs), "
                f"found hidden_size {self.hidden_size} and n_heads {self.n_heads}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), found {self.dropout}")
        if self.attention not in NAMES:
            raise ValueError(not_one_of("attention", NAMES, self.attention))
        if self.positions not in POSITIONS:
            raise ValueError(not_one_of("positions", POSITIONS, self.positions))


@dataclass(frozen=True)
class Variant:
    """How networks of others differ from SEDD's. No recipe chooses it.

    conditioned: the noise modulates every block (adaLN); otherwise the network does not depend on it. norm_bias: layer
    normalisations have a bias. block_size: positions attend to their own block of so many and to earlier blocks only.
    """

    conditioned: bool = True
    norm_bias: bool = False
    block_size: int | None = None


#: SEDD's own network.
SEDD = Variant()
