"""Scorers on text: a user's own function, a reward model with its own tokenizer.

This is the one seam through the host. Whatever goes wrong here is somebody's code or
data, so every error names the sample: its index in the batch and its id.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import hosts
from rlhf_jax.errors import UserError
from rlhf_jax.ops import masking
from rlhf_jax.rollout import scorers
from rlhf_jax.types import Array, ModelInputs, Network, Params, Rollout, Scorer, Scores

Decode = Callable[[list[int]], str]
ScoreFunction = Callable[[list[str], list[str], list[Any]], Sequence[float]]


class Texts(NamedTuple):
    """Decoded rows of a rollout: prompts, responses (stop token left out), ids."""

    prompts: list[str]
    responses: list[str]
    ids: list[int]


def decode_rollout(rollout: Rollout, decode: Decode) -> Texts:
    """Text of every row; only real tokens are decoded, the stop token is left out."""
    prompt, tokens, mask, terminal = hosts.fetch(
        (rollout.prompt, rollout.tokens, rollout.mask, rollout.terminal)
    )
    return Texts(
        prompts=_decode_rows(prompt.tokens, prompt.mask, decode),
        responses=_decode_rows(tokens, mask & ~terminal, decode),
        ids=[int(i) for i in prompt.example_id],
    )


def _decode_rows(
    tokens: np.ndarray, keep: np.ndarray, decode: Callable[[list[int]], Any]
) -> list[Any]:
    rows = zip(tokens, keep, strict=True)
    return [decode([int(t) for t in row[kept]]) for row, kept in rows]


def function_scorer(
    fn: ScoreFunction,
    decode: Decode,
    records: Sequence[Any] | Mapping[int, Any],
    *,
    name: str = "scorer function",
) -> Scorer:
    """A user's own reward on text.

    Of several processes the first one calls it, so that all go on with one answer.

    Args:
      fn: `fn(prompts, responses, records) -> list[float]`, one finite number each.
      decode: token ids -> text.
      records: the host-side records by `example_id`.
      name: what error messages call the function.

    Raises (when applied):
      UserError: `fn` raised, gave the wrong number of scores, or a score that is no
        finite number; the message names the sample.
    """

    def init() -> Any:
        return ()

    def apply(frozen: Any, params: Params, rollout: Rollout) -> Scores:
        del frozen, params
        texts = decode_rollout(rollout, decode)
        values = hosts.told(lambda: scored(texts))
        return Scores(jnp.asarray(values, jnp.float32))

    def scored(texts: Texts) -> list[float]:
        rows = [_record(records, i, name) for i in texts.ids]
        return _checked(_call(fn, texts, rows, name), texts, rows, name)

    return Scorer(init, apply)


def _record(records: Sequence[Any] | Mapping[int, Any], index: int, name: str) -> Any:
    try:
        return records[index]
    except (KeyError, IndexError):
        raise UserError(
            f"{name}: no record has example id {index}; the {len(records)} records "
            "given are not those that the prompts come from"
        ) from None


def _call(fn: ScoreFunction, texts: Texts, rows: list[Any], name: str) -> Any:
    try:
        return fn(list(texts.prompts), list(texts.responses), list(rows))
    except Exception as error:
        index, error = _first_failure(fn, texts, rows, error)
        where = (
            f"the batch of samples with ids {texts.ids}; each of them alone passes"
            if index is None
            else _sample(index, texts, rows)
        )
        raise UserError(
            f"{name} raised {type(error).__name__}: {error} on {where}"
        ) from error


def _first_failure(
    fn: ScoreFunction, texts: Texts, rows: list[Any], error: Exception
) -> tuple[int | None, Exception]:
    """Find the sample that a batch call failed on, by calling one at a time."""
    for index, row in enumerate(rows):
        try:
            fn([texts.prompts[index]], [texts.responses[index]], [row])
        except Exception as single:
            return index, single
    return None, error


def _checked(values: Any, texts: Texts, rows: list[Any], name: str) -> list[float]:
    try:
        values = list(values)
    except TypeError:
        raise UserError(
            f"{name} returned {type(values).__name__}, not a list of numbers; it was "
            f"called with {len(rows)} samples, the first being "
            + _sample(0, texts, rows)
        ) from None
    if len(values) != len(rows):
        index = min(len(values), len(rows) - 1)
        raise UserError(
            f"{name} returned {len(values)} scores for {len(rows)} samples; the first "
            f"that does not fit is at {_sample(index, texts, rows)}"
        )
    return [_number(v, i, texts, rows, name) for i, v in enumerate(values)]


def _number(value: Any, index: int, texts: Texts, rows: list[Any], name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(
            f"{name} returned {value!r}, not a finite number, for "
            + _sample(index, texts, rows)
        )
    return number


def _sample(index: int, texts: Texts, rows: list[Any]) -> str:
    """How a message names a sample: index, id, and the text's beginning."""
    record, identity = rows[index], str(texts.ids[index])
    if isinstance(record, Mapping):
        identity = repr(record.get("id", identity))
    elif hasattr(record, "id"):
        identity = repr(record.id)
    return f"sample {index} (id {identity}, response {texts.responses[index][:60]!r})"


def load_function(spec: str) -> Callable[..., Any]:
    """Load a function from `path.py:fn` or `package.module:fn`.

    Raises:
      UserError: the form is wrong, the file or module cannot be loaded, or it has no
        such function.
    """
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name.isidentifier():
        raise UserError(
            f"scorer {spec!r} does not name a function; write path.py:fn, for example "
            "my_scorer.py:score"
        )
    module = _load_file(place) if place.endswith(".py") else _load_module(place)
    if not hasattr(module, name):
        known = [n for n, v in vars(module).items() if callable(v) and n[0] != "_"]
        raise UserError(f"{place} has no function {name!r}; it has {sorted(known)}")
    function = getattr(module, name)
    if not callable(function):
        kind = type(function).__name__
        raise UserError(f"{name!r} in {place} is not a function but of type {kind}")
    return function


def _load_file(path: str) -> Any:
    if not Path(path).is_file():
        raise UserError(f"scorer file {path} does not exist")
    spec = importlib.util.spec_from_file_location(f"_scorer_{Path(path).stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(
            f"scorer file {path} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    return module


def _load_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise UserError(
            f"scorer module {name} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def foreign_reward_model_scorer(
    network: Network,
    variables: Params,
    decode: Decode,
    encode: Callable[[str, str], list[int]],
    *,
    max_length: int,
    gain: float | int = 1.0,
    bias: float | int = 0.0,
) -> Scorer:
    """A reward model with its own tokenizer: decode, encode again, score.

    Args:
      network: the reward model.
      variables: its variables.
      decode: ids of the policy's tokenizer -> text.
      encode: `encode(prompt, response) -> ids` of the reward model's tokenizer; the
        very function that made its training data.
      max_length: L, the fixed width of its inputs.
      gain: multiplies the score.
      bias: is added to it.

    Raises (when applied):
      UserError: a sample has more than `max_length` tokens, or none.
    """

    @jax.jit
    def score(frozen: Any, inputs: ModelInputs) -> Array:
        raw = scorers.last_token_scores(network, frozen["variables"], inputs)
        return (frozen["gain"] * raw + frozen["bias"]).astype(jnp.float32)

    def init() -> Any:
        return {
            "variables": variables,
            "gain": jnp.asarray(gain, jnp.float32),
            "bias": jnp.asarray(bias, jnp.float32),
        }

    def apply(frozen: Any, params: Params, rollout: Rollout) -> Scores:
        del params
        texts = decode_rollout(rollout, decode)
        return Scores(score(frozen, _encode_rows(texts, encode, max_length)))

    return Scorer(init, apply)


def _encode_rows(
    texts: Texts, encode: Callable[[str, str], list[int]], max_length: int
) -> ModelInputs:
    """Right-padded inputs [B, max_length] of the foreign tokenizer."""
    tokens = np.zeros((len(texts.ids), max_length), np.int32)
    mask = np.zeros(tokens.shape, bool)
    for index, pair in enumerate(zip(texts.prompts, texts.responses, strict=True)):
        ids = encode(*pair)
        if not 0 < len(ids) <= max_length:
            raise UserError(
                f"the reward model's tokenizer makes {len(ids)} tokens of sample "
                f"{index} (id {texts.ids[index]}), but it must be 1 to {max_length}; "
                "raise the reward model's max_length or shorten the responses"
            )
        tokens[index, : len(ids)] = ids
        mask[index, : len(ids)] = True
    return ModelInputs(
        tokens=jnp.asarray(tokens),
        mask=jnp.asarray(mask),
        positions=masking.positions_from_mask(jnp.asarray(mask)),
        segment_ids=jnp.zeros(tokens.shape, jnp.int32),
    )
