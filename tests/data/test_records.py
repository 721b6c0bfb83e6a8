"""Records read themselves and name what they cannot accept."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax import data
from rlhf_jax.data import records
from rlhf_jax.data.records import FieldError
from rlhf_jax.errors import UserError

GOOD = {
    "prompt": {"prompt": "p"},
    "demonstration": {"prompt": "p", "response": "r"},
    "document": {"text": "t"},
    "conversation": {"messages": [{"role": "assistant", "content": "c"}]},
    "pair": {"prompt": "p", "chosen": "c", "rejected": "r"},
    "ranking": {"prompt": "p", "responses": ["a", "b"], "ranks": [1, 1]},
}


@pytest.mark.parametrize("kind", records.KINDS)
def test_every_kind_keeps_id_weight_and_unknown_fields(kind):
    row = GOOD[kind] | {"id": 7, "weight": 2, "topic": ["x"]}
    record = records.parse(kind, row, "unused")
    assert (record.id, record.weight, record.extra) == ("7", 2.0, {"topic": ["x"]})
    assert records.parse(kind, GOOD[kind], "file:1").id == "file:1"


def test_text_may_be_token_ids_and_prompts_may_be_chats():
    record = records.parse("demonstration", {"prompt": [3, 4], "response": []}, "x")
    assert record == data.Demonstration(id="x", prompt=(3, 4), response=())
    turns = [{"role": "user", "content": "hi"}]
    record = records.parse("prompt", {"prompt": turns}, "x")
    assert record == data.Prompt(id="x", prompt=(data.Message("user", "hi"),))


def test_ties_are_equal_ranks():
    row = GOOD["pair"] | {"tie": True, "margin": 0.5}
    record = records.parse("pair", row, "x")
    assert record == data.pair("p", "c", "r", id="x", margin=0.5, tie=True)
    assert record.ranks == (1, 1)


@pytest.mark.parametrize(
    ("kind", "change", "field"),
    [
        ("prompt", {"prompt": 3}, "prompt"),
        ("prompt", {"prompt": [1, -1]}, "prompt"),
        ("prompt", {"prompt": [True]}, "prompt"),
        ("prompt", {"prompt": [{"role": "user"}]}, "prompt[0].content"),
        ("prompt", {"id": ""}, "id"),
        ("prompt", {"id": 1.5}, "id"),
        ("prompt", {"weight": -1}, "weight"),
        ("prompt", {"weight": float("nan")}, "weight"),
        ("prompt", {"weight": "1"}, "weight"),
        ("prompt", {"weight": 10**400}, "weight"),
        ("prompt", {"prompt": "\ud800"}, "prompt"),
        ("prompt", {"prompt": [2**31]}, "prompt"),
        ("demonstration", {"response": None}, "response"),
        ("document", {"text": {}}, "text"),
        ("conversation", {"messages": []}, "messages"),
        ("conversation", {"messages": "hi"}, "messages"),
        ("conversation", {"messages": [3]}, "messages[0]"),
        ("conversation", {"messages": [{"role": "user", "content": "x"}]}, "messages"),
        ("pair", {"chosen": 1}, "chosen"),
        ("pair", {"tie": 1}, "tie"),
        ("pair", {"margin": float("inf")}, "margin"),
        ("ranking", {"responses": ["a"]}, "responses"),
        ("ranking", {"responses": "ab"}, "responses"),
        ("ranking", {"responses": ["a", 2]}, "responses[1]"),
        ("ranking", {"ranks": [1]}, "ranks"),
        ("ranking", {"ranks": [1, -2]}, "ranks[1]"),
        ("ranking", {"ranks": [1, True]}, "ranks[1]"),
        ("ranking", {"ranks": [0, 1]}, "ranks"),
    ],
)
def test_a_bad_field_is_named(kind, change, field):
    with pytest.raises(FieldError) as error:
        records.parse(kind, GOOD[kind] | change, "x")
    assert str(error.value).startswith(f"field '{field}': ")


@pytest.mark.parametrize("kind", records.KINDS)
def test_a_missing_field_is_named(kind):
    for name in GOOD[kind]:
        row = {key: value for key, value in GOOD[kind].items() if key != name}
        with pytest.raises(FieldError, match=f"field '{name}': missing"):
            records.parse(kind, row, "x")


def test_an_unknown_kind_lists_the_known_ones():
    with pytest.raises(UserError, match="'pairs'; known: prompt, demonstration"):
        records.parse("pairs", {}, "x")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from(["id", "weight", *(n for row in GOOD.values() for n in row)])


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(records.KINDS), st.booleans(), st.dictionaries(NAMES, JSON), JSON
)
def test_any_json_is_a_record_or_a_field_error(kind, complete, change, other):
    for row in (GOOD[kind] | change if complete else change, other):
        try:
            record = records.parse(kind, row, "x")
        except FieldError as error:
            assert str(error).startswith("field '")
        else:
            assert record.id and record.weight >= 0
