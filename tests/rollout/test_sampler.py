import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import rng, rollout
from rlhf_jax.errors import UserError
from rlhf_jax.rollout import generation
from rlhf_jax.rollout import logits as rules

STOP = 0


def settings(**changes):
    base = dict(max_length=6, stop_tokens=(STOP,), pad_token=6, temperature=0.7)
    return base | changes


@functools.cache
def build(network, changes):
    return rollout.sampler(network, **settings(**dict(changes)))


def draw(fake, key, **changes):
    sample = build(fake.network, tuple(sorted(changes.items())))
    return jax.device_get(sample(fake.params, fake.prompts, key))


def test_temperatures_share_a_program(fake):
    """An argument gives what a constant gives, bit for bit; only greedy sampling is a
    program of its own."""
    options = {k: v for k, v in settings().items() if k != "temperature"}
    program = rollout.sampling_program(fake.network, **options)
    drawn = {}
    for heat in (0.7, 1.0, 1.3, 0.0):
        sample = rollout.at_temperature(program, heat)
        drawn[heat] = sample(fake.params, fake.prompts, rng.root(1))
    assert program._cache_size() == 2  # type: ignore
    parts = rollout.machine(fake.network, temperature=0.7, **options)
    state = jax.jit(functools.partial(generation.run, parts))(
        fake.params, fake.prompts, rng.root(1)
    )
    np.testing.assert_array_equal(drawn[0.7].tokens, state.tokens)
    np.testing.assert_array_equal(drawn[0.7].logprobs, state.logprobs)
    assert len({x.logprobs.sum().item() for x in drawn.values()}) == 4
    with pytest.raises(UserError, match="temperature=-0.5 must be 0"):
        rollout.at_temperature(program, -0.5)


def test_shape_of_a_rollout(fake):
    result = draw(fake, rng.root(1), samples_per_prompt=3)
    assert result.tokens.shape == (12, 6) and result.tokens.dtype == np.int32
    assert result.logprobs.dtype == np.float32 and result.mask.dtype == bool
    np.testing.assert_array_equal(result.prompt.example_id, np.repeat(range(4), 3))
    np.testing.assert_array_equal(
        result.prompt.tokens, np.repeat(fake.prompts.tokens, 3, axis=0)
    )
    lengths = result.mask.sum(1)
    np.testing.assert_array_equal(result.mask, np.arange(6) < lengths[:, None])
    assert (result.tokens[~result.mask] == 6).all()
    assert (result.logprobs[~result.mask] == 0).all()
    stops = (result.tokens == STOP) & result.mask
    np.testing.assert_array_equal(result.terminal, stops)
    np.testing.assert_array_equal(result.truncated, ~stops.any(1))
    assert 0 < result.truncated.sum() < 12


def distribution(fake, oracle, prompt, config):
    """Exact probabilities of responses under these settings, by enumeration."""

    def probabilities(response):
        row = oracle.logits(fake.params, [*prompt, *response])[-1].copy()
        if len(response) < config.get("min_length", 0):
            row[list(config["stop_tokens"])] = -np.inf
        row = row / config["temperature"]
        if config.get("top_k"):
            row[row < np.sort(row)[-config["top_k"]]] = -np.inf
        mass = np.exp(row - row.max())
        return mass / mass.sum()

    return oracle.responses(probabilities, config["max_length"], config["stop_tokens"])


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 1.3, "stop_tokens": (0, 3)},
        {"min_length": 2, "temperature": 1.0},
        {"top_k": 3},
    ],
    ids=["temperature", "min_length", "top_k"],
)
def test_samples_follow_the_enumerated_distribution(fake, oracle, changes):
    """Chi-square against all responses of at most 3 tokens, and exact log-probs."""
    config = settings(max_length=3, **changes)
    count = 4000
    result = draw(fake, rng.root(7), samples_per_prompt=count, **config)
    for row, prompt in ((0, [1, 2, 3]), (1, [4])):
        exact = distribution(fake, oracle, prompt, config)
        rows = slice(row * count, (row + 1) * count)
        seen: dict = {}
        for tokens, mask, logprobs in zip(
            result.tokens[rows], result.mask[rows], result.logprobs[rows], strict=True
        ):
            response = tuple(int(t) for t in tokens[mask])
            seen[response] = seen.get(response, 0) + 1
            assert abs(logprobs.sum() - np.log(exact[response])) < 1e-4
        common = [r for r, p in exact.items() if p * count >= 5]
        observed = np.array([seen.get(r, 0) for r in common])
        expected = count * np.array([exact[r] for r in common])
        rest = count - expected.sum()
        statistic = np.sum((observed - expected) ** 2 / expected)
        if rest > 5:
            statistic += (count - observed.sum() - rest) ** 2 / rest
        assert statistic < len(common) + 5 * np.sqrt(2 * len(common))


@pytest.mark.identity("B22")
def test_rows_and_keys_draw_independently(fake):
    """Rows of one prompt, and calls with different keys, get different samples; one
    random number shared by all rows would be seen."""

    def distinct(key):
        result = draw(fake, key, samples_per_prompt=64, min_length=6)
        rows = result.tokens.reshape(4, 64, 6)
        return [len(np.unique(group, axis=0)) for group in rows], rows

    counts, first = distinct(rng.root(1))
    assert min(counts) > 32
    _, second = distinct(rng.root(2))
    assert (first != second).any(axis=-1).mean() > 0.9
    _, again = distinct(rng.root(1))
    np.testing.assert_array_equal(first, again)


@pytest.mark.identity("B22")
def test_a_shared_random_number_fails_the_independence_check(fake, monkeypatch):
    """Mutation: the same uniform numbers for every row give equal rows."""

    def shared(key, logits):
        one = jax.random.uniform(key, ())
        weights = jax.nn.softmax(logits)
        uniform = jnp.full(logits.shape[0], one)
        return rules._inverse_cdf(uniform, weights).astype(jnp.int32)

    monkeypatch.setattr(rules, "draw", shared)
    sample = rollout.sampler(
        fake.network, **settings(samples_per_prompt=64, min_length=6)
    )
    result = sample(fake.params, fake.prompts, rng.root(1))
    rows = np.asarray(result.tokens).reshape(4, 64, 6)
    assert max(len(np.unique(group, axis=0)) for group in rows) == 1


def test_one_prefill_for_several_samples_equals_repeated_prompts(fake):
    together = draw(fake, rng.root(3), samples_per_prompt=5)
    repeated = fake._replace(
        prompts=jax.tree.map(lambda x: jnp.repeat(x, 5, axis=0), fake.prompts)
    )
    apart = draw(repeated, rng.root(3))
    jax.tree.map(np.testing.assert_array_equal, together, apart)


@pytest.mark.identity("B7", "I10")
def test_more_left_padding_changes_no_sample(fake, make_prompts):
    """Samples and log-probs do not depend on the width of the left padding or on the
    tokens that stand there."""
    rows = [[1, 2, 3], [4], [5, 6, 1, 2, 3], [6, 6]]
    wider = fake._replace(prompts=make_prompts(rows, 9, pad=5))
    narrow = draw(fake, rng.root(4))
    wide = draw(wider, rng.root(4))
    np.testing.assert_array_equal(narrow.tokens, wide.tokens)
    np.testing.assert_allclose(narrow.logprobs, wide.logprobs, atol=1e-5)


def never_stopping(fake, token, value):
    """Shift the logits of one token by `value` through every hidden state."""
    network = fake.network

    def apply(variables, inputs, cache=None):
        outputs = network.apply(variables, inputs, cache)
        ones = jnp.ones(outputs.hidden.shape[:2] + (1,))
        hidden = jnp.concatenate([outputs.hidden, ones], axis=-1)
        return outputs._replace(hidden=hidden)

    def unembedding(variables):
        matrix = network.unembedding(variables)
        shift = jnp.zeros((matrix.shape[0], 1)).at[token].set(value)
        return jnp.concatenate([matrix, shift], axis=-1)

    return fake._replace(network=network._replace(apply=apply, unembedding=unembedding))


@pytest.mark.parametrize("min_length, steps", [(0, 1), (3, 4), (6, 6)])
def test_the_loop_ends_with_the_last_row(fake, min_length, steps):
    """A model that always stops takes `min_length` tokens and the stop token."""
    eager = never_stopping(fake, STOP, 50.0)
    parts = rollout.machine(eager.network, **settings(min_length=min_length))
    run = jax.jit(lambda: generation.run(parts, fake.params, fake.prompts, rng.root(0)))
    state = run()
    assert int(state.length) == steps
    result = parts.finish(fake.prompts, state)
    np.testing.assert_array_equal(np.asarray(result.mask).sum(1), steps)
    assert np.asarray(result.truncated).all() == (min_length == 6)
    before = np.asarray(result.tokens)[:, :min_length]
    assert (before != STOP).all()


def test_without_stop_tokens_every_row_runs_to_the_end(fake):
    result = draw(fake, rng.root(0), stop_tokens=())
    assert result.mask.all() and result.truncated.all() and not result.terminal.any()


@pytest.mark.identity("B5", "I9")
def test_the_pad_token_may_be_the_stop_token(fake):
    """With pad == stop the mask still holds exactly one stop token of a finished row,
    and its log-prob is kept."""
    result = draw(fake, rng.root(1), pad_token=STOP, samples_per_prompt=4)
    ended = ~result.truncated
    real_stops = ((result.tokens == STOP) & result.mask).sum(1)
    assert ended.any()
    np.testing.assert_array_equal(real_stops, ended.astype(int))
    assert (result.logprobs[result.terminal] < 0).all()
    inferred = result.tokens != STOP  # the bug: a mask inferred from ids
    assert (inferred.sum(1) != result.mask.sum(1))[ended].all()


def test_greedy_takes_the_likeliest_token(fake, oracle):
    result = draw(fake, rng.root(0), temperature=0.0, min_length=2)
    assert (result.logprobs == 0).all()
    for row, prompt in enumerate([[1, 2, 3], [4], [5, 6, 1, 2, 3], [6, 6]]):
        sequence = list(prompt)
        for t, (token, real) in enumerate(
            zip(result.tokens[row], result.mask[row], strict=True)
        ):
            if real:
                logits = oracle.logits(fake.params, sequence)[-1]
                if t < 2:
                    logits[STOP] = -np.inf
                assert token == np.argmax(logits)
                sequence.append(int(token))


def test_stepping_by_hand_is_the_loop(fake):
    """Streaming: start and step from Python give the tokens of the while loop."""
    parts = rollout.machine(fake.network, **settings())
    state = jax.jit(parts.start)(fake.params, fake.prompts, rng.root(5))
    step = jax.jit(parts.step)
    while parts.running(state):
        state = step(fake.params, state)
    by_hand = parts.finish(fake.prompts, state)
    looped = draw(fake, rng.root(5))
    np.testing.assert_array_equal(by_hand.tokens, looped.tokens)
    np.testing.assert_array_equal(by_hand.mask, looped.mask)


def test_a_rule_of_ones_own_comes_first(fake):
    """A further rule restricts the support that log-probs are renormalized on."""
    only = jnp.array([2, 5])

    def rule(logits, step):
        del step
        return jnp.full_like(logits, -jnp.inf).at[:, only].set(logits[:, only])

    result = draw(fake, rng.root(0), rules=(rule,), stop_tokens=())
    assert np.isin(result.tokens, only).all()
    assert (result.logprobs > np.log(1e-4)).all()


@pytest.mark.identity("B30")
def test_sampling_compiles_once_for_one_shape(fake):
    """Another key, other parameters and other prompts of the same shape do not compile
    again."""
    traces = []

    def apply(variables, inputs, cache=None):
        traces.append(inputs.tokens.shape)
        return fake.network.apply(variables, inputs, cache)

    sample = rollout.sampler(fake.network._replace(apply=apply), **settings())
    sample(fake.params, fake.prompts, rng.root(0))
    warm = len(traces)
    for seed in range(1, 4):
        params = fake.network.init(rng.root(seed))
        sample(params, fake.prompts, rng.root(seed))
    assert len(traces) == warm
    assert (4, 5) in traces and (4, 1) in traces


def test_settings_are_checked_before_anything_is_built(fake):
    with pytest.raises(UserError, match="not in the vocabulary of 7"):
        rollout.sampler(fake.network, **settings(stop_tokens=(7,)))
    with pytest.raises(UserError, match="min_length=7"):
        rollout.sampler(fake.network, **settings(min_length=7))
