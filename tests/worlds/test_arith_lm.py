import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.worlds import arith_lm
from rlhf_jax.worlds.arith_lm import EOS, EQUALS, FILLER, PAD, PLUS

WORLD = arith_lm.World(layout="plain")
ALIGNED = arith_lm.World()


def padded(rows, width, left=False):
    tokens = np.full((len(rows), width), PAD)
    mask = np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        where = slice(width - len(row), None) if left else slice(0, len(row))
        tokens[i, where], mask[i, where] = row, True
    return jnp.asarray(tokens), jnp.asarray(mask)


def scores(pairs, responses, world=WORLD):
    prompt = padded([arith_lm.prompt(world, a, b) for a, b in pairs], 6, left=True)
    found = arith_lm.gold(world, *prompt, *padded(responses, 9))
    return np.asarray(found).tolist()


def number(text):
    return [arith_lm.ZERO + int(c) for c in text]


@pytest.mark.parametrize("world", [WORLD, ALIGNED])
def test_every_sum_has_its_one_answer(world):
    """All 10,000 sums, and the same answers off by one."""
    pairs = [(a, b) for a in range(100) for b in range(100)]
    right = [arith_lm.answer(world, a, b) for a, b in pairs]
    wrong = [arith_lm.answer(world, a, b + 1) for a, b in pairs]
    assert all(scores(pairs, right, world))
    assert not any(scores(pairs, wrong, world))


def test_aligned_numbers_have_one_width_and_sums_begin_with_the_units():
    names = arith_lm.names(ALIGNED)
    spelled = [
        "".join(names[i] for i in x)
        for x in (arith_lm.prompt(ALIGNED, 7, 35), arith_lm.answer(ALIGNED, 7, 35))
    ]
    assert spelled == ["07+35=", "240<eos>"]
    cases = {"240": 1, "24": 0, "2400": 0, "042": 0, "241": 0, "24_0": 1}
    tokens = [[*(names.index(c) for c in text), EOS] for text in cases]
    assert scores([(7, 35)] * 6, tokens, ALIGNED) == list(cases.values())


def test_nothing_but_the_digits_and_a_stop_counts():
    cases = {
        "right": [*number("12"), EOS],
        "no stop": number("12"),
        "leading zero": [*number("012"), EOS],
        "one digit too many": [*number("123"), EOS],
        "plus": [PLUS, *number("12"), EOS],
        "equals": [*number("12"), EQUALS, EOS],
        "padding as a token": [*number("1"), PAD, *number("2"), EOS],
        "empty": [EOS],
        "more after the stop": [*number("12"), EOS, *number("1")],
        "stop first": [EOS, *number("12")],
        "stop inside": [*number("1"), EOS, *number("2"), EOS],
        "many digits": [*number("999999999")],
    }
    found = scores([(5, 7)] * len(cases), list(cases.values()))
    assert dict(zip(cases, found, strict=True)) == {k: k == "right" for k in cases}


def test_zero_is_one_digit():
    pairs = [(0, 0), (0, 0), (0, 5)]
    assert scores(pairs, [[*number("0"), EOS], [EOS], [*number("5"), EOS]]) == [1, 0, 1]


def test_fillers_say_nothing():
    """Gold is the same whatever fillers stand between the digits."""
    some = [FILLER, *number("1"), FILLER, FILLER, *number("2"), FILLER, EOS]
    none = [FILLER, FILLER, EOS]
    assert scores([(5, 7), (5, 7), (0, 0)], [some, none, none]) == [1, 0, 0]
    counts = arith_lm.filler_count(*padded([some, none], 9))
    assert np.asarray(counts).tolist() == [4, 2]


def test_demonstrations_are_right_as_often_as_they_should():
    world = arith_lm.World(wrong=0.6, filler=0.3, layout="plain")
    pairs = arith_lm.pairs(world, 0, 2000)
    written = arith_lm.demonstrations(world, 1, pairs)
    prompt = padded([arith_lm.prompt(world, a, b) for a, b in pairs], 6, left=True)
    responses = padded(written, max(map(len, written)))
    solved = np.mean(np.asarray(arith_lm.gold(world, *prompt, *responses)))
    assert solved == pytest.approx(0.4, abs=0.04)
    fillers = np.asarray(arith_lm.filler_count(*responses))
    places = np.mean([len(arith_lm.answer(world, a, b)) for a, b in pairs])
    assert fillers.mean() == pytest.approx(places * 0.3 / 0.7, rel=0.1)
    plain = arith_lm.demonstrations(arith_lm.World(wrong=0.6), 1, pairs)
    assert not any(FILLER in response for response in plain)


def test_pairs_are_distinct_and_follow_their_seed():
    drawn = arith_lm.pairs(arith_lm.World(below=10), 3, 100)
    assert len(set(drawn)) == 100
    assert drawn == arith_lm.pairs(arith_lm.World(below=10), 3, 100)
    assert drawn != arith_lm.pairs(arith_lm.World(below=10), 4, 100)
    with pytest.raises(UserError, match="100 sums"):
        arith_lm.pairs(arith_lm.World(below=10), 3, 101)


@pytest.mark.parametrize("layout", arith_lm.LAYOUTS)
@pytest.mark.parametrize("below", [2, 10, 51, 100, 1000])
def test_lengths_are_those_of_the_longest(below, layout):
    world = arith_lm.World(below=below, layout=layout)
    largest = below - 1
    assert len(arith_lm.prompt(world, largest, largest)) == world.prompt_length
    assert len(arith_lm.answer(world, largest, largest)) == world.answer_length


def test_every_token_has_a_name():
    assert len(set(arith_lm.names(WORLD))) == WORLD.vocab_size == FILLER + 1
    spelled = [arith_lm.names(WORLD)[i] for i in arith_lm.prompt(WORLD, 12, 7)]
    assert "".join(spelled) == "12+7="
