"""Monotone cubic interpolation."""

import torch

from sedd_cli.core.monotone import Monotone

X = torch.tensor([0.0, 0.4, 1.0, 1.5, 2.5, 3.0, 4.0], dtype=torch.float64)


def test_it_is_exact_for_cubics_that_grow():
    made = Monotone.through(X, X**3 + X)
    x = torch.linspace(0.0, 4.0, 101, dtype=torch.float64)
    y, slope = made(x)
    torch.testing.assert_close(y, x**3 + x)
    torch.testing.assert_close(slope, 3 * x**2 + 1)


def test_it_grows_through_steps_and_has_its_inverse():
    made = Monotone.through(X, torch.tensor([0.0, 0.01, 5.0, 5.001, 5.002, 9.0, 9.5], dtype=torch.float64))
    x = torch.linspace(-1.0, 5.0, 1001, dtype=torch.float64)  # also beyond the knots
    y, slope = made(x)
    assert bool((y.diff() > 0).all())
    assert bool((slope >= 0).all())
    torch.testing.assert_close(made(made.inverse(y))[0], y)


def test_the_slope_is_the_derivative():
    made, x = Monotone.through(X, X.exp()), torch.linspace(-1.0, 5.0, 50, dtype=torch.float64).requires_grad_()
    y, slope = made(x)
    torch.testing.assert_close(slope.detach(), torch.autograd.grad(y.sum(), x)[0])


def test_the_inverse_has_the_inverse_slope_as_its_derivative():
    made, y = Monotone.through(X, X.exp()), torch.linspace(0.5, 60.0, 50, dtype=torch.float64).requires_grad_()
    x = made.inverse(y)
    torch.testing.assert_close(1 / made(x.detach())[1], torch.autograd.grad(x.sum(), y)[0])
