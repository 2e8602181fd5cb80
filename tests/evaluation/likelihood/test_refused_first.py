"""A protocol that does not fit the model is refused before a text is prepared."""

from __future__ import annotations

import pytest
import torch
from support import sedd_networks

from sedd_cli.checkpoints.load import open_model
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.likelihood import evaluate
from sedd_cli.evaluation.likelihood.evaluate import EvaluateOptions, evaluate_all
from sedd_cli.evaluation.likelihood.texts import Text
from sedd_cli.inference.sampling import Sampling
from sedd_cli.system.distributed import Dist


@pytest.mark.parametrize(
    ("saved", "protocol", "sampler", "said"),
    [
        ("bd3lm", "sampler", None, "fill all positions at once, and .* fills blocks one after another"),
        ("bd3lm", "radd", None, "'radd' is for masked models"),
        ("mdlm", "duo", None, "'duo' is for models of uniform noise"),
        ("mdlm", "gidd", None, "'gidd' is for models of GIDD"),
        ("mdlm", "discrete", None, "'discrete' is for models in discrete time"),
        ("mdlm", "sampler", "first_hitting", "'sampler' is for samplers with steps"),
    ],
)
def test_a_protocol_that_does_not_fit_is_refused_before_any_work(tmp_path, monkeypatch, saved, protocol, sampler, said):
    sedd_networks.FORMATS[saved][0](tmp_path / "m")
    model = open_model(tmp_path / "m", "cpu")
    for work in ("prepared_for", "try_bf16"):
        monkeypatch.setattr(evaluate, work, lambda *_: pytest.fail("worked"))
    options = EvaluateOptions(
        protocols=(protocol,), try_bf16=True, sampling=Sampling(sampler=sampler) if sampler else Sampling()
    )
    texts = [Text(name, None, {}) for name in ("pydocs", "lm1b")]
    with pytest.raises(RequestError, match=said):
        list(evaluate_all(model, texts, options, Dist(0, 1, torch.device("cpu"))))
