"""Token ids of a checkpoint and states of a graph, for MASK at every place."""

from __future__ import annotations

import pytest
import torch

from sedd_cli.core.vocabulary import Vocabulary


@pytest.mark.parametrize("mask", [None, 0, 2, 4])
def test_ids_and_states_are_permutations_of_each_other_with_mask_last(mask):
    own = Vocabulary(5, mask)
    states = torch.arange(5)
    assert torch.equal(own.states_of(own.ids(states)), states)
    assert sorted(own.ids(states).tolist()) == list(range(5))
    if mask is not None:
        assert own.ids(torch.tensor(own.tokens)) == mask
    z = torch.randn(3, 5)
    assert torch.equal(own.by_id(own.by_state(z)), z)
    assert torch.equal(own.by_state(z), z[:, own.ids(states)])


def test_a_head_without_a_row_for_mask_gives_it_no_probability():
    z = Vocabulary(4, 3, counts_mask=True).by_state(torch.ones(1, 3))
    assert z.isfinite().all()
    assert z.softmax(-1)[0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])


def test_the_distribution_of_the_clean_token_is_that_of_the_checkpoints_own_code():
    z, x = torch.randn(2, 4), torch.tensor([3, 1])  # states: three tokens and MASK, which is id 1
    log_p = Vocabulary(4, 1, carries_over=True).log_p_x0(z, x)
    assert log_p[0, 1] == -torch.inf
    torch.testing.assert_close(log_p[0, [0, 2, 3]], z[0, :3].log_softmax(-1))
    assert log_p[1].tolist() == [-torch.inf, -torch.inf, 0.0, -torch.inf]  # state 1 is id 2
    with_mask = Vocabulary(4, 1, counts_mask=True).log_p_x0(z, x)
    torch.testing.assert_close(with_mask.exp().sum(-1), torch.ones(2))
    torch.testing.assert_close(with_mask[:, [0, 2, 3, 1]], z.log_softmax(-1))
