"""LAMBADA as OpenAI distributes it: passages of novels whose last word needs the whole passage. Test only."""

from __future__ import annotations

from sedd_cli.data.corpora.hub import HubCopy
from sedd_cli.data.corpora.rows import RowBenchmark

LAMBADA = RowBenchmark(
    name="lambada",
    copies=(HubCopy("EleutherAI/lambada_openai", config="default"),),
    accepts=lambda path: path.name == "lambada_test.jsonl",
    row=str.strip,
    files="lambada_test.jsonl",
    url="https://openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl",
).corpus(
    about="5,153 passages of novels",
    size="1.8 MB",
    licence="CC-BY-4.0",
    tokenizer="gpt2",
    detokenizer="lambada",
)
