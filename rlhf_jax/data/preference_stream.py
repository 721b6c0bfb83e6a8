"""The stream that preference learning reads: pairs, rankings and labeled responses.

The response mask is written where prompt and response are joined, so the log-prob of
a response holds all of its tokens and none of its prompt (check B20). A response
borrowed from another prompt (KTO) is chosen once for the whole data set: a row borrows
the same response in every batch, so its reference log-prob can be cached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Unpack

import numpy as np

from rlhf_jax import types
from rlhf_jax.data import batching, encode, stream
from rlhf_jax.data.batching import Example
from rlhf_jax.data.encode import Encoded, Encoder, Ids, TooLong, join
from rlhf_jax.data.feedback import checks
from rlhf_jax.data.feedback.views import LabeledResponse, RatedResponse
from rlhf_jax.data.fields import PromptText, Text
from rlhf_jax.data.pipeline import Settings
from rlhf_jax.data.records import Ranking, Record
from rlhf_jax.data.sources import Dataset
from rlhf_jax.data.stream import Stream
from rlhf_jax.errors import UserError

Mismatch = Callable[[Sequence[bytes]], np.ndarray]
"""`mismatch(prompts) -> rows`: for each response the one to borrow instead, of another
prompt, such as `losses.preference.mismatched`."""


class _Item(NamedTuple):
    """One record: its row, weight, prompt, K responses and their ranks."""

    row: int
    weight: float
    prompt: Ids
    responses: tuple[Ids, ...]
    ranks: tuple[int, ...]

    def example(self, responses: Sequence[Ids], ranks: tuple[int, ...]) -> Example:
        """The prompt with each of some responses."""
        joined = tuple(join(self.prompt, response) for response in responses)
        return Example(self.row, self.weight, joined, ranks)


def comparison_stream(
    dataset: Dataset,
    encoder: Encoder,
    *,
    mismatch: Mismatch | None = None,
    responses: int | None = None,
    **settings: Unpack[Settings],
) -> Stream[types.ComparisonBatch]:
    """Rankings or labeled responses with a response mask, [B K L].

    A record whose ordered responses are the same tokens (after truncation, perhaps) or
    that is too long under the rule `skip` is left out and listed in `skipped`.

    Args:
      dataset: rankings (a pair is a ranking of two), or `LabeledResponse`s or
        `RatedResponse`s (K = 1).
      encoder: how text becomes ids.
      mismatch: chooses borrowed responses; None makes a stream without them.
      responses: K of the batches; None takes the largest record. Smaller rankings are
        filled with copies that are not ranked.
      **settings: see `pipeline.Settings`; `lengths` are those of prompt and response
        together.

    Raises:
      UserError: a response is empty, an example too long, of another kind or of more
        than K responses; batches cannot be formed; or no other prompt can lend a
        response.
    """
    items, skipped = _items(dataset, encoder)
    most = responses or max((len(item.responses) for item in items), default=1)
    own = [item.example(item.responses, item.ranks) for item in items]
    lent = None if mismatch is None else _lent(items, mismatch)
    longest = max(settings["lengths"], default=0)
    sizes = []
    for index, example in enumerate(own):
        pair = (example,) if lent is None else (example, lent[index])
        _check(example, most, max(map(_size, pair)), longest, dataset)
        sizes.append(max(map(_size, pair)))
    pad = encoder.tokenizer.pad_token

    def build(rows: np.ndarray, real: np.ndarray, length: int) -> types.ComparisonBatch:
        chosen = [own[row] for row in rows]
        about = batching.rankings(
            chosen, real, length=length, pad_token=pad, responses=most
        )
        batch = types.ComparisonBatch(
            inputs=about.inputs,
            response=_response_mask(chosen, most, length),  # type: ignore
            ranks=about.ranks,
            example_id=about.example_id,
            weight=about.weight,
        )
        if lent is None:
            return batch
        others = [lent[row] for row in rows]
        borrowed = batching.rankings(
            others, real, length=length, pad_token=pad, responses=most
        )
        return batch._replace(
            mismatched=borrowed.inputs,
            mismatched_response=_response_mask(others, most, length),
        )

    content = ("comparison", encoder.fingerprint, most, mismatch is not None)
    return stream.make(dataset, own, skipped, build, sizes, content, **settings)


def _items(dataset: Dataset, encoder: Encoder) -> tuple[list[_Item], list[str]]:
    items: list[_Item] = []
    skipped: list[str] = []
    for row, record in enumerate(dataset.records):
        try:
            item = _item(row, record, encoder)
        except TooLong as error:
            skipped.append(str(error))
            continue
        except UserError as error:
            raise UserError(f"{dataset.name}, '{record.id}': {error}") from error
        if encode.torn(item.responses, item.ranks):
            skipped.append(f"'{record.id}': identical responses, once they are tokens")
            continue
        items.append(item)
    items, torn = _without_torn(items, dataset)
    skipped += torn
    if not items:
        first = f", the first: {skipped[0]}" if skipped else ""
        raise UserError(
            f"{dataset.name} has no usable comparison ({len(skipped)} left out{first})"
        )
    return items, skipped


def _item(row: int, record: Any, encoder: Encoder) -> _Item:
    prompt, texts, ranks = _parts(record)
    for index, (text, rank) in enumerate(zip(texts, ranks, strict=True)):
        if rank and checks.is_empty(text):
            raise UserError(f"response {index} is empty")
    return _Item(
        row,
        float(record.weight),
        encoder.prompt(prompt, record.id),
        tuple(
            encoder.response(text, f"{record.id}[{index}]")
            for index, text in enumerate(texts)
        ),
        ranks,
    )


def _parts(
    record: Record | LabeledResponse | RatedResponse,
) -> tuple[PromptText, tuple[Text, ...], tuple[int, ...]]:
    if isinstance(record, Ranking):
        return record.prompt, record.responses, record.ranks
    if isinstance(record, LabeledResponse):
        return record.prompt, (record.response,), (1 if record.good else 2,)
    if isinstance(record, RatedResponse):
        return record.prompt, (record.response,), (1,)
    raise UserError(f"'{record.id}' is a {record.kind}, not a ranking or a label")


def _without_torn(
    items: list[_Item], dataset: Dataset
) -> tuple[list[_Item], list[str]]:
    """Without labels of one source record (the id before the last `/`) that call the
    same tokens good and bad, as truncation can make of two texts."""
    said: dict[Any, set[tuple[int, ...]]] = {}
    keys = {}
    for item in items:
        record = dataset.records[item.row]
        if isinstance(record, LabeledResponse):
            source = record.id.rpartition("/")[0] or record.id
            tokens = item.prompt.tobytes(), item.responses[0].tobytes()
            keys[item.row] = source, tokens
            said.setdefault(keys[item.row], set()).add(item.ranks)
    torn = {row for row, key in keys.items() if len(said[key]) > 1}
    kept = [item for item in items if item.row not in torn]
    return kept, [
        f"'{dataset.records[row].id}': good and bad at once, once they are tokens"
        for row in sorted(torn)
    ]


def _lent(items: Sequence[_Item], mismatch: Mismatch) -> list[Example]:
    """For each item the same prompt with responses of other prompts, unranked."""
    flat = [response for item in items for response in item.responses]
    prompts = [item.prompt.tobytes() for item in items for _ in item.responses]
    partner = mismatch(prompts)
    found, begin = [], 0
    for item in items:
        count = len(item.responses)
        rows = partner[begin : begin + count]
        found.append(item.example([flat[row] for row in rows], (0,) * count))
        begin += count
    return found


def _size(example: Example) -> int:
    return max(len(sequence.tokens) for sequence in example.sequences)


def _check(
    example: Example, most: int, size: int, longest: int, dataset: Dataset
) -> None:
    name = f"{dataset.name}, '{dataset.records[example.example_id].id}'"
    if len(example.sequences) > most:
        raise UserError(
            f"{name} ranks {len(example.sequences)} responses, batches hold {most};"
            " raise `responses`"
        )
    if size > longest:
        raise UserError(
            f"{name}: {size} tokens, batches hold {longest}; raise the longest length"
            " or shorten the example"
        )


def _response_mask(rows: Sequence[Example], responses: int, length: int) -> np.ndarray:
    """bool[B K L], True on response tokens; all False where a row has no k-th one."""
    mask = np.zeros((len(rows), responses, length), bool)
    for row, example in enumerate(rows):
        for k, sequence in enumerate(example.sequences):
            found: Encoded = sequence
            mask[row, k, : len(found.tokens)] = found.loss_mask
    return mask
