"""Sampling through the model object: numbers and seeds, prompts, blocks."""

from __future__ import annotations

import pytest
import torch

from sedd_cli import load_model
from sedd_cli.core.samplers import SAMPLERS
from sedd_cli.errors import RequestError
from sedd_cli.inference.denoise import SequenceRequest, denoise
from sedd_cli.inference.generate import GenerateOptions, generate, generate_all, in_order
from sedd_cli.inference.sampling import Sampling
from sedd_cli.system.events import Frame, Note, Sampled, Warn


@pytest.fixture(scope="module")
def model(tiny_run):
    return load_model(tiny_run, device="cpu")


def test_prompts_survive_byte_for_byte_at_both_ends(model):
    for seed in range(20):
        (made,) = model.infill(prefix="the cat", suffix="list", length=18, seed=seed)
        assert made.text.startswith("the cat")
        assert made.text.endswith("list")
        assert len(made.tokens) == 18
        assert made.given == [(0, 7), (len(made.text) - 4, len(made.text))]


def test_a_sample_depends_on_seed_and_number_alone(model):
    five = [s.tokens for s in model.sample(5, seed=3)]
    assert [s.tokens for s in generate_all(model, GenerateOptions(n=2, seed=3, first=3))] == five[3:]
    assert [s.tokens for s in model.sample(5, seed=3, batch=2)] == five
    assert model.sample(1, seed=4)[0].tokens != five[0]


@pytest.mark.parametrize("seed", [0, 7, 2**63, 2**64 - 1])
def test_all_64_bits_of_a_seed_count(model, seed):
    (one,) = model.sample(1, seed=seed)
    assert one.seed == seed
    assert one.tokens != model.sample(1, seed=seed ^ 2**63)[0].tokens
    assert one.tokens == model.sample(1, seed=seed)[0].tokens


def test_evaluations_are_at_most_steps_plus_one(model):
    assert 1 <= model.sample(1, steps=7)[0].nfe <= 8
    assert 1 <= model.sample(1)[0].nfe <= 5  # the recipe's sampler has four steps
    # two tokens fall in at most two of a thousand steps, and nothing else costs an evaluation
    assert model.sample(1, length=2, steps=1000, normalized=True)[0].nfe <= 2
    assert model.sample(1, length=9, sampler="first_hitting")[0].nfe == 9


def test_a_sample_holds_real_tokens_only(model):
    for sample in model.sample(50):
        assert isinstance(sample, Sampled)
        assert all(0 <= token < model.graph.vocab_size for token in sample.tokens)


def test_short_samples_cost_short_evaluations(model, monkeypatch):
    lengths = []
    real = type(model.net).hidden
    monkeypatch.setattr(
        type(model.net), "hidden", lambda net, x, sigma: lengths.append(x.shape[1]) or real(net, x, sigma)
    )
    model.sample(2, length=5)
    assert set(lengths) == {5}


def test_each_prompt_has_n_samples_that_begin_with_it(model):
    prompts = ("the cat", "a dog ran", "list")
    found = model.sample(3, prompts=prompts, length=16)
    assert [s.index for s in found] == [0, 1, 2] * 3
    for i, sample in enumerate(found):
        assert sample.text.startswith(prompts[i // 3])
        assert sample.given == [(0, len(prompts[i // 3]))]
        assert sample.prompt == prompts[i // 3]
        assert len(sample.tokens) == 16
    assert [s.text for s in model.sample(3, prompts=prompts[1:2], length=16)] == [s.text for s in found[3:6]]


@pytest.mark.parametrize(
    ("length", "block", "stride"), [(60, 24, 12), (61, 20, 7), (25, None, None), (100, 24, 23), (30, 10, 1)]
)
def test_blocks_join_without_loss(model, length, block, stride):
    """Each block is given the tail of what is there, as it is, and adds the rest; no token is lost or drawn twice."""
    options = GenerateOptions(2, length, block=block, stride=stride, seed=1, prompts=("the cat",))
    block, stride = block or 24, stride or 12
    events = list(generate(model, options, watch=True))
    found = [e for e in events if isinstance(e, Sampled)]
    for sample in found:
        assert len(sample.tokens) == length
        assert sample.text == model.tokenizer.decode(sample.tokens)
        assert sample.text.startswith("the cat")
        last = {}
        for seen in (s for f in events if isinstance(f, Frame) for s in f.sequences if s.number == sample.index):
            last[seen.offset] = seen
        covered = 0
        for offset, seen in sorted(last.items()):
            tail = [token for token in seen.given if token is not None]
            if offset:
                assert len(seen.x) == block
                assert sample.tokens[offset:covered] == tail  # what it saw is what is there
                assert len(tail) == block - min(stride, length - covered)
            assert sample.tokens[offset : offset + len(seen.x)] == seen.x  # and what it added stays
            covered = offset + len(seen.x)
        assert covered == length
    one = generate_all(
        model,
        GenerateOptions(1, length, first=1, block=options.block, stride=options.stride, seed=1, prompts=("the cat",)),
    )
    assert one[0].tokens == found[1].tokens


def test_long_samples_are_finished_one_portion_after_another(model):
    kinds = [
        "sample" if isinstance(e, Sampled) else e.sequences[0].offset
        for e in generate(model, GenerateOptions(2, 40, block=24, stride=16, sampling=Sampling(batch=1)), watch=True)
        if isinstance(e, Sampled | Frame)
    ]
    once = [*[0] * 5, *[16] * 5, "sample"]
    assert kinds == once * 2


def test_samples_are_handed_over_in_order_though_they_finish_in_another(model):
    options = GenerateOptions(3, 16, ("the cat", "a dog"))
    found = generate_all(model, options)
    assert [(s.prompt, s.index) for s in found] == [(p, k) for p in options.prompts for k in range(3)]
    assert in_order(found[::-1]) == found


def test_each_block_has_noise_of_its_own(model, monkeypatch):
    from sedd_cli.inference import generate as module

    seeds, real = [], module.denoise
    monkeypatch.setattr(
        module, "denoise", lambda m, w, rows, *a: seeds.extend(r.seed for r in rows) or real(m, w, rows, *a)
    )
    model.sample(1, length=60, block=24, stride=12, seed=5)
    assert len(seeds) == 3
    assert len({5, *seeds}) == 4


def test_a_sample_beyond_the_length_begins_as_its_first_block(model):
    (short,), (long,) = model.sample(1, length=24, seed=5), model.sample(1, length=40, block=24, stride=8, seed=5)
    assert long.tokens[:24] == short.tokens
    assert long.nfe > short.nfe


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"length": 0}, "length must be at least 1"),
        ({"length": 10**9}, "length must be at most 1,048,576"),
        ({"block": 25, "length": 40}, "the model's 24"),
        ({"block": 0}, "block must be at least 1"),
        ({"length": 40, "stride": 24}, "between 1 and 23"),
        ({"length": 40, "stride": 0}, "stride must be at least 1"),
        ({"length": 20, "stride": 5}, "stride 5 means nothing"),
        ({"length": 20, "block": 24}, "block 24 means nothing"),
        ({"prompts": ("the cat sat on the mat for long",)}, "nothing is left to fill"),
        ({"prompts": ("the cat",), "length": 7}, "nothing is left to fill"),
        ({"prompts": ("Ω and the cat",)}, "'Ω'"),
        ({"sampling": {"sampler": "plms"}}, ", ".join(sorted(SAMPLERS))),
        ({"n": 0}, "at least 1"),
        ({"prompts": ("the cat sat on the mat",), "length": 60, "block": 20, "stride": 5}, "the first block, of 20"),
        ({"prompts": ("caf\udce9",)}, "is it UTF-8"),
        ({"sampling": {"sampler": ""}}, "unknown sampler ''"),
        ({"sampling": {"sampler": "{name: confidence, ordr: entropy}"}}, "did you mean 'order'"),
        ({"sampling": {"sampler": "{name: remdm, eta: 0.1}", "remask": 0.2}}, "eta .* given twice: .* as --remask"),
        ({"sampling": {"sampler": "{name: psi, kappa: 2}"}}, "kappa must lie in"),
        ({"sampling": {"sampler": "confidence", "guidance": 0.5}}, "guidance means nothing without given text"),
    ],
)
def test_a_wrong_request_is_refused_with_the_reason(model, options, word):
    def asked():
        return GenerateOptions(**options | {"sampling": Sampling(**options.get("sampling", {}))})

    with pytest.raises(RequestError, match=word):
        generate_all(model, asked())


@pytest.mark.parametrize("name", ["remdm-rescale", "remdm_rescale"])
def test_a_sampler_with_its_options_is_the_same_as_their_flags(model, name):
    one, other = (
        Sampling(steps=3, sampler=name, remask=0.3, temperature=0.5),
        Sampling(steps=3, sampler=f"{{name: {name}, eta: 0.3}}", temperature=0.5),
    )
    assert one.resolve(model).sampler == other.resolve(model).sampler


@pytest.mark.parametrize(("more", "expected"), [(0.0, 0), (1.5, 1)])
def test_steps_that_scored_everything_are_noted_once(tiny_run, more, expected):
    model = load_model(tiny_run, device="cpu")
    head = model.net.output_layer.linear
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(more)  # a normaliser of e^more at every position
    requests = [SequenceRequest((None,) * 24, seed=seed) for seed in range(6)]
    events = list(denoise(model, Sampling(steps=32, batch=2).resolve(model), requests))
    notes = [event for event in events if isinstance(event, Note)]
    assert len(notes) == expected
    assert all("of 32 steps scored all open positions" in note.text for note in notes)
    assert not any(isinstance(note, Warn) for note in notes)


@pytest.mark.parametrize("key", ["prompts", "prompt", "chat"])
def test_an_empty_list_of_prompts_is_not_no_prompt(model, key):
    with pytest.raises(RequestError, match="is an empty list"):
        model.sample(1, steps=2, **{key: []})


@pytest.mark.parametrize("first", [-1, 2**32 - 1, 2**70])
def test_numbers_that_have_no_draws_of_their_own_are_refused(model, first):
    for draw in (
        lambda: model.sample(2, first=first),
        lambda: model.infill("the [MASK:2]", 2, first=first),
        lambda: model.infill([{"template": "the [MASK:2]", "n": 2}], first=first),
        lambda: model.bound(["the", "cat"], first=first),
    ):
        with pytest.raises(RequestError, match=r"first(: whole numbers lie| must be at least 0)"):
            draw()
    assert len(model.sample(1, steps=1, first=2**32 - 1)) == 1
