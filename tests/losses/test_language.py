"""Which tokens are targets, and cross-entropy on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses, metrics, types


def packed_and_not():
    """Three documents of lengths 3, 2, 4: packed in one row of 11, and one per row."""
    lengths = [3, 2, 4]
    row = types.SequenceBatch(
        types.ModelInputs(
            tokens=jnp.arange(11, dtype=jnp.int32)[None],
            mask=jnp.arange(11)[None] < 9,
            positions=jnp.asarray([[0, 1, 2, 0, 1, 0, 1, 2, 3, 0, 0]], jnp.int32),
            segment_ids=jnp.asarray([[7, 7, 7, 7000, 7000, 2, 2, 2, 2, 0, 0]]),
        ),
        loss_mask=jnp.asarray([[0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1]], bool),
        weight=jnp.asarray([[1.0] * 3 + [2.0] * 2 + [0.5] * 6]),
        example_id=jnp.zeros((1, 11), jnp.int32),
    )
    starts = np.cumsum([0, *lengths[:-1]])
    take = starts[:, None] + np.arange(4)[None]
    real = jnp.asarray(np.arange(4)[None] < np.asarray(lengths)[:, None])
    apart = jax.tree.map(lambda x: x[0][take], row)
    inputs = apart.inputs._replace(mask=real, segment_ids=jnp.zeros((3, 4), jnp.int32))
    return row, apart._replace(inputs=inputs), take


@pytest.mark.identity("I19")
def test_targets_are_shifted_and_stay_in_their_document():
    """The first response token is a target, a document's first token is none."""
    row, apart, _ = packed_and_not()
    found = losses.targets(row)
    np.testing.assert_array_equal(found.tokens[0], np.arange(1, 11))
    # Token 3 opens a document: its loss mask is True, but nothing predicts it.
    chosen = [1, 2, 4, 7, 8]
    np.testing.assert_array_equal(np.flatnonzero(found.mask[0]) + 1, chosen)
    assert int(losses.targets(apart).mask.sum()) == len(chosen)


@pytest.mark.identity("I3", "C31")
@pytest.mark.parametrize("reduction", [losses.token_mean, losses.sequence_mean,
                                       losses.sum_over(3.0)],
                         ids=["token_mean", "sequence_mean", "sum_over"])  # fmt: skip
def test_packing_changes_no_loss(reduction, x64):
    """A loss is the same for documents packed in a row and one per row."""
    row, apart, take = packed_and_not()
    row = row._replace(weight=row.weight.astype(np.float64))
    apart = apart._replace(weight=apart.weight.astype(np.float64))
    logprobs = jnp.asarray(-np.random.default_rng(0).uniform(size=(1, 10)))
    other = logprobs[0][np.minimum(take[:, :-1], 9)]
    loss = losses.combine(
        sft=losses.Term(losses.cross_entropy()),
        z=losses.Term(losses.z_loss(), weight=0.1),
        reduction=reduction,
    )

    @jax.jit
    def run(x, batch):
        outputs = types.PolicyOutputs(x, x, 2.0 * x)
        return loss.apply(outputs, batch, loss.prepare(batch, loss.init())[0], 0)[0]

    value = run(logprobs, row)
    np.testing.assert_allclose(value, run(other, apart), atol=1e-10)
    nll, z = -np.asarray(logprobs[0]), 4 * np.asarray(logprobs[0]) ** 2
    both = nll + 0.1 * z
    docs = [(1.0, both[[0, 1]]), (2.0, both[[3]]), (0.5, both[[6, 7]])]
    expected = {
        losses.token_mean: sum(w * v.sum() for w, v in docs) / (2.0 + 2.0 + 1.0),
        losses.sequence_mean: sum(w * v.mean() for w, v in docs) / 3.5,
    }.get(reduction, sum(w * v.sum() for w, v in docs) / 3.0)
    np.testing.assert_allclose(value, expected, atol=1e-10)


def test_cross_entropy_reports_nats_per_target(sequences):
    outputs, batch = sequences(0, [4, 3], 5)
    values, report = losses.cross_entropy()(outputs, batch)
    np.testing.assert_array_equal(values, -outputs.logprobs)
    where = losses.targets(batch)
    scale = np.where(where.mask, where.weight, 0)
    expected = (scale * np.asarray(values)).sum() / scale.sum()
    np.testing.assert_allclose(metrics.finish(report)["language/nll"], expected, 1e-6)
