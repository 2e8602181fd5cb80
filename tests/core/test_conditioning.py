"""Given tokens overwrite, everything else passes."""

import torch

from sedd_cli.core.conditioning import Conditioning


def test_given_positions_are_set_and_the_others_pass():
    given = Conditioning.at([0, 3], [7, 8], batch=2, length=4)
    x = torch.arange(8).reshape(2, 4)
    assert given(x).tolist() == [[7, 1, 2, 8], [7, 5, 6, 8]]
    assert x.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]  # the argument is not touched


def test_nothing_given_changes_nothing():
    x = torch.arange(6).reshape(2, 3)
    assert Conditioning.nothing(2, 3)(x).tolist() == x.tolist()


def test_each_sequence_may_have_its_own_tokens():
    where = torch.tensor([[True, False], [False, True]])
    assert Conditioning(where, torch.tensor([[5, 5], [6, 6]]))(torch.zeros(2, 2).long()).tolist() == [[5, 0], [0, 6]]
