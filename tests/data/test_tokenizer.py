"""Tokenizers: round trips, special tokens, directories that transformers opens."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.data import tokenizer
from rlhf_jax.errors import UserError

TEXTS = ["the cat sat on the mat", "a cat, the cat", "def f(x): return x"] * 3


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bpe") / "tokenizer"
    return directory, tokenizer.train_bpe(TEXTS, directory, vocab_size=280)


def test_symbols_are_written_t_and_number(tmp_path):
    symbols = tokenizer.symbols(16, pad_token=0, end_token=1, start_token=2)
    assert symbols.encode("t3 t15") == [3, 15]
    assert symbols.decode([2, 3, 15, 1, 0, 0]) == "t3 t15"
    with pytest.raises(UserError, match="'t16' is not one of the symbols t0"):
        symbols.encode("t3 t16")
    symbols.save(tmp_path)
    opened = tokenizer.load(tmp_path)
    assert opened.encode("t3 t15") == [3, 15] and opened.decode([3, 1]) == "t3"
    assert (opened.pad_token, opened.end_token, opened.vocab_size) == (0, 1, 16)
    with pytest.raises(UserError, match="need 3 distinct names"):
        tokenizer.symbols(3, pad_token=0, end_token=1, names=("a", "b c", "d"))


def test_a_trained_bpe_has_distinct_pad_and_end(trained):
    directory, bpe = trained
    assert (bpe.end_token, bpe.pad_token, bpe.start_token) == (0, 1, None)
    assert bpe.vocab_size <= 280 and len(bpe.encode("the cat")) == 2
    again = tokenizer.train_bpe(reversed(TEXTS), directory, vocab_size=280)
    assert again.fingerprint == tokenizer.load(directory).fingerprint
    with pytest.raises(UserError, match="vocab_size >= 258 and end != pad"):
        tokenizer.train_bpe(TEXTS, directory, vocab_size=257)


def test_any_text_survives_the_round_trip(trained):
    _, bpe = trained

    @settings(max_examples=60, deadline=None)
    @given(st.text(max_size=30))
    def check(text: str) -> None:
        assert bpe.decode(bpe.encode(text)) == text

    check()


def test_special_tokens_spelled_in_a_text_are_plain_text(trained):
    _, bpe = trained
    ids = bpe.encode("<|end|>the<|pad|>")
    assert bpe.end_token not in ids and bpe.pad_token not in ids
    assert bpe.decode(ids) == "<|end|>the<|pad|>"


def test_a_saved_tokenizer_is_the_same_one(trained, tmp_path):
    _, bpe = trained
    bpe.save(tmp_path)
    opened = tokenizer.load(tmp_path)
    assert opened.fingerprint == bpe.fingerprint
    other = tokenizer.train_bpe(TEXTS, tmp_path, vocab_size=270)
    assert other.fingerprint != bpe.fingerprint


def test_padding_falls_back_to_the_end_token(gpt2_like, tmp_path):
    wrapped = tokenizer.from_huggingface(gpt2_like)
    assert wrapped.pad_token == wrapped.end_token == 0
    gpt2_like.save_pretrained(str(tmp_path))
    assert tokenizer.load(tmp_path, pad_token="a").pad_token == wrapped.encode("a")[0]
    with pytest.raises(UserError, match="pad token '<none>' is not in the vocab"):
        tokenizer.load(tmp_path, pad_token="<none>")


def test_start_token_is_known_only_where_the_family_puts_one(gpt2_like, llama_like):
    assert tokenizer.from_huggingface(gpt2_like).start_token is None
    llama = tokenizer.from_huggingface(llama_like)
    assert llama.start_token == 0 and llama.encode("the") == llama.encode("the")
    assert 0 not in llama.encode("the cat")


def test_directories_without_a_tokenizer_are_refused(tmp_path):
    with pytest.raises(UserError, match="none does not exist"):
        tokenizer.load(tmp_path / "none")
    with pytest.raises(UserError, match="no usable tokenizer in") as error:
        tokenizer.load(tmp_path)
    assert "\n" not in str(error.value)


def test_importing_the_data_path_is_light():
    code = (
        "import sys, rlhf_jax.data, rlhf_jax.data.pydoc; "
        "heavy = {'transformers', 'tokenizers', 'torch', 'tensorflow',"
        " 'tensorflow_datasets', 'grain', 'flax'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
