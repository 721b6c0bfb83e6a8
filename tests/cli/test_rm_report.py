"""`rm-report` and `score --tokens` of a trained stage."""

import json

from command_line import lines


def test_a_trained_stage_is_reported_on(command, finished_run, tmp_path):
    data = finished_run / "label" / "heldout.jsonl"
    arguments = [f"--model={finished_run / 'rm'}", f"--data={data}"]
    code, out, err = command("rm-report", *arguments, f"--workdir={tmp_path / 'w'}")
    assert code == 0, err
    found = json.loads((tmp_path / "w" / "rm_report.json").read_text())
    assert found["length_bias"].keys() >= {"value", "ci", "verdict", "n"}
    assert found["accuracy"]["n"] > 0 and "accuracy" in out
    assert (tmp_path / "w" / "report.html").stat().st_size > 5000


def test_scores_of_tokens_end_with_the_score(command, finished_run, answers):
    path, rows = answers
    plain = lines(command("score", finished_run / "rm", path)[1])
    code, out, _ = command("score", finished_run / "rm", path, "--tokens")
    found = lines(out)
    assert code == 0 and len(found) == len(rows) == len(plain)
    for row, other in zip(found, plain, strict=True):
        tokens = row.pop("tokens")
        assert row == other
        assert abs(tokens[-1]["score"] - row["score"]) < 1e-4
    assert len(found[0]) == len(plain[0])


def test_what_cannot_be_reported_on_is_said(refused, finished_run, tmp_path):
    data = finished_run / "label" / "heldout.jsonl"
    work = f"--workdir={tmp_path / 'w'}"
    given = [f"--data={data}", work]
    assert "language model" in refused(
        "rm-report", f"--model={finished_run / 'ppo'}", *given
    )
    model = f"--model={finished_run / 'rm'}"
    assert "--limit" in refused("rm-report", model, *given, "--limit=-1")
    assert "--label-noise" in refused("rm-report", model, *given, "--label-noise=-1")
    missing = refused("rm-report", model, "--data=nowhere.jsonl", work)
    assert "nowhere.jsonl" in missing
    assert not (tmp_path / "w").exists()
