"""One small interface over tokenizers: Hugging Face directories and symbol worlds.

Masks are never inferred from token ids, so a pad token that equals the end token is
harmless: padding is whatever the pipeline put there. transformers is imported only
when a Hugging Face tokenizer is opened or saved.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.errors import UserError


class Tokenizer(NamedTuple):
    """What the data path needs of a tokenizer.

    Attributes:
      encode: `encode(text) -> list[int]`, without BOS or EOS; special tokens that are
        spelled out in the text are read as plain text.
      decode: `decode(ids) -> str`, special tokens left out.
      save: `save(directory)` writes what `transformers.AutoTokenizer` opens.
      vocab_size: one more than the largest id.
      pad_token: id that fills padding (may equal `end_token`).
      end_token: id that ends a response.
      start_token: id that starts a text, or None where the family has none.
      fingerprint: hash of everything that changes ids.
      huggingface: the transformers object, or None (symbols).
    """

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    save: Callable[[str | Path], None]
    vocab_size: int
    pad_token: int
    end_token: int
    start_token: int | None
    fingerprint: str
    huggingface: Any = None


def symbols(
    vocab_size: int,
    *,
    pad_token: int,
    end_token: int,
    start_token: int | None = None,
    names: Sequence[str] | None = None,
) -> Tokenizer:
    """Tokenizer of a token-level world: symbol 12 is written `t12`.

    Args:
      vocab_size: ids are `0 .. vocab_size - 1`.
      pad_token: id of padding.
      end_token: id of the end of a response.
      start_token: id put before a text, or None.
      names: spelling of every id, without spaces (`t0 t1 ...` by default).

    Raises:
      UserError: names do not fit; `encode` also raises it for an unknown symbol.
    """
    names = tuple(names or (f"t{i}" for i in range(vocab_size)))
    if len(set(names)) != vocab_size or any(name.split() != [name] for name in names):
        raise UserError(f"need {vocab_size} distinct names without spaces")
    ids = {name: i for i, name in enumerate(names)}
    hidden = {pad_token, end_token, start_token}

    def encode(text: str) -> list[int]:
        unknown = [name for name in text.split() if name not in ids]
        if unknown:
            raise UserError(f"'{unknown[0]}' is not one of the symbols {names[0]} ...")
        return [ids[name] for name in text.split()]

    def decode(tokens: Sequence[int]) -> str:
        shown = [int(i) for i in tokens if int(i) not in hidden]
        return " ".join(names[i] if i < vocab_size else "?" for i in shown)

    def save(directory: str | Path) -> None:
        _word_level(names, pad_token, end_token, start_token).save_pretrained(
            str(directory)
        )

    special = (pad_token, end_token, start_token)
    return Tokenizer(
        encode=encode,
        decode=decode,
        save=save,
        vocab_size=vocab_size,
        pad_token=pad_token,
        end_token=end_token,
        start_token=start_token,
        fingerprint=_digest("symbols", names, special),
    )


def _word_level(
    names: Sequence[str], pad_token: int, end_token: int, start_token: int | None
) -> Any:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {name: i for i, name in enumerate(names)}
    backend = Backend(models.WordLevel(vocabulary, unk_token=names[pad_token]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore
    start = {} if start_token is None else {"bos_token": names[start_token]}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=names[pad_token],
        eos_token=names[end_token],
        unk_token=names[pad_token],
        **start,
    )


def load(directory: str | Path, *, pad_token: str | None = None) -> Tokenizer:
    """Open the tokenizer of a Hugging Face directory (nothing is downloaded).

    Args:
      directory: has tokenizer.json (or the slow tokenizer's files) and its config.
      pad_token: spelling of the pad token to use; it must exist in the vocabulary.
        None takes the tokenizer's own, and the end token where it has none: masks do
        not depend on it.

    Raises:
      UserError: no such directory, no tokenizer in it, no end token, unknown pad.
    """
    path = Path(directory)
    if not path.is_dir():
        raise UserError(f"tokenizer directory {path} does not exist")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except Exception as error:  # transformers raises many unrelated types here
        raise UserError(
            f"no usable tokenizer in {path}: {_first_line(error)}"
        ) from error
    return from_huggingface(tokenizer, pad_token=pad_token)


def from_huggingface(tokenizer: Any, *, pad_token: str | None = None) -> Tokenizer:
    """Wrap a `transformers.PreTrainedTokenizerFast`; see `load`."""
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no eos_token, so no response could ever end")
    pad = tokenizer.pad_token_id
    if pad_token is not None:
        pad = tokenizer.get_vocab().get(pad_token)
        if pad is None:
            raise UserError(f"pad token '{pad_token}' is not in the vocabulary")
    probe = tokenizer("x", add_special_tokens=True)["input_ids"]
    adds_start = tokenizer.bos_token_id is not None and (
        probe[:1] == [tokenizer.bos_token_id]
    )

    def encode(text: str) -> list[int]:
        return list(
            tokenizer(text, add_special_tokens=False, split_special_tokens=True)[
                "input_ids"
            ]
        )

    def decode(tokens: Sequence[int]) -> str:
        return tokenizer.decode([int(i) for i in tokens], skip_special_tokens=True)

    return Tokenizer(
        encode=encode,
        decode=decode,
        save=lambda directory: tokenizer.save_pretrained(str(directory)) and None,
        vocab_size=max(tokenizer.get_vocab().values()) + 1,
        pad_token=tokenizer.eos_token_id if pad is None else pad,
        end_token=tokenizer.eos_token_id,
        start_token=tokenizer.bos_token_id if adds_start else None,
        fingerprint=_huggingface_fingerprint(tokenizer),
        huggingface=tokenizer,
    )


def train_bpe(
    texts: Iterable[str],
    directory: str | Path | None = None,
    *,
    vocab_size: int,
    end: str = "<|end|>",
    pad: str = "<|pad|>",
    chat_template: str | None = None,
) -> Tokenizer:
    """Train a byte-level BPE; `save` writes it as a directory transformers opens.

    Args:
      texts: training texts; the result depends on their content only.
      directory: where to save it at once (made if missing), or None.
      vocab_size: ids in all, the two special tokens included (at least 258).
      end: spelling of the end token.
      pad: spelling of the pad token, distinct from `end`.
      chat_template: Jinja template saved with the tokenizer.
    """
    if vocab_size < 258 or end == pad:
        raise UserError(
            f"byte-level BPE needs vocab_size >= 258 and end != pad, got {vocab_size},"
            f" '{end}', '{pad}'"
        )
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(  # type: ignore
        add_prefix_space=False
    )
    backend.decoder = decoders.ByteLevel()  # type: ignore
    trainer = trainers.BpeTrainer(  # type: ignore
        vocab_size=vocab_size,
        special_tokens=[end, pad],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=end,
        pad_token=pad,
        clean_up_tokenization_spaces=False,
    )
    if chat_template is not None:
        fast.chat_template = chat_template
    if directory is not None:
        Path(directory).mkdir(parents=True, exist_ok=True)
        fast.save_pretrained(str(directory))
    return from_huggingface(fast)


def _huggingface_fingerprint(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = (
        backend.to_str()
        if backend is not None
        else sorted(tokenizer.get_vocab().items())
    )
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return _digest(content, special, tokenizer.chat_template)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
