"""What a trained model is for: sampling and scoring."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rlhf_jax import data, rng, rollout
from rlhf_jax.build.commands import opening
from rlhf_jax.build.commands.opening import Opened
from rlhf_jax.build.configs.seeds import LARGEST
from rlhf_jax.build.stages import answering
from rlhf_jax.errors import UserError

ROWS = 64
"""Rows of a batch; the last batch is filled up."""
OPTIONS = (("samples", 1, 1 << 16), ("max_length", 1, 1 << 20), ("seed", 0, LARGEST))
"""Least and largest value of whole numbers on the command line."""
RESPONSE_LENGTH = 64
"""Response tokens where neither the user nor a run says a number."""


class _Prompt(NamedTuple):
    """A prompt: where it comes from, as it is shown, and its ids."""

    place: str
    shown: Any
    tokens: np.ndarray


def generate(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Samples responses.

    Args:
      options: `model`, `prompt` (list of texts or None), `prompts` (JSONL file or
        None), `samples`, `max_length` (or None), `temperature`, `top_k`, `top_p`,
        `seed`.

    Yields:
      `{prompt, response, logprob, length}`, the samples of a prompt one after the
      other. `logprob` is that of the whole response under the model itself, whatever
      the temperature was; `length` counts tokens, the end token included.

    Raises:
      UserError: no prompt, a prompt that does not fit, a setting out of range.
    """
    for name, lowest, highest in OPTIONS:
        _in_range(options, name, lowest, highest)
    opened = opening.open_model(Path(options.model))
    if opened.scalar:
        raise UserError(
            f"{opened.name} is a reward model; `rlhf-jax score` is what it is for"
        )
    prompts = _prompts(options, opened)
    length = _response_length(opened, prompts, options.max_length)
    for prompt in prompts:
        _check_prompt(opened, prompt, length)
    sample = rollout.sampler(
        opened.network,
        max_length=length,
        stop_tokens=opened.stop_tokens,
        pad_token=opened.encoder.tokenizer.pad_token,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        samples_per_prompt=options.samples,
    )
    logprobs = jax.jit(
        lambda variables, found: (
            rollout.response_logprobs(opened.network, variables, found).logprobs
        )
    )
    return _sampled(opened, sample, logprobs, prompts, options)


def _sampled(
    opened: Opened,
    sample: rollout.Sampler,
    logprobs: Any,
    prompts: Sequence[_Prompt],
    options: argparse.Namespace,
) -> Iterator[dict[str, Any]]:
    """Chunk by chunk, so that the first lines appear early."""
    tokenizer = opened.encoder.tokenizer
    key = rng.named(rng.root(options.seed), "generate")
    width = max(len(prompt.tokens) for prompt in prompts)
    size = max(1, min(len(prompts), ROWS // options.samples))
    for start in range(0, len(prompts), size):
        rows = [
            prompts[min(row, len(prompts) - 1)] for row in range(start, start + size)
        ]
        batch = answering.left_padded(
            [row.tokens for row in rows], width, tokenizer.pad_token
        )
        found = sample(opened.variables, batch, rng.named(key, start))
        scored = np.asarray(logprobs(opened.variables, found)).sum(axis=1)
        texts = rollout.decode_rollout(found, tokenizer.decode)
        lengths = np.asarray(found.mask).sum(axis=1)
        real = min(size, len(prompts) - start) * options.samples
        for row in range(real):
            yield {
                "prompt": rows[row // options.samples].shown,
                "response": texts.responses[row],
                "logprob": round(float(scored[row]), 6),
                "length": int(lengths[row]),
            }


def score(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Scores the responses of a JSONL file.

    Args:
      options: `model`, `data`, a file of lines with `prompt` and `response`, and
        `tokens`.

    Yields:
      Each line with `score`, gain and bias included; with `tokens` also the score as
      it stands after each token of the response, `[{"text", "score"}, ...]`.

    Raises:
      UserError: no reward model, a bad line (file, line and field named), or one that
        does not fit.
    """
    source = Path(options.data)
    records = _records(source, "demonstration")
    opened = opening.open_model(Path(options.model))
    if not opened.scalar:
        raise UserError(
            f"{opened.name} is a language model; scores come from a reward model, such"
            " as the stage folder RUN/rm"
        )
    pairs = []
    for place, _, record in records:
        with _named(place):
            prompt = opened.encoder.prompt(record.prompt, record.id)
            response = opened.encoder.response(record.response, record.id)
            if not len(prompt) or not len(response):
                raise UserError("prompt and response need at least one token each")
            _check_ids(opened, prompt, response)
            total = len(prompt) + len(response)
            if total > opened.context_length:
                raise UserError(
                    f"prompt and response have {total} tokens, the context of"
                    f" {opened.name} holds {opened.context_length}; shorten them"
                )
        pairs.append((prompt, response))
    scores = _scores(opened, pairs)
    if options.tokens:
        inside = _token_scores(opened, pairs)
        return (
            {**r[1], "score": s, "tokens": t}
            for r, s, t in zip(records, scores, inside, strict=True)
        )
    return ({**r[1], "score": s} for r, s in zip(records, scores, strict=True))


def _scores(
    opened: Opened, pairs: Sequence[tuple[np.ndarray, np.ndarray]]
) -> Iterator[float]:
    scorer = opened.scorer()
    frozen = scorer.init()
    pad = opened.encoder.tokenizer.pad_token
    widths = [max(len(pair[side]) for pair in pairs) for side in (0, 1)]
    size = min(ROWS, len(pairs))
    for start in range(0, len(pairs), size):
        rows = [pairs[min(r, len(pairs) - 1)] for r in range(start, start + size)]
        prompt = answering.left_padded([row[0] for row in rows], widths[0], pad)
        found = answering.answered(prompt, [row[1] for row in rows], widths[1], pad)
        values = np.asarray(scorer.apply(frozen, None, found).sequence)
        yield from (round(float(v), 6) for v in values[: len(pairs) - start])


def _token_scores(
    opened: Opened, pairs: Sequence[answering.Answer]
) -> Iterator[list[dict[str, Any]]]:
    """The score of each response if it ended after each of its tokens."""
    decode = opened.encoder.tokenizer.decode
    every = answering.token_scores(opened, pairs)
    for (_, response), raw in zip(pairs, every, strict=True):
        texts = [decode([int(token)]) for token in response]
        values = [round(float(opened.gain * v + opened.bias), 6) for v in raw]
        yield [
            {"text": text, "score": value}
            for text, value in zip(texts, values, strict=True)
        ]


def _in_range(
    options: argparse.Namespace, name: str, lowest: int, highest: int
) -> None:
    value = vars(options)[name]
    if value is not None and not lowest <= value <= highest:
        flag = name.replace("_", "-")
        raise UserError(f"--{flag}={value} must be from {lowest} to {highest}")


def _response_length(
    opened: Opened, prompts: Sequence[_Prompt], asked: int | None
) -> int:
    """As asked, as the run trained, or what the context leaves."""
    if asked is not None or opened.response_length is not None:
        return asked or opened.response_length or 1
    longest = max(len(prompt.tokens) for prompt in prompts)
    return max(1, min(RESPONSE_LENGTH, opened.context_length - longest))


def _records(path: str | Path, kind: str) -> list[tuple[str, dict[str, Any], Any]]:
    """Place (file and line), JSON object and record of every line."""
    dataset = data.jsonl(path, kind)
    lines = enumerate(Path(path).read_text(encoding="utf-8").split("\n"), start=1)
    rows = [(number, line) for number, line in lines if line.strip()]
    return [
        (f"{path}:{number}", json.loads(line), record)
        for (number, line), record in zip(rows, dataset.records, strict=True)
    ]


def _prompts(options: argparse.Namespace, opened: Opened) -> list[_Prompt]:
    """Prompts of the command line, then those of the file."""
    given = [("--prompt", text, text) for text in options.prompt or ()]
    if options.prompts is not None:
        given += [
            (f"{place}: field 'prompt'", row["prompt"], record.prompt)
            for place, row, record in _records(options.prompts, "prompt")
        ]
    if not given:
        raise UserError("nothing to respond to: give --prompt=TEXT or --prompts=FILE")
    found = []
    for place, shown, prompt in given:
        with _named(place):
            _check_unicode(prompt)
            found.append(_Prompt(place, shown, opened.encoder.prompt(prompt)))
    return found


def _check_unicode(prompt: Any) -> None:
    """Bytes of the command line that are no UTF-8 come as halves of surrogates."""
    try:
        str(prompt).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{prompt!r} is not Unicode text: {error.reason}") from error


def _check_prompt(opened: Opened, prompt: _Prompt, length: int) -> None:
    """It has tokens, all of them known, and leaves room for the response."""
    with _named(prompt.place):
        if not len(prompt.tokens):
            raise UserError("the prompt has no token; give at least one")
        _check_ids(opened, prompt.tokens)
        total = len(prompt.tokens) + length
        if total > opened.context_length:
            raise UserError(
                f"a prompt of {len(prompt.tokens)} tokens and a response of {length}"
                f" exceed the context of {opened.context_length}; shorten it, or lower"
                " --max-length"
            )


def _check_ids(opened: Opened, *sequences: np.ndarray) -> None:
    known = opened.network.config.vocab_size
    for tokens in sequences:
        if tokens.max(initial=0) >= known:
            raise UserError(
                f"token {tokens.max()} is unknown: {opened.name} has {known} tokens"
            )


@contextlib.contextmanager
def _named(place: str) -> Iterator[None]:
    """Puts the place before the message of an error."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
