"""What a trained model is for: sampling and scoring."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import data, rng, rollout
from rlhf_jax.build import opening
from rlhf_jax.build.opening import Opened
from rlhf_jax.data import fields
from rlhf_jax.errors import UserError
from rlhf_jax.types import PromptBatch, Rollout

ROWS = 64
"""Rows of a batch; the last batch is filled up."""
RESPONSE_LENGTH = 64
"""Response tokens where neither the user nor a run says a number."""


class _Prompt(NamedTuple):
    """A prompt as it is shown, and its ids."""

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
    _positive(options, "samples", "max_length")
    rng.root(options.seed)
    opened = opening.open_model(Path(options.model))
    if opened.scalar:
        raise UserError(
            f"{opened.name} is a reward model; `rlhf-jax score` is what it is for"
        )
    length = _response_length(opened, options.max_length)
    prompts = _prompts(options, opened)
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
        batch = _left_padded([row.tokens for row in rows], width, tokenizer.pad_token)
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
      options: `model` and `data`, a file of lines with `prompt` and `response`.

    Yields:
      Each line with `score`, gain and bias included.

    Raises:
      UserError: no reward model, a bad line (file, line and field named), or one that
        does not fit.
    """
    source = Path(options.data)
    dataset = data.jsonl(source, "demonstration")
    opened = opening.open_model(Path(options.model))
    if not opened.scalar:
        raise UserError(
            f"{opened.name} is a language model; scores come from a reward model, such"
            " as the stage folder RUN/rm"
        )
    pairs = []
    for record in dataset.records:
        assert isinstance(record, data.Demonstration)
        with _named(f"{source}, '{record.id}'"):
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
    lines = (line for line in source.read_text().split("\n") if line.strip())
    scores = _scores(opened, pairs)
    return ({**json.loads(a), "score": b} for a, b in zip(lines, scores, strict=True))


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
        prompt = _left_padded([row[0] for row in rows], widths[0], pad)
        found = _answered(prompt, [row[1] for row in rows], widths[1], pad)
        values = np.asarray(scorer.apply(frozen, None, found).sequence)
        yield from (round(float(v), 6) for v in values[: len(pairs) - start])


def _positive(options: argparse.Namespace, *names: str) -> None:
    for name in names:
        value = vars(options)[name]
        if value is not None and value < 1:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag}={value} must be at least 1")


def _response_length(opened: Opened, asked: int | None) -> int:
    if asked is not None:
        return asked
    length = opened.response_length or RESPONSE_LENGTH
    return max(1, min(length, opened.context_length - 1))


def _prompts(options: argparse.Namespace, opened: Opened) -> list[_Prompt]:
    """Prompts of the command line, then those of the file."""
    found = []
    for text in options.prompt or ():
        with _named(f"--prompt={fields.show(text)}"):
            found.append(_Prompt(text, opened.encoder.prompt(text)))
    if options.prompts is not None:
        for record in data.jsonl(options.prompts, "prompt").records:
            assert isinstance(record, data.Prompt)
            with _named(f"{options.prompts}, '{record.id}'"):
                ids = opened.encoder.prompt(record.prompt, record.id)
            found.append(_Prompt(_shown(record.prompt), ids))
    if not found:
        raise UserError("nothing to respond to: give --prompt=TEXT or --prompts=FILE")
    return found


def _shown(prompt: Any) -> Any:
    """A prompt as JSON: text, ids or chat messages."""
    if isinstance(prompt, str):
        return prompt
    return [
        turn._asdict() if isinstance(turn, data.Message) else turn for turn in prompt
    ]


def _check_prompt(opened: Opened, prompt: _Prompt, length: int) -> None:
    """It has tokens, all of them known, and leaves room for the response."""
    with _named(f"prompt {fields.show(prompt.shown)}"):
        if not len(prompt.tokens):
            raise UserError("it has no token; give at least one")
        _check_ids(opened, prompt.tokens)
        total = len(prompt.tokens) + length
        if total > opened.context_length:
            raise UserError(
                f"its {len(prompt.tokens)} tokens and a response of {length} exceed the"
                f" context of {opened.context_length}; shorten it, or lower"
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


def _left_padded(rows: Sequence[np.ndarray], width: int, pad: int) -> PromptBatch:
    tokens = np.full((len(rows), width), pad, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, ids in enumerate(rows):
        tokens[row, width - len(ids) :] = ids
        mask[row, width - len(ids) :] = True
    return PromptBatch(
        tokens=jnp.asarray(tokens),
        mask=jnp.asarray(mask),
        example_id=jnp.arange(len(rows), dtype=jnp.int32),
        weight=jnp.ones(len(rows), jnp.float32),
    )


def _answered(
    prompt: PromptBatch, rows: Sequence[np.ndarray], width: int, pad: int
) -> Rollout:
    """Given responses in the place of sampled ones."""
    tokens = np.full((len(rows), width), pad, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = ids
        mask[row, : len(ids)] = True
    return Rollout(
        prompt=prompt,
        tokens=jnp.asarray(tokens),
        mask=jnp.asarray(mask),
        logprobs=jnp.zeros(tokens.shape, jnp.float32),
        terminal=jnp.zeros(tokens.shape, bool),
        truncated=jnp.zeros(len(rows), bool),
    )
