"""What a decoder promises: order, padding, documents, gradients, dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import networks, rng, sharding
from rlhf_jax.errors import UserError
from rlhf_jax.networks import attention, context, positions

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


def value_and_gradient(zoo, network, variables, inputs):
    """A scalar that depends on every output, and its gradient."""

    @zoo.jit
    def compute(variables):
        def loss(variables):
            outputs = network.apply(variables, inputs)
            logits = networks.logits(network, variables, outputs.hidden)
            # Dotted with fixed noise: a norm would cancel a wrong scale.
            noise = jax.random.normal(jax.random.key(1), logits.shape)
            return (logits * noise).sum() + outputs.scalars.sum()

        return jax.value_and_grad(loss)(variables)

    return compute(variables)


@pytest.fixture(scope="module")
def plain_run():
    """Loss and gradient of the unrolled network without remat, computed once."""
    return {}


@pytest.mark.parametrize(
    ("scan_layers", "remat"),
    [(True, "none"), (False, "full"), (True, "weight_dots")],
)
def test_scan_and_remat_change_neither_values_nor_gradients(
    zoo, plain_run, scan_layers, remat
):
    config = zoo.gemma3(tied_embeddings=False, lora=networks.LoRA(rank=2))
    plain = networks.language_model(config, value_head=True)
    inputs = zoo.inputs(TOKENS, [[False] * 2 + [True] * 6, [True] * 8])
    if not plain_run:
        plain_run["variables"] = zoo.variables(plain)
        plain_run["wanted"] = value_and_gradient(
            zoo, plain, plain_run["variables"], inputs
        )
    variables, wanted = plain_run["variables"], plain_run["wanted"]
    other = networks.language_model(
        config, value_head=True, scan_layers=scan_layers, remat=remat
    )
    assert jax.tree.structure(other.init(rng.root(0))) == jax.tree.structure(variables)
    found = value_and_gradient(zoo, other, variables, inputs)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


def residual_bytes(network, variables, inputs):
    """What the backward pass keeps, as traced (the compiler may keep less)."""
    function = jax.eval_shape(
        lambda v: jax.vjp(lambda v: network.apply(v, inputs).hidden, v)[1], variables
    )
    leaves = jax.tree.leaves(function)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def test_remat_keeps_less(zoo):
    """The named policies do what their names say: this fails where remat is ignored."""
    config, inputs = zoo.llama(), zoo.inputs(TOKENS)
    variables = networks.language_model(config).init(rng.root(0))
    for scan_layers in (False, True):
        kept = {
            remat: residual_bytes(
                networks.language_model(config, scan_layers=scan_layers, remat=remat),
                variables,
                inputs,
            )
            for remat in networks.REMAT
        }
        assert kept["full"] < kept["weight_dots"] < kept["dots"] < kept["none"]


def test_unknown_remat_is_refused(zoo):
    with pytest.raises(UserError, match="'everything'.*none, full"):
        networks.language_model(zoo.llama(), remat="everything")


def test_scan_is_a_scan(zoo):
    """Depth changes the size of an unrolled program, not of a scanned one."""

    def size(scan_layers, num_layers):
        config = zoo.llama(num_layers=num_layers)
        network = networks.language_model(config, scan_layers=scan_layers)
        variables = jax.eval_shape(network.init, rng.root(0))
        program = jax.make_jaxpr(network.apply)(variables, zoo.inputs(TOKENS))
        return len(str(program).splitlines())

    assert size(True, 2) == size(True, 6)
    assert size(False, 2) < size(False, 6)


def test_unstacked_layers_give_the_same(zoo):
    network, variables = disturbed(zoo, "gpt2", lora=networks.LoRA(rank=1))
    inputs = zoo.inputs(TOKENS)
    unstacked = networks.unstack_layers(variables, network.config)
    assert isinstance(unstacked["lora"]["layers"], tuple)
    np.testing.assert_array_equal(
        zoo.logits(network, unstacked, inputs), zoo.logits(network, variables, inputs)
    )


def test_activations_are_constrained_inside_mesh_and_rules(zoo):
    """The logical names of activations reach the program, and only there."""
    network = networks.language_model(zoo.llama())
    variables = jax.eval_shape(network.init, rng.root(0))
    inputs = zoo.inputs(TOKENS)

    def count():
        program = jax.make_jaxpr(lambda v: network.apply(v, inputs))(variables)
        return str(program).count("sharding_constraint")

    one = sharding.mesh(devices=jax.devices()[:1])
    with jax.set_mesh(one), networks.axis_rules(sharding.RULES):
        # Table and stream, and per layer: q, k, v, mixed, MLP, stream.
        assert count() == 2 + 2 * 6
    assert count() == 0


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


def test_dtypes_of_parameters_and_computation_are_separate(zoo):
    inputs = zoo.inputs(TOKENS)
    wanted_network, variables = disturbed(zoo)
    network = networks.language_model(
        zoo.llama(), value_head=True, dtype=jnp.bfloat16, param_dtype=jnp.float32
    )
    made = jax.eval_shape(network.init, rng.root(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype("float32")}
    outputs = jax.eval_shape(network.apply, made, inputs)
    assert outputs.hidden.dtype == jnp.bfloat16
    assert outputs.scalars.dtype == jnp.float32
    half = networks.language_model(zoo.llama(), param_dtype=jnp.bfloat16)
    made = jax.eval_shape(half.init, rng.root(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype("bfloat16")}
    close = networks.language_model(zoo.llama(), dtype=jnp.bfloat16)
    wanted = zoo.logits(wanted_network, variables, inputs)
    found = zoo.logits(close, variables, inputs)
    assert found.dtype == np.float32
    # Eight bits of mantissa through three layers.
    assert 1e-4 < np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()


def check_float32_logits(compute):
    """Logits of bfloat16 hidden states against a product in float64."""
    source = np.random.default_rng(0)
    hidden = jnp.asarray(source.standard_normal((2, 3, 16)), jnp.bfloat16)
    matrix = jnp.asarray(source.standard_normal((23, 16)), jnp.bfloat16)
    found = compute(hidden, matrix)
    wanted = np.asarray(hidden, np.float64) @ np.asarray(matrix, np.float64).T
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.identity("B29")
def test_logits_are_float32_under_bfloat16(zoo):
    """Logits are float32 sums of bfloat16 products; rounded to bfloat16 they fail."""
    network = networks.language_model(zoo.llama(), dtype=jnp.bfloat16)

    def compute(hidden, matrix):
        variables = {"params": {"unembedding": {"kernel": matrix}}}
        return networks.logits(network, variables, hidden)

    check_float32_logits(compute)
    with pytest.raises(AssertionError):
        check_float32_logits(lambda h, m: (h @ m.T).astype(jnp.float32))


def check_float32_scores(attend):
    """Attention on bfloat16 with large scores, against float64."""
    source = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(source.standard_normal(shape), jnp.bfloat16)
        for shape in ((1, 4, 1, 8), (1, 1, 300, 8), (1, 1, 300, 8))
    )
    mask = jnp.ones((1, 4, 300), bool)
    found = attend(q, k, v, mask, scale=3.0, softcap=None)[0, :, 0]
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    scores = 3 * q[0, :, 0] @ k[0, 0].T
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    wanted = weights @ v[0, 0]
    np.testing.assert_allclose(np.asarray(found, np.float64), wanted, atol=0.01)


@pytest.mark.identity("B29")
def test_attention_softmax_is_float32_under_bfloat16():
    """Scores and softmax are float32; a softmax in bfloat16 fails the same check."""
    check_float32_scores(attention.attend)

    def rounded(q, k, v, mask, *, scale, softcap):
        scores = jnp.einsum("blhe,bhse->bhls", q, k) * jnp.bfloat16(scale)
        weights = jax.nn.softmax(scores, axis=-1)
        return jnp.einsum("bhls,bhse->blhe", weights, v)

    with pytest.raises(AssertionError):
        check_float32_scores(rounded)


def test_heads_start_as_documented(zoo):
    config = zoo.llama(width=64, head_dim=16)
    key = rng.root(3)

    def kernel(network):
        # The rest is dead code, which the compiler drops.
        pick = zoo.jit(lambda key: network.init(key)["params"]["head"]["kernel"])
        return np.asarray(pick(key))

    assert (kernel(networks.language_model(config, value_head=True)) == 0).all()
    zero = networks.scalar_model(config, head_init=networks.zeros())
    assert (kernel(zero) == 0).all()
    default = kernel(networks.scalar_model(config))
    assert default.shape == (64,)  # and no bias beside it
    assert 0.7 < default.std() * np.sqrt(65) < 1.3
    np.testing.assert_allclose(
        kernel(networks.scalar_model(config, head_init=0.5)),
        default * 0.5 * np.sqrt(65),
        rtol=1e-6,
    )
    names = set(jax.eval_shape(networks.scalar_model(config).init, key)["params"])
    assert names == {"embedding", "layers", "final_norm", "head"}


def test_scalars_are_hidden_times_kernel(zoo):
    network = networks.scalar_model(zoo.llama())
    variables = zoo.variables(network)
    outputs = network.apply(variables, zoo.inputs(TOKENS))
    expected = outputs.hidden @ variables["params"]["head"]["kernel"]
    assert outputs.scalars.shape == (2, 8)
    np.testing.assert_allclose(outputs.scalars, expected, atol=1e-5)


def test_scalar_model_has_no_unembedding(zoo):
    network = networks.scalar_model(zoo.llama(tied_embeddings=True))
    with pytest.raises(UserError, match="language_model"):
        network.unembedding(network.init(rng.root(0)))


def test_trunk_of_one_key_is_the_same_in_every_network(zoo):
    config = zoo.llama()
    policy = networks.language_model(config, value_head=True).init(rng.root(0))
    value = networks.scalar_model(config).init(rng.root(0))
    for name in ("embedding", "layers", "final_norm"):
        one, other = policy["params"][name], value["params"][name]
        assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), one, other))


def test_logical_axes_name_every_axis(zoo):
    config = zoo.gemma3(tied_embeddings=False, lora=networks.LoRA(targets=("up",)))
    network = networks.language_model(config, value_head=True)
    axes = networks.logical_axes(network)
    shapes = jax.eval_shape(network.init, rng.root(0))
    is_names = lambda x: isinstance(x, tuple)  # noqa: E731
    named = jax.tree.leaves(axes, is_leaf=is_names)
    for names, shape in zip(named, jax.tree.leaves(shapes), strict=True):
        assert len(names) == len(shape.shape) and None not in names
    layers = axes["params"]["layers"]
    assert layers["attention"]["key"]["kernel"] == ("layers", "embed", "kv_heads")
    assert axes["lora"]["layers"]["mlp"]["up"]["b"] == ("layers", "lora_rank", "mlp")
    assert axes["params"]["unembedding"]["kernel"] == ("vocab", "embed")
