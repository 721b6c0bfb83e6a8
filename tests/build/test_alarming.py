"""The evaluations that a stage remembers."""

import json

from rlhf_jax.build.stages import alarming


def measured(step):
    return {"kl": 0.01 * step**2, "kl_se": 0.001, "length": 9.0, "gold": 1.0}


def test_a_run_that_was_stopped_rings_as_one_that_was_not(tmp_path):
    """Kills: rows of an abandoned future, a history that a new process forgets."""
    whole = [alarming.levels(tmp_path / "a", s, measured(s), ()) for s in range(8)]
    for step in range(6):  # the first process dies after step 5, saved at step 3
        alarming.levels(tmp_path / "b", step, measured(step), ())
    again = [alarming.levels(tmp_path / "b", s, measured(s), ()) for s in range(3, 8)]
    assert again == whole[3:] and whole[-1]["alarm_kl"] > 0
    files = [(tmp_path / name / alarming.FILE).read_text() for name in "ab"]
    assert files[0] == files[1]
    row = json.loads(files[0].splitlines()[-1])
    assert set(row) == {"step", "kl", "kl_se", "length"}


def test_repetition_of_responses():
    found = alarming.repetition(["a a a", "a b c"])
    assert found["repetition"] == 0.25 and found["repetition_se"] == 0.25
