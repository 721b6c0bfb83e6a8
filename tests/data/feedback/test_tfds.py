"""Feedback through tfds comes back as it was."""

from __future__ import annotations

import json

import pytest

from rlhf_jax.data import feedback
from rlhf_jax.data.feedback import tfds_feedback
from rlhf_jax.errors import UserError

ROWS = [
    {"id": "ä", "prompt": [{"role": "user", "content": "hi"}],
     "responses": [{"id": "a", "text": "one", "source": "m"},
                   {"id": "b", "text": "two"}],
     "pairs": [{"better": "a", "worse": "b", "strength": 0.1}],
     "annotator": "ann", "time": "2026-01-02T03:04:05+00:00", "parents": ["z"],
     "extra": {"x": [1, None]}},
    {"id": "2", "prompt": [5], "responses": [{"id": "a", "text": [7, 8]}],
     "labels": [{"response": "a", "good": False}], "weight": 0.3},
]  # fmt: skip


def test_tfds_in_and_out_loses_nothing(tmp_path):
    records = tuple(feedback.parse(row, "") for row in ROWS)
    feedback.write(tmp_path / "f.jsonl", records)
    builder = tfds_feedback.FeedbackJsonl(
        paths={"train": tmp_path / "f.jsonl"}, data_dir=tmp_path
    )
    builder.download_and_prepare()
    found = tfds_feedback.read(builder)
    assert sorted(found.records, key=lambda r: r.id) == sorted(
        records, key=lambda r: r.id
    )
    folder = tmp_path / "feedback_jsonl" / "1.0.0"
    assert tfds_feedback.read(folder).records == found.records
    feedback.write(tmp_path / "g.jsonl", found.records)
    assert feedback.read(tmp_path / "g.jsonl").records == found.records


def test_what_was_skipped_is_still_known_after_preparing(tmp_path):
    """In the builder that prepared the splits, and where they are opened again."""
    for name, bad in (("train", [{"id": "x"}, {**ROWS[0], "id": "y", "prompt": []}]),
                      ("test", [{**ROWS[0], "pairs": []}])):  # fmt: skip
        rows = [{**ROWS[0], "id": name}, *bad]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    builder = tfds_feedback.FeedbackJsonl(
        paths={name: tmp_path / f"{name}.jsonl" for name in ("train", "test")},
        on_bad_record="skip", data_dir=tmp_path,
    )  # fmt: skip
    builder.download_and_prepare()
    folder = tmp_path / "feedback_jsonl" / "1.0.0"
    plain = feedback.read(tmp_path / "train.jsonl", on_bad_record="skip")
    assert plain.counts == {"schema": 1, "mixed text and token ids": 1}
    for opened in (builder, folder):
        found = tfds_feedback.read(opened)
        assert (found.skipped, found.counts) == (plain.skipped, plain.counts)
        assert found.records == plain.records
    found = tfds_feedback.read(folder, split="test[:1]")
    assert found.counts == {"schema": 1} and "test.jsonl:2" in found.skipped[0]
    for both in ("all", "train+test"):
        assert tfds_feedback.read(folder, split=both).counts["schema"] == 2


def test_what_is_not_prepared_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot open tfds dataset"):
        tfds_feedback.read(tfds_feedback.FeedbackJsonl(data_dir=tmp_path))
    with pytest.raises(UserError, match="no paths to prepare"):
        tfds_feedback.FeedbackJsonl(data_dir=tmp_path).download_and_prepare()
