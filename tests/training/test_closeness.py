"""Runs that ended alike up to rounding, and runs that did not."""

import math

import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.training import closeness


def run(**changes):
    """Contents of a run of one stage, and its rows."""
    base = {
        "weights": np.asarray([4.0, 1e-6], np.float32),
        "count": np.asarray(3, np.int32),
        "coef": np.asarray(0.2, np.float32),
        "step": np.asarray(4, np.int32),
        "loss": 0.5,
        "text": "a b",
    }
    made = base | changes
    stage = {
        "parameters": {"policy": {"w": made["weights"]}},
        "optimizer": {"policy": [made["count"]]},
        "controllers": {"kl": made["coef"]},
        "data position": ({"step": made["step"]}, {"epoch": 0}),
    }
    rows = {"metrics": [{"loss": made["loss"]}], "samples": [{"text": made["text"]}]}
    return {"contents": {"ppo": stage}, "rows": rows}


def compare(monkeypatch, **changes):
    runs = {"a": run(), "b": run(**changes)}
    monkeypatch.setattr(closeness, "contents", lambda name: runs[str(name)]["contents"])
    monkeypatch.setattr(
        closeness, "rows", lambda root, part: runs[str(root)]["rows"][part]
    )
    found = closeness.gaps("a", "b")
    return {part: gap for part, gap in found.items() if gap.size}


def test_equal_runs_have_no_gap(monkeypatch):
    assert compare(monkeypatch) == {}


@pytest.mark.parametrize(
    ("changes", "part", "size"),
    [
        # An array is held to its largest entry, so noise around 0 is not read as large.
        ({"weights": np.asarray([4.0, 2e-6], np.float32)}, "parameters", 2.5e-7),
        ({"weights": np.asarray([4.4, 1e-6], np.float32)}, "parameters", 0.4 / 4.4),
        ({"weights": np.asarray([4.0], np.float32)}, "parameters", math.inf),
        ({"weights": np.asarray([4.0, np.nan], np.float32)}, "parameters", math.inf),
        ({"count": np.asarray(4, np.int32)}, "optimizer", math.inf),
        ({"coef": np.asarray(0.25, np.float32)}, "controllers", 0.2),
        ({"step": np.asarray(5, np.int32)}, "data position", math.inf),
        ({"loss": 0.51}, "metrics", 0.01),
        ({"loss": None}, "metrics", math.inf),
        ({"text": "a c"}, "samples", math.inf),
    ],
)
def test_a_change_shows_in_its_part_alone(monkeypatch, changes, part, size):
    found = compare(monkeypatch, **changes)
    assert list(found) == [part]
    assert found[part].size == pytest.approx(size, rel=1e-3)


def test_runs_of_other_stages_are_refused(monkeypatch):
    monkeypatch.setattr(closeness, "contents", lambda name: {str(name): {}})
    with pytest.raises(UserError, match="has the stages a and b has b"):
        closeness.gaps("a", "b")
