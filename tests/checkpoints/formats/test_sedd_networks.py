"""Checkpoints of others on SEDD's network: loaded to the outputs of their network, sampled, infilled and bounded."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import reference
import torch
from safetensors.torch import save_file
from scipy.stats import chisquare
from support import sedd_networks as made
from support.sedd_networks import FORMATS, LENGTH, N

from sedd_cli import load_model
from sedd_cli.checkpoints.model_card import ModelCard
from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.samplers import SAMPLERS
from sedd_cli.core.samplers.denoise import decode_masses
from sedd_cli.core.samplers.stepper import run_reference
from sedd_cli.errors import DamageError, RequestError
from sedd_cli.inference.denoise import DenoisedRow, SequenceRequest, denoise
from sedd_cli.inference.sampling import Sampling

every_format = pytest.mark.parametrize("kind", FORMATS)
T = torch.tensor([0.15, 0.5, 0.8])


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Each format's model and the network that was saved, loaded once."""
    found = {}

    def load(kind):
        if kind not in found:
            path = tmp_path_factory.mktemp("formats") / "model"
            net = FORMATS[kind][0](path)
            found[kind] = load_model(path if path.is_dir() else path.with_suffix(".ckpt"), device="cpu"), net
        return found[kind]

    return load


@every_format
def test_a_format_is_recognised_and_its_network_gets_the_noise_as_in_training(loaded, kind):
    model, net = loaded(kind)
    assert model.graph.name == FORMATS[kind][1]
    assert model.length == LENGTH
    x = torch.randint(net.states, (3, LENGTH), generator=torch.Generator().manual_seed(0))
    told = {"none": torch.zeros(3), "sigma": model.schedule(T)[0], "time": T}[FORMATS[kind][2]]
    with torch.no_grad():
        z = net(x, told)
    own = model.vocabulary
    found = model.log_p_x0(x, T)
    assert found.shape == (3, LENGTH, net.states)
    excluded = own.mask is not None and not own.counts_mask
    if excluded:
        z[..., own.mask] = -torch.inf
    expected = z.log_softmax(-1)
    if own.carries_over:
        stays = torch.full_like(z, -torch.inf).scatter(-1, x[..., None], 0.0)
        expected = torch.where((x == own.mask)[..., None], expected, stays)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@every_format
def test_samples_and_fillings_hold_tokens_alone_and_keep_what_is_given(loaded, kind):
    model, _ = loaded(kind)
    for sample in model.sample(3, steps=4, seed=1):
        assert len(sample.tokens) == LENGTH
        assert all(0 <= token < model.vocab_size for token in sample.tokens)
    for name in ("tweedie", "first_hitting"):
        if name == "first_hitting" and not model.graph.masking:
            continue
        resolved = Sampling(sampler=name).resolve(model)
        request = SequenceRequest((0, None, None, 2, None, 1), seed=4)
        (row,) = [event for event in denoise(model, resolved, [request]) if isinstance(event, DenoisedRow)]
        assert [row.tokens[i] for i in (0, 3, 5)] == [0, 2, 1]
        assert all(0 <= token < model.vocab_size for token in row.tokens)


@torch.no_grad()
def log_p(model, steps: int) -> dict[tuple[int, ...], float]:
    """log p of every sequence of two tokens under the process that samplers approach, by its master equation.

    The reverse process is integrated over a fine grid with its full matrix of rates over all pairs of states.
    """
    score = model.score
    graph, S = score.graph, score.graph.states
    states = torch.tensor(list(itertools.product(range(S), repeat=2)))
    where = {tuple(x): i for i, x in enumerate(states.tolist())}
    low, high = model.schedule.sigma(1e-5), model.schedule.sigma(1.0)
    grid = torch.logspace(math.log10(high), math.log10(low), steps + 1, dtype=torch.float64)
    base = graph.base()
    p = (base[:, None] * base).flatten()
    neighbours = [[where[(*x[:i], y, *x[i + 1 :])] for i in range(2) for y in range(S)] for x in states.tolist()]
    to = torch.tensor(neighbours)
    for t, s in itertools.pairwise(grid):
        middle = ((t.log() + s.log()) / 2).exp()
        level = middle.expand(len(states))
        log_score = score.log_score(states, level.float()).double()
        rates = graph.between(middle, middle).reverse_rates(log_score, states).flatten(1)  # from each state
        Q = torch.zeros(len(states), len(states), dtype=torch.float64).scatter_add_(1, to, rates)
        Q -= Q.sum(1).diag()
        p = p @ torch.linalg.matrix_exp(Q * (t - s))
    found = {}
    log_score = score.log_score(states, torch.full((len(states),), low))
    masses = decode_masses(graph, log_score, states, torch.full((len(states),), low, dtype=torch.float64))
    last = masses.log_softmax(-1)
    if graph.masking:  # tokens stay
        stays = torch.full_like(last, -torch.inf).scatter(-1, states[..., None], 0.0)
        last = torch.where((states == graph.mask)[..., None], last, stays)
    for x0 in itertools.product(range(graph.vocab_size), repeat=2):
        decoded = last[:, 0, x0[0]] + last[:, 1, x0[1]]
        found[x0] = float((p.clamp(min=1e-300).log() + decoded).logsumexp(0))
    return found


#: One of each parametrization.
MEANINGS = ("mdlm, with time", "udlm", "gidd", "gidd, masks alone", "lightning d3pm", "lightning sedd")


@pytest.mark.parametrize("kind", MEANINGS)
def test_the_bound_lies_above_minus_log_p(loaded, kind):
    model, _ = loaded(kind)
    exact = log_p(model, 200)
    # more than 0 is lost where scores are not those of a distribution
    assert math.isclose(sum(math.exp(value) for value in exact.values()), 1.0, abs_tol=2e-3)
    ordered = sorted(exact, key=exact.__getitem__)
    for x0 in (ordered[0], ordered[-1]):
        found, _ = model.bound(torch.tensor([x0]).expand(256, 2), draws=16, seed=2)
        bound, error = float(found.mean()), float(found.std()) / 16
        assert bound > -exact[x0] - 4 * error - 0.02
        if model.objective.parametrization != "score":  # where scores are normalised it is not far above
            assert bound < -exact[x0] + 4 * error + 6


@pytest.mark.parametrize("kind", ["udlm", "mdlm, with time", "gidd"])
@pytest.mark.parametrize("name", ["tweedie", "euler"])
def test_thinned_samples_are_those_of_all_scores(loaded, kind, name):
    score, index = loaded(kind)[0].score, torch.arange(50)
    given = Conditioning(torch.zeros(50, LENGTH, dtype=torch.bool), torch.zeros(50, LENGTH, dtype=torch.int64))
    with torch.no_grad():
        *_, thinned = SAMPLERS[name](steps=16).run(score, given, 1, index)
        *_, plain = run_reference(score, SAMPLERS[name](steps=16), given, 1, index)
    assert torch.equal(thinned.x, plain)


def test_a_model_in_discrete_time_has_the_bound_of_its_steps(loaded):
    model, _ = loaded("lightning d3pm")
    assert model.objective.steps == 50
    x0 = torch.tensor([[1, 0]])
    discrete, _ = model.bound(x0.expand(64, 2), draws=16, seed=2, protocol="discrete")
    rigorous, _ = model.bound(x0.expand(64, 2), draws=16, seed=2)
    assert abs(float(discrete.mean() - rigorous.mean())) < 0.5


def test_the_other_weights_do_not_count(tmp_path):
    net = made.save_lightning(tmp_path / "a.ckpt", **made.SUBS)
    live = made.save_lightning(tmp_path / "b.ckpt", averaged=False, **made.SUBS)
    for file, expected, told in (("a", net, "EMA"), ("b", live, "not averaged")):
        model = load_model(tmp_path / f"{file}.ckpt", device="cpu")
        for name, value in expected.named_parameters():
            assert torch.equal(dict(model.net.net.named_parameters())[name], value)
        assert model.facts["weights"] == told
        assert model.facts["step"] == 7


@pytest.mark.parametrize("step", [None, torch.tensor(5), "7", True])
def test_a_step_that_is_no_whole_number_is_left_out(tmp_path, step):
    made.save_lightning(tmp_path / "m.ckpt", step=step, **made.SUBS)
    made.save_radd_run(tmp_path / "radd")
    file = tmp_path / "radd" / "checkpoints-meta" / "checkpoint.pth"
    torch.save({**torch.load(file), "step": step}, file)
    for path in (tmp_path / "m.ckpt", tmp_path / "radd"):
        model = load_model(path, device="cpu")
        assert "step" not in model.facts
        assert ModelCard(model, "m").text()


def test_a_negative_id_of_mask_is_not_taken(tmp_path):
    tokenizer = made.bert_tokenizer({"a": 0, "[MASK]": -1})
    made.save_lightning(tmp_path / "m.ckpt", tokenizer=tokenizer, **made.SUBS)
    assert load_model(tmp_path / "m.ckpt", device="cpu").vocabulary.mask == N


@pytest.mark.parametrize("name", ["log_gamma", "log_B"])
def test_a_schedule_of_gidd_with_several_numbers_for_one_is_damaged(tmp_path, name):
    made.save_gidd_run(tmp_path / "m")
    numbers = {"log_gamma": torch.zeros(()), "log_B": torch.zeros(()), name: torch.zeros(2)}
    torch.save(numbers, tmp_path / "m" / "noise_schedule.pt")
    with pytest.raises(DamageError, match=rf"noise_schedule.pt: {name} must be one number, found \[2\]"):
        load_model(tmp_path / "m", device="cpu")


def test_scores_of_the_code_of_mdlm_are_scaled_by_sigma(tmp_path):
    net = made.save_lightning(tmp_path / "m.ckpt", parameterization="sedd", time_conditioning=True)
    x, sigma = torch.randint(N + 1, (2, LENGTH), generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 2.0])
    with torch.no_grad():
        expected = net(x, sigma) - torch.expm1(sigma).log()[:, None, None] - math.log(N)
    expected = expected.scatter(-1, x[..., None], 0.0)
    torch.testing.assert_close(load_model(tmp_path / "m.ckpt", device="cpu").log_score(x, sigma), expected)


def test_mask_in_the_middle_is_known_from_the_pickled_tokenizer(tmp_path):
    ids = {token: number for number, token in enumerate(["a", "[MASK]", "b", "c", "[UNK]", "[SEP]", "[CLS]", "[PAD]"])}
    made.save_lightning(tmp_path / "m.ckpt", states=8, tokenizer=made.bert_tokenizer(ids), **made.SUBS)
    model = load_model(tmp_path / "m.ckpt", device="cpu")
    assert model.vocabulary.mask == 1
    assert model.tokenizer.encode("A c b") == [0, 2, 1]  # ids behind MASK move down by one
    assert model.infill("a [MASK:1] c", seed=1)[0].text.startswith("a ")
    log_p = model.log_p_x0(torch.tensor([[0, 1, 2, 3, 1, 1]]), torch.tensor([0.5]))
    assert log_p[0, :, 1].isneginf().all()
    assert log_p[0, 3, 3] == 0
    assert model.vocab_size == 7


# BD3-LM: blocks one after another


def block_model(tmp_path, size=2):
    save = made.Variant(block_size=size)
    made.save_hub(tmp_path / "m", "bd3lm", variant=save, block_size=size)
    return load_model(tmp_path / "m", device="cpu")


def test_a_block_is_given_earlier_clean_blocks_and_never_later_ones(tmp_path):
    model, generator = block_model(tmp_path), torch.Generator().manual_seed(0)
    x0 = torch.randint(N, (2, LENGTH), generator=generator)
    x = torch.where(torch.rand(2, LENGTH, generator=generator) < 0.5, N, x0)
    given = model.log_p_x0(x, torch.tensor([0.5, 0.5]), clean=x0)
    for start in range(0, LENGTH, 2):
        alone = torch.cat([x0[:, :start], x[:, start : start + 2]], 1)
        found = model.log_p_x0(alone, torch.tensor([0.5, 0.5]))[:, start:]
        torch.testing.assert_close(given[:, start : start + 2], found, atol=1e-5, rtol=1e-5)


def exact_block_log_p(model, x0):
    """log p of two tokens as two blocks of one: the second given the first."""
    t, masks = torch.tensor([0.5]), torch.tensor([[N, N]])
    first = model.log_p_x0(masks[:, :1], t)[0, 0, x0[0]]
    second = model.log_p_x0(torch.tensor([[x0[0], N]]), t)[0, 1, x0[1]]
    return float(first + second)


def test_the_bound_of_blocks_of_one_token_is_the_likelihood(tmp_path):
    model = block_model(tmp_path, 1)
    for x0 in ((0, 2), (1, 1)):
        found, _ = model.bound(torch.tensor([x0]).expand(256, 2), draws=16, seed=2)
        error = float(found.std()) / 16
        assert abs(float(found.mean()) + exact_block_log_p(model, x0)) < 4 * error + 1e-3


def test_samples_of_blocks_follow_the_distribution_of_blocks(tmp_path):
    model = block_model(tmp_path, 1)
    draws = torch.tensor([sample.tokens for sample in model.sample(2000, length=2, steps=8, seed=3)])
    seen = torch.bincount(draws @ torch.tensor([N, 1]), minlength=N * N).double()
    expected = torch.tensor([exact_block_log_p(model, (i, j)) for i in range(N) for j in range(N)]).double().exp()
    likely = expected > 5 / len(draws)
    assert float(expected[~likely].sum()) < 0.01
    share = expected[likely] / expected[likely].sum()
    assert chisquare(seen[likely], share * seen[likely].sum()).pvalue > 1e-4


def test_what_blocks_cannot_do_is_refused(tmp_path):
    model = block_model(tmp_path)
    with pytest.raises(RequestError, match="fills blocks from left to right"):
        model.infill("[MASK:2]b")
    made.save_hub(tmp_path / "odd", "bd3lm", variant=made.Variant(block_size=4), block_size=4)
    with pytest.raises(RequestError, match="model_length 6 is no multiple of its block_size 4"):
        load_model(tmp_path / "odd", device="cpu")
    made.save_hub(tmp_path / "plain", "mdlm")
    plain, x = load_model(tmp_path / "plain", device="cpu"), torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(RequestError, match="clean tokens mean nothing"):
        plain.log_p_x0(x, torch.tensor([0.5]), clean=x)


# What is refused


def test_a_pickle_that_wants_more_than_inert_classes_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"state_dict": {}, "hyper_parameters": Evil()}, tmp_path / "m.ckpt")
    with pytest.raises(RequestError, match=r"is refused: this pickle needs \S*print, which could run code"):
        load_model(tmp_path / "m.ckpt", device="cpu")
    (tmp_path / "m.ckpt").write_bytes(b"no archive")
    with pytest.raises(DamageError, match="is not a complete checkpoint of torch"):
        load_model(tmp_path / "m.ckpt", device="cpu")


def test_nothing_of_a_foreign_class_is_imported(tmp_path, monkeypatch):
    (tmp_path / "omegaconf").mkdir()
    (tmp_path / "omegaconf" / "__init__.py").write_text("raise SystemExit('it ran')")
    made.save_lightning(tmp_path / "m.ckpt", **made.SUBS)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_model(tmp_path / "m.ckpt", device="cpu").vocab_size == N


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"parameterization": "ar"}, "parameterization must be one of subs, d3pm, sedd, score, mean, found 'ar'"),
        ({**made.SUBS, "backbone": "dimamba"}, "has the network 'dimamba', supported is dit"),
        ({**made.SUBS, "model": {"n_heads": 2}}, "config.model.length must be a positive number, found None"),
        ({}, "parameterization must be one of"),
        ({"parameterization": "mean", "algo": {"name": "hyperbolic_duo"}}, "found algo.name 'hyperbolic_duo'"),
        ({**made.SUBS, "algo": {"causal_attention": True}}, "has causal attention"),
    ],
)
def test_what_a_checkpoint_of_lightning_lacks_is_named(tmp_path, config, told):
    made.save_lightning(tmp_path / "m.ckpt", **config)
    with pytest.raises(RequestError, match=told):
        load_model(tmp_path / "m.ckpt", device="cpu")


def test_a_backbone_of_the_hub_has_the_prefix_twice(tmp_path):
    settings = {**made.SUBS, "backbone": "hf_dit"}
    net = made.save_lightning(tmp_path / "m.ckpt", prefix="backbone.backbone.", **settings)
    found = dict(load_model(tmp_path / "m.ckpt", device="cpu").net.net.named_parameters())
    assert all(torch.equal(found[name], value) for name, value in net.named_parameters())


def test_mask_is_named_where_it_is_not_found(tmp_path):
    made.save_gidd_hub(tmp_path / "m")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "m" / file).unlink()
    with pytest.raises(RequestError, match=r"no MASK among its 4 ids: .*give --mask-token"):
        load_model(tmp_path / "m", device="cpu")
    assert load_model(tmp_path / "m", device="cpu", mask_token="2").vocabulary.mask == 2
    with pytest.raises(RequestError, match="has the ids 0 to 3"):
        load_model(tmp_path / "m", device="cpu", mask_token="9")
    made.save_hub(tmp_path / "u", "udlm")
    with pytest.raises(RequestError, match="its noise is uniform, without MASK"):
        load_model(tmp_path / "u", device="cpu", mask_token="2")


def test_unknown_formats_and_variants_are_named(tmp_path):
    made.save_hub(tmp_path / "m", "mdlmm")
    with pytest.raises(RequestError, match=r"has model_type 'mdlmm'; formats of others: .*mdlm \(config\.json with"):
        load_model(tmp_path / "m", device="cpu")
    made.save_hub(tmp_path / "cfg", "udlm", cfg=True)
    with pytest.raises(RequestError, match="class-conditional"):
        load_model(tmp_path / "cfg", device="cpu")


@pytest.mark.parametrize("save", [made.save_gidd_hub, lambda path: made.save_hub(path, "mdlm")], ids=["gidd", "mdlm"])
def test_the_commands_take_them(sedd, tmp_path, save):
    save(tmp_path / "m")
    (tmp_path / "corpus.txt").write_text("\n\n".join("a b c a c c b" for _ in range(60)))
    if not (tmp_path / "m" / "tokenizer.json").is_file():
        made.save_tokenizer(tmp_path / "m", ["a", "b", "c", "[MASK]"])
    told = sedd("sample", "--model", tmp_path / "m", "-n", "2", "--steps", "4")
    assert told.code == 0, told.err
    done = sedd(
        "eval", "--model", tmp_path / "m", "--tokenizer", tmp_path / "m" / "tokenizer.json", "--dataset",
        tmp_path / "corpus.txt", "--split", "train", "--blocks", "4", "--max-nfe", "64", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert sedd("infill", "--model", tmp_path / "m", "--mask-token", "zz", "-t", "[MASK:2]").code == 2


# Against the plain network of the reference


def test_the_outputs_of_bd3lm_are_those_of_the_plain_network_with_its_blocks(tmp_path):
    """A hub folder of BD3-LM: no noise is told, positions see their own block and earlier ones."""
    net = made.save_hub(tmp_path / "m", "bd3lm", variant=made.Variant(block_size=2), block_size=2)
    model = load_model(tmp_path / "m", device="cpu")
    x = torch.tensor([[0, 1, made.N, 2, made.N, made.N], [made.N] * 6])
    z = reference.network(dict(net.state_dict()), x, torch.zeros(2), made.HEADS, 2)
    expected = z[..., : made.N].log_softmax(-1)
    found, masked = model.log_p_x0(x, torch.tensor([0.3, 0.8])), x == made.N
    torch.testing.assert_close(found[masked][:, : made.N], expected[masked], rtol=1e-5, atol=1e-5)
    assert found[~masked].exp().gather(-1, x[~masked][:, None]).eq(1).all()


def test_the_outputs_of_a_run_of_gidd_are_those_of_the_plain_network_at_the_time(tmp_path):
    """Its network is conditioned on t itself; MASK is token 2, and rows are rounded up."""
    net = made.save_gidd_run(tmp_path / "m")
    model = load_model(tmp_path / "m", device="cpu")
    x, t = torch.tensor([[0, 1, 2, 3, 2, 2], [2] * 6]), torch.tensor([0.3, 0.8])
    z = reference.network(dict(net.state_dict()), x, t, made.HEADS)
    z[..., 2] = -torch.inf
    torch.testing.assert_close(model.log_p_x0(x, t), z.log_softmax(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("save", "changed", "reason"),
    [
        ("mdlm", {"model_length": 10**12}, "length must be at most 1,048,576"),
        ("mdlm", {"model_length": -1}, "model_length must be a positive number, found -1"),
        ("mdlm", {"n_heads": 10**12}, "n_heads must be at most 65,536"),
        ("mdlm", {"n_heads": 3}, "hidden_size must be a multiple of 2·n_heads"),
        ("mdlm", {"n_heads": None}, r"hidden_size must be a multiple of 2·n_heads"),  # 12 by default
        ("mdlm", {"time_conditioning": "no"}, "time_conditioning must be true or false, found 'no'"),
        ("bd3lm", {"block_size": 4}, "model_length 6 is no multiple of its block_size 4"),
        ("bd3lm", {"block_size": 0}, "block_size must be a positive number, found 0"),
        ("bd3lm", {"cross_attn": False}, "without block-causal attention"),
        ("duo", {"causal": True}, "has a causal network, of an autoregressive model"),
        ("gidd", {"p_uniform": 1.5}, r"config\.json: p_uniform must lie in \[0, 1\), found 1\.5"),
        ("gidd", {"p_uniform": "a"}, r"^[^:]*config\.json: p_uniform must be a number, found 'a'"),
        ("gidd", {"t_eps": float("nan")}, "t_eps must lie in"),
        ("gidd", {"max_seq_len": 10**12}, "length must be at most 1,048,576"),
        ("gidd", {"num_attention_heads": 0}, "num_attention_heads or n_heads must be a positive number"),
        ("radd", {"model": 3}, "graph is missing"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_in_one_line(tmp_path, save, changed, reason):
    made.FORMATS[save][0](tmp_path / "m")
    file = tmp_path / "m" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
    with pytest.raises((RequestError, DamageError), match=reason) as caught:
        load_model(tmp_path / "m", device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 junk", b"text"])
def test_a_checkpoint_file_of_anything_else_is_damage(tmp_path, content):
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises((RequestError, DamageError), match=r"a\.ckpt") as caught:
        load_model(tmp_path / "a.ckpt", device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("named", ["m", "m/checkpoints"])
@pytest.mark.parametrize("hydra", [True, False])
def test_of_the_checkpoint_files_of_a_training_directory_one_is_to_be_named(tmp_path, named, hydra):
    folder = tmp_path / "m" / "checkpoints"
    folder.mkdir(parents=True)
    if hydra:
        (tmp_path / "m" / ".hydra").mkdir()
        (tmp_path / "m" / ".hydra" / "config.yaml").write_text("model:\n  length: 6\n")
    for number in range(14):
        (folder / f"{number:02}.ckpt").touch()
    made.save_lightning(folder / "00.ckpt", **made.SUBS)
    with pytest.raises(
        RequestError, match=r": name one of .*m/checkpoints/00\.ckpt, .*11\.ckpt and 2 others$"
    ) as caught:
        load_model(tmp_path / named, device="cpu")
    assert "checkpoints-meta" not in str(caught.value)
    assert load_model(folder / "00.ckpt", device="cpu").facts["layout"] == "lightning"


@pytest.mark.parametrize("name", ["renamed.safetensors", "model.pt", "weights.bin"])
def test_a_file_of_tensors_that_fits_no_format_is_answered_with_its_tensors(tmp_path, name):
    save_any = save_file if name.endswith("safetensors") else torch.save
    save_any({f"{'long' * 100}.{i}": torch.zeros(2) for i in range(9)}, tmp_path / name)
    told = (
        r"is a file of no known format: .*it holds 9 tensors: long.* and 5 others; formats of others: .*smdm \(one safe"
    )
    with pytest.raises(RequestError, match=told) as caught:
        load_model(tmp_path / name, device="cpu")
    assert "name its folder" not in str(caught.value)
    assert len(str(caught.value)) < 4000


def test_text_is_refused_without_a_tokenizer_and_ids_are_not(sedd, tmp_path):
    made.save_hub(tmp_path / "m", "mdlm")
    (tmp_path / "text.txt").write_text("a b c\n" * 50)
    refused = sedd("eval", "--model", tmp_path / "m", "--dataset", tmp_path / "text.txt")
    assert refused.code == 2
    assert "name one with --tokenizer" in refused.err
    assert sedd("sample", "--model", tmp_path / "m", "--steps", 2).code == 0
