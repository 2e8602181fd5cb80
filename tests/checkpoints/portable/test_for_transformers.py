"""`export --transformers`: any model, written so that transformers and our own loader find the same distributions."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import llamas
from support.jobs import completed, returned
from support.peers import PEERS, peer
from support.sedd_networks import FORMATS, LENGTH, N, network, save_gidd_hub, save_tokenizer

import sedd_cli
from sedd_cli import load_model
from sedd_cli.checkpoints.export import ExportOptions, export
from sedd_cli.checkpoints.load import open_model
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.checkpoints.portable import modeling_sedd
from sedd_cli.checkpoints.portable.config import KNOWN_SCHEDULES
from sedd_cli.core.graphs import GRAPHS
from sedd_cli.core.graphs.absorbing import Absorbing
from sedd_cli.core.losses import OBJECTIVES
from sedd_cli.core.losses.autoregressive import Autoregressive
from sedd_cli.core.losses.masked_cross_entropy import MaskedCrossEntropy
from sedd_cli.core.schedules import SCHEDULES, LogLinear
from sedd_cli.errors import DamageError, RequestError
from sedd_cli.models.dit import DiT
from sedd_cli.models.shape import DiTConfig

transformers = pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture(autouse=True)
def _own_modules(tmp_path, monkeypatch) -> None:
    """The modeling file is copied to a folder of the test, not to the user's cache."""
    for module in list(sys.modules):
        if module.startswith("transformers_modules"):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))


def exported(model, folder: Path, **options) -> Path:
    completed(export(model, ExportOptions(folder, transformers=True, **options)))
    return folder


def opened(folder: Path, kind: str = "MaskedLM", dtype=torch.float32):
    return getattr(transformers, f"AutoModelFor{kind}").from_pretrained(folder, trust_remote_code=True, dtype=dtype)


def agree(model: LoadedModel, folder: Path, tolerance: float = 1e-5) -> None:
    """log p(x0|x_t) of a model, of its export here, and of its export in transformers."""
    ids, again = model.clean_ids, open_model(folder, "cpu")
    assert again.fingerprint == model.fingerprint
    x = torch.randint(ids.rows, (3, 6), generator=torch.Generator().manual_seed(0))
    x[1] = 0 if ids.mask is None else ids.mask
    t = torch.tensor([0.1, 0.5, 0.9])
    ours = model.log_p_x0(x, t)
    assert torch.equal(again.log_p_x0(x, t), ours)
    with torch.no_grad():
        theirs = opened(folder)(input_ids=x, t=t).logits
    torch.testing.assert_close(theirs, ours, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", FORMATS)
def test_a_model_on_sedds_network(tmp_path, name):
    FORMATS[name][0](tmp_path / "m")
    path = tmp_path / "m" if (tmp_path / "m").exists() else tmp_path / "m.ckpt"
    model = open_model(path, "cpu")
    agree(model, exported(model, tmp_path / "out"))


def save_dream(folder, model):
    return llamas.save_hugging_face(folder, model, "Dream", config={"mask_token_id": llamas.MASK})


def save_a2d(kind):
    return lambda folder, model: llamas.save_hugging_face(folder, model, kind, config={"mask_token_id": llamas.MASK})


LLAMAS = {
    "llada": (llamas.save_llada, "Llama", {}),
    "llada with fewer heads of keys": (llamas.save_llada, "Llama", {"num_key_value_heads": 2}),
    "dream": (save_dream, "Qwen2", {}),
    "a2d-llama": (save_a2d("a2d-llama"), "Llama", {}),
    "a2d-qwen2": (save_a2d("a2d-qwen2"), "Qwen2", {"tie_word_embeddings": True}),
    "a2d-qwen3": (save_a2d("a2d-qwen3"), "Qwen3", {"head_dim": 12}),
    "smdm": (llamas.save_smdm, "Llama", {}),
}


@pytest.mark.parametrize("name", LLAMAS)
def test_an_exported_bidirectional_transformer_gives_the_same_outputs(tmp_path, name):
    save, kind, shape = LLAMAS[name]
    model = open_model(save(tmp_path / "m", llamas.reference(kind, **shape)), "cpu")
    agree(model, exported(model, tmp_path / "out"))


def test_padding_is_not_attended_to(tmp_path):
    model = open_model(llamas.save_llada(tmp_path / "m", llamas.reference()), "cpu")
    found = opened(exported(model, tmp_path / "out"))
    x = torch.tensor([[3, 4, llamas.MASK, 6]])
    padded, seen = torch.tensor([[3, 4, llamas.MASK, 6, 9, 9]]), torch.tensor([[1, 1, 1, 1, 0, 0]])
    with torch.no_grad():
        torch.testing.assert_close(
            found(input_ids=padded, attention_mask=seen).logits[:, :4], found(input_ids=x).logits, atol=1e-6, rtol=0
        )


@pytest.mark.parametrize("name", ["mdlm-hf", "udlm-hf", "duo-ckpt", "radd-run", "llada", "a2d-qwen2"])
def test_a_network_that_other_code_has_saved(tmp_path, name):
    folder, _ = peer(name)
    model = open_model(folder, "cpu")
    agree(model, exported(model, tmp_path / "out"), 1e-4 if name == "a2d-qwen2" else 1e-5)


def test_gidd_with_its_tokenizer(tmp_path):
    if not (PEERS / "gidd-hf").is_dir():
        pytest.skip("no folder gidd-hf of other projects' networks: SEDD_PEERS names where they are")
    model = open_model(PEERS / "gidd-hf", "cpu")
    agree(model, exported(model, tmp_path / "out"))
    theirs, ours = transformers.AutoTokenizer.from_pretrained(tmp_path / "out"), model.text_tokenizer()
    assert theirs.mask_token_id == model.vocabulary.mask
    text = "".join(ours.decode([token]) for token in (5, 9, 11))
    assert model.vocabulary.states_of(torch.tensor(theirs(text)["input_ids"])).tolist() == ours.encode(text)


def test_the_tokenizer_that_is_given_is_exported_and_not_that_of_the_folder(tmp_path):
    save_gidd_hub(tmp_path / "m")
    (tmp_path / "other").mkdir()
    save_tokenizer(tmp_path / "other", ["x", "y", "[MASK]", "z"])
    for given, tokens in ((None, "a b [MASK] c"), (str(tmp_path / "other" / "tokenizer.json"), "x y [MASK] z")):
        out = exported(open_model(tmp_path / "m", "cpu", tokenizer=given), tmp_path / f"out-{tokens[0]}")
        assert list(json.loads((out / "tokenizer.json").read_text())["model"]["vocab"]) == tokens.split()


# Models of our own


def own(graph: str, noise: str, objective: str, **ablated) -> LoadedModel:
    """A model as a run of ours has it, without the run."""
    made = GRAPHS[graph](vocab_size=N)
    goal = OBJECTIVES[objective]()
    net = DiT(DiTConfig(2, 16, 2, 8, 0.0, LENGTH, **ablated), made.states, causal=goal.causal)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in net.parameters():
            value.copy_(0.3 * torch.randn(value.shape, generator=generator))
    return LoadedModel(net.eval().requires_grad_(False), made, SCHEDULES[noise](), None, "own", parametrized=goal)


COMBINED = [
    (graph, noise, objective)
    for graph in GRAPHS
    for noise in (KNOWN_SCHEDULES if graph in ("absorbing", "hybrid") else KNOWN_SCHEDULES[:2])
    for objective in OBJECTIVES
    if not OBJECTIVES[objective]().causal
    and not (OBJECTIVES[objective].needs_mask and graph != "absorbing")
    and not OBJECTIVES[objective]().learns_exponents
]


def test_a_measured_schedule_is_refused_with_what_to_do_instead(tmp_path):
    model = own("uniform", "mutual_information", "score_entropy")
    model.schedule = replace(model.schedule, curve=tuple((k / 8, k / 8.001) for k in range(1, 9)))
    why = r"cannot hold mutual_information on a graph other than absorbing, .* 8 measured values: export without"
    with pytest.raises(RequestError, match=why) as caught:
        exported(model, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_schedule_of_another_name_is_refused(tmp_path):
    class Other(LogLinear):
        name = "other"

    model = own("absorbing", "loglinear", "score_entropy")
    model.schedule = Other()
    with pytest.raises(RequestError, match=r"has the schedules loglinear, .*, not 'other', on whose"):
        exported(model, tmp_path / "out")


def test_every_schedule_of_ours_is_in_the_modeling_file():
    assert set(KNOWN_SCHEDULES) == set(SCHEDULES)


@pytest.mark.parametrize(("graph", "noise", "objective"), COMBINED)
def test_every_objective_of_ours(tmp_path, graph, noise, objective):
    model = own(graph, noise, objective)
    exported(model, tmp_path / "out")
    if model.clean_ids is not None:
        agree(model, tmp_path / "out")
        return
    again = open_model(tmp_path / "out", "cpu")
    x = torch.randint(model.graph.states, (3, 6), generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    sigma = model.schedule(t)[0].float()
    assert torch.equal(again.log_score(x, sigma), model.log_score(x, sigma))
    with torch.no_grad():
        theirs = opened(tmp_path / "out")(input_ids=x, t=t).logits
    torch.testing.assert_close(theirs, model.log_score(x, sigma), atol=1e-5, rtol=1e-5)


def test_a_network_without_time_conditioning_has_the_same_outputs_in_transformers(tmp_path):
    model = own("absorbing", "loglinear", MaskedCrossEntropy.name, time=False)
    exported(model, tmp_path / "out")
    agree(model, tmp_path / "out")


def test_a_network_without_time_conditioning_is_exported_under_any_schedule(tmp_path):
    model = own("uniform", "mutual_information", "score_entropy", time=False)
    model.schedule = replace(model.schedule, curve=tuple((k / 8, k / 8.001) for k in range(1, 9)))
    found = opened(exported(model, tmp_path / "out"))
    x = torch.randint(N, (3, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = found(input_ids=x).logits
    torch.testing.assert_close(theirs, model.log_score(x, torch.tensor([0.1, 0.5, 2.0])), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("ablated", [{"adaln": False}, {"positions": "learned"}, {"adaln": False, "time": False}])
def test_a_network_without_adaln_or_rotary_positions_is_refused(tmp_path, ablated):
    model = own("absorbing", "loglinear", MaskedCrossEntropy.name, **ablated)
    with pytest.raises(RequestError, match=r"has adaLN and rotary positions alone, not model\.(adaln|positions)="):
        exported(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_autoregressive_model_is_a_causal_language_model(tmp_path):
    model = own("absorbing", "loglinear", Autoregressive.name)
    folder = exported(model, tmp_path / "out")
    again, found = open_model(folder, "cpu"), opened(folder, "CausalLM")
    x = torch.randint(N, (4, LENGTH), generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.nats(x), model.nats(x))
    with torch.no_grad():
        first, rest = found.first_token(4).log_softmax(-1), found(input_ids=x).logits.log_softmax(-1)
        nats = -first.gather(-1, x[:, :1])[:, 0] - rest[:, :-1].gather(-1, x[:, 1:, None])[..., 0].sum(-1)
        torch.testing.assert_close(nats.double(), model.nats(x), atol=1e-5, rtol=1e-5)
        written = found.generate(x[:, :2], max_new_tokens=3, do_sample=False)
        expected = x[:, :2]
        for _ in range(3):
            expected = torch.cat([expected, found(input_ids=expected).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(written, expected)


def test_a_run_is_exported_with_its_recipe_and_tokenizer(sedd, tiny_run, tmp_path):
    done = sedd("export", tiny_run, "--to", tmp_path / "out", "--transformers", "--json")
    assert done.code == 0, done.err
    run, found = load_model(tiny_run), load_model(tmp_path / "out")
    assert found.recipe == run.recipe
    assert found.fingerprint == run.fingerprint
    assert found.tokenizer.fingerprint == run.tokenizer.fingerprint
    assert [s.text for s in found.sample(2, seed=5)] == [s.text for s in run.sample(2, seed=5)]
    assert "AutoModelForMaskedLM" in (tmp_path / "out" / "README.md").read_text()
    assert sorted(json.loads(done.out)["files"]) == sorted(p.name for p in (tmp_path / "out").iterdir())


def test_a_half_export_is_bf16_and_near_the_model(tmp_path):
    model = own("absorbing", "loglinear", MaskedCrossEntropy.name)
    result = returned(export(model, ExportOptions(tmp_path / "out", half=True, transformers=True)))
    assert result.most > 0
    found = opened(tmp_path / "out", dtype=None)
    assert next(found.parameters()).dtype == torch.bfloat16
    x, t = torch.full((1, 4), N), torch.tensor([0.5])
    with torch.no_grad():
        near = found(input_ids=x, t=t).logits
        torch.testing.assert_close(
            opened(tmp_path / "out")(input_ids=x, t=t).logits, open_model(tmp_path / "out", "cpu").log_p_x0(x, t)
        )
    torch.testing.assert_close(near, model.log_p_x0(x, t), atol=0.1, rtol=0.1)


def test_angles_of_a_bf16_model_are_not_rounded():
    """transformers makes a network in the dtype of its weights: 0.17 rad at position 1,000 with rounded frequencies."""
    kept = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        rotary = modeling_sedd.SeddRotary(64)
    finally:
        torch.set_default_dtype(kept)
    assert rotary.inv_freq.dtype == torch.float32


def called_as_documented(text: str, folder: Path):
    """The model that the call in a text makes, with the folder in the place of the one that it names."""
    call = re.search(r"(AutoModelFor\w+)\.from_pretrained\(([^,\n]+), ([^`\n]*)\)", text)
    assert call is not None, text
    assert re.search(rf"from transformers import {call[1]}", text)
    assert "import torch" in text
    auto, options = getattr(transformers, call[1]), eval(f"dict({call[3]})", {"torch": torch})
    return auto.from_pretrained(folder, **options)


def test_the_documented_call_computes_in_float32(tmp_path):
    saved = save_a2d("a2d-qwen2")(tmp_path / "m", llamas.reference("Qwen2"))
    exported(open_model(saved, "cpu"), folder := tmp_path / "out", half=True)
    x, t = torch.tensor([[3, 4, llamas.MASK, 6]]), torch.tensor([0.5])
    expected = open_model(folder, "cpu").log_p_x0(x, t)
    guide = Path(sedd_cli.__file__).parent / "guides" / "models.md"
    with torch.no_grad():
        near = opened(folder, dtype=None)(input_ids=x, t=t).logits
        assert float((near - expected).abs().max()) > 1e-4
        for text in ((folder / "README.md").read_text(), guide.read_text()):
            found = called_as_documented(text, folder)(input_ids=x, t=t).logits
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_blocks_are_given_clean_ones(tmp_path):
    FORMATS["bd3lm"][0](tmp_path / "m")
    model = open_model(tmp_path / "m", "cpu")
    found = opened(exported(model, tmp_path / "out"))
    x, clean = torch.full((1, LENGTH), N), torch.tensor([[0, 1, 2, 0, 1, 2]])
    with torch.no_grad():
        theirs = found(input_ids=x, clean=clean).logits
    torch.testing.assert_close(theirs, model.log_p_x0(x, torch.tensor([0.5]), clean), atol=1e-5, rtol=1e-5)


def test_the_folder_needs_torch_and_transformers_alone(tmp_path):
    model = own("absorbing", "loglinear", MaskedCrossEntropy.name)
    exported(model, tmp_path / "out")
    code = (
        "import sys, torch; from transformers import AutoModelForMaskedLM as A; "
        f"m = A.from_pretrained({str(tmp_path / 'out')!r}, trust_remote_code=True); "
        f"print(m(input_ids=torch.full((1, 4), {N}), t=0.5).logits.exp().sum().item(), 'sedd_cli' in sys.modules)"
    )
    environment = {"HF_MODULES_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    total, ours = done.stdout.split()
    assert float(total) == pytest.approx(4, abs=1e-4)
    assert ours == "False"


def test_what_transformers_is_not_given_is_an_error_there(tmp_path):
    FORMATS["udlm"][0](tmp_path / "m")
    found = opened(exported(open_model(tmp_path / "m", "cpu"), tmp_path / "out"))
    x = torch.zeros(1, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="pass the time t"):
        found(input_ids=x)
    with pytest.raises(ValueError, match="leave padding out"):
        found(input_ids=x, t=0.5, attention_mask=torch.tensor([[1, 1, 1, 0]]))
    with pytest.raises(ValueError, match="does not fill blocks"):
        found(input_ids=x, t=0.5, clean=x)


# Refusals


def test_the_published_layout_names_the_other_one(tmp_path):
    FORMATS["mdlm"][0](tmp_path / "m")
    with pytest.raises(RequestError, match="--transformers writes a layout that holds it"):
        completed(export(open_model(tmp_path / "m", "cpu"), ExportOptions(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_a_model_of_scores_of_another_project_is_refused_as_such(tmp_path):
    FORMATS["lightning sedd"][0](tmp_path / "m.ckpt")
    with pytest.raises(RequestError, match="SEDD's models of scores only, found a model of another project: --trans"):
        completed(export(open_model(tmp_path / "m.ckpt", "cpu"), ExportOptions(tmp_path / "out")))


def changed(config, *path_and_value):
    *path, last, value = path_and_value
    for key in path:
        config = config[key]
    config[last] = value


@pytest.mark.parametrize(
    "change",
    [
        ("network", None), ("network", "kind", "mamba"), ("network", "n_blocks", 10**9), ("network", "n_blocks", "2"),
        ("network", "hidden_size", 10**12), ("network", "states", 7), ("network", "block_size", 0),
        ("network", "extra", 1), ("vocabulary", None), ("vocabulary", "rows", 10**12), ("vocabulary", "mask", 99),
        ("vocabulary", "mask", None), ("noise", {}), ("noise", "mixing", None), ("noise", "t_eps", "x"),
        ("noise", "mixing", "reached", 0), ("noise", "mixing", "reached", 99), ("noise", "mixing", "p_uniform", 2.0),
        ("graph", "name", ["gidd"]), ("graph", "name", "other"), ("objective", "name", "other"),
        ("objective", "t_min", -1), ("condition", 3), ("own_ids", True),
    ],
)  # fmt: skip
def test_a_configuration_that_means_nothing_is_refused_in_one_line(tmp_path, change):
    save_gidd_hub(tmp_path / "m")
    folder = exported(open_model(tmp_path / "m", "cpu"), tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    changed(config, *change)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises((RequestError, DamageError)) as caught:
        open_model(folder, "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [("rows", 7), ("outputs", 1), ("rope_scaling", 5), ("tied", 1), ("n_heads", 0), ("n_blocks", 10**9), ("length", 0),
     ("rope_scaling", {"rope_type": "none"})],
)  # fmt: skip
def test_so_is_one_of_a_transformer(tmp_path, change):
    folder = exported(open_model(llamas.save_llada(tmp_path / "m", llamas.reference()), "cpu"), tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    changed(config, "network", *change)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises((RequestError, DamageError)) as caught:
        open_model(folder, "cpu")
    assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_are_damage(tmp_path):
    model = LoadedModel(network(), Absorbing(N, scale_by_sigma=False), LogLinear(), None, "own")
    folder = exported(model, tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    config["network"]["norm_bias"] = True
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DamageError, match="missing"):
        open_model(folder, "cpu")
