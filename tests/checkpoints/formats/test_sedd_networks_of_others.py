"""Checkpoints of others on SEDD's network against what their own code makes of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.peers import PEERS, peer

from sedd_cli import load_model
from sedd_cli.core.graphs.gidd import Mixing, gidd_process
from sedd_cli.core.losses.score_entropy import score_entropy
from sedd_cli.core.peer_losses import gidd_at
from sedd_cli.core.samplers.denoise import greedy_step

#: Log-probabilities of -1e6 and less stand for none at all.
NONE = -1e5
SUBS = ("mdlm-hf", "mdlm-ckpt", "mdlm-bert-ckpt", "duo-repo-mdlm-ckpt")
UNIFORM = ("udlm-hf", "udlm-ckpt", "duo-hf", "duo-ckpt")


def loaded(name):
    folder, arrays = peer(name)
    return load_model(folder, device="cpu"), {key: torch.from_numpy(np.asarray(arrays[key])) for key in arrays.files}


def equal(found, expected, atol=1e-5):
    none = expected < NONE
    assert torch.equal(found.isneginf(), none)
    torch.testing.assert_close(found[~none], expected[~none], rtol=0, atol=atol)


@pytest.mark.parametrize("name", [*SUBS, *UNIFORM, "mdlm-d3pm-ckpt"])
def test_the_distribution_of_the_clean_token_is_that_of_their_code(name):
    model, io = loaded(name)
    equal(model.log_p_x0(io["xt"], io["t"]), io["logprob"])


@pytest.mark.parametrize("name", [*SUBS, *UNIFORM])
def test_a_greedy_last_step_takes_the_tokens_of_their_greedy_noise_removal(name):
    """Their code takes the argmax of the clean token's distribution."""
    model, io = loaded(name)
    x = model.vocabulary.states_of(io["xt"])
    log_score = model.log_score(x, io["sigma"])
    here = model.graph.active(x)
    sigma = io["sigma"].double()[:, None].expand(x.shape)[here]
    move = greedy_step(model.graph, log_score[here], x[here], sigma)
    found = x.clone()
    found[here] = torch.where(move.move_probability > 0.5, move.weights.argmax(-1), x[here])
    assert torch.equal(model.vocabulary.ids(found), io["logprob"].argmax(-1))


def test_the_score_of_mdlms_sedd_is_that_of_their_code():
    model, io = loaded("mdlm-sedd-ckpt")
    found = model.log_score(model.vocabulary.states_of(io["xt"]), io["sigma"])
    equal(model.vocabulary.by_id(found), io["log_score"])


@pytest.mark.parametrize("name", ["radd-hf", "radd-run"])
def test_radds_distribution_is_that_of_its_averaged_weights(name):
    model, io = loaded(name)
    z = io["logits_averaged" if "logits_averaged" in io else "logits"][..., :-1].log_softmax(-1)
    found = model.log_p_x0(io["xt"], torch.full((len(z),), 0.5))
    torch.testing.assert_close(found[..., :-1], z, rtol=0, atol=1e-5)
    assert found[..., -1].isneginf().all()


def gidd_arrays(name, version):
    file = PEERS / name / f"io_schedule_{version}.npz"
    if not file.is_file():
        pytest.skip(f"no {name}/{file.name}: SEDD_PEERS names where other projects' networks are")
    return {key: torch.from_numpy(np.asarray(value)) for key, value in np.load(file).items()}


every_version = pytest.mark.parametrize("version", ["v1.0.1", "head"])


@every_version
def test_gidds_distribution_is_that_of_its_sampler(version):
    io, model = gidd_arrays("gidd-hf", version), load_model(PEERS / "gidd-hf", device="cpu")
    equal(model.log_p_x0(io["xt"], io["t"]), io["logprob_as_sampler"])


@every_version
def test_gidds_noise_reverse_step_and_elbo_are_those_of_its_code(version):
    io = gidd_arrays("gidd-hf", version)
    graph, schedule = gidd_process(61, Mixing(float(io["p_uniform"]), 61, version == "v1.0.1"))
    x, x0, z = io["xt"], io["x0"], io["logprob_as_sampler"].double()
    (sigma, dsigma), sigma_s = schedule(io["t"].double()), schedule(io["s"].double())[0]
    torch.testing.assert_close((-sigma).exp().float(), io["alpha_t"][:, 0])
    of_noise = graph.transition(sigma, torch.zeros_like(sigma, dtype=torch.int64))
    of_noise[:, 0] -= (-sigma).exp()
    torch.testing.assert_close(of_noise.float(), io["beta_pi_t"], rtol=1e-4, atol=1e-6)
    # their step: q(x_t | y)·q_s(y)/q_t(x_t), with the network's distribution in the place of x0
    p = F.pad(z[..., :61].exp(), (0, 1))
    q_s, q_t = (graph.propagate(at[:, None].expand(x.shape), p) for at in (sigma_s, sigma))
    into = graph.between(sigma_s, sigma).transition_into(sigma - sigma_s, x)
    torch.testing.assert_close(
        (into * q_s / q_t.gather(-1, x[..., None])).float(), io["reverse_q_st"], rtol=1e-4, atol=1e-6
    )
    elbo = dsigma[:, None] * score_entropy(graph, graph.plug_in_score(z, sigma, x), sigma, x, x0)
    if version == "v1.0.1":  # their first code adds terms whose mean is 0
        elbo = elbo + io["elbo_weights"] + io["alpha_ratio"]
    torch.testing.assert_close(elbo.float(), io["elbo_per_token"], rtol=2e-5, atol=2e-3)


@every_version
def test_the_protocol_of_gidd_averages_what_its_code_computes(version):
    io, model = gidd_arrays("gidd-hf", version), load_model(PEERS / "gidd-hf", device="cpu")
    mixing = replace(model.schedule.mixing, first_version=version == "v1.0.1")
    score = replace(model.score, schedule=replace(model.schedule, mixing=mixing))
    counted = torch.arange(16) < 12
    with torch.no_grad():
        elbo, training = gidd_at(score, io["x0"], io["xt"], io["t"], counted.expand(5, -1))
    expected = io["elbo_per_token"].double()
    if version == "v1.0.1":  # their first code adds terms whose mean is 0
        expected = expected - io["elbo_weights"] - io["alpha_ratio"]
    torch.testing.assert_close(elbo, (expected * counted).sum(1), rtol=2e-5, atol=2e-3)
    torch.testing.assert_close(training, io["training_loss_per_token"].double().sum(1), rtol=2e-5, atol=1e-3)


def test_mdlms_loss_is_ours():
    model, io = loaded("mdlm-hf")
    x, x0 = io["xt"], io["x0"]
    log_p = model.log_p_x0(x, io["t"]).gather(-1, x0[..., None])[..., 0]
    sigma, dsigma = model.schedule(io["t"].double())
    weight = dsigma / torch.expm1(sigma)
    torch.testing.assert_close((-log_p * weight[:, None]).float(), io["loss_per_token"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", UNIFORM)
def test_the_loss_of_uniform_models_is_the_score_entropy_of_outputs_in_the_clean_tokens_place(name):
    model, io = loaded(name)
    assert model.score.parametrization == "plug_in"
    duo = "alpha_t" in io
    alpha = io["alpha_t"].double() if duo else 1 - io["t"].double()  # UDLM's loss leaves eps out
    sigma, rate = -alpha.log(), (0.999 if duo else 1.0) / alpha
    log_score = model.graph.plug_in_score(io["logprob"].double(), sigma, io["xt"])
    loss = rate[:, None] * score_entropy(model.graph, log_score, sigma, io["xt"], io["x0"])
    torch.testing.assert_close(
        loss.float(), io["loss_per_token" if duo else "diffusion_loss_per_token"], rtol=2e-5, atol=2e-4
    )


def test_udlms_step_is_ours():
    model, io = loaded("udlm-hf")
    graph, x, p = model.graph, io["xt"], io["logprob"].double().exp()
    sigma_s, sigma_t = (-torch.log1p(-io[f"move_chance_{at}"].double()) for at in "st")
    q_s, q_t = (graph.propagate(at[:, None].expand(x.shape), p) for at in (sigma_s, sigma_t))
    step = graph.transition_into(sigma_t - sigma_s, x) * q_s / q_t.gather(-1, x[..., None])
    torch.testing.assert_close(step.float(), io["ddpm_q_xs"], rtol=1e-4, atol=1e-6)


def test_mdlms_cached_step_is_ours_with_the_time_as_chance_of_a_mask():
    """Their cached step keeps the prediction while nothing changes; MASK stays with probability s/t."""
    model, io = loaded("mdlm-hf")
    x, s, t = io["xt"], io["s"].double()[:, None, None], io["t"].double()[:, None, None]
    masked = (x == model.vocabulary.mask)[..., None]
    p = model.log_p_x0(x, io["t"]).double().exp() * (t - s)
    p[..., model.vocabulary.mask] = s[..., 0].expand(x.shape)
    found, expected = (
        value / value.sum(-1, keepdim=True) for value in (p, io["ddpm_cache_q_xs_unnormalised"].double())
    )
    keep = F.one_hot(x, p.shape[-1]).double()
    torch.testing.assert_close(
        torch.where(masked, found, keep), torch.where(masked, expected, keep), rtol=1e-4, atol=1e-6
    )


def test_mdlms_plain_step_is_our_analytic_one():
    """The step of `tweedie` for a masked model: MASK stays with probability (1 − α_s)/(1 − α_t)."""
    model, io = loaded("mdlm-hf")
    graph, x = model.graph, io["xt"]
    sigma_s, sigma_t = model.schedule(io["s"].double())[0], model.schedule(io["t"].double())[0]
    p = F.pad(model.log_p_x0(x, io["t"]).double().exp()[..., : graph.vocab_size], (0, 1))
    q_s, q_t = (graph.propagate(at[:, None].expand(x.shape), p) for at in (sigma_s, sigma_t))
    step = graph.transition_into(sigma_t - sigma_s, x) * q_s / q_t.gather(-1, x[..., None])
    expected = io["ddpm_q_xs_unnormalised"].double()
    masked = (x == graph.mask)[..., None]
    expected = torch.where(masked, expected / expected.sum(-1, keepdim=True), F.one_hot(x, graph.states).double())
    torch.testing.assert_close(step, expected, rtol=1e-4, atol=1e-6)


def test_udlms_reconstruction_is_its_distribution_without_noise():
    model, io = loaded("udlm-hf")
    log_p = model.log_p_x0(io["x0"], torch.zeros(len(io["x0"])))
    nats = -log_p.gather(-1, io["x0"][..., None])[..., 0]
    torch.testing.assert_close(nats, io["recon_loss_per_token"], rtol=1e-5, atol=1e-5)
    assert torch.equal(io["loss_per_token"], io["diffusion_loss_per_token"])  # their evaluation leaves it out


def test_udlms_loss_in_a_thousand_steps_is_the_divergence_of_our_steps():
    """Posteriors with the network's distribution in the clean token's place; its code has α = 1 − t here too."""
    model, io = loaded("udlm-hf")
    graph, x, x0, t = model.graph, io["xt"], io["x0"], io["t_T1000"]
    at = t.clamp(max=1 - 1e-4)
    sigma_s, sigma_t = (-torch.log1p(-(time.double())) for time in (at - 1e-3, at))

    def step(p):
        q_s, q_t = (graph.propagate(level[:, None].expand(x.shape), p) for level in (sigma_s, sigma_t))
        return graph.transition_into(sigma_t - sigma_s, x) * q_s / q_t.gather(-1, x[..., None])

    truth, guess = step(F.one_hot(x0, graph.states).double()), step(model.log_p_x0(x, t).double().exp())
    found = 1000 * (truth * ((truth + 1e-12).log() - guess.log())).sum(-1)
    # float32 there: divergences of 1e-4 are differences of numbers near 1
    torch.testing.assert_close(found.float(), io["d3pm_loss_T1000_per_token"], rtol=5e-3, atol=2e-2)


def test_duos_ancestral_step_and_removal_of_noise_are_ours():
    model, io = loaded("duo-ckpt")
    graph, x, p = model.graph, io["xt"], io["logprob"].double().exp()
    sigma_t = -io["alpha_t"].double().log()
    for alpha_s, name in ((io["alpha_s"].double(), "ancestral_q_xs"), (None, "ancestral_q_x0_noise_removal")):
        sigma_s = torch.zeros_like(sigma_t) if alpha_s is None else -alpha_s.log()
        q_s, q_t = (graph.propagate(at[:, None].expand(x.shape), p) for at in (sigma_s, sigma_t))
        step = graph.transition_into(sigma_t - sigma_s, x) * q_s / q_t.gather(-1, x[..., None])
        torch.testing.assert_close(step.float(), io[name].float(), rtol=1e-4, atol=1e-6)
