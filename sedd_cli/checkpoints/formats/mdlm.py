"""Hub folders of MDLM and UDLM: SEDD's network behind the prefix `backbone.`, its outputs logits of clean tokens."""

from __future__ import annotations

from typing import ClassVar

from sedd_cli.checkpoints.formats.base import Format, ModelFiles, assembled, register
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.checkpoints.tensors import load_weights
from sedd_cli.core.losses.masked_cross_entropy import MaskedCrossEntropy
from sedd_cli.core.losses.score_entropy import MeanScoreEntropy
from sedd_cli.core.schedules import LogLinear
from sedd_cli.core.vocabulary import Vocabulary
from sedd_cli.models.dit import DiT, DiTConfig

BACKBONE = "backbone."
#: Vocabulary sizes of known tokenizers whose MASK is not the last id.
KNOWN_MASKS = {30522: 103}


class Backbone(Format):
    """A hub folder with SEDD's network."""

    def network(self, source: ModelFiles) -> DiT:
        """The network with its weights."""
        tensors = {name.removeprefix(BACKBONE): value for name, value in source.tensors.items()}
        config = DiTConfig(
            n_blocks=source.number("n_blocks"),
            hidden_size=source.number("hidden_dim"),
            n_heads=source.number("n_heads"),
            cond_dim=tensors["sigma_map.mlp.0.weight"].shape[0],
            length=source.number("model_length"),
            dropout=0.0,
        )
        net = DiT.empty(config, source.number("vocab_size"))
        load_weights(net, tensors, source.name, copy=True)
        return net


@register
class MDLM(Backbone):
    """MDLM: masked diffusion, Sahoo et al. 2024."""

    name: ClassVar[str] = "mdlm"
    marks: ClassVar[str] = "config.json with model_type mdlm"

    def recognises(self, source: ModelFiles) -> bool:
        return source.model_type == "mdlm"

    def load(self, source: ModelFiles, mask: str | None = None) -> LoadedModel:
        net = self.network(source)
        rows = net.states
        vocabulary = Vocabulary(rows, KNOWN_MASKS.get(rows, rows - 1), carries_over=True)
        condition = "sigma" if source.config.get("time_conditioning") else "none"
        return assembled(source, "mdlm", net, vocabulary, LogLinear(), MaskedCrossEntropy(), condition)


@register
class UDLM(Backbone):
    """UDLM: uniform diffusion in the mean parametrization, Schiff et al. 2024."""

    name: ClassVar[str] = "udlm"
    marks: ClassVar[str] = "config.json with model_type udlm"

    def recognises(self, source: ModelFiles) -> bool:
        return source.model_type == "udlm"

    def load(self, source: ModelFiles, mask: str | None = None) -> LoadedModel:
        net = self.network(source)
        condition = "sigma" if source.config.get("time_conditioning", True) else "none"
        return assembled(source, "udlm", net, Vocabulary(net.states), LogLinear(), MeanScoreEntropy(), condition)
