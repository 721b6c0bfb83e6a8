"""`feedback-report` says what a file holds, and refuses what it cannot read."""

import json

import pytest
from command_line import contents

RESPONSES = [{"id": "a", "text": "A"}, {"id": "b", "text": "B"}]
GOOD = {"id": "1", "prompt": "p", "responses": RESPONSES, "ranking": ["a", "b"]}
OTHER = {**GOOD, "id": "2", "ranking": ["b", "a"], "annotator": "ann"}


@pytest.fixture
def data(tmp_path):
    def write(*rows):
        path = tmp_path / "data.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return path

    return write


def test_a_file_is_reported_on(command, data, tmp_path):
    given = f"--data={data(GOOD, OTHER)}"
    code, out, err = command("feedback-report", given)
    assert code == 0, err
    assert "pairs ordered both ways" in out and "there is one annotator" in out
    work = tmp_path / "w" / "here"
    code, again, _ = command("feedback-report", given, f"--workdir={work}")
    assert code == 0 and again.startswith(out.rstrip())
    found = json.loads((work / "feedback_report.json").read_text())
    assert found["counts"]["records"] == 2
    assert found["contradictions"]["pairs ordered both ways"][0]["texts"] == ["A", "B"]
    before = contents(work)
    assert command("feedback-report", given, f"--workdir={work}").code == 0
    assert contents(work) == before


def test_another_report_is_not_overwritten(command, refused, data, tmp_path):
    work = f"--workdir={tmp_path / 'w'}"
    assert command("feedback-report", f"--data={data(GOOD)}", work).code == 0
    before = contents(tmp_path / "w")
    message = refused("feedback-report", f"--data={data(GOOD, OTHER)}", work)
    assert "feedback_report.json is another report" in message
    assert contents(tmp_path / "w") == before
    (tmp_path / "w" / "feedback_report.json").write_text("{broken")
    assert "cannot read" in refused("feedback-report", f"--data={data(GOOD)}", work)


def test_one_line_says_what_is_wrong(refused, data, tmp_path):
    path = data(GOOD, {**GOOD, "id": "x", "ranking": ["a", "c"]}, {"id": "y"})
    message = refused("feedback-report", f"--data={path}")
    assert message.startswith(
        f"{path}: 2 of 3 records are bad (1 schema, 1 unknown response); the first:"
        f" {path}:2: field 'ranking[1]': "
    )
    assert "no usable" in refused("feedback-report", f"--data={data()}")
    assert "no usable" in refused("feedback-report", f"--data={data([])}")
    assert "nowhere" in refused("feedback-report", "--data=nowhere.jsonl")
    given = f"--data={data(GOOD)}"
    assert "--layout=x is not" in refused("feedback-report", given, "--layout=x")
    assert "is empty" in refused("feedback-report", given, "--workdir=")
    assert "is a file" in refused("feedback-report", given, f"--workdir={path}")
    inside = f"--workdir={path}/w"
    assert "is a file" in refused("feedback-report", given, inside)
    (tmp_path / "w" / "feedback_report.json").mkdir(parents=True)
    work = f"--workdir={tmp_path / 'w'}"
    assert "cannot read" in refused("feedback-report", given, work)


def test_any_layout_is_read(command, data):
    path = data({"history": "p", "human_ref_A": "x", "human_ref_B": "y", "labels": 1})
    code, out, _ = command("feedback-report", f"--data={path}", "--layout=shp")
    assert code == 0 and "no annotator is named" in out
    path = data({"prompt": [1], "response": [2], "good": True})
    assert command("feedback-report", f"--data={path}").code == 0


def test_plain_rows_say_who_judged(command, refused, data):
    """Their `annotator` and `time` are not further fields to be carried along."""
    pair = {"prompt": "p", "chosen": "x", "rejected": "y", "time": "2026-01-02"}
    label = {"prompt": "p", "response": "x", "good": True}
    rows = [{**row, "annotator": name} for row in (pair, label) for name in ("a", "b")]
    code, out, err = command("feedback-report", f"--data={data(*rows)}")
    assert code == 0, err
    assert "records without annotator                           0" in out
    assert "by several annotators                               2" in out
    bad = data({**pair, "annotator": 3})
    assert "field 'annotator'" in refused("feedback-report", f"--data={bad}")
