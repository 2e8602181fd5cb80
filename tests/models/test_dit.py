"""The network is the published one: names, shapes, and the forward pass against a plain re-derivation."""

import math

import pytest
import reference
import torch

from sedd_cli.models.attention import ATTENTION
from sedd_cli.models.dit import DiT
from sedd_cli.models.shape import DiTConfig

CONFIG = {"n_blocks": 2, "hidden_size": 24, "n_heads": 3, "cond_dim": 10, "dropout": 0.1, "length": 16}
SIGMA = torch.tensor([1e-4, 0.7, 18.0])


def network(states: int = 12, seed: int = 0, autocast: torch.dtype | None = None, **changes) -> DiT:
    """A network whose every parameter is random: a fresh one is silent, its gates and its head are zero."""
    net = DiT(DiTConfig(**{**CONFIG, **changes}), states, autocast=autocast).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in net.named_parameters():
            gain = 1.0 if "norm" in name else 0.0
            # matrices keep the size of what passes through, as trained ones do
            size = p.shape[1] ** -0.5 if p.dim() == 2 and "embedding" not in name else 0.3
            p.copy_(gain + size * torch.randn(p.shape, generator=generator))
    return net


def tokens(B: int, L: int, states: int) -> torch.Tensor:
    return torch.randint(states, (B, L), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("states", [28, 27], ids=["absorbing text8", "uniform text8"])
@pytest.mark.parametrize("length", [1, 2, 7, 16])
def test_forward_is_the_plain_re_derivation(states, length):
    net, x = network(states), tokens(3, length, states)
    with torch.no_grad():
        z = net(x, SIGMA)
    truth = reference.network(dict(net.state_dict()), x, SIGMA, CONFIG["n_heads"])
    assert z.dtype == torch.float32
    # float32 through two blocks of width 24; entries reach about 5
    torch.testing.assert_close(z, truth, rtol=1e-5, atol=1e-5)
    assert truth.std() > 0.5


def test_forward_in_float64_is_the_plain_re_derivation_to_rounding_of_the_angles():
    net, x = network().double(), tokens(3, 9, 12)
    with torch.no_grad():
        z = net(x, SIGMA.double())
    truth = reference.network(dict(net.state_dict()), x, SIGMA.double(), CONFIG["n_heads"])
    # rotary angles and the frequencies of sigma's features are float32 as in the published network
    torch.testing.assert_close(z, truth, rtol=1e-5, atol=2e-5)


def test_sequences_of_a_batch_do_not_meet():
    net, x = network(), tokens(3, 8, 12)
    with torch.no_grad():
        together = net(x, SIGMA)
        alone = torch.cat([net(x[i : i + 1], SIGMA[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_every_position_sees_every_other():
    """No causal mask: the last token reaches the first position, and the first the last."""
    net, x = network(), tokens(1, 8, 12)
    for changed, watched in ((7, 0), (0, 7)):
        y = x.clone()
        y[0, changed] = (y[0, changed] + 1) % 12
        with torch.no_grad():
            assert float((net(x, SIGMA[:1]) - net(y, SIGMA[:1]))[0, watched].abs().max()) > 1e-3


def test_forward_is_head_after_hidden_and_the_head_works_on_any_rows():
    net, x = network(), tokens(3, 8, 12)
    with torch.no_grad():
        hidden = net.hidden(x, SIGMA)
        assert hidden.shape == (3, 8, 24)
        assert torch.equal(net(x, SIGMA), net.head(hidden))
        torch.testing.assert_close(net.head(hidden[1, [2, 5]]), net(x, SIGMA)[1, [2, 5]], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("states", [12, 13])
def test_a_fresh_network_answers_zero(states):
    torch.manual_seed(0)
    net = DiT(DiTConfig(**CONFIG), states)
    assert net(tokens(2, 5, states), SIGMA[:2]).abs().max() == 0
    # and yet learns: the gradient reaches the head
    net(tokens(2, 5, states), SIGMA[:2])[..., 0].sum().backward()
    assert net.output_layer.linear.bias.grad.abs().sum() > 0


def published_shapes(S: int, D: int, C: int, n_blocks: int) -> dict[str, tuple[int, ...]]:
    shapes = {
        "vocab_embed.embedding": (S, D),
        "sigma_map.mlp.0.weight": (C, 256),
        "sigma_map.mlp.0.bias": (C,),
        "sigma_map.mlp.2.weight": (C, C),
        "sigma_map.mlp.2.bias": (C,),
        "output_layer.norm_final.weight": (D,),
        "output_layer.linear.weight": (S, D),
        "output_layer.linear.bias": (S,),
        "output_layer.adaLN_modulation.weight": (2 * D, C),
        "output_layer.adaLN_modulation.bias": (2 * D,),
    }
    for i in range(n_blocks):
        block = {
            "norm1.weight": (D,),
            "attn_qkv.weight": (3 * D, D),
            "attn_out.weight": (D, D),
            "norm2.weight": (D,),
            "mlp.0.weight": (4 * D, D),
            "mlp.0.bias": (4 * D,),
            "mlp.2.weight": (D, 4 * D),
            "mlp.2.bias": (D,),
            "adaLN_modulation.weight": (6 * D, C),
            "adaLN_modulation.bias": (6 * D,),
        }
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    return shapes


@pytest.mark.parametrize(
    ("n_blocks", "dim", "n_heads"), [(12, 768, 12), (24, 1024, 16)], ids=["sedd-small", "sedd-medium"]
)
def test_names_and_shapes_are_those_of_the_published_checkpoints(n_blocks, dim, n_heads):
    with torch.device("meta"):
        net = DiT(DiTConfig(n_blocks=n_blocks, hidden_size=dim, n_heads=n_heads), states=50258)
    expected = published_shapes(50258, dim, 128, n_blocks)
    assert {name: tuple(p.shape) for name, p in net.named_parameters()} == expected
    assert {name: tuple(b.shape) for name, b in net.state_dict().items() if name not in expected} == {
        "rotary_emb.inv_freq": (dim // n_heads // 2,)
    }


def test_published_parameter_order_puts_the_embedding_first_and_the_output_layer_last():
    """`ema.shadow_params` of a training directory is a list in this order."""
    names = [name for name, _ in network().named_parameters()]
    assert names == [
        "vocab_embed.embedding",
        *(f"sigma_map.mlp.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")),
        *(
            f"blocks.{i}.{name}"
            for i in range(2)
            for name in (
                "norm1.weight", "attn_qkv.weight", "attn_out.weight", "norm2.weight",
                "mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias",
                "adaLN_modulation.weight", "adaLN_modulation.bias",
            )
        ),
        "output_layer.norm_final.weight",
        "output_layer.linear.weight",
        "output_layer.linear.bias",
        "output_layer.adaLN_modulation.weight",
        "output_layer.adaLN_modulation.bias",
    ]  # fmt: skip


def test_sigma_features_keep_neighbouring_noise_levels_apart_under_mixed_precision():
    """Near 18 bfloat16 has steps of 0.125: as angles, 18 and 18.001 would be one."""
    net, x = network(autocast=torch.bfloat16), tokens(2, 4, 12)
    seen = []
    net.sigma_map.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        net(x, torch.tensor([18.0, 18.001]))
    features = seen[0]
    assert features.dtype == torch.float32
    # the fastest pair turns by sigma itself: (cos, sin) move along the circle by 1e-3
    moved = (features[0] - features[1])[[0, 128]].square().sum().sqrt()
    assert float(moved) == pytest.approx(1e-3, rel=1e-2)


def test_mixed_precision_stays_close_and_leaves_in_float32():
    x = tokens(3, 16, 12)
    with torch.no_grad():
        exact, mixed = network()(x, SIGMA), network(autocast=torch.bfloat16)(x, SIGMA)
    assert mixed.dtype == torch.float32
    assert not torch.equal(exact, mixed)
    # bfloat16 keeps 8 bits: 2^-8 a product, over two blocks and the head; measured 0.7 to 1.3 % of the spread of z
    assert float((mixed - exact).pow(2).mean().sqrt()) < 0.03 * float(exact.std())


def test_dropout_acts_in_training_alone():
    net, x = network(dropout=0.5), tokens(3, 8, 12)
    with torch.no_grad():
        assert torch.equal(net(x, SIGMA), net(x, SIGMA))
        torch.manual_seed(0)
        a, b = net.train()(x, SIGMA), net(x, SIGMA)
    assert not torch.equal(a, b)


@pytest.mark.parametrize("kernel", sorted(ATTENTION.keys() - {"flash"}))
def test_the_network_is_the_same_on_every_kernel(kernel):
    x = tokens(3, 9, 12)
    with torch.no_grad():
        torch.testing.assert_close(
            network(attention=kernel)(x, SIGMA), network(attention="sdpa")(x, SIGMA), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_blocks": 0}, "n_blocks must be at least 1, found 0"),
        ({"length": 0}, "length must be at least 1, found 0"),
        ({"hidden_size": 25}, "hidden_size must be a multiple of 2·n_heads .*found hidden_size 25 and n_heads 3"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), found 1.0"),
        ({"attention": "flush"}, "attention must be one of .*sdpa.*found 'flush'"),
    ],
)
def test_impossible_shapes_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        DiTConfig(**{**CONFIG, **changes})


def test_rotary_scores_depend_on_the_distance_alone():
    from sedd_cli.models.attention import Rotary, rotate

    cos, sin = Rotary(8)(40, 1, torch.float32)
    q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    turned = [rotate(v.expand(40, 8), cos, sin, 8) for v in (q, k)]
    dots = turned[0] @ turned[1].T
    for distance in (0, 3, 11):
        torch.testing.assert_close(
            dots.diagonal(distance), dots[0, distance].expand(40 - distance), rtol=1e-4, atol=1e-5
        )
    assert float(dots[0, 3]) != pytest.approx(float(dots[3, 0]), abs=1e-2)  # and on its sign
    assert float(dots[0, 0]) == pytest.approx(float(q @ k), rel=1e-5)
    angle = 2 * 10_000 ** (-2 / 8)  # position 2, pair 1 of 4: entries 1 and 5
    assert float(turned[0][2, 1]) == pytest.approx(
        float(q[1]) * math.cos(angle) - float(q[5]) * math.sin(angle), rel=1e-5
    )


@pytest.mark.parametrize("options", [{}, {"adaln": False}, {"adaln": False, "time": False}], ids=str)
@pytest.mark.parametrize("rows", [[], [5], [0, 3, 3, 11, 23]], ids=str)
def test_some_rows_alone_are_those_of_all_with_the_same_gradients(options, rows):
    """What follows the attention of the last block is computed where it is asked for."""
    net, x, found = network(**options).double(), tokens(3, 8, 12), []
    rows, weight = torch.tensor(rows, dtype=torch.int64), torch.arange(24.0, dtype=torch.float64)
    for alone in (True, False):
        net.zero_grad()
        if alone:
            hidden = net.hidden_at(x, SIGMA.double(), lambda: rows)
        else:
            hidden = net.hidden(x, SIGMA.double()).flatten(0, 1)[rows]
        (hidden * weight).sum().backward()
        found.append([hidden.detach(), *(p.grad for name, p in net.named_parameters() if "linear" not in name)])
    assert len(found[0][0]) == len(rows)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert len(rows) == 0 or any(gradient.abs().max() > 0 for gradient in found[0][1:])


def test_rows_come_in_few_sizes_in_mixed_precision():
    """A kernel is made and kept for every size."""
    net, sizes = network(autocast=torch.bfloat16), set()
    net.blocks[-1].mlp.register_forward_pre_hook(lambda _, given: sizes.add(given[0].shape[0]))
    for n in (1, 2, 20):
        assert net.hidden_at(tokens(3, 8, 12), SIGMA, lambda n=n: torch.arange(n)).shape == (n, 24)
    assert sizes == {64}
