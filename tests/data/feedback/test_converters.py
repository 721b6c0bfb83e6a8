"""Small files in the layouts of public data sets become feedback."""

from __future__ import annotations

import dataclasses
import json

import pytest

from rlhf_jax.data import feedback
from rlhf_jax.data.feedback import converters, oasst, views
from rlhf_jax.data.fields import Message
from rlhf_jax.errors import UserError


def write(path, *rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def read(tmp_path, layout, *rows, **options):
    path = write(tmp_path / f"{layout}.jsonl", *rows)
    return feedback.read(path, converters.LAYOUTS[layout], **options)


HEAD = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Tea?\n\nAssistant:"


def test_hh_rlhf(tmp_path):
    good = {"chosen": HEAD + " With milk.", "rejected": HEAD + " No."}
    (record,) = read(tmp_path, "hh_rlhf", good | {"topic": "tea"}).records
    assert record.id == "hh_rlhf:1" and record.extra == {"topic": "tea"}
    assert record.prompt == (
        Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", "Tea?"),
    )  # fmt: skip
    (pair,) = views.pairs([record]).records
    assert pair.responses == ("With milk.", "No.") and pair.ranks == (1, 2)
    bad = [
        {"chosen": HEAD + " a", "rejected": HEAD + " a"},
        {"chosen": HEAD + " a", "rejected": HEAD},
        {"chosen": HEAD + " a", "rejected": HEAD.replace("Hi", "Ho") + " b"},
        {"chosen": "no turns", "rejected": HEAD + " b"},
        {"chosen": HEAD + " a"},
    ]
    found = read(tmp_path, "hh_rlhf", good, *bad, on_bad_record="skip")
    assert len(found.records) == 1
    assert found.counts == {"identical responses": 1, "empty response": 1, "schema": 3}
    with pytest.raises(
        UserError, match=r"hh_rlhf.jsonl:1: field 'rejected': .*not that"
    ):
        read(tmp_path, "hh_rlhf", bad[2])


TLDR = {
    "info": {"id": "t3_1", "post": "Long story.", "title": "Help",
             "subreddit": "advice"},
    "split": "train",
    "summaries": [
        {"text": " A.", "policy": "sup1", "note": "too short"},
        {"text": " B.", "policy": "ref", "note": ""},
    ],
    "choice": 1,
    "worker": "w7",
    "batch": "b3",
    "extra": {"confidence": 8},
}  # fmt: skip


def test_tldr_comparisons(tmp_path):
    (record,) = read(tmp_path, "tldr_comparisons", TLDR).records
    assert record.prompt == (
        "SUBREDDIT: r/advice\n\nTITLE: Help\n\nPOST: Long story.\n\nTL;DR:"
    )
    assert record.pairs == (feedback.Pair("1", "0"),)
    assert record.extra["confidence"] == 8, "of which end of the scale is not known"
    assert record.responses[1].source == "ref" and record.annotator == "w7"
    assert record.comments == (feedback.Comment("too short", "0"),)
    assert record.extra == TLDR["extra"] | {
        "batch": "b3", "split": "train", "id": "t3_1", "title": "Help",
        "subreddit": "advice",
    }  # fmt: skip
    article = TLDR | {"info": {"article": "News."}, "choice": 0}
    assert read(tmp_path, "tldr_comparisons", article).records[0].prompt == "News."
    with pytest.raises(UserError, match="'choice': expected 0 or 1"):
        read(tmp_path, "tldr_comparisons", TLDR | {"choice": 2})


def completion(model, text, **ratings):
    return {
        "model": model,
        "response": text,
        "annotations": {
            k: {"Rating": v, "Rationale": "..."} for k, v in ratings.items()
        },
        "overall_score": 7.5,
        "critique": "Fine.",
    }


def test_ultrafeedback(tmp_path):
    row = {
        "source": "evol_instruct",
        "instruction": "Sing.",
        "completions": [
            completion("m1", "La", honesty="5", truthfulness="N/A"),
            completion("m2", "Lo", honesty="2") | {"overall_score": 3.0},
        ],
    }
    (record,) = read(tmp_path, "ultrafeedback", row).records
    assert record.ratings[0] == feedback.Rating("0", "honesty", 5.0, 1.0, 5.0)
    assert {r.attribute for r in record.ratings} == {"honesty", "overall"}
    assert record.comments[0] == feedback.Comment("Fine.", "0")
    (pair,) = views.pairs([record], attribute="overall").records
    assert pair.responses == ("La", "Lo")
    row["completions"][0]["annotations"]["honesty"]["Rating"] = "6"
    other = {**row, "completions": row["completions"][1:]}
    found = read(tmp_path, "ultrafeedback", row, other, on_bad_record="skip")
    assert found.counts == {"rating out of range": 1}


def test_ultrafeedback_keeps_what_has_no_place(tmp_path):
    """Fields of the row, of each completion and of each annotation."""
    honest = {"Rating": "5", "Rationale": "It is."}
    true = {
        "Rating": "N/A",
        "Type": ["1"],
        "Rationale": "?",
        "Rationale For Rating": "",
    }
    more = {"custom_system_prompt": "Be brief.", "principle": "honesty",
            "fine-grained_score": 4.25}  # fmt: skip
    said = completion("m1", "La") | more
    said["annotations"] = {"honesty": honest, "truthfulness": true}
    row = {"source": "flan", "instruction": "Sing.", "models": ["m1", "m2"],
           "correct_answers": ["None"], "id": 7, "completions": [said]}  # fmt: skip
    (record,) = read(tmp_path, "ultrafeedback", row).records
    notes = {"honesty": {"Rationale": "It is."}, "truthfulness": true}
    assert record.extra == {
        "source": "flan", "models": ["m1", "m2"], "correct_answers": ["None"], "id": 7,
        "responses": {"0": more | {"annotations": notes}},
    }  # fmt: skip
    assert [r.attribute for r in record.ratings] == ["honesty", "overall"]


def test_an_empty_completion_is_left_out_and_counted(tmp_path):
    """The others stay, under their own ids; none left is no record."""
    empty = completion("m2", " \n", honesty="1") | {"principle": "none"}
    rest = [completion("m1", "La", honesty="5"), completion("m3", "Lo", honesty="2")]
    row = {"instruction": "Sing.", "completions": [rest[0], empty, rest[1]]}
    found = read(tmp_path, "ultrafeedback", row)
    (record,) = found.records
    assert [r.id for r in record.responses] == ["0", "2"]
    assert {r.response for r in record.ratings} == {"0", "2"}
    left = feedback.LeftOut("1", "empty response", empty)
    assert record.extra["left_out"] == [left.row()], "whole"
    assert found.left_out == {"empty response": 1} and found.counts == {}
    assert views.pairs([record], attribute="honesty").dropped[
        "response: empty response"
    ]
    feedback.write(tmp_path / "again.jsonl", found.records)
    assert feedback.read(tmp_path / "again.jsonl").left_out == found.left_out
    with pytest.raises(UserError, match="'completions': each of the 2 responses is"):
        read(tmp_path, "ultrafeedback", row | {"completions": [empty, empty]})
    found = read(
        tmp_path, "ultrafeedback", row, row | {"completions": [empty]},
        on_bad_record="skip",
    )  # fmt: skip
    assert found.counts == {"empty response": 1}
    lunch = dataclasses.replace(record, extra={"left_out": "lunch"})
    assert lunch.left_out() == (), "of another source"


def test_shp(tmp_path):
    kept = {
        "post_id": "p1", "domain": "askbaking_train", "upvote_ratio": 0.9,
        "c_root_id_A": "a", "c_root_id_B": "b", "score_A": 3, "score_B": 9,
        "created_at_utc_A": 100, "created_at_utc_B": 200, "seconds_difference": 100.0,
    }  # fmt: skip
    row = kept | {
        "history": "Why?", "human_ref_A": "Because.", "human_ref_B": "It rises.",
        "labels": 0, "score_ratio": 3.0,
    }  # fmt: skip
    (record,) = read(tmp_path, "shp", row).records
    assert record.pairs == (feedback.Pair("B", "A", 3.0),)
    assert record.time == "1970-01-01T00:03:20+00:00"
    assert record.extra == kept
    assert read(tmp_path, "shp", row | {"labels": 1}).records[0].pairs[0].better == "A"
    with pytest.raises(UserError, match="'labels': expected 0 or 1"):
        read(tmp_path, "shp", row | {"labels": "1"})


def test_helpsteer(tmp_path):
    row = {"prompt": "p", "response": "r"} | dict.fromkeys(converters.HELPSTEER, 3)
    found = read(
        tmp_path, "helpsteer", row, row | {"verbosity": 5}, on_bad_record="skip"
    )
    assert found.counts == {"rating out of range": 1}
    view = views.ratings(found.records, converters.HELPSTEER)
    assert view.records[0].ratings == dict.fromkeys(converters.HELPSTEER, 0.75)
    with pytest.raises(UserError, match="'coherence': missing"):
        read(tmp_path, "helpsteer", {k: v for k, v in row.items() if k != "coherence"})


def message(id, parent, role, text, **more):
    return {"message_id": id, "parent_id": parent, "role": role, "text": text,
            "user_id": "u", "created_date": "2023-02-05T14:23:50+00:00", "lang": "en",
            "deleted": False, **more}  # fmt: skip


def test_oasst_as_its_authors_export_it(tmp_path):
    """Labels with counts, and whole trees of messages, are what rows are."""
    best = message(
        "r1", "p1", "assistant", "Best", rank=0,
        labels={"quality": {"value": 0.75, "count": 3}},
    )  # fmt: skip
    prompt = message("p1", None, "prompter", "Hello", message_tree_id="p1")
    other = message("r2", "p1", "assistant", "Worse", rank=1)
    more = message("p2", "r1", "prompter", "More", message_tree_id="p1")
    rows = [prompt, best, other, more,
            message("s1", "p2", "assistant", "One", rank=1),
            message("s2", "p2", "assistant", "Two", rank=0)]  # fmt: skip
    flat = oasst.read(write(tmp_path / "flat.jsonl", *rows))
    assert flat.records[0].ratings == (feedback.Rating("r1", "quality", 0.75, 0, 1),)

    def without(row):
        return {k: v for k, v in row.items() if k != "parent_id"}

    more = without(rows[3]) | {"replies": [without(row) for row in rows[4:]]}
    tree = without(prompt) | {
        "replies": [without(best) | {"replies": [more]}, without(other)]
    }
    path = write(
        tmp_path / "trees.jsonl",
        {"message_tree_id": "p1", "tree_state": "ready_for_export", "prompt": tree},
    )
    assert {x.id: x for x in oasst.read(path).records} == {
        x.id: x for x in flat.records
    }
    for wrong, problem in [
        (
            best | {"labels": {"quality": 0.7}},
            r"labels.quality.*expected \{value, count",
        ),
        (best | {"rank": -1}, "rank.*got int -1"),
    ]:
        with pytest.raises(UserError, match=problem):
            oasst.read(write(tmp_path / "wrong.jsonl", prompt, wrong, other))
    with pytest.raises(UserError, match="replies.*expected a list"):
        oasst.read(write(tmp_path / "wrong.jsonl", {"prompt": prompt | {"replies": 3}}))


def test_oasst(tmp_path):
    labels = {"name": ["quality", "toxicity"], "value": [0.75, None], "count": [3, 0]}
    rows = [
        message("r2", "p1", "assistant", "Worse", rank=1),
        message("p1", None, "prompter", "Hello"),
        message("r1", "p1", "assistant", "Best", rank=0, labels=labels),
        message("r3", "p1", "assistant", "Gone", rank=2, deleted=True),
        message("r4", "p1", "assistant", "Unranked"),
        message("p2", "r1", "prompter", "More"),
        message("s1", "p2", "assistant", "One", rank=1),
        message("s2", "p2", "assistant", "Two", rank=0),
        message("p3", "s1", "prompter", "Alone"),
        message("z", "p3", "assistant", "No feedback"),
    ]
    found = oasst.read(write(tmp_path / "o.jsonl", *rows))
    first, second = found.records
    assert first.id == "p1" and first.ranking == (("r1",), ("r2",))
    assert [r.id for r in first.responses] == ["r2", "r1", "r4"]
    assert first.ratings == (feedback.Rating("r1", "quality", 0.75, 0.0, 1.0),)
    assert second.prompt == (
        Message("user", "Hello"), Message("assistant", "Best"), Message("user", "More"),
    )  # fmt: skip
    assert views.rankings([second]).records[0].ranks == (2, 1)
    lost = write(tmp_path / "l.jsonl", rows[0] | {"parent_id": "nowhere"}, *rows[1:])
    lost.write_text(
        lost.read_text() + "\n" + json.dumps(
            message("x", "nowhere", "assistant", "y", rank=1)
        )
    )  # fmt: skip
    with pytest.raises(UserError, match=r"'nowhere' is not in the file"):
        oasst.read(lost)
    found = oasst.read(lost, on_bad_record="skip")
    assert found.counts == {"schema": 1} and "l.jsonl:1" in found.skipped[0]


@pytest.mark.parametrize("layout", converters.LAYOUTS)
def test_what_is_no_object_is_named(tmp_path, layout):
    path = tmp_path / "x.jsonl"
    path.write_text("[]")
    with pytest.raises(
        UserError, match=r"x.jsonl:1: field '\(line\)': expected a JSON"
    ):
        feedback.read(path, converters.LAYOUTS[layout])
    path.write_text("{}")
    with pytest.raises(UserError, match=r"x.jsonl:1: field '\w+': missing"):
        feedback.read(path, converters.LAYOUTS[layout])
