"""What reads samples, as judge or for features: a left-to-right model of `transformers`, or one trained here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sedd_cli.checkpoints.load import open_model
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.scorers.causal import CausalModel
from sedd_cli.evaluation.scorers.pretrained import load_causal


@dataclass(frozen=True)
class TrainedReader:
    """An autoregressive model of ours with the members of `CausalModel` that reading needs."""

    libraries: ClassVar[tuple[str, ...]] = ()

    model: LoadedModel

    @property
    def source(self) -> str:
        """Where it was loaded from."""
        return self.model.source

    @property
    def fingerprint(self) -> str:
        """sha256 over everything that its likelihoods depend on."""
        return self.model.fingerprint

    @property
    def precision(self) -> str:
        """What the network computes in."""
        return self.model.precision

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def context(self) -> int:
        """The longest text in tokens, of which the last is only predicted."""
        return self.model.length

    @property
    def feature_context(self) -> int:
        """The longest text that is read to its end: the token in front of all texts takes a place too."""
        return self.model.length - 1

    @property
    def ids(self) -> str:
        """What its token ids mean: equal for whatever has the same tokenizer."""
        return self.model.text_tokenizer().ids

    def describe(self) -> str:
        """One line: what was loaded."""
        return self.model.describe()

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text; RequestError without a tokenizer, and for a character that it cannot express."""
        tokenizer = self.model.text_tokenizer()
        rows = tokenizer.encode_batch(texts)
        if tokenizer.unknown is not None and (lost := sum(tokenizer.unknown in row for row in rows)):
            raise RequestError(f"{self.source} lacks characters of {lost:,} texts: it cannot read them")
        return rows

    def nats_given_first(self, tokens: Tensor) -> Tensor:
        """−log p(tokens[1:] | tokens[0]) of each row [B, L] → [B] float64."""
        return self.model.nats_given_first(tokens)

    @torch.no_grad()
    def features(self, rows: list[list[int]], at_once: int) -> np.ndarray:
        """What the head reads behind the last token of each row, [n, D] float32; RequestError as `CausalModel`'s."""
        if not all(rows):
            raise RequestError(f"{sum(not r for r in rows)} of {len(rows)} texts have no token to take a feature of")
        if (longest := max(map(len, rows), default=0)) > self.feature_context:
            raise RequestError(
                f"texts of {longest} tokens are longer than the {self.feature_context} {self.source} reads"
            )
        net, found = self.model.net, []
        for group in (rows[i : i + at_once] for i in range(0, len(rows), at_once)):
            lengths = torch.tensor([len(row) for row in group], device=self.device)
            # zeros behind a text change nothing: a causal network does not look there
            ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in group], batch_first=True).to(self.device)
            ids = F.pad(ids, (1, 0), value=self.model.graph.mask)
            hidden = net.hidden(ids, torch.zeros(len(group), device=self.device))
            found.append(hidden[torch.arange(len(group), device=self.device), lengths].float().cpu().numpy())
        return np.concatenate(found) if found else np.empty((0, net.config.hidden_size), np.float32)


Reader = CausalModel | TrainedReader


def load_reader(source: str | Path, device: str = "auto", precision: str = "fp32") -> Reader:
    """A causal language model of `transformers`, or an autoregressive run or checkpoint of ours.

    RequestError for what cannot be had, and for a model that does not go from left to right.
    """
    if not _is_ours(Path(source)):
        return load_causal(source, device, precision)
    model = open_model(str(source), device, precision)
    if not model.exact:
        raise RequestError(
            f"{source} ({model.kind}) has no exact likelihoods: what reads goes from left to right (a causal language "
            "model such as gpt2-large, or a run with objective=autoregressive)"
        )
    return TrainedReader(model)


def _is_ours(source: Path) -> bool:
    """Whether it is a run or a checkpoint of this program."""
    return (source / "recipe.yaml").is_file()
