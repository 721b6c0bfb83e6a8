"""Rows on disk: their order, their cutting, and what JSON cannot say."""

import json

import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.training import fingerprint
from rlhf_jax.training.writers import (
    JsonlWriter,
    TensorBoardWriter,
    WandbWriter,
    read_rows,
)


def steps(path, stage):
    return [row["step"] for row in read_rows(path) if row["stage"] == stage]


@pytest.fixture
def written(tmp_path):
    """Two stages, the second up to step 4, and a line that a kill cut in half."""
    writer = JsonlWriter(tmp_path)
    for stage, count in (("sft", 3), ("ppo", 5)):
        writer.begin(stage, 0, evaluated=False)
        for step in range(count):
            writer.write_samples(stage, step, [{"id": 0}, {"id": 1}])
            writer.write(stage, step, {"b": 1.0, "time/step": 0.1, "a": float("nan")})
    writer.close()
    for name in ("metrics", "samples"):
        with open(tmp_path / f"{name}.jsonl", "a") as file:
            file.write('{"stage": "ppo", "st')
    return tmp_path


@pytest.mark.parametrize("evaluated", [False, True])
def test_resuming_cuts_what_lies_beyond(written, evaluated):
    """Rows of the stage from the step on go, other stages and whole rows stay."""
    writer = JsonlWriter(written)
    writer.begin("ppo", 3, evaluated=evaluated)
    for step in (3, 4):
        if step > 3 or not evaluated:
            writer.write_samples("ppo", step, [{"id": 0}, {"id": 1}])
        writer.write("ppo", step, {"a": 1.0})
    writer.close()
    assert steps(written / "metrics.jsonl", "sft") == [0, 1, 2]
    assert steps(written / "metrics.jsonl", "ppo") == [0, 1, 2, 3, 4]
    assert steps(written / "samples.jsonl", "ppo") == sorted([0, 1, 2, 3, 4] * 2)
    for line in (written / "samples.jsonl").read_text().splitlines():
        json.loads(line)


def test_order_of_keys_and_plain_json(written):
    """Stage and step first, names sorted, time/* last; NaN is null."""
    first = (written / "metrics.jsonl").read_text().splitlines()[0]
    row = json.loads(first, parse_constant=lambda name: pytest.fail(name))
    assert list(row) == ["stage", "step", "a", "b", "time/step"]
    assert row["a"] is None


def test_samples_of_numpy_values(tmp_path):
    """Arrays and numpy scalars become plain lists and numbers."""
    writer = JsonlWriter(tmp_path)
    sample = {"tokens": np.arange(2), "score": np.float32(0.5), "kl": [np.nan]}
    writer.write_samples("ppo", 0, [sample])
    row = read_rows(tmp_path / "samples.jsonl")[0]
    assert row["tokens"] == [0, 1] and row["score"] == 0.5 and row["kl"] == [None]


def test_tensorboard_keeps_stages_apart(tmp_path):
    """Each stage has its own events, with its name in the tags, also on resume."""
    writer = TensorBoardWriter(tmp_path)
    for stage, step in (("sft", 0), ("ppo", 0), ("ppo", 1)):
        writer.begin(stage, step, evaluated=False)
        writer.write(stage, step, {"loss/total": 1.0, "bad": float("nan")})
        writer.write_samples(stage, step, [{"text": "hello"}])
        writer.flush()
    writer.close()
    for stage, files in (("sft", 1), ("ppo", 2)):
        events = sorted((tmp_path / stage).glob("events.*"))
        assert 1 <= len(events) <= files
        content = b"".join(path.read_bytes() for path in events)
        assert f"{stage}/loss/total".encode() in content and b"hello" in content
        assert b"/bad" not in content


def test_wandb_is_asked_for_by_name(monkeypatch):
    """Without the package, logging to it says which extra to install."""
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(UserError, match="wandb extra"):
        WandbWriter("project", ".")


def test_settings_that_change_numbers_are_refused():
    """A checkpoint of another value is refused: key, old and new value are named."""
    saved = {"ppo": {"kl_coef": 0.05, "epochs": 4}, "gone": 1}
    same = {"ppo.epochs": 4, "ppo.kl_coef": 0.05, "gone": 1}
    fingerprint.check(saved, same, checkpoint="W/3")
    now = {"ppo": {"kl_coef": 0.1, "epochs": 4}}
    with pytest.raises(UserError) as error:
        fingerprint.check(saved, now, checkpoint="W/3")
    assert "ppo.kl_coef was 0.05, is now 0.1" in str(error.value)
    assert "gone was 1, is now '(absent)'" in str(error.value)
    assert "epochs" not in str(error.value)
    lines = fingerprint.note({"mesh": (1, 2)}, {"mesh": [1, 2], "log": True})
    assert lines == ["log: '(absent)' -> True"]
