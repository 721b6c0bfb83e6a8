"""What a decoder promises: order, padding, documents, repeatability."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import networks
from rlhf_jax.networks import context, positions

TOKENS = np.random.default_rng(0).integers(0, 23, (2, 8))


def disturbed(zoo, family="llama", **fields):
    network = networks.language_model(zoo.families[family](**fields))
    return network, zoo.variables(network)


def test_causality_by_gradient(zoo):
    """No logit depends on the embedding of a later token, every one on its own."""
    network, variables = disturbed(zoo, "gemma3", window=64)
    inputs = zoo.inputs(np.arange(6)[None])

    @zoo.jit
    def jacobian(variables):
        def hidden(table):
            params = variables["params"]
            params = {**params, "embedding": {"tokens": table}}
            return network.apply({"params": params}, inputs).hidden[0].sum(-1)

        return jax.jacobian(hidden)(variables["params"]["embedding"]["tokens"])

    # Every token is another row of the table: row j is the token of column j.
    influence = np.abs(np.asarray(jacobian(variables))[:, :6]).sum(-1)
    assert (influence[np.triu_indices(6, 1)] == 0).all()
    assert (influence[np.tril_indices(6)] > 0).all()


@pytest.mark.identity("I3")
def test_packed_documents_are_as_if_alone(zoo):
    """A document packed beside others has the hidden states that it has alone."""
    network, variables = disturbed(zoo, "gemma3")
    segments = [[0, 0, 0, 1, 1, 1, 1, 2]] * 2
    packed = zoo.logits(network, variables, zoo.inputs(TOKENS, segments=segments))
    for start, end in ((0, 3), (3, 7), (7, 8)):
        inside = np.arange(8) < end - start
        tokens = np.where(inside, np.roll(TOKENS, -start, axis=1), 0)
        alone = zoo.inputs(tokens, np.broadcast_to(inside, tokens.shape))
        found = zoo.logits(network, variables, alone)[:, inside]
        np.testing.assert_allclose(packed[:, start:end], found, atol=2e-5)


def padded(rows, left, right):
    """The same two sequences of 5 and 8 tokens between columns of padding."""
    width = left + 8 + right
    tokens, mask = np.full((2, width), 9), np.zeros((2, width), bool)
    for row, (sequence, shift) in enumerate(zip(rows, (3, 0), strict=True)):
        columns = slice(left + shift, left + shift + len(sequence))
        tokens[row, columns], mask[row, columns] = sequence, True
    return tokens, mask


def check_padding(zoo, network, variables, make_inputs):
    """Logits of real tokens do not change with padding left, right or its content."""
    rows = TOKENS[0, :5], TOKENS[1]
    tokens, mask = padded(rows, 0, 5)
    wanted = zoo.logits(network, variables, make_inputs(tokens, mask))[mask]
    for left, right, filling in ((3, 2, 9), (5, 0, 1)):
        tokens, mask = padded(rows, left, right)
        tokens = np.where(mask, tokens, filling)
        found = zoo.logits(network, variables, make_inputs(tokens, mask))[mask]
        np.testing.assert_allclose(found, wanted, atol=2e-5)


@pytest.mark.identity("B7", "I10", "C31")
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_padding_changes_nothing(zoo, family):
    """Extra left and right padding, and what it holds, change no logit."""
    network, variables = disturbed(zoo, family)
    check_padding(zoo, network, variables, zoo.inputs)


@pytest.mark.identity("B7")
def test_padding_check_finds_uncorrected_positions(zoo):
    """Positions counted by column, not by real tokens, fail the padding check."""

    def by_column(tokens, mask):
        inputs = zoo.inputs(tokens, mask)
        columns = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
        return inputs._replace(positions=columns.astype(jnp.int32))

    network, variables = disturbed(zoo, "gpt2")
    with pytest.raises(AssertionError):
        check_padding(zoo, network, variables, by_column)


@pytest.mark.identity("I10")
def test_padding_check_finds_attended_padding(zoo, monkeypatch):
    """Attention that forgets the key mask fails the padding check."""
    real = positions.attention_mask

    def forgetful(**arguments):
        everything = jnp.ones_like(arguments["key_mask"])
        return real(**{**arguments, "key_mask": everything})

    monkeypatch.setattr(context.places, "attention_mask", forgetful)
    network, variables = disturbed(zoo)
    with pytest.raises(AssertionError):
        check_padding(zoo, network, variables, zoo.inputs)


@pytest.mark.identity("C31")
def test_batch_order_changes_nothing(zoo):
    """Rows of a batch do not see each other."""
    network, variables = disturbed(zoo)
    wanted = zoo.logits(network, variables, zoo.inputs(TOKENS))
    turned = zoo.logits(network, variables, zoo.inputs(TOKENS[::-1]))
    np.testing.assert_allclose(turned[::-1], wanted, atol=1e-6)


def test_gradient_of_padding_is_zero_and_finite(zoo):
    """Tokens that only occur as padding have no gradient; none is NaN."""
    network, variables = disturbed(zoo, tied_embeddings=False)
    mask = np.array([[False] * 3 + [True] * 5, [False] * 8])
    tokens = np.where(mask, TOKENS % 20, 21)
    inputs = zoo.inputs(tokens, mask)

    @zoo.jit
    def gradient(variables):
        def loss(variables):
            hidden = network.apply(variables, inputs).hidden
            real = jnp.where(inputs.mask[..., None], hidden, 0)
            return jnp.square(real).sum()

        return jax.grad(loss)(variables)

    found = gradient(variables)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    table = found["params"]["embedding"]["tokens"]
    assert (table[21] == 0).all() and (table[tokens[0, -1]] != 0).any()


def check_repeatable(apply, variables, inputs):
    one, other = apply(variables, inputs), apply(variables, inputs)
    np.testing.assert_array_equal(one.hidden, other.hidden)


@pytest.mark.identity("B8")
def test_forward_pass_is_the_same_twice(zoo):
    """Nothing is dropped at random: two passes agree, with dropout they do not."""
    network, variables = disturbed(zoo, "gpt2")
    inputs, source = zoo.inputs(TOKENS), np.random.default_rng(0)

    def with_dropout(variables, inputs):
        outputs = network.apply(variables, inputs)
        return outputs._replace(
            hidden=outputs.hidden * (source.random(outputs.hidden.shape) > 0.1)
        )

    check_repeatable(network.apply, variables, inputs)
    with pytest.raises(AssertionError):
        check_repeatable(with_dropout, variables, inputs)
