"""Which blocks a protocol evaluates: what is dropped, kept, wrapped, and what belongs together."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import reference
import torch
from support.toys import N, every_noise, score_model, world

from sedd_cli import load_model
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.core.bounds import stratified
from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.graphs import GRAPHS
from sedd_cli.core.losses import OBJECTIVES
from sedd_cli.core.random import BOUND, Stream
from sedd_cli.core.samplers import SAMPLERS
from sedd_cli.core.samplers.grids import T_END
from sedd_cli.core.schedules import SCHEDULES
from sedd_cli.core.score import ScoreModel
from sedd_cli.data.tokenizers import load_tokenizer
from sedd_cli.data.tokenizers.characters import ByteTokenizer
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.likelihood.paper import paper_value
from sedd_cli.evaluation.likelihood.protocols import Blocks
from sedd_cli.inference.bound import PROTOCOLS, draw_bounds, find_protocol
from sedd_cli.inference.fitting import check_protocol


class Text:
    """A split of 50 ids in documents that end at 7, 9, 40 and 50."""

    name, tokens = "test", 50

    def document_ends(self):
        return np.array([7, 9, 40, 50])

    def read(self, start, stop):
        return np.arange(start, stop)

    def rows(self, starts, length):
        return np.stack([self.read(s, s + length) for s in starts])


def cut(protocol, length, limit=None):
    return Blocks.cut(Text(), protocol, length, ByteTokenizer(), limit)


def everything(blocks):
    return [row for group in blocks.groups(16) for row in blocks.read(group).tolist()]


def test_the_papers_blocks_do_not_overlap_and_drop_the_tail():
    blocks = cut("sedd-paper", 8)
    assert everything(blocks) == [list(range(i, i + 8)) for i in range(0, 48, 8)]
    assert (len(blocks), blocks.tokens) == (6, 48)


def test_the_rigorous_blocks_leave_no_token_out():
    blocks = cut("rigorous", 8)
    assert [i for block in everything(blocks) for i in block] == list(range(50))
    assert blocks.lengths.tolist() == [8] * 6 + [2]
    assert [len(g) for g in blocks.groups(16)] == [2, 2, 2, 1]


def test_mdlms_blocks_stand_between_marks_that_count():
    blocks = cut("mdlm", 8)
    assert everything(blocks) == [[256, *range(i, i + 6), 256] for i in range(0, 48, 6)]
    assert blocks.tokens == 64


def test_bert_begins_with_cls(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = load_tokenizer(str(tmp_path / "vocab.txt"))
    assert (tokenizer.bos, tokenizer.eos) == (2, 3)


def test_a_tokenizer_without_marks_has_no_wrapped_protocol():
    with pytest.raises(RequestError, match="this tokenizer has none"):
        Blocks.cut(Text(), "mdlm", 8, load_tokenizer("text8"))
    with pytest.raises(RequestError, match="no room"):
        cut("mdlm", 2)


def test_a_limit_keeps_the_first_blocks():
    assert everything(cut("rigorous", 8, limit=2)) == [list(range(8)), list(range(8, 16))]


@pytest.mark.parametrize("protocol", ["sedd-paper", "mdlm"])
def test_a_text_shorter_than_a_block_is_refused_with_both_numbers(protocol):
    with pytest.raises(RequestError, match=rf"50 tokens, fewer than one block of {64 - 2 * (protocol == 'mdlm')}"):
        cut(protocol, 64)
    assert len(cut("rigorous", 64)) == 1


def test_blocks_that_begin_in_one_document_belong_together():
    # begin at 0, 6, 12, 18, 24, 30, 36, 42, 48: the first two before 7, those from 12 to 36 in the third document
    assert np.unique(cut("rigorous", 6).clusters, return_inverse=True)[1].tolist() == [0, 0, 1, 1, 1, 1, 1, 2, 2]


def test_a_single_document_is_taken_block_by_block():
    class One(Text):
        def document_ends(self):
            return np.array([50])

    assert len(set(Blocks.cut(One(), "rigorous", 8, None).clusters)) == 7


@pytest.mark.parametrize(
    ("tokenizer", "ends", "clusters"),
    [("text8", [20, 40, 50], 7), ("byte", [20, 40, 50], 3), ("text8", [7, 9, 40, 50], 4)],
)
def test_equal_pieces_of_a_text_without_separators_are_one_document(tokenizer, ends, clusters):
    class Pieces(Text):
        def document_ends(self):
            return np.array(ends)

    assert len(set(Blocks.cut(Pieces(), "rigorous", 8, load_tokenizer(tokenizer)).clusters)) == clusters


def test_surprisal_is_minus_the_log_of_the_shares():
    found = cut("rigorous", 8).surprisal(60)
    counts = torch.tensor([1.5] * 50 + [0.5] * 10, dtype=torch.float64)
    assert torch.allclose(found, -(counts / counts.sum()).log())


def test_protocols_are_found_by_name():
    assert find_protocol("rigorous") is PROTOCOLS["rigorous"]
    with pytest.raises(RequestError, match=r"rigorous, sedd-paper, mdlm.*; LLaDA evaluates answers"):
        find_protocol("best")


@pytest.mark.parametrize(
    ("kind", "layers", "length", "tokenizer", "corpus", "value", "split"),
    [
        ("absorbing", 12, 1024, "gpt2", "wikitext2", 41.84, "train"),
        ("uniform", 24, 1024, "gpt2", "lm1b", 79.12, "test"),
        ("gpt2", 12, 1024, "gpt2", "ptb", 138.43, "test"),
        ("gpt2", 24, 1024, "gpt2", "lambada", 35.66, "test"),
        ("absorbing", 12, 256, "text8", "text8", 1.39, "test"),
        ("uniform", 12, 128, "bert-base-uncased", "lm1b", 40.25, "test"),
    ],
)
def test_the_value_of_the_paper_is_found_for_its_models_and_texts(
    kind, layers, length, tokenizer, corpus, value, split
):
    found = paper_value(kind, layers, length, tokenizer, corpus)
    assert (found.value, found.split) == (value, split)


@pytest.mark.parametrize(
    "other",
    [
        ("absorbing", 3, 1024, "gpt2", "wikitext2"),
        ("absorbing", 12, 64, "gpt2", "wikitext2"),
        ("absorbing", 12, 1024, "bpe:4096", "wikitext2"),
        ("absorbing", 12, 1024, "gpt2", "pydocs"),
        ("llama", 12, 1024, "gpt2", "ptb"),
    ],
)
def test_a_model_the_paper_does_not_have_has_no_value(other):
    assert paper_value(*other) is None


# normalized


@every_noise
@pytest.mark.parametrize("estimator", ["stratified", "count"])
def test_normalized_is_rigorous_for_scores_divided_by_their_normaliser(noise, estimator):
    graph, Q, p0 = world("absorbing", L=3)
    score = reference.wrong_score(p0, Q, 0.7)

    def divided(x, sigma):
        s = score(x, sigma)
        normaliser = (s[..., :N] * math.expm1(sigma)).sum(-1, keepdim=True)
        return torch.where((x == N)[..., None], s / normaliser, s)

    index, v = torch.arange(40), torch.linspace(0.01, 0.99, 40, dtype=torch.float64)
    x0 = torch.tensor(list(itertools.product(range(N), repeat=3)))[:20].repeat(2, 1)

    def draws(score, protocol):
        model = score_model(graph, noise, score)
        return draw_bounds(model, (protocol,), estimator, x0, v, Stream(7, BOUND, index), 0)[:, 0]

    found, own = draws(score, "normalized"), draws(score, "rigorous")
    torch.testing.assert_close(found, draws(divided, "rigorous"), rtol=1e-9, atol=1e-9)
    # by the same draw: n − 1 − log n, the price of a normaliser n, is never negative
    assert (found <= own + 1e-9).all()
    assert (found < own - 1e-3).any()


def test_normalized_is_for_scores_on_the_absorbing_graph(tiny_run):
    opened = load_model(tiny_run, device="cpu")
    parts = {f.name: getattr(opened, f.name) for f in dataclasses.fields(LoadedModel)} | {"recipe": None}
    check_protocol("normalized", LoadedModel(**parts))
    uniform = {"graph": GRAPHS["uniform"](vocab_size=opened.vocab_size)}
    for other in (uniform, {"parametrized": OBJECTIVES["masked_cross_entropy"]()}):
        with pytest.raises(RequestError, match=r"normalized.*scores on the absorbing graph"):
            check_protocol("normalized", LoadedModel(**parts | other))


class Second:
    """Of two tokens, 0 and 1: the first that is unmasked is 0, the second is 1, each with probability 0.99."""

    def __init__(self):
        self.least = math.inf

    def hidden(self, x, sigma):
        self.least = min(self.least, float(sigma.min()))
        likely = torch.tensor([0.99, 0.01, 1.0], dtype=torch.float64).log()
        return torch.where((x == 2).all(1)[:, None, None], likely, likely[[1, 0, 2]]).expand(*x.shape, 3)

    def head(self, hidden):
        return hidden


@pytest.mark.parametrize("estimator", ["stratified", "count"])
@pytest.mark.parametrize("sigma_min", [1e-4, 0.5])
def test_normalized_bounds_what_first_hitting_draws_wherever_the_schedule_ends(sigma_min, estimator):
    net, draws = Second(), 4000
    noise = SCHEDULES["geometric"](sigma_min=sigma_min, sigma_max=20.0)
    model = ScoreModel(net, GRAPHS["absorbing"](vocab_size=2), noise)
    *_, last = SAMPLERS["first_hitting"]().run(model, Conditioning.nothing(draws, 2), 3, torch.arange(draws))
    p = 0.99 * 0.01  # of 0 0, in either order
    assert float((last.x == 0).all(1).double().mean()) == pytest.approx(p, abs=5 * math.sqrt(p / draws))
    index, x0 = torch.arange(draws), torch.zeros(draws, 2, dtype=torch.int64)
    v = stratified(draws, torch.full((draws,), 0.5, dtype=torch.float64))[torch.randperm(draws)]
    found = draw_bounds(model, ("normalized",), estimator, x0, v, Stream(7, BOUND, index), 0)[:, 0]
    assert float(found.mean()) == pytest.approx(-math.log(p), abs=5 * float(found.std()) / math.sqrt(draws))
    assert net.least >= noise.sigma(T_END)
