"""`load_model`: a run, a checkpoint or a published model → one object that scores, samples and fills."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from sedd_cli.core.graphs import Graph
from sedd_cli.core.noises import Noise
from sedd_cli.core.score import ScoreModel
from sedd_cli.errors import DamageError, RequestError
from sedd_cli.nets.dit import DiT
from sedd_cli.nets.precision import autocast_dtype
from sedd_cli.recipe import Recipe, load_recipe
from sedd_cli.runs import checkpoint
from sedd_cli.runs.assemble import make_graph
from sedd_cli.runs.dist import pick_device
from sedd_cli.text.tokenizers import Tokenizer, load_tokenizer, open_tokenizer

if TYPE_CHECKING:
    from sedd_cli.runs.events import Filled, Sampled


@dataclass
class Model:
    """A network with its graph, noise and tokenizer. `tokenizer` is None where the checkpoint names none."""

    #: Whether likelihoods are known exactly, rather than bounded by draws.
    exact: ClassVar[bool] = False
    #: Beside torch, what has a part in its numbers.
    libraries: ClassVar[tuple[str, ...]] = ()

    net: DiT
    graph: Graph
    noise: Noise
    tokenizer: Tokenizer | None
    source: str
    recipe: Recipe | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    #: Where the tokenizer can be loaded from again: a checkpoint's folder, or its name.
    tokenizer_source: str | None = None

    @property
    def device(self) -> torch.device:
        return self.net.vocab_embed.embedding.device

    @property
    def length(self) -> int:
        """The trained length in tokens, the longest this model works on."""
        return self.net.config.length

    @property
    def vocab_size(self) -> int:
        """N, the number of real tokens."""
        return self.graph.tokens

    @property
    def kind(self) -> str:
        """What the paper's tables call it: its graph."""
        return self.graph.name

    @property
    def layers(self) -> int:
        """Blocks of the network."""
        return self.net.config.n_blocks

    @property
    def precision(self) -> str:
        """What the network computes in."""
        return "bf16" if self.net.autocast else "fp32"

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the weights, the network's shape, graph and noise: everything that determines a score."""
        shape = replace(self.net.config, attention="auto", dropout=0.0)
        found = hashlib.sha256(repr((self.graph, self.noise, shape)).encode())
        for name, value in self.net.named_parameters():
            found.update(name.encode())
            found.update(value.detach().float().cpu().contiguous().numpy())
        return found.hexdigest()

    def lowered(self) -> Model | None:
        """A copy of this float32 model that computes in bf16; None where the device has no units for it."""
        dtype = autocast_dtype("auto", self.device)
        if dtype is None or self.net.autocast is not None:
            return None
        net = copy.deepcopy(self.net)
        net.autocast = dtype
        net.hold_low()
        return replace(self, net=net)

    @property
    def score(self) -> ScoreModel:
        """The view of this model that the mathematics in `sedd_cli.core` works on."""
        return ScoreModel(self.net, self.graph, self.noise)

    @torch.no_grad()
    def log_score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """log s(x, sigma) [B, L, S] float32 for tokens x [B, L] and total noise sigma [B]."""
        return self.score.log_score(self._tokens(x, self.graph.states), sigma.to(self.device))

    def loss(self, x0: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """σ̄′(t)·score entropy of noisy x [B, L] at time t [B] given clean x0 [B, L]: nats per sequence [B]."""
        sigma, dsigma = self.noise(t.to(self.device))
        loss = self.score.score_entropy(self._tokens(x, self.graph.states), sigma, self._tokens(x0, self.graph.tokens))
        return dsigma.to(loss.dtype) * loss

    def bound(
        self, tokens: Tensor, draws: int = 64, seed: int = 0, protocol: str = "rigorous"
    ) -> tuple[Tensor, Tensor]:
        """An upper bound on −log p of each sequence of tokens [B, L], nats [B], with its standard error [B]."""
        from sedd_cli.runs.estimate import bound_of

        x0 = self._tokens(tokens, self.graph.tokens)
        if x0.shape[1] > self.length:
            raise RequestError(f"sequences of {x0.shape[1]} tokens are longer than the model's {self.length}")
        return bound_of(self.score, x0, draws, seed, protocol)

    def sample(self, n: int = 1, length: int | None = None, **options: Any) -> list[Sampled]:
        """n samples. options: prompts, block, stride, seed (`sedd_cli.runs.generate.GenerateOptions`), and steps,
        sampler, temperature, … (`sedd_cli.runs.sampling.Sampling`)."""
        from sedd_cli.runs.generate import GenerateOptions, generate_all
        from sedd_cli.runs.sampling import split_options

        sampling, others = split_options(options)
        return generate_all(self, GenerateOptions(n, length, **others, sampling=sampling))

    def infill(
        self, template: str | None = None, n: int = 1, *, prefix: str = "", suffix: str = "", **options: Any
    ) -> list[Filled]:
        """n fillings of a template such as "The [MASK:8] sat on [MASK:2-5].", or of the gap between two texts.

        What is given comes back as it is. options: length, seed, candidates (of which the best is kept), and those of
        `sedd_cli.runs.sampling.Sampling`. RequestError where the template or the lengths are wrong.
        """
        from sedd_cli.runs.infill import Job, infill_all
        from sedd_cli.runs.sampling import split_options
        from sedd_cli.text.template import between, parse_template

        sampling, others = split_options(options)
        if (template is None) == (prefix + suffix == ""):
            raise RequestError("infill takes either a template, or prefix, suffix or both")
        if template is None:
            others.setdefault("length", self.length)
        asked = between(prefix, suffix) if template is None else parse_template(template)
        return infill_all(self, Job(asked, n, **others), sampling)

    def text_tokenizer(self) -> Tokenizer:
        """The tokenizer, or a RequestError that says how to name one."""
        if self.tokenizer is None:
            raise RequestError(
                f"{self.source} has {self.graph.tokens} tokens and names no tokenizer: name one with --tokenizer"
            )
        return self.tokenizer

    def describe(self) -> str:
        """One line: what was loaded."""
        parameters = sum(p.numel() for p in self.net.parameters())
        tokenizer = self.tokenizer.spec if self.tokenizer else "no tokenizer"
        parts = [self.graph.name, self.noise.name, f"{parameters:,} parameters", f"length {self.length}"]
        parts += [self.precision, f"{self.net.kernel()} attention"]
        parts += [tokenizer, *(f"{k} {v}" for k, v in self.facts.items())]
        return f"{self.source}: {', '.join(parts)}"

    def _tokens(self, x: Tensor, states: int) -> Tensor:
        x = torch.as_tensor(x, device=self.device)
        if x.dim() != 2 or x.dtype != torch.int64:
            raise RequestError(f"tokens must be int64 [B, L], found {x.dtype} {list(x.shape)}")
        if x.numel() and not 0 <= int(x.min()) <= int(x.max()) < states:
            raise RequestError(f"token ids must lie in [0, {states}), found {int(x.min())} to {int(x.max())}")
        return x


def load_model(
    source: str | Path, device: str = "auto", precision: str = "fp32", tokenizer: str | None = None
) -> Model:
    """A model from a run directory, one of its checkpoints, a folder in the published layout, or a hub id.

    precision: fp32 | bf16 | auto (bf16 where the device computes it natively); after the head everything
    is float32 or better. tokenizer: overrides or supplies the tokenizer by name or file.
    Raises RequestError for what is not a model, DamageError for one that is damaged.
    """
    path, chosen = Path(source), pick_device(device)
    if (path / checkpoint.LATEST).is_file():
        found = checkpoint.latest(path)
        model = _from_checkpoint(found, str(source))
    elif (path / checkpoint.MANIFEST).is_file():
        model = _from_checkpoint(checkpoint.open_checkpoint(path), str(source))
    else:
        from sedd_cli.runs.hub import load_published

        model = load_published(source)
    if tokenizer is not None:
        model.tokenizer, model.tokenizer_source = load_tokenizer(tokenizer), tokenizer
        if model.tokenizer.vocab_size != model.graph.tokens:
            raise RequestError(
                f"tokenizer {tokenizer!r} has {model.tokenizer.vocab_size} tokens, {source} has {model.graph.tokens}"
            )
    model.net.autocast = autocast_dtype(precision, chosen)
    model.net.hold_low()
    model.net.to(chosen).eval().requires_grad_(False)
    return model


def _from_checkpoint(found: checkpoint.Checkpoint, source: str) -> Model:
    recipe = load_recipe(found.folder / "recipe.yaml")
    tokenizer = open_tokenizer(found.folder)
    graph = make_graph(recipe, tokenizer.vocab_size)
    net = DiT.empty(recipe.model, graph.states)
    load_weights(net, found.tensors("ema"), str(found.folder))
    facts = {"step": found.step, "weights": "EMA"}
    return Model(net, graph, recipe.noise.make(), tokenizer, source, recipe, facts, str(found.folder))


def load_weights(net: DiT, tensors: dict[str, Tensor], source: str) -> None:
    """Make tensors the network's parameters, float32; DamageError lists every missing, unexpected or misshapen one."""
    wanted = {name: p.shape for name, p in net.named_parameters()}
    given = {name: v for name, v in tensors.items() if not name.endswith("inv_freq")}
    wrong = [f"missing {name}" for name in wanted if name not in given]
    wrong += [f"unexpected {name}" for name in given if name not in wanted]
    wrong += [
        f"{name} is {list(given[name].shape)}, expected {list(shape)}"
        for name, shape in wanted.items()
        if name in given and given[name].shape != shape
    ]
    if wrong:
        raise DamageError(f"the weights in {source} do not fit the network: {'; '.join(wrong)}")
    net.load_state_dict({name: v.float() for name, v in given.items()}, strict=False, assign=True)
