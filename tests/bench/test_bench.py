"""Benches: both paths do the same work, and the numbers of the report agree."""

from __future__ import annotations

import json
import types

import numpy as np
import pytest
import torch
from support.jobs import completed, returned

from sedd_cli.bench import loss as loss_module
from sedd_cli.bench import model, plain
from sedd_cli.bench import prepare as prepare_module
from sedd_cli.bench import sample as sample_module
from sedd_cli.bench import train as train_module
from sedd_cli.bench.compare import BenchOptions, compare
from sedd_cli.bench.loader import LoaderBenchOptions, bench_loader
from sedd_cli.bench.loss import bench_loss
from sedd_cli.bench.model import ModelBenchOptions
from sedd_cli.bench.model import matmul_peak as measured_peak
from sedd_cli.bench.prepare import PrepareBenchOptions, bench_prepare, encode_by_map, encode_to_shards
from sedd_cli.bench.sample import SampleBenchOptions, bench_sample
from sedd_cli.bench.train import PlainTraining, bench_train
from sedd_cli.cli.view.bench import bench_table
from sedd_cli.core.samplers.tweedie import tweedie_step
from sedd_cli.core.score import ScoreModel
from sedd_cli.data.tokenizers import load_tokenizer
from sedd_cli.errors import RequestError
from sedd_cli.models.dit import DiT
from sedd_cli.recipe.assemble import make_graph, make_net
from sedd_cli.system.events import Note, Progress
from sedd_cli.training.flops import head_flops, mean_active_share, training_flops, trunk_flops_a_token
from sedd_cli.training.state import LossModule


@pytest.mark.slow
def test_the_prepare_bench_counts_tokens_of_both_paths(workplace):
    options = PrepareBenchOptions(1, str(workplace / "corpus.txt"), "byte", megabytes=0.2, workers=2)
    events, result = completed(bench_prepare(options))
    # every byte is a token, plus one a document; the text is read until 0.2 million characters are full
    assert 200_000 < result.tokens < 220_000
    rates = [path.tokens_per_second for path in result.paths.values()]
    assert result.ratio == pytest.approx(rates[0] / rates[1])
    assert [e.done for e in events if isinstance(e, Progress)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("splits", "message"), [({}, "holds no text"), ({"train": lambda: iter(["", ""])}, "are all empty")]
)
def test_the_prepare_bench_refuses_a_corpus_without_text(tmp_path, monkeypatch, splits, message):
    source = types.SimpleNamespace(open=lambda request: types.SimpleNamespace(splits=splits))
    monkeypatch.setattr(prepare_module, "find_corpus", lambda request: source)
    with pytest.raises(RequestError, match=message):
        returned(bench_prepare(PrepareBenchOptions(1, str(tmp_path), "byte")))


@pytest.mark.parametrize(("recipe", "every"), [("gpt2_small", False), ("gpt2_small_uniform", True)])
def test_the_head_counts_in_every_evaluation_on_the_uniform_graph(recipe, every):
    recipe = small(recipe)
    result = returned(bench_sample(SampleBenchOptions(repeats=1, recipe=recipe, batch=1, device="cpu", steps=3)))
    found, head = result.paths["plain"].details, head_flops(recipe.model, make_graph(recipe, 257))
    heads = found["evaluations"] if every else 1
    trunk = trunk_flops_a_token(recipe.model)
    assert found["useful_flops_per_token"] == pytest.approx(found["evaluations"] * trunk + heads * head)


def test_the_loader_bench_counts_tokens():
    result = returned(bench_loader(LoaderBenchOptions(repeats=1, length=16, batch=4, tokens=4096)))
    assert result.tokens == 4096
    assert set(result.paths) == {"loader", "block by block"}


def test_paths_that_disagree_are_an_error():
    paths = {"one": lambda: 1, "two": lambda: 2}
    with pytest.raises(AssertionError, match="disagree"):
        list(compare("x", paths, BenchOptions(1), {}))


def test_memory_counts_what_a_path_allocates():
    held = np.ones(2**24)  # 128 MiB allocated before

    def large() -> int:
        return len(np.ones(2**25) + 1) and 1  # 256 MiB

    result = returned(compare("x", {"small": lambda: 1, "large": large}, BenchOptions(1), {}))
    extra = {name: path.extra_mib for name, path in result.paths.items()}
    assert 240 < extra["large"] < 300
    assert extra["small"] < 20
    assert held.sum() == 2**24


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: PrepareBenchOptions(repeats=0), "repeats"),
        (lambda: PrepareBenchOptions(megabytes=0), "megabytes"),
        (lambda: PrepareBenchOptions(tokenizer="bpe:100"), "trained first"),
        (lambda: LoaderBenchOptions(length=0), "length"),
    ],
)
def test_a_wrong_request_is_refused(make, word):
    with pytest.raises(RequestError, match=word):
        make()


@pytest.mark.slow
def test_the_command_prints_a_table_and_json(sedd):
    assert "ratio" in sedd("bench", "loader", "--repeats", 1, "--batch", 512).out
    assert json.loads(sedd("bench", "loader", "--repeats", 1, "--batch", 512, "--json").out)["bench"] == "loader"


def test_byte_tokens_of_both_paths_are_the_same(workplace, tmp_path):
    import datasets

    documents = ["the cat", "", "a mat Ω"]
    tokenizer = load_tokenizer("byte")
    dataset = datasets.Dataset.from_dict({"text": documents})
    assert encode_to_shards(iter(documents), tokenizer, 2, tmp_path) == encode_by_map(dataset, tokenizer, 1)


SMALL = ["model.n_blocks=1", "model.hidden_size=32", "model.n_heads=2", "model.cond_dim=8", "model.length=16"]


def small(name="gpt2_small", *changes):
    from sedd_cli.recipe import load_recipe

    return load_recipe(name, [*SMALL, "data.tokenizer=byte", *changes])


@pytest.fixture(autouse=True)
def _no_measurement(monkeypatch):
    """Skip the measurement of the machine's peak."""
    for module in (model, train_module, loss_module, sample_module):
        monkeypatch.setattr(module, "matmul_peak", lambda device: 1e12)


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_peak_is_that_of_the_precision_of_models_and_takes_seconds(native, dtype, monkeypatch):
    seen = []
    monkeypatch.setattr(model, "native_bf16", lambda device: native)
    monkeypatch.setattr(model, "PEAK_SECONDS", 0.0)
    monkeypatch.setattr(torch, "matmul", lambda a, b: seen.append((len(a), a.dtype)))
    monkeypatch.setattr(torch, "randn", lambda *size, device: torch.zeros(*size))
    assert measured_peak(torch.device("cpu")) > 0
    assert seen == [(size, dtype) for size in (1024, 2048, 4096)]
    facts = ModelBenchOptions(recipe=small(), device="cpu").facts(1.0, 1.0)
    assert facts["matmul_peak_precision"] == ("bf16" if native else "fp32")


@pytest.mark.parametrize("native", [True, False])
def test_models_are_compared_with_both_baselines(native, monkeypatch):
    monkeypatch.setattr(model, "native_bf16", lambda device: native)
    shared = {"repeats": 1, "recipe": small(), "batch": 2, "device": "cpu"}
    for work in (
        bench_train(ModelBenchOptions(**shared)),
        bench_loss(ModelBenchOptions(**shared)),
        bench_sample(SampleBenchOptions(**shared, steps=5)),
    ):
        result = returned(work)
        rates = {name: path.tokens_per_second for name, path in result.paths.items()}
        assert list(rates) == ["sedd", "plain", *["plain, bf16 autocast"] * native]
        assert result.ratio == pytest.approx(rates["sedd"] / rates["plain"])
        shown = bench_table(result.to_dict()).caption
        assert (f"({rates['sedd'] / list(rates.values())[-1]:.2f} to plain, bf16 autocast)" in str(shown)) is native


@pytest.mark.parametrize("objective", ["score_entropy", "masked_cross_entropy"])
def test_the_plain_head_multiplies_under_autocast_where_asked(objective, monkeypatch):
    seen = []
    head = plain.head

    def recorded(hidden, weight, bias, autocast=None):
        z = head(hidden, weight, bias, autocast)
        seen.append((autocast, z.dtype, bool((z == head(hidden, weight, bias)).all())))
        return z

    monkeypatch.setattr(plain, "head", recorded)
    monkeypatch.setattr(model, "native_bf16", lambda device: True)
    recipe = small("gpt2_small", f"objective={objective}")
    returned(bench_loss(ModelBenchOptions(repeats=1, recipe=recipe, batch=2, device="cpu")))
    # an untimed run before each timed one, after the first of all
    assert (
        seen
        == [(None, torch.float32, True), (torch.bfloat16, torch.float32, False)]
        + [(None, torch.float32, True)] * 2
        + [(torch.bfloat16, torch.float32, False)] * 2
    )


def test_the_plain_sampler_computes_under_autocast_where_asked(monkeypatch):
    seen = []
    step = plain.tweedie_step
    monkeypatch.setattr(plain, "tweedie_step", lambda net, *a: seen.append(net.autocast) or step(net, *a))
    monkeypatch.setattr(model, "native_bf16", lambda device: True)
    returned(bench_sample(SampleBenchOptions(repeats=1, recipe=small(), batch=2, device="cpu", steps=5)))
    assert seen == ([None] * 3 + [torch.bfloat16] * 3) * 2


def test_the_plain_step_computes_under_autocast_where_asked(monkeypatch):
    seen = []
    loss_of = plain.training_loss
    monkeypatch.setattr(plain, "training_loss", lambda *a: seen.append(a[1].autocast) or loss_of(*a))
    training = PlainTraining(ModelBenchOptions(repeats=1, recipe=small(), batch=2, device="cpu"))
    assert (training.step(), training.step(torch.bfloat16), training.step()) == (32, 32, 32)
    assert seen == [None, torch.bfloat16, None]


def test_the_loss_bench_measures_a_graph_without_kernels():
    options = ModelBenchOptions(repeats=1, recipe=small("gpt2_small", "graph=hybrid"), batch=2, device="cpu")
    result = returned(bench_loss(options))
    assert list(result.paths) == ["sedd", "plain"]
    assert result.tokens == 32


def test_a_graph_too_large_for_its_dense_form_is_refused_before_any_work(sedd):
    done = sedd("bench", "loss", "--recipe", "gpt2_small", "--device", "cpu", "graph=hybrid")
    assert done.code == 2
    assert "graph: the graph 'hybrid' with 50,258 states has no closed form" in done.err


@pytest.mark.parametrize("recipe", ["gpt2_small", "gpt2_small_uniform"])
def test_train_and_loss_benches_add_up(recipe):
    for bench_one in (bench_train, bench_loss):
        options = ModelBenchOptions(repeats=1, recipe=small(recipe), batch=2, device="cpu")
        result = returned(bench_one(options)).to_dict()
        fast = result["paths"]["sedd"]
        assert result["tokens"] == 32
        assert result["ratio"] == pytest.approx(
            fast["tokens_per_second"] / result["paths"]["plain"]["tokens_per_second"]
        )
        assert fast["flops"] == pytest.approx(fast["tokens_per_second"] * result["useful_flops_per_token"])
        assert fast["share_of_measured_peak"] == pytest.approx(fast["flops"] / result["matmul_peak"])
        json.dumps(result)


def test_a_recipes_duration_follows_from_the_rate():
    recipe = small("gpt2_small", "train.steps=1000", "train.batch=8", "train.micro_batch=2")
    result = returned(bench_train(ModelBenchOptions(repeats=1, recipe=recipe, batch=2, device="cpu")))
    rate = result.paths["sedd"].tokens_per_second
    assert result.facts["recipe_hours_here"] == pytest.approx(1000 * 8 * 16 / rate / 3600)


def test_no_duration_follows_from_the_rate_of_another_optimizer():
    options = ModelBenchOptions(repeats=1, recipe=small("gpt2_small", "train.optimizer=muon"), batch=2, device="cpu")
    events, result = completed(bench_train(options))
    assert "recipe_hours_here" not in result.facts
    assert any(isinstance(e, Note) and "timed with adamw: the recipe, which has muon" in e.text for e in events)


OBJECTIVES = [["objective=autoregressive"], ["objective=d3pm"], ["objective=genmd4", "graph=state_dependent"]]


@pytest.mark.parametrize("changes", OBJECTIVES)
def test_useful_flops_are_those_of_the_recipes_objective(changes):
    recipe = small("gpt2_small", *changes)
    options = ModelBenchOptions(repeats=1, recipe=recipe, batch=2, device="cpu")
    graph, objective = make_graph(recipe, 257), recipe.objective.make()
    found = returned(bench_train(options)).facts["useful_flops_per_token"]
    tokens = recipe.train.steps * recipe.train.batch * recipe.model.length
    assert found == pytest.approx(training_flops(recipe, graph) / tokens)
    found = returned(bench_loss(options)).facts["useful_flops_per_token"]
    share = mean_active_share(objective, graph, recipe.noise.make())
    head = 3 * objective.corruptions * share * head_flops(recipe.model, graph)
    assert found == pytest.approx(head, rel=0.05), "of two noise levels, not of all"


@pytest.mark.parametrize("changes", OBJECTIVES)
def test_the_plain_step_trains_the_recipes_objective(changes):
    recipe = small("gpt2_small", *changes)
    graph, schedule, objective = make_graph(recipe, 257), recipe.noise.make(), recipe.objective.make()
    net = make_net(recipe, graph, torch.device("cpu")).eval()
    net.autocast = None
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    x0, v = torch.randint(257, (3, 16)), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    u = torch.rand(3, 16 * objective.corruptions, dtype=torch.float64)
    trained = LossModule(net, graph, schedule, objective)(x0, v, u).total / 3
    found = plain.training_loss(objective, net, graph, schedule, x0, v, u)
    torch.testing.assert_close(found.float(), trained.float(), rtol=1e-4, atol=1e-4)
    seen = []

    def training_loss(objective, net, graph, schedule, x0, v, u):
        seen.append((objective.name, net.causal, net.exponents is not None, u.shape[1]))
        return loss_of(objective, net, graph, schedule, x0, v, u)

    loss_of = plain.training_loss
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plain, "training_loss", training_loss)
        PlainTraining(ModelBenchOptions(repeats=1, recipe=recipe, batch=2, device="cpu")).step()
    assert seen == [(objective.name, objective.causal, objective.learns_exponents, 16 * objective.corruptions)]


def test_the_sampling_bench_samples_with_the_recipes_parametrization(monkeypatch):
    seen = []
    monkeypatch.setattr(sample_module, "ScoreModel", lambda *a, **k: seen.append(k) or ScoreModel(*a, **k))
    for changes in (["objective=d3pm"], []):
        recipe = small("gpt2_small", *changes)
        returned(bench_sample(SampleBenchOptions(repeats=1, recipe=recipe, batch=1, device="cpu", steps=2)))
    assert [found["parametrization"] for found in seen] == ["mean", "score"]


@pytest.mark.parametrize("graph", ["hybrid", "gaussian"])
def test_the_sampling_bench_refuses_graphs_whose_sampler_was_not_published(graph):
    with pytest.raises(RequestError, match=f"absorbing and uniform; found '{graph}'"):
        SampleBenchOptions(repeats=1, recipe=small("gpt2_small", f"graph={graph}"), batch=1, device="cpu", steps=2)


def test_the_sampling_bench_counts_evaluations_and_marks_extrapolation():
    options = SampleBenchOptions(repeats=1, recipe=small(), batch=2, device="cpu", steps=40, normalized=True)
    result = returned(bench_sample(options)).to_dict()
    fast, slow = (result["paths"][name] for name in ("sedd", "plain"))
    assert fast["evaluations"] <= 16  # tokens fall in at most as many steps
    assert (slow["evaluations"], slow["extrapolated"], fast["extrapolated"]) == (41, True, False)
    assert slow["seconds"] == pytest.approx(41 * slow["seconds_per_evaluation"])
    assert result["ratio"] == pytest.approx(slow["seconds"] / fast["seconds"])


@pytest.mark.parametrize("recipe", ["gpt2_small", "gpt2_small_uniform"])
def test_the_plain_step_draws_from_the_exact_distribution(recipe):
    """The published formulas, on a vocabulary small enough to count."""
    recipe = small(recipe)
    graph, noise = recipe.graph.make(vocab_size=4), recipe.noise.make()
    torch.manual_seed(0)
    net = DiT(recipe.model, graph.states).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))
        x, t, s, draws = torch.tensor([[graph.states - 1, 2, graph.states - 1]]), 0.6, 0.5, 20_000
        sigma, after = (noise(torch.tensor([w], dtype=torch.float64))[0] for w in (t, s))
        transition = tweedie_step(graph, graph.log_score(net(x, sigma), sigma, x), x, (sigma - after).expand(x.shape))
        generator = torch.Generator().manual_seed(1)
        moved = plain.tweedie_step(net, graph, noise, x.expand(draws, 3), t, s, generator)
    for i in range(3):
        weights = transition.weights[0, i].double()
        # at a token of the absorbing graph all weights are 0
        wanted = transition.move_probability[0, i] * weights / weights.sum().clamp(min=1e-300)
        wanted[x[0, i]] = 1 - transition.move_probability[0, i]
        seen = torch.bincount(moved[:, i], minlength=graph.states) / draws
        # four standard deviations of a share of 20,000 draws
        assert (seen - wanted).abs().max() < 4 * 0.5 / draws**0.5
    assert 0.05 < float(transition.move_probability.max()) < 0.95


def test_the_plain_loss_is_the_one_that_is_trained():
    from sedd_cli.core.bounds import paper_bound

    recipe = small()
    graph, noise = recipe.graph.make(vocab_size=257), recipe.noise.make()
    net = DiT(recipe.model, graph.states).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    x0, u = torch.randint(257, (3, 16)), torch.rand(3, 16, dtype=torch.float64)
    v = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    with torch.no_grad():
        expected = paper_bound(ScoreModel(net, graph, noise), x0, v, u).mean()
        torch.testing.assert_close(plain.loss(net, graph, noise, x0, v, u), expected, rtol=1e-4, atol=1e-4)


def test_the_sampling_bench_of_the_uniform_graph_shows_its_steps():
    recipe = small("gpt2_small_uniform")
    events, result = completed(
        bench_sample(SampleBenchOptions(repeats=1, recipe=recipe, batch=2, device="cpu", steps=5))
    )
    assert result.paths["sedd"].details["evaluations"] == 6
    shown = [e for e in events if isinstance(e, Progress)]
    assert {(e.task, e.total) for e in shown} == {("bench sample", 4)}
    assert [e.metrics["step"] for e in shown if "step" in e.metrics] == [f"{k} of 6" for k in range(1, 7)] * 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--batch", "0"], "batch"),
        (["sample", "--recipe", "gpt2_small_uniform", "--normalized"], "normalized needs the absorbing graph"),
        (["sample", "--steps", "0"], "steps"),
        (["sample", "objective=autoregressive"], "times diffusion models, found the objective autoregressive"),
        (["loss", "--recipe", "nothing"], "no shipped recipe"),
        (["loss", "objective=genmd4"], "set graph=state_dependent"),
        (["speedrun", "quickstart"], "write --recipe quickstart"),
        (["train", "train.steps=5", "recipes/mine.yaml"], "write --recipe recipes/mine.yaml"),
    ],
)
def test_wrong_requests_of_model_benches(sedd, words, message):
    done = sedd("bench", *words)
    assert done.code == 2
    assert message in done.err


@pytest.mark.parametrize("recipe", ["gpt2_small", "gpt2_small_uniform"])
def test_the_loss_bench_compares_equal_losses_and_gradients(recipe):
    from sedd_cli.core.fast import kernels_of
    from sedd_cli.core.fast.base import ScoreEntropyTiles, Targets
    from sedd_cli.core.fast.fused import weighted_loss
    from sedd_cli.models.head import Readout

    recipe, g = small(recipe), torch.Generator().manual_seed(0)
    graph, noise = recipe.graph.make(vocab_size=257), recipe.noise.make()
    x0 = torch.randint(257, (3, 16), generator=g)
    sigma = noise(torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64))[0]
    x = graph.perturb(x0, sigma, torch.rand(3, 16, dtype=torch.float64, generator=g))
    shapes = (graph.states, 8), (graph.states,), (3, 16, 8)
    weight, bias, hidden = (torch.randn(shape, generator=g).requires_grad_() for shape in shapes)
    slow = plain.head_loss(plain.head(hidden, weight, bias), graph, sigma, x, x0)
    wanted = torch.autograd.grad(slow, [weight, bias, hidden])
    at = graph.active(x).nonzero(as_tuple=True)
    targets, ones = Targets(x[at], x0[at], sigma[at[0]]), torch.ones(len(at[0]), dtype=torch.float64)
    fast = weighted_loss(Readout(weight, bias), ScoreEntropyTiles(kernels_of(graph), targets), hidden[at], ones)[0]
    found = torch.autograd.grad(fast, [weight, bias, hidden])
    # float32 sums in another order
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=0)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5 * float(theirs.abs().max()))


def test_plain_paths_do_not_round_factors_to_tf32(monkeypatch):
    """As in a process whose recipe has precision tf32."""
    seen = []

    def spied(name):
        real = getattr(plain, name)

        def spy(*given):
            seen.append((name, torch.backends.cuda.matmul.allow_tf32))
            return real(*given)

        monkeypatch.setattr(plain, name, spy)

    for name in ("training_loss", "head_loss", "tweedie_step"):
        spied(name)
    before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, True
    shared = {"repeats": 1, "recipe": small(), "batch": 2, "device": "cpu"}
    try:
        returned(bench_train(ModelBenchOptions(**shared)))
        returned(bench_loss(ModelBenchOptions(**shared)))
        returned(bench_sample(SampleBenchOptions(**shared, steps=2)))
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert set(seen) == {("training_loss", False), ("head_loss", False), ("tweedie_step", False)}
