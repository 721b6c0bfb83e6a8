"""Whatever is damaged in a record, in any layout: it is counted, the others stay."""

from __future__ import annotations

import copy
import functools
import json
import operator

import pytest

from rlhf_jax.data import feedback
from rlhf_jax.data.feedback import converters, plain
from rlhf_jax.errors import UserError

HEAD = "\n\nHuman: Hi\n\nAssistant:"
SUMMARIES = [{"text": "A", "policy": "x", "note": "n"}, {"text": "B"}]
COMPLETIONS = [
    {"model": "m", "response": "La", "annotations": {"honesty": {"Rating": "5"}},
     "overall_score": 7.5, "critique": "c"},
    {"model": "n", "response": "Lo", "overall_score": 3.0},
]  # fmt: skip
RECORD = {
    "id": "q", "prompt": [{"role": "user", "content": "p"}],
    "responses": [{"id": "a", "text": "x", "source": "m"}, {"id": "b", "text": "y"}],
    "ranking": [["a"], ["b"]],
    "pairs": [{"better": "a", "worse": "b", "strength": 1.0, "tie": False}],
    "ratings": [{"response": "a", "attribute": "h", "value": 3, "low": 1, "high": 5}],
    "labels": [{"response": "a", "good": True}],
    "edits": [{"response": "a", "text": "e"}],
    "comments": [{"text": "t", "response": "a"}],
    "follow_ups": [{"response": "a", "message": "m"}],
    "time": "2026-01-02T03:04:05+00:00", "parents": ["z"], "weight": 1.0,
    "extra": {"k": 1},
}  # fmt: skip
RATED = dict.fromkeys(converters.HELPSTEER, 3)


def message(id, parent, role, **more):
    row = {"message_id": id, "parent_id": parent, "role": role, "text": f"text {id}"}
    date = "2023-02-05T14:23:50+00:00"
    return row | {"created_date": date, "deleted": False} | more


TREE = [
    message("p1", None, "prompter"),
    message("r1", "p1", "assistant", rank=0,
            labels={"name": ["quality"], "value": [0.75]}),
    message("r2", "p1", "assistant", rank=1),
]  # fmt: skip
ROWS = {
    "hh_rlhf": {"chosen": HEAD + " a", "rejected": HEAD + " b"},
    "tldr_comparisons": {
        "info": {"id": "t", "post": "p", "title": "h", "subreddit": "s"},
        "summaries": SUMMARIES, "choice": 1, "extra": {"confidence": 8},
    },
    "ultrafeedback": {"instruction": "S", "completions": COMPLETIONS},
    "shp": {
        "history": "Why", "human_ref_A": "x", "human_ref_B": "y", "labels": 0,
        "score_ratio": 3.0, "created_at_utc_A": 100, "created_at_utc_B": 200,
    },
    "helpsteer": {"prompt": "p", "response": "r"} | RATED,
    "feedback": RECORD,
    "auto": {"prompt": "p", "responses": ["a", "b"], "ranks": [1, 2]},
}  # fmt: skip
MISSING = object()
HUGE = "a number that no float holds"
DAMAGES = [
    None, True, 0, -1, 1.5, HUGE, "", " ", "a", "r1", [], [1], [[]], [{}], {},
    {"a": 1}, 10**400, 2**40, "\ud800", {"role": "user", "content": "x"},
]  # fmt: skip


def places(value, path=()):
    """Every path into a JSON value, the value itself first."""
    yield path
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in pairs:
            yield from places(part, (*path, key))


def damaged(row):
    """The row with each damage in the place of each of its parts, or without it."""
    yield from DAMAGES
    for path in list(places(row))[1:]:
        for damage in (*DAMAGES, MISSING):
            whole = copy.deepcopy(row)
            parent = functools.reduce(operator.getitem, path[:-1], whole)
            if damage is MISSING:
                del parent[path[-1]]
            else:
                parent[path[-1]] = damage
            yield whole


def text(rows):
    lines = [json.dumps(row).replace(f'"{HUGE}"', "1e999") for row in rows]
    return "\n".join(lines)


@pytest.mark.parametrize("layout", ROWS)
def test_a_damaged_row_is_read_or_counted(layout, tmp_path):
    path, again = tmp_path / "rows.jsonl", tmp_path / "again.jsonl"
    rows = [*damaged(ROWS[layout]), ROWS[layout]]
    for index, row in enumerate(rows):
        if isinstance(row, dict) and row.get("id") == "q":
            row["id"] = f"q{index}"  # nothing but the damage is wrong
    path.write_text(text(rows))
    found = feedback.read(path, plain.LAYOUTS[layout], on_bad_record="skip")
    assert len(found.records) + len(found.skipped) == len(rows)
    assert sum(found.counts.values()) == len(found.skipped) > len(rows) / 4
    feedback.write(again, found.records)
    assert feedback.read(again).records == found.records, "without loss"


@pytest.mark.parametrize("index", range(len(TREE)))
def test_a_damaged_message_is_left_out_or_counted(index, tmp_path):
    path = tmp_path / "tree.jsonl"
    whole = [message("q", None, "prompter"),
             message("s1", "q", "assistant", rank=1),
             message("s2", "q", "assistant", rank=0)]  # fmt: skip
    for row in damaged(TREE[index]):
        path.write_text(text([*TREE[:index], row, *TREE[index + 1 :], *whole]))
        found = plain.read(path, "oasst", on_bad_record="skip")
        assert found.records[-1].ranking == (("s2",), ("s1",))


@pytest.mark.parametrize(
    "line, problem",
    [
        (b'{"a": 1e999}', "1e999 is beyond what a number holds"),
        (b"[" * 200_000, "nested too deeply"),
        (b"{", "not JSON"),
        (b"\xff", "not UTF-8"),
        (json.dumps({**TREE[1], "message_id": 3}).encode(), "'message_id'.*int 3"),
        (json.dumps(TREE[1]).encode(), "'r1' is already the id of .*tree.jsonl:2"),
        (json.dumps({**TREE[1], "message_id": "x", "parent_id": ["p1"]}).encode(),
         "'parent_id': expected text or null"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_message_is_named_and_counted(line, problem, tmp_path):
    path = tmp_path / "tree.jsonl"
    path.write_bytes(text(TREE).encode() + b"\n" + line)
    with pytest.raises(UserError, match=f"tree.jsonl:4: .*{problem}"):
        plain.read(path, "oasst")
    found = plain.read(path, "oasst", on_bad_record="skip")
    assert [record.id for record in found.records] == ["p1"]
    assert len(found.skipped) == sum(found.counts.values()) == 1


@pytest.mark.parametrize(
    "layout, change, problem",
    [
        ("shp", {"created_at_utc_A": 1e30}, "'created_at_utc': .*no time"),
        ("helpsteer", {"coherence": 10**400}, "'coherence': expected a number"),
        ("helpsteer", {"coherence": True}, "'coherence': expected a number"),
        ("tldr_comparisons", {"choice": 1.0}, "'choice': expected 0 or 1"),
        ("tldr_comparisons", {"batch": "\ud800"}, "'extra': cannot be written"),
        ("feedback", {"extra": {"x": float("nan")}}, "'extra': cannot be written"),
        ("feedback", {"extra": {"x": {1}}}, "'extra': cannot be written as JSON"),
    ],
)
def test_what_a_number_cannot_be_is_named(layout, change, problem):
    with pytest.raises(UserError, match=problem):
        feedback.from_rows([ROWS[layout] | change], plain.LAYOUTS[layout])
