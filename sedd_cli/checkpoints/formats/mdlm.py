"""Hub folders of MDLM, UDLM, Duo and BD3-LM: SEDD's network behind the prefix `backbone.`."""

from __future__ import annotations

from typing import ClassVar

from sedd_cli.checkpoints.formats.backbone import network, without_prefix
from sedd_cli.checkpoints.formats.base import Format, ModelFiles, assembled, register
from sedd_cli.checkpoints.formats.special_tokens import KNOWN_MASKS, KNOWN_TOKENIZERS, stated_mask, tokenizer_of
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.core.losses.masked_cross_entropy import MaskedCrossEntropy
from sedd_cli.core.losses.score_entropy import PlugInScoreEntropy
from sedd_cli.core.schedules import LogLinear
from sedd_cli.core.vocabulary import Vocabulary
from sedd_cli.errors import RequestError
from sedd_cli.models.network import Condition


class Backbone(Format):
    """A hub folder of this family."""

    #: What the class of the configuration has where config.json does not: whether the network gets the noise, its heads
    #: and its length. (Its cond_dim is another one than that of published models, and is read from tensors.)
    time_conditioning: ClassVar[bool] = False
    n_heads: ClassVar[int] = 12
    model_length: ClassVar[int] = 1024

    def load(self, source: ModelFiles, mask: str | None = None) -> LoadedModel:
        if source.flag("cfg"):
            raise RequestError(f"{source.name} is a class-conditional model (cfg), which is not supported")
        if source.flag("causal"):
            raise RequestError(
                f"{source.name} has a causal network, of an autoregressive model, which is not supported"
            )
        tensors = without_prefix(source.tensors)
        heads, length = source.number("n_heads", default=self.n_heads), self.length(source)
        net = network(tensors, heads, length, source.name, self.block_size(source))
        condition: Condition = "sigma" if source.flag("time_conditioning", self.time_conditioning) else "none"
        vocabulary, objective = self.meaning(source, net.states, mask)
        model = assembled(source, self.name, net, vocabulary, LogLinear(), objective, condition)
        model.tokenizer_source = tokenizer_of(source.folder) or KNOWN_TOKENIZERS.get(net.states)
        return model

    def length(self, source: ModelFiles) -> int:
        """The tokens of a sequence, at most."""
        return source.number("model_length", default=self.model_length)

    def block_size(self, source: ModelFiles) -> int | None:
        """The tokens of a block, where positions attend to their own and earlier blocks only."""
        return None

    def meaning(
        self, source: ModelFiles, rows: int, mask: str | None
    ) -> tuple[Vocabulary, MaskedCrossEntropy | PlugInScoreEntropy]:
        """What the ids and the outputs mean: logits of the clean token, with MASK, which tokens do not become."""
        found = stated_mask(source, source.config, rows, mask)
        found = KNOWN_MASKS.get(rows, rows - 1) if found is None else found
        return Vocabulary(rows, found, carries_over=True), MaskedCrossEntropy()


class UniformBackbone(Backbone):
    """One whose noise is uniform over all rows."""

    time_conditioning: ClassVar[bool] = True

    def meaning(
        self, source: ModelFiles, rows: int, mask: str | None
    ) -> tuple[Vocabulary, MaskedCrossEntropy | PlugInScoreEntropy]:
        if mask is not None:
            raise RequestError(f"--mask-token means nothing with {source.name}: its noise is uniform, without MASK")
        return Vocabulary(rows), PlugInScoreEntropy()


@register
class MDLM(Backbone):
    """Masked diffusion, Sahoo et al. 2024."""

    name: ClassVar[str] = "mdlm"
    marks: ClassVar[str] = "config.json with model_type mdlm"


@register
class UDLM(UniformBackbone):
    """Uniform diffusion, Schiff et al. 2024."""

    name: ClassVar[str] = "udlm"
    model_length: ClassVar[int] = 128
    marks: ClassVar[str] = "config.json with model_type udlm"


@register
class Duo(UniformBackbone):
    """Uniform diffusion as the argmax of a Gaussian one, Sahoo et al. 2025."""

    name: ClassVar[str] = "duo"
    marks: ClassVar[str] = "config.json with model_type duo"


@register
class BD3LM(Backbone):
    """Masked diffusion within blocks, block after block, Arriola et al. 2025."""

    name: ClassVar[str] = "bd3lm"
    untrained: ClassVar[str] = "fills blocks one after another"
    marks: ClassVar[str] = "config.json with model_type bd3lm"

    def block_size(self, source: ModelFiles) -> int | None:
        if not source.flag("cross_attn", True):
            raise RequestError(f"{source.name} is a BD3-LM without block-causal attention, which is not supported")
        size = source.number("block_size", default=1)
        if self.length(source) % size:
            raise RequestError(
                f"{source.name}: model_length {self.length(source)} is no multiple of its block_size {size}"
            )
        return size
