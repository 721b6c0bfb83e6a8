"""Learners: supervised fine-tuning, reward models, PPO."""

from rlhf_jax.algorithms.parts import Frozen as Frozen
from rlhf_jax.algorithms.parts import PPOBatch as PPOBatch
from rlhf_jax.algorithms.ppo import PPO as PPO
from rlhf_jax.algorithms.ppo import Explained as Explained
from rlhf_jax.algorithms.ppo import ppo as ppo
from rlhf_jax.algorithms.supervised import fine_tuning as fine_tuning
from rlhf_jax.algorithms.supervised import pair_accuracy as pair_accuracy
from rlhf_jax.algorithms.supervised import reward_model as reward_model
