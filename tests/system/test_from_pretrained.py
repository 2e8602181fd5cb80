"""A folder with Python code of its own is refused; the code is not run, whatever standard input answers."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.causal_models import save_tiny_causal
from support.toys import ALL

import sedd_cli
from sedd_cli.errors import RequestError
from sedd_cli.system.from_pretrained import pretrained_causal_model, pretrained_tokenizer

HARM = """
from pathlib import Path
Path({mark!r}).write_text("this code was run")
from transformers import GPT2Config as Config, GPT2LMHeadModel as Model, PreTrainedTokenizerFast as Tokenizer
"""


@pytest.fixture
def mark(tmp_path) -> Path:
    """The file that foreign code writes if it is run."""
    return tmp_path / "harm-was-done"


@pytest.fixture
def folder(tmp_path, mark) -> Path:
    """A causal model and tokenizer that can be loaded only with the Python file beside them."""
    folder = save_tiny_causal(tmp_path / "foreign")
    (folder / "harm.py").write_text(HARM.format(mark=str(mark)))
    _change(folder / "config.json", model_type="foreign", auto_map={
        "AutoConfig": "harm.Config", "AutoModelForCausalLM": "harm.Model",
    })  # fmt: skip
    _change(folder / "tokenizer_config.json", tokenizer_class="ForeignTokenizer", auto_map={
        "AutoTokenizer": [None, "harm.Tokenizer"]
    })  # fmt: skip
    return folder


@pytest.fixture(autouse=True)
def answers_yes(monkeypatch):
    """Standard input says yes to every question; what is read of it can be seen."""
    stream = io.StringIO("y\nyes\n" * 1000)
    monkeypatch.setattr(sys, "stdin", stream)
    return stream


def _change(path: Path, **keys) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


@pytest.mark.slow
@pytest.mark.skipif(not ALL, reason="imports transformers in a process of its own: SEDD_ALL_TESTS=1")
def test_this_folder_would_run_its_code_where_standard_input_is_asked(folder, mark, tmp_path):
    """The fixture is dangerous indeed: otherwise the tests below could not fail."""
    code = f"from transformers import AutoTokenizer; AutoTokenizer.from_pretrained({str(folder)!r})"
    env = os.environ | {"HF_HOME": str(tmp_path / "hub")}  # transformers copies the file there, and runs the copy
    subprocess.run([sys.executable, "-c", code], input="y\n" * 9, text=True, capture_output=True, env=env, timeout=100)
    assert mark.exists()


@pytest.mark.parametrize("load", [pretrained_tokenizer, pretrained_causal_model])
def test_code_of_a_folder_is_refused_in_one_line(folder, mark, load, answers_yes):
    with pytest.raises(RequestError, match=r"foreign needs Python code of its own.*never run") as refused:
        load(str(folder), local_files_only=True)
    assert "\n" not in str(refused.value)
    assert not mark.exists()
    assert answers_yes.tell() == 0


@pytest.mark.parametrize(
    "command",
    [
        ["prepare", "x.txt", "--tokenizer", "FOLDER"],
        ["judge", "x.txt", "--judge", "FOLDER"],
        ["eval", "--model", "FOLDER", "--dataset", "x.txt"],
        ["mauve", "--references", "x.txt", "--model", "FOLDER", "--features", "FOLDER"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_no_command_runs_code_of_a_folder(command, folder, mark, sedd, tmp_path, monkeypatch, answers_yes):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.txt").write_text("a text with some words\n" * 20)
    ended = sedd(*(str(folder) if word == "FOLDER" else word for word in command))
    assert (ended.code, ended.err.count("error:")) == (2, 1)
    assert "never run" in ended.err
    assert not mark.exists()
    assert answers_yes.tell() == 0


@pytest.mark.parametrize("key", ["n_layer", "num_hidden_layers", "num_local_experts", "text_config"])
def test_more_layers_than_any_model_has_are_refused_before_they_are_made(key, tmp_path):
    config = {"num_hidden_layers": 10**9} if key == "text_config" else 10**9
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", key: config}))
    with pytest.raises(RequestError, match=r"config.json: \w+ must be at most 4,096 .*, found 1000000000"):
        pretrained_causal_model(str(tmp_path))


def test_a_folder_without_code_is_loaded(tmp_path):
    folder = save_tiny_causal(tmp_path / "plain")
    assert pretrained_tokenizer(str(folder)).vocab_size == 257
    assert pretrained_causal_model(str(folder)).config.n_layer == 2


def test_from_pretrained_is_called_in_one_place_alone():
    package = Path(sedd_cli.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            call = isinstance(node, ast.Attribute) and node.attr in ("from_pretrained", "from_config")
            auto = isinstance(node, ast.ImportFrom) and node.module == "transformers"
            if call or (auto and any(alias.name.startswith("Auto") for alias in node.names)):
                found.add(str(path.relative_to(package)))
    assert found == {"system/from_pretrained.py"}


@pytest.mark.parametrize("kind", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
@pytest.mark.parametrize("wrong", ["../secret.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ""])
def test_an_index_of_weights_that_leaves_its_folder_is_refused(kind, wrong, tmp_path):
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors", "b": wrong}}
    (tmp_path / kind).write_text(json.dumps(index))
    for load in (pretrained_causal_model, pretrained_tokenizer):
        with pytest.raises(RequestError, match=r"index\.json names .*, which is no file of its own folder"):
            load(str(tmp_path))


@pytest.mark.parametrize("content", ["[]", '{"weight_map": 3}', "{", '{"weight_map": {"a": "model-1.safetensors"}}'])
def test_an_index_that_is_damaged_or_plain_is_left_to_the_library(content, tmp_path):
    save_tiny_causal(tmp_path)
    (tmp_path / "other.safetensors.index.json").write_text(content)
    assert pretrained_causal_model(str(tmp_path)) is not None
