"""Worker: a PPO iteration of google-tunix's PPOLearner, vanilla rollout, Qwen 3 blocks
(its Llama critic fails in that release)."""

from __future__ import annotations

import os
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
warnings.filterwarnings("ignore")

import jax  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from flax import nnx  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402
from tunix.generate import sampler  # noqa: E402
from tunix.models.qwen3 import model as qwen3  # noqa: E402
from tunix.rl import rl_cluster  # noqa: E402
from tunix.rl import utils as rl_utils  # noqa: E402
from tunix.rl.ppo import ppo_learner  # noqa: E402
from tunix.rl.rollout import base_rollout  # noqa: E402
from work import Channel, Work, asked  # noqa: E402


def networks(work: Work, mesh) -> dict[str, nnx.Module]:
    """Actor, reference, critic and reward model."""
    config = qwen3.ModelConfig(
        num_layers=work.layers,
        embed_dim=work.width,
        hidden_dim=work.mlp,
        num_heads=work.heads,
        num_kv_heads=work.heads,
        head_dim=work.width // work.heads,
        vocab_size=work.vocab,
        rope_theta=10_000,
        norm_eps=1e-5,
    )
    make = lambda seed: qwen3.Qwen3(config, rngs=nnx.Rngs(seed))  # noqa: E731
    with mesh:
        return dict(
            actor=make(0),
            reference=make(0),
            critic=rl_utils.create_critic_model(make(1)),
            reward=rl_utils.create_critic_model(make(2)),
        )


def tokenizer(work: Work) -> PreTrainedTokenizerFast:
    """One word per id."""
    words = {f"t{i}": i for i in range(work.vocab)}
    core = Tokenizer(models.WordLevel(words, unk_token="t3"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = dict(pad_token="t0", eos_token="t1", bos_token="t2", unk_token="t3")
    return PreTrainedTokenizerFast(
        tokenizer_object=core, padding_side="left", **special
    )


def settings(work: Work, most: int, mesh) -> rl_cluster.ClusterConfig:
    """The work in Tunix's words."""
    roles = rl_cluster.Role
    training = rl_cluster.RLTrainingConfig(
        actor_optimizer=optax.adamw(1e-5),
        critic_optimizer=optax.adamw(1e-5),
        eval_every_n_steps=10**6,
        max_steps=most * work.epochs,
        mini_batch_size=work.batch,
        train_micro_batch_size=work.batch,
    )
    rollout = base_rollout.RolloutConfig(
        max_tokens_to_generate=work.response,
        max_prompt_length=work.prompt,
        kv_cache_size=max(work.prompt, 128) + work.response + 64,
        temperature=1.0,
        top_p=1.0,
        top_k=None,
    )
    return rl_cluster.ClusterConfig(
        role_to_mesh={
            role: mesh
            for role in (
                roles.ACTOR,
                roles.CRITIC,
                roles.REFERENCE,
                roles.REWARD,
                roles.ROLLOUT,
            )
        },
        rollout_engine="vanilla",
        offload_to_cpu=False,
        training_config=training,
        rollout_config=rollout,
    )


def main() -> None:
    _, work, most = asked()
    channel = Channel()
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
    cluster = rl_cluster.RLCluster(
        tokenizer=tokenizer(work),
        cluster_config=settings(work, most, mesh),
        **networks(work, mesh),
    )
    config = ppo_learner.PPOConfig(num_iterations=work.epochs, beta=0.05)
    learner = ppo_learner.PPOLearner(cluster, config)
    # The sampler hands numpy strings to the tokenizer, which wants plain ones.
    tokenize = sampler.Sampler.tokenize
    sampler.Sampler.tokenize = lambda self, text: tokenize(self, str(text))
    words = [" ".join(f"t{i}" for i in row) for row in work.tokens()]

    def batches():
        """An iteration lasts from one request for prompts to the next."""
        for _ in range(most):
            channel.lap()
            yield {"prompts": np.array(words, dtype=object)}

    channel.ready("google-tunix", "jax", "jaxlib", "flax")
    learner.train(batches())


if __name__ == "__main__":
    main()
