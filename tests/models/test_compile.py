"""Compilation: the trial before, which options of the compiler are taken, and compilation for inference."""

import json
import shutil

import pytest
import torch
from support.toys import only_with_all

from sedd_cli.core.schedules import LogLinear
from sedd_cli.core.vocabulary import Vocabulary
from sedd_cli.models import compile as compile_module
from sedd_cli.models.compile import alternatives, compile_blocks, compile_for_inference
from sedd_cli.models.dit import DiT
from sedd_cli.models.network import Adapted, NoiseInput
from sedd_cli.models.shape import DiTConfig

OTHER = {"some.option": False}


@pytest.mark.parametrize(("seconds", "taken"), [(0.5, OTHER), (0.99, None), (2.0, None), (None, None)])
def test_other_options_are_taken_where_they_are_clearly_faster(seconds, taken, monkeypatch):
    def trial(net, batch, options):
        if options and seconds is None:
            raise RuntimeError("no such option")
        return seconds if options else 1.0

    given = []
    monkeypatch.setattr(compile_module, "_trial", trial)
    monkeypatch.setattr(compile_module, "alternatives", lambda device: [OTHER])
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, options: given.append(options))
    net = DiT(DiTConfig(n_blocks=2, hidden_size=16, n_heads=2, cond_dim=8, length=8), 12)
    assert compile_blocks(net, 2) is None
    assert given == [taken, taken]


def test_options_are_tried_on_gpus_alone():
    assert alternatives(torch.device("cpu")) == []


def network():
    torch.manual_seed(0)
    net = DiT(DiTConfig(n_blocks=2, hidden_size=16, n_heads=2, cond_dim=8, length=8), 12)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return net.eval()


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_for_inference_a_network_computes_the_same():
    net = network()
    x, sigma = torch.randint(0, 12, (3, 8)), torch.tensor([0.1, 1.0, 3.0])
    with torch.no_grad():
        expected = net(x, sigma)
        assert compile_for_inference(net) is None
        torch.testing.assert_close(net(x, sigma), expected, rtol=1e-5, atol=1e-6)
    assert net.compiled


def test_where_compiling_fails_the_network_stays_as_it_is(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no  compiler\nSet TORCHDYNAMO_VERBOSE=1")

    net = network()
    monkeypatch.setattr(compile_module, "_trial", fail)
    assert compile_for_inference(net) == "RuntimeError: no compiler"
    assert not net.compiled
    with torch.no_grad():
        net(torch.zeros(1, 8, dtype=torch.int64), torch.ones(1))


def test_what_was_recorded_before_compiling_is_not_replayed_after_it(monkeypatch):
    monkeypatch.setattr(compile_module, "_trial", lambda *_, **__: 0.0)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, dynamic, **options: None)
    net = network()
    net.cast_for_inference(None)
    before = net.graphed
    assert compile_for_inference(net) is None
    assert net.graphed is not None
    assert net.graphed is not before


def test_the_network_inside_an_adapted_one_is_compiled(monkeypatch):
    monkeypatch.setattr(compile_module, "_trial", lambda *_, **__: 0.0)
    given = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, dynamic, **options: given.append(dynamic))
    vocabulary = Vocabulary(12, 11, carries_over=True)
    net = Adapted(network(), vocabulary, NoiseInput("none", LogLinear()))
    assert compile_for_inference(net) is None
    assert given == [False, False]
    assert net.compiled
    assert net.net.compiled


def test_a_network_of_another_kind_is_not_compiled():
    assert compile_for_inference(torch.nn.Linear(1, 1)) == "only networks of SEDD's kind can be"


@only_with_all
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_command_compiles_on_request_and_says_so(sedd, tiny_run):
    plain = sedd("sample", "--model", tiny_run, "--steps", 4, "--json")
    compiled = sedd("sample", "--model", tiny_run, "--steps", 4, "--json", "--compile")
    assert compiled.code == plain.code == 0
    assert "fp32 compiled" in compiled.err
    samples = [json.loads(outcome.out)["samples"][0]["tokens"] for outcome in (plain, compiled)]
    assert samples[0] == samples[1]


def test_a_causal_model_of_transformers_is_not_compiled(sedd, monkeypatch):
    monkeypatch.setattr("sedd_cli.evaluation.scorers.pretrained.is_causal", lambda name: True)
    refused = sedd("eval", "--model", "gpt2", "--dataset", "wikitext2", "--compile")
    assert refused.code == 2
    assert "--compile means nothing with the causal model gpt2" in refused.err
