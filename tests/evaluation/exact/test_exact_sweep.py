"""`sedd sweep --exact`: its points, how they compare, and what it refuses."""

from __future__ import annotations

import json
import math

import pytest
import torch

from sedd_cli.core.graphs import GRAPHS
from sedd_cli.core.samplers import SAMPLERS
from sedd_cli.core.schedules import SCHEDULES
from sedd_cli.core.score import ScoreModel
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.exact.contenders import CONTENDERS, Contender
from sedd_cli.evaluation.exact.distances import divergence, drawn, drawn_distribution, total_variation
from sedd_cli.evaluation.exact.distribution import exact_distribution
from sedd_cli.evaluation.exact.options import ExactOptions
from sedd_cli.evaluation.exact.source import ExactNetwork, MarkovSource
from sedd_cli.evaluation.exact.sweep import own_distribution, sweep_source
from sedd_cli.recipe import load_recipe
from sedd_cli.system.events import result_of
from sedd_cli.training.train import TrainOptions, train

SMALL = ExactOptions(evaluations=(2, 4), letters=2, length=4, draws=2000)
#: Samplers that need another kind of network.
ELSEWHERE = {"left_to_right"}


@pytest.fixture(scope="module")
def found():
    return result_of(sweep_source(SMALL))


def test_every_sampler_of_the_registry_is_compared():
    assert {one.sampler for one in CONTENDERS} == set(SAMPLERS) - ELSEWHERE - {
        name for name, cls in SAMPLERS.items() if not cls.__module__.startswith("sedd_cli")
    }


def test_no_point_takes_more_evaluations_than_it_may(found):
    assert all(0 < point.evaluations <= point.budget + 1e-3 for point in found.points)


def test_distances_are_finite_and_those_of_the_distribution(found):
    model = MarkovSource(2, 4).model("uniform")
    distribution = exact_distribution(model, SAMPLERS["tweedie"](steps=3), 4)
    point = next(p for p in found.points if (p.graph, p.label, p.budget) == ("uniform", "tweedie", 4))
    p0 = MarkovSource(2, 4).distribution().flatten()
    assert point.distance.tv == pytest.approx(total_variation(distribution.p, p0))
    assert point.distance.kl == pytest.approx(float((distribution.p * (distribution.p / p0).log()).sum()))
    assert all(math.isfinite(p.distance.tv) and p.distance.kl > -1e-9 for p in found.points)


def test_first_hitting_is_the_nearest_once_it_fits_and_the_budget_counts(found):
    own = {(p.label, p.budget): p for p in found.points if p.graph == "absorbing"}
    assert own["first-hitting", 4].distance.tv < 1e-10
    assert ("first-hitting", 2) not in own
    assert own["tweedie", 4].distance.tv < own["tweedie", 2].distance.tv


def test_frequencies_of_draws_are_named_with_what_exact_draws_would_give(found):
    point = next(p for p in found.points if p.label == "remdm-conf")
    assert point.distance.draws == 2000
    assert 0 < point.distance.tv_error < point.distance.tv_exact


def test_the_frequencies_of_a_sampler_approach_its_enumerated_distribution():
    model, sampler = MarkovSource(2, 4).model("absorbing"), SAMPLERS["tweedie"](steps=2)
    distribution, drawn_ = exact_distribution(model, sampler, 4), drawn_distribution(model, sampler, 4, draws=40_000)
    assert total_variation(distribution.p, drawn_.p) < 0.02
    distance = drawn(drawn_, distribution.p, 40_000)
    assert distance.tv == pytest.approx(distance.tv_exact, abs=6 * distance.tv_error)


def test_distances_of_small_distributions_are_those_by_hand():
    q, p = (torch.tensor(v).double() for v in ([0.5, 0.5, 0.0], [0.25, 0.5, 0.25]))
    assert total_variation(q, p) == 0.25
    assert divergence(q, p) == pytest.approx(0.5 * math.log(2))
    assert divergence(p, q) == math.inf


def test_an_adaptive_sampler_is_tuned_to_the_budget(found):
    own = {p.budget: p for p in found.points if p.label == "entropy-bounded"}
    assert own[4].options.get("entropy_bound", 0.1) < own[2].options["entropy_bound"]


def test_a_contender_without_room_yields_nothing():
    graph = MarkovSource(2, 4).model("uniform").graph
    assert list(Contender("gibbs", "gibbs").at(4, graph, 4)) == []
    (one,) = Contender("gibbs", "gibbs").at(16, graph, 4)
    assert (one.steps, one.sweeps) == (7, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"letters": 1}, "letters must lie"),
        ({"letters": 27, "length": 1}, "letters must lie"),
        ({"length": 0}, "length must be at least 1"),
        ({"samplers": ("twedie",)}, "did you mean 'tweedie'"),
        ({"samplers": ("left_to_right",)}, "does not compare"),
        ({"graphs": ("uniforn",)}, "did you mean 'uniform'"),
        ({"seed": -1}, "seed must lie"),
        ({"noise": "geometrik"}, "did you mean 'geometric'"),
        ({"noise": "{name: geometric, sigma_mx: 2}"}, "noise.sigma_mx: unknown key, did you mean 'sigma_max'"),
        ({"graphs": ("{name: gaussian, width: -1}",)}, "graph: "),
        ({"samplers": ("{name: psi, kappa: 7}",)}, "sampler: kappa must"),
        ({"samplers": ("{name: psi, steps: 7}",)}, "follow from --steps"),
        ({"samplers": ("psi", "kappa 0.6")}, r"'\{name: psi, kappa: 0.5\}'"),
        ({"samplers": ("tweedie", "{name: tweedie}")}, "the sampler 'tweedie' is named twice"),
        ({"given": "ab?"}, "has 3 positions, length is 6"),
        ({"given": "ab??z?"}, "'z' is neither"),
        ({"given": "abcabc"}, "leaves nothing free"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(RequestError, match=message):
        ExactOptions(**options)


def test_a_figure_is_computed_again_from_the_document_alone():
    options = ExactOptions(
        (4,), ("euler",), ("{name: gaussian, width: 0.2}",), "{name: geometric, sigma_max: 10}", 3, 3
    )
    document = result_of(sweep_source(options)).to_dict()
    assert (document["seed"], document["letters"], document["length"]) == (0, 3, 3)
    assert (document["grid_end"], document["t_min"]) == (1e-5, 1e-3)
    assert document["kl"] == "KL(samples ‖ model), nats"
    p0 = torch.tensor(document["chain"]["initial"], dtype=torch.float64)
    step = torch.tensor(document["chain"]["transition"], dtype=torch.float64)
    for _ in range(2):
        p0 = p0[..., None] * step
    part = dict(document["graphs"][0])
    graph = GRAPHS[part.pop("name")](**part)
    noise = dict(document["noise"])
    model = ScoreModel(ExactNetwork(graph, p0), graph, SCHEDULES[noise.pop("name")](**noise))
    (point,) = document["points"]
    distribution = exact_distribution(model, SAMPLERS["euler"](steps=point["options"]["steps"]), 3)
    assert point["tv"] == pytest.approx(total_variation(distribution.p, p0.flatten()), abs=1e-12)
    assert point["kl"] == pytest.approx(divergence(distribution.p, p0.flatten()), abs=1e-12)


def test_another_schedule_gives_other_distances():
    def tv(noise):
        found = result_of(sweep_source(ExactOptions((4,), ("euler",), ("uniform",), noise, 2, 3)))
        return found.points[0].distance.tv

    assert len({tv(noise) for noise in ("loglinear", "geometric", "{name: geometric, sigma_max: 2}")}) == 3


@pytest.mark.parametrize("graph", sorted(GRAPHS))
@pytest.mark.parametrize("noise", ["cosine", "geometric"])
def test_every_graph_is_compared_with_its_own_source(graph, noise):
    found = result_of(sweep_source(ExactOptions((2, 32), ("{name: tweedie}",), (graph,), noise, 3, 2)))
    few, many = (point.distance.tv for point in found.points)
    assert many < few
    assert many < 0.05


def test_samplers_are_named_by_name_by_line_and_with_options():
    def labels(*words):
        return [one.label for one in ExactOptions(samplers=words).contenders]

    assert labels("psi") == ["psi, kappa 0.98", "psi, kappa 0.5"]
    assert labels("psi", "kappa 0.5", "euler") == ["psi, kappa 0.5", "euler"]
    assert labels("confidence", "entropy", "2 blocks") == ["confidence, entropy, 2 blocks"]
    assert labels("remdm-conf", "{name: tweedie}") == ["remdm-conf", "tweedie"]
    assert labels("{name: psi, kappa: 0.5}", "{name: psi, kappa: 0.3}") == ["psi, kappa 0.5", "psi, kappa 0.3"]
    assert labels("{name: flow-matching, beta: 0.2}") == ["flow-matching, beta 0.2"]
    for one in CONTENDERS:
        assert one in ExactOptions(samplers=tuple(one.label.split(", "))).contenders
    (gibbs,) = ExactOptions(samplers=("{name: gibbs, sweeps: 4}",)).contenders
    (sampler,) = gibbs.at(16, GRAPHS["uniform"](vocab_size=2), 3)
    assert (gibbs.label, sampler.steps, sampler.sweeps) == ("gibbs, sweeps 4", 3, 4)


def test_given_letters_are_compared_with_the_exact_conditional_distribution(sedd):
    words = [
        "--exact",
        "--letters",
        3,
        "--given",
        "b?a?",
        "--steps",
        16,
        "--sampler",
        "{name: tweedie},gibbs,remdm-conf",
    ]
    done = sedd("sweep", *words, "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert (document["given"], document["length"]) == ("b?a?", 4)
    points = {(p["graph"], p["sampler"]): p for p in document["points"]}
    source = MarkovSource(3, 4)
    p0 = torch.zeros(3, 3, 3, 3, dtype=torch.float64)
    p0[1, :, 0] = source.distribution()[1, :, 0]
    p0 = (p0 / p0.sum()).flatten()
    distribution = exact_distribution(source.model("uniform"), SAMPLERS["tweedie"](steps=15), 4, {0: 1, 2: 0})
    assert points["uniform", "tweedie"]["tv"] == pytest.approx(total_variation(distribution.p, p0))
    assert points["uniform", "gibbs"]["tv"] < points["uniform", "tweedie"]["tv"] / 5
    assert points["absorbing", "remdm-conf"]["draws"]
    assert points["absorbing", "remdm-conf"]["tv"] < 0.2
    table = sedd("sweep", *words)
    assert "given b?a?" in " ".join(table.out.split())
    assert "KL(samples ‖ model)" in table.out


def test_the_command_writes_table_document_and_figure(sedd, tmp_path):
    words = ["sweep", "--exact", "--letters", 2, "--length", 3, "--steps", "2,4", "--sampler", "tweedie,first-hitting"]
    done = sedd(*words, "--json", "--plot", tmp_path / "f.png", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["nearest"] == json.loads((tmp_path / "out" / "exact.json").read_text())["nearest"]
    assert document["nearest"]["absorbing 4"] == ["first-hitting"]
    assert {point["sampler"] for point in document["points"]} >= {"tweedie", "first-hitting"}
    assert (tmp_path / "f.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "out" / "exact.png").is_file()
    again = sedd(*words)
    assert again.code == 0
    assert "first-hitting" in again.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--exact", "--letters", 26, "--length", 9], "at most 100,000"),
        (["--exact", "--judge", "x"], "no text is judged"),
        (["--exact", "--device", "cuda"], "computes on the CPU"),
        *(
            (["--exact", *option], f"{option[0]} has no effect with the built-in source of --exact")
            for option in (["--precision", "bf16"], ["--compile"], ["--tokenizer", "gpt2"], ["--mask-token", "3"])
        ),
        (["--exact", "--model", "x", "--letters", 3], "built-in source"),
        (["--exact", "--model", "x", "--noise", "geometric"], "--noise is of the built-in source"),
        (["--exact", "--model", "x", "--given", "a?"], "--given is of the built-in source"),
        (["--exact", "--graph", "uniform", "--sampler", "first-hitting"], "no sampler of first-hitting"),
        (["--exact", "--noise", "mutual-information", "--graph", "state-dependent"], "known before training"),
        (["--noise", "geometric", "--steps", 4, "--judge", "x"], "--noise goes with --exact"),
        (["--letters", 3, "--steps", 4, "--judge", "x"], "--letters goes with --exact"),
        (["--steps", 4], "--judge"),
        (["--judge", "x"], "--steps"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(sedd, words, message):
    done = sedd("sweep", *words)
    assert done.code == 2
    assert message in " ".join(done.err.split())


def test_the_distribution_of_a_model_is_that_of_first_hitting_or_of_a_long_chain():
    source = MarkovSource(2, 4)
    p0 = source.distribution().flatten()
    exact, named, error = own_distribution(source.model("absorbing"), 4)
    assert (named, error) == ("first-hitting, enumerated", 0.0)
    assert total_variation(exact[exact > 0], p0) < 1e-10
    chain, named, error = own_distribution(source.model("uniform"), 4)
    assert "256 Tweedie steps" in named
    assert 0 < total_variation(chain, p0) < 2 * error < 0.02


def test_a_trained_model_is_compared_with_its_own_long_chain(sedd, tiny_run):
    words = ["--exact", "--model", tiny_run, "--steps", "2,4", "--sampler", "tweedie,first-hitting", "--json"]
    refused = sedd("sweep", *words)
    assert refused.code == 2
    assert "at most 100,000" in refused.err
    done = sedd("sweep", *words, "--length", 1)
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["reference_error"] < 0.05
    points = {(p["sampler"], p["budget"]): p for p in document["points"]}
    assert points["tweedie", 4]["tv"] < points["tweedie", 2]["tv"] + 0.02


def test_a_trained_model_is_compared_at_length_three_with_every_sampler(sedd, workplace, tmp_path):
    recipe = load_recipe(workplace / "tiny.yaml", ["train.steps=1", "data.corpus=markov"])
    list(train(recipe, TrainOptions(tmp_path / "run", "cpu", report=False)))
    done = sedd("sweep", "--exact", "--model", tmp_path / "run", "--steps", 2, "--length", 3, "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["length"] == 3
    found = {point["sampler"]: point["tv"] for point in document["points"]}
    assert {"tweedie", "euler", "psi, kappa 0.98", "remdm, eta 0.02", "confidence, entropy"} <= set(found)
    assert all(0 <= tv <= 1 for tv in found.values())


def test_the_size_of_the_built_in_source_does_not_bind_a_model():
    """Nine positions of two letters are few sequences, of the source's four letters too many."""
    options = ExactOptions(length=9)
    with pytest.raises(RequestError, match="at most 100,000"):
        next(sweep_source(options))


@pytest.mark.parametrize("key", ["evaluations", "samplers", "graphs"])
def test_an_empty_list_is_refused(key):
    with pytest.raises(RequestError, match="at least one is needed"):
        ExactOptions(**{key: ()})


def test_a_sampler_that_needs_more_evaluations_than_there_are_is_refused():
    few = ExactOptions(evaluations=(1,), samplers=("first-hitting",), graphs=("absorbing",), letters=2, length=3)
    with pytest.raises(RequestError, match="no sampler needs as few as 1 network evaluations"):
        result_of(sweep_source(few))
