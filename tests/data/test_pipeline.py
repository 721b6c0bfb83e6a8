"""Random-access streams: position, shards, shapes, identity of examples."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from rlhf_jax import data, types
from rlhf_jax.data import batching, tokenizer
from rlhf_jax.data.order import Order
from rlhf_jax.data.stream import Stream
from rlhf_jax.errors import UserError

TOKENIZER = tokenizer.symbols(64, pad_token=0, end_token=1)
ENCODER = data.Encoder(tokenizer=TOKENIZER)


def demonstrations(count: int, shift: int = 0) -> data.Dataset:
    return data.in_memory(
        data.Demonstration(
            id=f"d{i}",
            weight=0.5 + i,
            prompt=tuple(range(2, 3 + i % 5)),
            response=(5 + i + shift, 1),
        )
        for i in range(count)
    )


def rankings(count: int) -> data.Dataset:
    return data.in_memory(
        data.Ranking(
            id=f"r{i}",
            prompt=(3,) * (1 + i % 3),
            responses=tuple((10 + k, 1) for k in range(2 + i % 3)),
            ranks=tuple(range(1, 3 + i % 3)),
            margin=0.25 * i,
        )
        for i in range(count)
    )


def make(kind: str, count: int = 30, **options) -> Stream:
    options = {"batch_size": 4, "seed": 0, "lengths": (5, 8)} | options
    if kind == "prompts":
        return data.prompt_stream(demonstrations(count), ENCODER, **options)
    if kind == "rankings":
        return data.ranking_stream(rankings(count), ENCODER, **options)
    return data.sequence_stream(
        demonstrations(count), ENCODER, packed=kind == "packed", **options
    )


KINDS = ("prompts", "sequences", "packed", "rankings")


def ids(batch) -> list[int]:
    found = np.unique(np.asarray(batch.example_id))
    return [int(i) for i in found if i >= 0]


def interleave(batches: list):
    """Rows of the first, of the second, of the first ..."""
    return jax.tree.map(
        lambda *parts: np.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:]),
        *batches,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_a_pure_function_of_seed_and_step(kind):
    forward, backward = make(kind), make(kind)
    ahead = [forward.batch(step) for step in range(16)]
    behind = [backward.batch(step) for step in reversed(range(16))][::-1]
    np.testing.assert_equal(ahead, behind)
    other = make(kind, seed=1)
    assert any(ids(ahead[step]) != ids(other.batch(step)) for step in range(6))


@pytest.mark.parametrize("kind", KINDS)
def test_dtypes_and_shapes_are_those_of_the_types(kind):
    stream = make(kind, remainder="pad")
    for batch in stream.epoch():
        leaves = jax.tree.leaves(batch)
        assert {leaf.dtype.name for leaf in leaves} == {"int32", "bool", "float32"}
        assert all(isinstance(leaf, np.ndarray) for leaf in leaves)
        assert all(leaf.shape[0] == 4 for leaf in leaves)
        if kind == "prompts":
            assert isinstance(batch, types.PromptBatch)
            assert batch.mask[:, -1].all() and batch.tokens.shape == batch.mask.shape
        elif kind == "rankings":
            assert batch.inputs.tokens.shape[:2] == batch.ranks.shape == (4, 4)
        else:
            assert batch.loss_mask.shape == batch.inputs.tokens.shape
            assert not batch.loss_mask[:, 0].any()
            assert not (batch.loss_mask & ~batch.inputs.mask).any()


@pytest.mark.identity("B22")
@pytest.mark.parametrize("kind", KINDS)
def test_process_shards_are_disjoint_and_make_up_the_global_batch(kind, monkeypatch):
    """Processes read disjoint rows whose union is the batch that one would read."""

    def check() -> None:
        whole = make(kind)
        parts = [
            make(kind).shared(lambda n, first=i: np.arange(first, n, 2))
            for i in range(2)
        ]
        assert {part.fingerprint for part in parts} == {whole.fingerprint}
        for step in range(6):
            shards = [part.batch(step) for part in parts]
            np.testing.assert_equal(interleave(shards), whole.batch(step))
            assert not set(ids(shards[0])) & set(ids(shards[1]))

    check()
    shared = Stream.shared

    def every_process_reads_the_same(self, rows):
        del rows
        return shared(self, lambda n: np.arange(0, n, 2))

    monkeypatch.setattr(Stream, "shared", every_process_reads_the_same)
    with pytest.raises(AssertionError):  # the bug: the same rows on all ranks
        check()


@pytest.mark.identity("I11", "I12")
@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_position_goes_on_where_it_stopped(kind, monkeypatch):
    """Resuming restores shuffle and position, inside an epoch, at and past its end."""

    def check() -> None:
        whole = make(kind)
        end = whole.steps_per_epoch
        batches = [whole.batch(step) for step in range(2 * end + 2)]
        for stop in (1, end - 1, end, 2 * end + 1):
            resumed = make(kind)
            step = resumed.resume(whole.position(stop))
            np.testing.assert_equal(resumed.batch(step), batches[stop])

    check()
    generator = np.random.default_rng(0)
    monkeypatch.setattr(
        Order,
        "_permutation",
        lambda self, epoch: generator.permutation(len(self._bucket)).tolist(),
    )
    with pytest.raises(AssertionError):  # the bug: a generator outside the position
        check()


@pytest.mark.identity("I13")
@pytest.mark.parametrize(
    "other",
    [
        make("sequences", seed=1),
        make("sequences", lengths=(6, 8)),
        make("sequences", batch_size=2),
        make("sequences", remainder="wrap"),
        make("sequences", shuffle=False),
        make("sequences", count=29),
        make("packed"),
        data.sequence_stream(
            demonstrations(30, shift=1), ENCODER, batch_size=4, seed=0, lengths=(5, 8)
        ),
        data.sequence_stream(
            demonstrations(30),
            data.Encoder(tokenizer=TOKENIZER, response_limit=7),
            batch_size=4,
            seed=0,
            lengths=(5, 8),
        ),
    ],
)
def test_resuming_with_other_data_is_refused(other):
    """A position belongs to one content and setting of the data; others refuse it."""
    with pytest.raises(UserError, match="other data or data settings"):
        other.resume(make("sequences").position(3))
    assert make("sequences").resume(make("sequences").position(3)) == 3


@pytest.mark.identity("I13")
@pytest.mark.parametrize(
    "change",
    [
        {"id": "other"},
        {"weight": 0.5},
        {"margin": 1.0},
        {"ranks": (2, 1)},
        {"prompt": (4,)},
        {"responses": ((5, 1), (7, 1))},
        {"prompt": (3, 5), "responses": ((1,), (6, 1))},
    ],
)
def test_any_change_of_a_record_changes_the_fingerprint(change):
    """Id, weight, margin, order, and where the prompt ends all count as content."""

    def fingerprint(record: data.Ranking) -> str:
        return data.ranking_stream(
            data.in_memory([record]), ENCODER, batch_size=1, seed=0, lengths=(4,)
        ).fingerprint

    record = data.pair((3,), (5, 1), (6, 1), id="r")
    assert fingerprint(dataclasses.replace(record, **change)) != fingerprint(record)
    assert fingerprint(dataclasses.replace(record)) == fingerprint(record)


@pytest.mark.identity("B30")
@pytest.mark.parametrize("kind", KINDS)
def test_bucketed_shapes_are_a_fixed_small_set(kind, monkeypatch):
    """Once every bucket has been seen, no step ever brings a shape to compile again."""

    def check() -> None:
        stream = make(kind, remainder="wrap")
        compiled = 0

        @jax.jit
        def total(tree):
            nonlocal compiled
            compiled += 1  # runs at trace time only
            return sum(leaf.sum() for leaf in jax.tree.leaves(tree))

        for step in range(stream.steps_per_epoch):
            total(stream.batch(step))
        assert compiled <= len(stream.lengths)
        warm = compiled
        for step in range(stream.steps_per_epoch, 3 * stream.steps_per_epoch):
            total(stream.batch(step))
        assert compiled == warm

    check()
    widths = iter(range(9, 1000))
    name = {"packed": "sequences"}.get(kind, kind)
    build = getattr(batching, name)
    monkeypatch.setattr(
        batching, name, lambda *a, **k: build(*a, **k | {"length": next(widths)})
    )
    with pytest.raises(AssertionError):  # the bug: a width of its own for each step
        check()


@pytest.mark.parametrize("kind", KINDS)
def test_id_and_weight_reach_the_batch(kind):
    stream = make(kind, remainder="pad")
    seen = []
    for batch in stream.epoch():
        flat_ids = np.ravel(batch.example_id)
        flat_weights = np.ravel(batch.weight)
        for example_id, weight in zip(flat_ids, flat_weights, strict=True):
            if example_id < 0:
                assert weight == 0
                continue
            record = stream.record(example_id)
            assert weight == record.weight
            seen.append(record.id)
    assert set(seen) == {record.id for record in stream.dataset.records}


def test_rows_that_fill_a_batch_do_not_count():
    stream = make("rankings", count=5, remainder="pad", shuffle=False, lengths=(8,))
    batch = stream.batch(1)
    assert batch.example_id.tolist() == [4, -1, -1, -1]
    assert not batch.ranks[1:].any() and batch.inputs.mask.any((1, 2)).all()
    batch = make("sequences", count=5, remainder="pad", lengths=(8,)).batch(1)
    assert batch.loss_mask.any(axis=1).tolist() == [True, False, False, False]
    assert batch.inputs.mask.any(axis=1).all()  # attention over nothing is a NaN
    batch = make("prompts", count=5, remainder="pad", lengths=(8,)).batch(1)
    assert batch.weight[1:].tolist() == [0, 0, 0] and batch.mask.any(axis=1).all()


@pytest.mark.identity("B26")
def test_the_responses_to_one_prompt_share_a_row():
    """A ranking is one row: its pairs can never be spread over batches or epochs."""
    stream = make("rankings", remainder="drop", lengths=(8,))
    for batch in stream.epoch():
        for row, example_id in enumerate(batch.example_id):
            record = stream.record(example_id)
            count = len(record.responses)
            assert tuple(batch.ranks[row, :count]) == record.ranks
            assert not batch.ranks[row, count:].any()
            assert batch.margin[row] == np.float32(record.margin)
            for k, response in enumerate(record.responses):
                ids_here = batch.inputs.tokens[row, k][batch.inputs.mask[row, k]]
                assert tuple(ids_here) == (*record.prompt, *response)


def test_a_pair_is_a_ranking_of_two():
    dataset = data.in_memory(
        [
            data.pair((2,), (3, 1), (4, 1), id="a", margin=0.5),
            data.pair((2,), (3, 1), (4, 1), id="b", tie=True),
        ]
    )
    stream = data.ranking_stream(
        dataset, ENCODER, batch_size=2, seed=0, lengths=(4,), shuffle=False
    )
    batch = stream.batch(0)
    assert batch.ranks.tolist() == [[1, 2], [1, 1]]
    assert batch.margin.tolist() == [0.5, 0.0]
    with pytest.raises(UserError, match="ranks 2 responses, batches hold 1"):
        data.ranking_stream(
            dataset, ENCODER, responses=1, batch_size=2, seed=0, lengths=(4,)
        )


def test_over_long_examples_stop_or_are_counted():
    dataset = demonstrations(30)
    with pytest.raises(UserError, match=r"memory, 'd2': 5 tokens, batches hold 4"):
        data.sequence_stream(dataset, ENCODER, batch_size=2, seed=0, lengths=(4,))
    skipping = data.Encoder(tokenizer=TOKENIZER, overlong_prompt="skip")
    stream = data.sequence_stream(
        dataset, skipping, batch_size=2, seed=0, lengths=(4,), remainder="pad"
    )
    assert len(stream.skipped) == 18
    kept = {i for batch in stream.epoch() for i in ids(batch)}
    assert kept == {i for i in range(30) if i % 5 < 2}  # rows of the whole table


def test_a_record_of_the_wrong_kind_is_named():
    dataset = rankings(3)
    with pytest.raises(UserError, match="'r0' is a ranking: nothing to imitate"):
        data.sequence_stream(dataset, ENCODER, batch_size=1, seed=0, lengths=(9,))
    with pytest.raises(UserError, match="'d0' is a demonstration, not a ranking"):
        data.ranking_stream(
            demonstrations(3), ENCODER, batch_size=1, seed=0, lengths=(9,)
        )
    document = data.in_memory([data.Document(id="x", text=(1, 2))])
    with pytest.raises(UserError, match="'x' is a document, which has no prompt"):
        data.prompt_stream(document, ENCODER, batch_size=1, seed=0, lengths=(9,))


@pytest.mark.parametrize("lengths", [(), (0, 8)])
def test_bucket_lengths_must_make_sense(lengths):
    with pytest.raises(UserError, match="give one or more, from 1 up"):
        make("sequences", lengths=lengths)


def test_grain_reads_the_same_batches_ahead():
    stream = make("sequences")
    read = iter(stream.grain(3, 6).to_iter_dataset())
    for step in range(3, 6):
        np.testing.assert_equal(next(read), stream.batch(step))
