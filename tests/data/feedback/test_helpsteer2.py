"""Lines of HelpSteer2 become conversations with several rated responses."""

from __future__ import annotations

import json

import pytest

from rlhf_jax.data import feedback
from rlhf_jax.data.feedback import converters, helpsteer2, plain, views
from rlhf_jax.data.fields import FieldError, Message
from rlhf_jax.errors import UserError

LONG = "Hi\n\n<extra_id_1>Assistant\nYes?\n<extra_id_1>User\nTea?"
TURNS = (
    Message("user", "Hi\n"), Message("assistant", "Yes?"), Message("user", "Tea?"),
)  # fmt: skip


def line(prompt, response, value=3, **more):
    rated = dict.fromkeys(converters.HELPSTEER, value)
    return {"prompt": prompt, "response": response, **rated, **more}


@pytest.fixture
def read(tmp_path):
    def call(*rows, **options):
        path = tmp_path / "hs.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return plain.read(path, "helpsteer2", **options)

    return call


def test_lines_of_one_prompt_are_one_record(read, tmp_path):
    found = read(
        line("c#", "one", 4), line("c#", "two", 1, split="val"),
        line(LONG, "milk"), line("c#", "again"),
    )  # fmt: skip
    first, second, third = found.records
    assert first.prompt == (Message("user", "c#"),) and second.prompt == TURNS
    assert [(r.id, r.text) for r in first.responses] == [("0", "one"), ("1", "two")]
    assert first.id == "hs:1" and first.parents == ("hs:1", "hs:2")
    assert first.provenance == "helpsteer2"
    assert first.extra == {"responses": {"1": {"split": "val"}}}
    assert {(r.response, r.value) for r in first.ratings} == {("0", 4.0), ("1", 1.0)}
    assert second.parents == ("hs:3",) and third.parents == ("hs:4",)
    (pair,) = views.pairs(found.records, attribute="helpfulness").records
    assert pair.responses == ("one", "two") and pair.ranks == (1, 2)
    feedback.write(tmp_path / "out.jsonl", found.records)
    assert feedback.read(tmp_path / "out.jsonl").records == found.records


@pytest.mark.parametrize(
    "prompt", ["", "a\n", LONG, "x<extra_id_0>y", "a\n<extra_id_1>User\n"]
)
def test_turns_spell_their_prompt(prompt):
    assert helpsteer2._spelled(helpsteer2.turns(prompt)) == prompt


@pytest.mark.parametrize(
    "prompt",
    [LONG.replace("\n<", "<"), "\n<extra_id_1>User\nHi", "a\n<extra_id_1>User"],
)
def test_a_prompt_that_its_turns_do_not_spell_is_kept(read, prompt):
    (record,) = read(line(prompt, "r")).records
    assert record.extra["prompt"] == prompt
    assert not any("extra_id" in turn.content for turn in record.prompt)


@pytest.mark.parametrize(
    "prompt, problem",
    [
        ("a\n<extra_id_1>Tool\nb", "turn 0 has a <extra_id_1> that no User or Ass"),
        ("a\n<extra_id_1>Assistant\nb", "its last turn is not the user's"),
    ],
)
def test_a_prompt_that_is_no_conversation_is_named(read, prompt, problem):
    with pytest.raises(FieldError, match=problem):
        helpsteer2.turns(prompt)
    with pytest.raises(UserError, match=f"hs.jsonl:2: field 'prompt': {problem}"):
        read(line("p", "r"), line(prompt, "r"))


def test_a_bad_line_is_counted_and_the_other_response_stays(read):
    rows = [
        line("p", "one"), line("p", "two", 9), line("p", " "), [], line("p", "three"),
        line("q", "four", id="q"), line("q", "five", id="q"),
    ]  # fmt: skip
    found = read(*rows, on_bad_record="skip")
    first, second = found.records
    assert first.parents == ("hs:1", "hs:5") and second.parents == ("q",)
    assert found.counts == {
        "rating out of range": 1, "empty response": 1, "schema": 1, "duplicate id": 1,
    }  # fmt: skip
    with pytest.raises(UserError, match=r"hs.jsonl:2: field 'ratings\[0\].value'"):
        read(*rows)
    with pytest.raises(UserError, match=r"hs.jsonl:7: .*already the id of .*jsonl:6"):
        read(*[line("z", "z")] * 5, *rows[5:])
