"""Sources stop at a bad line with file, line number and field, or count it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rlhf_jax import data
from rlhf_jax.data import fields
from rlhf_jax.errors import UserError


def write(path, *lines) -> str:
    encoded = (
        line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines
    )
    path.write_bytes(b"\n".join(encoded))
    return str(path)


GOOD = {"prompt": "é", "chosen": "a", "rejected": "b"}


def test_lines_become_records_in_order(tmp_path):
    path = write(tmp_path / "prefs.jsonl", GOOD, b"", GOOD | {"id": "x"}, b"  \r")
    dataset = data.jsonl(path, "pair")
    assert dataset.name == "prefs" and dataset.skipped == ()
    assert [record.id for record in dataset.records] == ["prefs:1", "x"]
    assert dataset.records[0] == data.pair("é", "a", "b", id="prefs:1")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"prompt": "p", "chosen": "a"}, "field 'rejected': missing"),
        (GOOD | {"chosen": 3}, "field 'chosen': expected text .*, got int 3"),
        ([1], r"field '\(line\)': expected a JSON object, got list"),
        (b'{"prompt": ', r"field '\(line\)': not JSON: "),
        (b'{"prompt": "\xff"}', r"field '\(line\)': not UTF-8"),
        (b'{"prompt": "p", "weight": NaN}', "not JSON: NaN is not a number"),
        (GOOD | {"id": "prefs:1"}, "field 'id': 'prefs:1' is already the id of .*:1"),
    ],
)
def test_a_bad_line_names_file_line_and_field_or_is_counted(tmp_path, line, message):
    path = write(tmp_path / "prefs.jsonl", GOOD, b"", line, GOOD)
    with pytest.raises(UserError, match=f"prefs.jsonl:3: .*{message}") as error:
        data.jsonl(path, "pair")
    assert "\n" not in str(error.value)
    dataset = data.jsonl(path, "pair", on_bad_line="skip")
    assert [record.id for record in dataset.records] == ["prefs:1", "prefs:4"]
    assert len(dataset.skipped) == 1 and "prefs.jsonl:3: field" in dataset.skipped[0]


def test_files_without_use_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot read .*none.jsonl: No such file"):
        data.jsonl(tmp_path / "none.jsonl", "pair")
    with pytest.raises(UserError, match="has no usable pair record$"):
        data.jsonl(write(tmp_path / "empty.jsonl", b""), "pair")
    bad = write(tmp_path / "bad.jsonl", {}, {})
    with pytest.raises(UserError, match=r"\(2 skipped, first: .*bad.jsonl:1: field"):
        data.jsonl(bad, "pair", on_bad_line="skip")
    with pytest.raises(UserError, match="must be 'stop' or 'skip', not 'warn'"):
        data.jsonl(bad, "pair", on_bad_line="warn")


def test_fields_of_other_files_can_be_named(tmp_path):
    path = write(tmp_path / "posts.jsonl", {"post": "p", "summary": "s", "text": 1})
    fields = {"prompt": "post", "response": "summary"}
    record = data.jsonl(path, "demonstration", fields=fields).records[0]
    assert (record.prompt, record.response, record.extra) == ("p", "s", {"text": 1})


def test_mappings_and_records_in_memory():
    dataset = data.mappings([GOOD, GOOD], "pair", name="mine")
    assert [record.id for record in dataset.records] == ["mine:0", "mine:1"]
    with pytest.raises(UserError, match=r"mine\[1\]: field 'prompt': missing"):
        data.mappings([GOOD, {}], "pair", name="mine")
    twice = [data.Prompt(id="a", prompt="x"), data.Prompt(id="a", prompt="y")]
    with pytest.raises(UserError, match=r"memory\[1\]: field 'id': 'a' is already"):
        data.in_memory(twice)


def test_a_split_by_hash_is_disjoint_stable_and_keeps_groups_together():
    dataset = data.in_memory(
        data.Prompt(id=f"{i}", prompt=f"p{i // 4}") for i in range(400)
    )
    rest, held = data.split(dataset, 0.25, by=lambda record: record.prompt)
    assert held.name == "memory/heldout"
    assert {r.id for r in rest.records} | {r.id for r in held.records} == {
        r.id for r in dataset.records
    }
    groups = [{r.prompt for r in part.records} for part in (rest, held)]
    assert not groups[0] & groups[1]
    assert 60 <= len(held.records) <= 140
    fewer = data.Dataset("memory", dataset.records[:200])
    _, held_of_fewer = data.split(fewer, 0.25, by=lambda record: record.prompt)
    assert held_of_fewer.records == tuple(r for r in held.records if r in fewer.records)
    other, _ = data.split(dataset, 0.5, purpose="labels")
    half, _ = data.split(dataset, 0.5)
    assert other.records != half.records


def test_plain_values_of_numpy_rows():
    row = {"a": np.array([b"x", b"y"], object), "b": np.float64(0.5), "c": b"\xc3\xa9"}
    assert fields.plain(row) == {"a": ["x", "y"], "b": 0.5, "c": "é"}


@pytest.fixture
def prepared(tmp_path):
    from rlhf_jax.data.tfds_preferences import PreferenceJsonl

    lines = [GOOD | {"id": f"x{i}", "weight": i / 2, "margin": 0.25} for i in range(5)]
    path = write(tmp_path / "prefs.jsonl", *lines)
    builder = PreferenceJsonl(paths={"train": path}, data_dir=tmp_path / "tfds")
    builder.download_and_prepare()
    return builder, data.jsonl(path, "pair").records


def test_our_tfds_builder_gives_back_what_the_file_says(prepared, tmp_path):
    from rlhf_jax.data.tfds_preferences import PreferenceJsonl

    builder, expected = prepared
    dataset = data.tfds(builder, "ranking")
    assert dataset.name == "preference_jsonl/train"
    assert sorted(dataset.records, key=lambda record: record.id) == list(expected)
    again = PreferenceJsonl(data_dir=tmp_path / "tfds")
    assert data.tfds(again, "ranking").records == dataset.records
    folder = tmp_path / "tfds" / "preference_jsonl" / "1.0.0"
    assert data.tfds(str(folder), "ranking").records == dataset.records
    assert data.read(folder, "ranking") == data.read(f"tfds:{folder}", "ranking")
    assert data.read(tmp_path / "prefs.jsonl", "pair").records == expected
    assert (
        data.tfds(builder, "ranking", split="train[:2]").records
        == (dataset.records[:2])
    )


def test_tfds_rows_are_checked_like_lines(prepared):
    builder, _ = prepared
    with pytest.raises(UserError, match="preference_jsonl/train:0: field 'chosen'"):
        data.tfds(builder, "pair")
    with pytest.raises(UserError, match="cannot open tfds dataset"):
        data.tfds(builder, "ranking", split="none")
    with pytest.raises(UserError, match="cannot open tfds dataset no_such/train"):
        data.tfds("no_such", "ranking")


def test_the_builder_refuses_what_it_cannot_store(tmp_path):
    from rlhf_jax.data.tfds_preferences import PreferenceJsonl

    with pytest.raises(UserError, match="'pair' or 'ranking' lines, not 'prompt'"):
        PreferenceJsonl(kind="prompt", data_dir=tmp_path)
    with pytest.raises(UserError, match="no paths to prepare"):
        PreferenceJsonl(data_dir=tmp_path).download_and_prepare()
    tokens = write(tmp_path / "tokens.jsonl", GOOD | {"prompt": [1, 2]})
    builder = PreferenceJsonl(paths={"train": tokens}, data_dir=tmp_path)
    with pytest.raises(UserError, match="is not plain text"):
        builder.download_and_prepare()


def test_chat_turns_survive_tfds(tmp_path):
    """tfds turns a sequence of messages into one mapping of two lists."""
    assert fields.plain({"role": np.array([b"user", b"assistant"], object),
                           "content": np.array([b"q", b"a"], object)}) == [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
    ]  # fmt: skip
