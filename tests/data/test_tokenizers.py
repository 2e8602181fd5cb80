"""Text to ids and back, for every kind of tokenizer, without a network."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from sedd_cli.data.tokenizers import check_tokenizer, load_tokenizer, needs_training, open_tokenizer, train_tokenizer
from sedd_cli.data.tokenizers.huggingface import HuggingFaceTokenizer
from sedd_cli.data.tokenizers.tiktoken import TiktokenTokenizer
from sedd_cli.errors import DamageError, RequestError

CORPUS = ["the cat sat on the mat", "the dog and the cat sat", "Ünïcode is fine, too\n\n"] * 4
SPECIAL = "the <|endoftext|> cat"


def tiktoken_tokenizer() -> TiktokenTokenizer:
    import tiktoken

    pieces = [bytes([byte]) for byte in range(256)] + [b"th", b"the", b" the", b"at"]
    ranks = {piece: rank for rank, piece in enumerate(pieces)}
    special = {"<|endoftext|>": len(ranks)}
    encoding = tiktoken.Encoding("tiny", pat_str=r" ?\w+|\s|[^\w\s]+", mergeable_ranks=ranks, special_tokens=special)
    return TiktokenTokenizer("tiny", encoding)


@pytest.fixture
def vocab_file(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"<|>abcdefghijklmnopqrstuvwxyz", "##s", "cat", "the", "sep"]
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(words) + "\n")
    return path


@pytest.fixture(params=["char", "bpe:300", "byte", "tiktoken", "bert"])
def tokenizer(request, vocab_file):
    make = {
        "char": lambda: train_tokenizer("char", CORPUS),
        "bpe:300": lambda: train_tokenizer("bpe:300", CORPUS),
        "byte": lambda: load_tokenizer("byte"),
        "tiktoken": tiktoken_tokenizer,
        "bert": lambda: load_tokenizer(str(vocab_file)),
    }
    return make[request.param]()


def test_ids_stay_in_the_vocabulary_and_eos_is_never_spelled(tokenizer):
    ids = tokenizer.encode(SPECIAL)
    assert ids
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert tokenizer.eos not in ids
    assert 0 <= tokenizer.eos < tokenizer.vocab_size


def test_batch_is_one_by_one(tokenizer):
    texts = ["the cat", "", SPECIAL]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode("") == []


def test_eos_reads_as_an_empty_line(tokenizer):
    ids = tokenizer.encode("the cat")
    assert tokenizer.decode([*ids, tokenizer.eos, *ids]) == "the cat\n\nthe cat"
    assert tokenizer.decode([tokenizer.eos]) == "\n\n"
    assert tokenizer.decode([]) == ""


def test_saved_is_opened_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "saved")
    opened = open_tokenizer(tmp_path / "saved")
    assert type(opened) is type(tokenizer)
    for name in ("spec", "vocab_size", "eos", "unknown", "fingerprint"):
        assert getattr(opened, name) == getattr(tokenizer, name)
    assert opened.encode(SPECIAL) == tokenizer.encode(SPECIAL)
    assert opened.decode(opened.encode("the cat")) == "the cat"
    assert load_tokenizer(str(tmp_path / "saved")).fingerprint == tokenizer.fingerprint


def test_ids_outside_are_refused(tokenizer):
    for wrong in (-1, tokenizer.vocab_size):
        with pytest.raises(RequestError, match=rf"token id {wrong} is outside .* 0 to {tokenizer.vocab_size - 1}"):
            tokenizer.decode([0, wrong])


@pytest.mark.parametrize("spec", ["bpe:300", "byte"])
def test_byte_level_loses_nothing(spec):
    tokenizer = train_tokenizer(spec, CORPUS) if needs_training(spec) else load_tokenizer(spec)
    text = " leading, \t tabs\r\n\n\nand 漢字 🎉 <|endoftext|> [SEP]  trailing "
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.unknown is None


def test_char_has_the_training_characters_in_order_and_one_for_the_rest():
    tokenizer = train_tokenizer("char", ["banana", "cab"])
    assert tokenizer.vocab_size == 2 + 4
    assert tokenizer.encode("abcn") == [2, 3, 4, 5]
    assert tokenizer.encode("xa🎉") == [tokenizer.unknown, 2, tokenizer.unknown]
    assert tokenizer.decode([5, tokenizer.unknown]) == "n\ufffd"


def test_text8_numbers_and_its_refusal():
    tokenizer = load_tokenizer("text8")
    assert tokenizer.vocab_size == 27
    assert tokenizer.eos is None
    assert tokenizer.encode(" az") == [0, 1, 26]
    assert tokenizer.decode([3, 1, 20]) == "cat"
    with pytest.raises(RequestError, match=r"no symbol for 'É' \(character 3"):
        tokenizer.encode("catÉ")


def test_bpe_size_and_small_corpora():
    assert train_tokenizer("bpe:270", CORPUS).vocab_size == 270
    assert train_tokenizer("bpe:270", CORPUS).eos == 269
    starved = train_tokenizer("bpe:4096", ["ab"])
    assert starved.vocab_size < 270
    assert starved.decode(starved.encode("zebra")) == "zebra"


@pytest.mark.parametrize("spec", ["bpe", "bpe:", "bpe:256", "bpe:many", "bpe:-3", "char:5"])
def test_wrong_sizes_are_refused(spec):
    with pytest.raises(RequestError, match=spec):
        train_tokenizer(spec, CORPUS)


def test_bpe_is_the_same_in_another_process_and_on_one_thread():
    script = (
        "import sys; from sedd_cli.data.tokenizers import train_tokenizer;"
        "texts = [f'{i * i} pieces of {i % 7} words and {i % 13} more' for i in range(500)];"
        "sys.stdout.write(train_tokenizer('bpe:400', texts).fingerprint)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PATH": "", "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads, seed in (("1", "1"), ("4", "2"))
    }
    assert len(found) == 1


def test_fingerprint_follows_the_map_and_not_the_spec():
    assert train_tokenizer("char", ["ab"]).fingerprint == train_tokenizer("char", ["ba"]).fingerprint
    assert train_tokenizer("char", ["ab"]).fingerprint != train_tokenizer("char", ["abc"]).fingerprint
    assert load_tokenizer("byte").fingerprint != load_tokenizer("text8").fingerprint


def test_bert_counts_unknown_words(vocab_file):
    tokenizer = load_tokenizer(str(vocab_file))
    assert tokenizer.unknown == 1
    assert tokenizer.encode("The cats 漢") == tokenizer.encode("the cats 漢")
    assert tokenizer.encode("the 漢")[-1] == tokenizer.unknown
    assert tokenizer.eos == 3


def test_a_changed_file_is_damage(tmp_path):
    train_tokenizer("char", CORPUS).save(tmp_path)
    file = tmp_path / "tokenizer.json"
    record = json.loads(file.read_text())
    record["state"]["alphabet"] += "~"
    file.write_text(json.dumps(record))
    with pytest.raises(DamageError, match="changed"):
        open_tokenizer(tmp_path)
    file.write_text(file.read_text()[:100])
    with pytest.raises(DamageError, match="damaged"):
        open_tokenizer(tmp_path)
    file.unlink()
    with pytest.raises(RequestError, match="missing"):
        open_tokenizer(tmp_path)


def test_what_cannot_be_loaded_says_what_can(monkeypatch):
    import huggingface_hub

    def unreachable(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    with pytest.raises(RequestError, match=r"https://huggingface.co/nobody/nothing .*local copy") as caught:
        load_tokenizer("nobody/nothing")
    assert "\n" not in str(caught.value)
    with pytest.raises(RequestError, match="trained on a corpus"):
        load_tokenizer("bpe:4096")
    with pytest.raises(RequestError, match="no such file"):
        load_tokenizer("./missing/tokenizer.json")


def test_tiktoken_without_its_files_names_the_cache(monkeypatch):
    import tiktoken

    def unreachable(name):
        raise ConnectionError("no network")

    monkeypatch.setattr(tiktoken, "get_encoding", unreachable)
    with pytest.raises(RequestError, match="TIKTOKEN_CACHE_DIR"):
        load_tokenizer("gpt2")


def test_a_tokenizer_file_of_the_hub_loads_from_disk(tmp_path):
    from tokenizers import Tokenizer as Engine
    from tokenizers import models, pre_tokenizers

    engine = Engine(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2, "</s>": 3}, unk_token="[UNK]"))
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    engine.add_special_tokens(["</s>"])
    engine.save(str(tmp_path / "words.json"))
    tokenizer = load_tokenizer(str(tmp_path / "words.json"))
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    assert (tokenizer.vocab_size, tokenizer.eos, tokenizer.unknown) == (4, 3, 0)
    # Spelled in a text, the special token is three unknown words: "</", "s", ">".
    assert tokenizer.encode("a b </s>") == [1, 2, 0, 0, 0]


@pytest.mark.parametrize("name", ["t5-base", "t5-small", "bert-base-uncased", "roberta-base", "gpt2-xl", "distilgpt2"])
def test_names_of_the_hub_are_no_misspelt_ones(name):
    check_tokenizer(name)


@pytest.mark.parametrize("name", ["m.ckpt", "m.safetensors"])
def test_a_file_that_is_no_tokenizer_is_refused_as_such(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(
        RequestError, match=rf"{name} is not UTF-8: .*; a file of a tokenizer is a tokenizer\.json or a"
    ):
        load_tokenizer(str(tmp_path / name))
