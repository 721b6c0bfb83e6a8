"""Comparisons as tokens: what is response, who lends to whom, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_jax import data
from rlhf_jax.data import tokenizer
from rlhf_jax.data.feedback.views import LabeledResponse
from rlhf_jax.errors import UserError
from rlhf_jax.losses import preference

TOKENIZER = tokenizer.symbols(64, pad_token=0, end_token=1)
ENCODER = data.Encoder(tokenizer=TOKENIZER)


def ranking(name, prompt, responses, ranks=None):
    ranks = ranks or tuple(range(1, len(responses) + 1))
    return data.Ranking(id=name, prompt=prompt, responses=responses, ranks=ranks)


def dataset(count=6):
    return data.in_memory(
        [
            ranking(
                f"r{i}",
                (3,) * (1 + i % 3),
                tuple((10 + i, 20 + k, 1) for k in range(2 + i % 2)),
            )
            for i in range(count)
        ]
    )


def stream(found, encoder=ENCODER, **options):
    settings = {"batch_size": 2, "seed": 0, "lengths": (8,), "shuffle": False}
    return data.comparison_stream(found, encoder, **settings | options)


def test_the_response_mask_covers_the_response_with_its_end_token_and_no_prompt():
    batch = stream(dataset()).batch(0)
    inputs = batch.inputs
    for row, prompt in enumerate((1, 2)):
        for k in range(2 + row):
            kept = inputs.tokens[row, k][batch.response[row, k]]
            assert kept.tolist() == [10 + row, 20 + k, 1]
            assert inputs.tokens[row, k, :prompt].tolist() == [3] * prompt
    assert batch.ranks.tolist() == [[1, 2, 0], [1, 2, 3]]
    assert not batch.response[0, 2].any(), "a third response is absent"
    assert batch.example_id.tolist() == [0, 1]


def test_filler_rows_rank_nothing_and_weigh_nothing():
    found = stream(dataset(3), remainder="pad").batch(1)
    assert found.example_id.tolist() == [2, -1]
    assert found.weight.tolist() == [1.0, 0.0]
    assert found.ranks[1].tolist() == [0, 0, 0]


@pytest.mark.identity("I20")
def test_a_policy_reads_the_ids_that_a_reward_model_reads():
    """A ranking has the same token ids in preference learning and in reward models."""
    words = dict(lengths=(9,), batch_size=2, seed=3)
    encoder = data.Encoder(
        tokenizer=TOKENIZER, prompt_suffix=" t2 t3", response_prefix="t4 "
    )
    found = data.in_memory(
        [ranking(f"r{i}", "t5 t6", (f"t{7 + i}", "t20 t21")) for i in range(4)]
    )
    ours = data.comparison_stream(found, encoder, **words)
    theirs = data.ranking_stream(found, encoder, **words)
    for step in range(3):
        one, two = ours.batch(step), theirs.batch(step)
        assert np.array_equal(one.inputs.tokens, two.inputs.tokens)
        assert np.array_equal(one.inputs.mask, two.inputs.mask)
        assert np.array_equal(one.ranks, two.ranks)


def test_labels_are_rankings_of_one():
    labeled = [
        LabeledResponse(id=f"l{i}", prompt=(3, 4 + i), response=(9, 1), good=i == 0)
        for i in range(2)
    ]
    batch = stream(data.Dataset("labels", tuple(labeled))).batch(0)
    assert batch.ranks.tolist() == [[1], [2]]
    assert batch.inputs.tokens.shape == (2, 1, 8)


def test_borrowed_responses_follow_the_own_prompt_and_stay_with_their_row():
    plain = stream(dataset(), mismatch=preference.mismatched, shuffle=True)
    seen: dict[int, bytes] = {}
    for step in range(2 * plain.steps_per_epoch):
        batch = plain.batch(step)
        for row, name in enumerate(batch.example_id.tolist()):
            for k in range(2 + name % 2):
                own, other = (
                    x.tokens[row, k] for x in (batch.inputs, batch.mismatched)
                )
                length = 1 + name % 3
                assert own[:length].tolist() == other[:length].tolist() == [3] * length
                borrowed = other[batch.mismatched_response[row, k]]
                assert (int(borrowed[0]) - 10) % 3 != name % 3, "another prompt"
            tokens = batch.mismatched.tokens[row].tobytes()
            assert seen.setdefault(name, tokens) == tokens, "the same in every epoch"
    assert len(seen) == 6


def test_one_prompt_has_nobody_to_borrow_from():
    found = data.in_memory(
        [ranking(f"r{i}", (3,), ((4 + i, 1), (9 + i, 1))) for i in range(3)]
    )
    with pytest.raises(UserError, match="cannot all be set against other prompts"):
        stream(found, mismatch=preference.mismatched)


@pytest.mark.parametrize(
    "responses, problem",
    [
        (((), (4, 1)), "'bad': response 0 is empty"),
        (("t4", " "), "response 1 is empty"),
    ],
)
def test_an_empty_response_is_named(responses, problem):
    prompt = "t3" if isinstance(responses[1], str) else (3,)
    with pytest.raises(UserError, match=problem):
        stream(data.in_memory([ranking("bad", prompt, responses)]))


def test_responses_that_truncation_makes_equal_are_left_out_and_counted():
    found = data.in_memory(
        [
            ranking("same", (3,), ((4, 5, 6, 1), (4, 5, 7, 1))),
            ranking("tied", (3,), ((4, 5, 6, 1), (4, 5, 7, 1)), (1, 1)),
            ranking("other", (3,), ((5, 1), (6, 1))),
        ]
    )
    encoder = data.Encoder(
        tokenizer=TOKENIZER, response_limit=2, overlong_response="cut"
    )
    made = stream(found, encoder)
    assert made.skipped == ("'same': identical responses, once they are tokens",)
    assert made.batch(0).example_id.tolist() == [1, 2]


def test_labels_that_truncation_turns_against_each_other_are_left_out_and_counted():
    """Of one record: good and bad are the same tokens. Of two records, they are two
    opinions and stay."""
    encoder = data.Encoder(
        tokenizer=TOKENIZER, response_limit=2, overlong_response="cut"
    )

    def label(name, response, good):
        return LabeledResponse(id=name, prompt=(3,), response=response, good=good)

    rows = [
        label("x/0", (5, 6, 7), True),
        label("x/1", (5, 6, 8), False),
        label("y/0", (5, 6, 9), False),
        label("z", (8, 9), True),
    ]
    stream = data.comparison_stream(
        data.Dataset("labels", tuple(rows)), encoder, batch_size=1, seed=0, lengths=(8,)
    )
    assert len(stream.skipped) == 2
    assert "'x/0': good and bad at once" in stream.skipped[0]


def test_the_fingerprint_knows_ranks_and_whether_responses_are_borrowed():
    found, swapped = (
        data.in_memory([ranking("r", (3,), ((5, 1), (6, 1)), ranks)])
        for ranks in ((1, 2), (2, 1))
    )
    one, two = (stream(x, batch_size=1).fingerprint for x in (found, swapped))
    assert one != two
    lending = stream(dataset(), mismatch=preference.mismatched).fingerprint
    assert lending != stream(dataset()).fingerprint
