"""Rows of samples.jsonl."""

import json

import jax.numpy as jnp
import numpy as np

from rlhf_jax.studies import schema


def test_token_rows_drop_padding_and_missing_fields():
    rows = schema.token_rows(
        ["a", ""], reward=jnp.asarray([0.5, -1.0, 7.0]), ratio=np.asarray([1.0, np.nan])
    )
    assert rows == [
        {"text": "a", "reward": 0.5, "ratio": 1.0},
        {"text": "", "reward": -1.0, "ratio": None},
    ]


def test_sample_row_is_plain_json():
    row = schema.sample_row(
        "ppo",
        3,
        "p1",
        "prompt",
        "response",
        scores={"gold": np.float32(0.1), "proxy": float("inf")},
        length=np.int32(4),
        kl=jnp.float32(2.5),
    )
    assert json.loads(json.dumps(row, allow_nan=False)) == {
        "stage": "ppo",
        "step": 3,
        "prompt_id": "p1",
        "prompt": "prompt",
        "response": "response",
        "scores": {"gold": 0.1, "proxy": None},
        "length": 4,
        "kl": 2.5,
    }
