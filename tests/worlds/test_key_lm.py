import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.worlds import key_lm

WORLD = key_lm.World()


def slow_gold(prompt, response):
    """The definition, token by token."""
    marked = key_lm.FIRST + WORLD.contents
    salient = {t - WORLD.contents for t in prompt if t >= marked}
    spoken = [t for t in response if t != key_lm.EOS]
    seen, misses = set(), 0
    for token in spoken:
        if token in salient and token not in seen:
            seen.add(token)
        else:
            misses += 1
    share = misses / len(spoken) if spoken else 0.0
    overlong = max(len(spoken) - WORLD.free_length, 0)
    return (
        len(seen) / len(salient)
        - WORLD.miss_penalty * share
        - WORLD.length_penalty * overlong
    )


def padded(rows, width, left):
    tokens = np.zeros((len(rows), width), np.int32)
    mask = np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        where = slice(width - len(row), width) if left else slice(0, len(row))
        tokens[i, where], mask[i, where] = row, True
    return jnp.asarray(tokens), jnp.asarray(mask)


@pytest.fixture(scope="module")
def drawn():
    prompts = key_lm.prompts(WORLD, 0, 64)
    written = key_lm.demonstrations(WORLD, 1, prompts)
    draw = np.random.default_rng(2)
    noise = [
        np.append(draw.integers(0, WORLD.vocab_size, draw.integers(0, 9)), key_lm.EOS)
        for _ in prompts
    ]
    return prompts, [list(map(int, x)) for x in written + noise]


def test_gold_is_its_definition(drawn):
    prompts, responses = drawn
    twice = [*prompts, *prompts]
    found = key_lm.gold(
        WORLD, *padded(twice, WORLD.longest, True), *padded(responses, 12, False)
    )
    expected = [slow_gold(list(x), y) for x, y in zip(twice, responses, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_gold_ignores_padding_and_reaches_one(drawn):
    prompts, _ = drawn
    marked = key_lm.FIRST + WORLD.contents
    best = [[*(p[p >= marked] - WORLD.contents), key_lm.EOS] for p in prompts]
    tokens, mask = padded(best, 12, False)
    prompt = padded(prompts, WORLD.longest, True)
    garbage = jnp.where(mask, tokens, key_lm.FIRST)
    np.testing.assert_allclose(
        key_lm.gold(WORLD, *prompt, garbage, mask), 1.0, atol=1e-6
    )


def test_prompts_and_writers_follow_their_seeds():
    prompts = key_lm.prompts(WORLD, 3, 20)
    assert all(WORLD.shortest <= len(p) <= WORLD.longest for p in prompts)
    marked = key_lm.FIRST + WORLD.contents
    assert all(np.sum(p >= marked) == WORLD.salient for p in prompts)
    assert all(p[-1] == key_lm.SEPARATOR for p in prompts)
    again = key_lm.prompts(WORLD, 3, 20)
    assert all(np.array_equal(a, b) for a, b in zip(prompts, again, strict=True))
    other = key_lm.prompts(WORLD, 4, 20)
    assert any(not np.array_equal(a, b) for a, b in zip(prompts, other, strict=True))
    names = key_lm.names(WORLD)
    assert len(names) == len(set(names)) == WORLD.vocab_size


def test_the_gold_of_the_writers_is_that_of_each_of_their_responses():
    world = key_lm.World()
    together = key_lm.writers_gold(world, 3, 20)
    given = key_lm.prompts(world, 3, 20)
    for found, prompt, said in zip(
        together, given, key_lm.demonstrations(world, 3, given), strict=True
    ):
        prompt, said = jnp.asarray(prompt)[None], jnp.asarray(said)[None]
        alone = key_lm.gold(world, prompt, prompt > 0, said, said > 0)
        assert found == pytest.approx(float(alone[0]))
    assert len(set(together.tolist())) > 5
