"""Learners: supervised fine-tuning, reward models, PPO and its relatives."""

from rlhf_jax.algorithms.collecting import Scored as Scored
from rlhf_jax.algorithms.collecting import Selection as Selection
from rlhf_jax.algorithms.collecting import Staleness as Staleness
from rlhf_jax.algorithms.collecting import informative_groups as informative_groups
from rlhf_jax.algorithms.collecting import scored_like as scored_like
from rlhf_jax.algorithms.online_preference import OnlineFrozen as OnlineFrozen
from rlhf_jax.algorithms.online_preference import Opponent as Opponent
from rlhf_jax.algorithms.online_preference import exploration as exploration
from rlhf_jax.algorithms.online_preference import online_preference as online_preference
from rlhf_jax.algorithms.parts import Frozen as Frozen
from rlhf_jax.algorithms.parts import PPOBatch as PPOBatch
from rlhf_jax.algorithms.ppo import PPO as PPO
from rlhf_jax.algorithms.ppo import Explained as Explained
from rlhf_jax.algorithms.ppo import ppo as ppo
from rlhf_jax.algorithms.ppo import sharing as sharing
from rlhf_jax.algorithms.preference import PreferenceFrozen as PreferenceFrozen
from rlhf_jax.algorithms.preference import preference as preference
from rlhf_jax.algorithms.supervised import fine_tuning as fine_tuning
from rlhf_jax.algorithms.supervised import pair_accuracy as pair_accuracy
from rlhf_jax.algorithms.supervised import reward_model as reward_model
