"""Statistics of a prepared text, and embeddings from files, for graphs and schedules that are measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sedd_cli.data.shards import Dataset, token_counts
from sedd_cli.errors import RequestError, first_line
from sedd_cli.system.files import NPY

#: How many tokens of the training split are counted.
COUNTED = 4_000_000
#: Tokens that are counted at once.
PART = 1 << 20
#: Most bytes of an embedding file.
MOST_BYTES = 4 << 30


@dataclass(frozen=True)
class CorpusStatistics:
    """Of the first COUNTED tokens of the training split."""

    dataset: Dataset

    @property
    def vocab_size(self) -> int:
        return self.dataset.tokenizer.vocab_size

    def counts(self) -> Tensor:
        """How often each token occurs, int64 [N]."""
        split = self.dataset.split("train")
        return torch.from_numpy(token_counts(split, self.vocab_size, min(split.tokens, COUNTED)))

    def pairs(self) -> Tensor:
        """How often token a stands right before token b, float64 [N, N]."""
        split, N = self.dataset.split("train"), self.vocab_size
        found = torch.zeros(N * N, dtype=torch.int64)
        stop = min(split.tokens, COUNTED)
        for start in range(0, stop - 1, PART):
            tokens = torch.from_numpy(split.read(start, min(start + PART + 1, stop)))
            found += (tokens[:-1] * N + tokens[1:]).bincount(minlength=N * N)
        return found.view(N, N).double()

    def embedding(self, file: str) -> Tensor:
        """The vectors of tokens in a file, float64 [rows, D]."""
        return read_embedding(Path(file))


def read_embedding(path: Path) -> Tensor:
    """The matrix [rows, D] of a .npy file, or the only one of a .safetensors file, float64.

    Raises:
        RequestError: There is no such file, or it holds something else, or a number that is not finite.
    """
    try:
        if not path.is_file():
            raise RequestError(f"the embedding {path}: no such file")
        if path.stat().st_size > MOST_BYTES:
            raise RequestError(f"the embedding {path} is larger than {MOST_BYTES >> 30} GiB")
        found = _of_npy(path) if path.suffix == ".npy" else _of_safetensors(path)
    except RequestError:
        raise
    except (OSError, ValueError, ArithmeticError, EOFError, SafetensorError) as error:
        raise RequestError(f"the embedding {path} cannot be read: {first_line(error)}") from None
    if found.dim() != 2 or not found.numel() or not found.dtype.is_floating_point:
        raise RequestError(
            f"the embedding {path} must be a matrix of floating-point numbers with a row for each token, found "
            f"{str(found.dtype).removeprefix('torch.')} {list(found.shape)}"
        )
    if not bool(found.isfinite().all()):
        raise RequestError(f"the embedding {path} holds numbers that are not finite")
    return found.double()


def _of_npy(path: Path) -> Tensor:
    with path.open("rb") as file:
        if file.read(len(NPY)) != NPY:
            raise RequestError(f"the embedding {path} is no .npy file")
    with np.errstate(over="raise"):  # of the declared shape
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # no memory for more than the file holds
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"its numbers are {array.dtype}, not floating-point")
    return torch.from_numpy(array.astype(np.float64))


def _of_safetensors(path: Path) -> Tensor:
    with safe_open(path, "pt") as file:
        matrices = [name for name in file.keys() if len(file.get_slice(name).get_shape()) == 2]  # noqa: SIM118
        if len(matrices) != 1:
            raise ValueError(f"it holds {len(matrices)} matrices, and has to hold one")
        return file.get_tensor(matrices[0])
