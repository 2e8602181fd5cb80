"""The checks of parts from outside: the package's parts pass, parts with a deliberate mistake are refused by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import reference
import torch
from support.toys import Cyclic

from sedd_cli.core.graphs import GRAPHS, Graph, Transition
from sedd_cli.core.losses import OBJECTIVES
from sedd_cli.core.losses.base import Objective, sequence_cross_entropy
from sedd_cli.core.losses.score_entropy import ScoreEntropy
from sedd_cli.core.samplers import SAMPLERS, Denoised, Sampler, Stepper
from sedd_cli.core.samplers.euler import Euler
from sedd_cli.core.samplers.first_hitting import FirstHitting
from sedd_cli.core.samplers.tweedie import Tweedie
from sedd_cli.core.schedules import LogLinear, Schedule
from sedd_cli.core.score import Loss, Network
from sedd_cli.errors import RequestError
from sedd_cli.testing import check_graph, check_loss, check_sampler, check_schedule


@dataclass(frozen=True)
class Needing(LogLinear):
    """A schedule with an option without a default."""

    sigma_max: float = field(kw_only=True)


#: What the guide says of samplers that are meant to be otherwise.
MEANT = {
    **{name: {"exact": False} for name in ("confidence", "threshold")},
    **{name: {"rates": False} for name in ("remdm", "remdm_rescale", "psi", "flow_matching", "ddim")},
}
KNOWN_SAMPLERS = [name for name, cls in SAMPLERS.items() if not cls.causal and name not in ("first_hitting", "tweedie")]
KNOWN_LOSSES = [name for name, cls in OBJECTIVES.items() if not cls.causal]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*GRAPHS, "cyclic"])
def test_graphs_of_the_package_pass(name):
    check_graph(GRAPHS.get(name, Cyclic))


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN_SAMPLERS)
def test_samplers_of_the_package_pass(name):
    check_sampler(SAMPLERS[name], **MEANT.get(name, {}))


@pytest.mark.slow
def test_a_sampler_without_a_time_grid_passes():
    check_sampler(FirstHitting)


@pytest.mark.slow
def test_a_sampler_passes_with_its_dense_step():
    def dense(Q, x, s, t, s_time):
        step = reference.Interval.between(reference.loglinear, t, s_time)
        return reference.sampler_step("tweedie", Q, x, s, step)

    check_sampler(Tweedie(), step=dense)
    with pytest.raises(AssertionError, match=r"euler on .*, step from .* is not the dense step"):
        check_sampler(Euler, step=dense)


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN_LOSSES)
def test_objectives_of_the_package_pass(name):
    check_loss(OBJECTIVES[name])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("score_entropy", {"weighting": "flat"}),
        ("score_entropy", {"weight_power": 0.5}),
        ("masked_cross_entropy", {"weighting": "min_snr"}),
    ],
)
def test_objectives_whose_gradients_are_weighted_pass(name, options):
    check_loss(OBJECTIVES[name](**options))


def test_an_objective_whose_exponents_stay_is_checked_on_the_graph_that_it_needs():
    check_loss(OBJECTIVES["genmd4"](learn=False))


@pytest.mark.parametrize("name", ["confidence", "remdm"])
def test_what_is_not_meant_to_be_exact_is_refused_without_being_told(name):
    with pytest.raises(AssertionError, match=f"^{name} on absorbing"):
        check_sampler(SAMPLERS[name])


def test_causal_parts_are_no_assertion():
    for check, part in ((check_sampler, SAMPLERS["left_to_right"]), (check_loss, OBJECTIVES["autoregressive"])):
        with pytest.raises(ValueError, match="causal"):
            check(part)


# Schedules


@dataclass(frozen=True)
class Power(Schedule):
    """σ̄(t) = 8·t^p, with one mistake."""

    name: ClassVar[str] = "power"
    mistake: str = ""

    def __call__(self, t):
        sigma, dsigma = 8 * t, torch.full_like(t, 8.0)
        if self.mistake == "rate":
            dsigma = dsigma + 1e-6
        if self.mistake == "falls":
            sigma, dsigma = 8 * (1 - t), -dsigma
        if self.mistake == "dtype":
            dsigma = dsigma.double()
        return sigma - 1 if self.mistake == "negative" else sigma, dsigma

    def t(self, sigma):
        return sigma / (9 if self.mistake == "inverse" else 8)


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("rate", "not the derivative"),
        ("inverse", "not the inverse"),
        ("falls", "does not grow"),
        ("negative", "negative"),
        ("dtype", "float64"),
    ],
)
def test_a_wrong_schedule_is_refused(mistake, words):
    check_schedule(Power)
    with pytest.raises(AssertionError, match=f"^Power: .*{words}"):
        check_schedule(Power(mistake))


# Graphs


class Leaky(Cyclic):
    def rate(self, x):
        return super().rate(x).abs()


class Turned(Cyclic):
    def transition(self, sigma, x):
        return super().transition(sigma, x).flip(-1)


class Frozen(Cyclic):
    def perturb(self, x0, sigma, u):
        return x0


class Skewed(Cyclic):
    def reverse_rates(self, log_score, x):
        return 1.01 * super().reverse_rates(log_score, x)


class Reborn(Cyclic):
    def sample_base(self, u):
        return torch.zeros_like(u, dtype=torch.int64)


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (Leaky, "rate: columns sum to"),
        (Turned, "is not exp"),
        (Frozen, "perturb of token 0"),
        (Skewed, "reverse_rates"),
        (Reborn, "sample_base"),
    ],
)
def test_a_wrong_graph_is_refused(graph: type[Graph], words):
    with pytest.raises(AssertionError, match=words):
        check_graph(graph)


# Samplers


@dataclass(frozen=True)
class Hasty(Stepper):
    """Euler steps of twice the rate."""

    name: ClassVar[str] = "hasty"
    factor: float = 2.0

    def transition(self, model, log_score, x, t, s):
        rates = model.graph.reverse_rates(log_score, x)
        return Transition.of_rates(rates, self.factor * (t - s) * model.schedule(t)[1])


@dataclass(frozen=True)
class Aimless(Euler):
    """Moves at the right moments, to any state alike."""

    name: ClassVar[str] = "aimless"

    def transition(self, model, log_score, x, t, s):
        found = super().transition(model, log_score, x, t, s)
        return Transition(found.move_probability, (found.weights > 0).double())


@dataclass(frozen=True)
class Overdue(Euler):
    """A probability of moving beyond one."""

    name: ClassVar[str] = "overdue"

    def transition(self, model, log_score, x, t, s):
        found = super().transition(model, log_score, x, t, s)
        return Transition(found.move_probability + 1, found.weights)


@dataclass(frozen=True)
class Shortcut(Tweedie):
    """A fast path that is Euler's."""

    name: ClassVar[str] = "shortcut"

    def fast_transition(self, kernels, step, log_score, x):
        return kernels.euler(log_score, x, 3.0 * step.coefficient)


@dataclass(frozen=True)
class Jumbled(Sampler):
    """Draws a right sample, and returns it wrongly."""

    name: ClassVar[str] = "jumbled"
    needs_mask: ClassVar[bool] = True
    mistake: str = "tokens"

    def run(self, model, given, seed, index):
        *_, last = FirstHitting().run(model, given, seed, index)
        x = {"given": torch.zeros_like(last.x), "batch": last.x.flip(0), "tokens": (last.x + 1) % 3}[self.mistake]
        yield Denoised(1, 1, x, last.evaluations)


@pytest.mark.parametrize(
    ("sampler", "options", "words"),
    [
        (Hasty(), {}, "hasty on absorbing: a short step is not that of the reverse rates"),
        (Hasty(), {"rates": False}, "hasty on uniform, exact scores: total variation"),
        (Aimless(), {"rates": False}, "aimless on absorbing, exact scores: total variation"),
        (Overdue(), {}, "overdue on absorbing, step from 1 to 0.75: a probability is negative"),
        (Shortcut(), {}, "shortcut on absorbing, .* steps: the fast path draws other samples"),
        (Jumbled(mistake="tokens"), {}, "jumbled on absorbing: samples are"),
        (Jumbled(mistake="given"), {"exact": False}, "jumbled on absorbing: a given token was changed"),
        (Jumbled(mistake="batch"), {"exact": False}, "jumbled on absorbing: sequence 0 depends on the batch"),
    ],
    ids=lambda one: getattr(one, "name", None),
)
def test_a_wrong_sampler_is_refused(sampler, options, words):
    with pytest.raises(AssertionError, match=words):
        check_sampler(sampler, **options)


def test_the_sampler_of_the_mistakes_passes_without_one():
    check_sampler(Hasty(factor=1.0))


# Losses


@dataclass(frozen=True)
class Scaled:
    net: Network
    factor: float

    def hidden(self, x, sigma):
        return self.factor * self.net.hidden(x, sigma)

    def head(self, hidden):
        return hidden


@dataclass(frozen=True)
class Warm(Objective):
    """Masked cross-entropy of outputs divided by two: its minimum lies elsewhere."""

    name: ClassVar[str] = "warm"
    parametrization: ClassVar = "mean"
    needs_mask: ClassVar[bool] = True
    factor: float = 0.5

    def loss(self, model, x0, v, u):
        sigma, _ = LogLinear()(0.001 + 0.999 * v)
        x = model.graph.perturb(x0, sigma, u)
        net = type(
            "Scaled", (), {"hidden": lambda _, x, s: self.factor * model.net.hidden(x, s), "head": lambda _, h: h}
        )
        scaled = type(model)(net(), model.graph, model.schedule, parametrization="mean")
        nats = sequence_cross_entropy(scaled, x, sigma, x0)
        return Loss(nats.sum(), nats.detach())


@dataclass(frozen=True)
class Summed(ScoreEntropy):
    """Returns its total in the place of the sequences' losses."""

    name: ClassVar[str] = "summed"

    def loss(self, model, x0, v, u):
        found = super().loss(model, x0, v, u)
        return Loss(found.total, found.total.detach())


@dataclass(frozen=True)
class Doubled(ScoreEntropy):
    """Logs another number than it trains with."""

    name: ClassVar[str] = "doubled"

    def loss(self, model, x0, v, u):
        found = super().loss(model, x0, v, u)
        return Loss(2 * found.total, found.sequences)


@dataclass(frozen=True)
class Cut(ScoreEntropy):
    """Has no gradient."""

    name: ClassVar[str] = "cut"

    def loss(self, model, x0, v, u):
        found = super().loss(model, x0, v, u)
        return Loss(found.total.detach(), found.sequences)


@dataclass(frozen=True)
class Upside(ScoreEntropy):
    """Its truth is a maximum."""

    name: ClassVar[str] = "upside"

    def loss(self, model, x0, v, u):
        found = super().loss(model, x0, v, u)
        return Loss(-found.total, -found.sequences)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (Warm, "Warm on absorbing at sigma .* at the true outputs"),
        (Summed, "Summed on absorbing: the sequences' losses have the shape"),
        (Doubled, "Doubled on absorbing at sigma .*: the total is"),
        (Cut, "Cut on absorbing at sigma .*: the total has no gradient"),
        (Upside, "Upside on absorbing at sigma .*: the loss is"),
    ],
)
def test_a_wrong_loss_is_refused(loss, words):
    with pytest.raises(AssertionError, match=words):
        check_loss(loss)


def test_the_loss_of_the_mistake_passes_without_it():
    check_loss(Warm(factor=1.0))


@pytest.mark.parametrize(
    ("check", "part", "words"),
    [
        (check_sampler, "tweedie", "check_sampler takes a sampler, its class or an object, found str 'tweedie'"),
        (check_sampler, LogLinear, "check_sampler takes a sampler, its class or an object, found schedule LogLinear"),
        (check_schedule, Tweedie, "check_schedule takes a schedule, its class or an object, found sampler Tweedie"),
        (check_schedule, Tweedie(), "check_schedule takes a schedule, .* found sampler Tweedie"),
        (check_loss, dict, "check_loss takes an objective, its class or an object, found class dict"),
        (check_loss, lambda: 3, "check_loss takes an objective, its class or an object, found int 3"),
        (check_graph, LogLinear, "check_graph takes a graph, its class or an object, found schedule LogLinear"),
        (check_schedule, Needing, "check_schedule cannot make Needing: .*'sigma_max'; give an object"),
    ],
)
def test_a_part_of_another_kind_is_refused_in_one_line(check, part, words):
    with pytest.raises(RequestError, match=words):
        check(part)


@pytest.mark.slow
def test_a_graph_is_checked_as_an_object_too():
    check_graph(Cyclic(vocab_size=5))
