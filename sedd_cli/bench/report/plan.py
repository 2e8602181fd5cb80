"""All measurements of the report, the most important first."""

from __future__ import annotations

from sedd_cli.bench.report.checks import check_attention, check_compiled, check_processes, check_resume, shallow
from sedd_cli.bench.report.heads import check_losses, losses
from sedd_cli.bench.report.machine import machine
from sedd_cli.bench.report.measurement import COMPILING, Measurement, Setting, networks_memory, training_memory
from sedd_cli.bench.report.sampling import (
    compiled_sampling,
    evaluation_flops,
    likelihood,
    long_sampling,
    short_sampling,
)
from sedd_cli.bench.report.training import flops_a_sequence, larger_training, training
from sedd_cli.recipe import Recipe


def _benchmark_seconds(setting: Setting, recipe: Recipe) -> float:
    """Until the first tokens/s: a network, and three steps of the smallest micro-batch."""
    made = training_memory(setting, recipe) / 2e9
    return made + setting.seconds(4 * setting.sizes.train[0] * flops_a_sequence(setting, recipe))


#: The table of the checks.
CHECKS = "checks"
#: In the order in which they run.
MEASUREMENTS = (
    Measurement("machine", "machine", machine, lambda s: 10, share=0.3),
    Measurement("check-losses", CHECKS, check_losses, lambda s: 5),
    Measurement("check-attention", CHECKS, check_attention, lambda s: 3),
    Measurement("check-resume", CHECKS, check_resume, lambda s: 5),
    Measurement(
        "training", "training", training, lambda s: _benchmark_seconds(s, s.recipe), share=0.45,
        memory=lambda s: training_memory(s, s.recipe),
    ),
    Measurement("losses", "head and loss alone", losses, lambda s: 5),
    Measurement(
        "sampling", "sampling", short_sampling, lambda s: 5 + s.seconds(s.sizes.steps[0] * evaluation_flops(s)),
        memory=networks_memory,
    ),
    Measurement(
        "sampling-compiled", "sampling", compiled_sampling,
        lambda s: COMPILING[s.device.type] + s.seconds(s.sizes.steps[0] * evaluation_flops(s)),
        memory=networks_memory,
    ),
    Measurement("likelihood", "likelihood", likelihood,
                lambda s: 5 + s.seconds(4 * s.sizes.likelihood * evaluation_flops(s)), memory=networks_memory),
    # two states of two blocks, one of them not yet freed
    Measurement("check-compiled", CHECKS, check_compiled, lambda s: COMPILING[s.device.type], share=0.3,
                memory=lambda s: 2 * training_memory(s, shallow(s.recipe))),
    Measurement("check-processes", CHECKS, check_processes, lambda s: 20),
    Measurement(
        "sampling-long", "sampling", long_sampling,
        lambda s: 5 + min(30, s.seconds(s.sizes.steps[1] * evaluation_flops(s))), share=0.4, memory=networks_memory,
    ),
    Measurement(
        "training-larger", "training of the larger recipe", larger_training,
        lambda s: _benchmark_seconds(s, s.larger), share=0.5, memory=lambda s: training_memory(s, s.larger),
    ),
)  # fmt: skip
