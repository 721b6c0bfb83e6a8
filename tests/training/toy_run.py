"""A complete small run with `train`, for tests that kill real processes.

Used as `python toy_run.py --workdir=DIR [--steps=12] [--pause=0.0] [--nan-at=7] ...`.
Two stages, `first` and `second` (which starts from the first), train a linear model
with a controller in `extra`, noise from the state's key, evaluation and samples.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from rlhf_jax import metrics, rng
from rlhf_jax.errors import UserError
from rlhf_jax.optimizers import apply_updates, linear, optimizer
from rlhf_jax.training import (
    Evaluation,
    JsonlWriter,
    Preempted,
    Retention,
    Stop,
    digest,
    train,
)
from rlhf_jax.types import Learner, TrainState


class Controller(NamedTuple):
    """A coefficient that remembers the past, as the adaptive KL controller does."""

    coef: jax.Array
    seen: jax.Array


def learner(nan_at: int = -1, steps: int = 12) -> Learner:
    """Noisy linear regression whose penalty follows a controller."""
    tx = optimizer(
        "adamw", linear(0.05, steps), weight_decay=0.1, clip_norm=1.0, ema_decay=0.9
    )

    def init(key: jax.Array) -> TrainState:
        weights = jax.random.normal(rng.named(key, "weights"), (4, 3))
        params = {"policy": {"params": {"w": weights, "bias": jnp.zeros((1, 3))}}}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state={"policy": tx.init(params["policy"])},
            key=rng.named(key, "run"),
            extra={"kl": Controller(jnp.asarray(0.2), jnp.zeros((), jnp.int32))},
        )

    def loss_of(params: Any, frozen: Any, batch: Any, coef: Any, noise: Any) -> Any:
        error = batch["x"] @ params["params"]["w"] + params["params"]["bias"]
        penalty = jnp.mean((params["params"]["w"] - frozen) ** 2)
        return jnp.mean((error - batch["y"] + 0.01 * noise) ** 2) + coef * penalty

    @jax.jit
    def update(state: TrainState, frozen: Any, batch: Any) -> Any:
        noise = jax.random.normal(rng.named(state.key, "noise", state.step), (8, 3))
        kl = state.extra["kl"]
        loss, grads = jax.value_and_grad(loss_of)(
            state.params["policy"], frozen, batch, kl.coef, noise
        )
        loss = jnp.where(state.step == nan_at, jnp.nan, loss)
        params, opt_state, logged = apply_updates(
            tx, state.params["policy"], state.opt_state["policy"], grads
        )
        kl = Controller(kl.coef * jnp.where(loss > 1, 1.1, 0.9), kl.seen + 1)
        logged |= {"loss/total": metrics.scalar(loss), "kl": metrics.scalar(kl.coef)}
        return (
            TrainState(
                state.step + 1,
                {"policy": params},
                {"policy": opt_state},
                state.key,
                {"kl": kl},
            ),
            logged,
        )

    return Learner(init, update)


class Rows:
    """Batches drawn by step from a seed, over epochs of 5 batches."""

    def __init__(self, seed: int = 0, pause: float = 0.0) -> None:
        self.fingerprint = {"seed": seed, "rows": 40}
        self._seed, self._pause = seed, pause
        self.drawn: list[int] = []

    def batch(self, step: int) -> dict[str, np.ndarray]:
        time.sleep(self._pause)
        self.drawn.append(step)
        epoch, index = divmod(step, 5)
        order = np.random.default_rng([self._seed, epoch]).permutation(40)
        draw = np.random.default_rng([self._seed, 99])
        x = draw.normal(size=(40, 4)).astype(np.float32)
        rows = x[order[index * 8 : index * 8 + 8]]
        return {"x": rows, "y": np.tanh(rows[:, :3])}

    def position(self, step: int) -> dict[str, int]:
        epoch, index = divmod(step, 5)
        return {"epoch": epoch, "index": index}


def evaluate(state: TrainState, step: int) -> Evaluation:
    """Held-out error and two samples of the present parameters."""
    w = np.asarray(state.params["policy"]["params"]["w"])
    gold = -float(np.mean((w - 0.5) ** 2))
    samples = [{"id": i, "text": f"{w[i, 0]:.6f}", "gold": gold} for i in range(2)]
    return Evaluation({"gold": gold}, samples)


def run(
    workdir: str | Path,
    *,
    steps: int = 12,
    pause: float = 0.0,
    nan_at: int = -1,
    save_every: int = 3,
    seed: int = 0,
    stop: Stop | None = None,
) -> TrainState:
    """Both stages, as a caller would write them."""
    writer = JsonlWriter(workdir)
    state = None
    for stage, before in (("first", None), ("second", Path(workdir) / "first")):
        state = train(
            learner(nan_at, steps),
            stage=stage,
            workdir=workdir,
            key=rng.named(rng.root(seed), stage),
            frozen=jnp.ones((4, 3)),
            batches=Rows(seed, pause),
            steps=steps,
            fingerprint={"learner": {"steps": steps}, "seed": seed},
            save_every=save_every,
            retention=Retention(last=2, every=6, best="eval/gold"),
            evaluate=evaluate,
            eval_every=2,
            writers=[writer],
            stop=stop,
            init_from=before,
            guard_transfers=True,
        )
    writer.close()
    assert state is not None
    return state


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--nan-at", type=int, default=-1)
    arguments = parser.parse_args()
    logging.set_verbosity(logging.INFO)
    try:
        with Stop() as stop:
            run(
                arguments.workdir,
                steps=arguments.steps,
                pause=arguments.pause,
                nan_at=arguments.nan_at,
                stop=stop,
            )
    except Preempted as why:
        print(why, file=sys.stderr)
        return 143
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for part, value in digest(arguments.workdir).items():
        print(part, value)
    return 0


if __name__ == "__main__":
    sys.exit(main())
