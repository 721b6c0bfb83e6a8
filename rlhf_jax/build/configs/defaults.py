"""Config sections that every experiment starts from."""

from __future__ import annotations

from typing import Any

import ml_collections
from ml_collections import config_dict

ConfigDict = ml_collections.ConfigDict


def base(seed: int = 0) -> ConfigDict:
    """Seeds, checkpoints, logging, mesh and debugging; an experiment adds the rest.

    `seeds.*` are None to follow `seed`, or whole numbers of their own.
    """
    config = ConfigDict()
    config.seed = seed
    config.seeds = ConfigDict({name: config_dict.placeholder(int) for name in SEEDS})
    config.scorer = config_dict.placeholder(str)
    config.eval_scorers = ()
    config.gold = "task"
    config.checkpoint = ConfigDict(
        dict(
            save_every=100,
            keep_last=1,
            keep_every=0,
            keep_best=config_dict.placeholder(str),
        )
    )
    config.logging = ConfigDict(
        dict(tensorboard=True, wandb=False, progress=True, report=True)
    )
    config.mesh = ConfigDict(
        dict(
            data=1,
            fsdp=1,
            tensor=1,
            sequence=1,
            slices=1,
            rules=(),
            host_moments=False,
            host_frozen=False,
        )
    )
    config.debug = ConfigDict(dict(dump_step=-1))
    return config


SEEDS = ("init", "data", "sampling", "label")
"""What may have a seed of its own: initial weights, data order, sampling, labels."""


def unattended(config: Any, seed: int) -> Any:
    """The config, changed in place: every seed is this one, and nothing is shown."""
    for kind in SEEDS:
        config.seeds[kind] = seed
    for key in ("tensorboard", "wandb", "progress", "report"):
        config.logging[key] = False
    return config


NUMBERLESS = ("checkpoint", "logging", "mesh", "debug")
"""Sections whose values change no numbers; a run may continue under other ones."""


def optimizer(learning_rate: float, **changes) -> ConfigDict:  # noqa: ANN003
    """AdamW with a constant rate; `schedule` is constant, linear or cosine.

    `moment_dtype="bfloat16"` keeps Adam's moments in 2 bytes each instead of 4.
    With `ema_decay` (such as 0.999) the stage is evaluated with, and hands on to later
    stages and to `export`, the moving average of its parameters.
    """
    config = ConfigDict(
        dict(
            name="adamw",
            learning_rate=learning_rate,
            schedule="constant",
            warmup_steps=0,
            b1=0.9,
            b2=0.999,
            eps=1e-8,
            eps_form="optax",
            moment_dtype="float32",
            weight_decay=0.0,
            clip_norm=1.0,
            ema_decay=config_dict.placeholder(float),
        )
    )
    config.update(changes)
    return config


def model(**changes) -> ConfigDict:  # noqa: ANN003
    """A small Llama, or with `path` a Hugging Face directory and its weights.

    `frozen_dtype="bfloat16"` holds references and reward models in 2 bytes a parameter
    while another model trains; where `dtype` is bfloat16 too, no number changes.
    """
    config = ConfigDict(
        dict(
            path=config_dict.placeholder(str),
            family="llama",
            width=64,
            num_layers=2,
            num_heads=4,
            num_kv_heads=config_dict.placeholder(int),
            mlp_width=config_dict.placeholder(int),
            head_dim=config_dict.placeholder(int),
            vocab_size=config_dict.placeholder(int),
            tied_embeddings=True,
            dtype="float32",
            param_dtype="float32",
            frozen_dtype=config_dict.placeholder(str),
            scan_layers=False,
            remat="none",
            attention="auto",
            lora=ConfigDict(dict(rank=0, alpha=16.0, targets=("query", "value"))),
        )
    )
    config.update(changes)
    return config


def tabular_model() -> ConfigDict:
    """Tables over all prefixes of an enumerable world, starting as its reference."""
    return ConfigDict(dict(family="tabular"))
