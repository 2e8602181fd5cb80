"""Filling templates: what is given survives byte for byte, whatever it is; lengths, candidates, refusals."""

from __future__ import annotations

import dataclasses
import math
import random
import re

import pytest
import torch
from support.jobs import completed
from support.toys import ALL

from sedd_cli import load_model
from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.graphs import GRAPHS
from sedd_cli.core.samplers import SAMPLERS
from sedd_cli.core.schedules import SCHEDULES
from sedd_cli.core.score import ScoreModel
from sedd_cli.data.tokenizers import load_tokenizer, train_tokenizer
from sedd_cli.errors import RequestError
from sedd_cli.inference import denoise, infill, rejection
from sedd_cli.inference.bound import candidate_bound
from sedd_cli.inference.infill import infill_all
from sedd_cli.inference.layout import lay_out
from sedd_cli.inference.model import Model
from sedd_cli.inference.plan import Job, plan_job
from sedd_cli.inference.rejection import ATTEMPTS
from sedd_cli.inference.sampling import Sampling
from sedd_cli.inference.template import Gap, Template, parse_template
from sedd_cli.models.dit import DiT
from sedd_cli.recipe.part import SamplerPart
from sedd_cli.system.events import Filled, Frame, Progress, Warn

WORDS = (
    "the cat",
    " sat on",
    "mat ",
    "a",
    " ",
    "  ",
    "\n",
    ". ",
    "list",
    "of the ",
    "dog\n ",
    "über ",
    "🙂",
    "[x]",
    "\\",
)


@pytest.fixture(scope="module")
def model(tiny_run):
    return load_model(tiny_run, device="cpu")


def model_of(tokenizer, graph: str = "absorbing", length: int = 48) -> Model:
    """A small network of random weights over a tokenizer."""
    from sedd_cli.core.graphs import GRAPHS
    from sedd_cli.core.schedules import SCHEDULES
    from sedd_cli.models.shape import DiTConfig

    made, config = GRAPHS[graph](vocab_size=tokenizer.vocab_size), DiTConfig(
        n_blocks=1, hidden_size=16, n_heads=2, cond_dim=8, dropout=0.0, length=length
    )  # fmt: skip
    torch.manual_seed(1)
    net = DiT(config, made.states).eval().requires_grad_(False)
    for p in net.parameters():
        p.add_(0.05 * torch.randn_like(p))
    return Model(net, made, SCHEDULES["loglinear"](), tokenizer, "a random model")


@pytest.fixture(scope="module")
def bpe():
    texts = ["the cat sat on the mat and the dog ran over the hill, über 🙂 [x] \\ list of the " * 20]
    return train_tokenizer("bpe:300", texts)


def random_template(draw: random.Random, words=WORDS) -> Template:
    parts: list[str | Gap] = []
    for _ in range(draw.randint(1, 3)):
        text = "".join(draw.choice(words) for _ in range(draw.randint(0, 3)))
        low = draw.randint(1, 3)
        parts += [*([text] if text else []), draw.choice([Gap(low, low), Gap(low, low), Gap(low, low + 2), Gap()])]
    text = "".join(draw.choice(words) for _ in range(draw.randint(0, 3)))
    return Template((*parts, *([text] if text else [])))


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory):
    """BERT's kind: lower case, spaces that come and go."""
    pieces = ["the", "cat", "sat", "on", "mat", "a", "list", "of", "dog", "##s", "##t", "##o", "x", "\\", "[", "]", "."]
    file = tmp_path_factory.mktemp("bert") / "vocab.txt"
    file.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]))
    return load_tokenizer(str(file))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["byte", "bpe", "wordpiece", "uniform"])
def test_what_is_given_survives_byte_for_byte_in_random_templates(kind, bpe, wordpiece):
    """Random templates: the texts stand in the result in their order, between the texts of the gaps."""
    tokenizer = {"byte": load_tokenizer("byte"), "wordpiece": wordpiece}.get(kind, bpe)
    made = model_of(tokenizer, "uniform" if kind == "uniform" else "absorbing")
    draw, jobs, candidates = random.Random(kind), [], 1 if kind == "uniform" else 2
    number = 500 if ALL else 60
    while len(jobs) < number:
        template = random_template(draw)
        try:
            plan_job(made, job := Job(template, seed=len(jobs), candidates=candidates), Sampling())
        except RequestError:
            continue  # longer than the model, or of characters that the vocabulary has not
        jobs.append(job)
    found = [e for e in infill.infill(made, jobs, Sampling(steps=2), every=True) if isinstance(e, Filled)]
    assert len(found) == number * candidates
    for one in found:
        parts = parse_template(one.template).parts
        gaps = iter(one.gaps)
        assert one.text == "".join(part if isinstance(part, str) else next(gaps) for part in parts)
        texts = [part for part in parts if isinstance(part, str)]
        assert [one.text[start:stop] for start, stop in one.given] == texts
        assert len(one.lengths) == sum(isinstance(part, Gap) for part in parts)
        for length, gap in zip(one.lengths, Template(parts).gaps, strict=True):
            assert (gap.low or 1) <= length <= (gap.high or 1)
        # and in tokens: what the layout gave is there
        fixed = [n for n, g in zip(one.lengths, Template(parts).gaps, strict=True) if not g.is_open]
        layout = lay_out(Template(parts), fixed, made.tokenizer, not one.plain_edges)
        assert all(want is None or want == got for want, got in zip(layout.tokens, one.tokens, strict=True))
        if "\ufffd" not in one.text and kind != "wordpiece":
            assert made.tokenizer.decode(one.tokens) == one.text


def test_a_space_in_front_of_a_gap_is_left_to_the_gap(bpe):
    assert bpe.joins_spaces
    assert not load_tokenizer("byte").joins_spaces
    assert not load_tokenizer("text8").joins_spaces
    template = parse_template("the [MASK:2] mat [MASK:1]")
    spaced, plain = (lay_out(template, [2, 1], bpe, spaced) for spaced in (True, False))
    assert len(spaced.tokens) == len(plain.tokens) - 2
    the, cat, mat = (bpe.encode(text) for text in ("the", " cat", " mat"))
    assert spaced.parts == (tuple(the), 2, tuple(mat), 1)
    row = [*the, *cat[:1], *bpe.encode("s")[:1], *mat, *bpe.encode(" x")[:1]]
    assert len(row) == len(spaced.tokens)
    read = spaced.read(row)
    assert read.text == "the" + bpe.decode(row[len(the) :])
    assert read.gaps[0] == bpe.decode(row[len(the) : len(the) + 2])[1:]
    # a gap that does not begin with its space is no filling of this text
    assert spaced.read([*the, *bpe.encode("s")[:1], *cat[:1], *mat, *bpe.encode(" ")[:1]]) is None


def test_a_blank_line_in_front_of_a_gap_has_the_tokens_that_it_has_in_front_of_a_word():
    text = "the cat sat.\n\nthe dog ran.\n\n\n\n\tthe mat\n\n  the end\n\n" * 20
    bpe = train_tokenizer("bpe:300", [text])
    assert len(bpe.encode("\n\n")) == 1  # at the end of a text, as it is in front of more white space
    for before in ("the cat\n\n", "the cat\n", "the cat\n\n\n", "the\n\n\t", "\n\n", "the cat"):
        inside = bpe.encode(f"{before}the")[: -len(bpe.encode("the"))] if before.endswith(("\n", "\t")) else None
        for spaced in (True, False):
            found = lay_out(parse_template(f"{before}[MASK:2] sat"), [2], bpe, spaced)
            assert found.parts[0] == tuple(inside or bpe.encode(before)), before
    # the space is left to the gap, and nothing else changes
    assert lay_out(parse_template("the cat\n\n [MASK:1]"), [1], bpe, True).parts[0] == tuple(bpe.encode("the cat\n\n"))
    assert lay_out(parse_template("[MASK:1]\n\n"), [1], bpe, True).parts[1] == tuple(bpe.encode("\n\n"))


def test_draws_are_repeated_until_gaps_begin_with_their_space(bpe):
    """By rejection, so that what is kept follows the model's distribution given that it does; else edges are plain."""
    made, job = model_of(bpe), Job(parse_template("the [MASK:1] of"), n=400)
    found = infill_all(made, job, Sampling(steps=2))
    begin = torch.tensor([bpe.decode([i]).startswith(" ") for i in range(bpe.vocab_size)])
    tries = [one.drawn for one in found]
    assert set(tries) >= {1, 2, 3, 4, ATTEMPTS + 1}  # each draw is a fresh one
    for one in found:
        assert one.text.startswith("the ")
        assert one.text.endswith(" of")
        assert one.plain_edges == (one.drawn == ATTEMPTS + 1)
        if not one.plain_edges:
            assert begin[one.tokens[len(bpe.encode("the"))]]
    # the share of first draws that were taken is the model's own probability of a token that begins with a space
    layout = lay_out(job.template, [1], bpe, spaced=True)
    row = torch.tensor([[made.graph.mask if token is None else token for token in layout.tokens]])
    score = made.score.log_score(row, torch.tensor([made.schedule.sigma(1e-5)]))[0, layout.tokens.index(None)]
    share = float(score[: bpe.vocab_size].softmax(-1)[begin].sum())
    taken = sum(drawn == 1 for drawn in tries)
    assert abs(taken - 400 * share) < 5 * (400 * share * (1 - share)) ** 0.5


def test_the_bar_ends_full_after_draws_that_were_repeated(bpe):
    made, job = model_of(bpe), Job(parse_template("the [MASK:1] of"), n=9)
    bar = [e for e in infill.infill(made, [job], Sampling(steps=2)) if isinstance(e, Progress)]
    assert (bar[-1].done, bar[-1].total) == (9, 9)
    assert all(0 <= e.done <= e.total for e in bar)
    # a draw that is repeated is work that nobody expected; the bar does not end before it
    seed = next(s for s in range(99) if infill_all(made, Job(job.template, seed=s), Sampling(steps=2))[0].drawn > 1)
    alone = [
        e for e in infill.infill(made, [Job(job.template, seed=seed)], Sampling(steps=2)) if isinstance(e, Progress)
    ]
    assert [e.done for e in alone] == [0] * (len(alone) - 1) + [1]
    first_draw, first_repeated = [e for e in alone if e.metrics.get("step", "").startswith("1 ")][:2]
    assert first_draw.share < first_repeated.share < 1


def test_results_come_on_the_way(model):
    """The first ones after a few rows, long before the last row was begun."""
    job = Job(parse_template("the [MASK:3] sat"), n=400)
    events = list(infill.infill(model, [job], Sampling(steps=2)))
    first = next(i for i, e in enumerate(events) if isinstance(e, Filled))
    assert first < len(events) / 5
    assert [e.tokens for e in infill_all(model, Job(job.template, n=3), Sampling(steps=2))] == [
        e.tokens for e in sorted((e for e in events if isinstance(e, Filled)), key=lambda e: e.index)[:3]
    ]


def test_candidates_with_plain_edges_come_last(bpe, monkeypatch):
    monkeypatch.setattr(rejection, "ATTEMPTS", 1)
    job = Job(parse_template("the [MASK:1] of"), n=30, candidates=4)
    found = [e for e in infill.infill(model_of(bpe), [job], Sampling(steps=2), every=True) if isinstance(e, Filled)]
    for k in range(30):
        plain = [e.plain_edges for e in found if e.index == k]
        assert plain == sorted(plain)
    assert {e.plain_edges for e in found} == {True, False}


def test_a_filling_depends_on_its_own_job_alone(model):
    """Not on n, on the batch, on the other jobs or on their order."""
    texts = ["the [MASK:3] sat", "a [MASK:2-4] ran [MASK:2]", "[MASK:5] list", "the [MASK:3] sat on"]
    jobs = [Job(parse_template(text), n=3, seed=seed) for seed, text in enumerate(texts)]

    def drawn(jobs, **options):
        found = [e for e in infill.infill(model, jobs, Sampling(**options)) if isinstance(e, Filled)]
        return {(e.template, e.seed, e.index): (e.text, e.tokens, e.bound) for e in found}

    whole = drawn(jobs)
    assert len(whole) == 12
    assert drawn(jobs[::-1]) == whole
    assert drawn(jobs, batch=1) == whole
    assert drawn(jobs, batch=5) == whole
    for job in jobs:
        alone = drawn([Job(job.template, n=1, seed=job.seed, first=2)])
        assert alone.items() <= whole.items()
    assert drawn([Job(jobs[0].template, seed=99)]).keys().isdisjoint(whole)


def test_ranges_are_tried_at_several_lengths_and_the_best_is_kept(model):
    template = parse_template("the [MASK:2-7] on")
    every = [e for e in infill.infill(model, [Job(template, seed=3)], Sampling(), every=True) if isinstance(e, Filled)]
    assert sorted({n for e in every for n in e.lengths}) == [2, 3, 4, 5, 6, 7]
    assert [e.candidate for e in every] == list(range(8))
    # first the length that fits the given text, then the bound
    assert [(e.length_nats, e.bound) for e in every] == sorted((e.length_nats, e.bound) for e in every)
    assert len({e.length_nats for e in every}) == 6
    (best,) = infill_all(model, Job(template, seed=3), Sampling())
    assert (best.text, best.bound, best.candidates) == (every[0].text, every[0].bound, 8)
    assert (best.bound, best.bound_error) == candidate_bound(model, best.tokens)
    (few,) = infill_all(model, Job(template, seed=3, candidates=2), Sampling())
    assert few.candidates == 2
    same = Job(parse_template("the [MASK:4] on"), seed=3, candidates=6)
    fixed = [e for e in infill.infill(model, [same], Sampling(), every=True) if isinstance(e, Filled)]
    assert len({e.text for e in fixed}) > 3  # each candidate is a draw of its own


def test_candidates_whose_lengths_fit_worse_are_not_drawn(model):
    job = Job(parse_template("the [MASK:2-7] on"), n=3, seed=3)
    every = [e for e in infill.infill(model, [job], Sampling(), every=True) if isinstance(e, Filled)]
    events = list(infill.infill(model, [job], Sampling()))
    for best in (e for e in events if isinstance(e, Filled)):
        all_drawn = [e for e in every if e.index == best.index]
        assert content(best) == content(all_drawn[0])
        assert (best.drawn, all_drawn[0].drawn) == (sum(e.lengths == best.lengths for e in all_drawn), 8)
        assert 0 < best.nfe < all_drawn[0].nfe / 3
    bar = [e for e in events if isinstance(e, Progress)]
    assert (bar[-1].done, bar[-1].total) == (3, 3)
    assert all(0 <= e.done <= e.total for e in bar)
    assert [e.share for e in bar] == sorted(e.share for e in bar)


def test_other_lengths_are_drawn_where_no_gap_begins_with_its_space(bpe, monkeypatch):
    monkeypatch.setattr(rejection, "ATTEMPTS", 1)
    made, job = model_of(bpe), Job(parse_template("the [MASK:1-3] of"), n=40, candidates=6)
    every = [e for e in infill.infill(made, [job], Sampling(steps=2), every=True) if isinstance(e, Filled)]
    found = infill_all(made, job, Sampling(steps=2))
    firsts = sorted((e for e in every if e.candidate == 0), key=lambda e: e.index)
    assert [content(e) for e in found] == [content(e) for e in firsts]
    assert len({tuple(e.lengths) for e in found}) > 1, "some rounds were drawn in vain"
    assert {e.drawn < 6 for e in found} == {True, False}


def test_lengths_without_a_number_come_last(model, monkeypatch):
    job = Job(parse_template("the [MASK:1-3] on"), n=2)
    for nats, lengths in ((lambda n: math.nan, {1, 2, 3}), (lambda n: 1.0 if n == 2 else math.nan, {2})):
        monkeypatch.setattr(infill, "length_nats", lambda model, tokens, nats=nats: nats(tokens.count(None)))
        found = infill_all(model, job, Sampling())
        assert [one.index for one in found] == [0, 1]
        assert {one.lengths[0] for one in found} <= lengths


def test_a_filling_of_which_other_lengths_are_drawn_does_not_wait_for_all_others(bpe, monkeypatch):
    monkeypatch.setattr(rejection, "ATTEMPTS", 1)
    monkeypatch.setattr(rejection, "tokens_at_once", lambda device: 64)
    job = Job(parse_template("the [MASK:1-3] of"), n=60, candidates=6)
    events = list(infill.infill(model_of(bpe), [job], Sampling(steps=2)))
    found = [e.index for e in events if isinstance(e, Filled)]
    assert sorted(found) == list(range(60))
    assert found == sorted(found)
    bar = [(e.done / e.total, e.share) for e in events if isinstance(e, Progress)]
    assert max(done for done, share in bar if share < 0.6) > 0.2, "the first ones do not wait for the last"
    assert max(abs(done - share) for done, share in bar) < 0.5


def content(one: Filled) -> tuple:
    """What is kept of a filling, whatever else was drawn for it."""
    return one.text, one.tokens, one.lengths, one.bound, one.length_nats, one.plain_edges, one.candidates


def test_two_ranges_are_spread_evenly_each(model):
    layouts = plan_job(model, Job(parse_template("[MASK:1-8] a [MASK:1-8]"), seed=5), Sampling()).layouts
    first, second = zip(*(layout.lengths for layout in layouts), strict=True)
    assert sorted(first) == sorted(second) == list(range(1, 9))
    assert first != second
    wide = plan_job(model, Job(parse_template("[MASK:1-20] a")), Sampling()).layouts
    assert sorted(layout.lengths[0] for layout in wide) == [2, 4, 7, 9, 12, 14, 17, 19]
    assert plan_job(model, Job(parse_template("[MASK:3-3] a")), Sampling()).layouts[0].lengths == [3]
    assert len(plan_job(model, Job(parse_template("[MASK:3-3] a")), Sampling()).layouts) == 1


def test_the_bound_of_a_candidate_is_the_models(model):
    """Against `Model.bound` with many more draws: five standard errors apart at most."""
    tokens = model.tokenizer.encode("the cat sat on the mat")
    found, error = candidate_bound(model, tokens)
    truth, truth_error = (float(v[0]) / len(tokens) for v in model.bound(torch.tensor([tokens]), draws=512))
    assert abs(found - truth) < 5 * (error**2 + truth_error**2) ** 0.5
    assert 0 < error < 0.2 * found
    assert abs(found - truth) < 0.1 * truth


def test_a_length_is_shared_by_the_open_gaps(model):
    (one,) = infill_all(model, Job(parse_template("the [MASK] sat [MASK:2] on [MASK]"), length=24), Sampling())
    assert len(one.tokens) == 24
    assert one.lengths == [5, 2, 4]
    (short,) = model.infill("the [MASK] sat")
    assert short.lengths == [1]
    (whole,) = model.infill(prefix="the")
    assert len(whole.tokens) == model.length


def test_less_memory_means_smaller_batches_and_the_same_texts(model, monkeypatch):
    job = Job(parse_template("the [MASK:3] sat"), n=7)
    whole = [one.tokens for one in infill_all(model, job, Sampling())]
    real, sizes = denoise.BatchDenoiser._denoise_batch, []

    def tight(self, batch, places):
        sizes.append(len(places))
        for step, event in enumerate(real(self, batch, places)):
            if len(places) > 2 and step == 3:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")
            yield event

    monkeypatch.setattr(denoise.BatchDenoiser, "_denoise_batch", tight)
    events = list(infill.infill(model, [job], Sampling()))
    assert [e.tokens for e in events if isinstance(e, Filled)] == whole
    assert sizes[:2] == [7, 3]
    assert max(sizes[2:]) <= 2
    bar = [e for e in events if isinstance(e, Progress)]
    assert (bar[-1].done, bar[-1].total, bar[-1].unit) == (7, 7, "fillings")
    warned = [e.text for e in events if type(e).__name__ == "Warn"]
    assert warned == [
        "not enough memory for 7 sequences at once: continuing with 3",
        "not enough memory for 3 sequences at once: continuing with 1",
    ]


def test_what_is_no_want_of_memory_is_not_hidden(model, monkeypatch):
    def broken(*_):
        raise RuntimeError("size mismatch")

    monkeypatch.setattr(denoise.BatchDenoiser, "_denoise_batch", broken)
    with pytest.raises(RuntimeError, match="size mismatch"):
        infill_all(model, Job(parse_template("the [MASK:3] sat"), n=7), Sampling())


def test_levers_are_named_with_what_they_drew(model):
    (one,) = model.infill("the [MASK:3]", temperature=0.5, top_p=0.9, grid="cosine", correctors=1, normalized=True)
    assert one.levers == {"temperature": 0.5, "top_p": 0.9, "grid": "cosine", "correctors": 1, "normalized": True}
    assert (one.sampler, one.steps, one.draws) == ("tweedie", 4, "float64")
    (one,) = model.infill("the [MASK:3]", legacy=True)
    assert (one.draws, one.levers) == ("float32-gumbel", {"draws": "float32-gumbel"})
    (one,) = model.infill("the [MASK:3]", remask=0.02)
    assert (one.sampler, one.levers) == ("remdm", {"eta": 0.02})
    (one,) = model.infill("the [MASK:3]", sampler="first-hitting")
    assert (one.sampler, one.steps, one.levers) == ("first_hitting", None, {"normalized": True})
    (one,) = model.infill("the [MASK:3]", sampler="tweedie")
    assert one.levers == {}
    (one,) = model.infill("the [MASK:3]")  # first-hitting is of the normalised model
    assert one.levers == {"normalized": True}


def test_frames_show_the_way(model):
    job = Job(parse_template("the [MASK:3] sat"), n=2)
    events = list(infill.infill(model, [job], Sampling(sampler="tweedie"), watch=True))
    frames = [e for e in events if isinstance(e, Frame)]
    assert [f.step for f in frames] == [1, 2, 3, 4, 5]
    done = [e.tokens for e in events if isinstance(e, Filled)]
    assert [seen.x for seen in frames[-1].sequences] == done
    for seen in (s for f in frames for s in f.sequences):
        assert all(want is None or want == got for want, got in zip(seen.given, seen.x, strict=True))
    assert not [e for e in infill.infill(model, [Job(parse_template("[MASK]"))], Sampling()) if isinstance(e, Frame)]


@pytest.mark.parametrize(
    ("template", "options", "words"),
    [
        ("[MASK:25]", {}, "a gap of 25 tokens is longer than the model's 24"),
        ("the cat [MASK:20] sat", {}, "takes 32 tokens (12 given, 20 to fill), the model has room for 24"),
        ("the cat sat on the mat [MASK:1] and", {}, "the model has room for 24"),
        ("the Ω and Ж [MASK]", {}, "cannot represent 'Ω', 'Ж'"),
        ("the [MASK:3]", {"length": 12}, "no gap of the template is open"),
        ("the [MASK]", {"length": 25}, "between 1 and the model's 24"),
        ("the [MASK]", {"length": 0}, "at least 1"),
        ("the [MASK]", {"length": 4}, "nothing is left to fill"),
        ("the [MASK] a [MASK]", {"length": 8}, "nothing is left to fill"),
        ("the [MASK]", {"n": 0}, "n must be at least 1"),
        ("the [MASK]", {"candidates": 0}, "candidates must be at least 1"),
        ("the [MASK]", {"candidates": 10**9}, "candidates must be at most 1,024"),
        ("the [MASK]", {"steps": 10**9}, "steps must be at most 1,048,576"),
        ("the [MASK]", {"correctors": 10**9}, "correctors must be at most 1,024"),
        ("the [MASK]", {"seed": -1}, "seed must lie"),
        ("the [MASK]", {"steps": 0}, "steps must be at least 1"),
        ("the [MASK]", {"batch": 0}, "batch must be at least 1"),
        ("the [MASK]", {"sampler": "plms"}, "did you mean|Accepted"),
        ("the [MASK]", {"temperature": 0.0}, "temperature must be positive"),
        (
            "the [MASK]",
            {"sampler": "first-hitting", "steps": 3},
            "--steps means nothing with the sampler first_hitting",
        ),
        ("the [MASK]", {"sampler": "first-hitting", "legacy": True}, "--legacy-float32-gumbel means nothing"),
        ("the [MASK]", {"sampler": "euler", "remask": 0.1}, "--remask means nothing with the sampler euler"),
        ("the [MASK]", {"grid": "log"}, "linear, cosine, even"),
    ],
)
def test_a_wrong_request_is_refused_with_the_reason(model, template, options, words):
    with pytest.raises(RequestError, match=re.escape(words) if "|" not in words else words):
        model.infill(template, **options)


def test_what_needs_a_mask_is_refused_without_one(bpe):
    uniform = model_of(bpe, "uniform")
    for options in (
        {"normalized": True},
        {"sampler": "first_hitting"},
        {"remask": 0.1},
        {"sampler": "first_hitting", "steps": 9},
    ):
        with pytest.raises(RequestError, match="needs one with MASK"):
            uniform.infill("the [MASK:2]", **options)
    with pytest.raises(RequestError, match="the sampler first-hitting means nothing"):  # as options spell it
        uniform.infill("the [MASK:2]", sampler="first_hitting")
    with pytest.raises(RequestError, match="needs one whose only noise is MASK"):
        model_of(bpe, "hybrid").infill("the [MASK:2]", sampler="confidence")
    with pytest.raises(RequestError, match=r"--normalized means nothing .* needs one whose only noise is MASK"):
        model_of(bpe, "hybrid").infill("the [MASK:2]", normalized=True)  # its scores at MASK are no p(x0|x)


def test_gibbs_sweeps_keep_the_given_text_and_are_counted(bpe):
    uniform = model_of(bpe, "uniform")
    options = {"sampler": "gibbs", "steps": 3, "sweeps": 2, "seed": 5}
    (filled,) = uniform.infill("the [MASK:3] over", **options)
    assert filled.text.startswith("the")
    assert filled.text.endswith(" over")
    assert filled.sampler == "gibbs"
    assert filled.levers == {"sweeps": 2}
    assert filled.nfe == filled.drawn * (3 + 1 + 2 * 3)
    assert uniform.infill("the [MASK:3] over", **options)[0].text == filled.text


def test_gibbs_sweeps_are_for_graphs_without_mask(model):
    with pytest.raises(RequestError, match="gibbs needs a graph without MASK, absorbing has one"):
        model.infill("the [MASK:2]", sampler="gibbs")
    with pytest.raises(RequestError, match="--sweeps means nothing with the sampler tweedie"):
        model.infill("the [MASK:2]", sampler="tweedie", sweeps=2)


def test_either_a_template_or_texts(model):
    for wrong in ({}, {"template": "[MASK]", "prefix": "a"}):
        with pytest.raises(RequestError, match="either a template"):
            model.infill(**wrong)


def test_a_tokenizer_that_reads_otherwise_is_said(tmp_path):
    """BERT's lower-cases: the given text comes back as it was, and a warning tells what the model reads."""
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "##s", "a", ".", ","]
    (tmp_path / "vocab.txt").write_text("\n".join(vocab))
    made = model_of(load_tokenizer(str(tmp_path / "vocab.txt")))
    events = list(infill.infill(made, [Job(parse_template("The Cat [MASK:2] sat."), n=20)], Sampling(steps=2)))
    assert any("tokenizer changes 'The Cat '" in e.text for e in events if type(e).__name__ == "Warn")
    for one in (e for e in events if isinstance(e, Filled)):
        assert one.text.startswith("The Cat ")
        assert one.text.endswith(" sat.")
        assert "  " not in one.text


def test_short_gaps_are_filled_one_token_at_a_time_unless_something_is_chosen(model):
    """First-hitting is the default if no option concerns the steps and the gaps have no more tokens than steps."""
    job = Job(parse_template("the [MASK:3] sat"))
    (one,) = infill_all(model, job, Sampling())
    assert (one.sampler, one.levers) == ("first_hitting", {"normalized": True})
    assert one.nfe == 3 * one.drawn
    steps = model.recipe.sampler.options["steps"]
    for sampling in (
        Sampling(steps=steps),
        Sampling(sampler="tweedie"),
        Sampling(correctors=1),
        Sampling(thinning=False),
        Sampling(grid="cosine"),
        Sampling(last_step="bayes"),
    ):
        assert plan_job(model, job, sampling).resolved.sampler.name == "tweedie"
    assert plan_job(model, job, Sampling(temperature=0.5)).resolved.sampler == SAMPLERS["first_hitting"](0.5)
    long = Job(parse_template(f"the [MASK:{steps + 1}]"))
    assert plan_job(model, long, Sampling()).resolved.sampler.name == "tweedie"
    chosen = dataclasses.replace(
        model.recipe, sampler=SamplerPart.from_data({"name": "tweedie", "steps": 9, "temperature": 0.7}, "sampler")
    )
    assert plan_job(dataclasses.replace(model, recipe=chosen), job, Sampling()).resolved.sampler.name == "tweedie"


def test_of_a_known_source_steps_make_impossible_fillings_and_first_hitting_none():
    """Texts that repeat one of two tokens: 128 steps unmask two positions at once in 1 of 128, half of them unlike."""

    class AllEqual:
        def hidden(self, x, sigma):
            seen = torch.stack([(x == token).any(1) for token in range(2)], -1).double()
            p = torch.where(seen.sum(-1, keepdim=True) == 0, 0.5, seen / seen.sum(-1, keepdim=True).clamp(min=1))
            z = torch.cat([(2 * p).clamp(min=1e-30).log(), torch.zeros(len(x), 1, dtype=torch.float64)], -1)
            return z[:, None].expand(*x.shape, 3)

        def head(self, hidden):
            return hidden

    score = ScoreModel(AllEqual(), GRAPHS["absorbing"](vocab_size=2), SCHEDULES["loglinear"]())
    draws, impossible, evaluations = 20_000, {}, {}
    for sampler in (SAMPLERS["tweedie"](steps=128), SAMPLERS["first_hitting"]()):
        *_, last = sampler.run(score, Conditioning.nothing(draws, 2), 1, torch.arange(draws))
        impossible[sampler.name] = int((last.x[:, 0] != last.x[:, 1]).sum())
        evaluations[sampler.name] = float(last.evaluations.double().mean())
    expected = draws / 128 / 2
    assert impossible["first_hitting"] == 0
    assert abs(impossible["tweedie"] - expected) < 5 * expected**0.5
    assert evaluations["first_hitting"] == 2
    assert evaluations["tweedie"] > 4


def test_candidates_without_a_finite_bound_come_last_and_it_is_said(model, monkeypatch):
    """NaN compares with nothing, so a ranking by it would be that of chance."""
    drawn = []

    def nan_at_first(model, tokens, size):
        drawn.append(tokens)
        return torch.full((64,), math.nan if len(drawn) == 1 else 60.0 + len(drawn), dtype=torch.float64)

    monkeypatch.setattr("sedd_cli.inference.bound._draw_candidate", nan_at_first)
    events, done = completed(
        infill.infill(model, [Job(parse_template("the [MASK:6] sat"), candidates=4)], Sampling(), every=True)
    )
    bounds = [one.bound for one in done.samples]
    assert bounds == sorted(bounds)
    assert math.isinf(bounds[-1])
    assert any("no finite bound" in event.text for event in events if isinstance(event, Warn))


def test_a_character_of_bytes_in_several_gaps_is_whole():
    byte = load_tokenizer("byte")
    for text in ("é", "中", "a中b", "é中"):
        row = [*byte.encode("x "), *byte.encode(text), *byte.encode(" y")]
        gaps = "[MASK]" * len(byte.encode(text))
        found = lay_out(parse_template(f"x {gaps} y"), [], byte, False, len(row)).read(row)
        assert found.text == f"x {text} y"
        assert "".join(found.gaps) == text
    broken = [*byte.encode("x"), 0xE4, 0xB8, *byte.encode("y")]
    assert lay_out(parse_template("x[MASK][MASK]y"), [], byte, False, 4).read(broken).text.startswith("x\ufffd")


def test_a_length_of_none_is_the_trained_one(model):
    whole = model.infill(prefix="the ", seed=1)[0].tokens
    assert model.infill(prefix="the ", length=None, seed=1)[0].tokens == whole
    assert model.infill({"prefix": "the "}, length=None, seed=1)[0].tokens == whole


def test_warnings_are_those_of_python_where_a_function_of_python_draws(wordpiece):
    made = model_of(wordpiece)
    with pytest.warns(UserWarning, match="the tokenizer changes 'The Cat") as sampled:
        made.sample(1, prompt="The Cat", steps=2)
    with pytest.warns(UserWarning, match="the tokenizer changes 'The Cat") as filled:
        made.infill("The Cat [MASK:2]", steps=2)
    with pytest.warns(UserWarning, match="did you mean 'seed'") as misspelt:
        made.infill([{"template": "the [MASK:2]", "sed": 3}], steps=2)
    assert {warning.filename for warning in [*sampled, *filled, *misspelt]} == {__file__}


def test_a_length_holds_for_the_templates_of_dictionaries_too(model):
    jobs = [{"template": "the [MASK]"}, {"template": "the [MASK]", "length": 9}, {"prefix": "the "}]
    found = model.infill(jobs, length=16, seed=1, steps=2)
    assert [len(one.tokens) for (one,) in found] == [16, 9, 16]
    assert found[0][0].tokens == model.infill("the [MASK]", length=16, seed=1, steps=2)[0].tokens
    with pytest.raises(RequestError, match="no gap of the template is open"):
        model.infill([{"template": "the [MASK:3]"}], length=16)


@pytest.mark.parametrize("key", [3, None, ("a",)])
def test_a_key_that_is_no_text_is_refused(model, key):
    with pytest.raises(RequestError, match="job 1: its keys must be text, found"):
        model.infill([{"template": "the [MASK:2]", key: 1}])


def test_a_bound_is_one_of_the_text_itself(model, wordpiece):
    with pytest.raises(RequestError, match="cannot represent 'Ω'"):
        model.bound(["the cat", "the Ω"], draws=4)
    with pytest.warns(UserWarning, match="the tokenizer changes 'The Cat'") as seen:
        model_of(wordpiece).bound("The Cat", draws=4)
    assert seen[0].filename == __file__


def test_temperature_0_is_accepted_where_the_recipes_own_sampler_accepts_it(tiny_run):
    model = load_model(tiny_run, device="cpu")
    with pytest.raises(RequestError, match="temperature must be positive"):
        Sampling(temperature=0.0).resolve(model)
    for named in ("tweedie", "{name: euler}"):
        with pytest.raises(RequestError, match="temperature must be positive"):  # before a model is loaded
            Sampling(temperature=0.0, sampler=named)
    model.recipe = dataclasses.replace(model.recipe, sampler=SamplerPart.from_data({"name": "confidence"}, "sampler"))
    assert Sampling(temperature=0.0).resolve(model).sampler == SAMPLERS["confidence"](temperature=0.0)
