"""LLaDA, Dream, a2d and SMDM against the outputs of their own code."""

from __future__ import annotations

import re

import pytest
import torch
from support.peers import peer

from sedd_cli import load_model
from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.samplers import SAMPLERS
from sedd_cli.evaluation.likelihood.llada import normalised_over, weighted_log_p

#: Name → largest difference: that of float32, more for weights stored in bfloat16.
NAMES = {
    "llada": 1e-5, "llada-gqa-tied": 1e-5, "dream": 1e-4, "a2d-qwen2": 1e-4, "a2d-qwen3": 1e-5, "a2d-llama": 1e-5,
    "smdm": 1e-5,
}  # fmt: skip
every_peer = pytest.mark.parametrize("name", NAMES)


def loaded(name):
    folder, arrays = peer(name)
    return load_model(folder, device="cpu"), {key: torch.from_numpy(arrays[key]) for key in arrays.files}


@every_peer
def test_the_distribution_of_the_clean_token_is_that_of_their_code(name):
    model, arrays = loaded(name)
    found = model.log_p_x0(arrays["xt"], arrays["t"])[..., : arrays["logprob"].shape[-1]]
    torch.testing.assert_close(found, arrays["logprob"], rtol=0, atol=NAMES[name])


@every_peer
def test_outputs_are_those_of_their_network(name):
    model, arrays = loaded(name)
    net, shifted = model.net.net, model.net.first_given
    for of, given in {"logits": "xt", "logits_short": "xt_short", "logits_unmasked_input": "x0"}.items():
        x = arrays[given]
        z = net.head(net.hidden(x, torch.zeros(len(x))))
        expected = arrays[of]
        expected = torch.cat([expected[:, :1], expected[:, :-1]], 1) if shifted else expected
        torch.testing.assert_close(z, expected, rtol=0, atol=10 * NAMES[name])


def test_padding_is_masked_as_in_their_code():
    model, arrays = loaded("a2d-qwen2")
    net, seen = model.net.net, arrays["attention_mask"].bool()
    z = net.head(net.hidden(arrays["xt"], torch.zeros(len(seen)), seen))
    torch.testing.assert_close(z[seen], arrays["logits_with_attention_mask"][seen], rtol=0, atol=1e-4)


def test_the_likelihood_and_the_loss_of_llada_are_those_of_its_code():
    model, arrays = loaded("llada")
    own = model.vocabulary
    noisy, x0 = arrays["likelihood_noisy"], own.states_of(arrays["x0"])
    sizes = (normalised_over(model),)
    texts = x0[:1].expand(len(noisy), -1)
    found = weighted_log_p(model, texts, noisy == own.mask, arrays["likelihood_p_mask"], sizes)
    assert float(found.mean()) == pytest.approx(float(arrays["likelihood_log_p"]), abs=1e-4)
    log_p = weighted_log_p(model, x0, arrays["xt"] == own.mask, arrays["p_mask_training"], sizes)
    assert float(-log_p.sum() / x0.numel()) == pytest.approx(float(arrays["training_loss"]), abs=1e-5)


def test_guidance_is_that_of_llada():
    model, arrays = loaded("llada")
    x = model.vocabulary.states_of(arrays["xt"])
    without = torch.cat([torch.full_like(x[:, :4], model.graph.mask_state), x[:, 4:]], 1)
    z, other = (model.net.head(model.net.hidden(each, torch.zeros(len(x)))) for each in (x, without))
    found = model.vocabulary.by_id(other + 1.5 * (z - other))
    torch.testing.assert_close(found, arrays["logits_cfg_scale_0.5_prompt_of_4"], rtol=0, atol=1e-5)


@every_peer
def test_greedy_outputs_come_out_token_for_token(name):
    """Of all arrays whose names hold steps, and a block length or an order of Dream."""
    model, arrays = loaded(name)
    outputs = {key: value for key, value in arrays.items() if key.startswith("generate_out")}
    prompt = model.vocabulary.states_of(arrays["generate_prompt"]) if outputs else None
    for key, expected in outputs.items():
        options = {"steps": int(re.search(r"steps(\d+)", key)[1]), "temperature": 0.0, "all_rows": True}
        if block := re.search(r"block(\d+)", key):
            options["block_length"] = int(block[1])
        if name == "dream":
            orders = {"maskgit": "probability", "margin": "margin", "entropy": "entropy"}
            options |= {"order": next(order for word, order in orders.items() if word in key), "quota": "linear"}
        first = prompt.shape[1]
        tokens = torch.zeros_like(expected)
        tokens[:, :first] = prompt
        given = Conditioning(torch.arange(expected.shape[1]).expand_as(expected) < first, tokens)
        with torch.no_grad():
            *_, last = SAMPLERS["confidence"](**options).run(model.score, given, 0, torch.arange(len(expected)))
        assert torch.equal(model.vocabulary.ids(last.x), expected), key
