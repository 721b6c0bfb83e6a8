"""Optimizers and schedules: optax parts, with the two forms of Adam's epsilon."""

from rlhf_jax.optimizers.averages import AverageState as AverageState
from rlhf_jax.optimizers.averages import ema_params as ema_params
from rlhf_jax.optimizers.averages import final_params as final_params
from rlhf_jax.optimizers.averages import stored_averages as stored_averages
from rlhf_jax.optimizers.schedules import constant as constant
from rlhf_jax.optimizers.schedules import cosine as cosine
from rlhf_jax.optimizers.schedules import linear as linear
from rlhf_jax.optimizers.schedules import staircase as staircase
from rlhf_jax.optimizers.schedules import warmup as warmup
from rlhf_jax.optimizers.transformations import apply_updates as apply_updates
from rlhf_jax.optimizers.transformations import optimizer as optimizer
from rlhf_jax.optimizers.transformations import optimizer_metrics as optimizer_metrics
