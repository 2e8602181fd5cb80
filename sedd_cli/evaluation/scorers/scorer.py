"""Left-to-right models that score texts: one protocol for those of `transformers` and those trained here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sedd_cli.checkpoints.load import open_model
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.checkpoints.run_directory import by_name
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.scorers.causal import check_rows, padded
from sedd_cli.evaluation.scorers.pretrained import AUTOREGRESSIVE, is_export, load_causal


class Scorer(Protocol):
    """A left-to-right language model that judges samples and gives features of texts.

    libraries: packages that its numbers depend on, besides torch. context: the longest sequence that `nats` and
    `nats_given_first` take. feature_context: the longest that `features` takes. ids: the identity of its token ids,
    comparable with `Tokenizer.ids`.
    """

    libraries: ClassVar[tuple[str, ...]]

    @property
    def source(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def context(self) -> int: ...
    @property
    def feature_context(self) -> int: ...
    @property
    def ids(self) -> str | None: ...

    def describe(self) -> str:
        """The model in one line."""
        ...

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text; RequestError without a tokenizer, and for a character that it cannot express."""
        ...

    def nats(self, tokens: Tensor) -> Tensor:
        """−log p of each row [B, L] → [B] float64."""
        ...

    def nats_given_first(self, tokens: Tensor) -> Tensor:
        """−log p(tokens[1:] | tokens[0]) of each row [B, L] → [B] float64."""
        ...

    def features(self, rows: list[list[int]], at_once: int) -> np.ndarray:
        """The last hidden state at the last token of each row, [n, D] float32; RequestError for an empty row."""
        ...


@dataclass(frozen=True)
class TrainedScorer:
    """A `Scorer` that is an autoregressive model trained here."""

    libraries: ClassVar[tuple[str, ...]] = ()

    model: LoadedModel

    @property
    def source(self) -> str:
        return self.model.source

    @property
    def fingerprint(self) -> str:
        return self.model.fingerprint

    @property
    def precision(self) -> str:
        return self.model.precision

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def context(self) -> int:
        """The trained length: the last token is only predicted."""
        return self.model.length

    @property
    def feature_context(self) -> int:
        """One less than the trained length, since the token in front of every text is read too."""
        return self.model.length - 1

    @property
    def ids(self) -> str:
        return self.model.text_tokenizer().ids

    def describe(self) -> str:
        return self.model.describe()

    def encode(self, texts: list[str]) -> list[list[int]]:
        tokenizer = self.model.text_tokenizer()
        rows = tokenizer.encode_batch(texts)
        if tokenizer.unknown is not None and (lost := sum(tokenizer.unknown in row for row in rows)):
            raise RequestError(f"{self.source} lacks characters of {lost:,} texts: it cannot read them")
        return rows

    def nats(self, tokens: Tensor) -> Tensor:
        return self.model.nats(tokens)

    def nats_given_first(self, tokens: Tensor) -> Tensor:
        return self.model.nats_given_first(tokens)

    @torch.no_grad()
    def features(self, rows: list[list[int]], at_once: int) -> np.ndarray:
        """The input of the head at the last token of each row; RequestError for an empty row and for too long ones."""
        check_rows(rows)
        if (longest := max(map(len, rows), default=0)) > self.feature_context:
            raise RequestError(
                f"texts of {longest} tokens are longer than the {self.feature_context} {self.source} reads"
            )
        net, found = self.model.net, []
        for ids, lengths in padded(rows, at_once, self.device):  # a causal network does not see the padding
            ids = F.pad(ids, (1, 0), value=self.model.graph.mask)
            hidden = net.hidden(ids, torch.zeros(len(ids), device=self.device))
            found.append(hidden[torch.arange(len(ids), device=self.device), lengths].float().cpu().numpy())
        return np.concatenate(found) if found else np.empty((0, net.config.hidden_size), np.float32)


def load_scorer(source: str | Path, device: str = "auto") -> Scorer:
    """A causal language model of `transformers`, or an autoregressive run, checkpoint or export of ours, in fp32.

    RequestError for what cannot be loaded, and for a model without exact likelihoods.
    """
    source = by_name(str(source))
    if not (Path(source) / "recipe.yaml").is_file() and not is_export(source):
        return load_causal(source, device)
    model = open_model(source, device, "fp32")
    if not model.exact:
        raise RequestError(f"{source} ({model.kind}) has no exact likelihoods: {AUTOREGRESSIVE}")
    return TrainedScorer(model)
