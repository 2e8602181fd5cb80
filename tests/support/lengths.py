"""How often the length of a gap is found: `python -m tests.support.lengths --model runs/quickstart -n 400`.

Run it in the folder that holds tests/. Spans of one to six tokens, all lengths equally often, are cut out of the
held-out split that the model's recipe names; twenty tokens on each side stay. Each rule chooses among the six lengths.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from sedd_cli import load_model
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.data.prepared import find_prepared
from sedd_cli.data.shards import TokenArray, open_dataset
from sedd_cli.inference.bound import candidate_bound
from sedd_cli.inference.denoise import DenoisedRow, SequenceRequest, denoise
from sedd_cli.inference.lengths import length_nats
from sedd_cli.inference.sampling import Sampling

LENGTHS, SIDE = range(1, 7), 20
#: Random orders for the bound of a gap.
ORDERS = 32
#: The rule that `sedd infill` follows.
DEFAULT = "given text"

Tokens = tuple[int | None, ...]


def gaps(split: TokenArray, seed: int, n: int) -> Iterator[tuple[int, dict[int, Tokens]]]:
    """The true length, and for each length the text with a gap so long."""
    for number in range(n):
        rng = random.Random(seed * 10**6 + number)
        true = rng.choice(LENGTHS)
        start = rng.randrange(split.tokens - 2 * SIDE - true)
        left = split.read(start, start + SIDE).tolist()
        right = split.read(start + SIDE + true, start + 2 * SIDE + true).tolist()
        yield true, {length: (*left, *[None] * length, *right) for length in LENGTHS}


def from_given(model: LoadedModel, texts: dict[int, Tokens]) -> dict[str, dict[int, float]]:
    """−log p by the given text: of the tokens after the gap, and of those on both sides, each given the other side."""
    after = {length: length_nats(model, text) or 0.0 for length, text in texts.items()}
    before = {length: _backward(model, text) for length, text in texts.items()}
    return {DEFAULT: after, "given text, both ways": {n: after[n] + before[n] for n in texts}}


@torch.no_grad()
def _backward(model: LoadedModel, text: Tokens) -> float:
    """As `length_nats`, from right to left."""
    mask, places = model.graph.mask_state, torch.arange(SIDE - 1, SIDE - 9, -1)
    seen = torch.tensor([mask if token is None else token for token in text])
    x = torch.where(torch.arange(len(text)) <= places[:, None], mask, seen)
    hidden = model.score.hidden(x, model.score.sigma_of_share((x == mask).double().mean(1)))[
        torch.arange(len(places)), places
    ]
    log_p = model.score.net.head(hidden)[:, : model.graph.vocab_size].double().log_softmax(-1)
    return float(-log_p.gather(1, seen[places][:, None]).sum())


def from_fillings(
    model: LoadedModel, texts: dict[int, Tokens], seed: int, surprisal: Tensor
) -> dict[str, dict[int, float]]:
    """Bounds of the text with its gap filled, one filling a length: of the whole text, and of the gap given the rest.

    surprisal [N]: nats of each token under a unigram model.
    """
    rows = [SequenceRequest(text, seed + length) for length, text in texts.items()]
    whole: dict[int, float] = {}
    gap: dict[int, float] = {}
    beyond: dict[int, float] = {}
    for event in denoise(model, Sampling().for_gaps(model, max(LENGTHS)), rows, "fillings"):
        if isinstance(event, DenoisedRow):
            length, tokens = LENGTHS[event.place], torch.tensor(event.tokens)
            whole[length] = candidate_bound(model, tokens.tolist())[0]
            gap[length] = gap_bound(model, tokens, length, seed) / length
            beyond[length] = gap[length] - float(surprisal[tokens[SIDE : SIDE + length]].mean())
    total = {length: whole[length] * len(text) for length, text in texts.items()}
    return {"bound per token": whole, "bound in total": total, "bound of the gap": gap, "gap, less unigram": beyond}


@torch.no_grad()
def gap_bound(model: LoadedModel, tokens: Tensor, length: int, seed: int) -> float:
    """A bound on −log p of the gap given the rest, nats: the mean over random orders in which its tokens are shown."""
    generator = torch.Generator().manual_seed(seed + length)
    order = torch.stack([torch.randperm(length, generator=generator) for _ in range(ORDERS)]) + SIDE
    x, rows, nats = tokens.repeat(ORDERS, 1), torch.arange(ORDERS), 0.0
    x[:, SIDE : SIDE + length] = model.graph.mask_state
    for places in order.T:
        share = (x == model.graph.mask_state).double().mean(1)
        hidden = model.score.hidden(x, model.score.sigma_of_share(share))[rows, places]
        log_p = model.score.net.head(hidden)[:, : model.graph.vocab_size].double().log_softmax(-1)
        nats -= float(log_p[rows, tokens[places]].mean())
        x[rows, places] = tokens[places]
    return nats


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--model", required=True)
    words.add_argument("-n", type=int, default=400, help="gaps")
    words.add_argument("--bounds", type=int, default=100, help="of so many of them the bounds are computed too")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--precision", default="auto")
    given = words.parse_args()
    model = load_model(given.model, device="cpu", precision=given.precision)
    assert model.recipe is not None, "a run of this project"
    folder = find_prepared(model.recipe.data.prepared())
    if folder is None:
        raise SystemExit(f"prepare {model.recipe.data.corpus} first")
    dataset = open_dataset(Path(folder))
    train = dataset.split("train")
    counts = torch.bincount(torch.as_tensor(train.read(0, train.tokens)).long(), minlength=model.graph.vocab_size) + 1.0
    surprisal = -(counts / counts.sum()).log()
    found: dict[str, list[tuple[int, dict[int, float]]]] = {}
    for number, (true, texts) in enumerate(gaps(dataset.split(dataset.default_split), given.seed, given.n)):
        scores = from_given(model, texts)
        if number < given.bounds:
            scores |= from_fillings(model, texts, given.seed * 100_003 + number * 10, surprisal)
        for rule, score in scores.items():
            found.setdefault(rule, []).append((true, score))
    for rule, each in found.items():
        print(line(rule, each), flush=True)


def line(rule: str, each: list[tuple[int, dict[int, float]]]) -> str:
    """How often the smallest score is that of the true length, and −log of the probability that scores give it."""
    right = sum(min(score, key=lambda n, score=score: score[n]) == true for true, score in each)
    share = right / len(each)
    nats = [score[true] + math.log(sum(math.exp(-one) for one in score.values())) for true, score in each]
    error = math.sqrt(share * (1 - share) / len(each))
    return f"{rule:24} {right:5} of {len(each)}  {share:.3f} ± {error:.3f}  {sum(nats) / len(nats):.3f} nats"


if __name__ == "__main__":
    main()
