"""Tiny causal language models of `transformers`, randomly initialised: the real code path without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

END = "<|endoftext|>"


def make_tiny_net(seed: int = 0, **config: Any):
    """A GPT-2 of two layers whose predictions are far from uniform; `config` goes to GPT2Config."""
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 128, "initializer_range": 0.25}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GPT2LMHeadModel(GPT2Config(**(shape | config))).eval()


def save_tiny_causal(folder: Path, seed: int = 0, **config: Any) -> Path:
    """`make_tiny_net` with a byte-level tokenizer (256 bytes, then end-of-text), saved as a user has it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import logging

    vocabulary = {piece: i for i, piece in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), END])}
    engine = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    logging.disable_progress_bar()
    end = len(vocabulary) - 1
    defaults = {"vocab_size": len(vocabulary), "bos_token_id": end, "eos_token_id": end}
    make_tiny_net(seed, **(defaults | config)).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=engine, bos_token=END, eos_token=END).save_pretrained(folder)
    return folder
