"""Feedback records: what is accepted, what is refused and how it is named."""

from __future__ import annotations

import copy
import json

import pytest

from rlhf_jax.data import feedback
from rlhf_jax.data.feedback import checks
from rlhf_jax.errors import UserError

ROW = {
    "id": "q1",
    "prompt": "Wie spät?",
    "responses": [
        {"id": "a", "text": "Drei.", "source": "model-7"},
        {"id": "b", "text": "Es ist drei Uhr."},
        {"id": "c", "text": "Keine Ahnung.\n"},
    ],
    "ranking": [["b"], ["a", "c"]],
    "pairs": [
        {"better": "b", "worse": "c", "strength": 2.5},
        {"better": "a", "worse": "c", "tie": True},
    ],
    "ratings": [
        {"response": "a", "attribute": "helpful", "value": 3, "low": 0, "high": 4}
    ],
    "labels": [{"response": "b", "good": True}, {"response": "c", "good": False}],
    "edits": [{"response": "c", "text": "Es ist drei."}],
    "comments": [{"text": "gut"}, {"text": "zu kurz", "response": "a"}],
    "follow_ups": [{"response": "b", "message": "Danke! \u2028"}],
    "annotator": "ann-3",
    "time": "2026-05-04T12:00:00+02:00",
    "provenance": "page",
    "parents": ["q0", "p"],
    "weight": 0.5,
    "extra": {"nested": [1, None, {"x": 0.1}]},
}
TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}]


def changed(**values):
    return copy.deepcopy(ROW) | values


def write(path, *rows):
    lines = (x if isinstance(x, bytes) else json.dumps(x).encode() for x in rows)
    path.write_bytes(b"\n".join(lines))
    return path


def test_every_field_is_read():
    record = feedback.parse(ROW, "default")
    assert record.id == "q1" and record.prompt == "Wie spät?"
    assert record.responses[0] == feedback.Response("a", "Drei.", "model-7")
    assert record.ranking == (("b",), ("a", "c"))
    assert record.pairs[0] == feedback.Pair("b", "c", 2.5)
    assert record.pairs[1] == feedback.Pair("a", "c", None, True)
    assert record.ratings == (feedback.Rating("a", "helpful", 3.0, 0.0, 4.0),)
    assert record.labels[1] == feedback.Label("c", False)
    assert record.edits == (feedback.Edit("c", "Es ist drei."),)
    assert record.comments == (
        feedback.Comment("gut"), feedback.Comment("zu kurz", "a"),
    )  # fmt: skip
    assert record.follow_ups == (feedback.FollowUp("b", "Danke! \u2028"),)
    assert record.annotator == "ann-3" and record.parents == ("q0", "p")
    assert record.time == "2026-05-04T12:00:00+02:00" and record.weight == 0.5
    assert record.extra == {"nested": [1, None, {"x": 0.1}]}
    assert record.text("c") == "Keine Ahnung.\n"


@pytest.mark.parametrize(
    "row",
    [
        ROW,
        changed(prompt=TURNS),
        changed(prompt=[3, 4], edits=[], responses=[
            {"id": x, "text": [5, i]} for i, x in enumerate("abc")
        ]),
        {"id": "7", "prompt": "", "responses": ROW["responses"][:1],
         "labels": [{"response": "a", "good": True}]},
        {"id": "8", "prompt": [], "responses": [{"id": "a", "text": [5]}],
         "labels": [{"response": "a", "good": True}]},
    ],
)  # fmt: skip
def test_jsonl_in_and_out_loses_nothing(tmp_path, row):
    """Record -> file -> record is the identity; a second file has the same bytes."""
    record = feedback.parse(row, "")
    paths = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    feedback.write(paths[0], [record])
    found = feedback.read(paths[0])
    assert found.records == (record,) and found.skipped == () and found.counts == {}
    feedback.write(paths[1], found.records)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    for path in (tmp_path / "none" / "x.jsonl", tmp_path):
        with pytest.raises(UserError, match=f"cannot write {path}: "):
            feedback.write(path, [feedback.parse(ROW, "")])


def test_preferences_that_go_in_a_circle_by_their_texts_are_refused():
    """a and c are the same text: to prefer a to b and b to c is to prefer b to a."""
    row = changed(
        responses=[{"id": x, "text": t} for x, t in zip("abc", "XYX", strict=True)],
        ranking=[], edits=[], ratings=[], labels=[], comments=[], follow_ups=[],
        pairs=[{"better": "a", "worse": "b"}, {"better": "b", "worse": "c"}],
    )  # fmt: skip
    with pytest.raises(feedback.FeedbackError, match="circle") as raised:
        feedback.parse(row, "")
    assert raised.value.kind == "cyclic preference"


def test_empty_fields_are_not_written():
    short = {"id": "x", "prompt": "p", "responses": [{"id": "a", "text": "t"}],
             "labels": [{"response": "a", "good": False}]}  # fmt: skip
    assert feedback.row(feedback.parse(short, "")) == short
    assert (
        feedback.parse({k: v for k, v in short.items() if k != "id"}, "f:3").id == "f:3"
    )


BAD = [
    ({"ranking": [["b"], ["z"]]}, "unknown response",
     r"ranking\[1\].*no response .*'z'"),
    ({"labels": [{"response": "z", "good": True}]}, "unknown response",
     r"labels\[0\]\.response.*'z'"),
    ({"pairs": [{"better": "a", "worse": "c"}, {"better": "c", "worse": "b"}]},
     "cyclic preference", "in a circle: "),
    ({"pairs": [{"better": "a", "worse": "c"}]}, "cyclic preference", "in a circle"),
    ({"ranking": [["a"], ["b"], ["a"]]}, "cyclic preference", "'a' is ranked twice"),
    ({"responses": [{"id": "a", "text": " \n"}, *ROW["responses"][1:]]},
     "empty response", r"responses\[0\]\.text.*'a' is empty"),
    ({"edits": [{"response": "a", "text": ""}]}, "empty response", r"edits\[0\]"),
    ({"responses": [{"id": x, "text": "same"} for x in "abc"]}, "identical responses",
     r"'b' is above 'a', and both have the same text"),
    ({"pairs": [{"better": "a", "worse": "a"}]}, "identical responses", "with itself"),
    ({"ratings": [ROW["ratings"][0] | {"value": 5}]}, "rating out of range",
     r"ratings\[0\]\.value.*5 of 'helpful' is outside of 0 to 4"),
    ({"prompt": [1, 2]}, "mixed text and token ids", "token ids and this is text"),
    ({"edits": [{"response": "a", "text": [1]}]}, "mixed text and token ids", "edits"),
    ({"responses": []}, "schema", "'responses'.*one or more"),
    ({"responses": [ROW["responses"][0]] * 2}, "schema", "is the id of an earlier"),
    ({"ranking": [[]]}, "schema", r"ranking\[0\].*empty"),
    ({"rankings": []}, "schema", "'rankings': unknown .*did you mean 'ranking'"),
    ({"labels": [{"response": "a", "goood": True}]}, "schema", r"labels\[0\]\.goood"),
    ({"labels": [{"response": "a", "good": 1}]}, "schema", r"labels\[0\]\.good.*int 1"),
    ({"ratings": [ROW["ratings"][0] | {"value": "3"}]}, "schema", "expected a number"),
    ({"time": "yesterday"}, "schema", "'time': expected ISO 8601"),
    ({"weight": -1}, "schema", "'weight'"),
    ({"pairs": [{"better": "b", "worse": "c", "strength": -1}]}, "schema", "strength"),
    ({"parents": "q0"}, "schema", "'parents': expected a list"),
    ({"extra": 3}, "schema", "'extra': expected an object"),
    ({"prompt": 3}, "schema", "'prompt'"),
    ({"responses": [{"id": "a"}]}, "schema", r"responses\[0\]\.text.*missing"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "kind", "message"), BAD)
def test_a_bad_record_stops_or_is_counted_by_what_is_wrong(
    tmp_path, change, kind, message
):
    """File, line and field are named; on request the record is skipped and counted."""
    good = changed(id="good")
    path = write(tmp_path / "f.jsonl", good, b"", changed(**change))
    with pytest.raises(UserError, match=rf"f\.jsonl:3: field .*{message}") as error:
        feedback.read(path)
    assert "\n" not in str(error.value)
    found = feedback.read(path, on_bad_record="skip")
    assert [record.id for record in found.records] == ["good"]
    assert found.counts == {kind: 1} and "f.jsonl:3: field" in found.skipped[0]


def test_files_that_are_no_use_are_named(tmp_path):
    with pytest.raises(UserError, match="cannot read .*none.jsonl"):
        feedback.read(tmp_path / "none.jsonl")
    path = write(tmp_path / "f.jsonl", b"{", ROW, ROW, b"[1]", b'{"id": NaN}')
    found = feedback.read(path, on_bad_record="skip")
    assert found.counts == {"schema": 3, "duplicate id": 1}
    with pytest.raises(UserError, match=r"f\.jsonl:1: .*not JSON"):
        feedback.read(path)
    silent = {k: ROW[k] for k in ("id", "prompt", "responses")}
    with pytest.raises(UserError, match="no usable .*1 skipped.*no feedback: all of"):
        feedback.read(write(tmp_path / "g.jsonl", silent), on_bad_record="skip")
    with pytest.raises(UserError, match="'stop' or 'skip'"):
        feedback.read(path, on_bad_record="ignore")
    record = feedback.parse(ROW, "")
    with pytest.raises(UserError, match="two records have the id 'q1'"):
        feedback.write(tmp_path / "h.jsonl", [record, record])
    assert not list(tmp_path.glob("h.jsonl*"))


def test_a_record_made_in_python_is_checked_too():
    with pytest.raises(feedback.FeedbackError) as error:
        feedback.Feedback(
            id="x", prompt="p", responses=(feedback.Response("a", ""),)
        )  # fmt: skip
    assert error.value.kind == "empty response"


def test_long_circles_are_found_and_long_orders_are_not_circles():
    size = 40
    responses = [{"id": str(i), "text": f"text {i}"} for i in range(size)]
    chain = [{"better": str(i), "worse": str(i + 1)} for i in range(size - 1)]
    row = {"id": "x", "prompt": "p", "responses": responses}
    feedback.parse(row | {"pairs": chain}, "")
    back = {"better": str(size - 1), "worse": "0"}
    with pytest.raises(feedback.FeedbackError, match="circle") as error:
        feedback.parse(row | {"pairs": [*chain, back]}, "")
    assert error.value.kind == "cyclic preference"
    tie = back | {"tie": True}
    with pytest.raises(feedback.FeedbackError, match="circle"):
        feedback.parse(row | {"pairs": [*chain, tie]}, "")


def test_order_follows_through_ties():
    record = feedback.parse(
        changed(
            ranking=[],
            pairs=[
                {"better": "a", "worse": "b"},
                {"better": "b", "worse": "c", "tie": True},
            ],
        ),
        "",
    )
    group = checks.tie_groups(record)
    assert group["b"] == group["c"] != group["a"]
    assert checks.above(record) == {(group["a"], group["b"])}
