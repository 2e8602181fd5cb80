"""Whether a recipe can train on from the network of another project, and what its rows and its input mean there."""

from __future__ import annotations

import torch
from torch import Tensor

from sedd_cli.checkpoints.formats import find_format
from sedd_cli.checkpoints.formats.base import LLAMA, ModelFiles
from sedd_cli.checkpoints.formats.mdlm import BD3LM
from sedd_cli.checkpoints.formats.radd import Radd
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.checkpoints.run_directory import find_run
from sedd_cli.core.graphs import Graph
from sedd_cli.core.losses import Objective
from sedd_cli.data.tokenizers import Tokenizer
from sedd_cli.data.tokenizers.reindexed import ReindexedTokenizer
from sedd_cli.errors import RequestError
from sedd_cli.models.dit import DiT
from sedd_cli.models.network import Adapted
from sedd_cli.models.shape import SEDD

#: Parametrisations whose outputs are logits of tokens.
LOGITS = ("mean", "plug_in")


def check_source(source: str) -> None:
    """RequestError where the files of `init_from` on this machine are of a format that no recipe trains on.

    They are looked at before a text is prepared; `own_network` checks the network itself.
    """
    path = find_run(source)
    found = find_format(ModelFiles(path, source))[0] if path.exists() else None
    if found and found.untrained:
        raise _untrained(source, found.untrained)


def own_network(given: LoadedModel) -> DiT:
    """The network of a model, which is that of a recipe; RequestError where it is another one."""
    net = given.net.net if isinstance(given.net, Adapted) else given.net
    if not isinstance(net, DiT):
        raise _untrained(given.source, LLAMA)
    if net.variant.block_size is not None:
        raise _untrained(given.source, BD3LM.untrained)
    if net.variant.norm_bias:
        raise _untrained(given.source, Radd.untrained)
    if net.variant != SEDD:
        raise _untrained(given.source, "has no modulation by the noise")
    return net


def _untrained(source: str, what: str) -> RequestError:
    return RequestError(
        f"init_from: {source} {what}, which no recipe can train: init_from takes SEDD's network, that of MDLM, "
        "UDLM, Duo and GIDD"
    )


def check_meaning(given: LoadedModel, graph: Graph, objective: Objective) -> list[str]:
    """What the outputs of a foreign model mean otherwise than those of a recipe, for warnings.

    RequestError where their outputs are of another kind or scale, or one has a MASK and the other none.
    """
    ours, theirs = objective.parametrization, given.objective.parametrization
    if (ours in LOGITS) != (theirs in LOGITS) or objective.causal != given.objective.causal:
        raise RequestError(
            f"init_from: {given.source} was trained with the objective {given.objective.name}, this recipe has "
            f"{objective.name}: their outputs have different parametrizations"
        )
    if (given.graph.mask is None) != (graph.mask is None):
        raise RequestError(f"init_from: {given.source} has the graph {given.graph.name}, this recipe {graph.name}: one "
                           "has a MASK, the other has none")  # fmt: skip
    scales = [getattr(one, "scale_by_sigma", None) for one in (given.graph, graph)]
    if ours == "score" and scales[0] != scales[1]:
        raise RequestError(f"init_from: {given.source} has the graph {given.graph}, this recipe {graph}")
    found = []
    if ours != theirs:
        found.append(
            f"{given.source} predicts a token given all other positions, {objective.name} given the noisy one as well"
        )
    if given.graph.name != graph.name:
        found.append(f"{given.source} was trained on the graph {given.graph.name}, this recipe has {graph.name}")
    if isinstance(given.net, Adapted) and given.net.condition.kind == "time":
        found.append(f"{given.source} is conditioned on the time, this network on the total noise")
    return found


def conditioned_on_noise(given: LoadedModel) -> bool:
    """Whether its network gets a number that depends on the noise, rather than 0."""
    return not isinstance(given.net, Adapted) or given.net.condition.kind != "none"


def rows_of(given: LoadedModel, graph: Graph, tokenizer: Tokenizer) -> Tensor | None:
    """The row of a model's embedding for each state of a graph, int64 [S]; None if their tokens are other ones."""
    theirs, own = given.tokenizer, given.vocabulary
    base = theirs.base if isinstance(theirs, ReindexedTokenizer) else theirs
    if given.vocab_size == tokenizer.vocab_size if theirs is None else theirs.fingerprint == tokenizer.fingerprint:
        states = torch.arange(graph.states)
        return states if own is None else own.ids(states)
    if own is None or base is None or base.fingerprint != tokenizer.fingerprint:
        return None
    # the recipe has the tokenizer's own ids, MASK perhaps among them, and a MASK behind them
    tokens = torch.arange(graph.vocab_size)
    return tokens if own.mask is None else torch.cat([tokens, torch.tensor([own.mask])])
