"""Variants of others' checkpoints: keys that are missing, other names, types and sizes, and what each means."""

from __future__ import annotations

import json

import pytest
import reference
import torch
from safetensors.torch import load_file, save_file
from support import sedd_networks as made
from support.llamas import MASK, ROWS, logits, save_hugging_face, save_llada, save_tokenizer, tensors
from support.llamas import reference as whole_model

from sedd_cli import load_model
from sedd_cli.checkpoints.formats.special_tokens import tokenizer_of
from sedd_cli.errors import RequestError

X = torch.tensor([[0, 1, made.N, 2, made.N, made.N], [made.N] * 6])
T = torch.tensor([0.3, 0.8])
LLAMA_X = torch.tensor([[1, 2, MASK, 4, 5, MASK, 39], [MASK] * 7])


def change(folder, removed=(), **changed):
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **changed}
    file.write_text(json.dumps({key: value for key, value in config.items() if key not in removed}))
    return folder


def of_plain_network(net, x, told):
    """log p of the clean token by the network written in loops, over all rows."""
    return reference.network(dict(net.state_dict()), x, told, made.HEADS).log_softmax(-1)


@pytest.mark.parametrize("name", ["DUO", "duo"])
def test_the_name_of_duos_configuration_is_spelled_in_two_ways(tmp_path, name):
    net = made.save_hub(tmp_path / "m", "duo")
    change(tmp_path / "m", model_type=name, var_min=True, unknown={"a": [1]})
    model = load_model(tmp_path / "m", device="cpu")
    x = X.clamp(max=2)
    sigma = -torch.log1p(-0.999 * T)
    torch.testing.assert_close(model.log_p_x0(x, T), of_plain_network(net, x, sigma), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "told"), [("mdlm", False), ("udlm", True), ("duo", True), ("bd3lm", False)])
def test_whether_the_noise_is_told_where_the_configuration_does_not_say(tmp_path, kind, told):
    """As their classes of configurations have it."""
    made.save_hub(tmp_path / "m", kind, **({"block_size": 2} if kind == "bd3lm" else {}))
    change(tmp_path / "m", ["time_conditioning", "dropout", "vocab_size", "hidden_dim", "cond_dim", "n_blocks"])
    assert load_model(tmp_path / "m", device="cpu").net.condition.kind == ("sigma" if told else "none")


@pytest.mark.parametrize(("kind", "length"), [("mdlm", 1024), ("udlm", 128), ("bd3lm", 1024)])
def test_the_length_where_the_configuration_does_not_say(tmp_path, kind, length):
    made.save_hub(tmp_path / "m", kind, **({"block_size": 4} if kind == "bd3lm" else {}))
    assert load_model(change(tmp_path / "m", ["model_length"]), device="cpu").length == length


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module."])
def test_weights_of_lower_precision_behind_the_prefixes_of_wrappers(tmp_path, dtype, prefix):
    net = made.save_hub(tmp_path / "m", "mdlm")
    file = tmp_path / "m" / "model.safetensors"
    stored = {prefix + name: value.to(dtype) for name, value in load_file(file).items()}
    save_file(stored, file)
    for value in net.parameters():
        value.data.copy_(value.to(dtype).float())
    found = load_model(tmp_path / "m", device="cpu").log_p_x0(X, T)
    z = reference.network(dict(net.state_dict()), X, torch.zeros(2), made.HEADS)[..., : made.N].log_softmax(-1)
    masked = X == made.N
    torch.testing.assert_close(found[masked][:, : made.N], z[masked], rtol=1e-4, atol=1e-4)


def test_a_hub_folder_of_mdlm_may_be_in_shards(tmp_path):
    made.save_hub(tmp_path / "m", "mdlm")
    whole = load_model(tmp_path / "m", device="cpu").log_p_x0(X, T)
    file = tmp_path / "m" / "model.safetensors"
    found = load_file(file)
    file.unlink()
    names = {name: f"model-{i % 2 + 1:05}-of-00002.safetensors" for i, name in enumerate(found)}
    for shard in set(names.values()):
        save_file({name: found[name] for name in found if names[name] == shard}, tmp_path / "m" / shard)
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert torch.equal(load_model(tmp_path / "m", device="cpu").log_p_x0(X, T), whole)


def test_gidds_mask_lies_where_its_tokenizer_has_it_and_p_uniform_is_none_by_default(tmp_path):
    net = made.save_gidd_hub(tmp_path / "m")
    model = load_model(change(tmp_path / "m", ["p_uniform", "t_eps", "vocab_size"]), device="cpu")
    assert model.graph.name == "absorbing"
    assert model.vocabulary.mask == 2
    x = torch.tensor([[0, 1, 2, 3, 2, 2]] * 2)
    z = reference.network(dict(net.state_dict()), x, T, made.HEADS)
    z[..., 2] = -torch.inf
    torch.testing.assert_close(model.log_p_x0(x, T), z.log_softmax(-1), rtol=1e-4, atol=1e-5)


def test_the_line_on_a_model_of_gidd_names_the_options_of_its_process_once(tmp_path):
    made.save_gidd_hub(tmp_path / "m")
    told = load_model(tmp_path / "m", device="cpu").describe()
    assert ", gidd, gidd (p_uniform 0.2, reached 3, first_version true, t_eps 0.1), " in told


# MASK and the tokenizer of folders of MDLM and RADD

WORDS = ["a", "[MASK]", "b", "c"]


def save_family(folder, kind):
    blocks = {"variant": made.Variant(block_size=2), "block_size": 2} if kind == "bd3lm" else {}
    return made.save_radd_hub(folder) if kind == "radd" else made.save_hub(folder, kind, **blocks)


@pytest.mark.parametrize("kind", ["mdlm", "bd3lm", "radd"])
def test_the_tokenizer_of_the_folder_is_taken_with_its_mask(tmp_path, kind):
    save_family(tmp_path / "m", kind)
    assert load_model(tmp_path / "m", device="cpu").vocabulary.mask == 3
    made.save_tokenizer(tmp_path / "m", WORDS)
    model = load_model(tmp_path / "m", device="cpu")
    assert (model.vocabulary.mask, model.tokenizer.encode("a b c")) == (1, [0, 1, 2])
    assert load_model(tmp_path / "m", device="cpu", mask_token="c").vocabulary.mask == 3
    assert load_model(tmp_path / "m", device="cpu", mask_token="0").vocabulary.mask == 0


def test_the_outputs_with_the_mask_of_the_folder_are_those_of_the_plain_network(tmp_path):
    net = made.save_hub(tmp_path / "m", "mdlm")
    made.save_tokenizer(tmp_path / "m", WORDS)
    x = torch.tensor([[0, 2, 1, 3, 1, 1], [1] * 6])
    z = reference.network(dict(net.state_dict()), x, torch.zeros(2), made.HEADS)
    z[..., 1] = -torch.inf
    found = load_model(tmp_path / "m", device="cpu").log_p_x0(x, T)
    torch.testing.assert_close(found[x == 1], z.log_softmax(-1)[x == 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["mdlm", "radd"])
@pytest.mark.parametrize(("declared", "mask"), [(2, 2), (0, 0), (4, 1), (-1, 1), ("2", 1), (True, 1), (None, 1)])
def test_the_id_of_the_configuration_comes_first_if_there_is_such_a_row(tmp_path, kind, declared, mask):
    save_family(tmp_path / "m", kind)
    made.save_tokenizer(tmp_path / "m", WORDS)
    assert load_model(change(tmp_path / "m", mask_token_id=declared), device="cpu").vocabulary.mask == mask


@pytest.mark.parametrize("kind", ["udlm", "duo"])
def test_uniform_models_have_no_mask_whatever_their_tokenizer_has(tmp_path, kind):
    save_family(tmp_path / "m", kind)
    made.save_tokenizer(tmp_path / "m", WORDS)
    model = load_model(change(tmp_path / "m", mask_token_id=1), device="cpu")
    assert (model.vocabulary.mask, model.vocab_size, model.tokenizer.encode("a c")) == (None, 4, [0, 3])


@pytest.mark.parametrize(("kind", "mask"), [("mdlm", 1), ("radd", 3)])
def test_radds_mask_is_the_row_behind_its_tokens_although_these_have_one(tmp_path, kind, mask):
    """Its code counts a row more than its tokenizer has tokens, also with BERT's."""
    save_family(tmp_path / "m", kind)
    made.save_tokenizer(tmp_path / "m", WORDS[:3])
    assert load_model(tmp_path / "m", device="cpu").vocabulary.mask == mask


def test_a_checkpoint_of_radd_under_another_name_is_named_and_loads_by_it(tmp_path):
    net = made.save_radd_run(tmp_path / "m")
    stored = tmp_path / "m" / "checkpoints-meta" / "checkpoint.pth"
    other = tmp_path / "m" / "checkpoints" / "checkpoint_5.pth"
    other.parent.mkdir()
    stored.rename(other)
    with pytest.raises(RequestError, match=r"m has no checkpoints-meta/checkpoint\.pth; name one of .*_5\.pth"):
        load_model(tmp_path / "m", device="cpu")
    made.save_tokenizer(tmp_path / "m", WORDS)
    model = load_model(other, device="cpu")
    assert (model.facts["step"], model.facts["weights"], model.vocabulary.mask) == (5, "EMA", 1)
    weights = dict(model.net.named_parameters())
    assert all(torch.equal(value, weights[f"net.{name}"]) for name, value in net.named_parameters())
    other.rename(tmp_path / "m" / "weights.zip")
    with pytest.raises(RequestError, match=r"no checkpoints-meta/checkpoint\.pth, and no other file \*\.pth or \*\.pt"):
        load_model(tmp_path / "m", device="cpu")


@pytest.mark.parametrize("bert", [True, False])
def test_a_tokenizer_of_older_files_is_taken_too(tmp_path, bert):
    made.save_hub(tmp_path / "m", "mdlm", states=8)
    words = ["[PAD]", "[UNK]", "[MASK]", "[SEP]", "[CLS]", "a", "b"]
    told = {"mask_token": "[MASK]", "tokenizer_class": "BertTokenizer" if bert else "GPT2Tokenizer"}
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps(told))
    if bert:
        (tmp_path / "m" / "vocab.txt").write_text("\n".join(words) + "\n")
    else:
        ids = {word: i for i, word in enumerate([*words, "<|endoftext|>"])}
        (tmp_path / "m" / "vocab.json").write_text(json.dumps(ids))
        (tmp_path / "m" / "merges.txt").write_text("#version: 0.2\n")
    model = load_model(tmp_path / "m", device="cpu")
    assert (model.vocabulary.mask, model.tokenizer.encode("a")) == (2, [4])


@pytest.mark.parametrize(
    ("files", "source"), [({}, None), ({"vocab.txt": "a\n"}, "vocab.txt"), ({"vocab.json": "{}"}, None)]
)
def test_what_the_tokenizer_of_a_folder_is_loaded_from(tmp_path, files, source):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert tokenizer_of(tmp_path) == (source and str(tmp_path / source))


# Lightning checkpoints


def algo(name, parameterization, **more):
    told = {"backbone": "dit", "time_conditioning": True, **more}
    return {"algo": {"name": name, "parameterization": parameterization, **told}, "noise": {"type": "log-linear"}}


def test_duos_d3pm_counts_mask_although_its_parametrisation_is_called_mean(tmp_path):
    net = made.save_lightning(tmp_path / "m.ckpt", **algo("d3pm", "mean", T=50, subs_masking=False))
    model = load_model(tmp_path / "m.ckpt", device="cpu")
    assert model.objective.steps == 50
    sigma = -torch.log1p(-0.999 * T)
    torch.testing.assert_close(model.log_p_x0(X, T), of_plain_network(net, X, sigma), rtol=1e-5, atol=1e-5)


def test_duos_sedd_is_called_score(tmp_path):
    made.save_lightning(tmp_path / "a.ckpt", **algo("sedd", "score"))
    made.save_lightning(tmp_path / "b.ckpt", parameterization="sedd", time_conditioning=True)
    a, b = (load_model(tmp_path / f"{name}.ckpt", device="cpu").log_score(X, T) for name in "ab")
    assert torch.equal(a, b)


def test_other_schedules_are_refused_where_they_matter(tmp_path):
    cosine = {"noise": {"type": "cosine", "eps": 1e-3}}
    made.save_lightning(tmp_path / "m.ckpt", **{**algo("duo", "mean"), **cosine})
    with pytest.raises(RequestError, match=r"has noise of the type 'cosine', supported is loglinear"):
        load_model(tmp_path / "m.ckpt", device="cpu")
    made.save_lightning(tmp_path / "s.ckpt", **{**made.SUBS, **cosine})  # the network is not conditioned on the noise
    load_model(tmp_path / "s.ckpt", device="cpu")


@pytest.mark.parametrize("eps", ["1e-3", 1e-3])
def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path, eps):
    made.save_lightning(tmp_path / "m.ckpt", **made.SUBS, noise={"type": "loglinear", "eps": eps})
    assert load_model(tmp_path / "m.ckpt", device="cpu").schedule.eps == 1e-3


def test_a_tokenizer_of_code_from_a_hub_becomes_a_stand_in(tmp_path):
    path = "transformers_modules.somebody.some_tokenizer.tokenizer.QM9Tokenizer"
    tokenizer = made.foreign(path, {"_vocab_str_to_int": {"C": 0}, "_mask_token": "<mask>"})
    made.save_lightning(tmp_path / "m.ckpt", tokenizer=tokenizer, **made.UNIFORM)
    assert load_model(tmp_path / "m.ckpt", device="cpu").vocab_size == made.N + 1


def test_a_tokenizer_beside_a_checkpoint_that_holds_none_is_taken_with_its_mask(tmp_path):
    made.save_lightning(tmp_path / "m.ckpt", **made.SUBS)
    made.save_tokenizer(tmp_path, WORDS)
    model = load_model(tmp_path / "m.ckpt", device="cpu")
    assert (model.vocabulary.mask, model.tokenizer.encode("a b c")) == (1, [0, 1, 2])
    assert f"tokenizer {tmp_path / 'tokenizer.json'}" in model.describe()
    assert load_model(tmp_path / "m.ckpt", device="cpu", mask_token="c").vocabulary.mask == 3
    (tmp_path / "other").mkdir()
    made.save_tokenizer(tmp_path / "other", ["c", "[MASK]", "a", "b"])
    named = load_model(tmp_path / "m.ckpt", device="cpu", tokenizer=str(tmp_path / "other" / "tokenizer.json"))
    assert named.tokenizer.encode("a b c") == [1, 2, 0]


def test_a_tokenizer_beside_a_checkpoint_does_not_replace_the_one_in_it(tmp_path):
    ids = {token: number for number, token in enumerate(["a", "[MASK]", "b", "c", "[UNK]", "[SEP]", "[CLS]", "[PAD]"])}
    made.save_lightning(tmp_path / "m.ckpt", states=8, tokenizer=made.bert_tokenizer(ids), **made.SUBS)
    made.save_tokenizer(tmp_path, ["c", "b", "[MASK]", "a"])
    model = load_model(tmp_path / "m.ckpt", device="cpu")
    assert (model.vocabulary.mask, model.tokenizer.encode("A c b")) == (1, [0, 2, 1])


def test_blocks_of_a_checkpoint_of_bd3lm_divide_its_length(tmp_path):
    blocks = {**algo("bd3lm", "subs", cross_attn=True), "block_size": 4}
    made.save_lightning(tmp_path / "m.ckpt", **blocks)
    with pytest.raises(RequestError, match=r"model\.length 6 is no multiple of its block_size 4"):
        load_model(tmp_path / "m.ckpt", device="cpu")


def test_a_training_directory_of_radd_without_averages_has_its_plain_weights(tmp_path):
    made.save_radd_run(tmp_path / "m")
    file = tmp_path / "m" / "checkpoints-meta" / "checkpoint.pth"
    stored = torch.load(file)
    stored.pop("ema")
    torch.save(stored, file)
    model = load_model(tmp_path / "m", device="cpu")
    assert model.facts["weights"] == "not averaged"
    live = made.network(variant=made.RADD, seed=1)
    assert all(torch.equal(dict(model.net.net.named_parameters())[n], v) for n, v in live.named_parameters())


# Llama-like networks


def agrees(folder, model):
    found = load_model(folder, device="cpu").log_p_x0(LLAMA_X, T)
    torch.testing.assert_close(found, logits(model, LLAMA_X).log_softmax(-1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("Llama", {"num_key_value_heads": 2}), ("Qwen3", {"head_dim": 12, "num_key_value_heads": 2}), ("Qwen2", {})],
)
def test_sizes_that_the_configuration_leaves_out_are_those_of_the_tensors(tmp_path, kind, shape):
    model = whole_model(kind, **shape)
    folder = save_hugging_face(tmp_path / "m", model, f"a2d-{kind.lower()}", text=True)
    left_out = ["num_key_value_heads", "head_dim", "hidden_size", "vocab_size", "intermediate_size",
                "tie_word_embeddings", "max_position_embeddings"]  # fmt: skip
    agrees(change(folder, left_out), model)


@pytest.mark.parametrize("kind", ["Llama", "Qwen3"])
def test_a_head_that_is_neither_declared_nor_stored_is_the_embedding(tmp_path, kind):
    model = whole_model(kind, tie_word_embeddings=True)
    folder = save_hugging_face(tmp_path / "m", model, f"a2d-{kind.lower()}", text=True)
    agrees(change(folder, ["tie_word_embeddings"]), model)


def test_lladas_tied_head_need_not_be_declared(tmp_path):
    model = whole_model("Qwen2", num_key_value_heads=2, tie_word_embeddings=True)
    folder = save_llada(tmp_path / "m", model)
    agrees(change(folder, ["weight_tying", "rms_norm_eps", "multi_query_attention"]), model)


@pytest.mark.parametrize(
    ("kind", "biases"),
    [("Llama", {"attention_bias": True, "mlp_bias": True}), ("Qwen3", {"attention_bias": True}), ("Llama", {})],
)
def test_biases_of_attention_and_of_the_mlp(tmp_path, kind, biases):
    model = whole_model(kind, **biases)
    assert any(name.endswith("o_proj.bias") for name in tensors(model)) == bool(biases)
    agrees(save_hugging_face(tmp_path / "m", model, f"a2d-{kind.lower()}", text=True, config=biases), model)


def test_sliding_windows_are_ignored_as_by_the_code_that_sees_both_ways(tmp_path):
    model = whole_model("Qwen2")
    config = {"use_sliding_window": True, "sliding_window": 2, "max_window_layers": 0, "layer_types": None}
    agrees(save_hugging_face(tmp_path / "m", model, "a2d-qwen2", text=True, config=config), model)


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn"])
def test_angles_of_other_kinds_are_scaled_as_by_transformers(tmp_path, kind):
    scaling = {"rope_type": kind, "factor": 2.0, "original_max_position_embeddings": 4}
    model = whole_model("Llama", rope_scaling=scaling)
    agrees(save_hugging_face(tmp_path / "m", model, "a2d-llama", text=True, config={"rope_scaling": scaling}), model)


def test_old_configurations_call_the_kind_of_scaling_type(tmp_path):
    scaling = {"rope_type": "linear", "factor": 2.0}
    model = whole_model("Llama", rope_scaling=scaling)
    config = {"rope_scaling": {"type": "linear", "factor": 2.0}}
    agrees(save_hugging_face(tmp_path / "m", model, "a2d-llama", text=True, config=config), model)


def test_weights_may_be_pickled_tensors(tmp_path):
    model = whole_model("Llama")
    folder = save_hugging_face(tmp_path / "m", model, "a2d-llama", text=True)
    (folder / "model.safetensors").unlink()
    torch.save(tensors(model), folder / "pytorch_model.bin")
    agrees(folder, model)


def test_a_run_of_gidd_with_another_exponent_is_refused(tmp_path):
    made.save_gidd_run(tmp_path / "m")
    for exponent in (1.0, 2.0):
        stored = {"log_B": torch.tensor(0.5).log(), "log_gamma": torch.tensor(exponent).log()}
        torch.save(stored, tmp_path / "m" / "noise_schedule.pt")
        if exponent == 1.0:
            assert not load_model(tmp_path / "m", device="cpu").schedule.mixing.first_version
    with pytest.raises(RequestError, match=r"log_gamma 0\.693147 is not supported"):
        load_model(tmp_path / "m", device="cpu")


def test_mask_is_a_token_of_its_usual_spelling_where_nothing_names_it(tmp_path):
    """LLaDA's Base has no mask_token in the files of its tokenizer."""
    folder = change(save_llada(tmp_path / "m", whole_model()), ["mask_token_id"])
    save_tokenizer(folder)
    (folder / "tokenizer_config.json").unlink()
    assert load_model(folder, device="cpu").vocabulary.mask == MASK


def test_mask_may_be_the_first_of_all_rows(tmp_path):
    model = whole_model()
    folder = change(save_llada(tmp_path / "m", model), mask_token_id=0)
    agrees(folder, model)
    found = load_model(folder, device="cpu")
    assert found.vocab_size == ROWS - 1
    assert all(token < ROWS - 1 for token in found.sample(1, length=5, steps=3, seed=0)[0].tokens)


# Folders that fit several formats


def test_of_several_formats_that_fit_the_one_with_the_most_specific_mark_is_taken_and_said(sedd, tmp_path):
    """config.json before the files of training directories, these before a single file of any name."""
    made.save_gidd_run(tmp_path / "m")
    made.save_lightning(tmp_path / "m" / "last.ckpt", **made.SUBS)
    model = load_model(tmp_path / "m", device="cpu")
    assert model.facts["layout"] == "gidd-run"
    assert model.facts["taken for"] == "gidd-run, by its config.yaml with model.diffusion_process beside model.pt, " \
        "not for lightning"  # fmt: skip
    made.save_hub(tmp_path / "hub", "mdlm")
    for file in ("config.json", "model.safetensors"):
        (tmp_path / "hub" / file).rename(tmp_path / "m" / file)
    model = load_model(tmp_path / "m", device="cpu")
    assert model.facts["layout"] == "mdlm"
    done = sedd("sample", "--model", tmp_path / "m", "-n", 1, "--steps", 2)
    assert done.code == 0, done.err
    assert "taken for mdlm, by its config.json with model_type mdlm, not for gidd-run" in " ".join(done.err.split())
    single = made.save_hub(tmp_path / "single", "mdlm")
    assert single is not None
    assert "taken for" not in load_model(tmp_path / "single", device="cpu").facts


def test_formats_whose_marks_are_equally_specific_are_refused(tmp_path):
    made.save_gidd_run(tmp_path / "m")
    made.save_radd_run(tmp_path / "radd")
    for name in (".hydra", "checkpoints-meta"):
        (tmp_path / "radd" / name).rename(tmp_path / "m" / name)
    with pytest.raises(RequestError, match=r"fits several formats equally well: gidd-run \(.*radd-run \(") as caught:
        load_model(tmp_path / "m", device="cpu")
    assert "\n" not in str(caught.value)


def test_every_format_says_by_what_it_is_known():
    from sedd_cli.checkpoints.formats import FORMATS

    assert all(1 <= one.marked_by <= 4 for one in FORMATS.values())
