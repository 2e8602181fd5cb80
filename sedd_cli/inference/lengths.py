"""How well gaps of certain lengths fit the text that is given around them."""

from __future__ import annotations

import torch

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.inference.memory import tokens_at_once

#: Given tokens after each gap that are scored.
FOLLOWING = 8


@torch.no_grad()
def length_nats(model: LoadedModel, tokens: tuple[int | None, ...]) -> float | None:
    """−log p of the given tokens that follow the gaps, in nats, each given the text before it, with all gaps masked.

    tokens [L]: None in gaps. Of texts that differ in the lengths of their gaps alone, the same tokens are scored, and
    with equal prior probabilities, and scores of one joint distribution, the lengths are as probable as these tokens:
    what would fill the gaps is summed over, not guessed. At most FOLLOWING tokens after each gap count: where later
    ones hold more information on the lengths, this is an approximation.

    Returns:
        None where there is none: no text follows a gap, or the graph's tokens do not only turn into MASK.
    """
    asked = _following(tokens)
    if not asked or model.exact or not model.graph.masking:
        return None
    mask, device = model.graph.mask_state, model.device
    seen = torch.tensor([mask if token is None else token for token in tokens], device=device)
    places = torch.tensor(asked, device=device)
    total = 0.0
    for some in places.split(max(1, tokens_at_once(device) // len(tokens))):
        hidden_from = torch.arange(len(tokens), device=device) >= some[:, None]
        x = torch.where(hidden_from, mask, seen)  # [K, L]: what is known before each of the tokens
        share = (x == mask).double().mean(1)
        hidden = model.score.hidden_of_one(x, model.score.sigma_of_share(share), some)
        log_p = model.score.net.head(hidden)[:, : model.graph.vocab_size].double().log_softmax(-1)
        total -= float(log_p.gather(1, seen[some][:, None]).sum())
    return total


def _following(tokens: tuple[int | None, ...]) -> list[int]:
    """The first FOLLOWING positions of every run of given tokens that follows a gap."""
    found, run = [], FOLLOWING
    for place, token in enumerate(tokens):
        run = 0 if token is None else run + 1
        if token is not None and run <= FOLLOWING and None in tokens[:place]:
            found.append(place)
    return found
