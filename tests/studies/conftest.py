"""A made-up run for the tests of the report: a workdir as a real run leaves it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_jax.studies import schema

WORDS = "the key opens a small red box under old stairs near water and light".split()


@pytest.fixture
def fake_run() -> Callable[..., Path]:
    """`fake_run(workdir, seed=0, ...) -> workdir`, see `write`."""
    return write


@pytest.fixture
def lines() -> Callable[[Path, list[Any]], None]:
    """`lines(path, rows)` writes a JSONL file."""
    return write_lines


def write(
    workdir: Path,
    *,
    seed: int = 0,
    steps: int = 60,
    kl_coef: float = 0.05,
    prompts: int = 10,
    evaluate_every: int = 10,
) -> Path:
    """Write all four files of a finished run of three stages; returns the workdir."""
    rng = np.random.default_rng(seed)
    workdir.mkdir(parents=True, exist_ok=True)
    rows = [*_supervised(rng, "sft", 40), *_supervised(rng, "rm", 30)]
    rows += _policy(rng, steps, kl_coef, evaluate_every)
    write_lines(workdir / "metrics.jsonl", rows)
    moments = range(0, steps + 1, evaluate_every)
    samples = [_sample(rng, p, s, steps) for s in moments for p in range(prompts)]
    write_lines(workdir / "samples.jsonl", samples)
    (workdir / "config.json").write_text(json.dumps(_config(seed, kl_coef)))
    (workdir / "summary.json").write_text(json.dumps(_summary(kl_coef)))
    return workdir


def write_lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _supervised(rng: np.random.Generator, stage: str, steps: int) -> list[dict]:
    rows = []
    for step in range(1, steps + 1):
        loss = 2.0 * np.exp(-step / 12) + 0.6 + 0.05 * rng.normal()
        row = {
            "stage": stage,
            "step": step,
            "loss/cross_entropy": loss,
            "optim/lr": 1e-3 / step,
        }
        row |= {"optim/grad_norm": 1 + rng.exponential(0.3), "time/step": 0.1}
        row |= {"time/update": 0.08 + 2.0 * (step == 1), "time/data": 0.01}
        if stage == "rm":
            row["reward_model/accuracy"] = 0.8 - 0.3 * np.exp(-step / 8)
        rows.append(row)
    return rows


def _policy(
    rng: np.random.Generator, steps: int, kl_coef: float, evaluate_every: int
) -> list[dict]:
    rows = []
    for step in range(steps + 1):
        x = step / steps
        row: dict[str, Any] = {"stage": "ppo", "step": step}
        if step % evaluate_every == 0:
            row |= _evaluation(x, kl_coef)
        if step:
            row |= _update(rng, x, kl_coef, step)
        rows.append(row)
    return rows


def _evaluation(x: float, kl_coef: float) -> dict[str, float]:
    kl = 0.4 / kl_coef * x**1.2
    return {
        "eval/gold": 1.2 * np.sqrt(kl) - 0.25 * kl,
        "eval/gold_se": 0.05,
        "eval/proxy": 0.9 * np.sqrt(kl) + 0.1 * kl,
        "eval/proxy_se": 0.04,
        "eval/kl": kl,
        "eval/kl_se": 0.1,
        "eval/k1": kl * 1.1,
        "eval/k1_se": 0.2,
        "eval/k2": kl * 1.3,
        "eval/k3": kl * 0.9,
        "eval/rouge": 0.2 + 0.1 * x,
        "eval/rouge_se": 0.01,
        "time/eval": 0.4,
        "eval/length": 12 + 6 * x,
        "eval/length_se": 0.4,
    }


def _update(
    rng: np.random.Generator, x: float, kl_coef: float, step: int
) -> dict[str, float]:
    kl = 0.4 / kl_coef * x**1.2
    noise = rng.normal(size=8) * 0.1
    return {
        "objective/scores": 0.9 * np.sqrt(kl) + 0.1 * kl + noise[0],
        "objective/scores_std": 1.0 + noise[1] / 3,
        "objective/kl": kl + noise[1],
        "objective/kl_k1": kl + noise[1],
        "objective/kl_k2": kl * 1.3 + noise[2],
        "objective/kl_k3": kl * 1.1 + noise[3] / 2,
        "objective/kl_coef": kl_coef * (1 + x),
        "objective/entropy": 2.2 - 1.2 * x + noise[4] / 4,
        "loss/clipped_surrogate": -0.02 + noise[5] / 10,
        "policy/clip_fraction": abs(0.1 + noise[6] / 2),
        "policy/approx_kl": abs(0.01 + noise[6] / 20),
        "value/loss": 0.5 * np.exp(-3 * x) + abs(noise[7]) / 3,
        "value/clip_fraction": abs(noise[7]) / 4,
        "value/explained_variance": 0.8 - np.exp(-4 * x) + noise[2] / 3,
        "rollout/length": 12 + 6 * x + noise[3],
        "rollout/truncated_fraction": 0.1 * (1 - x),
        "rollout/logprob_difference": 2e-6 * (1 + abs(noise[1])),
        "optim/grad_norm": 1.0 + 10 * abs(noise[0]),
        "optim/lr": 1e-4 * (1 - x),
        "time/rollout": 0.5 + abs(noise[1]) + 4.0 * (step == 1),
        "time/score": 0.1,
        "time/update": 0.6 + abs(noise[2]) + 6.0 * (step == 1),
        "time/step": 2.0,
        "time/tokens_per_second": 4000 + 3000 * noise[3],
        "time/compiles": 12 + 2 * (step > 10),
    }


def _sample(
    rng: np.random.Generator, prompt: int, step: int, steps: int
) -> schema.SampleRow:
    x = step / steps
    words = list(rng.choice(WORDS, size=8 + int(8 * x)))
    texts = [word + " " for word in words] + [""]
    count = len(texts)
    key = " ".join(np.random.default_rng(prompt).choice(WORDS, size=24))
    return schema.sample_row(
        "ppo",
        step,
        f"held-out-{prompt}",
        f"Keep the salient words: {key}",
        "".join(texts),
        scores={"gold": x + 0.2 * rng.normal(), "proxy": 1.4 * x + 0.2 * rng.normal()},
        length=count,
        kl=8 * x + 0.3 * abs(rng.normal()),
        tokens=schema.token_rows(
            texts,
            reward=0.05 * rng.normal(size=count + 3) + np.eye(count + 3)[count - 1] * x,
            kl=0.3 * abs(rng.normal(size=count)),
            value=np.linspace(0.1, x, count),
            advantage=rng.normal(size=count) * 0.4,
            ratio=np.exp(0.1 * rng.normal(size=count)),
        ),
    )


def _config(seed: int, kl_coef: float) -> dict[str, Any]:
    return {
        "seed": seed,
        "stages": ["sft", "rm", "ppo"],
        "model": {"width": 64, "layers": 2, "family": "llama"},
        "ppo": {"kl_coef": kl_coef, "clip_eps": 0.2, "lam": 0.95, "epochs": 4},
        "scorer": None,
    }


def _summary(kl_coef: float) -> dict[str, Any]:
    kl = 0.4 / kl_coef

    def row(gold: float, proxy: float, distance: float, length: float) -> dict:
        values = {"gold": gold, "proxy": proxy, "kl": distance, "length": length}
        return {
            k: {"mean": v, "se": 0.04 + v / 50, "n": 512} for k, v in values.items()
        }

    return {
        "table": {
            "sft": row(0.0, 0.0, 0.0, 12.1),
            "best_of_16": row(0.84, 1.31, 1.84, 12.9),
            "ppo": row(1.2 * kl**0.5 - 0.25 * kl, 0.9 * kl**0.5 + 0.1 * kl, kl, 18.0),
        },
        "gold_sd_sft": 0.71,
        "gold_definition": "recall of the salient words, minus half of every miss.",
        "reward_model": {"accuracy": 0.812, "ceiling": 0.853},
        "seconds_by_stage": {"sft": 31.2, "rm": 24.9, "ppo": 152.0},
        "rm_accuracy": {"value": 0.66, "ci": [0.62, 0.7]},
    }
