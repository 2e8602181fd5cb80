"""Texts prepared for a model."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support import sedd_networks
from tokenizers import Tokenizer as Engine
from tokenizers import models, pre_tokenizers

from sedd_cli.checkpoints.load import open_model
from sedd_cli.data.tokenizers import load_tokenizer
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.likelihood.texts import check_tokenizer


def test_a_text_may_be_separated_by_a_token_that_the_models_tokenizer_does_not_name(tmp_path):
    engine = Engine(models.WordLevel({word: number for number, word in enumerate(["one", "two", "stop"])}))
    engine.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    engine.save(str(tmp_path / "words.json"))
    sedd_networks.FORMATS["mdlm"][0](tmp_path / "m")
    model = open_model(tmp_path / "m", "cpu")
    words = load_tokenizer(str(tmp_path / "words.json"))

    def text(**options: Any) -> Any:
        manifest = SimpleNamespace(options=options)
        return SimpleNamespace(tokenizer=words.separated_by("stop"), manifest=manifest, folder=tmp_path)

    model = cast(Any, dataclasses.replace(model, tokenizer=words))
    check_tokenizer(model, text(eos="stop"))
    with pytest.raises(RequestError, match="another tokenizer"):
        check_tokenizer(model, text())
    with pytest.raises(RequestError, match="another tokenizer"):
        check_tokenizer(model, text(eos="two"))
