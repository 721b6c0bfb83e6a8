"""The worked example of CONTRIBUTING.md: a new loss term, tested and trained with."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses, types
from rlhf_jax.build import experiment
from rlhf_jax.build.configs import exact_worlds

PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"


def _experience(seed, lengths, width):
    """As the fixture of tests/losses, as far as the example needs it."""
    mask = jnp.arange(width)[None] < jnp.asarray(lengths)[:, None]
    old = jax.random.normal(jax.random.key(seed), mask.shape)
    rows = jnp.zeros(len(lengths))
    trajectory = types.Trajectory(
        mask, old, old, old, None, rows, mask, rows > 0, rows, rows, rows + 1
    )
    outputs = types.PolicyOutputs(old, old, old)
    advantages = types.Advantages(old, old)
    rewards = types.Rewards(rows, old)
    return outputs, types.Experience(None, trajectory, rewards, advantages)  # type: ignore


@pytest.fixture
def example(monkeypatch):
    """The executed block, with its term in the namespace."""
    (code,) = re.findall(
        r"<!-- executed -->\n```python\n(.*?)```", PAGE.read_text(), re.S
    )
    names = {"jnp": jnp, "losses": losses}
    monkeypatch.setattr(losses, "__all__", list(losses.__all__))
    exec(code, names)
    monkeypatch.setattr(losses, "proximity", names["proximity"], raising=False)
    return names


def test_the_page_stays_short():
    assert len(PAGE.read_text().splitlines()) <= 60


def test_the_worked_example_passes_its_own_test(example):
    example["test_proximity"](_experience)


def test_an_experiment_names_the_new_term(example, tmp_path):
    """One line in a config, and the term is trained with and reported."""
    config = exact_worlds.e64(
        target="tilt",
        beta=0.3,
        kl_coef=0.3,
        rewards=("score_at_last_token", "kl_penalty"),
        estimator=("leave_one_out",),
        terms=("clipped_surrogate", "proximity"),
        proximity=dict(weight=0.1, bound=0.5),
        epochs=2,
        steps=2,
        batch_size=8,
        eval_prompts=8,
        shown_samples=0,
    )
    config.logging.update(dict(tensorboard=False, progress=False, report=False))
    assert experiment.run(config, tmp_path) == 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert np.isfinite(rows[0]["loss/proximity"])
    assert rows[0]["term_grad_norm/proximity"] == pytest.approx(0, abs=1e-6)
