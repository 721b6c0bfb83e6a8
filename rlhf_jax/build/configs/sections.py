"""Config sections of tasks and stages that several experiments share.

Each function gives every key that its kind reads, at neutral values; an experiment
passes what makes it what it is.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from rlhf_jax import advantages, losses, rewards
from rlhf_jax.build.configs import defaults


def key_lm_task(**changes: Any) -> ConfigDict:
    """The Key-LM world on bare token ids."""
    return _section(
        dict(
            kind="key_lm",
            contents=20,
            salient=4,
            response_length=10,
            prompts=8192,
            heldout=1024,
        ),
        changes,
    )


def e64_task(**changes: Any) -> ConfigDict:
    """The enumerable world of 64 responses; `world` is its seed."""
    return _section(dict(kind="e64", world=0, prompts=256, heldout=64), changes)


def arith_task(**changes: Any) -> ConfigDict:
    """Sums of two numbers below 100, one character a token, reward 0 or 1."""
    values = dict(below=100, wrong=0.5, filler=0.0, layout="aligned")
    sizes = dict(response_length=5, prompts=4096, heldout=512)
    return _section(dict(kind="arith_lm", **values, **sizes), changes)


def exact(**changes: Any) -> ConfigDict:
    """Total variation of an enumerable policy to its target."""
    values = dict(target="tilt", beta=0.0, group=None, mixture=0.0)
    who = dict(policy="ppo", reference="init")
    return _section(dict(kind="exact", **who, **values), changes)


def text(**changes: Any) -> dict[str, Any]:
    """Keys that the text tasks share: lengths in tokens and rules for what is longer.

    The defaults are those of the N+ paper: whole lines go from the end of a prompt,
    its suffix ends without a space, and a response begins with one.
    """
    return {
        "tokenizer": None,
        "prompt_length": 512,
        "response_length": 53,
        "overlong_prompt": "newline",
        "overlong_response": "cut",
        "prompt_suffix": "\n\nTL;DR:",
        "response_prefix": " ",
        **changes,
    }


def files_task(**changes: Any) -> ConfigDict:
    """Files that the config names; see `text_tasks.files`."""
    kinds = ("demonstrations", "rankings", "prompts")
    return _section(
        dict(
            kind="files",
            response_limit=None,
            on_bad_line="stop",
            heldout_share=0.05,
            demonstration_kind="demonstration",
            ranking_kind="ranking",
            pretraining=None,
            **dict.fromkeys(x + name for x in ("", "heldout_") for name in kinds),
            **text(),
        ),
        changes,
    )


def pydoc_task(**changes: Any) -> ConfigDict:
    """Docstrings of the standard library; see `text_tasks.pydoc`."""
    lengths = text(prompt_length=72, response_length=24)
    return _section(dict(kind="pydoc", vocab_size=2048, **lengths), changes)


def sft(learning_rate: float, **changes: Any) -> ConfigDict:
    """Fine-tuning on demonstrations; `kind="pretraining"` on documents."""
    return _section(
        dict(
            kind="sft",
            init="init",
            steps=100,
            batch_size=32,
            microbatches=1,
            packed=False,
            reduction="token_mean",
            terms=("cross_entropy",),
            cross_entropy=dict(weight=1.0),
            optimizer=defaults.optimizer(learning_rate),
            eval_every=0,
        ),
        changes,
    )


def label(**changes: Any) -> ConfigDict:
    """Samples of a policy, ranked by gold."""
    return _section(
        dict(
            kind="label",
            policy="sft",
            prompts=0,
            heldout=0,
            responses=4,
            noise=0.0,
            temperature=1.0,
            batch_size=128,
        ),
        changes,
    )


def best_of_n(**changes: Any) -> ConfigDict:
    """The best and the worst of n samples, by a reward model."""
    values = label(kind="best_of_n", reward_model="rm", best_of=16).to_dict()
    del values["noise"], values["responses"]
    return _section(values, changes)


def rm(learning_rate: float, **changes: Any) -> ConfigDict:
    """A reward model from rankings."""
    return _section(
        dict(
            kind="rm",
            init="sft",
            data="label",
            half="all",
            steps=100,
            batch_size=32,
            microbatches=1,
            head="normal",
            normalize="responses",
            reduction="token_mean",
            terms=("plackett_luce",),
            plackett_luce=dict(weight=1.0),
            optimizer=defaults.optimizer(learning_rate),
            eval_every=0,
        ),
        changes,
    )


def odin(learning_rate: float, **changes: Any) -> ConfigDict:
    """A reward model from rankings, with a head that takes the length away."""
    values = rm(learning_rate).to_dict()
    for key in ("microbatches", "head", "reduction", "terms", "plackett_luce"):
        del values[key]
    values |= dict(kind="odin", length_weight=1.0, orthogonal_weight=1.0)
    return _section(values, changes)


def attributes(learning_rate: float, **changes: Any) -> ConfigDict:
    """A reward model that rates attributes of a response, from feedback."""
    values = rm(learning_rate).to_dict()
    for key in ("data", "half", "head", "reduction", "terms", "plackett_luce"):
        del values[key]
    values |= dict(kind="attributes", init="init", attributes=(), weights=())
    return _section(values, changes)


def average(**changes: Any) -> ConfigDict:
    """The mean of the weights of several reward models (WARM)."""
    values = dict(members=("rm",), data="label", batch_size=32, normalize="responses")
    return _section(dict(kind="average", **values), changes)


def ppo(learning_rate: float, value_learning_rate: float, **changes: Any) -> ConfigDict:
    """PPO with the details of the N+ paper (arXiv:2403.17031)."""
    return _section(
        dict(
            kind="ppo",
            policy="sft",
            reference="sft",
            reward_model="rm",
            steps=100,
            batch_size=64,
            samples_per_prompt=1,
            epochs=4,
            minibatches=1,
            microbatches=1,
            temperature=0.7,
            top_k=None,
            top_p=None,
            kl_coef=0.05,
            rewards=("missing_eos_replacement", "score_at_last_token", "kl_penalty"),
            missing_eos_replacement=dict(score=-1.0),
            kl_penalty=dict(estimator="k1"),
            estimator=("gae", "whitened"),
            gae=dict(discount=1.0, lam=0.95, bootstrap_truncated=False),
            reduction="token_mean",
            terms=("clipped_surrogate", "clipped_value"),
            clipped_surrogate=dict(weight=1.0, clip_eps=0.2),
            clipped_value=dict(weight=0.1, clip_eps=0.2),
            value=dict(enabled=True, separate=True, init="reward_model", head="copy"),
            value_warmup=0,
            target_kl=None,
            greedy_responses=False,
            dynamic_sampling=0,
            staleness=0,
            term_gradients=dict(every=20, cosines=False),
            pretraining=dict(coef=0.0, batch_size=32),
            optimizer=defaults.optimizer(learning_rate, eps=1e-5, clip_norm=None),
            value_optimizer=defaults.optimizer(
                value_learning_rate, eps=1e-5, clip_norm=None
            ),
            eval_every=0,
            eval_prompts=64,
            eval_temperature=1.0,
            shown_samples=4,
        ),
        changes,
    )


def table(**changes: Any) -> ConfigDict:
    """Base policy, best-of-n and tuned policy on all held-out prompts."""
    return _section(
        dict(
            kind="table",
            base="sft",
            policy="ppo",
            reward_model="rm",
            best_of=16,
            prompts=0,
            samples=4,
            temperature=1.0,
            batch_size=64,
        ),
        changes,
    )


def shrink(config: Any) -> ConfigDict:
    """The tiny form of an experiment: a few steps of its stages, in place.

    Sizes, steps and counts become small and the model is made from scratch; what kind
    of loss, reward and optimizer the experiment has stays.
    """
    config.mesh = defaults.base().mesh
    config.model.update(dict(path=None, width=16, num_layers=1, num_heads=2))
    own = ("num_kv_heads", "mlp_width", "head_dim", "vocab_size")
    config.model.update(dict.fromkeys(own))
    config.model.update(dict(dtype="float32", param_dtype="float32", remat="none"))
    config.model.frozen_dtype = None
    sizes = dict(steps=4, batch_size=4, microbatches=1, eval_every=0)
    small = {
        "pretraining": sizes,
        "sft": sizes,
        "rm": sizes,
        "odin": {k: v for k, v in sizes.items() if k != "microbatches"},
        "attributes": sizes,
        "preference": sizes,
        "online_preference": {**sizes, "eval_prompts": 8, "shown_samples": 1},
        "label": dict(prompts=16, heldout=8, batch_size=8),
        "best_of_n": dict(prompts=16, heldout=8, batch_size=8, best_of=3),
        "ppo": {
            **sizes,
            **dict(minibatches=1, eval_prompts=8, shown_samples=1),
            "term_gradients": dict(every=0),
        },
        "table": dict(prompts=8, best_of=2, samples=2, batch_size=8),
    }
    for name in config.stages:
        config[name].update(small.get(config[name].kind, {}))
    config.checkpoint.save_every = 2
    return config


def listed(section: ConfigDict) -> ConfigDict:
    """A section without the keywords of parts that it does not name."""
    return _section(section.to_dict(), {})


def _section(values: dict[str, Any], changes: dict[str, Any]) -> ConfigDict:
    merged = {**values, **changes}
    lists = ("terms", "rewards", "estimator")
    named = {name for key in lists for name in merged.get(key, ())}
    return ConfigDict({k: v for k, v in merged.items() if k in named or k not in PARTS})


PARTS = {*losses.__all__, *rewards.__all__, *advantages.__all__}
"""Names of parts: the keywords of those that a section does not list are left out."""
