"""A network with its graph, schedule, parametrization and tokenizer."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sedd_cli.checkpoints.description import options_of, spelled
from sedd_cli.core.graphs import Graph
from sedd_cli.core.losses import Objective
from sedd_cli.core.losses.autoregressive import next_token_nats
from sedd_cli.core.losses.score_entropy import ScoreEntropy, sequence_score_entropy
from sedd_cli.core.schedules import Schedule
from sedd_cli.core.score import ScoreModel
from sedd_cli.core.vocabulary import Vocabulary
from sedd_cli.data.tokenizers import Tokenizer, is_local, load_tokenizer
from sedd_cli.errors import RequestError
from sedd_cli.models.compile import compile_for_inference
from sedd_cli.models.network import LanguageNetwork
from sedd_cli.models.precision import autocast_dtype, precision_name
from sedd_cli.models.shape import DiTConfig
from sedd_cli.recipe import Recipe
from sedd_cli.recipe.outside import origin_of

#: Numbers of a parameter that are fingerprinted at once.
FINGERPRINTED = 1 << 20


@dataclass(repr=False)
class LoadedModel:
    """A network with its graph, schedule and tokenizer. `tokenizer` is None where the checkpoint names none."""

    net: LanguageNetwork
    graph: Graph
    schedule: Schedule
    tokenizer: Tokenizer | None
    source: str
    recipe: Recipe | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    #: What `load_tokenizer` loads the tokenizer from: a folder or a name.
    tokenizer_source: str | None = None
    #: The token ids of a checkpoint of another project, where they are not those of the graph's states.
    vocabulary: Vocabulary | None = None
    #: The objective of a model without a recipe; None: score entropy.
    parametrized: Objective | None = None
    #: The token that fills short texts, where a checkpoint names one: a state of the graph.
    padding: int | None = None
    #: The fingerprint of the prepared text of a run's checkpoint, in the tokens of its own tokenizer.
    trained_on: str | None = None

    @property
    def libraries(self) -> tuple[str, ...]:
        """Libraries beside torch that influence results."""
        return self.net.libraries

    @property
    def device(self) -> torch.device:
        return self.net.device

    @property
    def length(self) -> int:
        """The trained length in tokens, the maximum for this model."""
        return self.net.config.length

    @property
    def vocab_size(self) -> int:
        """N, the number of real tokens."""
        return self.graph.vocab_size

    @cached_property
    def objective(self) -> Objective:
        """The training objective, which determines the parametrization."""
        return self.recipe.objective.make() if self.recipe else self.parametrized or ScoreEntropy()

    @property
    def exact(self) -> bool:
        """Whether likelihoods are exact rather than bounds estimated by Monte Carlo."""
        return self.objective.causal

    @property
    def kind(self) -> str:
        """Its name in tables: the graph, preceded by the objective unless that is score entropy."""
        if self.exact:
            return self.objective.name
        return self.graph.name if self.objective.name == "score_entropy" else f"{self.objective.name} {self.graph.name}"

    @property
    def clean_ids(self) -> Vocabulary | None:
        """The ids that log p(x0|x_t) is over, and how it is normalised; None where the model gives scores alone."""
        if self.vocabulary is not None:
            return self.vocabulary
        if self.graph.only_masks:
            return Vocabulary(self.graph.states, self.graph.mask, carries_over=True)
        is_score = self.objective.parametrization == "score"
        return None if is_score else Vocabulary(self.graph.states, self.graph.mask)

    @property
    def block_size(self) -> int | None:
        """Of a model that fills blocks of so many tokens one after another (BD3-LM); None of any other."""
        return self.net.block_size

    @property
    def layers(self) -> int:
        """Number of blocks of the network."""
        return self.net.config.n_blocks

    @property
    def precision(self) -> str:
        """bf16 for mixed precision, else fp32, or tf32 where its products round their factors to that.

        Followed by "compiled" where the blocks are.
        """
        return precision_name(bool(self.net.autocast), self.device) + (" compiled" if self.net.compiled else "")

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over everything that determines a score: weights, shape of the network, graph, schedule."""
        shape: Any = self.net.config
        if isinstance(shape, DiTConfig):
            shape = replace(shape, attention="auto", dropout=0.0)
        outputs = {"score": False, "mean": True}.get(self.objective.parametrization, self.objective.parametrization)
        meaning = (outputs, self.objective.causal, self.objective.steps)
        parts = (self.graph, self.schedule, shape, *([meaning] if any(meaning) else []))
        parts += (shape.ablated,) if isinstance(shape, DiTConfig) and shape.ablated else ()
        parts += () if self.vocabulary is None else (self.vocabulary, self.net.meaning)
        code = [origin_of(type(part)) for part in (self.graph, self.schedule)]
        parts += tuple(origin.sha256 for origin in code if origin)  # of parts that are not of this package
        # spelled as in version 0.1, so that results stored under a fingerprint are still found
        found = hashlib.sha256(repr(parts).replace("(vocab_size=", "(tokens=", 1).encode())
        for name, value in self.net.named_parameters():
            found.update(name.encode())
            for part in value.detach().reshape(-1).split(FINGERPRINTED):  # copies may be as large as the model
                found.update(part.float().cpu().contiguous().numpy().data)
        return found.hexdigest()

    @property
    def identity(self) -> dict[str, Any]:
        """What results name of it: its source, fingerprint, training step (where there is one) and precision."""
        step = {"step": self.facts["step"]} if "step" in self.facts else {}
        return {"model": self.source, "fingerprint": self.fingerprint, **step, "precision": self.precision}

    def lowered(self) -> LoadedModel | None:
        """A copy of this model that computes in bf16; None if it does so already, or the device has no native bf16."""
        dtype = autocast_dtype("auto", self.device)
        if dtype is None or self.net.autocast is not None:
            return None
        net = copy.deepcopy(self.net)
        net.cast_for_inference(dtype)
        if self.net.compiled:
            compile_for_inference(net)
        return replace(self, net=net)

    def compile(self) -> str | None:
        """Compile the network's blocks, which rounds differently. Returns None, or why they could not be."""
        return compile_for_inference(self.net)

    @property
    def score(self) -> ScoreModel:
        """The score model of `sedd_cli.core`."""
        return ScoreModel(
            self.net,
            self.graph,
            self.schedule,
            parametrization=self.objective.parametrization,
            steps=self.objective.steps,
        )

    @torch.no_grad()
    def log_score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """log s(x, sigma) [B, L, S] float32 for tokens x [B, L] and total noise sigma [B]."""
        self._has_scores()
        return self.score.log_score(self._tokens(x, self.graph.states), sigma.to(self.device))

    @torch.no_grad()
    def log_p_x0(self, x: Tensor, t: Tensor, clean: Tensor | None = None) -> Tensor:
        """log p(x0|x_t) of the clean token at every position, [B, L, V] float32, in the checkpoint's own token ids.

        A model of another project is normalised as by its own code: over all rows of its head or over all but MASK,
        and a token that is not MASK stays or may change. For the sampling of a masked model, `log_score` leaves MASK
        out and lets tokens stay in any case.

        Args:
            x: noisy tokens [B, L], in the checkpoint's own ids.
            t: the time of each sequence [B], between 0 and 1.
            clean: of a model that fills blocks one after another (BD3-LM), the clean tokens [B, L] that each block of x
                is given of earlier blocks. Without it earlier blocks are those of x.

        Raises:
            RequestError: the model gives no such distribution: it is autoregressive, or gives scores of a graph
                without MASK.
        """
        self._has_scores()
        own = self.clean_ids
        if own is None:
            raise RequestError(f"{self.source} gives scores, not the distribution of the clean token")
        x = own.states_of(self._tokens(x, own.rows))
        sigma = self.schedule(torch.as_tensor(t, dtype=torch.float64, device=self.device))[0]
        net = self.net
        if clean is not None:
            if self.block_size is None:
                raise RequestError(f"clean tokens mean nothing with {self.source}, which does not fill blocks in turn")
            net = net.given_clean(own.states_of(self._tokens(clean, own.rows)))
        return own.log_p_x0(net.head(net.hidden(x, sigma.float())), x)

    def loss(self, x0: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """σ̄′(t)·score entropy of noisy x [B, L] at time t [B] given clean x0 [B, L]: nats per sequence [B]."""
        self._has_scores()
        sigma, dsigma = self.schedule(t.to(self.device))
        loss = sequence_score_entropy(
            self.score, self._tokens(x, self.graph.states), sigma, self._tokens(x0, self.graph.vocab_size)
        )
        return dsigma.to(loss.dtype) * loss

    @torch.no_grad()
    def nats(self, tokens: Tensor, given: int = 0) -> Tensor:
        """−log p of sequences [B, L] given their first `given` tokens, nats [B]; autoregressive models only."""
        if not self.exact:
            raise RequestError(f"{self.source} has no exact likelihood: use its bound")
        return next_token_nats(self.score, self._tokens(tokens, self.graph.vocab_size), given).double()

    def nats_given_first(self, tokens: Tensor) -> Tensor:
        """−log p(tokens[1:] | tokens[0]) of sequences [B, L], nats [B]."""
        return self.nats(tokens, 1)

    def text_tokenizer(self) -> Tokenizer:
        """The tokenizer; RequestError if there is none."""
        if self.tokenizer is None and self.tokenizer_source is not None:
            self.tokenizer = load_tokenizer(self.tokenizer_source)  # not available at load time: raises the reason
        if self.tokenizer is None:
            raise RequestError(
                f"{self.source} has {self.graph.vocab_size} tokens and names no tokenizer: name one with --tokenizer"
            )
        return self.tokenizer

    def check_beginning(self, tokens: Sequence[int | None]) -> None:
        """RequestError where a sequence, None where free, begins with a token that the model cannot predict."""
        if self.net.first_given and (not tokens or tokens[0] is None):
            raise RequestError(f"{self.source} never predicts the first token: begin with given text")

    def describe(self) -> str:
        """A description in one line."""
        parameters = sum(p.numel() for p in self.net.parameters())
        schedule, parts_of_both = options_of(self.schedule), list(asdict(self.schedule).values())
        graph = {name: value for name, value in options_of(self.graph, parts_of_both).items() if name != "vocab_size"}
        parts = [] if self.objective.name == "score_entropy" else [self.objective.name.replace("_", " ")]
        if not self.exact:
            parts += [spelled(self.graph.name, graph), spelled(self.schedule.name, schedule)]
        if self.objective.learns_exponents:
            w = self.graph.exponents
            parts += [f"exponents {float(w.min()):.2f} to {float(w.max()):.2f}"]
        parts += [f"{parameters:,} parameters", f"length {self.length}"]
        if isinstance(self.net.config, DiTConfig):
            parts += [f"{key} {value}".lower() for key, value in self.net.config.ablated.items()]
        parts += [self.precision, f"{self.net.kernel()} attention"]
        without = f"{self.tokenizer_source} not available" if self.tokenizer_source else "no tokenizer"
        spec = self.tokenizer.spec if self.tokenizer else f"{self.vocab_size:,} tokens ({without})"
        parts += [f"tokenizer {spec}" if self.tokenizer and is_local(spec) else spec]
        if unnamed := getattr(self.tokenizer, "without_text", 0):
            parts += [f"{unnamed:,} of {self.vocab_size:,} tokens have no text in it"]
        parts += [f"{k} {v}" for k, v in self.facts.items()]
        return f"{self.source}: {', '.join(parts)}"

    def _has_scores(self) -> None:
        if self.exact:
            raise RequestError(f"{self.source} is autoregressive: it has no scores, use its nats")

    def __repr__(self) -> str:
        return f"<{self.describe()}>"

    def _tokens(self, x: Tensor, states: int) -> Tensor:
        x = torch.as_tensor(x, device=self.device)
        if x.dim() != 2 or x.dtype != torch.int64:
            raise RequestError(f"tokens must be int64 [B, L], found {x.dtype} {list(x.shape)}")
        if x.numel() and not 0 <= int(x.min()) <= int(x.max()) < states:
            raise RequestError(f"token ids must lie in [0, {states}), found {int(x.min())} to {int(x.max())}")
        return x
