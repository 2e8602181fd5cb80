"""Penn Treebank in the version of Mikolov: lower case, rare words as <unk>, numbers as N, one sentence a row."""

from __future__ import annotations

from sedd_cli.data.corpora.hub import HubCopy
from sedd_cli.data.corpora.rows import RowBenchmark

PTB = RowBenchmark(
    name="ptb",
    copies=(HubCopy("ptb-text-only/ptb_text_only", field="sentence", revision="refs/convert/parquet"),),
    accepts=lambda path: path.name.startswith("ptb.") and path.suffix == ".txt",
    row=str.strip,
    files="ptb.train.txt, ptb.valid.txt, ptb.test.txt",
    warning="the Penn Treebank is licensed by the Linguistic Data Consortium: make sure that you may use it",
).corpus(
    about="sentences of the Wall Street Journal",
    size="6 MB",
    licence="LDC User Agreement",
    tokenizer="gpt2",
    detokenizer="ptb",
)
