"""Start the embedding and the output layer from counts of the training tokens, on graphs with MASK."""

from __future__ import annotations

import torch
from torch import Tensor

from sedd_cli.core.graphs import Graph
from sedd_cli.data.shards import Dataset, token_counts
from sedd_cli.models.dit import DiT

#: How many tokens of the training split are counted.
COUNTED = 4_000_000
#: Root mean square of the entries of embedding and output rows that start from bigrams. The output rows are small, so
#: that the first scores are near the frequencies of the tokens; their size is learned within some dozen steps.
EMBEDDING_SIZE, OUTPUT_SIZE = 0.3, 0.005
#: Power iterations of the factorisation, and columns beyond its rank.
ITERATIONS, MORE_COLUMNS = 3, 8


@torch.no_grad()
def start_at_unigrams(net: DiT, graph: Graph, dataset: Dataset) -> None:
    """Set the output biases so that a network whose other outputs are 0 predicts the frequencies of the tokens.

    They are log(N·f) for a token of frequency f, where each token is counted half a time more. With `scale_by_sigma`,
    the scores are then normalised (appendix C.1: the graph divides by N).
    """
    split, vocab_size = dataset.split("train"), graph.vocab_size
    counts = torch.from_numpy(0.5 + token_counts(split, vocab_size, min(split.tokens, COUNTED)))
    bias = net.output_layer.linear.bias
    bias[:vocab_size] = (vocab_size * counts / counts.sum()).log().to(bias)


@torch.no_grad()
def start_at_bigrams(net: DiT, graph: Graph, dataset: Dataset, seed: int) -> None:
    """`start_at_unigrams`, and rows of embedding and output layer from a factorisation of the bigram counts.

    a before b is counted n_ab times, and expected n_a·n_b/n times. With m_ab = log(1 + n_ab / (expected + 1)), less its
    mean over a, and m ≈ left·rightᵀ, a token's embedding is (left | right) and its output row (right | left). So if
    the trunk brings the embeddings of both neighbours to a position, the output layer sums what they say about it.
    """
    start_at_unigrams(net, graph, dataset)
    split, vocab_size, half = dataset.split("train"), graph.vocab_size, net.config.hidden_size // 2
    tokens = torch.from_numpy(split.read(0, min(split.tokens, COUNTED)))
    left, right = _factors(_log_ratios(tokens, vocab_size), min(half, vocab_size), seed)
    rank = left.shape[1]
    for rows, parts, size in (
        (net.vocab_embed.embedding, (left, right), EMBEDDING_SIZE),
        (net.output_layer.linear.weight, (right, left), OUTPUT_SIZE),
    ):
        for start, part in zip((0, half), parts, strict=True):
            scale = size / part.square().mean().sqrt().clamp(min=1e-30)
            rows[:vocab_size, start : start + rank] = (scale * part).to(rows)


def _log_ratios(tokens: Tensor, vocab_size: int) -> Tensor:
    """log(1 + n_ab / (expected + 1)) of the pairs that occur, sparse [N, N]."""
    counts = tokens.bincount(minlength=vocab_size).float()
    pairs, n = (tokens[:-1] * vocab_size + tokens[1:]).unique(return_counts=True)
    first, second = pairs // vocab_size, pairs % vocab_size
    ratios = torch.log1p(n / (counts[first] * counts[second] / len(tokens) + 1))
    place, shape = torch.stack([first, second]), (vocab_size, vocab_size)
    return torch.sparse_coo_tensor(place, ratios, shape, check_invariants=True).coalesce()


def _factors(m: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """left, right [N, rank] with left·rightᵀ near m less its mean over rows (Halko et al. 2011, algorithm 4.4)."""
    size, transposed = len(m), m.t().coalesce()
    mean = (transposed @ torch.ones(size, 1)) / size  # [N, 1]
    generator = torch.Generator().manual_seed(seed % 2**63)
    q = torch.randn(size, min(rank + MORE_COLUMNS, size), generator=generator)
    for _ in range(ITERATIONS):
        q = torch.linalg.qr(m @ q - mean.T @ q)[0]
        q = torch.linalg.qr(transposed @ q - mean * q.sum(0))[0]
    q = torch.linalg.qr(m @ q - mean.T @ q)[0]
    u, s, v = torch.linalg.svd((transposed @ q - mean * q.sum(0)).T, full_matrices=False)
    root = s[:rank].sqrt()
    return (q @ u)[:, :rank] * root, v[:rank].T * root
