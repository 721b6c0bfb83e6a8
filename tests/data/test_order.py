"""The order of examples: epochs, buckets, remainders."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.data import order as order_module
from rlhf_jax.data.order import Order
from rlhf_jax.errors import UserError


def rows_of(order: Order, epoch: int) -> np.ndarray:
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    return np.concatenate([order.slot(step).rows for step in steps])


PROBLEMS = st.fixed_dictionaries(
    {
        "sizes": st.lists(st.integers(1, 20), min_size=1, max_size=40),
        "batch_size": st.integers(1, 7),
        "seed": st.integers(0, 5),
        "shuffle": st.sampled_from([False, False, False, True]),
    }
)


@settings(max_examples=40, deadline=None)
@given(PROBLEMS, st.sampled_from(["drop", "pad", "wrap"]), st.integers(0, 3))
def test_an_epoch_visits_every_example_once(problem, remainder, epoch):
    sizes, size = problem["sizes"], problem["batch_size"]
    if remainder == "drop" and len(sizes) < size:
        return
    order = Order(**problem, lengths=(5, 9, 20), remainder=remainder)
    whole, rest = divmod(len(sizes), size)
    assert order.steps_per_epoch == whole + (rest > 0 and remainder != "drop")
    begin = epoch * order.steps_per_epoch
    slots = [order.slot(begin + i) for i in range(order.steps_per_epoch)]
    counts = np.zeros(len(sizes), int)
    for slot in slots:
        assert slot.rows.shape == slot.real.shape == (size,)
        assert slot.length in (5, 9, 20)
        assert all(sizes[row] <= slot.length for row in slot.rows)
        np.add.at(counts, slot.rows[slot.real], 1)
    fillers = (size - rest) % size
    if remainder == "drop":
        assert counts.max() == 1 and counts.sum() == whole * size
    elif remainder == "pad":
        assert (counts == 1).all()
        assert sum(int((~slot.real).sum()) for slot in slots) == fillers
    else:
        assert (counts >= 1).all() and counts.sum() == len(sizes) + fillers


@pytest.mark.identity("I16")
def test_reshuffled_every_epoch(monkeypatch):
    """Every epoch is another permutation of the dataset; no two seeds share one."""

    def check() -> None:
        orders = [Order([1] * 32, lengths=(1,), batch_size=4, seed=s) for s in range(3)]
        seen = {tuple(rows_of(order, e)) for order in orders for e in range(4)}
        assert len(seen) == 12
        assert all(sorted(rows) == list(range(32)) for rows in seen)

    check()
    permutation = Order._permutation
    monkeypatch.setattr(Order, "_permutation", lambda self, epoch: permutation(self, 0))
    with pytest.raises(AssertionError):  # the bug: one permutation for all epochs
        check()


def test_epochs_of_one_seed_are_not_those_of_the_next(monkeypatch):
    """grain shuffles epoch e of seed s as epoch 0 of seed s + e; ours must not."""

    def check() -> None:
        first = Order([1] * 32, lengths=(1,), batch_size=32, seed=7)
        second = Order([1] * 32, lengths=(1,), batch_size=32, seed=8)
        assert list(rows_of(first, 1)) != list(rows_of(second, 0))

    check()
    monkeypatch.setattr(
        order_module.zlib, "crc32", lambda name: int(name.split(b"/")[1])
    )
    with pytest.raises(AssertionError):
        check()


def test_without_shuffle_batches_fill_in_the_order_of_the_table():
    order = Order(
        [3, 1, 3, 1, 1],
        lengths=(1, 3),
        batch_size=2,
        seed=0,
        shuffle=False,
        remainder="pad",
    )
    slots = [order.slot(step) for step in range(3)]
    assert [slot.length for slot in slots] == [3, 1, 1]
    assert [slot.rows.tolist() for slot in slots] == [[0, 2], [1, 3], [4, 1]]
    assert slots[2].real.tolist() == [True, False]
    # With one more long example the short one that is left joins it.
    order = Order([3, 1], lengths=(1, 3), batch_size=2, seed=0)
    assert order.slot(0).length == 3 and order.steps_per_epoch == 1


def test_what_is_dropped_changes_from_epoch_to_epoch():
    order = Order([1] * 9, lengths=(1,), batch_size=4, seed=0)
    left_out = {
        next(iter(set(range(9)) - set(rows_of(order, epoch)))) for epoch in range(12)
    }
    assert len(left_out) > 3


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ([1, 1], {"batch_size": 3}, "2 examples make no batch of 3"),
        ([], {"batch_size": 3}, "0 examples"),
        ([1], {"batch_size": 1, "remainder": "keep"}, "not 'keep'"),
    ],
)
def test_impossible_orders_are_refused(sizes, options, message):
    with pytest.raises(UserError, match=message):
        Order(sizes, lengths=(4,), seed=0, **options)
    with pytest.raises(UserError, match="negative"):
        Order([1], lengths=(1,), batch_size=1, seed=0).slot(-1)
