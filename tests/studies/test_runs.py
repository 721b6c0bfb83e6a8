"""Reading runs: finished, in progress, cut off, damaged."""

import json

import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.studies import runs


def test_rows_of_a_step_merge_and_curves_are_sorted(tmp_path, lines):
    rows = [
        {"stage": "sft", "step": 1, "loss": 2.0},
        {"stage": "ppo", "step": 2, "loss": 1.0},
        {"stage": "ppo", "step": 1, "loss": 3.0, "note": "text", "flag": True},
        {"stage": "ppo", "step": 2, "eval/gold": 0.5, "eval/kl": None},
        {"stage": "ppo", "step": 2, "loss": 4.0},
    ]
    lines(tmp_path / "metrics.jsonl", rows)
    (run,) = runs.read([tmp_path])
    assert list(run.stages) == ["sft", "ppo"]
    np.testing.assert_array_equal(run.stages["ppo"]["loss"].steps, [1, 2])
    np.testing.assert_array_equal(run.stages["ppo"]["loss"].values, [3.0, 4.0])
    np.testing.assert_array_equal(run.stages["ppo"]["flag"].values, [1.0])
    assert np.isnan(run.stages["ppo"]["eval/kl"].values[0])
    assert "note" not in run.stages["ppo"]
    assert run.problems == []


def test_nan_and_infinity_are_read(tmp_path):
    text = '{"stage":"a","step":1,"x":NaN}\n{"stage":"a","step":2,"x":-Infinity}\n'
    (tmp_path / "metrics.jsonl").write_text(text)
    (run,) = runs.read([tmp_path])
    np.testing.assert_array_equal(run.stages["a"]["x"].values, [np.nan, -np.inf])


def test_cut_off_last_line_is_no_problem_and_a_bad_one_is_named(tmp_path):
    text = '{"stage":"a","step":1,"x":1}\nnonsense\n[]\n{"step":2}\n{"stage":"a","st'
    (tmp_path / "metrics.jsonl").write_text(text)
    (run,) = runs.read([tmp_path])
    assert [problem.split(" is")[0] for problem in run.problems] == [
        "metrics.jsonl, line 2",
        "metrics.jsonl, line 3",
        "metrics.jsonl, line 4",
    ]
    np.testing.assert_array_equal(run.stages["a"]["x"].values, [1.0])


def test_a_damaged_summary_is_left_out(tmp_path):
    (tmp_path / "summary.json").write_text("{")
    (run,) = runs.read([tmp_path])
    assert run.summary == {} and len(run.problems) == 1


@pytest.mark.parametrize("text", ["[1]", "{broken", "", b"\xff"])
def test_a_damaged_config_is_refused(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=f"{path} is damaged"):
        runs.read([tmp_path])


def test_a_place_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        runs.read([tmp_path])
    with pytest.raises(UserError, match="is no directory"):
        runs.read([tmp_path / "absent"])
    with pytest.raises(UserError, match="at least one run"):
        runs.read([])


def test_names_tell_runs_apart(tmp_path):
    paths = [tmp_path / "x" / "run", tmp_path / "y" / "run", tmp_path / "z"]
    assert runs.short_names(paths[:2]) == ["x/run", "y/run"]
    assert runs.short_names(paths[1:]) == ["run", "z"]
    assert runs.short_names([paths[2], paths[2]]) == ["z", "z (2)"]


def test_a_fake_run_reads_whole(tmp_path, fake_run):
    (run,) = runs.read([fake_run(tmp_path / "w")])
    assert list(run.stages) == ["sft", "rm", "ppo"]
    assert len(run.samples) == 70
    assert run.config == json.loads((tmp_path / "w" / "config.json").read_text())
