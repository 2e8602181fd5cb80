"""The table "What works" of the guide says what the code does, for a small model of every format."""

from __future__ import annotations

from functools import cache

import pytest
from support import llamas, sedd_networks
from support.jobs import completed

from sedd_cli.checkpoints.export import ExportOptions, export
from sedd_cli.checkpoints.foreign_weights import check_source, own_network
from sedd_cli.checkpoints.formats import FORMATS
from sedd_cli.checkpoints.load import open_model
from sedd_cli.checkpoints.portable.layout import portable_layout, published_layout
from sedd_cli.cli.commands.guide import GUIDES
from sedd_cli.core.protocols import PROTOCOLS
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.likelihood.llada import BATCH, LEAST_BATCHES, answer_likelihoods
from sedd_cli.inference.bound import DEFAULT_PROTOCOLS
from sedd_cli.inference.fitting import check_protocol

FIRST, PROTOCOL = "format", "their own protocol"
NETWORKS = sedd_networks.FORMATS


def exported(path):
    sedd_networks.save_hub(path.with_name("first"), "mdlm")
    completed(export(open_model(path.with_name("first"), "cpu"), ExportOptions(path, transformers=True)))


def hugging_face(kind, architecture):
    reference = cache(lambda: llamas.reference(architecture))
    return lambda path: llamas.save_hugging_face(path, reference(), kind, config={"mask_token_id": llamas.MASK})


#: For each row of the table, formats that it is about, and small models of them.
ROWS = {
    "MDLM": {"mdlm": NETWORKS["mdlm"][0]},
    "UDLM": {"udlm": NETWORKS["udlm"][0]},
    "Duo": {"duo": NETWORKS["duo"][0]},
    "BD3-LM": {"bd3lm": NETWORKS["bd3lm"][0]},
    "RADD": {"radd": NETWORKS["radd"][0], "radd-run": NETWORKS["radd-run"][0]},
    "GIDD": {"gidd": NETWORKS["gidd"][0], "gidd-run": NETWORKS["gidd-run"][0]},
    "lightning": {"lightning": NETWORKS["lightning subs"][0]},
    "LLaDA": {"llada": lambda path: llamas.save_llada(path, llamas.reference())},
    "Dream": {"dream": hugging_face("Dream", "Qwen2")},
    "a2d": {"a2d": hugging_face("a2d-qwen2", "Qwen2")},
    "SMDM": {"smdm": lambda path: llamas.save_smdm(path, llamas.reference())},
    "ours": {"sedd": exported},
}


def guide_rows():
    """The cells of the table by row and column."""
    lines = (GUIDES / "models.md").read_text(encoding="utf-8").splitlines()
    (head,) = (i for i, line in enumerate(lines) if line.startswith("|") and PROTOCOL in line)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[head:]]
    end = next(i for i, line in enumerate(lines[head:]) if not line.startswith("|"))
    return {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[2:end]}


TABLE = guide_rows()


def works(call, *arguments):
    """Whether a call is not refused."""
    try:
        call(*arguments)
    except RequestError:
        return False
    return True


def test_every_format_has_a_row():
    assert set(TABLE) == set(ROWS)
    assert {name for formats in ROWS.values() for name in formats} == set(FORMATS)


@pytest.mark.parametrize("row", ROWS)
def test_a_row_says_what_the_code_does(tmp_path, row):
    told = TABLE[row]
    for number, (name, save) in enumerate(ROWS[row].items()):
        (folder := tmp_path / str(number)).mkdir()
        save(folder / "m")
        path = folder / "m" if (folder / "m").exists() else folder / "m.ckpt"
        model = open_model(path, "cpu")
        found = {
            "rigorous bound": works(check_protocol, DEFAULT_PROTOCOLS[0], model),
            "`--protocol sampler`": works(check_protocol, "sampler", model),
            "`init_from`": works(check_source, str(path)) and works(own_network, model) and not FORMATS[name].untrained,
            "`sedd export`": works(published_layout, model),
            "with `--transformers`": works(portable_layout, model, False),
        }
        assert found == {column: told[column] == "yes" for column in found}


@pytest.mark.parametrize("row", [row for row in TABLE if TABLE[row][PROTOCOL] != "none"])
def test_the_protocols_of_a_row_are_there_and_fit_a_model_of_it(tmp_path, row):
    named = [name.strip(" `") for name in TABLE[row][PROTOCOL].split(",")]
    kinds = {"mdlm": "lightning subs", "udlm": "lightning udlm", "duo": "lightning duo"} if row == "lightning" else {}
    for name in named:
        save = NETWORKS[kinds[name]][0] if kinds else next(iter(ROWS[row].values()))
        save(tmp_path / name)
        model = open_model(tmp_path / (f"{name}.ckpt" if kinds else name), "cpu")
        if name in PROTOCOLS:
            check_protocol(name, model)
        else:
            answer_likelihoods(model, [0], [1], BATCH * LEAST_BATCHES, 0)
