"""The learning rate of each step, and how many steps two trainings have in common."""

from __future__ import annotations

import math

from sedd_cli.recipe.recipe import Recipe, TrainRecipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """Learning rate of optimizer step number `step` (1 … steps): linear warm-up, then the schedule.

    A run that was extended after its schedule had ended follows, up to each step of `train.extended`, the schedule of
    a training of that many steps, and then that of the next.
    """
    train = recipe.train
    warm = min(1.0, step / train.warmup) if train.warmup else 1.0
    total = next((end for end in train.extended if step <= end), train.steps)
    done = (step - 1) / total
    if train.schedule == "constant":
        last = train.decay_steps(total)
        factor = min(1.0, (total - step + 1) / last) if last else 1.0
    else:
        factor = 1 - done if train.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return train.lr * warm * factor


def steps_before_decay(train: TrainRecipe) -> int:
    """The number of steps whose rates do not depend on how many follow; a longer training begins with the same."""
    return _before_decay(train, train.steps)


def pinned_steps(train: TrainRecipe) -> frozenset[int]:
    """Steps whose checkpoints are kept whatever `keep` is: before the decay, and where a run was extended."""
    last_stable = steps_before_decay(train)
    return frozenset({*train.extended, *({last_stable} if 0 < last_stable < train.steps else ())})


def common_steps(a: TrainRecipe, b: TrainRecipe) -> int:
    """The number of first steps that two trainings share whose recipes differ in steps, decay and extended alone."""
    common = 0
    for end, other in zip((*a.extended, a.steps), (*b.extended, b.steps), strict=False):
        if (end, a.decay_steps(end)) != (other, b.decay_steps(other)):
            return max(common, min(_before_decay(a, end), _before_decay(b, other)))
        common = end
    return common


def _before_decay(train: TrainRecipe, total: int) -> int:
    return total - train.decay_steps(total) if train.schedule == "constant" else 0
